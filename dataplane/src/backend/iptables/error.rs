//! What could not be done with iptables.

use dataplane_iptables::driver::{DriverError, Failures};
use dataplane_iptables::programs::{BackendChoice, ProgramError};

/// What could not be done with iptables; what is in force stays.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The programs are not there, too old, or do not answer. They are looked for again by each try.
    #[error("looking for the programs of iptables (IptablesBackend {choice})")]
    Programs {
        /// Whose.
        choice: BackendChoice,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// No socket for IP sets. Usually the privilege CAP_NET_ADMIN lacks, or the kernel has no IP sets.
    #[error("opening a netlink socket to the kernel's IP sets")]
    Open(#[source] DriverError),
    /// What there is could not be read. Try again.
    #[error("reading our iptables chains and IP sets")]
    Read(#[source] DriverError),
    /// Not all of it could be written; what is left is tried again by the next apply.
    #[error("writing our iptables chains and IP sets")]
    Write(#[source] Box<Failures>),
    /// IP sets could not be removed.
    #[error("removing our IP sets")]
    Clean(#[source] DriverError),
}

impl From<Failures> for IptablesError {
    fn from(failures: Failures) -> Self {
        IptablesError::Write(Box::new(failures))
    }
}
