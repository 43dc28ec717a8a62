//! The node's side of the socket.

use crate::protocol::{Answer, Failure, MOST_DESCRIPTORS, NAMESPACE, NETLINK, Request, code, understands};
use felix_cni_protocol::{AttachmentKey, Command, spool};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::future::Future;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

/// Longest request that is read, in bytes: a collection names every sandbox of the node.
const LONGEST_REQUEST: usize = 4 * 1024 * 1024;
/// How long a caller may take to say what it wants.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// Most connections that are served at once; further ones wait in the socket's queue.
const MOST_CONNECTIONS: usize = 256;
/// How long running requests may take to end after the server was told to stop.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
/// Pause before what an earlier life left to do is tried again.
const SETTLE_PAUSE: Duration = Duration::from_secs(1);
/// Pause between two looks for removals that were noted down.
const LATER_LOOK: Duration = Duration::from_secs(5);
/// How often a caller that waits is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// The socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("opening the CNI socket {path}")]
pub struct ServerError {
    /// Path of the socket.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// Does what is asked.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. The same request may come again, also while the first is still running.
    fn handle(&self, request: Request, caller: Caller) -> impl Future<Output = Answer> + Send;

    /// Does what an earlier life left to do, and says whether all of it is done; if not, it is asked again.
    fn settle(&self) -> impl Future<Output = bool> + Send {
        async { true }
    }

    /// Works beside the requests, for as long as these are answered. Dropped at the end.
    fn run(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Does what is left to do once no request is running any more.
    fn finish(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Who asks, and what was handed over with the request.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    stream: Option<Arc<UnixStream>>,
    /// The sandbox's network namespace.
    pub namespace: Option<Arc<OwnedFd>>,
    /// A netlink socket that was opened inside it.
    pub netlink: Option<Arc<OwnedFd>>,
}

impl Caller {
    /// Whether nobody waits for the answer any more: the caller was killed or lost patience.
    pub fn is_gone(&self) -> bool {
        let Some(stream) = &self.stream else { return false };
        let mut polled = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        // A caller that has only said that it writes no more still waits; hung up is both directions.
        matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1..))
            && polled[0].revents().is_some_and(|seen| {
                seen.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL)
            })
    }

    /// Waits until nobody waits for the answer any more.
    pub async fn gone(&self) {
        while !self.is_gone() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Serves until `stop` says so, then lets running requests end.
///
/// The socket appears under its name only when it listens, readable by its owner alone. It is never unlinked: a
/// successor has put its own in its place. Removals that were noted down while nobody listened are carried out
/// meanwhile.
///
/// # Errors
/// The folder or the socket cannot be made.
pub async fn serve(
    path: &Path,
    handler: Arc<impl Handler>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ServerError> {
    let listener = bind(path).map_err(|source| ServerError {
        path: path.to_path_buf(),
        source,
    })?;
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let settling = tokio::spawn(settle(spool::folder(path), handler.clone()));
    let working = tokio::spawn({
        let handler = handler.clone();
        async move { handler.run().await }
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|s| *s) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely; those in use are given back soon.
                tracing::warn!(%error, "cannot accept a CNI request");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().acquire_owned().await else {
            break;
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            if let Err(error) = serve_one(stream, handler.as_ref()).await {
                tracing::debug!(%error, "a CNI caller went away");
            }
            drop(place);
        });
    }
    settling.abort();
    let all = places.acquire_many(MOST_CONNECTIONS as u32);
    if tokio::time::timeout(LAST_REQUESTS, all).await.is_err() {
        tracing::warn!("CNI requests were still running when felix stopped; their callers repeat them");
    }
    working.abort();
    // Whatever it was in the middle of has ended when this returns.
    let _ = working.await;
    handler.finish().await;
    Ok(())
}

fn bind(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temporary, path)?;
    Ok(listener)
}

