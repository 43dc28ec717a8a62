//! What becomes of the objects of a listing while it is read: gathered, or told to whoever waits for them.

use crate::failure::RequestError;
use crate::held::Held;
use crate::origin::Origin;
use crate::position::Position;
use policy_model_datastore::{
    BoxFuture, DatastoreError, Part, PartSource, Revision, Selection, Versioned, WatchEvent,
};
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::JoinSet;

/// How many objects are handed over together. So many are calculated while the next are decoded.
const PART: usize = 256;
/// How many parts may wait; then the API server waits.
pub(crate) const WAITING_PARTS: usize = 8;

/// Takes the objects of a listing.
pub(crate) trait Taker: Send {
    /// Takes one in. One that is new was not taken in before.
    fn take(&mut self, event: WatchEvent, is_new: bool);

    /// Tells what was taken in, where it is enough to be worth it.
    ///
    /// # Errors
    /// Nobody listens any more.
    fn hand_over(&mut self) -> impl Future<Output = Result<(), RequestError>> + Send;

    /// Tells whatever is left.
    ///
    /// # Errors
    /// Nobody listens any more.
    fn finish(&mut self) -> impl Future<Output = Result<(), RequestError>> + Send;

    /// Forgets everything, to begin anew; says whether that could be done.
    fn forget(&mut self) -> bool;
}

/// Gathers everything.
impl Taker for Vec<Versioned> {
    fn take(&mut self, event: WatchEvent, is_new: bool) {
        if !is_new {
            let key = event.key();
            self.retain(|item| item.key() != key);
        }
        match event {
            WatchEvent::Upsert(versioned) => self.push(versioned),
            WatchEvent::Delete { .. } => {}
        }
    }

    async fn hand_over(&mut self) -> Result<(), RequestError> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), RequestError> {
        Ok(())
    }

    fn forget(&mut self) -> bool {
        self.clear();
        true
    }
}

/// Tells everything, in parts.
pub(crate) struct Teller {
    mouth: Sender<Vec<WatchEvent>>,
    part: Vec<WatchEvent>,
    has_told: bool,
}

impl Teller {
    pub(crate) fn to(mouth: Sender<Vec<WatchEvent>>) -> Self {
        Teller {
            mouth,
            part: Vec::new(),
            has_told: false,
        }
    }

    async fn tell(&mut self) -> Result<(), RequestError> {
        self.has_told = true;
        let part = std::mem::take(&mut self.part);
        let deaf = |_| RequestError::Broken("nobody waits for the list any more".into());
        self.mouth.send(part).await.map_err(deaf)
    }
}

impl Taker for Teller {
    fn take(&mut self, event: WatchEvent, _is_new: bool) {
        self.part.push(event);
    }

    async fn hand_over(&mut self) -> Result<(), RequestError> {
        if self.part.len() >= PART {
            self.tell().await?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), RequestError> {
        if !self.part.is_empty() {
            self.tell().await?;
        }
        Ok(())
    }

    fn forget(&mut self) -> bool {
        self.part.clear();
        !self.has_told
    }
}

/// What the reading of one resource came to.
pub(crate) type Read = (Origin, Result<Position, RequestError>);

/// The listing of several resources, each read by a task of its own. They end when this is dropped.
pub(crate) struct Listeners {
    pub(crate) ear: Receiver<Vec<WatchEvent>>,
    pub(crate) reads: JoinSet<Read>,
    pub(crate) held: Arc<Held>,
    pub(crate) selection: Selection,
    pub(crate) positions: Vec<(Origin, Position)>,
}

impl Listeners {
    async fn part(&mut self) -> Result<Part, DatastoreError> {
        loop {
            // Parts come first: a task that has ended told everything before.
            let read = tokio::select! {
                biased;
                Some(part) = self.ear.recv() => return Ok(Part::Objects(part)),
                read = self.reads.join_next() => read,
            };
            let Some(read) = read else {
                let positions = std::mem::take(&mut self.positions);
                let revision = earliest(&self.held, &positions);
                self.held.park(self.selection.clone(), revision, positions);
                return Ok(Part::End(revision));
            };
            self.positions.push(position(read)?);
        }
    }
}

impl PartSource for Listeners {
    fn next(&mut self) -> BoxFuture<'_, Result<Part, DatastoreError>> {
        Box::pin(self.part())
    }
}

/// The position that a task's reading came to.
pub(crate) fn position(
    read: Result<Read, tokio::task::JoinError>,
) -> Result<(Origin, Position), DatastoreError> {
    let (origin, listed) = read.map_err(|error| DatastoreError::unavailable("list objects", error))?;
    let position = listed.map_err(|error| error.during(format!("list {}", origin.resource())))?;
    Ok((origin, position))
}

/// The revision of a listing of several resources: the earliest, after which nothing was missed of any.
pub(crate) fn earliest(held: &Held, positions: &[(Origin, Position)]) -> Revision {
    let revisions = positions.iter().filter_map(|(_, position)| position.revision());
    Revision::new(revisions.min().unwrap_or_else(|| held.newest()))
}
