//! Follows one resource from a position on: events, new connections where one ends, and the end where it must.

use crate::api::Api;
use crate::failure::{Refusal, RequestError, expired};
use crate::held::Held;
use crate::listing::{self, timeout};
use crate::origin::Origin;
use crate::position::Position;
use crate::read::{self, Event};
use policy_model_datastore::{BackOff, DatastoreError, Versioned, WatchEvent};
use std::sync::Arc;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

/// Where the events go. An error is the last that comes.
pub(crate) type Mouth = Sender<Result<WatchEvent, DatastoreError>>;

/// Nobody listens any more.
struct Deaf;

/// Why an open watch ended.
enum End {
    /// The server closed it, as it does from time to time.
    Closed,
    /// It broke, or the server refused to go on.
    Broken(RequestError),
    /// Nobody listens any more.
    Deaf,
}

/// One resource, followed.
pub(crate) struct Follower {
    pub(crate) api: Api,
    pub(crate) held: Arc<Held>,
    pub(crate) origin: Origin,
    pub(crate) namespace: Option<String>,
    pub(crate) mouth: Mouth,
    /// Whether events were told since the watch began, or objects by the listing before it.
    pub(crate) was_present: bool,
}

impl Follower {
    /// Follows until nobody listens, or until only a new listing can help; the reader then gets the reason.
    pub(crate) async fn run(mut self, mut position: Position) {
        let (initial, longest) = self.api.settings().pauses;
        let back_off = BackOff {
            initial,
            longest,
            jitter: 0.5,
        };
        let (mut failures, mut failing_since) = (0u32, None::<Instant>);
        while !self.mouth.is_closed() {
            let (next, outcome) = self.step(position).await;
            position = next;
            let error = match outcome {
                Ok(()) => {
                    (failures, failing_since) = (0, None);
                    continue;
                }
                Err(Stop::Deaf) => return,
                Err(Stop::Expired(from)) => return self.tell_end(expired(from)).await,
                Err(Stop::Failed(error)) => error,
            };
            let since = *failing_since.get_or_insert_with(Instant::now);
            if since.elapsed() > self.api.settings().patience {
                return self
                    .tell_end(error.during(format!("watch {}", self.origin.resource())))
                    .await;
            }
            tracing::debug!(resource = self.origin.resource(), %error, "a watch broke and is taken up again");
            tokio::select! {
                () = self.mouth.closed() => return,
                () = tokio::time::sleep(back_off.pause(failures, rand::random())) => {}
            }
            failures = failures.saturating_add(1);
        }
    }

    async fn tell_end(&self, error: DatastoreError) {
        // Whoever is gone need not hear why.
        let _ = self.mouth.send(Err(error)).await;
    }

    /// One step: reads an open watch to its end, opens one, or looks whether the resource has come.
    async fn step(&mut self, position: Position) -> (Position, Result<(), Stop>) {
        match position {
            Position::Open(mut stream, mut revision) => {
                self.was_present = true;
                let end = self.read(&mut stream, &mut revision).await;
                let outcome = match end {
                    End::Closed => Ok(()),
                    End::Deaf => Err(Stop::Deaf),
                    End::Broken(error) if error.code() == Some(410) => Err(Stop::Expired(revision)),
                    End::Broken(error) => Err(Stop::Failed(error)),
                };
                (Position::After(revision), outcome)
            }
            Position::After(revision) => match self.open(revision).await {
                Ok(position) => (position, Ok(())),
                Err(error) => match error.code() {
                    Some(410) => (Position::After(revision), Err(Stop::Expired(revision))),
                    // Its definition went: so did all its objects, which only a new listing can tell.
                    Some(404) if self.origin.may_be_absent() && self.was_present => {
                        (Position::Absent, Err(Stop::Expired(revision)))
                    }
                    Some(404) if self.origin.may_be_absent() => (Position::Absent, Ok(())),
                    _ => (Position::After(revision), Err(Stop::Failed(error))),
                },
            },
            Position::Absent => {
                self.held.note_absence(self.origin, true);
                tokio::select! {
                    () = self.mouth.closed() => return (Position::Absent, Err(Stop::Deaf)),
                    () = tokio::time::sleep(self.api.settings().absence) => {}
                }
                match self.arrive().await {
                    Ok(position) => (position, Ok(())),
                    Err(stop) => (Position::Absent, Err(stop)),
                }
            }
        }
    }

    async fn open(&self, revision: u64) -> Result<Position, RequestError> {
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&resourceVersion={}{}",
            self.origin.path(self.namespace.as_deref()),
            // To the API server 0 means any moment; before everything is 1.
            revision.max(1),
            timeout(&self.api)
        );
        let stream = tokio::select! {
            // Whoever stops listening must not wait for a server that hangs.
            () = self.mouth.closed() => return Ok(Position::After(revision)),
            stream = self.api.stream(&path) => stream?,
        };
        Ok(Position::Open(Box::new(stream), revision))
    }

    /// Reads an open watch to its end.
    async fn read(&self, stream: &mut crate::body::Stream, revision: &mut u64) -> End {
        let format = stream.format();
        loop {
            let message = tokio::select! {
                () = self.mouth.closed() => return End::Deaf,
                message = stream.next(self.api.settings().silence) => message,
            };
            let event = match message {
                Ok(None) => return End::Closed,
                Ok(Some([])) => continue,
                Ok(Some(message)) => read::event(self.origin, format, message),
                Err(RequestError::Silent(_)) => return End::Closed,
                Err(error) => Err(error),
            };
            let seen = match event {
                Ok(Event::Refused(refusal)) => return End::Broken(refused(refusal)),
                Ok(event) => event,
                Err(error) => return End::Broken(error),
            };
            let reached = match &seen {
                Event::Seen { reading, .. } | Event::Gone(reading) => reading.revision,
                Event::Bookmark { revision, .. } => *revision,
                Event::Refused(_) => *revision,
            };
            if let Some(event) = self.held.event(self.origin, seen)
                && self.tell(event).await.is_err()
            {
                return End::Deaf;
            }
            // Only now: what was not handed over must come again.
            *revision = reached.max(*revision);
        }
    }

    /// Tells all objects of a resource that was absent, if it is there now.
    async fn arrive(&mut self) -> Result<Position, Stop> {
        let mut items: Vec<Versioned> = Vec::new();
        let namespace = self.namespace.as_deref();
        let listed = listing::list(&self.api, &self.held, self.origin, namespace, &mut items).await;
        let position = listed.map_err(Stop::Failed)?;
        // In the order in which they came to be, like any events.
        items.sort_by_key(|item| item.revision);
        for item in items {
            self.tell(WatchEvent::Upsert(item))
                .await
                .map_err(|Deaf| Stop::Deaf)?;
        }
        Ok(position)
    }

    async fn tell(&self, event: WatchEvent) -> Result<(), Deaf> {
        self.mouth.send(Ok(event)).await.map_err(|_| Deaf)
    }
}

/// Why following cannot just go on.
enum Stop {
    /// Nobody listens any more.
    Deaf,
    /// The API server no longer knows what changed since then.
    Expired(u64),
    /// It may go on after a pause.
    Failed(RequestError),
}

/// A refusal in the middle of a watch. Some servers say with another code that a revision is too old.
fn refused(mut refusal: Refusal) -> RequestError {
    if matches!(refusal.reason.as_str(), "Expired" | "Gone") {
        refusal.code = 410;
    }
    refusal.into()
}
