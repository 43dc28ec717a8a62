//! Removes everything of ours from the kernel, and nothing else.
//!
//! Traffic first becomes unpoliced, then interfaces and routes go: the order in which nothing is cut that could go on.

use dataplane_netlink::routes::{RouteOwnership, RouteTable, reconcile};
use dataplane_netlink::{NetlinkError, Rtnetlink};
use dataplane_nftables::DriverError;

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// Our nftables table.
    #[error("removing our nftables table")]
    Table(#[source] DriverError),
    /// Our routes.
    #[error("removing our routes")]
    Routes(#[source] NetlinkError),
}

/// Removes our table and our routes in the calling thread's network namespace. Workload interfaces belong to their
/// workloads and go with them.
///
/// # Errors
/// See [`CleanupError`].
pub fn everything() -> Result<Vec<String>, CleanupError> {
    of_kernel(Some(&RouteOwnership::default()))
}

/// Removes our table, and the routes that are ours by these marks; without marks no route. Says what was there.
///
/// # Errors
/// See [`CleanupError`].
pub fn of_kernel(ownership: Option<&RouteOwnership>) -> Result<Vec<String>, CleanupError> {
    let mut done = Vec::new();
    if dataplane_nftables::cleanup().map_err(CleanupError::Table)? {
        done.push("removed the nftables table 'manx'".to_string());
    }
    if let Some(ownership) = ownership {
        let mut netlink = Rtnetlink::open().map_err(CleanupError::Routes)?;
        let nothing = RouteTable::new();
        let removed = reconcile(&mut netlink, &nothing, ownership).map_err(CleanupError::Routes)?;
        if removed.done > 0 {
            done.push(format!("removed {} routes", removed.done));
        }
        if let Some(failure) = removed.failures.into_iter().next() {
            return Err(CleanupError::Routes(failure.error));
        }
    }
    if done.is_empty() {
        done.push("there was nothing of ours".to_string());
    }
    Ok(done)
}
