//! What can go wrong when the kernel is asked for something, each error naming the operation and its object.
//!
//! A line such as `add route 10.0.0.5/32 dev cali123: file exists` has to be enough for an operator to see
//! what was tried on what; a bare "file exists" is not.

use std::io;

use nix::errno::Errno;

/// The kernel's refusal of one request: the error number and, where it gave one, its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error number, positive.
    pub errno: Errno,
    /// The kernel's explanation (extended acknowledgement), where it gave one.
    pub explanation: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.errno.desc();
        let mut letters = text.chars();
        if let Some(first) = letters.next() {
            write!(formatter, "{}{}", first.to_lowercase(), letters.as_str())?;
        }
        match &self.explanation {
            Some(explanation) => write!(formatter, " ({explanation})"),
            None => Ok(()),
        }
    }
}

/// A failed conversation with the kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The socket could not be made. The process lacks a privilege or the kernel lacks the protocol.
    #[error("open a {protocol} netlink socket")]
    Open {
        /// The netlink protocol by its usual name.
        protocol: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel understood the request and refused it.
    #[error("{operation}: {refusal}")]
    Refused {
        /// What was tried, on which object.
        operation: String,
        /// Why the kernel would not.
        refusal: Refusal,
    },
    /// Sending or receiving failed. The state of the object is unknown: observe it again.
    #[error("{operation}: the netlink socket failed")]
    Socket {
        /// What was tried, on which object.
        operation: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel did not answer. The state of the object is unknown: observe it again.
    #[error("{operation}: the kernel did not answer within {time:?}")]
    Timeout {
        /// What was tried, on which object.
        operation: String,
        /// How long the answer was waited for.
        time: std::time::Duration,
    },
    /// A list was changed by others so often while it was read that no consistent reading succeeded.
    #[error("{operation}: the list changed during each of {tries} readings")]
    Interrupted {
        /// What was tried, on which object.
        operation: String,
        /// How often it was read.
        tries: u32,
    },
    /// The answer has a shape that the protocol does not allow.
    #[error("{operation}: the kernel's answer cannot be read: {problem}")]
    Malformed {
        /// What was tried, on which object.
        operation: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The object is not ours, so it was left alone.
    #[error("{operation}: {object} is not ours: {reason}")]
    Foreign {
        /// What was tried.
        operation: String,
        /// The object in the way.
        object: String,
        /// How it is known to be another's.
        reason: String,
    },
}

impl NetlinkError {
    /// Returns the kernel's error number, if the kernel refused the request.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.errno),
            Self::Socket { source, .. } | Self::Open { source, .. } => {
                source.raw_os_error().map(Errno::from_raw)
            }
            Self::Timeout { .. }
            | Self::Interrupted { .. }
            | Self::Malformed { .. }
            | Self::Foreign { .. } => None,
        }
    }

    /// Whether the object that a removal aimed at is not there: for a removal that is success.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. } if refusal_is_absent(refusal))
    }

    /// Whether an object is already there under the same key.
    pub fn is_present(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. } if refusal.errno == Errno::EEXIST)
    }
}

/// Whether a refusal says that the object, or the interface that carried it, does not exist.
pub(crate) fn refusal_is_absent(refusal: &Refusal) -> bool {
    matches!(
        refusal.errno,
        Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENXIO
    )
}

/// Returns an error with all of its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_operation_object_and_reason() {
        let error = NetlinkError::Refused {
            operation: "add route 10.0.0.5/32 dev cali123".into(),
            refusal: Refusal {
                errno: Errno::EEXIST,
                explanation: None,
            },
        };
        assert_eq!(
            error.to_string(),
            "add route 10.0.0.5/32 dev cali123: file exists"
        );
        assert!(error.is_present());
        assert!(!error.is_absent());
    }

    #[test]
    fn the_kernels_own_words_are_kept() {
        let refusal = Refusal {
            errno: Errno::EINVAL,
            explanation: Some("Nexthop has invalid gateway".into()),
        };
        assert_eq!(
            refusal.to_string(),
            "invalid argument (Nexthop has invalid gateway)"
        );
    }
}
