//! How the agent stands: live means that every loop moved recently, ready means in sync and programmed.
//!
//! Loops report to a [`HealthAggregator`]; it says which of them is stuck and since when, so that a person who sees a
//! restarted or unready agent knows where to look.
//!
//! | room | what it does |
//! |---|---|
//! | [`aggregator`] | reporters, their reports, and the state at a moment |
//! | [`page`] | the answer of `/liveness` and `/readiness` |

pub mod aggregator;
pub mod page;

pub use aggregator::{Counts, HealthAggregator, Probe, Report, Reporter, ReporterState, Standing, Trouble};
pub use page::HealthPages;

#[cfg(test)]
mod tests;
