//! The small HTTP server behind health and metrics.
//!
//! Its pages are read by kubelet and Prometheus, and its port may be open to others: so it speaks HTTP/1 only, answers
//! one request a connection, and bounds the size of a request, the life of a connection and the number of them. When
//! all connections are in use the oldest is closed, because a probe that must wait behind slow clients says that a
//! healthy agent is dead.

mod bind;
mod serve;

pub use bind::{BindError, Listening, Purpose, bind};
pub use serve::{Limits, ServerThread};

use hyper::StatusCode;

/// What is answered to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The status.
    pub status: StatusCode,
    /// The type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

/// The pages that a server has.
pub trait Pages: Send + Sync + 'static {
    /// The page of a path, without its query; none if there is no such page.
    fn page(&self, path: &str) -> Option<Page>;
}

#[cfg(test)]
mod tests;
