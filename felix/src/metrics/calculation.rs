//! What the calculation graph has and does.

use super::summary::Summary;
use super::{MetricsError, add, counter, counter_vec, gauge, whole};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};
use std::time::Duration;

/// How far the agent is with the datastore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResyncState {
    /// The datastore is not there yet.
    WaitingForDatastore,
    /// A snapshot is being read.
    Resyncing,
    /// The snapshot is complete and changes are followed.
    InSync,
}

/// How large the cluster is, as far as the agent knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterSize {
    /// Nodes.
    pub hosts: usize,
    /// Workload endpoints on all nodes.
    pub workload_endpoints: usize,
    /// Host endpoints on all nodes.
    pub host_endpoints: usize,
    /// Policies.
    pub policies: usize,
    /// Profiles.
    pub profiles: usize,
    /// Tiers.
    pub tiers: usize,
}

/// Metrics of the calculation graph.
#[derive(Clone, Debug)]
pub struct CalculationMetrics {
    local_endpoints: IntGauge,
    local_policies: IntGauge,
    local_selectors: IntGauge,
    output_events: IntCounter,
    update_time: Summary,
    updates_processed: IntCounterVec,
    hosts: IntGauge,
    workload_endpoints: IntGauge,
    host_endpoints: IntGauge,
    policies: IntGauge,
    profiles: IntGauge,
    tiers: IntGauge,
    resync_state: IntGauge,
    resyncs_started: IntCounter,
}

impl CalculationMetrics {
    pub(super) fn register(to: &Registry) -> Result<Self, MetricsError> {
        Ok(CalculationMetrics {
            local_endpoints: gauge(
                to,
                "felix_active_local_endpoints",
                "Number of endpoints on this node.",
            )?,
            local_policies: gauge(
                to,
                "felix_active_local_policies",
                "Number of policies in force on this node.",
            )?,
            local_selectors: gauge(
                to,
                "felix_active_local_selectors",
                "Number of selectors in force on this node.",
            )?,
            output_events: counter(
                to,
                "felix_calc_graph_output_events",
                "Number of updates sent to the dataplane.",
            )?,
            update_time: add(
                to,
                "felix_calc_graph_update_time_seconds",
                Summary::new(
                    "felix_calc_graph_update_time_seconds",
                    "Time to take in one update from the datastore.",
                ),
            )?,
            updates_processed: counter_vec(
                to,
                "felix_calc_graph_updates_processed",
                "Number of updates from the datastore, by the type of object.",
                &["type"],
            )?,
            hosts: gauge(to, "felix_cluster_num_hosts", "Number of nodes in the cluster.")?,
            workload_endpoints: gauge(
                to,
                "felix_cluster_num_workload_endpoints",
                "Number of workload endpoints in the cluster.",
            )?,
            host_endpoints: gauge(
                to,
                "felix_cluster_num_host_endpoints",
                "Number of host endpoints in the cluster.",
            )?,
            policies: gauge(
                to,
                "felix_cluster_num_policies",
                "Number of policies in the cluster.",
            )?,
            profiles: gauge(
                to,
                "felix_cluster_num_profiles",
                "Number of profiles in the cluster.",
            )?,
            tiers: gauge(to, "felix_cluster_num_tiers", "Number of tiers in the cluster.")?,
            resync_state: gauge(
                to,
                "felix_resync_state",
                "How far the agent is with the datastore: 1 waiting for it, 2 reading the snapshot, 3 in sync.",
            )?,
            resyncs_started: counter(
                to,
                "felix_resyncs_started",
                "Number of snapshots begun to be read.",
            )?,
        })
    }

    /// Says what is in force on this node.
    pub fn set_local(&self, endpoints: usize, policies: usize, selectors: usize) {
        self.local_endpoints.set(whole(endpoints));
        self.local_policies.set(whole(policies));
        self.local_selectors.set(whole(selectors));
    }

    /// Says how large the cluster is.
    pub fn set_cluster(&self, size: ClusterSize) {
        let ClusterSize {
            hosts,
            workload_endpoints,
            host_endpoints,
            policies,
            profiles,
            tiers,
        } = size;
        self.hosts.set(whole(hosts));
        self.workload_endpoints.set(whole(workload_endpoints));
        self.host_endpoints.set(whole(host_endpoints));
        self.policies.set(whole(policies));
        self.profiles.set(whole(profiles));
        self.tiers.set(whole(tiers));
    }

    /// Counts an update from the datastore about an object of a type, and the time to take it in.
    pub fn update_processed(&self, object_type: &str, time: Duration) {
        self.updates_processed.with_label_values(&[object_type]).inc();
        self.update_time.observe(time.as_secs_f64());
    }

    /// Counts updates sent to the dataplane.
    pub fn events_sent(&self, number: usize) {
        self.output_events
            .inc_by(u64::try_from(number).unwrap_or(u64::MAX));
    }

    /// Says how far the agent is with the datastore; each beginning of a snapshot counts.
    pub fn set_resync_state(&self, state: ResyncState) {
        self.resync_state.set(match state {
            ResyncState::WaitingForDatastore => 1,
            ResyncState::Resyncing => 2,
            ResyncState::InSync => 3,
        });
        if state == ResyncState::Resyncing {
            self.resyncs_started.inc();
        }
    }
}
