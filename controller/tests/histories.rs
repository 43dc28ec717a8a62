//! Histories of a folder: what is stored after which changes.

#![allow(clippy::unwrap_used, clippy::panic)] // A panic is how a test fails.

mod world;

use controller::ANNOTATION_INCOMPLETE;
use policy_model::Resource;
use proptest::prelude::*;
use std::collections::BTreeMap;
use world::{World, namespace, policy, policy_key, profile, selects, source};

#[tokio::test]
async fn a_file_is_created_changed_broken_fixed_renamed_and_deleted() {
    let mut world = World::running().await;
    world.write("a.yaml", &policy("web", "one"));
    world
        .until_stored("created", |objects| selects(objects, "web", "one"))
        .await;
    world.replace("a.yaml", &policy("web", "two"));
    world
        .until_stored("changed", |objects| selects(objects, "web", "two"))
        .await;

    world.write("a.yaml", "kind: [");
    world.until_faults("the fault", |faults| faults.len() == 1).await;
    assert!(
        world.faults()[0].contains("a.yaml: document 1"),
        "{:?}",
        world.faults()
    );
    assert!(
        world.faults()[0].contains("stays in force"),
        "{:?}",
        world.faults()
    );
    assert!(selects(&world.objects().await, "web", "two"), "broken, it stays");
    assert_eq!(world.metric("manx_controller_faults"), 1.0);
    assert!(world.standing().in_sync, "what can be done is done");

    world.write(
        "a.yaml",
        &policy("web", "three").replace("podSelector", "podSelecter"),
    );
    world
        .until_faults("another fault", |faults| {
            faults.len() == 1 && faults[0].contains("podSelecter")
        })
        .await;
    assert!(selects(&world.objects().await, "web", "two"), "it still stays");

    world.write("a.yaml", &policy("web", "three"));
    world
        .until_stored("fixed", |objects| selects(objects, "web", "three"))
        .await;
    world.until_faults("no fault", |faults| faults.is_empty()).await;
    assert_eq!(world.metric("manx_controller_faults"), 0.0);

    let before = world.store.clone();
    let mut watch = {
        use policy_model_datastore::{Datastore, Selection};
        before
            .watch(Selection::all(), world.revision().await)
            .await
            .unwrap()
    };
    std::fs::rename(world.path("a.yaml"), world.path("b.yaml")).unwrap();
    world
        .until_stored("renamed", |objects| {
            objects.get(&policy_key("web")).and_then(source) == Some("b.yaml")
        })
        .await;
    world.remove("b.yaml");
    world.until_stored("deleted", |objects| objects.is_empty()).await;
    let events = watch.next_batch(100).await.unwrap();
    assert!(events.len() <= 2, "the rename was one write: {events:?}");
    assert_eq!(
        world.standing().repairs,
        0,
        "the controller's own writes are no tampering"
    );
    world
        .until("all is told", |standing| {
            standing.in_sync && standing.objects == 0
        })
        .await;
}

#[tokio::test]
async fn of_two_documents_the_first_file_counts() {
    let world = World::running().await;
    world.write("b.yaml", &policy("web", "b"));
    world
        .until_stored("b", |objects| selects(objects, "web", "b"))
        .await;
    world.write("a.yaml", &policy("web", "a"));
    world
        .until_stored("a comes first", |objects| selects(objects, "web", "a"))
        .await;
    world
        .until_faults("the other is a fault", |faults| {
            faults.len() == 1 && faults[0].starts_with("b.yaml")
        })
        .await;
    world.write("a.yaml", "x: [");
    // A document that is valid comes before one that was.
    world
        .until_stored("b serves", |objects| {
            selects(objects, "web", "b") && objects.get(&policy_key("web")).and_then(source) == Some("b.yaml")
        })
        .await;
    world.remove("b.yaml");
    world
        .until_stored("a may still hold it", |objects| {
            objects.contains_key(&policy_key("web"))
        })
        .await;
    world.remove("a.yaml");
    world
        .until_stored("both gone", |objects| objects.is_empty())
        .await;
}

