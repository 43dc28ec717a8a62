//! The page on which Prometheus reads.

use super::Metrics;
use crate::http::{Page, Pages};
use hyper::StatusCode;

/// The pages of the metrics server.
#[derive(Clone, Debug)]
pub struct MetricsPages {
    metrics: Metrics,
}

impl MetricsPages {
    /// Pages that show these metrics.
    pub fn new(metrics: Metrics) -> Self {
        MetricsPages { metrics }
    }
}

impl Pages for MetricsPages {
    fn page(&self, path: &str) -> Option<Page> {
        if path != "/metrics" {
            return None;
        }
        let (status, content_type, body) = match self.metrics.render() {
            Ok(text) => (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
            Err(error) => {
                tracing::error!(%error, "metrics cannot be shown");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "text/plain; charset=utf-8",
                    format!("{error}\n"),
                )
            }
        };
        Some(Page {
            status,
            content_type,
            body,
        })
    }
}
