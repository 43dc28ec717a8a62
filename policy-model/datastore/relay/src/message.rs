//! What a client and a relay say to each other, and how the values of the port are written there.
//!
//! Every kind of error is written as what it is, because callers decide by it: a conflict comes back with the object as it
//! is, and only what stood behind an error (a cause of another library) becomes text.

use policy_model::{FieldError, InvalidResource, Key, Kind, Resource};
use policy_model_datastore::{
    DatastoreError, Fault, Revision, Selection, Source, Version, Versioned, WatchEvent,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::error::Error;
use std::sync::Arc;

/// The first and only message of a client on a connection. Its version is read before the rest is looked at.
#[derive(Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) version: u32,
    pub(crate) question: Value,
}

/// What a client wants.
#[derive(Serialize, Deserialize)]
pub(crate) enum Question {
    Get {
        key: Key,
    },
    List(Wanted),
    Watch {
        of: Wanted,
        from: u64,
    },
    Create {
        key: Key,
        resource: Value,
    },
    Update {
        key: Key,
        resource: Value,
        expected: String,
    },
    Delete {
        key: Key,
        expected: Option<String>,
    },
}

/// What a relay says. One that ends an answer ends the connection.
#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    /// What was asked for or written; ends the answer.
    Object(Option<Told>),
    /// It is done; ends the answer.
    Done,
    /// Some objects of a listing, in its order.
    Objects(Vec<Told>),
    /// All of the listing was told; ends the answer.
    End { revision: u64, faults: Vec<ToldFault> },
    /// The watch is open.
    Open,
    /// What changed.
    Events(Vec<Change>),
    /// Nothing changed, and the watch lives.
    Alive,
    /// It failed; ends the answer.
    Failed(Failure),
}

/// A selection: all kinds that it can match, and its namespace.
#[derive(Serialize, Deserialize)]
pub(crate) struct Wanted {
    kinds: Vec<Kind>,
    namespace: Option<String>,
}

impl From<&Selection> for Wanted {
    fn from(selection: &Selection) -> Self {
        Wanted {
            kinds: selection.selected_kinds().collect(),
            namespace: selection.namespace().map(str::to_owned),
        }
    }
}

impl From<Wanted> for Selection {
    fn from(wanted: Wanted) -> Self {
        let kinds = Selection::kinds(wanted.kinds);
        match wanted.namespace {
            Some(namespace) => kinds.in_namespace(namespace),
            None => kinds,
        }
    }
}

/// An object as a store holds it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Told {
    resource: Value,
    version: String,
    revision: u64,
}

impl From<&Versioned> for Told {
    fn from(found: &Versioned) -> Self {
        Told {
            resource: found.resource.to_value(),
            version: found.version.as_str().to_owned(),
            revision: found.revision.get(),
        }
    }
}

impl TryFrom<Told> for Versioned {
    type Error = InvalidResource;

    fn try_from(told: Told) -> Result<Self, InvalidResource> {
        Ok(Versioned {
            resource: Arc::new(Resource::parse(told.resource)?.resource),
            version: Version::new(told.version),
            revision: Revision::new(told.revision),
        })
    }
}

/// An event of a watch.
#[derive(Serialize, Deserialize)]
pub(crate) enum Change {
    Upsert(Told),
    Delete { key: Key, revision: u64 },
}

impl From<&WatchEvent> for Change {
    fn from(event: &WatchEvent) -> Self {
        match event {
            WatchEvent::Upsert(found) => Change::Upsert(found.into()),
            WatchEvent::Delete { key, revision } => Change::Delete {
                key: key.clone(),
                revision: revision.get(),
            },
        }
    }
}

impl TryFrom<Change> for WatchEvent {
    type Error = InvalidResource;

    fn try_from(change: Change) -> Result<Self, InvalidResource> {
        Ok(match change {
            Change::Upsert(told) => WatchEvent::Upsert(told.try_into()?),
            Change::Delete { key, revision } => WatchEvent::Delete {
                key,
                revision: Revision::new(revision),
            },
        })
    }
}