#[tokio::test]
async fn an_editor_that_removes_and_writes_anew_causes_no_gap() {
    use policy_model_datastore::{Datastore, Selection, WatchEvent};
    let world = World::running().await;
    world.write("a.yaml", &policy("web", "one"));
    world
        .until_stored("created", |objects| selects(objects, "web", "one"))
        .await;
    let revision = world.revision().await;
    let mut watch = world.store.watch(Selection::all(), revision).await.unwrap();
    // As some editors do: away under another name, then new.
    std::fs::rename(world.path("a.yaml"), world.path("a.yaml~")).unwrap();
    world.write("a.yaml", &policy("web", "two"));
    std::fs::remove_file(world.path("a.yaml~")).unwrap();
    // As version control does.
    world.remove("a.yaml");
    world.write("a.yaml", &policy("web", "three"));
    world
        .until_stored("changed", |objects| selects(objects, "web", "three"))
        .await;
    for event in watch.next_batch(100).await.unwrap() {
        assert!(matches!(event, WatchEvent::Upsert(_)), "{event:?}");
    }
}

#[tokio::test]
async fn folders_come_and_go_with_what_is_in_them() {
    let mut world = World::running().await;
    let aside = world.dir.path().join("aside");
    std::fs::create_dir_all(aside.join("deep")).unwrap();
    std::fs::write(aside.join("deep/a.yaml"), policy("a", "x")).unwrap();
    std::fs::write(aside.join("b.yaml"), policy("b", "x")).unwrap();
    std::fs::rename(&aside, world.path("in")).unwrap();
    world.until_stored("moved in", |objects| objects.len() == 2).await;
    world.write("in/deep/a.yaml", &policy("a", "y"));
    world
        .until_stored("changed inside", |objects| selects(objects, "a", "y"))
        .await;
    std::fs::rename(world.path("in"), world.path("renamed")).unwrap();
    world
        .until_stored("renamed", |objects| {
            objects.get(&policy_key("a")).and_then(source) == Some("renamed/deep/a.yaml")
        })
        .await;
    world.replace("renamed/deep/a.yaml", &policy("a", "z"));
    world
        .until_stored("changed after the rename", |objects| selects(objects, "a", "z"))
        .await;
    std::fs::remove_dir_all(world.path("renamed")).unwrap();
    world.until_stored("gone", |objects| objects.is_empty()).await;
    world
        .until("told", |standing| standing.files == 0 && standing.in_sync)
        .await;
}

#[tokio::test]
async fn a_folder_that_is_gone_as_a_whole_takes_nothing_along() {
    let mut world = World::running().await;
    world.write("a.yaml", &policy("web", "one"));
    world
        .until_stored("created", |objects| selects(objects, "web", "one"))
        .await;
    let aside = world.dir.path().join("aside");
    std::fs::rename(&world.options.manifests, &aside).unwrap();
    world
        .until("the loss is told", |standing| {
            standing.problem.as_ref().is_some_and(|p| p.contains("is gone"))
        })
        .await;
    assert!(selects(&world.objects().await, "web", "one"));
    std::fs::write(aside.join("a.yaml"), policy("web", "two")).unwrap();
    std::fs::rename(&aside, &world.options.manifests).unwrap();
    world
        .until_stored("it is back", |objects| selects(objects, "web", "two"))
        .await;
    world.until("told", |standing| standing.in_sync).await;
    world.write("b.yaml", &policy("db", "two"));
    world
        .until_stored("it is followed again", |objects| selects(objects, "db", "two"))
        .await;
}

#[tokio::test]
async fn a_burst_of_files_arrives_whole() {
    let mut world = World::running().await;
    for n in 0..300 {
        world.write(&format!("{n}.yaml"), &policy(&format!("p{n}"), "x"));
    }
    world.until_stored("all", |objects| objects.len() == 300).await;
    world
        .until("told", |standing| {
            standing.files == 300 && standing.objects == 300 && standing.in_sync
        })
        .await;
    assert_eq!((world.standing().writes, world.standing().repairs), (300, 0));
}

#[tokio::test]
async fn a_policy_that_never_was_valid_closes_what_it_selects() {
    let wrong = policy("web", "one").replace("}}}", "}}, ingress: [{from: [{}]}]}");
    let mut world = World::still();
    world.write("a.yaml", &wrong);
    world.start().await;
    let found = world.get(&policy_key("web")).await.unwrap();
    assert!(found.metadata().annotations.contains_key(ANNOTATION_INCOMPLETE));
    let Resource::NetworkPolicy(policy_stored) = &found else {
        panic!("it is no policy")
    };
    assert!(policy_stored.spec.ingress.is_empty());
    // What is incomplete may be replaced by what is less so, also by another process.
    world.stop().await;
    world.write("a.yaml", &wrong.replace("one", "two"));
    world.start().await;
    assert!(selects(&world.objects().await, "web", "two"));
    world.write("a.yaml", &policy("web", "three"));
    world
        .until_stored("valid", |objects| selects(objects, "web", "three"))
        .await;
    let found = world.get(&policy_key("web")).await.unwrap();
    assert!(!found.metadata().annotations.contains_key(ANNOTATION_INCOMPLETE));
    // Now that it was valid once, a restart over an invalid file keeps it.
    world.stop().await;
    world.write("a.yaml", &wrong);
    let revision = world.revision().await;
    world.start().await;
    assert!(selects(&world.objects().await, "web", "three"));
    assert_eq!(world.revision().await, revision);
    assert_eq!(world.standing().kept, 1);
}

