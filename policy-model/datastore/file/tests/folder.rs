//! What happens to the folder itself and to the journal: removals, moves, strangers, and old revisions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure itself.

mod bed;

use bed::{Bed, GRACE, key, next_short, open, order_in, text, tier, until};
use policy_model::{NetworkSetSpec, Object, Resource};
use policy_model_datastore::{Datastore, DatastoreError, Selection};
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn folders_may_come_and_go() {
    let bed = Bed::new();
    let mut watch = bed.watch().await;
    fs::remove_dir_all(bed.path("networksets")).unwrap();
    fs::create_dir_all(bed.path("networksets/new")).unwrap();
    let document =
        "apiVersion: projectcalico.org/v3\nkind: NetworkSet\nmetadata: {name: s, namespace: new}\n";
    bed.write("networksets/new/s.yaml", document);
    assert_eq!(next_short(&mut watch).await, "NetworkSet/new/s");
    // The namespace moves: one object goes, another would come if the document said so.
    fs::rename(bed.path("networksets/new"), bed.path("networksets/moved")).unwrap();
    assert_eq!(next_short(&mut watch).await, "-s");
    until("the moved document is a fault", || async {
        bed.store.faults().len() == 1
    })
    .await;
    assert_eq!(bed.store.faults()[0].error.faults[0].field, "metadata.namespace");
    fs::remove_dir_all(bed.path("networksets")).unwrap();
    until("no fault is left", || async { bed.store.faults().is_empty() }).await;
    let set = Resource::NetworkSet(Object::namespaced("a", "b", NetworkSetSpec::default()));
    bed.store.create(set).await.unwrap();
    assert_eq!(next_short(&mut watch).await, "NetworkSet/a/b");
}

