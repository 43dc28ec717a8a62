//! What is ours is repaired, what is foreign is never touched, and a restart changes nothing.

#![allow(clippy::unwrap_used, clippy::panic)] // A panic is how a test fails.

mod world;

use controller::ANNOTATION_SOURCE;
use policy_model::{Object, Resource, TierSpec};
use policy_model_datastore::Datastore;
use world::{World, namespace, node, pod, policy, policy_key, profile, selects, source};

async fn stored(world: &World, name: &str) -> Resource {
    world.get(&policy_key(name)).await.unwrap()
}

fn tampered(resource: &Resource) -> Resource {
    let Resource::NetworkPolicy(policy) = resource else {
        panic!("it is no policy")
    };
    let mut policy = policy.clone();
    policy.spec.selector = "app == \"else\"".to_owned();
    policy.into()
}

#[tokio::test]
async fn what_somebody_changed_or_deleted_is_put_right() {
    let mut world = World::running().await;
    world.write("a.yaml", &policy("web", "one"));
    world
        .until_stored("created", |objects| selects(objects, "web", "one"))
        .await;
    world.settle().await;
    let wanted = stored(&world, "web").await;

    world.put(tampered(&wanted)).await;
    world
        .until("repaired", |standing| standing.repairs == 1 && standing.in_sync)
        .await;
    assert_eq!(stored(&world, "web").await, wanted);

    world.store.delete(&policy_key("web"), None).await.unwrap();
    world
        .until("made anew", |standing| standing.repairs == 2 && standing.in_sync)
        .await;
    assert_eq!(stored(&world, "web").await, wanted);

    // An object that says it is ours and stands in no file.
    let mut stray = Resource::from(Object::named("stray", TierSpec::default()));
    stray
        .metadata_mut()
        .annotations
        .insert(ANNOTATION_SOURCE.to_owned(), "gone.yaml".to_owned());
    world.put(stray.clone()).await;
    world
        .until("removed", |standing| standing.repairs == 3 && standing.in_sync)
        .await;
    assert_eq!(world.get(&stray.key()).await, None);
    assert_eq!(world.metric("manx_controller_repairs_total"), 3.0);

    // Somebody who takes our mark away and leaves the rest: it becomes ours again.
    let mut unmarked = wanted.clone();
    unmarked.metadata_mut().annotations.remove(ANNOTATION_SOURCE);
    world.put(unmarked).await;
    world
        .until("marked", |standing| standing.repairs == 4 && standing.in_sync)
        .await;
    assert_eq!(stored(&world, "web").await, wanted);
}

#[tokio::test]
async fn what_was_changed_while_the_controller_was_away_is_put_right() {
    let mut world = World::still();
    world.write("a.yaml", &policy("web", "one"));
    world.write("b.yaml", &policy("db", "two"));
    world.start().await;
    let before = world.objects().await;
    world.stop().await;
    world.put(tampered(&before[&policy_key("web")])).await;
    world.store.delete(&policy_key("db"), None).await.unwrap();
    world.start().await;
    assert_eq!(world.objects().await, before);
}

#[tokio::test]
async fn foreign_objects_survive_and_stand_in_the_way_of_none_but_their_own_name() {
    let mut world = World::still();
    let foreign_tier = Resource::from(Object::named("theirs", TierSpec::default()));
    world.put(foreign_tier.clone()).await;
    // Their own policy of the name that a manifest will take.
    let mut theirs = World::still();
    theirs.write("a.yaml", &policy("web", "theirs"));
    theirs.start().await;
    let mut foreign = stored(&theirs, "web").await;
    foreign.metadata_mut().annotations.remove(ANNOTATION_SOURCE);
    world.put(foreign.clone()).await;

    world.write(
        "a.yaml",
        &format!("{}---\n{}", policy("web", "ours"), policy("db", "ours")),
    );
    world.start().await;
    assert_eq!(stored(&world, "web").await, foreign);
    assert!(selects(&world.objects().await, "db", "ours"));
    let is_told = |faults: &[String]| {
        faults.len() == 1 && faults[0].starts_with("a.yaml") && faults[0].contains("knp.default.web")
    };
    world.until_faults("the foreign object", is_told).await;

    // Equal but for the mark, it is taken over.
    world.write("a.yaml", &policy("web", "theirs"));
    world
        .until_stored("taken over", |objects| {
            objects.get(&policy_key("web")).and_then(source) == Some("a.yaml")
        })
        .await;
    world.until_faults("no fault", |faults| faults.is_empty()).await;
    world.remove("a.yaml");
    world
        .until_stored("ours now, and gone", |objects| {
            !objects.contains_key(&policy_key("web"))
        })
        .await;
    world.settle().await;
    assert_eq!(world.get(&foreign_tier.key()).await, Some(foreign_tier));
    assert_eq!(world.objects().await.len(), 1);
}

#[tokio::test]
async fn a_foreign_object_that_goes_makes_room() {
    let mut world = World::still();
    let mut theirs = World::still();
    theirs.write("a.yaml", &policy("web", "theirs"));
    theirs.start().await;
    let mut foreign = stored(&theirs, "web").await;
    foreign.metadata_mut().annotations.remove(ANNOTATION_SOURCE);
    world.put(foreign).await;
    world.write("a.yaml", &policy("web", "ours"));
    world.start().await;
    assert!(selects(&world.objects().await, "web", "theirs"));
    world.store.delete(&policy_key("web"), None).await.unwrap();
    world
        .until_stored("ours", |objects| selects(objects, "web", "ours"))
        .await;
    world.until_faults("no fault", |faults| faults.is_empty()).await;
}

