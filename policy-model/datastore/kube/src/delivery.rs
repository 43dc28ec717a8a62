//! The watch as the port gives it: the events of several resources, as they come.

use crate::api::Api;
use crate::follow::Follower;
use crate::held::Held;
use crate::origin::Origin;
use crate::position::Position;
use policy_model_datastore::{BoxFuture, DatastoreError, EventSource, Watch, WatchEvent};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc::{self, Receiver};

/// How many events may wait for the reader; then the API server waits, and in the end gives the watch up.
const WAITING: usize = 1024;

/// Follows resources, each in a task of its own that ends when the watch is dropped.
pub(crate) fn watch(
    api: &Api,
    held: &Arc<Held>,
    namespace: Option<&str>,
    positions: Vec<(Origin, Position)>,
) -> Watch {
    let (mouth, ear) = mpsc::channel(WAITING);
    for (origin, position) in positions {
        let follower = Follower {
            api: api.clone(),
            held: Arc::clone(held),
            origin,
            namespace: namespace.map(str::to_owned),
            mouth: mouth.clone(),
            was_present: false,
        };
        tokio::spawn(follower.run(position));
    }
    Watch::new(Delivery {
        ear,
        // A watch of nothing waits for ever, like one of something that never changes.
        _mouth: mouth,
        taken: Vec::new(),
        waiting: VecDeque::new(),
        end: None,
    })
}

struct Delivery {
    ear: Receiver<Result<WatchEvent, DatastoreError>>,
    _mouth: crate::follow::Mouth,
    taken: Vec<Result<WatchEvent, DatastoreError>>,
    waiting: VecDeque<WatchEvent>,
    end: Option<DatastoreError>,
}

impl EventSource for Delivery {
    fn next_batch(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<WatchEvent>, DatastoreError>> {
        Box::pin(async move {
            loop {
                if !self.waiting.is_empty() {
                    let count = max.min(self.waiting.len());
                    return Ok(self.waiting.drain(..count).collect());
                }
                if let Some(end) = self.end.take() {
                    // What else comes is cut off from what came before it, and only a new listing helps.
                    self.ear.close();
                    return Err(end);
                }
                // Nothing is lost where the future is dropped: what was received is received at once.
                if self.ear.recv_many(&mut self.taken, max.max(1)).await == 0 {
                    return Err(DatastoreError::unavailable("watch", "the watch has ended"));
                }
                for taken in self.taken.drain(..) {
                    match taken {
                        Ok(event) if self.end.is_none() => self.waiting.push_back(event),
                        Ok(_) => {}
                        Err(error) => drop(self.end.get_or_insert(error)),
                    }
                }
            }
        })
    }
}
