//! Drives the address engine: what it asks for comes from the node's view where that is good enough, and what it writes
//! goes to the datastore.

use crate::protocol::{Failure, code};
use crate::shortage::explained;
use crate::view::ClusterView;
use policy_model::{Key, Kind};
use policy_model_datastore::{Datastore, DatastoreError, Selection, Version, Versioned};
use policy_model_ipam::IpamError;
use policy_model_ipam::engine::{Answer, Machine, Outcome, Request, Step, Stored, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The datastore did not do its part; what was written may or may not be there.
    #[error(transparent)]
    Store(#[from] DatastoreError),
    /// Address management refused.
    #[error(transparent)]
    Refused(#[from] IpamError),
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Store(error) => failure(&error),
            RequestError::Refused(error) => Failure::new(code::NO_ADDRESS, explained(&error)),
        }
    }
}

/// Carries a request out.
pub(crate) async fn run(
    store: &dyn Datastore,
    view: &ClusterView,
    request: Request,
) -> Result<Outcome, RequestError> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_micros() as u64);
    // A record concerns the blocks of its addresses only; a large cluster has thousands of others.
    let of_record = match &request {
        Request::Record(record) => {
            let given = record.given.iter().map(|given| given.address);
            Some(
                given
                    .chain(record.freed.iter().map(|target| target.address))
                    .collect::<Vec<_>>(),
            )
        }
        _ => None,
    };
    let mut machine: Machine<Version> = Machine::new(request, now);
    let mut answer = Answer::Start;
    loop {
        answer = match machine.next(answer) {
            Step::Get(key) => Answer::Object(get(store, view, &key).await?.map(stored)),
            Step::List(kind) => {
                let known = match &of_record {
                    Some(addresses) if kind == Kind::IPAMBlock => view.current_blocks_with(addresses),
                    _ => view.current(kind),
                };
                Answer::Objects(match known {
                    Some(all) => all,
                    None => {
                        let all = store.list(Selection::kinds([kind])).await?.items;
                        all.into_iter().map(stored).collect()
                    }
                })
            }
            Step::Write(write) => carry_out(store, view, write).await?,
            Step::Done(outcome) => return Ok(outcome),
            Step::Failed(error) => return Err(error.into()),
        };
    }
}

async fn get(
    store: &dyn Datastore,
    view: &ClusterView,
    key: &Key,
) -> Result<Option<Versioned>, DatastoreError> {
    // Settings are read for what they say and never written here; everything else is read to be written.
    if key.kind == Kind::IPAMConfig && view.current(key.kind).is_some() {
        return Ok(view.get(key));
    }
    let found = store.get(key).await?;
    match &found {
        Some(versioned) => view.note(versioned),
        None => view.note_deleted(key),
    }
    Ok(found)
}

fn stored(versioned: Versioned) -> Stored<Version> {
    Stored::whole(versioned.resource, versioned.version)
}

async fn carry_out(
    store: &dyn Datastore,
    view: &ClusterView,
    write: Write<Version>,
) -> Result<Answer<Version>, DatastoreError> {
    let key = write.key();
    let result = match write {
        Write::Create { resource } => store.create(resource.as_ref().clone()).await.map(Some),
        Write::Update { resource, version } => {
            store.update(resource.as_ref().clone(), &version).await.map(Some)
        }
        Write::Delete { key, version } => store.delete(&key, Some(&version)).await.map(|()| None),
    };
    match result {
        Ok(Some(written)) => {
            view.note(&written);
            Ok(Answer::Written(written.version))
        }
        Ok(None) => {
            view.note_deleted(&key);
            Ok(Answer::Deleted)
        }
        Err(
            DatastoreError::Conflict { .. }
            | DatastoreError::AlreadyExists { .. }
            | DatastoreError::NotFound { .. },
        ) => Ok(Answer::Conflict),
        Err(error) => Err(error),
    }
}

pub(crate) fn failure(error: &DatastoreError) -> Failure {
    Failure::new(code::STORE, crate::interface::text(error))
}
