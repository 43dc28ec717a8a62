//! What can go wrong on the way to the kernel, each with what the caller can do.

use std::fmt;
use std::io;

use nix::errno::Errno;
use thiserror::Error;

use crate::wire::{Acknowledgement, Malformed, ObservedElement, Operation};

/// A socket could not be opened. Nothing works without it; say it and end.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The kernel gives no netfilter socket.
    #[error("cannot open a netfilter netlink socket")]
    Socket(#[source] io::Error),
    /// The socket gets no port.
    #[error("cannot bind a netfilter netlink socket")]
    Bind(#[source] io::Error),
    /// An option is refused.
    #[error("cannot set {option} on a netfilter netlink socket")]
    Option {
        /// Which option.
        option: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One message of a batch that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The label of the message; none if the batch as a whole is refused (privilege, memory).
    pub label: Option<usize>,
    /// What the message asked for.
    pub operation: Option<Operation>,
    /// Why.
    pub errno: Errno,
    /// The kernel's explanation, if it gives one.
    pub text: Option<String>,
    /// The element that it is about, if it is about one.
    pub element: Option<ObservedElement>,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.operation, self.label) {
            (Some(operation), Some(label)) => write!(formatter, "{operation:?} of step {label}")?,
            _ => formatter.write_str("the batch as a whole")?,
        }
        write!(formatter, ": {}", self.errno)?;
        if let Some(text) = &self.text {
            write!(formatter, " ({text})")?;
        }
        if let Some(key) = self.element.as_ref().and_then(|element| element.key.as_ref()) {
            write!(formatter, " at element {key:?}")?;
        }
        Ok(())
    }
}

/// A batch was not carried out, or nobody knows.
#[derive(Debug, Error)]
pub enum TransactError {
    /// The kernel refused it, and nothing of it is in force. Holds every message that was refused, at least one.
    #[error("the kernel refused the batch: {}", first(.failures))]
    Refused {
        /// The refused messages, in the order of the kernel's answers.
        failures: Vec<Failure>,
    },
    /// Somebody else committed since the generation that the batch was made for; nothing is in force. Read again, plan again.
    #[error("the ruleset has another generation than the batch was made for")]
    Stale,
    /// A message is longer than netlink can say; nothing was sent. A mistake in what was planned.
    #[error("the message of step {label} is longer than 65,535 bytes")]
    TooLong {
        /// The label of the first such message.
        label: usize,
    },
    /// The send buffer cannot be made large enough for the batch; nothing was sent. Split it, or get CAP_NET_ADMIN.
    #[error("a batch of {bytes} bytes does not fit the socket's send buffer")]
    TooLarge {
        /// The batch's size.
        bytes: usize,
    },
    /// It was not sent.
    #[error("cannot send a batch of {bytes} bytes")]
    Send {
        /// The batch's size.
        bytes: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was sent, but the answer was lost: it may be in force or not. Read again.
    #[error("the answer to a batch was lost")]
    Lost(#[source] io::Error),
    /// It was sent, but nothing was answered: it may be in force or not. Read again.
    #[error("the kernel did not answer a batch")]
    NoAnswer,
}

fn first(failures: &[Failure]) -> String {
    match failures {
        [] => "no reason given".to_owned(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first}; and {} more", rest.len()),
    }
}

/// A question was not answered.
#[derive(Debug, Error)]
pub enum DumpError {
    /// It was not sent.
    #[error("cannot send a question to nf_tables")]
    Send(#[source] io::Error),
    /// The answer cannot be read. Ask again.
    #[error("cannot read an answer of nf_tables")]
    Receive(#[source] io::Error),
    /// The kernel refused it; `ENOENT` if the table, chain or set is not there.
    #[error("nf_tables refused a question: {errno}")]
    Refused {
        /// Why.
        errno: Errno,
        /// The kernel's explanation, if it gives one.
        text: Option<String>,
    },
    /// The answer is not what the specification says.
    #[error("nf_tables gave an answer that is not understood")]
    Malformed(#[from] Malformed),
    /// Somebody changed the ruleset each time while it was read. Ask again later.
    #[error("the ruleset changed {times} times while it was read")]
    Interrupted {
        /// How often it was tried.
        times: u32,
    },
    /// Nothing was answered.
    #[error("nf_tables did not answer a question")]
    NoAnswer,
}

impl DumpError {
    pub(crate) fn refused(answer: Acknowledgement) -> Self {
        Self::Refused {
            errno: Errno::from_raw(answer.errno),
            text: answer.text,
        }
    }

    /// Whether what was asked about is not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                errno: Errno::ENOENT,
                ..
            }
        )
    }
}

/// The listening socket failed. Open another one, and read the whole state, since events may be lost.
#[derive(Debug, Error)]
pub enum MonitorError {
    /// It cannot be read.
    #[error("cannot read the events of nf_tables")]
    Receive(#[source] io::Error),
    /// The subscription cannot be changed.
    #[error("cannot change the subscription to the events of nf_tables")]
    Subscribe(#[source] io::Error),
    /// The filter of own events cannot be set.
    #[error("cannot filter the events of nf_tables")]
    Filter(#[source] io::Error),
}
