//! What the engine tells others: the metrics, the CNI server, and the health pages.

use super::Engine;
use crate::agent::figures;
use crate::health::Report;
use dataplane::PassReport;
use felix_cni::{InForce, ProgrammedEndpoint};
use policy_model_datastore::SyncStatus;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Least time between two tellings of how much the kernel has of ours.
const SIZES_APART: Duration = Duration::from_millis(20);

impl Engine {
    pub(super) fn count(&mut self, report: &PassReport) {
        let metrics = self.metrics.dataplane();
        // What iptables does it counts itself.
        let is_nftables = self.dataplane.driver().nftables().is_some();
        if is_nftables {
            for _ in 0..report.transactions {
                metrics.nft_transaction(true);
            }
        }
        if report.mended > 0 {
            tracing::warn!(
                objects = report.mended,
                "somebody else changed what holds policy; it is mended"
            );
            if is_nftables {
                metrics.nft_drift_mended(report.mended as u64);
            }
        }
        metrics.conntrack_removed(report.flows_removed as u64);
        self.sizes_changed();
    }

    /// Has the metrics told how much the kernel has of ours. To count it costs as much as a small change: while changes
    /// come one after the other it is done now and then.
    pub(super) fn sizes_changed(&mut self) {
        let next = self.sizes_told.map(|told| told + SIZES_APART);
        self.sizes_due.get_or_insert(next.unwrap_or(self.started));
    }

    pub(super) fn tell_due_sizes(&mut self) {
        let now = Instant::now();
        if self.sizes_due.is_none_or(|due| due > now) {
            return;
        }
        self.sizes_due = None;
        self.sizes_told = Some(now);
        figures::sizes(
            &self.dataplane,
            self.metrics.dataplane(),
            &mut self.iptables_counted,
        );
    }

    pub(super) fn publish(&self) {
        if self.dataplane.is_programmed() {
            self.options.mtu.tell(self.dataplane.workload_mtu());
        }
        let endpoints: BTreeMap<String, ProgrammedEndpoint> = self
            .dataplane
            .programmed()
            .values()
            .map(|p| {
                let programmed = ProgrammedEndpoint {
                    addresses: p.endpoint.addresses.clone(),
                    interface_up: p.interface_up,
                };
                (p.endpoint.interface.clone(), programmed)
            })
            .collect();
        let view = Arc::new(InForce {
            endpoints,
            host_ports: self.dataplane.host_ports().clone(),
            clean: self.dataplane.clean_addresses(),
        });
        self.view.send_if_modified(|old| {
            let changed = *old != view;
            *old = view;
            changed
        });
    }

    pub(super) fn report(&self) {
        let report = if let Some(error) = &self.last_error {
            Report::not_ready(error.clone())
        } else if let Some(bypass) = self.bypasses.first() {
            Report::not_ready(format!("policy can be by-passed: {bypass}"))
        } else if !self.in_sync {
            Report::not_ready("waiting for everything that the datastore holds")
        } else if !self.dataplane.is_programmed() {
            Report::not_ready("not programmed yet")
        } else if self.store == Some(SyncStatus::WaitForDatastore) {
            Report::ready().with_detail("the datastore is away; what is in force stays in force")
        } else {
            Report::ready()
        };
        self.reporter.report(report);
    }
}
