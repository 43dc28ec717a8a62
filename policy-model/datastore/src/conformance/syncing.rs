//! Cases about the syncer on top of an adapter.

use super::{Failure, handle, order, same, tier, tier_key};
use crate::{BackOff, Datastore, Selection, SyncEvent, SyncStatus, Syncer};
use std::sync::Arc;

type Handles = Vec<Arc<dyn Datastore>>;

/// An event without its versions, so that it can be written down.
fn short(event: &SyncEvent) -> String {
    match event {
        SyncEvent::Upsert(v) => format!("{} {}", v.resource.metadata().name, order(&v.resource)),
        SyncEvent::Delete(key) => format!("-{}", key.name),
        SyncEvent::InSync => "in sync".into(),
        SyncEvent::Status(SyncStatus::WaitForDatastore) => "wait".into(),
        SyncEvent::Status(SyncStatus::ResyncInProgress) => "resync".into(),
        SyncEvent::Status(SyncStatus::InSync) => "status in sync".into(),
    }
}

async fn take(syncer: &mut Syncer, count: usize) -> Vec<String> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(syncer.next_batch(count - events.len()).await.iter().map(short));
    }
    events
}

pub(super) async fn a_syncer_tells_the_listing_then_in_sync_then_changes(
    handles: Handles,
) -> Result<(), Failure> {
    let store = handle(&handles, 0)?;
    let a = store.create(tier("a", 1.0)).await?;
    store.create(tier("b", 2.0)).await?;
    let mut syncer = Syncer::new(handle(&handles, 1)?, Selection::all(), BackOff::default(), || 0.5);
    let expected = ["wait", "resync", "a 1", "b 2", "status in sync", "in sync"];
    same(
        "the start",
        take(&mut syncer, 6).await,
        expected.map(String::from).to_vec(),
    )?;
    store.update(tier("a", 3.0), &a.version).await?;
    same("an update", take(&mut syncer, 1).await, vec!["a 3".into()])?;
    store.delete(&tier_key("b"), None).await?;
    same("a removal", take(&mut syncer, 1).await, vec!["-b".into()])
}

pub(super) async fn a_syncer_of_an_empty_store_is_in_sync(handles: Handles) -> Result<(), Failure> {
    let mut syncer = Syncer::new(handle(&handles, 0)?, Selection::all(), BackOff::default(), || 0.5);
    let expected = ["wait", "resync", "status in sync", "in sync"];
    same(
        "the start",
        take(&mut syncer, 4).await,
        expected.map(String::from).to_vec(),
    )?;
    handle(&handles, 1)?.create(tier("a", 1.0)).await?;
    same("the first object", take(&mut syncer, 1).await, vec!["a 1".into()])
}
