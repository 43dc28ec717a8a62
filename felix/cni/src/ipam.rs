//! Drives the address engine against the datastore.

use crate::protocol::{Failure, code};
use policy_model_datastore::{Datastore, DatastoreError, Selection, Version};
use policy_model_ipam::engine::{Answer, Machine, Outcome, Request, Step, Stored, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// Carries a request out.
pub(crate) async fn run(store: &dyn Datastore, request: Request) -> Result<Outcome, Failure> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_micros() as u64);
    let mut machine: Machine<Version> = Machine::new(request, now);
    let mut answer = Answer::Start;
    loop {
        answer = match machine.next(answer) {
            Step::Get(key) => {
                let found = store.get(&key).await.map_err(failure)?;
                Answer::Object(found.map(|v| Stored {
                    resource: v.resource,
                    version: v.version,
                }))
            }
            Step::List(kind) => {
                let listing = store.list(Selection::kinds([kind])).await.map_err(failure)?;
                let stored = listing.items.into_iter();
                Answer::Objects(
                    stored
                        .map(|v| Stored {
                            resource: v.resource,
                            version: v.version,
                        })
                        .collect(),
                )
            }
            Step::Write(write) => carry_out(store, write).await?,
            Step::Done(outcome) => return Ok(outcome),
            Step::Failed(error) => return Err(Failure::new(code::NO_ADDRESS, error)),
        };
    }
}

async fn carry_out(store: &dyn Datastore, write: Write<Version>) -> Result<Answer<Version>, Failure> {
    let result = match write {
        Write::Create { resource } => store
            .create(resource.as_ref().clone())
            .await
            .map(|v| Some(v.version)),
        Write::Update { resource, version } => store
            .update(resource.as_ref().clone(), &version)
            .await
            .map(|v| Some(v.version)),
        Write::Delete { key, version } => store.delete(&key, Some(&version)).await.map(|_| None),
    };
    match result {
        Ok(Some(version)) => Ok(Answer::Written(version)),
        Ok(None) => Ok(Answer::Deleted),
        Err(
            DatastoreError::Conflict { .. }
            | DatastoreError::AlreadyExists { .. }
            | DatastoreError::NotFound { .. },
        ) => Ok(Answer::Conflict),
        Err(error) => Err(failure(error)),
    }
}

pub(crate) fn failure(error: DatastoreError) -> Failure {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Failure::new(code::STORE, text)
}
