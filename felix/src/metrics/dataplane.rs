//! What is in the kernel and what it cost to get it there.

use super::iptables::IptablesMetrics;
use super::summary::Summary;
use super::{MetricsError, add, counter, counter_vec, gauge, gauge_vec, whole};
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};
use std::time::Duration;

/// What our nftables table has in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSize {
    /// Chains.
    pub chains: usize,
    /// Rules.
    pub rules: usize,
    /// Named sets.
    pub sets: usize,
    /// Named maps, verdict maps included.
    pub maps: usize,
}

/// Metrics of the dataplane.
#[derive(Clone, Debug)]
pub struct DataplaneMetrics {
    apply_time: Summary,
    failures: IntCounter,
    messages: IntCounterVec,
    batch_size: Summary,
    initial_resync_time: Gauge,
    nft_calls: IntCounter,
    nft_errors: IntCounter,
    nft_chains: IntGauge,
    nft_rules: IntGauge,
    nft_sets: IntGauge,
    nft_maps: IntGauge,
    nft_drift: IntCounter,
    iptables: IptablesMetrics,
    routes: IntGaugeVec,
    tunnels_with_own_checksums: IntGauge,
    conntrack_removed: IntCounter,
    programming_latency: Histogram,
}

/// Upper bounds in seconds for the time from a change of policy to its being in the kernel: fine where the goal is
/// (3 ms in the median, 8 ms for one in a hundred), coarse to where somebody should be woken.
const LATENCY_BOUNDS: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 1.0, 5.0, 30.0,
];

impl DataplaneMetrics {
    pub(super) fn register(to: &Registry) -> Result<Self, MetricsError> {
        Ok(DataplaneMetrics {
            apply_time: add(
                to,
                "felix_int_dataplane_apply_time_seconds",
                Summary::new(
                    "felix_int_dataplane_apply_time_seconds",
                    "Time of one pass that brings the kernel up to date.",
                ),
            )?,
            failures: counter(
                to,
                "felix_int_dataplane_failures",
                "Number of passes that could not do all they had to and are tried again.",
            )?,
            messages: counter_vec(
                to,
                "felix_int_dataplane_messages",
                "Number of updates that the dataplane received, by type.",
                &["type"],
            )?,
            batch_size: add(
                to,
                "felix_int_dataplane_msg_batch_size",
                Summary::new(
                    "felix_int_dataplane_msg_batch_size",
                    "Number of updates taken in before one pass.",
                ),
            )?,
            initial_resync_time: add(
                to,
                "felix_int_dataplane_initial_resync_time_seconds",
                Gauge::new(
                    "felix_int_dataplane_initial_resync_time_seconds",
                    "Time from the agent's start to the kernel's being up to date for the first time.",
                ),
            )?,
            nft_calls: counter(to, "felix_nft_calls", "Number of nftables transactions.")?,
            nft_errors: counter(
                to,
                "felix_nft_errors",
                "Number of nftables transactions that the kernel refused.",
            )?,
            nft_chains: gauge(to, "felix_nft_chains", "Number of nftables chains.")?,
            nft_rules: gauge(to, "felix_nft_rules", "Number of nftables rules.")?,
            nft_sets: gauge(to, "felix_nft_sets", "Number of nftables sets.")?,
            nft_maps: gauge(to, "felix_nft_maps", "Number of nftables maps.")?,
            nft_drift: counter(
                to,
                "felix_nft_drift_total",
                "Number of times that somebody else's change to our nftables table was found and mended.",
            )?,
            iptables: IptablesMetrics::register(to)?,
            routes: gauge_vec(
                to,
                "felix_route_table_num_routes",
                "Number of routes that the agent manages in a routing table.",
                &["table"],
            )?,
            tunnels_with_own_checksums: gauge(
                to,
                "felix_tunnels_checksum_offload_off",
                "Number of tunnel devices whose checksum offload is off though no setting says so: what carries them was \
                 found to spoil checksums, or they were found switched off.",
            )?,
            conntrack_removed: counter(
                to,
                "felix_conntrack_entries_removed_total",
                "Number of tracked connections removed because their workload departed or policy changed.",
            )?,
            programming_latency: add(
                to,
                "felix_policy_programming_latency_seconds",
                Histogram::with_opts(
                    HistogramOpts::new(
                        "felix_policy_programming_latency_seconds",
                        "Time from the arrival of a change to a policy to its being in force in the kernel.",
                    )
                    .buckets(LATENCY_BOUNDS.to_vec()),
                ),
            )?,
        })
    }

    /// Counts a pass and its time; `complete` is false when part of it must be tried again.
    pub fn applied(&self, time: Duration, complete: bool) {
        self.apply_time.observe(time.as_secs_f64());
        if !complete {
            self.failures.inc();
        }
    }

    /// Counts updates of a type.
    pub fn messages(&self, message_type: &str, number: u64) {
        self.messages.with_label_values(&[message_type]).inc_by(number);
    }

    /// Says how many updates were taken in before a pass.
    pub fn batch(&self, size: usize) {
        // Batches are far smaller than what a float cannot count.
        self.batch_size.observe(size as f64);
    }

    /// Says how long it took until the kernel was up to date for the first time.
    pub fn set_initial_resync_time(&self, time: Duration) {
        self.initial_resync_time.set(time.as_secs_f64());
    }

    /// Counts an nftables transaction.
    pub fn nft_transaction(&self, accepted: bool) {
        self.nft_calls.inc();
        if !accepted {
            self.nft_errors.inc();
        }
    }

    /// Says what our nftables table has in it.
    pub fn set_nft_size(&self, size: TableSize) {
        let TableSize {
            chains,
            rules,
            sets,
            maps,
        } = size;
        self.nft_chains.set(whole(chains));
        self.nft_rules.set(whole(rules));
        self.nft_sets.set(whole(sets));
        self.nft_maps.set(whole(maps));
    }

    /// Counts changes of others to our table that were mended.
    pub fn nft_drift_mended(&self, number: u64) {
        self.nft_drift.inc_by(number);
    }

    /// What is measured where policy is held in iptables.
    pub fn iptables(&self) -> &IptablesMetrics {
        &self.iptables
    }

    /// Says how many routes are managed in a routing table.
    pub fn set_routes(&self, table: u32, number: usize) {
        self.routes
            .with_label_values(&[table.to_string().as_str()])
            .set(whole(number));
    }

    /// Says how many tunnel devices compute checksums themselves though no setting tells them to.
    pub fn set_tunnels_with_own_checksums(&self, number: usize) {
        self.tunnels_with_own_checksums.set(whole(number));
    }

    /// Counts tracked connections that were removed.
    pub fn conntrack_removed(&self, number: u64) {
        self.conntrack_removed.inc_by(number);
    }

    /// Takes the time from the arrival of a change to a policy to its being in force.
    pub fn policy_programmed(&self, time: Duration) {
        self.programming_latency.observe(time.as_secs_f64());
    }
}
