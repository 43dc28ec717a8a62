//! A store, offered on a Unix socket: every request is the store's to answer, and one connection is one request.

use crate::frame::{FrameError, Frames};
use crate::message::{Answer, Question, Request};
use crate::{Settings, VERSION};
use policy_model::{Key, Resource};
use policy_model_datastore::{Datastore, DatastoreError, Listing, Revision, Selection, Version};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

/// How many requests are answered at once, watches among them; more wait.
const CONNECTIONS: usize = 1024;
/// How many objects or events one message has at most.
const PIECE: usize = 64;
/// Pause before the next connection is taken where one could not be: no room for more is a matter of time.
const PAUSE: Duration = Duration::from_millis(100);

/// Why there is no relay.
#[derive(Debug, Error)]
pub enum RelayError {
    /// The socket cannot be made.
    #[error("cannot listen on {}: {source}; may this user write to that folder?", path.display())]
    Listen {
        /// Where it was to be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A store that is offered.
pub struct Relay {
    listener: UnixListener,
    store: Arc<dyn Datastore>,
    settings: Settings,
}

impl Relay {
    /// Makes the socket, which only its owner can open. Whoever listened at this path before is not reached there any more.
    ///
    /// # Errors
    /// [`RelayError::Listen`].
    pub fn bind(path: &Path, store: Arc<dyn Datastore>, settings: Settings) -> Result<Relay, RelayError> {
        let failed = |source| RelayError::Listen {
            path: path.to_owned(),
            source,
        };
        // The name appears when the socket is closed to others and somebody listens.
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let listener = UnixListener::bind(&beside).map_err(failed)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        std::fs::rename(&beside, path).map_err(failed)?;
        Ok(Relay {
            listener,
            store,
            settings,
        })
    }

    /// Answers until the future is dropped.
    pub async fn serve(self) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // Nobody closes it.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (store, settings) = (Arc::clone(&self.store), self.settings.clone());
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, store.as_ref(), &settings).await {
                            tracing::debug!("a client was not answered to the end: {error}");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!("no client can be taken: {error}; it is tried again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn converse(stream: UnixStream, store: &dyn Datastore, settings: &Settings) -> Result<(), FrameError> {
    let mut peer = Frames::new(stream, settings.patience);
    let request: Request = peer.next().await?;
    let question = match serde_json::from_value(request.question) {
        Ok(question) if request.version == VERSION => question,
        _ => {
            let cause = format!(
                "version {VERSION} is spoken here, and version {} there",
                request.version
            );
            let error = DatastoreError::unavailable("understand what is asked of the relay", cause);
            return peer.send(&Answer::Failed((&error).into())).await;
        }
    };
    let answered = match question {
        Question::Get { key } => store
            .get(&key)
            .await
            .map(|found| Answer::Object(found.as_ref().map(Into::into))),
        Question::Create { key, resource } => {
            async {
                let made = store.create(parse(&key, resource)?).await?;
                Ok(Answer::Object(Some((&made).into())))
            }
            .await
        }
        Question::Update {
            key,
            resource,
            expected,
        } => {
            async {
                let written = store
                    .update(parse(&key, resource)?, &Version::new(expected))
                    .await?;
                Ok(Answer::Object(Some((&written).into())))
            }
            .await
        }
        Question::Delete { key, expected } => {
            let expected = expected.map(Version::new);
            store.delete(&key, expected.as_ref()).await.map(|()| Answer::Done)
        }
        Question::List(wanted) => match store.list(wanted.into()).await {
            Ok(listing) => return list(&mut peer, store, listing).await,
            Err(error) => Err(error),
        },
        Question::Watch { of, from } => {
            follow(&mut peer, store, of.into(), Revision::new(from), settings.beat).await?
        }
    };
    let answer = answered.unwrap_or_else(|error: DatastoreError| Answer::Failed((&error).into()));
    match peer.send(&answer).await {
        // The client need not wait for its patience to end.
        Err(FrameError::TooLong(bytes)) => {
            let cause = format!("the answer of {bytes} bytes is longer than any may be");
            let error = DatastoreError::unavailable("pass an object on", cause);
            peer.send(&Answer::Failed((&error).into())).await
        }
        sent => sent,
    }
}

/// The object as a store takes it. What is none is refused in the store's own words: nobody else decides what is valid.
fn parse(key: &Key, resource: serde_json::Value) -> Result<Resource, DatastoreError> {
    let parsed = Resource::parse(resource).map_err(|error| DatastoreError::Invalid {
        place: key.to_string(),
        error,
    })?;
    Ok(parsed.resource)
}

/// Tells a listing in pieces.
async fn list(peer: &mut Frames, store: &dyn Datastore, listing: Listing) -> Result<(), FrameError> {
    for piece in listing.items.chunks(PIECE) {
        let told = piece.iter().map(Into::into).collect();
        peer.send(&Answer::Objects(told)).await?;
    }
    let faults = store.faults().iter().map(Into::into).collect();
    let revision = listing.revision.get();
    peer.send(&Answer::End { revision, faults }).await
}

/// Tells what changes until the client goes or the store's watch ends; how it ended is the last word.
async fn follow(
    peer: &mut Frames,
    store: &dyn Datastore,
    selection: Selection,
    from: Revision,
    beat: Duration,
) -> Result<Result<Answer, DatastoreError>, FrameError> {
    let mut watch = match store.watch(selection, from).await {
        Ok(watch) => watch,
        Err(error) => return Ok(Err(error)),
    };
    peer.send(&Answer::Open).await?;
    let mut beat = tokio::time::interval(beat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let answer = tokio::select! {
            events = watch.next_batch(PIECE) => match events {
                Ok(events) => Answer::Events(events.iter().map(Into::into).collect()),
                Err(error) => return Ok(Err(error)),
            },
            _ = beat.tick() => Answer::Alive,
            () = peer.ended() => return Err(FrameError::Closed),
        };
        peer.send(&answer).await?;
    }
}