/// The fields of an object and what is wrong with them.
#[derive(Serialize, Deserialize)]
pub(crate) struct Reasons(Vec<(String, String)>);

impl From<&InvalidResource> for Reasons {
    fn from(error: &InvalidResource) -> Self {
        let reason = |fault: &FieldError| (fault.field.clone(), fault.reason.clone());
        Reasons(error.faults.iter().map(reason).collect())
    }
}

impl From<Reasons> for InvalidResource {
    fn from(reasons: Reasons) -> Self {
        let faults = reasons.0.into_iter();
        InvalidResource {
            faults: faults
                .map(|(field, reason)| FieldError::new(field, reason))
                .collect(),
        }
    }
}

/// Something in the store that is no valid object.
#[derive(Serialize, Deserialize)]
pub(crate) struct ToldFault {
    place: String,
    key: Option<Key>,
    error: Reasons,
    in_force: bool,
}

impl From<&Fault> for ToldFault {
    fn from(fault: &Fault) -> Self {
        let Fault {
            place,
            key,
            error,
            in_force,
        } = fault;
        ToldFault {
            place: place.clone(),
            key: key.clone(),
            error: error.into(),
            in_force: *in_force,
        }
    }
}

impl From<ToldFault> for Fault {
    fn from(told: ToldFault) -> Self {
        let ToldFault {
            place,
            key,
            error,
            in_force,
        } = told;
        let error = error.into();
        Fault {
            place,
            key,
            error,
            in_force,
        }
    }
}

/// What was tried, and why it failed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Trouble {
    operation: String,
    cause: String,
}

/// An error of the port.
#[derive(Serialize, Deserialize)]
pub(crate) enum Failure {
    NotFound { key: Key },
    AlreadyExists { key: Key },
    Conflict { key: Key, current: Told },
    Invalid { place: String, error: Reasons },
    Expired { from: u64, oldest: u64 },
    Unavailable(Trouble),
    Permission(Trouble),
    ReadOnly(Trouble),
    NoSpace(Trouble),
}

/// An error and all that stood behind it, in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl From<&DatastoreError> for Failure {
    fn from(error: &DatastoreError) -> Self {
        let trouble = |operation: &String, source: &Source| Trouble {
            operation: operation.clone(),
            cause: chain(source.as_ref()),
        };
        match error {
            DatastoreError::NotFound { key } => Failure::NotFound { key: key.clone() },
            DatastoreError::AlreadyExists { key } => Failure::AlreadyExists { key: key.clone() },
            DatastoreError::Conflict { key, current } => Failure::Conflict {
                key: key.clone(),
                current: current.as_ref().into(),
            },
            DatastoreError::Invalid { place, error } => Failure::Invalid {
                place: place.clone(),
                error: error.into(),
            },
            DatastoreError::Expired { from, oldest } => Failure::Expired {
                from: from.get(),
                oldest: oldest.get(),
            },
            DatastoreError::Unavailable { operation, source } => {
                Failure::Unavailable(trouble(operation, source))
            }
            DatastoreError::Permission { operation, source } => {
                Failure::Permission(trouble(operation, source))
            }
            DatastoreError::ReadOnly { operation, source } => Failure::ReadOnly(trouble(operation, source)),
            DatastoreError::NoSpace { operation, source } => Failure::NoSpace(trouble(operation, source)),
        }
    }
}

impl TryFrom<Failure> for DatastoreError {
    type Error = InvalidResource;

