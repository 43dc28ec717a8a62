//! The API server passes the suite of the port, as custom resources of all kinds.
//!
//! Two things that the suite stores are no names of Kubernetes: a namespace with a dot, and labels that are no label
//! values. The API server refuses them, so the test spells them otherwise on their way in and back on their way out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure itself.

mod bed;

use bed::ApiServer;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use policy_model::{Key, Kind, Resource};
use policy_model_datastore::{
    BoxFuture, Datastore, DatastoreError, EventSource, Listing, Part, PartSource, Parts, Revision, Selection,
    Version, Versioned, Watch, WatchEvent, conformance,
};
use policy_model_datastore_kube::{KubeStore, Settings};
use policy_model_datastore_relay::{Relay, RelayStore, Settings as RelaySettings};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

const SOCKET: &str = "MANX_TEST_RELAY";
const KUBECONFIG: &str = "MANX_TEST_KUBECONFIG";

/// A store whose strange names are spelt as Kubernetes can hold them.
struct Spelt<S>(S);

const DOT: &str = "-dot-";
const HEX: &str = "hex-";

fn namespace_in(name: &str) -> String {
    name.replace('.', DOT)
}

fn namespace_out(name: &str) -> String {
    name.replace(DOT, ".")
}

fn label_in(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if value.bytes().all(plain) {
        return value.to_owned();
    }
    let hex: String = value.bytes().map(|b| format!("{b:02x}")).collect();
    format!("{HEX}{hex}")
}

fn label_out(value: &str) -> String {
    let Some(hex) = value.strip_prefix(HEX) else {
        return value.to_owned();
    };
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    String::from_utf8((0..hex.len()).step_by(2).map(byte).collect()).unwrap()
}

fn key_in(key: &Key) -> Key {
    let namespace = namespace_in(&key.namespace);
    Key {
        namespace,
        ..key.clone()
    }
}

fn key_out(key: Key) -> Key {
    let namespace = namespace_out(&key.namespace);
    Key { namespace, ..key }
}

fn resource_in(mut resource: Resource) -> Resource {
    let metadata = resource.metadata_mut();
    metadata.namespace = namespace_in(&metadata.namespace);
    metadata
        .labels
        .values_mut()
        .for_each(|value| *value = label_in(value));
    resource
}

fn out(found: Versioned) -> Versioned {
    let mut resource = found.resource.as_ref().clone();
    let metadata = resource.metadata_mut();
    metadata.namespace = namespace_out(&metadata.namespace);
    metadata
        .labels
        .values_mut()
        .for_each(|value| *value = label_out(value));
    Versioned {
        resource: Arc::new(resource),
        ..found
    }
}

fn error_out(error: DatastoreError) -> DatastoreError {
    match error {
        DatastoreError::NotFound { key } => DatastoreError::NotFound { key: key_out(key) },
        DatastoreError::AlreadyExists { key } => DatastoreError::AlreadyExists { key: key_out(key) },
        DatastoreError::Conflict { key, current } => DatastoreError::Conflict {
            key: key_out(key),
            current: Box::new(out(*current)),
        },
        other => other,
    }
}

fn event_out(event: WatchEvent) -> WatchEvent {
    match event {
        WatchEvent::Upsert(found) => WatchEvent::Upsert(out(found)),
        WatchEvent::Delete { key, revision } => WatchEvent::Delete {
            key: key_out(key),
            revision,
        },
    }
}

struct SpeltWatch(Watch);

impl EventSource for SpeltWatch {
    fn next_batch(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<WatchEvent>, DatastoreError>> {
        Box::pin(async move {
            let events = self.0.next_batch(max).await?;
            Ok(events.into_iter().map(event_out).collect())
        })
    }
}

struct SpeltParts(Parts);

impl PartSource for SpeltParts {
    fn next(&mut self) -> BoxFuture<'_, Result<Part, DatastoreError>> {
        Box::pin(async move {
            Ok(match self.0.next().await? {
                Part::Objects(events) => Part::Objects(events.into_iter().map(event_out).collect()),
                end @ Part::End(_) => end,
            })
        })
    }
}

impl<S: Datastore> Datastore for Spelt<S> {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Versioned>, DatastoreError>> {
        Box::pin(async move { Ok(self.0.get(&key_in(key)).await?.map(out)) })
    }

