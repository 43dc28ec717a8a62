//! Under load: many threads, several views, people's edits among them; nothing is missed and all agree in the end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure itself.

use policy_model::{Key, Kind, Object, Resource, TierSpec};
use policy_model_datastore::{
    BackOff, Datastore, DatastoreError, Listing, Revision, Selection, SyncEvent, Syncer, Versioned,
    WatchEvent,
};
use policy_model_datastore_file::{FileStore, Settings};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(600);
const VIEWS: usize = 3;
const THREADS: usize = 4;
const STEPS: usize = 2_500;
const OBJECTS: u64 = 60;

fn key(name: &str) -> Key {
    Key::global(Kind::Tier, name)
}

fn tier(name: &str, order: u64) -> Resource {
    Object::named(
        name,
        TierSpec {
            order: Some(order as f64),
            default_action: None,
        },
    )
    .into()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

async fn operate(store: FileStore, seed: u64) {
    let mut random = Random(seed * 2_654_435_761 + 1);
    for step in 0..STEPS as u64 {
        let name = format!("t{}", random.next() % OBJECTS);
        let content = seed * 1_000_000 + step;
        let result = match random.next() % 4 {
            0 => store.delete(&key(&name), None).await,
            1 => store.create(tier(&name, content)).await.map(drop),
            _ => match store.get(&key(&name)).await.unwrap() {
                Some(current) => store
                    .update(tier(&name, content), &current.version)
                    .await
                    .map(drop),
                None => store.create(tier(&name, content)).await.map(drop),
            },
        };
        match result {
            Ok(())
            | Err(
                DatastoreError::NotFound { .. }
                | DatastoreError::AlreadyExists { .. }
                | DatastoreError::Conflict { .. },
            ) => {}
            Err(error) => panic!("{error}: {error:?}"),
        }
    }
}

/// A person who edits objects that no program touches, in every way.
fn edit(root: &Path, rounds: usize) {
    for n in 0..rounds {
        let name = format!("edited{}", n % 5);
        let file = root.join(format!("tiers/{name}.yaml"));
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{name: {name}}}\nspec: {{order: {n}}}\n"
        );
        match n % 4 {
            0 => fs::write(&file, &text).unwrap(),
            1 => {
                let other = root.join("tiers/.edit");
                fs::write(&other, &text).unwrap();
                fs::rename(&other, &file).unwrap();
            }
            2 => {
                let _ = fs::rename(&file, file.with_extension("yaml~"));
                fs::write(&file, &text).unwrap();
            }
            _ => {
                fs::write(&file, &text[..n % text.len()]).unwrap();
                fs::write(&file, &text).unwrap();
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_operations_end_in_one_truth() {
    let root = tempfile::tempdir().unwrap();
    let settings = Settings {
        sync: false,
        journal_bytes: 20_000,
        ..Settings::default()
    };
    let views: Vec<FileStore> = (0..VIEWS)
        .map(|_| FileStore::open(root.path(), settings.clone()).unwrap())
        .collect();
    let mut watchers = Vec::new();
    for view in &views {
        let Listing { items, revision } = view.list(Selection::all()).await.unwrap();
        assert_eq!(items, []);
        let mut watch = view.watch(Selection::all(), revision).await.unwrap();
        watchers.push(tokio::spawn(async move {
            let mut state: BTreeMap<Key, Versioned> = BTreeMap::new();
            let mut last: BTreeMap<Key, Revision> = BTreeMap::new();
            let mut latest = revision;
            loop {
                for event in watch.next_batch(64).await.unwrap() {
                    assert!(event.revision() > latest, "events come in the order of revisions");
                    latest = event.revision();
                    let before = last.insert(event.key(), event.revision());
                    assert!(before.is_none_or(|b| b < latest), "an object's revisions grow");
                    match event {
                        WatchEvent::Upsert(v) if v.key() == key("end") => return state,
                        WatchEvent::Upsert(v) => drop(state.insert(v.key(), v)),
                        WatchEvent::Delete { key, .. } => drop(state.remove(&key)),
                    }
                }
            }
        }));
    }
    // A syncer beside the plain watchers must arrive at the same.
    let mut syncer = Syncer::new(
        Arc::new(views[0].clone()),
        Selection::all(),
        BackOff::default(),
        || 0.5,
    );
    let synced = tokio::spawn(async move {
        let mut state: BTreeMap<Key, Versioned> = BTreeMap::new();
        loop {
            for event in syncer.next_batch(100).await {
                match event {
                    SyncEvent::Upsert(v) if v.key() == key("end") => return state,
                    SyncEvent::Upsert(v) => drop(state.insert(v.key(), v)),
                    SyncEvent::Delete(key) => assert!(state.remove(&key).is_some()),
                    SyncEvent::InSync | SyncEvent::Status(_) => {}
                }
            }
        }
    });
    let work = async {
        let person = {
            let root = root.path().to_owned();
            tokio::task::spawn_blocking(move || edit(&root, 300))
        };
        let threads: Vec<_> = (0..THREADS)
            .map(|n| tokio::spawn(operate(views[n % VIEWS].clone(), n as u64 + 1)))
            .collect();
        for thread in threads {
            thread.await.unwrap();
        }
        person.await.unwrap();
        // The last edit is in force when it is listed; no program would touch it.
        let edited = |items: &[Versioned]| {
            items
                .iter()
                .filter(|v| v.key().name.starts_with("edited"))
                .count()
        };
        loop {
            let listing = views[1].list(Selection::all()).await.unwrap();
            if edited(&listing.items) == 5 && views[1].faults().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let expected = views[0].list(Selection::all()).await.unwrap().items;
        views[2].create(tier("end", 0)).await.unwrap();
        for watcher in watchers {
            assert_eq!(watcher.await.unwrap().into_values().collect::<Vec<_>>(), expected);
        }
        assert_eq!(synced.await.unwrap().into_values().collect::<Vec<_>>(), expected);
        expected
    };
    let expected = tokio::time::timeout(DEADLINE, work)
        .await
        .expect("the watchers never saw the end");
    // The documents say the same as every view, and a fresh start changes nothing.
    let fresh = FileStore::open(root.path(), settings).unwrap();
    let listing = fresh.list(Selection::all()).await.unwrap();
    assert_eq!(listing, views[1].list(Selection::all()).await.unwrap());
    assert_eq!(listing.items.len(), expected.len() + 1);
    let count = fs::read_dir(root.path().join("tiers")).unwrap().filter(|e| {
        e.as_ref()
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .ends_with(".yaml")
    });
    assert_eq!(count.count(), expected.len() + 1);
}
