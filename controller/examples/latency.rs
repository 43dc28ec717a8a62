//! Measures how long a changed manifest takes to the datastore: `latency [POLICIES [ROUNDS]]`.
//!
//! The time runs from the return of rename(2) to the return of the store's write as a watcher in the same process sees
//! it, once with the store in memory and once with the store in a folder, its fsync included.

#![allow(clippy::unwrap_used, clippy::panic)] // A measurement that fails has nothing to say.

use controller::{Controller, Health, Metrics, Options};
use policy_model_datastore::{Datastore, MemoryStore, Selection};
use policy_model_datastore_file::{FileStore, Settings};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn policy(number: usize, round: usize) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{number}, namespace: shop}}\n\
         spec: {{podSelector: {{matchLabels: {{app: a{number}}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: \
         {{from: r{round}}}}}}}], ports: [{{port: 80}}]}}]}}\n"
    )
}

async fn measure(name: &str, store: Arc<dyn Datastore>, dir: &Path, policies: usize, rounds: usize) {
    for number in 0..policies {
        std::fs::write(dir.join(format!("{number}.yaml")), policy(number, 0)).unwrap();
    }
    let begin = Instant::now();
    let controller = Controller::new(
        Options::new(dir),
        Arc::clone(&store),
        Metrics::new().unwrap(),
        Health::new(),
    )
    .unwrap();
    let mut standing = controller.standing();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(controller.run(async move {
        let _ = stopped.await;
    }));
    standing.wait_for(|standing| standing.in_sync).await.unwrap();
    let start = begin.elapsed();
    let revision = store.list(Selection::all()).await.unwrap().revision;
    let mut watch = store.watch(Selection::all(), revision).await.unwrap();
    let mut times = Vec::new();
    for round in 1..=rounds {
        let number = round % policies;
        let beside = dir.join("new.tmp");
        std::fs::write(&beside, policy(number, round)).unwrap();
        std::fs::rename(&beside, dir.join(format!("{number}.yaml"))).unwrap();
        let begin = Instant::now();
        watch.next().await.unwrap();
        times.push(begin.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times.sort();
    println!(
        "{name}: {policies} policies, start {start:?}, {rounds} changes: median {:?}, 99th percentile {:?}",
        times[rounds / 2],
        times[(rounds * 99 / 100).min(rounds - 1)]
    );
    drop(stop);
    task.await.unwrap();
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().unwrap());
    let policies = arguments.next().unwrap_or(1000);
    let rounds = arguments.next().unwrap_or(300);
    let dir = std::env::temp_dir().join(format!("manx-latency-{}", std::process::id()));
    for name in ["memory", "folder"] {
        let manifests = dir.join(name);
        std::fs::create_dir_all(&manifests).unwrap();
        let store: Arc<dyn Datastore> = match name {
            "memory" => Arc::new(MemoryStore::new()),
            _ => Arc::new(FileStore::open(dir.join("store"), Settings::default()).unwrap()),
        };
        measure(name, store, &manifests, policies, rounds).await;
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