#[tokio::test]
async fn files_that_cannot_be_read_keep_what_they_said() {
    let mut world = World::running().await;
    world.write("a.yaml", &policy("web", "one"));
    world
        .until_stored("created", |objects| selects(objects, "web", "one"))
        .await;
    std::fs::write(world.path("a.yaml"), b"kind: \xff").unwrap();
    world
        .until_faults("not UTF-8", |faults| {
            faults.len() == 1 && faults[0].contains("UTF-8")
        })
        .await;
    world.stop().await;
    let revision = world.revision().await;
    world.start().await;
    assert!(selects(&world.objects().await, "web", "one"));
    assert_eq!(world.revision().await, revision);
    world.write("a.yaml", "");
    world
        .until_stored("an empty file says nothing", |objects| objects.is_empty())
        .await;
    world.until_faults("no fault", |faults| faults.is_empty()).await;
}

#[derive(Clone, Debug)]
enum Step {
    Write(u8, u8, u8),
    Replace(u8, u8, u8),
    Remove(u8),
    Rename(u8, u8),
    Tamper(u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let small = || 0u8..4;
    prop_oneof![
        4 => (small(), small(), small()).prop_map(|(f, p, a)| Step::Write(f, p, a)),
        4 => (small(), small(), small()).prop_map(|(f, p, a)| Step::Replace(f, p, a)),
        2 => small().prop_map(Step::Remove),
        2 => (small(), small()).prop_map(|(f, g)| Step::Rename(f, g)),
        1 => small().prop_map(Step::Tamper),
        1 => Just(Step::Restart),
    ]
}

async fn history(steps: Vec<Step>) {
    let mut world = World::running().await;
    let text = |p: &u8, a: &u8| {
        let two = policy(&format!("p{}", (p + 1) % 4), &format!("a{a}"));
        format!("{}---\n{two}", policy(&format!("p{p}"), &format!("a{a}")))
    };
    let file = |f: &u8| format!("f{f}.yaml");
    for step in &steps {
        match step {
            Step::Write(f, p, a) => world.write(&file(f), &text(p, a)),
            Step::Replace(f, p, a) => world.replace(&file(f), &text(p, a)),
            Step::Remove(f) => drop(std::fs::remove_file(world.path(&file(f)))),
            Step::Rename(f, g) => drop(std::fs::rename(world.path(&file(f)), world.path(&file(g)))),
            Step::Tamper(p) => {
                use policy_model_datastore::Datastore;
                let _ = world.store.delete(&policy_key(&format!("p{p}")), None).await;
            }
            Step::Restart => {
                world.stop().await;
                world.start().await;
            }
        }
    }
    let mut fresh = World::still();
    fresh.options.manifests = world.options.manifests.clone();
    fresh.start().await;
    let expected: BTreeMap<_, _> = fresh.objects().await;
    world
        .until_stored("what a fresh controller makes of the files", |objects| {
            *objects == expected
        })
        .await;
    world.settle().await;
    assert_eq!(world.objects().await, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn the_history_of_the_files_does_not_matter(steps in prop::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(history(steps));
    }
}

#[tokio::test]
async fn a_namespace_whose_document_breaks_keeps_its_labels() {
    let mut world = World::running().await;
    world.write("n.yaml", &namespace("shop", "tier: front"));
    world
        .until_stored("created", |objects| objects.contains_key(&profile("shop")))
        .await;
    let before = world.get(&profile("shop")).await;
    world.write("n.yaml", &namespace("shop", "tier: 'a b'"));
    world
        .until_faults("the fault", |faults| {
            faults.len() == 1 && faults[0].contains("a b")
        })
        .await;
    world.settle().await;
    assert_eq!(world.get(&profile("shop")).await, before);
}
