//! What people and other programs do to documents: editors, copies, removals, mistakes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure itself.

mod bed;

use bed::{Bed, key, next, next_short, open, order_in, text, tier, until};
use policy_model_datastore::{Datastore, DatastoreError, Selection, WatchEvent};
use policy_model_datastore_file::FileStore;
use std::fs;
use std::io::Write;
use std::time::Duration;

#[tokio::test]
async fn a_person_can_add_change_and_remove() {
    let bed = Bed::new();
    let mut watch = bed.watch().await;
    bed.write("tiers/a.yaml", &text("a", 1));
    assert_eq!(next_short(&mut watch).await, "a 1");
    bed.write("tiers/a.yaml", &text("a", 2));
    assert_eq!(next_short(&mut watch).await, "a 2");
    fs::copy(bed.path("tiers/a.yaml"), bed.path("tiers/copy.yaml")).unwrap();
    until("the copy is a fault", || async { bed.store.faults().len() == 1 }).await;
    bed.write("tiers/copy.yaml", &text("copy", 2));
    assert_eq!(next_short(&mut watch).await, "copy 2");
    fs::remove_file(bed.path("tiers/a.yaml")).unwrap();
    assert_eq!(next_short(&mut watch).await, "-a");
    assert_eq!(bed.order("a").await, None);
    assert_eq!(bed.store.faults(), []);
}