/// Does what was left to do, and goes on looking: a caller may note a removal down at the very moment at which the socket
/// appears, and one whose felix is stuck does so later.
async fn settle(folder: PathBuf, handler: Arc<impl Handler>) {
    let mut is_settled = false;
    loop {
        is_settled = is_settled || handler.settle().await;
        let are_carried_out = carry_out_notes(&folder, handler.as_ref()).await;
        let pause = if is_settled && are_carried_out {
            LATER_LOOK
        } else {
            SETTLE_PAUSE
        };
        tokio::time::sleep(pause).await;
    }
}

/// Carries out the removals that were noted down; says whether none is left.
async fn carry_out_notes(folder: &Path, handler: &impl Handler) -> bool {
    let keys = match spool::notes(folder) {
        Ok(keys) => keys,
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "cannot read which removals were noted down");
            return false;
        }
    };
    let mut are_all_done = true;
    for key in keys {
        are_all_done &= carry_out_note(folder, key, handler).await;
    }
    are_all_done
}

async fn carry_out_note(folder: &Path, key: AttachmentKey, handler: &impl Handler) -> bool {
    let request = Request::new(Command::Del { key: key.clone() });
    match handler.handle(request, Caller::default()).await {
        Answer::Ok(_) => match spool::withdraw(folder, &key) {
            Ok(()) => {
                tracing::info!(%key, "removed what was to be removed while felix was away");
                true
            }
            Err(error) => {
                tracing::warn!(%key, %error, "cannot take back the note of a removal");
                false
            }
        },
        Answer::Error(failure) => {
            tracing::warn!(%key, %failure, "a removal that was noted down is tried again");
            false
        }
    }
}

async fn serve_one(mut stream: UnixStream, handler: &impl Handler) -> std::io::Result<()> {
    let received = tokio::time::timeout(REQUEST_TIME, receive(&stream)).await;
    let (line, descriptors) =
        received.map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, "no request came"))??;
    let answer = match serde_json::from_slice::<Request>(&line) {
        Ok(request) if understands(request.version) => {
            let shared = Arc::new(stream);
            let mut caller = Caller {
                stream: Some(shared.clone()),
                ..Caller::default()
            };
            for (name, descriptor) in request.descriptors.iter().zip(descriptors) {
                match name.as_str() {
                    NAMESPACE => caller.namespace = Some(Arc::new(descriptor)),
                    NETLINK => caller.netlink = Some(Arc::new(descriptor)),
                    _ => {}
                }
            }
            let answer = handler.handle(request, caller).await;
            let Some(whole) = Arc::into_inner(shared) else {
                return Err(std::io::Error::other("the caller is still asked about"));
            };
            stream = whole;
            answer
        }
        Ok(request) => Answer::Error(Failure::new(
            code::INCOMPATIBLE_VERSION,
            format!(
                "protocol version {} is not understood; this node speaks {}",
                request.version,
                crate::protocol::VERSION
            ),
        )),
        Err(error) => Answer::Error(Failure::new(
            code::INVALID_REQUEST,
            format!("cannot read the request: {error}"),
        )),
    };
    let mut text = serde_json::to_string(&answer).map_err(std::io::Error::other)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// Reads one line and the descriptors that come with it.
async fn receive(stream: &UnixStream) -> std::io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut descriptors = Vec::new();
    while line.len() < LONGEST_REQUEST {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || {
            receive_part(stream, &mut line, &mut descriptors)
        }) {
            Ok(0) => break,
            Ok(_) if line.contains(&b'\n') => break,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    if let Some(end) = line.iter().position(|b| *b == b'\n') {
        line.truncate(end);
    }
    Ok((line, descriptors))
}

fn receive_part(
    stream: &UnixStream,
    line: &mut Vec<u8>,
    descriptors: &mut Vec<OwnedFd>,
) -> std::io::Result<usize> {
    let mut buffer = [0; 16 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(handed) = message {
            descriptors.extend(handed);
        }
    }
    line.extend_from_slice(buffer.get(..received.bytes).unwrap_or_default());
    Ok(received.bytes)
}
