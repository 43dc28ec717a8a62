//! What an operator's graphs are drawn from: `/metrics` in Prometheus' text form.
//!
//! Names, types and labels are Calico's `felix_*` where the meaning is the same, so that dashboards carry over. They
//! keep Calico's spelling even where today's conventions would end a counter in `_total`; names of our own follow the
//! conventions. There is no global state: whoever measures is given a [`Metrics`], which is cheap to clone.
//!
//! | room | what it does |
//! |---|---|
//! | [`calculation`] | what the calculation graph has and does |
//! | [`dataplane`] | what is in the kernel and what it cost |
//! | [`iptables`] | the same where policy is held in iptables |
//! | [`summary`] | quantiles of recent times, which Calico's graphs use and the library lacks |
//! | [`on_scrape`] | figures of the process and of connection tracking, read when they are asked for |

pub mod calculation;
pub mod dataplane;
pub mod iptables;
pub mod on_scrape;
mod page;
pub mod summary;

pub use calculation::{CalculationMetrics, ClusterSize, ResyncState};
pub use dataplane::{DataplaneMetrics, TableSize};
pub use iptables::IptablesMetrics;
pub use page::MetricsPages;

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use thiserror::Error;

/// Why metrics could not be made or shown. Both would be defects of this wing; neither depends on outside data.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// A metric has a name that is wrong or taken.
    #[error("the metric {name} cannot be registered")]
    Register {
        /// Its name.
        name: String,
        /// What the library said.
        source: prometheus::Error,
    },
    /// The text could not be written.
    #[error("the metrics cannot be written as text")]
    Encode(#[source] prometheus::Error),
}

/// What a set of metrics is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsOptions {
    /// The name of this node.
    pub host: String,
    /// Whether figures of the process are among them.
    pub process: bool,
}

/// All metrics of the agent.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    calculation: CalculationMetrics,
    dataplane: DataplaneMetrics,
    log_errors: IntCounter,
    rejected: IntCounterVec,
    invalid: IntGaugeVec,
    exhausted: IntGaugeVec,
}

impl Metrics {
    /// Metrics in a registry of their own.
    ///
    /// # Errors
    /// When a metric cannot be registered, which would be a defect of this wing.
    pub fn new(options: &MetricsOptions) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let calculation = CalculationMetrics::register(&registry)?;
        let dataplane = DataplaneMetrics::register(&registry)?;
        let log_errors = counter(&registry, "felix_log_errors", "Number of error lines in the log.")?;
        let rejected = counter_vec(
            &registry,
            "felix_objects_rejected_total",
            "Number of times that an object of the datastore was refused because it is invalid.",
            &["kind"],
        )?;
        let invalid = gauge_vec(
            &registry,
            "felix_invalid_objects",
            "Number of objects in the datastore that are invalid now.",
            &["kind"],
        )?;
        let exhausted = gauge_vec(
            &registry,
            "felix_ipam_exhausted",
            "1 for each pool of IP addresses that a pod of this node was refused an address of, until there is one again; \
             without a pool where none may serve the node.",
            &["family", "pool"],
        )?;
        let host = gauge_vec(
            &registry,
            "felix_host",
            "The name of this node, as a label of a constant 1.",
            &["host"],
        )?;
        host.with_label_values(&[options.host.as_str()]).set(1);
        let build = gauge_vec(
            &registry,
            "felix_build_info",
            "The version of the agent, as a label of a constant 1.",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        on_scrape::register_conntrack(&registry)?;
        let metrics = Metrics {
            registry,
            calculation,
            dataplane,
            log_errors,
            rejected,
            invalid,
            exhausted,
        };
        if options.process {
            metrics.show_process()?;
        }
        Ok(metrics)
    }

    /// Adds figures of the process.
    ///
    /// # Errors
    /// When they are there already.
    pub fn show_process(&self) -> Result<(), MetricsError> {
        on_scrape::register_process(&self.registry)
    }

    /// What the calculation graph measures.
    pub fn calculation(&self) -> &CalculationMetrics {
        &self.calculation
    }

    /// What the dataplane measures.
    pub fn dataplane(&self) -> &DataplaneMetrics {
        &self.dataplane
    }

    /// The counter that the log adds its error lines to.
    pub fn log_errors(&self) -> IntCounter {
        self.log_errors.clone()
    }

    /// Counts an object that was refused because it is invalid.
    pub fn object_rejected(&self, kind: &str) {
        self.rejected.with_label_values(&[kind]).inc();
    }

    /// Says how many objects of a kind are invalid now.
    pub fn set_invalid_objects(&self, kind: &str, number: usize) {
        self.invalid.with_label_values(&[kind]).set(whole(number));
    }

    /// Says which pools have no address for this node's pods now: family and name of each.
    pub fn set_exhausted<'a>(&self, pools: impl IntoIterator<Item = (&'a str, &'a str)>) {
        self.exhausted.reset();
        for (family, pool) in pools {
            self.exhausted.with_label_values(&[family, pool]).set(1);
        }
    }

    /// Everything in Prometheus' text form.
    ///
    /// # Errors
    /// When a metric has no text form, which would be a defect of this wing.
    pub fn render(&self) -> Result<String, MetricsError> {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .map_err(MetricsError::Encode)
    }
}

/// A number of things as a gauge takes it.
fn whole(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    name: &str,
    made: Result<C, prometheus::Error>,
) -> Result<C, MetricsError> {
    let refused = |source| MetricsError::Register {
        name: name.to_owned(),
        source,
    };
    let metric = made.map_err(refused)?;
    registry.register(Box::new(metric.clone())).map_err(refused)?;
    Ok(metric)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
    add(registry, name, IntCounter::new(name, help))
}

fn counter_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, MetricsError> {
    add(registry, name, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
    add(registry, name, IntGauge::new(name, help))
}

fn gauge_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, MetricsError> {
    add(registry, name, IntGaugeVec::new(Opts::new(name, help), labels))
}

#[cfg(test)]
mod tests;
