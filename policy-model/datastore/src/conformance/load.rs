//! The case under load: whatever several writers do at once, each watcher arrives at the listing.

use super::{Failure, handle, holds, order, same, tier, tier_key};
use crate::{Datastore, DatastoreError, Revision, Selection, WatchEvent};
use policy_model::Key;
use std::collections::BTreeMap;
use std::sync::Arc;

const WRITERS: usize = 4;
const STEPS: usize = 250;
const OBJECTS: u64 = 12;

pub(super) async fn a_watcher_ends_at_the_listing_whatever_happened(
    handles: Vec<Arc<dyn Datastore>>,
) -> Result<(), Failure> {
    random_writers(&handles, WRITERS, STEPS, OBJECTS).await
}

/// Lets writers create, update and delete at random, with a watcher on each handle, and compares the end.
///
/// # Errors
/// The first watcher that missed, repeated or disordered something.
async fn random_writers(
    handles: &[Arc<dyn Datastore>],
    writers: usize,
    steps: usize,
    objects: u64,
) -> Result<(), Failure> {
    let mut watchers = Vec::new();
    for store in handles {
        let listing = store.list(Selection::all()).await?;
        let mut watch = store.watch(Selection::all(), listing.revision).await?;
        watchers.push(tokio::spawn(async move {
            let mut last = listing.revision;
            let mut state: BTreeMap<Key, f64> = BTreeMap::new();
            loop {
                let event = watch.next().await?;
                holds("events come in the order of revisions", event.revision() > last)?;
                last = event.revision();
                match event {
                    WatchEvent::Upsert(v) if v.key() == tier_key("end") => return Ok::<_, Failure>(state),
                    WatchEvent::Upsert(v) => drop(state.insert(v.key(), order(&v.resource))),
                    WatchEvent::Delete { key, .. } => drop(state.remove(&key)),
                }
            }
        }));
    }
    let tasks: Vec<_> = (0..writers)
        .map(|n| {
            let store = handle(handles, n);
            tokio::spawn(async move { write_at_random(store?.as_ref(), n as u64, steps, objects).await })
        })
        .collect();
    for task in tasks {
        task.await.map_err(Failure::new)??;
    }
    let store = handle(handles, 0)?;
    let listing = store.list(Selection::all()).await?;
    let expected: BTreeMap<Key, f64> = listing
        .items
        .iter()
        .map(|v| (v.key(), order(&v.resource)))
        .collect();
    store.create(tier("end", 1.0)).await?;
    for watcher in watchers {
        same(
            "the watcher's end",
            watcher.await.map_err(Failure::new)??,
            expected.clone(),
        )?;
    }
    Ok(())
}

async fn write_at_random(
    store: &dyn Datastore,
    writer: u64,
    steps: usize,
    objects: u64,
) -> Result<(), Failure> {
    // A fixed generator: the interleaving is random enough, and a failure can be looked at again.
    let mut state = writer.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut last: BTreeMap<String, Revision> = BTreeMap::new();
    for step in 0..steps {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let name = format!("t{}", state % objects);
        let content = (writer as f64) * 1e6 + step as f64;
        let result = match (state >> 32) % 4 {
            0 => store.delete(&tier_key(&name), None).await.map(|()| None),
            1 => store.create(tier(&name, content)).await.map(Some),
            _ => match store.get(&tier_key(&name)).await? {
                Some(current) => store
                    .update(tier(&name, content), &current.version)
                    .await
                    .map(Some),
                None => store.create(tier(&name, content)).await.map(Some),
            },
        };
        match result {
            Ok(Some(written)) => {
                let before = last.insert(name, written.revision);
                holds(
                    "the revisions of an object grow",
                    before.is_none_or(|b| b < written.revision),
                )?;
            }
            Ok(None)
            | Err(
                DatastoreError::NotFound { .. }
                | DatastoreError::AlreadyExists { .. }
                | DatastoreError::Conflict { .. },
            ) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