#[tokio::test]
async fn an_edit_changes_the_version_and_wins_over_who_did_not_see_it() {
    let bed = Bed::new();
    let created = bed.store.create(tier("a", 1.0)).await.unwrap();
    bed.write("tiers/a.yaml", &text("a", 5));
    // No wait: the decision is made from the bytes on the disk.
    match bed.store.update(tier("a", 9.0), &created.version).await {
        Err(DatastoreError::Conflict { current, .. }) => {
            assert_eq!(*current.resource, tier("a", 5.0));
            bed.store.update(tier("a", 9.0), &current.version).await.unwrap();
        }
        other => panic!("{other:?}"),
    }
    let now = bed.store.get(&key("a")).await.unwrap().unwrap();
    bed.write("tiers/a.yaml", &text("a", 6));
    let refused = bed.store.delete(&key("a"), Some(&now.version)).await;
    assert!(
        matches!(refused, Err(DatastoreError::Conflict { .. })),
        "{refused:?}"
    );
    bed.write("tiers/b.yaml", &text("b", 6));
    let refused = bed.store.create(tier("b", 1.0)).await;
    assert!(
        matches!(refused, Err(DatastoreError::AlreadyExists { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_edit_is_one_event_however_many_views_see_it() {
    let bed = Bed::new();
    let others: Vec<FileStore> = (0..4).map(|_| open(bed.root.path())).collect();
    let mut watches = vec![bed.watch().await];
    for other in &others {
        let revision = other.list(Selection::all()).await.unwrap().revision;
        watches.push(other.watch(Selection::all(), revision).await.unwrap());
    }
    let mut last = None;
    for order in 0..20 {
        bed.write("tiers/a.yaml", &text("a", order));
        let mut revisions = Vec::new();
        for watch in &mut watches {
            let event = next(watch).await;
            revisions.push(event.revision());
            match event {
                WatchEvent::Upsert(v) => assert_eq!(*v.resource, tier("a", f64::from(order))),
                other @ WatchEvent::Delete { .. } => panic!("{other:?}"),
            }
        }
        assert!(
            revisions.iter().all(|r| Some(*r) == revisions.first().copied()),
            "{revisions:?}"
        );
        if let Some(last) = last {
            assert_eq!(revisions[0].get(), last + 1, "each edit takes one revision");
        }
        last = Some(revisions[0].get());
    }
}

#[tokio::test]
async fn own_writes_take_one_revision_each() {
    let bed = Bed::new();
    let other = open(bed.root.path());
    let before = bed.store.list(Selection::all()).await.unwrap().revision.get();
    let mut current = bed.store.create(tier("a", 0.0)).await.unwrap();
    for n in 1..50 {
        let store = if n % 2 == 0 { &bed.store } else { &other };
        current = store
            .update(tier("a", f64::from(n)), &current.version)
            .await
            .unwrap();
    }
    // Time for a second look by anybody; a record too many would show in the revision.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        other.list(Selection::all()).await.unwrap().revision.get(),
        before + 50
    );
}

#[tokio::test]
async fn an_editor_that_renames_causes_no_removal() {
    let bed = Bed::new();
    bed.store.create(tier("a", 1.0)).await.unwrap();
    let mut watch = bed.watch().await;
    let (file, backup) = (bed.path("tiers/a.yaml"), bed.path("tiers/a.yaml~"));
    for order in 2..12 {
        // As vim does: a test for permissions, the old file out of the way, the new one written, the backup removed.
        fs::write(bed.path("tiers/4913"), "").unwrap();
        fs::remove_file(bed.path("tiers/4913")).unwrap();
        fs::rename(&file, &backup).unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
        assert_eq!(bed.order("a").await, Some(f64::from(order - 1)));
        fs::write(&file, text("a", order)).unwrap();
        fs::remove_file(&backup).unwrap();
        assert_eq!(next_short(&mut watch).await, format!("a {order}"));
    }
    // As other editors do: a new file renamed onto the old one.
    bed.write("tiers/.a.yaml.swp", &text("a", 50));
    fs::rename(bed.path("tiers/.a.yaml.swp"), &file).unwrap();
    assert_eq!(next_short(&mut watch).await, "a 50");
    assert_eq!(bed.store.faults(), []);
}

#[tokio::test]
async fn a_write_meets_a_document_that_is_being_replaced() {
    let bed = Bed::new();
    let created = bed.store.create(tier("a", 1.0)).await.unwrap();
    let (file, away) = (bed.path("tiers/a.yaml"), bed.path("tiers/a.yaml~"));
    fs::rename(&file, &away).unwrap();
    let store = bed.store.clone();
    let update = tokio::spawn(async move { store.update(tier("a", 2.0), &created.version).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    fs::rename(&away, &file).unwrap();
    update.await.unwrap().unwrap();
    assert_eq!(bed.order("a").await, Some(2.0));

    // One that does not come back is gone.
    fs::remove_file(&file).unwrap();
    let now = bed
        .store
        .get(&key("a"))
        .await
        .unwrap()
        .expect("it may still come back");
    let refused = bed.store.update(tier("a", 3.0), &now.version).await;
    assert!(
        matches!(refused, Err(DatastoreError::NotFound { .. })),
        "{refused:?}"
    );
    bed.store.create(tier("a", 4.0)).await.unwrap();
}

#[tokio::test]
async fn half_a_document_neither_removes_nor_changes() {
    let bed = Bed::new();
    bed.store.create(tier("a", 1.0)).await.unwrap();
    let mut watch = bed.watch().await;
    let path = bed.path("tiers/a.yaml");
    let whole = text("a", 2);
    // Two writes through one open file, as `cat >` does.
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&whole.as_bytes()[..40]).unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(bed.order("a").await, Some(1.0));
    file.write_all(&whole.as_bytes()[40..]).unwrap();
    drop(file);
    assert_eq!(next_short(&mut watch).await, "a 2");
    // Two steps that each close the file: the first is a fault, and nothing more.
    for half in ["", "apiVersion: projectcalico.org/v3\nkind: Ti", "\u{0}"] {
        fs::write(&path, half).unwrap();
        until("the fault is told", || async { bed.store.faults().len() == 1 }).await;
        let fault = bed.store.faults().remove(0);
        assert!(fault.in_force && fault.key == Some(key("a")), "{fault}");
        assert_eq!(fault.place, path.display().to_string());
        assert_eq!(bed.order("a").await, Some(2.0));
    }
    fs::write(&path, text("a", 3)).unwrap();
    assert_eq!(next_short(&mut watch).await, "a 3");
    assert_eq!(bed.store.faults(), []);
}

#[tokio::test]
async fn an_invalid_document_keeps_the_last_valid_one_across_restarts() {
    let bed = Bed::new();
    bed.store.create(tier("a", 1.0)).await.unwrap();
    bed.write(
        "tiers/a.yaml",
        "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: a}\nspec: {order: x}\n",
    );
    bed.write("tiers/new.yaml", &text("other-name", 1));
    until("both faults are told", || async { bed.store.faults().len() == 2 }).await;

    let next_process = open(bed.root.path());
    let faults = next_process.faults();
    let short: Vec<_> = faults
        .iter()
        .map(|f| (f.key.clone().unwrap().name, f.in_force))
        .collect();
    assert_eq!(short, [("a".to_owned(), true), ("new".to_owned(), false)]);
    assert_eq!(faults[0].error.faults[0].field, "spec.order");
    assert_eq!(faults[1].error.faults[0].field, "metadata.name");
    assert_eq!(order_in(&next_process, "a").await, Some(1.0));
    assert_eq!(order_in(&next_process, "new").await, None);
    // Also when the journal was written anew meanwhile, and when nobody was there when it became invalid.
    next_process.compact().await.unwrap();
    drop(next_process);
    drop(bed.store);
    fs::write(bed.root.path().join("tiers/a.yaml"), "nonsense: [").unwrap();
    let third = open(bed.root.path());
    assert_eq!(order_in(&third, "a").await, Some(1.0));
    assert_eq!(third.faults().len(), 2);

    // A program may overwrite what is invalid, from the version that is in force; equal content mends the file.
    let current = third.get(&key("a")).await.unwrap().unwrap();
    let same = third.update(tier("a", 1.0), &current.version).await.unwrap();
    assert_eq!(same, current);
    assert_eq!(third.faults().len(), 1);
    third.create(tier("new", 2.0)).await.unwrap();
    assert_eq!(third.faults(), []);
    assert_eq!(order_in(&open(bed.root.path()), "new").await, Some(2.0));
}

#[tokio::test]
async fn an_invalid_document_that_is_removed_is_removed() {
    let bed = Bed::new();
    bed.store.create(tier("a", 1.0)).await.unwrap();
    let mut watch = bed.watch().await;
    bed.write("tiers/a.yaml", "nonsense");
    until("the fault is told", || async { bed.store.faults().len() == 1 }).await;
    fs::remove_file(bed.path("tiers/a.yaml")).unwrap();
    assert_eq!(next_short(&mut watch).await, "-a");
    assert_eq!(bed.store.faults(), []);
}

#[tokio::test]
async fn what_happens_while_nobody_is_there_is_found_at_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    for name in ["kept", "changed", "removed"] {
        store.create(tier(name, 1.0)).await.unwrap();
    }
    let listing = store.list(Selection::all()).await.unwrap();
    drop(store);
    fs::write(root.path().join("tiers/changed.yaml"), text("changed", 2)).unwrap();
    fs::write(root.path().join("tiers/added.yaml"), text("added", 3)).unwrap();
    fs::remove_file(root.path().join("tiers/removed.yaml")).unwrap();
    let store = open(root.path());
    let names: Vec<_> = store
        .list(Selection::all())
        .await
        .unwrap()
        .items
        .iter()
        .map(|v| v.key().name)
        .collect();
    assert_eq!(names, ["added", "changed", "kept"]);
    // A watcher from before the restart hears exactly the differences.
    let mut watch = store.watch(Selection::all(), listing.revision).await.unwrap();
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(next_short(&mut watch).await);
    }
    told.sort();
    assert_eq!(told, ["-removed", "added 3", "changed 2"]);
}
