//! The suite of the port through a relay that is a process of its own, and what becomes of clients when it dies or hangs.
//!
//! The other process is this test program itself, started with its ignored test and a store in its environment.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure itself.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use policy_model::{Key, Kind, Object, Resource, TierSpec};
use policy_model_datastore::{Datastore, DatastoreError, MemoryStore, Selection, WatchEvent, conformance};
use policy_model_datastore_file::{FileStore, Settings as FileSettings};
use policy_model_datastore_relay::{Relay, RelayStore, Settings};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SOCKET: &str = "MANX_TEST_RELAY";
const STORE: &str = "MANX_TEST_STORE";
/// The store that lives in the relay's own memory.
const MEMORY: &str = "memory";

fn file_store(folder: &Path) -> FileStore {
    let settings = FileSettings {
        sync: false,
        ..FileSettings::default()
    };
    FileStore::open(folder, settings).unwrap()
}

/// The relay. Without a socket in the environment it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the other tests as another process"]
async fn another_process() {
    let (Some(socket), Some(store)) = (std::env::var_os(SOCKET), std::env::var_os(STORE)) else {
        return;
    };
    let store: Arc<dyn Datastore> = if store == MEMORY {
        Arc::new(MemoryStore::new())
    } else {
        Arc::new(file_store(Path::new(&store)))
    };
    // It ends with whoever started it.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let relay = Relay::bind(Path::new(&socket), store, Settings::default()).unwrap();
    println!("\nready");
    relay.serve().await;
}

/// A relay that runs, and ends with this value.
struct Process(Child);

impl Process {
    fn start(socket: &Path, store: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "another_process", "--nocapture"])
            .env(SOCKET, socket)
            .env(STORE, store)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(
            lines.any(|line| line.unwrap() == "ready"),
            "the relay ended before it was ready"
        );
        Process(child)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Fresh stores, each with relays of its own in front of it.
struct Relays {
    folder: tempfile::TempDir,
    next: AtomicUsize,
    /// Those of the case that runs.
    running: Mutex<Vec<Process>>,
}

impl Relays {
    fn new() -> Self {
        Relays {
            folder: tempfile::tempdir().unwrap(),
            next: AtomicUsize::new(0),
            running: Mutex::default(),
        }
    }

    /// Sockets of so many relays in front of one fresh store, and where that store is.
    fn fresh(&self, relays: usize, store: Option<&str>) -> (Vec<PathBuf>, PathBuf) {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let folder = self.folder.path().join(format!("{number}"));
        let store = store.map_or(folder, PathBuf::from);
        let sockets: Vec<PathBuf> = (0..relays)
            .map(|relay| self.folder.path().join(format!("{number}-{relay}.sock")))
            .collect();
        *self.running.lock().unwrap() = sockets
            .iter()
            .map(|socket| Process::start(socket, &store))
            .collect();
        (sockets, store)
    }
}

fn client(socket: &Path) -> Arc<dyn Datastore> {
    Arc::new(RelayStore::new(socket, Settings::default()))
}

async fn conforms(factory: conformance::Factory<'_>) {
    if let Err(failure) = conformance::run(factory).await {
        panic!("{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_in_the_memory_of_another_process_conforms() {
    let relays = Relays::new();
    let factory: conformance::Factory<'_> = &|count| {
        let (sockets, _) = relays.fresh(1, Some(MEMORY));
        Box::pin(async move { (0..count).map(|_| client(&sockets[0])).collect() })
    };
    conforms(factory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_file_store_behind_a_relay_conforms() {
    let relays = Relays::new();
    let factory: conformance::Factory<'_> = &|count| {
        let (sockets, _) = relays.fresh(1, None);
        Box::pin(async move { (0..count).map(|_| client(&sockets[0])).collect() })
    };
    conforms(factory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_relays_and_a_neighbour_without_one_conform_together() {
    let relays = Relays::new();
    let factory: conformance::Factory<'_> = &|count| {
        let (sockets, folder) = relays.fresh(2, None);
        Box::pin(async move {
            let handle = |n: usize| match n % 3 {
                2 => Arc::new(file_store(&folder)) as Arc<dyn Datastore>,
                relay => client(&sockets[relay]),
            };
            (0..count).map(handle).collect()
        })
    };
    conforms(factory).await;
}

fn tier(name: &str, order: f64) -> Resource {
    let spec = TierSpec {
        order: Some(order),
        default_action: None,
    };
    Object::named(name, spec).into()
}

fn is_unavailable<T>(result: &Result<T, DatastoreError>) -> bool {
    matches!(result, Err(error @ DatastoreError::Unavailable { .. }) if error.is_transient())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_relay_that_dies_and_comes_back_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, root) = (folder.path().join("relay.sock"), folder.path().join("store"));
    let store = RelayStore::new(&socket, Settings::default());
    assert!(
        is_unavailable(&store.list(Selection::all()).await),
        "nobody is there"
    );
    let relay = Process::start(&socket, &root);
    let first = store.create(tier("a", 1.0)).await.unwrap();
    let mut watch = store.watch(Selection::all(), first.revision).await.unwrap();
    relay.signal(Signal::SIGKILL);
    assert!(is_unavailable(&watch.next().await), "a death ends the watch");
    drop(relay);
    assert!(is_unavailable(&store.get(&first.key()).await));
    // While nobody is there the store goes on; whoever comes back continues where it was.
    let between = file_store(&root).create(tier("b", 2.0)).await.unwrap();
    let _relay = Process::start(&socket, &root);
    let mut watch = store.watch(Selection::all(), first.revision).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), WatchEvent::Upsert(between));
    assert_eq!(store.get(&first.key()).await.unwrap(), Some(first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_relay_that_hangs_is_not_waited_for_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("relay.sock");
    let relay = Process::start(&socket, Path::new(MEMORY));
    let patient = RelayStore::new(&socket, Settings::default());
    let first = patient.create(tier("a", 1.0)).await.unwrap();
    let quick = Settings {
        patience: Duration::from_secs(1),
        ..Settings::default()
    };
    let store = RelayStore::new(&socket, quick);
    let watch = async |store: &RelayStore| store.watch(Selection::all(), first.revision).await;
    // A busy machine may be slower than so little patience allows.
    let mut following = loop {
        if let Ok(following) = watch(&store).await {
            break following;
        }
    };
    relay.signal(Signal::SIGSTOP);
    assert!(is_unavailable(&following.next().await));
    assert!(is_unavailable(&store.get(&first.key()).await));
    assert!(is_unavailable(
        &store.update(tier("a", 2.0), &first.version).await
    ));
    assert!(is_unavailable(&watch(&store).await.map(drop)));
    relay.signal(Signal::SIGCONT);
    let found = patient.get(&Key::global(Kind::Tier, "a")).await.unwrap();
    assert!(found.is_some(), "it goes on where it was");
}
