//! Cases about watches: in order, without a gap, of the selection only.

use super::{Failure, handle, holds, network_set, order, refused, same, strange_version, tier, tier_key};
use crate::{Datastore, DatastoreError, Part, Revision, Selection, Watch, WatchEvent};
use policy_model::{Key, Kind};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

type Handles = Vec<Arc<dyn Datastore>>;

/// Waits for an upsert of a tier with this content, passing over older states of the same tier only.
async fn next_is(watch: &mut Watch, name: &str, content: f64) -> Result<Revision, Failure> {
    let event = watch.next().await?;
    match &event {
        WatchEvent::Upsert(v) if v.key() == tier_key(name) && order(&v.resource) == content => {
            Ok(event.revision())
        }
        other => Err(Failure::new(format!(
            "expected {name} with {content}, found {other:?}"
        ))),
    }
}

pub(super) async fn a_watch_shows_what_other_handles_do(handles: Handles) -> Result<(), Failure> {
    let (one, other) = (handle(&handles, 0)?, handle(&handles, 1)?);
    let listing = one.list(Selection::all()).await?;
    let mut watches = Vec::new();
    for store in &handles {
        watches.push(store.watch(Selection::all(), listing.revision).await?);
    }
    let created = other.create(tier("a", 1.0)).await?;
    for watch in &mut watches {
        same(
            "created",
            watch.next().await?,
            WatchEvent::Upsert(created.clone()),
        )?;
    }
    let updated = one.update(tier("a", 2.0), &created.version).await?;
    for watch in &mut watches {
        same(
            "updated",
            watch.next().await?,
            WatchEvent::Upsert(updated.clone()),
        )?;
    }
    other.delete(&tier_key("a"), None).await?;
    for watch in &mut watches {
        match watch.next().await? {
            WatchEvent::Delete { key, revision } => {
                same("deleted", key, tier_key("a"))?;
                holds("a removal has its own revision", revision > updated.revision)?;
            }
            event => return Err(Failure::new(format!("expected the removal, found {event:?}"))),
        }
    }
    Ok(())
}

pub(super) async fn a_watch_continues_where_a_listing_ended(handles: Handles) -> Result<(), Failure> {
    let (one, other) = (handle(&handles, 0)?, handle(&handles, 1)?);
    one.create(tier("before", 1.0)).await?;
    let listing = one.list(Selection::all()).await?;
    same("listed", listing.items.len(), 1)?;
    // These come between the listing and the watch.
    one.create(tier("between", 1.0)).await?;
    other.delete(&tier_key("before"), None).await?;
    let mut watch = other.watch(Selection::all(), listing.revision).await?;
    next_is(&mut watch, "between", 1.0).await?;
    match watch.next().await? {
        WatchEvent::Delete { key, .. } => same("removed", key, tier_key("before"))?,
        event => return Err(Failure::new(format!("expected the removal, found {event:?}"))),
    }
    one.create(tier("after", 1.0)).await?;
    next_is(&mut watch, "after", 1.0).await.map(drop)
}

pub(super) async fn a_watch_continues_after_any_event(handles: Handles) -> Result<(), Failure> {
    let (one, other) = (handle(&handles, 0)?, handle(&handles, 1)?);
    let start = one.list(Selection::all()).await?.revision;
    for name in ["a", "b", "c", "d"] {
        one.create(tier(name, 1.0)).await?;
    }
    let mut revision = start;
    for name in ["a", "b", "c", "d"] {
        let mut watch = other.watch(Selection::all(), revision).await?;
        let next = next_is(&mut watch, name, 1.0).await?;
        holds("revisions grow", next > revision)?;
        revision = next;
    }
    Ok(())
}

pub(super) async fn a_watch_shows_its_selection_only(handles: Handles) -> Result<(), Failure> {
    let store = handle(&handles, 0)?;
    let start = store.list(Selection::all()).await?.revision;
    let mut sets = store.watch(Selection::kinds([Kind::NetworkSet]), start).await?;
    let mut space = store.watch(Selection::all().in_namespace("n2"), start).await?;
    let writer = handle(&handles, 1)?;
    writer.create(tier("t", 1.0)).await?;
    writer.create(network_set("n1", "x")).await?;
    writer.create(network_set("n2", "y")).await?;
    writer
        .delete(&Key::namespaced(Kind::NetworkSet, "n1", "x"), None)
        .await?;
    let y = Key::namespaced(Kind::NetworkSet, "n2", "y");
    same("the first of the namespace", space.next().await?.key(), y.clone())?;
    // The creation of x may be left out, because x is gone; its removal may not.
    let mut seen = Vec::new();
    loop {
        let event = sets.next().await?;
        same("the kind", event.key().kind, Kind::NetworkSet)?;
        let end = matches!(event, WatchEvent::Delete { .. });
        seen.push(event.key());
        if end {
            break;
        }
    }
    holds("y was shown", seen.contains(&y))
}

