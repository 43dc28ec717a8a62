//! The node's side of the socket.

use crate::protocol::{Answer, Failure, Request, code, understands};
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

/// Longest request that is read, in bytes.
const LONGEST_REQUEST: u64 = 64 * 1024;
/// Most connections that are served at once; further ones wait in the socket's queue.
const MOST_CONNECTIONS: usize = 256;
/// How long running requests may take to end after the server was told to stop.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

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
    fn handle(&self, request: Request) -> impl Future<Output = Answer> + Send;
}

/// Serves until `stop` says so, then lets running requests end.
///
/// The socket appears under its name only when it listens, readable by its owner alone. It is never unlinked: a
/// successor has put its own in its place.
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
    let all = places.acquire_many(MOST_CONNECTIONS as u32);
    if tokio::time::timeout(LAST_REQUESTS, all).await.is_err() {
        tracing::warn!("CNI requests were still running when felix stopped; their callers repeat them");
    }
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

async fn serve_one(stream: UnixStream, handler: &impl Handler) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(LONGEST_REQUEST))
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) if understands(request.version) => handler.handle(request).await,
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
    write.write_all(text.as_bytes()).await?;
    write.shutdown().await
}
