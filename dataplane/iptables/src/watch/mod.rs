//! What tells, without a timer, that somebody else changed something.
//!
//! - The nft variant: nf_tables tells of every change, with the netlink port of whoever made it. The first socket of a process
//!   has the process's number as its port, so our own programs' changes are told apart by their numbers ([`NftWatch`]).
//! - The legacy variant: the kernel tells nobody, but every program that writes opens the lock file, and closes it when its
//!   write is in force. Both are seen by inotify ([`LockWatch`]), at no cost while nobody writes. A program with a lock file of
//!   its own (another mount namespace) is not seen: for it there is the periodic look.
//! - IP sets: nothing tells; see [`crate::ipset::Ipsets::headers`].
//!
//! The number of a legacy table's entries could be asked of the kernel by `IPT_SO_GET_INFO`, but that option of a socket takes
//! input, which no safe layer offers; and a changed rule does not change the number. A whole `iptables-save` takes some
//! milliseconds, which a periodic look can afford.

mod lock;
mod nft;

pub use lock::{LockUse, LockWatch};
pub use nft::NftWatch;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::ops::{Family, Table};
use crate::programs::{Toolset, Variant};

/// A watch could not be set up or read. Without it drift is found by the periodic look only.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The lock file cannot be watched.
    #[error("watching the lock file {}", path.display())]
    Lock {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// nf_tables gives no events.
    #[error("listening to nf_tables")]
    Open(#[from] dataplane_nftables::socket::OpenError),
    /// The events of nf_tables cannot be read.
    #[error("listening to nf_tables")]
    Read(#[from] dataplane_nftables::socket::MonitorError),
}

/// The watch of one variant.
#[derive(Debug)]
pub enum Watch {
    /// The lock file.
    Lock(LockWatch),
    /// The events of nf_tables.
    Nft(NftWatch),
}

impl Watch {
    /// Watches the tables that these programs write, in the calling thread's network namespace. Open it before the first
    /// reading, so that nothing is missed between.
    ///
    /// # Errors
    /// The system gives no events.
    pub fn open(tools: &Toolset) -> Result<Self, WatchError> {
        Ok(match tools.variant {
            Variant::Legacy => Self::Lock(LockWatch::open(tools.lock_file())?),
            Variant::Nft => Self::Nft(NftWatch::open()?),
        })
    }

    /// Whether it tells of each write of others near us, also of one at the moment of ours.
    #[must_use]
    pub fn tells_all(&self) -> bool {
        match self {
            Self::Lock(_) => false,
            Self::Nft(_) => true,
        }
    }

    /// Reads what has come, without waiting, and says which tables somebody other than these processes of ours may have
    /// changed. `own` are all whose writes ended since the last call.
    ///
    /// A write to a legacy table that overlaps one of ours may be missed: look once more a moment after own writes.
    ///
    /// # Errors
    /// The events cannot be read: look yourself.
    pub fn disturbed(&mut self, own: &[u32]) -> Result<Disturbed, WatchError> {
        match self {
            Self::Lock(watch) => {
                let LockUse { opened, closed, lost } = watch.take()?;
                let own = own.len();
                let is_disturbed = lost || closed > own || (opened > own && closed > 0);
                Ok(if is_disturbed {
                    Disturbed::All
                } else {
                    Disturbed::NOTHING
                })
            }
            Self::Nft(watch) => watch.disturbed(own),
        }
    }
}

/// Which tables others may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disturbed {
    /// These.
    Tables(BTreeSet<(Family, Table)>),
    /// Any.
    All,
}

impl Disturbed {
    /// None.
    pub const NOTHING: Self = Self::Tables(BTreeSet::new());
}

impl AsFd for Watch {
    /// For polling: readable when something has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Lock(watch) => watch.as_fd(),
            Self::Nft(watch) => watch.as_fd(),
        }
    }
}
