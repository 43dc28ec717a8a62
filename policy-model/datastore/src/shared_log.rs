//! A change log that several threads read and that watchers wait on.

use crate::{BoxFuture, ChangeLog, DatastoreError, EventSource, Revision, Selection, Watch, WatchEvent};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// A [`ChangeLog`] behind a lock, with waiting watchers.
///
/// The lock is held only for steps in memory, so taking it from asynchronous code blocks nobody noticeably.
#[derive(Debug)]
pub struct SharedLog {
    log: Mutex<ChangeLog>,
    life: watch::Sender<Life>,
}

/// What watchers wait for: growth of the log, an interruption, or the end.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    revision: Revision,
    interruptions: u64,
    closed: bool,
}

impl SharedLog {
    /// Shares a log.
    pub fn new(log: ChangeLog) -> Self {
        let life = Life {
            revision: log.revision(),
            ..Life::default()
        };
        SharedLog {
            log: Mutex::new(log),
            life: watch::Sender::new(life),
        }
    }

    /// Reads the log.
    pub fn read<T>(&self, reader: impl FnOnce(&ChangeLog) -> T) -> T {
        reader(&self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the log and wakes the watchers if it grew.
    pub fn write<T>(&self, writer: impl FnOnce(&mut ChangeLog) -> T) -> T {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let result = writer(&mut log);
        let revision = log.revision();
        drop(log);
        self.life.send_if_modified(|life| {
            let grew = life.revision != revision;
            life.revision = life.revision.max(revision);
            grew
        });
        result
    }

    /// Starts a watch.
    ///
    /// # Errors
    /// [`DatastoreError::Expired`] where the log does not reach back to `from`.
    pub fn watch(self: &Arc<Self>, selection: Selection, from: Revision) -> Result<Watch, DatastoreError> {
        let life = self.life.subscribe();
        self.read(|log| log.changes_after(from, &selection, 1))?;
        let interruptions = life.borrow().interruptions;
        Ok(Watch::new(LogWatch {
            log: Arc::clone(self),
            life,
            selection,
            cursor: from,
            interruptions,
        }))
    }

    /// Breaks all running watches; new ones can be started.
    pub fn interrupt(&self) {
        self.life.send_modify(|life| life.interruptions += 1);
    }

    /// Breaks all watches for good, because nothing feeds the log any more.
    pub fn close(&self) {
        self.life.send_modify(|life| life.closed = true);
    }
}

struct LogWatch {
    log: Arc<SharedLog>,
    life: watch::Receiver<Life>,
    selection: Selection,
    cursor: Revision,
    interruptions: u64,
}

impl EventSource for LogWatch {
    fn next_batch(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<WatchEvent>, DatastoreError>> {
        Box::pin(async move {
            loop {
                // Marking the state as seen comes before the look into the log, so that a change in between wakes us.
                let life = *self.life.borrow_and_update();
                if life.closed || life.interruptions != self.interruptions {
                    let why = if life.closed {
                        "the store was closed"
                    } else {
                        "the watch was interrupted"
                    };
                    return Err(DatastoreError::unavailable("watch", why));
                }
                let (events, cursor) = self
                    .log
                    .read(|log| log.changes_after(self.cursor, &self.selection, max))?;
                self.cursor = cursor;
                if !events.is_empty() {
                    return Ok(events);
                }
                if self.life.changed().await.is_err() {
                    return Err(DatastoreError::unavailable("watch", "the store is gone"));
                }
            }
        })
    }
}
