//! A store that a relay offers, as a store of this process.
//!
//! One request is one connection: nothing of one can disturb another, and a relay that was started anew is simply asked
//! again. A relay that is away, dies or hangs is a store that is unavailable, and nothing else is concluded from it.

use crate::frame::{FrameError, Frames};
use crate::message::{Answer, Question, Request};
use crate::{Settings, VERSION};
use policy_model::{InvalidResource, Key, Resource};
use policy_model_datastore::{
    BoxFuture, Datastore, DatastoreError, EventSource, Fault, Listing, Revision, Selection, Version,
    Versioned, Watch, WatchEvent,
};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Why a relay's answer is of no use.
#[derive(Debug, Error)]
enum Useless {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("an object that the relay tells of is invalid")]
    Invalid(#[from] InvalidResource),
    #[error("the relay answers what was not asked")]
    Unasked,
}

/// A store behind a relay. Clones share what is known of it.
#[derive(Clone, Debug)]
pub struct RelayStore {
    path: Arc<PathBuf>,
    settings: Settings,
    /// What the store could not take as an object when it was listed last.
    faults: Arc<Mutex<Vec<Fault>>>,
}

impl RelayStore {
    /// The store that the relay on this socket offers. Nobody is asked yet.
    pub fn new(path: impl AsRef<Path>, settings: Settings) -> Self {
        RelayStore {
            path: Arc::new(path.as_ref().to_owned()),
            settings,
            faults: Arc::default(),
        }
    }

    fn unavailable(&self, operation: &str, why: impl Into<Useless>) -> DatastoreError {
        let operation = format!("{operation} through the relay on {}", self.path.display());
        DatastoreError::unavailable(operation, why.into())
    }

    /// Asks, and returns where the answer will come.
    async fn ask(&self, operation: &str, question: Question) -> Result<Frames, DatastoreError> {
        let asking = async {
            let patience = self.settings.patience;
            let connected = timeout(patience, UnixStream::connect(self.path.as_ref())).await;
            let stream = connected
                .map_err(|_| FrameError::Silent(patience))?
                .map_err(FrameError::Broken)?;
            let mut peer = Frames::new(stream, patience);
            let request = Request {
                version: VERSION,
                question: serde_json::to_value(question).map_err(FrameError::Unknown)?,
            };
            peer.send(&request).await?;
            Ok(peer)
        };
        asking
            .await
            .map_err(|error: FrameError| self.unavailable(operation, error))
    }

    /// The next part of an answer; an error that the store behind the relay gave is given as it is.
    async fn hear(&self, operation: &str, peer: &mut Frames) -> Result<Answer, DatastoreError> {
        match peer.next().await {
            Ok(Answer::Failed(failure)) => Err(failure
                .try_into()
                .unwrap_or_else(|error: InvalidResource| self.unavailable(operation, error))),
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.unavailable(operation, error)),
        }
    }

    async fn answer(&self, operation: &str, question: Question) -> Result<Answer, DatastoreError> {
        let mut peer = self.ask(operation, question).await?;
        self.hear(operation, &mut peer).await
    }

    /// The object that a write made.
    async fn written(&self, operation: &str, question: Question) -> Result<Versioned, DatastoreError> {
        match self.answer(operation, question).await? {
            Answer::Object(Some(told)) => told
                .try_into()
                .map_err(|error: InvalidResource| self.unavailable(operation, error)),
            _ => Err(self.unavailable(operation, Useless::Unasked)),
        }
    }
}

impl Datastore for RelayStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Versioned>, DatastoreError>> {
        Box::pin(async move {
            let operation = format!("read {key}");
            match self
                .answer(&operation, Question::Get { key: key.clone() })
                .await?
            {
                Answer::Object(told) => told
                    .map(Versioned::try_from)
                    .transpose()
                    .map_err(|error| self.unavailable(&operation, error)),
                _ => Err(self.unavailable(&operation, Useless::Unasked)),
            }
        })
    }

    fn list(&self, selection: Selection) -> BoxFuture<'_, Result<Listing, DatastoreError>> {
        Box::pin(async move {
            let operation = "list objects";
            let mut peer = self.ask(operation, Question::List((&selection).into())).await?;
            let mut items = Vec::new();
            loop {
                match self.hear(operation, &mut peer).await? {
                    Answer::Objects(told) => {
                        for told in told {
                            let found = told.try_into();
                            items.push(
                                found.map_err(|error: InvalidResource| self.unavailable(operation, error))?,
                            );
                        }
                    }
                    Answer::End { revision, faults } => {
                        let faults = faults.into_iter().map(Into::into).collect();
                        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
                        let revision = Revision::new(revision);
                        return Ok(Listing { items, revision });
                    }
                    _ => return Err(self.unavailable(operation, Useless::Unasked)),
                }
            }
        })
    }

    fn watch(&self, selection: Selection, from: Revision) -> BoxFuture<'_, Result<Watch, DatastoreError>> {
        Box::pin(async move {
            let operation = "watch objects";
            let of = (&selection).into();
            let mut peer = self
                .ask(operation, Question::Watch { of, from: from.get() })
                .await?;
            match self.hear(operation, &mut peer).await? {
                Answer::Open => Ok(Watch::new(Following {
                    store: self.clone(),
                    peer,
                    waiting: VecDeque::new(),
                })),
                _ => Err(self.unavailable(operation, Useless::Unasked)),
            }
        })
    }

    fn create(&self, resource: Resource) -> BoxFuture<'_, Result<Versioned, DatastoreError>> {
        Box::pin(async move {
            let key = resource.key();
            let resource = resource.to_value();
            let operation = format!("create {key}");
            self.written(&operation, Question::Create { key, resource }).await
        })
    }

    fn update<'a>(
        &'a self,
        resource: Resource,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<Versioned, DatastoreError>> {
        Box::pin(async move {
            let key = resource.key();
            let operation = format!("update {key}");
            let question = Question::Update {
                key,
                resource: resource.to_value(),
                expected: expected.as_str().to_owned(),
            };
            self.written(&operation, question).await
        })
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<(), DatastoreError>> {
        Box::pin(async move {
            let operation = format!("delete {key}");
            let question = Question::Delete {
                key: key.clone(),
                expected: expected.map(|version| version.as_str().to_owned()),
            };
            match self.answer(&operation, question).await? {
                Answer::Done => Ok(()),
                _ => Err(self.unavailable(&operation, Useless::Unasked)),
            }
        })
    }

    /// What was told with the last listing.
    fn faults(&self) -> Vec<Fault> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A watch of the store behind the relay.
struct Following {
    store: RelayStore,
    peer: Frames,
    /// What came and was not yet asked for.
    waiting: VecDeque<WatchEvent>,
}

impl EventSource for Following {
    fn next_batch(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<WatchEvent>, DatastoreError>> {
        Box::pin(async move {
            let operation = "follow objects";
            while self.waiting.is_empty() {
                match self.store.hear(operation, &mut self.peer).await? {
                    Answer::Events(changes) => {
                        let events: Result<Vec<WatchEvent>, _> =
                            changes.into_iter().map(TryInto::try_into).collect();
                        self.waiting
                            .extend(events.map_err(|error: InvalidResource| {
                                self.store.unavailable(operation, error)
                            })?);
                    }
                    Answer::Alive => {}
                    _ => return Err(self.store.unavailable(operation, Useless::Unasked)),
                }
            }
            let number = max.min(self.waiting.len());
            Ok(self.waiting.drain(..number).collect())
        })
    }
}
