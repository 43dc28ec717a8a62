//! What a driver of rules could not do.

use super::iptables::IptablesError;
use dataplane_nftables::DriverError;

/// What a driver of rules could not do; what is in force stays.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// By nftables.
    #[error(transparent)]
    Nftables(#[from] DriverError),
    /// By iptables.
    #[error(transparent)]
    Iptables(#[from] IptablesError),
}