#[tokio::test]
async fn strange_things_in_the_folder_are_told_or_passed_over() {
    let bed = Bed::new();
    bed.write("tiers/x.yml", &text("x", 1));
    bed.write("y.yaml", &text("y", 1));
    fs::create_dir(bed.path("tiers/dir.yaml")).unwrap();
    nix::unistd::mkfifo(&bed.path("tiers/pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("/nowhere", bed.path("tiers/dangling.yaml")).unwrap();
    std::os::unix::fs::symlink("/etc", bed.path("networksets/etc")).unwrap();
    bed.write("tiers/.hidden.yaml", "junk");
    bed.write("tiers/README", "junk");
    let again = open(bed.root.path());
    let mut told: Vec<_> = again
        .faults()
        .iter()
        .map(|f| f.place.rsplit('/').next().unwrap().to_owned())
        .collect();
    told.sort();
    assert_eq!(told, ["pipe.yaml", "x.yml", "y.yaml"]);
    assert_eq!(again.list(Selection::all()).await.unwrap().items, []);
    // What cannot be overwritten is said so, and nothing changes.
    let refused = bed.store.create(tier("dir", 1.0)).await;
    assert!(
        matches!(&refused, Err(DatastoreError::Unavailable { operation, .. }) if operation.contains("dir.yaml"))
    );
    assert_eq!(bed.order("dir").await, None);
    bed.store.create(tier("z", 1.0)).await.unwrap();
}

#[tokio::test]
async fn the_folder_is_for_people_and_for_root_only() {
    let bed = Bed::new();
    bed.store.create(tier("a", 1.5)).await.unwrap();
    let set = Resource::NetworkSet(Object::namespaced("shop", "b", NetworkSetSpec::default()));
    bed.store.create(set).await.unwrap();
    let text = fs::read_to_string(bed.path("tiers/a.yaml")).unwrap();
    assert_eq!(
        text,
        "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata:\n  name: a\nspec:\n  order: 1.5\n"
    );
    let mode = |p: &str| fs::metadata(bed.path(p)).unwrap().permissions().mode() & 0o7777;
    for (path, expected) in [
        ("tiers", 0o700),
        ("networksets/shop", 0o700),
        (".manx", 0o700),
        ("tiers/a.yaml", 0o600),
        ("networksets/shop/b.yaml", 0o600),
        (".manx/journal", 0o600),
        (".manx/lock", 0o600),
    ] {
        assert_eq!(mode(path), expected, "{path}");
    }
}

#[tokio::test]
async fn an_old_revision_expires_once_the_journal_was_written_anew() {
    let bed = Bed::new();
    let old = bed.store.list(Selection::all()).await.unwrap().revision;
    let a = bed.store.create(tier("a", 1.0)).await.unwrap();
    bed.store.update(tier("a", 2.0), &a.version).await.unwrap();
    open(bed.root.path())
        .watch(Selection::all(), old)
        .await
        .expect("the journal still knows");
    bed.store.compact().await.unwrap();
    let late = open(bed.root.path());
    assert!(matches!(
        late.watch(Selection::all(), old).await,
        Err(DatastoreError::Expired { .. })
    ));
    let listing = late.list(Selection::all()).await.unwrap();
    assert_eq!(listing, bed.store.list(Selection::all()).await.unwrap());
    let mut watch = late.watch(Selection::all(), listing.revision).await.unwrap();
    bed.store.create(tier("b", 1.0)).await.unwrap();
    assert_eq!(next_short(&mut watch).await, "b 1");
}

#[tokio::test]
async fn a_journal_that_somebody_removed_or_spoilt_loses_no_object() {
    let bed = Bed::new();
    let before = bed.store.create(tier("a", 1.0)).await.unwrap();
    let broken = bed.store.create(tier("broken", 1.0)).await.unwrap();
    bed.write("tiers/broken.yaml", "nonsense");
    until("the fault is told", || async { bed.store.faults().len() == 1 }).await;
    let mut watch = bed.watch().await;
    // Somebody who was not there makes a new journal; who was there follows it.
    fs::remove_file(bed.path(".manx/journal")).unwrap();
    let stranger = open(bed.root.path());
    stranger.create(tier("b", 1.0)).await.unwrap();
    assert_eq!(next_short(&mut watch).await, "b 1");
    assert_eq!(bed.order("a").await, Some(1.0));
    assert_eq!(bed.order("broken").await, Some(1.0), "what was in force stays so");
    bed.store
        .delete(&key("broken"), Some(&broken.version))
        .await
        .unwrap();
    bed.store.update(tier("a", 2.0), &before.version).await.unwrap();
    assert_eq!(order_in(&stranger, "a").await, Some(2.0));
    // Somebody who was there makes it anew.
    fs::remove_file(bed.path(".manx/journal")).unwrap();
    bed.store.create(tier("c", 1.0)).await.unwrap();
    assert_eq!(order_in(&stranger, "c").await, Some(1.0));
    let revision = stranger.list(Selection::all()).await.unwrap().revision;
    assert_eq!(revision, bed.store.list(Selection::all()).await.unwrap().revision);
    // One that is spoilt is made anew from the documents.
    drop((bed.store, stranger, watch));
    fs::write(bed.root.path().join(".manx/journal"), "spoilt\n").unwrap();
    let last = open(bed.root.path());
    let names: Vec<_> = last
        .list(Selection::all())
        .await
        .unwrap()
        .items
        .iter()
        .map(|v| v.key().name)
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert!(
        last.list(Selection::all()).await.unwrap().revision > revision,
        "revisions never go back"
    );
}

#[tokio::test]
async fn a_folder_that_is_taken_away_is_no_removal_of_its_objects() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("store");
    let store = open(&root);
    store.create(tier("a", 1.0)).await.unwrap();
    let revision = store.list(Selection::all()).await.unwrap().revision;
    let mut watch = store.watch(Selection::all(), revision).await.unwrap();
    fs::rename(&root, parent.path().join("away")).unwrap();
    let refused = store.get(&key("a")).await;
    assert!(
        matches!(&refused, Err(DatastoreError::Unavailable { .. })),
        "{refused:?}"
    );
    assert!(store.create(tier("b", 1.0)).await.is_err());
    // Longer than a document may be missing.
    tokio::time::sleep(GRACE * 2).await;
    fs::rename(parent.path().join("away"), &root).unwrap();
    until("the store answers again", || async {
        store.get(&key("a")).await.is_ok()
    })
    .await;
    store.create(tier("b", 1.0)).await.unwrap();
    assert_eq!(
        next_short(&mut watch).await,
        "b 1",
        "the first event is not a removal"
    );
}
