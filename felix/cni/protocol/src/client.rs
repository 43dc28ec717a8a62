//! The caller's side: small, blocking, without credentials.

use crate::words::{Answer, Failure, Request, Success, code};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::{BufRead, BufReader, ErrorKind, IoSlice, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
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

/// Asks the node, waiting while it is away (a restart, an upgrade), and repeating a request whose answer was lost or is
/// to be tried again: the key makes that harmless.
///
/// # Errors
/// See [`CallError`].
pub fn call(socket: &Path, request: &Request, patience: Duration) -> Result<Success, CallError> {
    call_with(socket, request, &[], patience)
}

/// Asks the node as [`call`] does, and hands descriptors over; [`Request::descriptors`] says what they are.
///
/// # Errors
/// See [`CallError`].
pub fn call_with(
    socket: &Path,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
    patience: Duration,
) -> Result<Success, CallError> {
    let deadline = Instant::now() + patience;
    loop {
        let answer = call_once(socket, request, descriptors, deadline);
        let is_last = Instant::now() + PAUSE >= deadline;
        match answer {
            Ok(Answer::Ok(success)) => return Ok(success),
            // A felix that is about to stop says so; its successor will answer.
            Ok(Answer::Error(failure)) if failure.code != code::TRY_AGAIN || is_last => {
                return Err(CallError::Refused(failure));
            }
            Err(error) if is_last => {
                return Err(CallError::Away {
                    path: socket.display().to_string(),
                    seconds: patience.as_secs(),
                    reason: error.to_string(),
                });
            }
            Ok(Answer::Error(_)) | Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn call_once(
    socket: &Path,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
    deadline: Instant,
) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    let left = deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))?;
    let mut line = serde_json::to_vec(request).map_err(std::io::Error::other)?;
    line.push(b'\n');
    let sent = if descriptors.is_empty() {
        0
    } else {
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        // They go with the first byte; whatever is not sent at once follows without them.
        sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(&line)],
            &[ControlMessage::ScmRights(&numbers)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?
    };
    stream.write_all(line.get(sent..).unwrap_or_default())?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => {
                std::io::Error::new(ErrorKind::TimedOut, "it took the request and did not end it")
            }
            _ => error,
        })?;
    if answer.is_empty() {
        return Err(std::io::Error::new(
            ErrorKind::UnexpectedEof,
            "the connection was closed without an answer",
        ));
    }
    serde_json::from_str(&answer).map_err(std::io::Error::other)
}
