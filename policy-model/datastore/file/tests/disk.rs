//! A disk that is full or cannot be written: said plainly, and nothing is changed.
//!
//! Each test mounts a small file system that only its own thread (and those that it starts) sees.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure itself.

mod bed;

use bed::{next_short, order_in, tier};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use policy_model::Resource;
use policy_model_datastore::{Datastore, DatastoreError, Selection};
use policy_model_datastore_file::{FileStore, Settings};
use std::fs;
use std::io::Write;
use std::path::Path;
use tempfile::TempDir;

/// A file system of 512 KiB that goes with the thread; `None` where this user may not mount.
fn small_disk() -> Option<TempDir> {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
        eprintln!("skipped: this test needs the right to mount ({error})");
        return None;
    }
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let folder = tempfile::tempdir().unwrap();
    mount(
        none,
        folder.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=512k"),
    )
    .unwrap();
    Some(folder)
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

/// Takes all room, except so many pages.
fn fill(root: &Path, pages: usize) {
    let mut file = fs::File::create(root.join("filler")).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(4096 * pages as u64)).unwrap();
}

fn large(name: &str, order: f64, bytes: usize) -> Resource {
    let mut resource = tier(name, order);
    resource
        .metadata_mut()
        .annotations
        .insert("long".into(), "x".repeat(bytes));
    resource
}

#[test]
fn a_full_disk_changes_nothing_and_is_named() {
    let Some(disk) = small_disk() else { return };
    run(async {
        let store = FileStore::open(disk.path(), Settings::default()).unwrap();
        let other = FileStore::open(disk.path(), Settings::default()).unwrap();
        let mut current = store.create(tier("a", 1.0)).await.unwrap();
        let mut watch = other.watch(Selection::all(), current.revision).await.unwrap();
        // With each page more, the write fails at a later step: the document, then the journal.
        let mut refusals = 0;
        for pages in 0..8 {
            fill(disk.path(), pages);
            let before = store.list(Selection::all()).await.unwrap();
            match store
                .update(large("a", 2.0 + f64::from(pages as u32), 9_000), &current.version)
                .await
            {
                Err(DatastoreError::NoSpace { operation, .. }) => {
                    refusals += 1;
                    assert!(operation.contains(disk.path().to_str().unwrap()), "{operation}");
                    assert_eq!(store.list(Selection::all()).await.unwrap(), before);
                    assert_eq!(other.list(Selection::all()).await.unwrap(), before);
                }
                Err(error) => panic!("{pages} pages: {error:?}"),
                Ok(written) => {
                    current = written;
                    assert_eq!(next_short(&mut watch).await, format!("a {}", 2 + pages));
                }
            }
        }
        assert!(
            (4..8).contains(&refusals),
            "{refusals} refusals: not every step was tried"
        );
        let names: Vec<_> = fs::read_dir(disk.path().join("tiers"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["a.yaml"], "nothing half-done is left");
        fs::remove_file(disk.path().join("filler")).unwrap();
        store.update(tier("a", 50.0), &current.version).await.unwrap();
        assert_eq!(next_short(&mut watch).await, "a 50");
        let fresh = FileStore::open(disk.path(), Settings::default()).unwrap();
        assert_eq!(
            fresh.list(Selection::all()).await.unwrap(),
            other.list(Selection::all()).await.unwrap()
        );
        assert_eq!(fresh.faults(), []);
    });
}

#[test]
fn a_persons_edit_on_a_full_disk_is_in_force_as_soon_as_there_is_room() {
    let Some(disk) = small_disk() else { return };
    run(async {
        let store = FileStore::open(disk.path(), Settings::default()).unwrap();
        let mut revision = store.create(large("a", 1.0, 9_000)).await.unwrap().revision;
        // The journal's own last page may have room for a few small records.
        fill(disk.path(), 0);
        for order in 2..60 {
            let text = bed::text("a", order) + "# " + &"x".repeat(300) + "\n";
            fs::write(disk.path().join("tiers/a.yaml"), text).unwrap();
            if order_in(&store, "a").await != Some(f64::from(order)) {
                break;
            }
            revision = store.list(Selection::all()).await.unwrap().revision;
        }
        let mut watch = store.watch(Selection::all(), revision).await.unwrap();
        fs::remove_file(disk.path().join("filler")).unwrap();
        let told = next_short(&mut watch).await;
        assert!(told.starts_with("a "), "{told}");
    });
}

#[test]
fn a_disk_that_cannot_be_written_is_named() {
    let Some(disk) = small_disk() else { return };
    run(async {
        let store = FileStore::open(disk.path(), Settings::default()).unwrap();
        store.create(tier("a", 1.0)).await.unwrap();
        // The kernel refuses the change while the journal is open.
        drop(store);
        let none: Option<&str> = None;
        let remount = |flags| mount(none, disk.path(), none, MsFlags::MS_REMOUNT | flags, none).unwrap();
        remount(MsFlags::MS_RDONLY);
        let refused = FileStore::open(disk.path(), Settings::default());
        let Err(DatastoreError::ReadOnly { operation, .. }) = &refused else {
            panic!("{refused:?}")
        };
        assert!(operation.contains(disk.path().to_str().unwrap()), "{operation}");
        remount(MsFlags::empty());
        let store = FileStore::open(disk.path(), Settings::default()).unwrap();
        assert_eq!(order_in(&store, "a").await, Some(1.0));
    });
}
