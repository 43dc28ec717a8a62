//! What an API server's refusals mean in the words of the port.

use policy_model::{FieldError, InvalidResource, Key};
use policy_model_datastore::{DatastoreError, Revision};
use serde::Deserialize;
use std::fmt;

/// An API server's refusal, as it writes it (`Status` of its `meta/v1`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) details: Option<Details>,
}

/// More about a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Details {
    pub(crate) kind: String,
    pub(crate) causes: Vec<Cause>,
    #[serde(rename = "retryAfterSeconds")]
    pub(crate) retry_after_seconds: u32,
}

/// One fault of a refused object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Cause {
    pub(crate) field: String,
    pub(crate) message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = if self.message.is_empty() {
            "it did not say why"
        } else {
            &self.message
        };
        write!(f, "the API server answered {} {}: {said}", self.code, self.reason)
    }
}

impl std::error::Error for Refusal {}

/// Why a request brought no answer that could be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The API server said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It did not answer in time.
    #[error("no answer within {0:?}")]
    Silent(std::time::Duration),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
    /// What it answered is not what the protocol says.
    #[error("the answer cannot be understood: {0}")]
    Unreadable(String),
}

impl RequestError {
    /// The code of a refusal.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            RequestError::Refused(refusal) => Some(refusal.code),
            RequestError::Silent(_) | RequestError::Broken(_) | RequestError::Unreadable(_) => None,
        }
    }

    /// In the words of the port, where nothing is known but what was tried.
    pub(crate) fn during(self, operation: impl Into<String>) -> DatastoreError {
        let operation = operation.into();
        match self {
            RequestError::Refused(refusal) => match refusal.code {
                403 => DatastoreError::Permission {
                    operation,
                    source: Box::new(refusal),
                },
                405 => DatastoreError::ReadOnly {
                    operation,
                    source: Box::new(refusal),
                },
                _ if refusal.message.contains("database space exceeded") => DatastoreError::NoSpace {
                    operation,
                    source: Box::new(refusal),
                },
                // 401 too: a token that has just expired is read anew from its file.
                _ => DatastoreError::unavailable(operation, refusal),
            },
            other => DatastoreError::unavailable(operation, other),
        }
    }

    /// In the words of the port, for an object that was to be written.
    pub(crate) fn writing(self, operation: String, key: &Key) -> DatastoreError {
        match self {
            RequestError::Refused(refusal) if matches!(refusal.code, 400 | 413 | 422) => {
                DatastoreError::Invalid {
                    place: key.to_string(),
                    error: invalid(refusal),
                }
            }
            other => other.during(operation),
        }
    }
}

fn invalid(refusal: Refusal) -> InvalidResource {
    let causes = refusal.details.map(|details| details.causes).unwrap_or_default();
    let faults: Vec<FieldError> = causes
        .into_iter()
        .filter(|cause| !cause.message.is_empty())
        .map(|cause| FieldError::new(cause.field, cause.message))
        .collect();
    if faults.is_empty() {
        InvalidResource::one("", refusal.message)
    } else {
        InvalidResource { faults }
    }
}

/// The error of a watch from a revision that the API server no longer knows.
pub(crate) fn expired(from: u64) -> DatastoreError {
    DatastoreError::Expired {
        from: Revision::new(from),
        // Nobody says how far back the API server's memory reaches; the next moment is always known.
        oldest: Revision::new(from.saturating_add(1)),
    }
}
