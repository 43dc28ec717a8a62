//! The caller's side: small, blocking, without credentials.

use crate::protocol::{Answer, Failure, Request, Success, code};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pause between two tries while the node is away.
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no success.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The node answered that it did not do it.
    #[error("{0}")]
    Refused(Failure),
    /// Nobody answered in time: felix does not run on this node, or is stuck. Call again with the same key.
    #[error("felix does not answer at {path} within {seconds} s: {reason}")]
    Away {
        /// The socket.
        path: String,
        /// How long it was tried.
        seconds: u64,
        /// What the last try met.
        reason: String,
    },
}

impl CallError {
    /// The code for the caller's own caller.
    pub fn code(&self) -> u32 {
        match self {
            CallError::Refused(failure) => failure.code,
            CallError::Away { .. } => code::TRY_AGAIN,
        }
    }
}

/// Asks the node, waiting while it is away (a restart, an upgrade), and repeating a request whose answer was lost: the
/// key makes that harmless.
///
/// # Errors
/// See [`CallError`].
pub fn call(socket: &Path, request: &Request, patience: Duration) -> Result<Success, CallError> {
    let deadline = Instant::now() + patience;
    loop {
        let reason = match call_once(socket, request, deadline) {
            Ok(Answer::Ok(success)) => return Ok(success),
            Ok(Answer::Error(failure)) => return Err(CallError::Refused(failure)),
            Err(error) => error.to_string(),
        };
        if Instant::now() + PAUSE >= deadline {
            let path = socket.display().to_string();
            return Err(CallError::Away {
                path,
                seconds: patience.as_secs(),
                reason,
            });
        }
        std::thread::sleep(PAUSE);
    }
}

fn call_once(socket: &Path, request: &Request, deadline: Instant) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    let left = deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))?;
    let mut line = serde_json::to_string(request).map_err(std::io::Error::other)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(std::io::Error::new(
            ErrorKind::UnexpectedEof,
            "the connection was closed without an answer",
        ));
    }
    serde_json::from_str(&answer).map_err(std::io::Error::other)
}
