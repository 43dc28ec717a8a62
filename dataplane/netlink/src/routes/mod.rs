//! Routes of the main table: to local workloads, to other nodes' pods, and into nothing for what is left.
//!
//! Rooms: `spec` (what is wanted), `ours` (which routes are ours), `observe` (what the kernel has), `known` (what it
//! has, followed by its news; pure), `plan` (the steps between them, pure), `execute` (carries the steps out and
//! decides nothing).

mod execute;
mod known;
mod observe;
mod ours;
mod plan;
mod spec;

pub use execute::{RouteFailure, execute};
pub use known::{KnownRoutes, News};
pub(crate) use observe::read_body;
pub use observe::{
    ObservedLink, ObservedRoute, ObservedRoutes, ObservedTarget, is_local, observe, observe_all,
    observe_link, observe_marked,
};
pub use ours::{DEVICE_PROTOCOL, PLAIN_PROTOCOL, RouteOwnership};
pub use plan::{RouteStep, missing, plan, waiting};
pub use spec::{Reach, RouteTable, RouteTarget};

use crate::error::NetlinkError;
use crate::rtnetlink::Rtnetlink;

/// What one reconciliation did.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// The steps that were carried out.
    pub done: usize,
    /// The destinations whose interface does not exist yet or is down; try again when it comes up.
    pub waiting: Vec<ipnet::IpNet>,
    /// The steps that failed, each with the reason; try them again later.
    pub failures: Vec<RouteFailure>,
}

impl Reconciled {
    /// Whether the kernel now has exactly what was wanted.
    pub fn is_complete(&self) -> bool {
        self.waiting.is_empty() && self.failures.is_empty()
    }
}

/// Brings the routes that are ours to the wanted ones; foreign routes stay.
///
/// # Errors
/// The routes could not be observed. A step that fails is reported in the answer and does not end the others.
pub fn reconcile(
    netlink: &mut Rtnetlink,
    desired: &RouteTable,
    ownership: &RouteOwnership,
) -> Result<Reconciled, NetlinkError> {
    let observed = observe(netlink, ownership)?;
    let steps = plan(desired, &observed, ownership);
    let failures = execute(netlink, &steps)?;
    Ok(Reconciled {
        done: steps.len().saturating_sub(failures.len()),
        waiting: waiting(desired, &observed),
        failures,
    })
}
