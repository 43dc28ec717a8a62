//! Metrics as Prometheus reads them: registered, named and written down in one way for both modes.

use prometheus::core::Collector;
use prometheus::{Encoder, Registry, TextEncoder};

/// The page with everything that is registered.
pub(crate) fn page(registry: &Registry) -> String {
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut text) {
        tracing::error!(%error, "the metrics cannot be written down");
    }
    String::from_utf8(text).unwrap_or_default()
}

/// The name of a metric of our own.
pub(crate) fn full(name: &str) -> String {
    format!("manx_controller_{name}")
}

/// Registers a metric and returns it.
///
/// # Errors
/// It is registered already, or its name is none.
pub(crate) fn keep<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: M,
) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
