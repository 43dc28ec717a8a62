//! A folder with a store on it, and a person's hands.

#![allow(dead_code, unreachable_pub)] // Each test program uses a part.

use policy_model::{Key, Kind, Object, Resource, TierSpec};
use policy_model_datastore::{Datastore, Selection, Watch, WatchEvent};
use policy_model_datastore_file::{FileStore, Settings};
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Generous: only a test that fails waits for it.
const DEADLINE: Duration = Duration::from_secs(120);

/// How long a document may be missing before it is gone: longer than usual, because the hands of a test are slow on a busy
/// machine.
pub const GRACE: Duration = Duration::from_secs(1);

pub struct Bed {
    pub root: TempDir,
    pub store: FileStore,
}

impl Bed {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        Bed { root, store }
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    pub fn write(&self, relative: &str, text: &str) {
        fs::write(self.path(relative), text).unwrap();
    }

    pub async fn watch(&self) -> Watch {
        let revision = self.store.list(Selection::all()).await.unwrap().revision;
        self.store.watch(Selection::all(), revision).await.unwrap()
    }

    pub async fn order(&self, name: &str) -> Option<f64> {
        order_in(&self.store, name).await
    }
}

pub fn open(root: &Path) -> FileStore {
    FileStore::open(
        root,
        Settings {
            sync: false,
            grace: GRACE,
            ..Settings::default()
        },
    )
    .unwrap()
}

pub async fn order_in(store: &FileStore, name: &str) -> Option<f64> {
    let found = store.get(&key(name)).await.unwrap()?;
    match found.resource.as_ref() {
        Resource::Tier(tier) => tier.spec.order,
        other => panic!("{other:?} is no tier"),
    }
}

pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

pub async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(DEADLINE, watch.next())
        .await
        .expect("an event comes")
        .unwrap()
}

/// The name and order of an upserted tier, or the name after a minus.
pub async fn next_short(watch: &mut Watch) -> String {
    match next(watch).await {
        WatchEvent::Upsert(v) => match v.resource.as_ref() {
            Resource::Tier(t) => format!("{} {}", t.metadata.name, t.spec.order.unwrap_or(-1.0)),
            other => other.key().to_string(),
        },
        WatchEvent::Delete { key, .. } => format!("-{}", key.name),
    }
}

pub fn key(name: &str) -> Key {
    Key::global(Kind::Tier, name)
}

pub fn tier(name: &str, order: f64) -> Resource {
    Object::named(
        name,
        TierSpec {
            order: Some(order),
            default_action: None,
        },
    )
    .into()
}

pub fn text(name: &str, order: u32) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{name: {name}}}\nspec: {{order: {order}}}\n"
    )
}
