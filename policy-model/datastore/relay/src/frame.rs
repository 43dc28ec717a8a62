//! Messages on a stream: the length of each in four bytes, then its JSON.
//!
//! Reading keeps what it has between two calls, so that a wait that is dropped loses nothing. What the other side says is
//! not trusted: a length is believed only up to a bound, and memory is taken for bytes that came, not for bytes announced.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// The longest message, in bytes: more than any object that a store takes, and little enough to hold for each peer.
const LONGEST: usize = 8 << 20;
/// Bytes of a length.
const HEADER: usize = 4;
/// Room for one read, in bytes.
const ROOM: usize = 64 << 10;

/// Why a message did not come or go.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    /// The connection does not work.
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    /// The other side is gone.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side said or took nothing.
    #[error("the other side has been silent for {0:?}")]
    Silent(Duration),
    /// A message is longer than any may be.
    #[error("a message of {0} bytes is more than {LONGEST}")]
    TooLong(usize),
    /// A message is none of ours.
    #[error("a message cannot be understood")]
    Unknown(#[from] serde_json::Error),
}

/// A connection on which messages go both ways.
#[derive(Debug)]
pub(crate) struct Frames {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    /// What came and is not yet taken.
    buffer: Vec<u8>,
    patience: Duration,
}

impl Frames {
    pub(crate) fn new(stream: UnixStream, patience: Duration) -> Self {
        let (reader, writer) = stream.into_split();
        Frames {
            reader,
            writer,
            buffer: Vec::new(),
            patience,
        }
    }

    /// Waits for the next message. Dropping the future loses nothing.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message);
            }
            self.buffer.reserve(ROOM);
            let read = timeout(self.patience, self.reader.read_buf(&mut self.buffer)).await;
            if read.map_err(|_| FrameError::Silent(self.patience))?? == 0 {
                return Err(FrameError::Closed);
            }
        }
    }

    /// The next message, if it is there already as a whole.
    pub(crate) fn buffered<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if length > LONGEST {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body)?;
        self.buffer.drain(..HEADER + length);
        Ok(Some(message))
    }

    /// Sends a message. What was begun must be ended: after a dropped future nothing more may be sent.
    pub(crate) async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), FrameError> {
        let mut bytes = vec![0; HEADER];
        serde_json::to_writer(&mut bytes, message)?;
        let length = bytes.len() - HEADER;
        let header = u32::try_from(length)
            .ok()
            .filter(|_| length <= LONGEST)
            .ok_or(FrameError::TooLong(length))?;
        if let Some(room) = bytes.first_chunk_mut::<HEADER>() {
            *room = header.to_be_bytes();
        }
        match timeout(self.patience, self.writer.write_all(&bytes)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(FrameError::Silent(self.patience)),
        }
    }

    /// Waits until the other side is gone, or says something where it has nothing to say. Dropping the future loses nothing
    /// that matters then.
    pub(crate) async fn ended(&mut self) {
        let _ = self.reader.read(&mut [0]).await;
    }
}
