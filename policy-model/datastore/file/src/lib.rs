//! The embedded datastore: a folder of YAML documents, safe for several processes and for crashes.
//!
//! ```text
//! <root>/tiers/default.yaml                        one document an object, for people to read and edit
//! <root>/networkpolicies/<namespace>/<name>.yaml
//! <root>/.manx/lock                                held (flock) around each write
//! <root>/.manx/journal                             what changed at which revision, and what is in force
//! ```
//!
//! The folder is what people see and edit; the journal is what is **in force**. Every change, by Manx or by an editor,
//! is in force once it stands in the journal, and everybody reads the journal in the same order: that gives revisions
//! to a folder, which has none. Who first notices that a document differs from the journal writes the difference into
//! the journal, if the document is valid; if not, the last valid version stays in force and the document is a
//! [`Fault`](policy_model_datastore::Fault).
//!
//! An object's version is the hash of its document's bytes.
//!
//! # Order of a write (under the lock)
//! 1. The new document is written beside the old one under a hidden name, and synced.
//! 2. The journal gets the record, marked as not yet in force. From here nothing needs room on the disk any more.
//! 3. The document is renamed onto the old one.
//! 4. One byte puts the record in force. 5. The folder is synced.
//!
//! A writer killed before 3 leaves the old document, after 3 the new one; the next to hold the lock drops a record that
//! is not in force, and compares its document with the journal. The journal itself is not synced with each write: after
//! a power failure it may lack its last records, and the documents, which are synced, replace them.

mod disk;
mod document;
mod engine;
mod folders;
mod journal;
mod keeper;
mod lock;
mod path;
mod store;
mod taking;

pub use store::{FileStore, Settings};
