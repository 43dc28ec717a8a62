//! A watch: what changed, in the order of the revisions.

use crate::{BoxFuture, DatastoreError, Revision, Versioned};
use policy_model::Key;

/// One change of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// The object exists and is this.
    Upsert(Versioned),
    /// The object exists no more.
    Delete {
        /// Which object.
        key: Key,
        /// When it went.
        revision: Revision,
    },
}

impl WatchEvent {
    /// The object that changed.
    pub fn key(&self) -> Key {
        match self {
            WatchEvent::Upsert(versioned) => versioned.key(),
            WatchEvent::Delete { key, .. } => key.clone(),
        }
    }

    /// When it changed. A new watch from here continues after this event.
    pub fn revision(&self) -> Revision {
        match self {
            WatchEvent::Upsert(versioned) => versioned.revision,
            WatchEvent::Delete { revision, .. } => *revision,
        }
    }
}

/// Where an adapter's watch takes its events from.
pub trait EventSource: Send {
    /// Waits until there is something, then returns what is there, at most `max` events and at least one.
    ///
    /// Dropping the future loses no event. After an error the source is at its end.
    fn next_batch(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<WatchEvent>, DatastoreError>>;
}

/// A running watch.
///
/// Events come in the order of their revisions. No object's last state is ever missed; states in between may be left
/// out where the reader is slower than the writers, so an event says what is, not how often it changed: an `Upsert`
/// may stand for a removal and a new creation, and a `Delete` may name an object that this watch never showed.
pub struct Watch {
    source: Box<dyn EventSource>,
}

impl Watch {
    /// Wraps an adapter's source.
    pub fn new(source: impl EventSource + 'static) -> Self {
        Watch {
            source: Box::new(source),
        }
    }

    /// Waits for the next change. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`DatastoreError::Expired`] where the reader fell too far behind, or whatever broke the watch. List anew.
    pub async fn next(&mut self) -> Result<WatchEvent, DatastoreError> {
        loop {
            if let Some(event) = self.source.next_batch(1).await?.into_iter().next() {
                return Ok(event);
            }
        }
    }

    /// Waits for a change, then returns what is there without further waiting, at most `max` events (and at least
    /// one, whatever `max` says). Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub async fn next_batch(&mut self, max: usize) -> Result<Vec<WatchEvent>, DatastoreError> {
        self.source.next_batch(max.max(1)).await
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}
