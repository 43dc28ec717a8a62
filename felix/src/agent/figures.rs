//! What the metrics are told of one pass. Nothing here is in proportion to what is in force.

use crate::metrics::{DataplaneMetrics, Metrics, TableSize};
use dataplane::{Dataplane, IptablesCounts};
use dataplane_api::Update;
use policy_model::{Key, Kind};
use std::collections::{BTreeMap, HashSet};

/// The routing table that all our routes are in.
const MAIN_TABLE: u32 = 254;

/// Objects of the datastore that are invalid now.
#[derive(Debug, Default)]
pub(super) struct Invalid {
    objects: HashSet<Key>,
    by_kind: BTreeMap<Kind, usize>,
}

impl Invalid {
    /// Whether any object is invalid.
    pub(super) fn any(&self) -> bool {
        !self.objects.is_empty()
    }

    /// Takes over whether an object is invalid, and tells the metrics where that is new.
    pub(super) fn set(&mut self, key: Key, invalid: bool, metrics: &Metrics) {
        // Nearly every object is valid, and nothing is to be done for it.
        if !invalid && self.objects.is_empty() {
            return;
        }
        let kind = key.kind;
        let changed = if invalid {
            self.objects.insert(key)
        } else {
            self.objects.remove(&key)
        };
        if changed {
            let number = self.by_kind.entry(kind).or_default();
            *number = if invalid {
                *number + 1
            } else {
                number.saturating_sub(1)
            };
            metrics.set_invalid_objects(kind.as_str(), *number);
        }
    }
}

/// Counts updates to the dataplane, by type.
pub(super) fn updates(updates: &[Update], metrics: &DataplaneMetrics) {
    let mut by_type: BTreeMap<&'static str, u64> = BTreeMap::new();
    for update in updates {
        *by_type.entry(type_of(update)).or_default() += 1;
    }
    for (message_type, number) in by_type {
        metrics.messages(message_type, number);
    }
    metrics.batch(updates.len());
}

fn type_of(update: &Update) -> &'static str {
    match update {
        Update::AtomCreated { .. } => "set-created",
        Update::Members { .. } => "set-members",
        Update::AtomRemoved(_) => "set-removed",
        Update::Policy(_) => "policy",
        Update::PolicyRemoved(_) => "policy-removed",
        Update::Workload(_) => "workload-endpoint",
        Update::WorkloadRemoved(_) => "workload-endpoint-removed",
        Update::Node(_) => "node",
        Update::NodeRemoved(_) => "node-removed",
        Update::Route(_) => "route",
        Update::RouteRemoved(_) => "route-removed",
        Update::Pool(_) => "pool",
        Update::PoolRemoved(_) => "pool-removed",
        Update::HostPort(..) => "host-port",
        Update::HostPortRemoved(_) => "host-port-removed",
        Update::InSync => "in-sync",
    }
}

/// Says what the kernel has of ours now; `counted` is what was told of iptables before.
pub(super) fn sizes(dataplane: &Dataplane, metrics: &DataplaneMetrics, counted: &mut IptablesCounts) {
    if let Some(driver) = dataplane.driver().nftables() {
        let table = driver.planner().table_size();
        metrics.set_nft_size(TableSize {
            chains: table.chains,
            rules: table.rules,
            sets: table.sets,
            maps: table.maps,
        });
    }
    if let Some(driver) = dataplane.driver().iptables() {
        metrics.iptables().tell(driver, counted);
    }
    metrics.set_routes(MAIN_TABLE, dataplane.route_count());
    metrics.set_tunnels_with_own_checksums(dataplane.tunnels_with_own_checksums());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::MetricsOptions;

    #[test]
    fn invalid_objects_are_counted_once_each() {
        let metrics = Metrics::new(&MetricsOptions {
            host: "n".into(),
            process: false,
        })
        .unwrap();
        let shown = || {
            let text = metrics.render().unwrap();
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix("felix_invalid_objects{kind=\"NetworkPolicy\"} "));
            line.map(str::to_owned)
        };
        let mut invalid = Invalid::default();
        let key = |name: &str| Key::namespaced(Kind::NetworkPolicy, "ns", name);
        invalid.set(key("a"), false, &metrics);
        assert_eq!(shown(), None, "nothing was ever invalid");
        for (name, is_invalid, number) in [
            ("a", true, "1"),
            ("a", true, "1"),
            ("b", true, "2"),
            ("a", false, "1"),
            ("c", false, "1"),
            ("b", false, "0"),
            ("b", false, "0"),
        ] {
            invalid.set(key(name), is_invalid, &metrics);
            assert_eq!(shown().as_deref(), Some(number), "after {name}");
        }
    }
}
