//! What operators can count and watch in Kubernetes mode: `manx_controller_*`, and `ipam_*` by Calico's names.
//!
//! Only the leader says anything of addresses: two replicas that both did would be counted twice by whoever sums.

use super::picture::Usage;
use crate::exposition::{self, full, keep};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The controllers whose errors are counted.
const CONTROLLERS: [&str; 6] = ["leader", "defaults", "datastore", "node", "ipam", "pools"];

/// The metrics of one controller. Clones share them.
#[derive(Clone)]
pub(crate) struct Figures {
    registry: Registry,
    is_leader: IntGauge,
    tenures: IntCounter,
    errors: IntCounterVec,
    nodes_released: IntCounter,
    addresses_released: IntCounter,
    candidates: Labelled,
    reclamations: IntCounterVec,
    in_use: Labelled,
    borrowed: Labelled,
    blocks: Labelled,
    in_use_per_node: Labelled,
    borrowed_per_node: Labelled,
    blocks_per_node: Labelled,
    pool_size: Labelled,
}

/// A gauge with labels, and those that were told: what is no longer so must not be shown for ever.
#[derive(Clone)]
struct Labelled {
    gauge: IntGaugeVec,
    told: Arc<Mutex<BTreeSet<Vec<String>>>>,
}

impl Labelled {
    fn tell(&self, values: impl IntoIterator<Item = (Vec<String>, i64)>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = BTreeSet::new();
        for (labels, value) in values {
            let borrowed: Vec<&str> = labels.iter().map(String::as_str).collect();
            if let Ok(gauge) = self.gauge.get_metric_with_label_values(&borrowed) {
                gauge.set(value);
            }
            now.insert(labels);
        }
        for labels in told.difference(&now) {
            let borrowed: Vec<&str> = labels.iter().map(String::as_str).collect();
            let _ = self.gauge.remove_label_values(&borrowed);
        }
        *told = now;
    }
}

