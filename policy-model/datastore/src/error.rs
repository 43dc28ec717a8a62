//! What can go wrong with a datastore, each variant with what the caller should do.

use crate::{Revision, Versioned};
use policy_model::{InvalidResource, Key};

/// The cause of a failure that the store could not help.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a datastore did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatastoreError {
    /// The object does not exist. To have it, create it; to be rid of it, do nothing.
    #[error("{key} does not exist")]
    NotFound {
        /// The object that was asked for.
        key: Key,
    },
    /// The object exists already. Read it and update it, or leave it.
    #[error("{key} exists already")]
    AlreadyExists {
        /// The object that was to be created.
        key: Key,
    },
    /// Somebody else changed the object first. Decide again, from `current`.
    #[error("{key} was changed by somebody else")]
    Conflict {
        /// The object that was to be changed.
        key: Key,
        /// The object as it is now.
        current: Box<Versioned>,
    },
    /// The object is not valid. Repeating the request is useless; tell the person or the program that made it.
    #[error("{place}: {error}")]
    Invalid {
        /// The object, or where in the store it stands.
        place: String,
        /// The fields and reasons.
        error: InvalidResource,
    },
    /// The store no longer knows everything that changed since `from`. List, compare, and watch from there.
    #[error("changes since revision {from} are no longer known (known since {oldest})")]
    Expired {
        /// The revision that was asked for.
        from: Revision,
        /// The oldest revision from which a watch can start.
        oldest: Revision,
    },
    /// The store cannot be reached or failed. Repeat later, with growing pauses; keep what is in force meanwhile.
    #[error("the datastore is unavailable: cannot {operation}")]
    Unavailable {
        /// What was tried, as `do something to something`.
        operation: String,
        /// Why it failed.
        source: Source,
    },
    /// The store does not let this process do it. Tell the operator which permission is missing; repeating is useless.
    #[error("no permission to {operation}")]
    Permission {
        /// What was tried.
        operation: String,
        /// Why it failed.
        source: Source,
    },
    /// The store takes no writes at all. Tell the operator; repeating is useless until it is made writable.
    #[error("the datastore is read-only: cannot {operation}")]
    ReadOnly {
        /// What was tried.
        operation: String,
        /// Why it failed.
        source: Source,
    },
    /// There is no room left. Tell the operator to make room; then repeat. Nothing was changed.
    #[error("no space left in the datastore: cannot {operation}")]
    NoSpace {
        /// What was tried.
        operation: String,
        /// Why it failed.
        source: Source,
    },
}

impl DatastoreError {
    /// An [`DatastoreError::Unavailable`] with its cause.
    pub fn unavailable(operation: impl Into<String>, source: impl Into<Source>) -> Self {
        DatastoreError::Unavailable {
            operation: operation.into(),
            source: source.into(),
        }
    }

    /// Whether a repetition of the same request can succeed without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(self, DatastoreError::Unavailable { .. })
    }
}
