//! Prints how long a write takes, and how long until a watcher of another view of the folder has it.
//!
//! `cargo run --release -p policy-model-datastore-file --example write_latency -- [objects] [folder]`

use policy_model::{Object, Resource, TierSpec};
use policy_model_datastore::{Datastore, Selection, WatchEvent};
use policy_model_datastore_file::{FileStore, Settings};
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn tier(name: &str, order: u32) -> Resource {
    let spec = TierSpec {
        order: Some(f64::from(order)),
        default_action: None,
    };
    Object::named(name, spec).into()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let objects: u32 = arguments.next().map_or(Ok(1_000), |text| text.parse())?;
    let temporary = tempfile::tempdir()?;
    let root = arguments
        .next()
        .map_or_else(|| temporary.path().to_owned(), PathBuf::from);

    let filler = FileStore::open(
        &root,
        Settings {
            sync: false,
            ..Settings::default()
        },
    )?;
    for n in 0..objects {
        filler.create(tier(&format!("filler{n}"), n)).await?;
    }
    drop(filler);
    let start = Instant::now();
    let writer = FileStore::open(&root, Settings::default())?;
    println!("open with {objects} objects: {:?}", start.elapsed());
    let reader = FileStore::open(&root, Settings::default())?;
    let revision = reader.list(Selection::all()).await?.revision;
    let mut watch = reader.watch(Selection::all(), revision).await?;
    let (mut written, mut seen) = (Vec::new(), Vec::new());
    let mut current = writer.create(tier("probe", 0)).await?;
    watch.next().await?;
    for n in 1..=1_000 {
        let start = Instant::now();
        let write = async {
            let result = writer.update(tier("probe", n), &current.version).await;
            (result, start.elapsed())
        };
        let follow = async {
            let event = watch.next().await;
            (event, start.elapsed())
        };
        let ((result, write_time), (event, follow_time)) = tokio::join!(write, follow);
        current = result?;
        assert!(matches!(event?, WatchEvent::Upsert(v) if v.version == current.version));
        written.push(write_time);
        seen.push(follow_time);
    }
    report("write returns", &mut written);
    report("the other view's watcher has it", &mut seen);
    Ok(())
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    println!("{what}: median {:?}, 99th percentile {:?}", at(50), at(99));
}