#[tokio::test]
async fn a_namespace_of_somebody_else_serves_pods() {
    let mut theirs = World::still();
    theirs.write("n.yaml", &namespace("shop", "a: b"));
    theirs.start().await;
    let mut foreign = theirs.get(&profile("shop")).await.unwrap();
    foreign.metadata_mut().annotations.remove(ANNOTATION_SOURCE);
    let mut world = World::still();
    world.put(foreign.clone()).await;
    world.write("pod.yaml", &pod("web", ", nodeName: n", ""));
    world.start().await;
    assert_eq!(world.get(&profile("shop")).await, Some(foreign));
    assert_eq!(world.faults(), Vec::<String>::new());
}

#[tokio::test]
async fn a_restart_writes_nothing() {
    let mut world = World::still_lab();
    world.write(
        "a.yaml",
        &format!("{}---\n{}", policy("web", "one"), policy("db", "two")),
    );
    world.write(
        "sub/pods.yaml",
        &format!("{}---\n{}", pod("a", "", ""), pod("b", "", "")),
    );
    world.write("nodes.yaml", &format!("{}---\n{}", node("n1"), node("n2")));
    world.write("broken.yaml", "x: [");
    world.start().await;
    assert!(world.standing().writes >= 6);
    for _ in 0..2 {
        world.settle().await;
        world.stop().await;
        let revision = world.revision().await;
        world.start().await;
        assert_eq!(world.revision().await, revision);
        assert_eq!((world.standing().writes, world.standing().repairs), (0, 0));
    }
}

#[tokio::test]
async fn after_time_away_broken_files_keep_and_vanished_files_lose() {
    let mut world = World::still();
    world.write("keep.yaml", &policy("keep", "one"));
    world.write("named.yaml", &policy("named", "one"));
    world.write("gone.yaml", &policy("gone", "one"));
    world.write("move.yaml", &policy("move", "one"));
    world.start().await;
    world.stop().await;
    world.write("keep.yaml", "x: [");
    world.write(
        "named.yaml",
        &policy("named", "one").replace("podSelector", "podSelecter"),
    );
    world.remove("gone.yaml");
    std::fs::rename(world.path("move.yaml"), world.path("moved.yaml")).unwrap();
    world.start().await;
    let objects = world.objects().await;
    assert!(selects(&objects, "keep", "one") && selects(&objects, "named", "one"));
    assert!(!objects.contains_key(&policy_key("gone")));
    assert_eq!(
        objects.get(&policy_key("move")).and_then(source),
        Some("moved.yaml")
    );
    assert_eq!((world.standing().kept, world.faults().len()), (2, 2));

    // What is kept is defended too.
    let kept = stored(&world, "keep").await;
    world.put(tampered(&kept)).await;
    world
        .until("repaired", |standing| standing.repairs == 1 && standing.in_sync)
        .await;
    assert_eq!(stored(&world, "keep").await, kept);
    world.store.delete(&policy_key("keep"), None).await.unwrap();
    world
        .until("made anew", |standing| standing.repairs == 2 && standing.in_sync)
        .await;

    // Whole again, the file decides.
    world.write("keep.yaml", &policy("other", "two"));
    world
        .until_stored("the file decides", |objects| {
            !objects.contains_key(&policy_key("keep")) && selects(objects, "other", "two")
        })
        .await;
    world.remove("named.yaml");
    world
        .until_stored("it goes with its file", |objects| {
            !objects.contains_key(&policy_key("named"))
        })
        .await;
    world
        .until("nothing is kept", |standing| {
            standing.kept == 0 && standing.in_sync
        })
        .await;
}

#[tokio::test]
async fn a_datastore_that_goes_away_and_comes_back_gets_what_changed_meanwhile() {
    let mut world = World::running().await;
    world.write("a.yaml", &policy("web", "one"));
    world
        .until_stored("created", |objects| selects(objects, "web", "one"))
        .await;
    world.store.set_available(false);
    world
        .until("told", |standing| {
            standing
                .problem
                .as_ref()
                .is_some_and(|p| p.contains("unavailable"))
        })
        .await;
    world.write("a.yaml", &policy("web", "two"));
    world.write("b.yaml", &policy("db", "two"));
    world.until("seen", |standing| standing.files == 2).await;
    world.store.set_available(true);
    world
        .until_stored("both", |o| selects(o, "web", "two") && selects(o, "db", "two"))
        .await;
    world.until("told", |standing| standing.in_sync).await;
    // A watch that breaks, or falls behind, loses nothing.
    world.store.break_watches();
    world.store.delete(&policy_key("db"), None).await.unwrap();
    world.store.compact();
    world
        .until_stored("repaired", |objects| selects(objects, "db", "two"))
        .await;
}

#[tokio::test]
async fn a_controller_waits_for_a_datastore_that_is_not_there_yet() {
    let mut world = World::still();
    world.store.set_available(false);
    world.write("a.yaml", &policy("web", "one"));
    world.start_without_waiting();
    world
        .until("told", |standing| {
            standing
                .problem
                .as_ref()
                .is_some_and(|p| p.contains("unavailable"))
        })
        .await;
    world.store.set_available(true);
    world.until("in step", |standing| standing.in_sync).await;
    assert!(selects(&world.objects().await, "web", "one"));
}