impl Figures {
    /// Makes the metrics, all zero.
    ///
    /// # Errors
    /// A name or help text that Prometheus does not take: a mistake in this file.
    pub(crate) fn new() -> Result<Figures, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| keep(&registry, IntCounter::new(full(name), help)?);
        let labelled = |name: &str, help: &str, labels: &[&str]| {
            Ok::<_, prometheus::Error>(Labelled {
                gauge: keep(&registry, IntGaugeVec::new(Opts::new(name, help), labels)?)?,
                told: Arc::default(),
            })
        };
        let figures = Figures {
            is_leader: keep(
                &registry,
                IntGauge::new(full("is_leader"), "1 while this replica holds the lease")?,
            )?,
            tenures: counter("tenures_total", "How often this replica became the leader")?,
            errors: keep(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        full("errors_total"),
                        "What failed, by the controller that tried it",
                    ),
                    &["controller"],
                )?,
            )?,
            nodes_released: counter(
                "nodes_released_total",
                "Vanished nodes whose blocks were given back",
            )?,
            addresses_released: counter(
                "addresses_released_total",
                "Addresses of vanished nodes given back",
            )?,
            candidates: labelled(
                "ipam_allocations_gc_candidates",
                "Addresses that seem to be nobody's and are watched for the grace period",
                &["ippool", "node"],
            )?,
            reclamations: keep(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "ipam_allocations_gc_reclamations",
                        "Addresses that were nobody's and were given back",
                    ),
                    &["ippool", "node"],
                )?,
            )?,
            in_use: labelled(
                "ipam_allocations_in_use",
                "Addresses of workloads and tunnels",
                &["ippool", "node"],
            )?,
            borrowed: labelled(
                "ipam_allocations_borrowed",
                "Addresses in use on a node that does not own their block",
                &["ippool", "node"],
            )?,
            blocks: labelled("ipam_blocks", "Blocks of addresses", &["ippool", "node"])?,
            in_use_per_node: labelled(
                "ipam_allocations_per_node",
                "Addresses of workloads and tunnels, by the node that they are used on",
                &["node"],
            )?,
            borrowed_per_node: labelled(
                "ipam_allocations_borrowed_per_node",
                "Addresses in use on a node that does not own their block, by that node",
                &["node"],
            )?,
            blocks_per_node: labelled(
                "ipam_blocks_per_node",
                "Blocks of addresses, by their owner",
                &["node"],
            )?,
            pool_size: labelled("ipam_ippool_size", "Addresses in a pool", &["ippool"])?,
            registry: registry.clone(),
        };
        // Shown from the start, so that a rate over them begins at zero.
        for controller in CONTROLLERS {
            figures.errors.with_label_values(&[controller]);
        }
        Ok(figures)
    }

    /// Notes whether this replica leads; one that does not says nothing of addresses.
    pub(crate) fn set_leading(&self, leads: bool) {
        self.is_leader.set(i64::from(leads));
        if leads {
            self.tenures.inc();
        } else {
            self.tell_usage(&Usage::default());
            self.tell_candidates(Vec::new());
        }
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, controller: &'static str) {
        self.errors.with_label_values(&[controller]).inc();
    }

    /// Counts a node whose blocks were given back, with so many addresses.
    pub(crate) fn node_released(&self, addresses: usize) {
        self.nodes_released.inc();
        self.addresses_released.inc_by(addresses as u64);
    }

    /// Counts an address that was given back.
    pub(crate) fn reclaimed(&self, pool: &str, node: &str) {
        self.reclamations.with_label_values(&[pool, node]).inc();
    }

    /// Shows the addresses that are watched, one entry each: pool and node.
    pub(crate) fn tell_candidates(&self, candidates: Vec<(String, String)>) {
        let mut counted = std::collections::BTreeMap::<Vec<String>, i64>::new();
        for (pool, node) in candidates {
            *counted.entry(vec![pool, node]).or_default() += 1;
        }
        self.candidates.tell(counted);
    }

    /// Shows how pools are used.
    pub(crate) fn tell_usage(&self, usage: &Usage) {
        let pairs = |counts: &std::collections::BTreeMap<(String, String), i64>| {
            let pairs = counts.iter();
            pairs
                .map(|((pool, node), count)| (vec![pool.clone(), node.clone()], *count))
                .collect::<Vec<_>>()
        };
        let by_node = |counts: &std::collections::BTreeMap<(String, String), i64>| {
            let mut sums = std::collections::BTreeMap::<Vec<String>, i64>::new();
            for ((_, node), count) in counts {
                *sums.entry(vec![node.clone()]).or_default() += count;
            }
            sums
        };
        self.in_use.tell(pairs(&usage.in_use));
        self.borrowed.tell(pairs(&usage.borrowed));
        self.blocks.tell(pairs(&usage.blocks));
        self.in_use_per_node.tell(by_node(&usage.in_use));
        self.borrowed_per_node.tell(by_node(&usage.borrowed));
        self.blocks_per_node.tell(by_node(&usage.blocks));
        let sizes = usage.sizes.iter();
        self.pool_size
            .tell(sizes.map(|(pool, size)| (vec![pool.clone()], *size)));
    }

    /// The page that Prometheus reads.
    pub(crate) fn page(&self) -> String {
        exposition::page(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leader_speaks_of_addresses() {
        let figures = Figures::new().unwrap();
        let page = figures.page();
        assert!(page.contains("manx_controller_is_leader 0"), "{page}");
        assert!(
            page.contains("manx_controller_errors_total{controller=\"ipam\"} 0"),
            "{page}"
        );
        figures.set_leading(true);
        let mut usage = Usage::default();
        usage.in_use.insert(("p".into(), "a".into()), 3);
        usage.in_use.insert(("q".into(), "a".into()), 2);
        usage.blocks.insert(("p".into(), "a".into()), 1);
        usage.sizes.insert("p".into(), 65_536);
        figures.tell_usage(&usage);
        let page = figures.page();
        assert!(
            page.contains("ipam_allocations_in_use{ippool=\"p\",node=\"a\"} 3"),
            "{page}"
        );
        assert!(page.contains("ipam_allocations_per_node{node=\"a\"} 5"), "{page}");
        assert!(page.contains("ipam_ippool_size{ippool=\"p\"} 65536"), "{page}");
        usage.in_use.remove(&("q".to_owned(), "a".to_owned()));
        figures.tell_usage(&usage);
        assert!(
            !figures.page().contains("ippool=\"q\""),
            "what is no longer so is not shown"
        );
        figures.set_leading(false);
        let page = figures.page();
        assert!(!page.contains("ipam_allocations_in_use{"), "{page}");
    }

    #[test]
    fn candidates_are_counted_and_forgotten() {
        let figures = Figures::new().unwrap();
        let of = |pool: &str| (pool.to_owned(), "a".to_owned());
        figures.tell_candidates(vec![of("p"), of("p"), of("q")]);
        let page = figures.page();
        assert!(
            page.contains("gc_candidates{ippool=\"p\",node=\"a\"} 2"),
            "{page}"
        );
        figures.tell_candidates(vec![of("p")]);
        let page = figures.page();
        assert!(
            page.contains("gc_candidates{ippool=\"p\",node=\"a\"} 1"),
            "{page}"
        );
        assert!(!page.contains("ippool=\"q\""), "{page}");
    }
}
