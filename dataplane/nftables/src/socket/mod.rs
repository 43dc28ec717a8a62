//! The way to the kernel: one socket to ask and to write, one to listen.
//!
//! The kernel carries out a netlink request within the call that sends it, so all its answers are waiting when the call returns.
//! Waits are bounded all the same: a kernel that does not answer must not stop the loop that asked.

mod connection;
mod error;
mod link;
mod monitor;

pub use error::{DumpError, Failure, MonitorError, OpenError, TransactError};
pub use link::{Committed, Link};
pub use monitor::{Event, Monitor};
