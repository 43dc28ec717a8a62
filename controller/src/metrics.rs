//! What operators can count and watch: `manx_controller_*`.

use crate::exposition::{self, full, keep};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The metrics of one controller.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Whether the datastore is in step with every manifest.
    pub(crate) in_sync: IntGauge,
    pub(crate) files: IntGauge,
    pub(crate) objects: IntGauge,
    pub(crate) kept: IntGauge,
    pub(crate) homeless_pods: IntGauge,
    pub(crate) faults: IntGauge,
    pub(crate) new_faults: IntCounter,
    pub(crate) writes: IntCounterVec,
    pub(crate) write_errors: IntCounter,
    pub(crate) repairs: IntCounter,
    pub(crate) passes: IntCounter,
    pub(crate) addresses_released: IntCounter,
    pub(crate) change_seconds: Histogram,
    pub(crate) last_sync: IntGauge,
}

/// Bounds of the times from a file's event to the end of the datastore's write, in seconds.
const BOUNDS: [f64; 12] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0,
];

impl Metrics {
    /// Makes the metrics, all zero.
    ///
    /// # Errors
    /// A name or help text that Prometheus does not take: a mistake in this file.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| keep(&registry, IntGauge::new(full(name), help)?);
        let counter = |name: &str, help: &str| keep(&registry, IntCounter::new(full(name), help)?);
        let metrics = Metrics {
            in_sync: gauge("in_sync", "1 while the datastore is in step with every manifest")?,
            files: gauge("files", "Manifest files in the folder")?,
            objects: gauge("objects", "Objects that the manifests amount to")?,
            kept: gauge(
                "kept_objects",
                "Stored objects that stay because their file is broken now",
            )?,
            homeless_pods: gauge("pods_without_node", "Pods that need a node and have none")?,
            faults: gauge("faults", "What is wrong now")?,
            new_faults: counter("faults_found_total", "Faults found since the start")?,
            writes: keep(
                &registry,
                IntCounterVec::new(
                    Opts::new(full("writes_total"), "Writes to the datastore that succeeded"),
                    &["operation"],
                )?,
            )?,
            write_errors: counter("write_errors_total", "Writes to the datastore that failed")?,
            repairs: counter(
                "repairs_total",
                "Objects put right that somebody else had changed or deleted",
            )?,
            passes: counter(
                "passes_total",
                "Changes of the folder or the datastore that were worked off",
            )?,
            addresses_released: counter(
                "addresses_released_total",
                "Addresses of vanished nodes given back",
            )?,
            change_seconds: keep(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        full("change_seconds"),
                        "From the event of a changed manifest to the end of the datastore's write",
                    )
                    .buckets(BOUNDS.to_vec()),
                )?,
            )?,
            last_sync: gauge(
                "last_sync_timestamp_seconds",
                "When the datastore was last in step, as Unix time",
            )?,
            registry: registry.clone(),
        };
        // Shown from the start, so that a rate over them begins at zero.
        for operation in ["create", "update", "delete"] {
            metrics.writes.with_label_values(&[operation]);
        }
        Ok(metrics)
    }

    /// The page that Prometheus reads.
    pub fn page(&self) -> String {
        exposition::page(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_every_metric_from_the_start() {
        let metrics = Metrics::new().unwrap();
        metrics.repairs.inc();
        let page = metrics.page();
        assert!(page.contains("manx_controller_repairs_total 1"), "{page}");
        assert!(
            page.contains("manx_controller_writes_total{operation=\"delete\"} 0"),
            "{page}"
        );
        assert!(page.contains("manx_controller_change_seconds_bucket"), "{page}");
    }
}