    fn list(&self, selection: Selection) -> BoxFuture<'_, Result<Listing, DatastoreError>> {
        Box::pin(async move {
            let mut listing = self.0.list(selection).await?;
            assert!(
                listing.items.iter().map(Versioned::key).is_sorted(),
                "listings are sorted"
            );
            listing.items = listing.items.into_iter().map(out).collect();
            listing.items.sort_by_key(Versioned::key);
            Ok(listing)
        })
    }

    fn list_in_parts(&self, selection: Selection) -> BoxFuture<'_, Result<Parts, DatastoreError>> {
        Box::pin(async move { Ok(Parts::new(SpeltParts(self.0.list_in_parts(selection).await?))) })
    }

    fn watch(&self, selection: Selection, from: Revision) -> BoxFuture<'_, Result<Watch, DatastoreError>> {
        Box::pin(async move { Ok(Watch::new(SpeltWatch(self.0.watch(selection, from).await?))) })
    }

    fn create(&self, resource: Resource) -> BoxFuture<'_, Result<Versioned, DatastoreError>> {
        Box::pin(async move {
            self.0
                .create(resource_in(resource))
                .await
                .map(out)
                .map_err(error_out)
        })
    }

    fn update<'a>(
        &'a self,
        resource: Resource,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<Versioned, DatastoreError>> {
        Box::pin(async move {
            let updated = self.0.update(resource_in(resource), expected).await;
            updated.map(out).map_err(error_out)
        })
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<(), DatastoreError>> {
        Box::pin(async move { self.0.delete(&key_in(key), expected).await.map_err(error_out) })
    }
}

/// Every kind as a custom resource: what the suite writes, nothing else is.
fn settings() -> Settings {
    Settings {
        translate: false,
        ..Settings::default()
    }
}

async fn prepared(flags: &[&str]) -> ApiServer {
    let server = ApiServer::start(flags);
    let client = server.client().await;
    bed::define(&client, Kind::ALL).await;
    for name in ["a", "b", "a-dot-b", "n1", "n2", "a-namespace"] {
        bed::namespace(&client, name, serde_json::json!({})).await;
    }
    server
}

async fn empty(store: &KubeStore) {
    for item in store.list(Selection::all()).await.unwrap().items {
        store.delete(&item.key(), None).await.unwrap();
    }
    assert_eq!(store.list(Selection::all()).await.unwrap().items, vec![]);
}

async fn conforms(server: &ApiServer, handles_share_memory: bool) {
    let factory: conformance::Factory<'_> = &|count| {
        Box::pin(async move {
            let store = server.store(settings()).await;
            empty(&store).await;
            let mut handles = Vec::new();
            for _ in 0..count {
                let handle = if handles_share_memory {
                    store.clone()
                } else {
                    server.store(settings()).await
                };
                handles.push(Arc::new(Spelt(handle)) as Arc<dyn Datastore>);
            }
            handles
        })
    };
    if let Err(failure) = conformance::run(factory).await {
        panic!("{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_api_server_conforms() {
    let server = prepared(&[]).await;
    conforms(&server, true).await;
    conforms(&server, false).await;
    conforms_through_a_relay(&server).await;
}

/// The store that a relay offers, where this program is started as one. Without a socket in the environment it does
/// nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the other test as another process"]
async fn another_process() {
    let (Some(socket), Some(kubeconfig)) = (std::env::var_os(SOCKET), std::env::var_os(KUBECONFIG)) else {
        return;
    };
    let read = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .unwrap();
    let store = Arc::new(KubeStore::with_config(config, settings()).unwrap());
    // It ends with whoever started it.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let relay = Relay::bind(Path::new(&socket), store, RelaySettings::default()).unwrap();
    println!("\nready");
    relay.serve().await;
}

/// All handles are those of a relay's clients, and the relay is a process of its own.
async fn conforms_through_a_relay(server: &ApiServer) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("relay.sock");
    let mut relay = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "another_process", "--nocapture"])
        .env(SOCKET, &socket)
        .env(KUBECONFIG, server.folder().join("kubeconfig"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(relay.stdout.as_mut().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap() == "ready"),
        "the relay ended before it was ready"
    );
    let socket = &socket;
    let factory: conformance::Factory<'_> = &|count| {
        Box::pin(async move {
            empty(&server.store(settings()).await).await;
            let client = |_| {
                let client = RelayStore::new(socket, RelaySettings::default());
                Arc::new(Spelt(client)) as Arc<dyn Datastore>
            };
            (0..count).map(client).collect()
        })
    };
    let result = conformance::run(factory).await;
    relay.kill().unwrap();
    relay.wait().unwrap();
    if let Err(failure) = result {
        panic!("through a relay: {failure}");
    }
}
