//! An answer that does not end: cut into messages as its bytes come in.

use crate::failure::RequestError;
use http_body_util::BodyExt;
use kube::client::Body;
use std::ops::Range;
use std::time::Duration;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// One JSON text a line.
    Json,
    /// Kubernetes' binary form, each message behind its length in four bytes.
    Binary,
}

/// No object of an API server is near this size; a message that claims to be is none.
const LARGEST_MESSAGE: usize = 64 << 20;

/// The answer to a watch.
pub(crate) struct Stream {
    body: Body,
    format: Format,
    buffer: Vec<u8>,
    /// Where the messages begin that were not given out yet.
    start: usize,
    /// Up to where a line's end was looked for.
    searched: usize,
}

impl Stream {
    pub(crate) fn new(body: Body, format: Format) -> Self {
        Stream {
            body,
            format,
            buffer: Vec::new(),
            start: 0,
            searched: 0,
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Gives back the memory that a burst of messages took.
    pub(crate) fn shrink(&mut self) {
        self.advance();
        self.buffer.shrink_to_fit();
    }

    /// Forgets what was given out.
    fn advance(&mut self) {
        self.buffer.drain(..self.start);
        self.searched = self.searched.saturating_sub(self.start);
        self.start = 0;
    }

    /// The next message, or nothing at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The connection broke, was silent for this long, or carries something else.
    pub(crate) async fn next(&mut self, silence: Duration) -> Result<Option<&[u8]>, RequestError> {
        loop {
            if let Some(range) = self.whole()? {
                return Ok(self.buffer.get(range));
            }
            self.advance();
            let frame = tokio::time::timeout(silence, self.body.frame()).await;
            match frame.map_err(|_| RequestError::Silent(silence))? {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.buffer.extend_from_slice(&bytes);
                    }
                }
                Some(Err(error)) => return Err(RequestError::Broken(error.into())),
                // What was cut off in the middle is no message.
                None => return Ok(None),
            }
        }
    }

    /// The next message that is there as a whole; it then counts as given out.
    fn whole(&mut self) -> Result<Option<Range<usize>>, RequestError> {
        let range = match self.format {
            Format::Json => self.line(),
            Format::Binary => self.framed()?,
        };
        if self.buffer.len() - self.start > LARGEST_MESSAGE && range.is_none() {
            return Err(RequestError::Unreadable("a message without an end".into()));
        }
        Ok(range)
    }

    fn line(&mut self) -> Option<Range<usize>> {
        let from = self.searched.max(self.start);
        let Some(end) = self.buffer.get(from..)?.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let range = self.start..from + end;
        self.start = range.end + 1;
        self.searched = self.start;
        Some(range)
    }

    fn framed(&mut self) -> Result<Option<Range<usize>>, RequestError> {
        let Some(Ok(length)) = self
            .buffer
            .get(self.start..self.start + 4)
            .map(<[u8; 4]>::try_from)
        else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(length) as usize;
        if length > LARGEST_MESSAGE {
            return Err(RequestError::Unreadable(format!("a message of {length} bytes")));
        }
        let range = self.start + 4..self.start + 4 + length;
        if range.end > self.buffer.len() {
            return Ok(None);
        }
        self.start = range.end;
        Ok(Some(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(format: Format) -> Stream {
        Stream::new(Body::empty(), format)
    }

    proptest! {
        /// However the network cuts the bytes, the messages are the same.
        #[test]
        fn messages_do_not_depend_on_how_their_bytes_arrive(
            messages in proptest::collection::vec(proptest::collection::vec(11u8..=255, 0..40), 0..12),
            cuts in proptest::collection::vec(1usize..23, 1..20),
            binary in any::<bool>(),
        ) {
            let format = if binary { Format::Binary } else { Format::Json };
            let mut wire = Vec::new();
            for message in &messages {
                if binary {
                    wire.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
                    wire.extend_from_slice(message);
                } else {
                    wire.extend_from_slice(message);
                    wire.push(b'\n');
                }
            }
            let mut stream = stream(format);
            let mut found: Vec<Vec<u8>> = Vec::new();
            let mut rest = wire.as_slice();
            for cut in cuts.iter().cycle() {
                while let Ok(Some(range)) = stream.whole() {
                    found.push(stream.buffer.get(range).unwrap_or_default().to_vec());
                }
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                stream.buffer.extend_from_slice(now);
                rest = later;
            }
            prop_assert_eq!(found, messages);
        }
    }

    #[test]
    fn a_length_that_nothing_has_is_refused() {
        let mut stream = stream(Format::Binary);
        stream.buffer = vec![0xff; 8];
        assert!(stream.whole().is_err());
    }
}
