//! The file store passes the suite of the port: with one view of the folder, and with one for each handle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure itself.

use policy_model_datastore::{Datastore, conformance};
use policy_model_datastore_file::{FileStore, Settings};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Makes a fresh folder a case.
struct Folders {
    root: tempfile::TempDir,
    next: AtomicUsize,
}

impl Folders {
    fn new() -> Self {
        Folders {
            root: tempfile::tempdir().unwrap(),
            next: AtomicUsize::new(0),
        }
    }

    fn fresh(&self) -> PathBuf {
        self.root
            .path()
            .join(self.next.fetch_add(1, Ordering::SeqCst).to_string())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clones_of_one_view_conform() {
    let folders = Folders::new();
    let factory: conformance::Factory<'_> = &|count| {
        let root = folders.fresh();
        Box::pin(async move {
            let store = FileStore::open(root, Settings::default()).unwrap();
            (0..count)
                .map(|_| Arc::new(store.clone()) as Arc<dyn Datastore>)
                .collect()
        })
    };
    if let Err(failure) = conformance::run(factory).await {
        panic!("{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn views_as_of_several_processes_conform() {
    let folders = Folders::new();
    let factory: conformance::Factory<'_> = &|count| {
        let root = folders.fresh();
        Box::pin(async move {
            // Opened by different spellings of the same folder.
            let open = |n: usize| FileStore::open(root.join(["", "."][n % 2]), Settings::default()).unwrap();
            (0..count)
                .map(|n| Arc::new(open(n)) as Arc<dyn Datastore>)
                .collect()
        })
    };
    if let Err(failure) = conformance::run(factory).await {
        panic!("{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn views_conform_while_the_journal_is_written_anew_all_the_time() {
    let folders = Folders::new();
    let factory: conformance::Factory<'_> = &|count| {
        let root = folders.fresh();
        Box::pin(async move {
            let settings = Settings {
                sync: false,
                journal_bytes: 300,
                ..Settings::default()
            };
            let open = |_| Arc::new(FileStore::open(&root, settings.clone()).unwrap()) as Arc<dyn Datastore>;
            (0..count).map(open).collect()
        })
    };
    if let Err(failure) = conformance::run(factory).await {
        panic!("{failure}");
    }
}
