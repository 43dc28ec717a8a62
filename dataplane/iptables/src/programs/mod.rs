//! The programs: which variants of iptables are there, which one to use, and how they are run.
//!
//! The crate `iptables` was looked at for detection and small queries and does not serve: it runs the one program that is
//! called `iptables` (so it cannot ask the two variants), waits for it without a limit, reads its output without a bound,
//! and recognises neither the variant nor `iptables-restore`. An agent must survive a program that hangs. What it would
//! have given, reading a version and looking for chains, is [`Version`] and [`crate::ours::save`].

mod child;
mod choose;
mod error;
mod find;
mod restore;
mod version;

pub use child::{Deadline, Ended, Unfinished, run};
pub use choose::{BackendChoice, Choice, Evidence, InvalidBackend, Reason, choose};
pub use error::{Failure, ProgramError};
pub use find::{Found, ProgramSettings, Toolset, find};
pub use restore::LockSettings;
pub use version::{Variant, Version};