pub(super) async fn a_refused_write_shows_nowhere(handles: Handles) -> Result<(), Failure> {
    let (one, other) = (handle(&handles, 0)?, handle(&handles, 1)?);
    one.create(tier("a", 1.0)).await?;
    let start = one.list(Selection::all()).await?.revision;
    let mut watch = other.watch(Selection::all(), start).await?;
    refused("create", one.create(tier("a", 2.0)).await)?;
    refused("update", one.update(tier("a", 2.0), &strange_version()).await)?;
    refused(
        "delete",
        other.delete(&tier_key("a"), Some(&strange_version())).await,
    )?;
    refused("create", one.create(super::invalid_policy("p")).await)?;
    same("the revision", one.list(Selection::all()).await?.revision, start)?;
    one.create(tier("b", 1.0)).await?;
    next_is(&mut watch, "b", 1.0).await.map(drop)
}

pub(super) async fn a_dropped_wait_loses_nothing(handles: Handles) -> Result<(), Failure> {
    let (one, other) = (handle(&handles, 0)?, handle(&handles, 1)?);
    let start = one.list(Selection::all()).await?.revision;
    let mut watch = one.watch(Selection::all(), start).await?;
    for n in 0..40u32 {
        // The wait ends before, while or after the event comes.
        let patience = Duration::from_micros(u64::from(n) * 50);
        let name = format!("t{n}");
        let write = other.create(tier(&name, 1.0));
        let (early, written) = tokio::join!(tokio::time::timeout(patience, watch.next()), write);
        let created = written?;
        let event = match early {
            Ok(event) => event?,
            Err(_) => watch.next().await?,
        };
        same("the event", event, WatchEvent::Upsert(created))?;
    }
    Ok(())
}

pub(super) async fn a_batch_holds_what_is_there(handles: Handles) -> Result<(), Failure> {
    let (one, other) = (handle(&handles, 0)?, handle(&handles, 1)?);
    let start = one.list(Selection::all()).await?.revision;
    for n in 0..10 {
        one.create(tier(&format!("t{n}"), 1.0)).await?;
    }
    let mut watch = other.watch(Selection::all(), start).await?;
    let mut names = Vec::new();
    while names.len() < 10 {
        let batch = watch.next_batch(4).await?;
        holds(
            "a batch is not empty and not above its size",
            (1..=4).contains(&batch.len()),
        )?;
        names.extend(batch.iter().map(|event| event.key().name));
    }
    same("the order", names, (0..10).map(|n| format!("t{n}")).collect())
}

pub(super) async fn a_revision_of_the_future_expires(handles: Handles) -> Result<(), Failure> {
    let store = handle(&handles, 0)?;
    let future = Revision::new(store.list(Selection::all()).await?.revision.get() + 1_000_000);
    let error = refused("watch", store.watch(Selection::all(), future).await)?;
    holds("it is Expired", matches!(error, DatastoreError::Expired { .. }))
}

pub(super) async fn a_listing_in_parts_tells_what_a_listing_tells(handles: Handles) -> Result<(), Failure> {
    let store = handle(&handles, 0)?;
    for n in 0..5 {
        store.create(tier(&format!("t{n}"), 1.0)).await?;
    }
    store.delete(&tier_key("t3"), None).await?;
    let tiers = || Selection::kinds([Kind::Tier]);
    let mut parts = store.list_in_parts(tiers()).await?;
    let mut told = BTreeMap::new();
    let revision = loop {
        match parts.next().await? {
            Part::Objects(events) => {
                for event in events {
                    match event {
                        WatchEvent::Upsert(versioned) => {
                            drop(told.insert(versioned.key(), versioned.version))
                        }
                        WatchEvent::Delete { key, .. } => drop(told.remove(&key)),
                    }
                }
            }
            Part::End(revision) => break revision,
        }
    };
    let mut watch = store.watch(tiers(), revision).await?;
    let items = store.list(tiers()).await?.items;
    let listed = items.into_iter().map(|item| (item.key(), item.version)).collect();
    same("what was told", told, listed)?;
    let later = handle(&handles, 1)?.create(tier("later", 2.0)).await?;
    same(
        "the first change after it",
        watch.next().await?,
        WatchEvent::Upsert(later),
    )
}
