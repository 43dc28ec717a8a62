//! The datastore port, the in-memory store, and the conformance suite that every adapter passes.
//!
//! Everything that the controller tells felix, and felix tells the controller, goes through [`Datastore`]. The trait
//! is small on purpose: an adapter is a way to keep named objects, to change one by compare-and-swap and to say in
//! order what changed. What every consumer needs beyond that ([`Syncer`], [`upsert_with_retry`]) is built on the port
//! once, and [`conformance`] says in code what the words of the port mean.

mod changelog;
pub mod conformance;
mod datastore;
mod error;
mod memory;
mod parts;
mod retry;
mod shared_log;
mod syncer;
mod told;
mod version;
mod watch;

pub use changelog::{ChangeLog, DEFAULT_REMEMBERED_REMOVALS};
pub use datastore::{BoxFuture, Datastore, Fault, Listing, Revision, Selection, Versioned};
pub use error::{DatastoreError, Source};
pub use memory::MemoryStore;
pub use parts::{Part, PartSource, Parts};
pub use retry::{RETRY_LIMIT, upsert_with_retry};
pub use shared_log::SharedLog;
pub use syncer::{BackOff, SyncEvent, SyncStatus, Syncer};
pub use version::Version;
pub use watch::{EventSource, Watch, WatchEvent};