    fn try_from(failure: Failure) -> Result<Self, InvalidResource> {
        Ok(match failure {
            Failure::NotFound { key } => DatastoreError::NotFound { key },
            Failure::AlreadyExists { key } => DatastoreError::AlreadyExists { key },
            Failure::Conflict { key, current } => DatastoreError::Conflict {
                key,
                current: Box::new(current.try_into()?),
            },
            Failure::Invalid { place, error } => DatastoreError::Invalid {
                place,
                error: error.into(),
            },
            Failure::Expired { from, oldest } => DatastoreError::Expired {
                from: Revision::new(from),
                oldest: Revision::new(oldest),
            },
            Failure::Unavailable(Trouble { operation, cause }) => {
                DatastoreError::unavailable(operation, cause)
            }
            Failure::Permission(Trouble { operation, cause }) => DatastoreError::Permission {
                operation,
                source: cause.into(),
            },
            Failure::ReadOnly(Trouble { operation, cause }) => DatastoreError::ReadOnly {
                operation,
                source: cause.into(),
            },
            Failure::NoSpace(Trouble { operation, cause }) => DatastoreError::NoSpace {
                operation,
                source: cause.into(),
            },
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is the failure itself")]
mod tests {
    use super::*;
    use policy_model::{Object, TierSpec};
    use std::io;

    fn through(error: &DatastoreError) -> DatastoreError {
        let text = serde_json::to_string(&Failure::from(error)).unwrap();
        serde_json::from_str::<Failure>(&text)
            .unwrap()
            .try_into()
            .unwrap()
    }

    #[test]
    fn every_error_stays_what_it_is() {
        let key = Key::global(Kind::Tier, "t");
        let current = Versioned {
            resource: Arc::new(
                Object::named(
                    "t",
                    TierSpec {
                        order: Some(0.1),
                        default_action: None,
                    },
                )
                .into(),
            ),
            version: Version::new("v/1"),
            revision: Revision::new(u64::MAX),
        };
        let operation = || "do this".to_owned();
        let source = || Source::from(io::Error::other(InvalidResource::one("spec", "is odd")));
        let errors = [
            DatastoreError::NotFound { key: key.clone() },
            DatastoreError::AlreadyExists { key: key.clone() },
            DatastoreError::Conflict {
                key,
                current: Box::new(current.clone()),
            },
            DatastoreError::Invalid {
                place: "t".into(),
                error: InvalidResource::one("spec.order", "is no number"),
            },
            DatastoreError::Expired {
                from: Revision::new(1),
                oldest: Revision::new(7),
            },
            DatastoreError::Unavailable {
                operation: operation(),
                source: source(),
            },
            DatastoreError::Permission {
                operation: operation(),
                source: source(),
            },
            DatastoreError::ReadOnly {
                operation: operation(),
                source: source(),
            },
            DatastoreError::NoSpace {
                operation: operation(),
                source: source(),
            },
        ];
        for error in errors {
            let after = through(&error);
            assert_eq!(after.to_string(), error.to_string());
            assert_eq!(std::mem::discriminant(&after), std::mem::discriminant(&error));
            match &after {
                DatastoreError::Conflict { current: told, .. } => assert_eq!(**told, current),
                DatastoreError::Unavailable { source, .. }
                | DatastoreError::Permission { source, .. }
                | DatastoreError::ReadOnly { source, .. }
                | DatastoreError::NoSpace { source, .. } => {
                    assert!(source.to_string().contains("spec: is odd"))
                }
                _ => {}
            }
        }
    }

    #[test]
    fn a_fault_and_a_selection_stay_what_they_are() {
        let fault = Fault {
            place: "/a/b.yaml".into(),
            key: Some(Key::namespaced(Kind::NetworkPolicy, "a", "b")),
            error: InvalidResource::one("spec.order", "is no number"),
            in_force: true,
        };
        let text = serde_json::to_string(&ToldFault::from(&fault)).unwrap();
        assert_eq!(
            Fault::from(serde_json::from_str::<ToldFault>(&text).unwrap()),
            fault
        );
        for selection in [
            Selection::all(),
            Selection::kinds([]),
            Selection::kinds([Kind::Tier, Kind::NetworkPolicy]).in_namespace("a"),
            Selection::all().in_namespace("a"),
        ] {
            let after = Selection::from(Wanted::from(&selection));
            for key in [
                Key::global(Kind::Tier, "t"),
                Key::namespaced(Kind::NetworkPolicy, "a", "b"),
                Key::namespaced(Kind::NetworkPolicy, "c", "b"),
                Key::namespaced(Kind::NetworkSet, "a", "b"),
            ] {
                assert_eq!(
                    after.matches(&key),
                    selection.matches(&key),
                    "{selection:?} {key}"
                );
            }
        }
    }
}
