//! The store in memory passes the suite, and the syncer survives what that store can do to it.

use policy_model::{Key, Kind, Object, Resource, TierSpec};
use policy_model_datastore::{
    BackOff, BoxFuture, Datastore, DatastoreError, Listing, MemoryStore, Part, PartSource, Parts, Revision,
    Selection, SyncEvent, SyncStatus, Syncer, Version, Versioned, Watch, WatchEvent, conformance,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

fn tier(name: &str, order: f64) -> Resource {
    Object::named(
        name,
        TierSpec {
            order: Some(order),
            default_action: None,
        },
    )
    .into()
}

fn key(name: &str) -> Key {
    Key::global(Kind::Tier, name)
}

fn syncer(store: &MemoryStore) -> Syncer {
    let back_off = BackOff {
        initial: Duration::from_millis(1),
        longest: Duration::from_millis(4),
        jitter: 1.0,
    };
    Syncer::new(Arc::new(store.clone()), Selection::all(), back_off, || 0.5)
}

/// Follows until the status is in sync, and returns what was told on the way.
async fn until_in_sync(syncer: &mut Syncer) -> Vec<SyncEvent> {
    let mut events = Vec::new();
    loop {
        let event = syncer.next().await;
        let end = event == SyncEvent::Status(SyncStatus::InSync);
        events.push(event);
        if end {
            return events;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_store_conforms() {
    let factory: conformance::Factory<'_> = &|count| {
        Box::pin(async move {
            let store = MemoryStore::new();
            (0..count)
                .map(|_| Arc::new(store.clone()) as Arc<dyn Datastore>)
                .collect()
        })
    };
    if let Err(failure) = conformance::run(factory).await {
        panic!("{failure}");
    }
}

#[tokio::test]
async fn a_forgotten_revision_expires_and_a_watch_that_is_behind_breaks() {
    let store = MemoryStore::new();
    let start = store.list(Selection::all()).await.unwrap().revision;
    store.create(tier("a", 1.0)).await.unwrap();
    let mut behind = store.watch(Selection::all(), start).await.unwrap();
    store.compact();
    assert!(matches!(behind.next().await, Err(DatastoreError::Expired { .. })));
    assert!(matches!(
        store.watch(Selection::all(), start).await,
        Err(DatastoreError::Expired { .. })
    ));
    let now = store.list(Selection::all()).await.unwrap().revision;
    store.watch(Selection::all(), now).await.unwrap();
}

#[tokio::test]
async fn removals_beyond_the_memory_expire() {
    let store = MemoryStore::remembering(2);
    let start = store.list(Selection::all()).await.unwrap().revision;
    for name in ["a", "b", "c"] {
        store.create(tier(name, 1.0)).await.unwrap();
        store.delete(&key(name), None).await.unwrap();
    }
    assert!(matches!(
        store.watch(Selection::all(), start).await,
        Err(DatastoreError::Expired { .. })
    ));
}

#[tokio::test]
async fn after_a_break_the_syncer_tells_only_differences() {
    let store = MemoryStore::new();
    let kept = store.create(tier("kept", 1.0)).await.unwrap();
    let changed = store.create(tier("changed", 1.0)).await.unwrap();
    store.create(tier("gone", 1.0)).await.unwrap();
    let mut syncer = syncer(&store);
    until_in_sync(&mut syncer).await;
    assert_eq!(syncer.next().await, SyncEvent::InSync);

    store
        .update(tier("changed", 2.0), &changed.version)
        .await
        .unwrap();
    store.delete(&key("gone"), None).await.unwrap();
    store.create(tier("new", 1.0)).await.unwrap();
    store.create(tier("brief", 1.0)).await.unwrap();
    store.delete(&key("brief"), None).await.unwrap();
    store.compact();
    store.break_watches();
    let told = until_in_sync(&mut syncer).await;
    assert_eq!(told[0], SyncEvent::Status(SyncStatus::ResyncInProgress));
    assert_eq!(told[1], SyncEvent::Delete(key("gone")));
    let upserts: Vec<String> = told
        .iter()
        .filter_map(|e| match e {
            SyncEvent::Upsert(v) => Some(v.key().name),
            _ => None,
        })
        .collect();
    assert_eq!(upserts, ["changed", "new"], "{} stays untold", kept.key());
    assert_eq!(told.len(), 5, "{told:?}");

    // Nothing is told twice, and InSync never again.
    store.break_watches();
    let told = until_in_sync(&mut syncer).await;
    assert_eq!(
        told,
        [SyncStatus::ResyncInProgress, SyncStatus::InSync].map(SyncEvent::Status)
    );
}

#[tokio::test]
async fn an_absent_store_is_waited_for() {
    let store = MemoryStore::new();
    store.set_available(false);
    let mut syncer = syncer(&store);
    assert_eq!(
        syncer.next().await,
        SyncEvent::Status(SyncStatus::WaitForDatastore)
    );
    assert!(
        tokio::time::timeout(Duration::from_millis(30), syncer.next())
            .await
            .is_err()
    );
    assert!(syncer.last_error().is_some_and(DatastoreError::is_transient));
    store.set_available(true);
    store.create(tier("a", 1.0)).await.unwrap();
    until_in_sync(&mut syncer).await;
    assert_eq!(syncer.next().await, SyncEvent::InSync);

    store.set_available(false);
    assert_eq!(
        syncer.next().await,
        SyncEvent::Status(SyncStatus::ResyncInProgress)
    );
    assert_eq!(
        syncer.next().await,
        SyncEvent::Status(SyncStatus::WaitForDatastore)
    );
    store.set_available(true);
    store.delete(&key("a"), None).await.unwrap();
    assert!(
        until_in_sync(&mut syncer)
            .await
            .contains(&SyncEvent::Delete(key("a")))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_syncer_that_is_broken_at_random_arrives_at_the_listing() {
    let store = MemoryStore::remembering(3);
    let mut syncer = syncer(&store);
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..2_000u32 {
                let name = format!("t{}", n * 7 % 11);
                if n % 3 == 0 {
                    let _ = store.delete(&key(&name), None).await;
                } else if let Some(current) = store.get(&key(&name)).await.unwrap() {
                    store
                        .update(tier(&name, f64::from(n)), &current.version)
                        .await
                        .unwrap();
                } else {
                    store.create(tier(&name, f64::from(n))).await.unwrap();
                }
                match n % 97 {
                    0 => store.compact(),
                    50 => store.break_watches(),
                    _ => tokio::task::yield_now().await,
                }
            }
            store.create(tier("end", 1.0)).await.unwrap();
        })
    };
    let mut told = BTreeMap::new();
    // Equality is waited for, because the last object may come in the middle of a resynchronisation.
    let arrive = async {
        while !(writer.is_finished()
            && store
                .list(Selection::all())
                .await
                .unwrap()
                .items
                .iter()
                .eq(told.values()))
        {
            // The short wait is for the writer's end, which is no event.
            let Ok(batch) = tokio::time::timeout(Duration::from_millis(20), syncer.next_batch(5)).await
            else {
                continue;
            };
            for event in batch {
                match event {
                    SyncEvent::Upsert(v) => drop(told.insert(v.key(), v)),
                    SyncEvent::Delete(key) => assert!(told.remove(&key).is_some(), "{key} was never told"),
                    SyncEvent::InSync | SyncEvent::Status(_) => {}
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(300), arrive)
        .await
        .expect("what was told never equals the listing");
    writer.await.unwrap();
    assert!(told.contains_key(&key("end")));
}

/// The store in memory, whose listings a test tells part by part.
struct Told {
    store: MemoryStore,
    parts: Arc<Mutex<mpsc::UnboundedReceiver<Result<Part, DatastoreError>>>>,
}

struct FromTest(Arc<Mutex<mpsc::UnboundedReceiver<Result<Part, DatastoreError>>>>);

impl PartSource for FromTest {
    fn next(&mut self) -> BoxFuture<'_, Result<Part, DatastoreError>> {
        let ended = || Err(DatastoreError::unavailable("list", "the test has ended"));
        Box::pin(async move { self.0.lock().await.recv().await.unwrap_or_else(ended) })
    }
}

impl Datastore for Told {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Versioned>, DatastoreError>> {
        self.store.get(key)
    }

    fn list(&self, selection: Selection) -> BoxFuture<'_, Result<Listing, DatastoreError>> {
        self.store.list(selection)
    }

    fn list_in_parts(&self, _: Selection) -> BoxFuture<'_, Result<Parts, DatastoreError>> {
        Box::pin(async { Ok(Parts::new(FromTest(self.parts.clone()))) })
    }

    fn watch(&self, selection: Selection, from: Revision) -> BoxFuture<'_, Result<Watch, DatastoreError>> {
        self.store.watch(selection, from)
    }

    fn create(&self, resource: Resource) -> BoxFuture<'_, Result<Versioned, DatastoreError>> {
        self.store.create(resource)
    }

    fn update<'a>(
        &'a self,
        resource: Resource,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<Versioned, DatastoreError>> {
        self.store.update(resource, expected)
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<(), DatastoreError>> {
        self.store.delete(key, expected)
    }
}

#[tokio::test]
async fn listings_are_told_as_they_come_until_one_was_whole_and_then_by_what_differs() {
    let store = MemoryStore::new();
    let a = store.create(tier("a", 1.0)).await.unwrap();
    let b = store.create(tier("b", 1.0)).await.unwrap();
    let (test, parts) = mpsc::unbounded_channel();
    let told = Told {
        store: store.clone(),
        parts: Arc::new(Mutex::new(parts)),
    };
    let back_off = BackOff {
        initial: Duration::from_millis(1),
        ..BackOff::default()
    };
    let mut syncer = Syncer::new(Arc::new(told), Selection::all(), back_off, || 0.5);
    let status = |status| SyncEvent::Status(status);
    assert_eq!(syncer.next().await, status(SyncStatus::WaitForDatastore));

    // Before the end of the listing the first part is told, and nobody says that this was all.
    test.send(Ok(Part::Objects(vec![WatchEvent::Upsert(a.clone())])))
        .unwrap();
    assert_eq!(syncer.next().await, status(SyncStatus::ResyncInProgress));
    assert_eq!(syncer.next().await, SyncEvent::Upsert(a.clone()));
    let waiting = tokio::time::timeout(Duration::from_millis(20), syncer.next()).await;
    assert!(waiting.is_err(), "{waiting:?}");

    // It breaks; what it told is gone when the next one comes, which is told as it comes too. What went is told in the end.
    test.send(Err(DatastoreError::unavailable("list", "it was made to break")))
        .unwrap();
    assert_eq!(syncer.next().await, status(SyncStatus::WaitForDatastore));
    store.delete(&key("a"), None).await.unwrap();
    test.send(Ok(Part::Objects(vec![WatchEvent::Upsert(b.clone())])))
        .unwrap();
    assert_eq!(syncer.next().await, status(SyncStatus::ResyncInProgress));
    assert_eq!(syncer.next().await, SyncEvent::Upsert(b.clone()));
    let waiting = tokio::time::timeout(Duration::from_millis(20), syncer.next()).await;
    assert!(waiting.is_err(), "{waiting:?}");
    let end = async || {
        let revision = store.list(Selection::all()).await.unwrap().revision;
        test.send(Ok(Part::End(revision))).unwrap();
    };
    end().await;
    let in_sync = status(SyncStatus::InSync);
    let expected = [SyncEvent::Delete(key("a")), in_sync.clone(), SyncEvent::InSync];
    assert_eq!(several(&mut syncer, 3).await, expected);

    // The watch goes on where the listing ended.
    let c = store.create(tier("c", 1.0)).await.unwrap();
    assert_eq!(syncer.next().await, SyncEvent::Upsert(c.clone()));

    // It breaks. Of the next listing nothing is told before its end: then what went, and then what is new or another.
    store.break_watches();
    assert_eq!(syncer.next().await, status(SyncStatus::ResyncInProgress));
    store.delete(&key("b"), None).await.unwrap();
    let d = store.create(tier("d", 1.0)).await.unwrap();
    let e = store.create(tier("e", 1.0)).await.unwrap();
    let changed = store.update(tier("c", 2.0), &c.version).await.unwrap();
    let upsert = |versioned: &Versioned| WatchEvent::Upsert(versioned.clone());
    let gone = WatchEvent::Delete {
        key: key("d"),
        revision: store.list(Selection::all()).await.unwrap().revision,
    };
    let first = vec![upsert(&d), upsert(&c), upsert(&e)];
    test.send(Ok(Part::Objects(first))).unwrap();
    // Parts may tell of changes, too.
    store.delete(&key("d"), None).await.unwrap();
    test.send(Ok(Part::Objects(vec![gone, upsert(&changed)])))
        .unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(20), syncer.next()).await;
    assert!(waiting.is_err(), "{waiting:?}");
    end().await;
    let (changed, e) = (SyncEvent::Upsert(changed), SyncEvent::Upsert(e));
    let expected = [SyncEvent::Delete(key("b")), changed, e, in_sync];
    assert_eq!(several(&mut syncer, 4).await, expected);

    // And what is as it was is not told at all.
    store.break_watches();
    assert_eq!(syncer.next().await, status(SyncStatus::ResyncInProgress));
    let all = store.list(Selection::all()).await.unwrap().items;
    test.send(Ok(Part::Objects(all.iter().map(upsert).collect())))
        .unwrap();
    end().await;
    assert_eq!(syncer.next().await, status(SyncStatus::InSync));
    store.delete(&key("e"), None).await.unwrap();
    assert_eq!(syncer.next().await, SyncEvent::Delete(key("e")));
}

async fn several(syncer: &mut Syncer, count: usize) -> Vec<SyncEvent> {
    let mut events = Vec::new();
    for _ in 0..count {
        events.push(syncer.next().await);
    }
    events
}
