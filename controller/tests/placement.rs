//! Nodes for pods that name none, and what becomes of a node's addresses when it goes.

#![allow(clippy::unwrap_used, clippy::panic)] // A panic is how a test fails.

mod world;

use policy_model::{IpPoolSpec, IpamBlockSpec, Key, Kind, NodeSpec, Object, Resource};
use policy_model_datastore::Datastore;
use policy_model_ipam::engine::{AutoAssign, Request};
use policy_model_ipam::memory::MemoryStore as Ledger;
use policy_model_ipam::{block, handle};
use std::collections::BTreeMap;
use world::{World, homes, node, pod};

fn pods(names: impl IntoIterator<Item = usize>) -> String {
    let texts: Vec<String> = names.into_iter().map(|n| pod(&format!("p{n}"), "", "")).collect();
    texts.join("---\n")
}

fn load(homes: &BTreeMap<String, String>) -> BTreeMap<&str, usize> {
    let mut load = BTreeMap::new();
    for node in homes.values() {
        *load.entry(node.as_str()).or_default() += 1;
    }
    load
}

#[tokio::test]
async fn pods_are_spread_and_stay_where_they_are() {
    let mut world = World::still_lab();
    for name in ["n1", "n2", "n3"] {
        world.write(&format!("{name}.yaml"), &node(name));
    }
    world.write("pods.yaml", &pods(0..6));
    world.start().await;
    let first = homes(&world.objects().await);
    assert_eq!(load(&first), BTreeMap::from([("n1", 2), ("n2", 2), ("n3", 2)]));

    // A new node moves nobody; new pods go to it.
    world.write("n0.yaml", &node("n0"));
    world.write("more.yaml", &pods(6..8));
    world
        .until_stored("eight", |objects| homes(objects).len() == 8)
        .await;
    world.settle().await;
    let second = homes(&world.objects().await);
    assert!(first.iter().all(|(pod, node)| second.get(pod) == Some(node)));
    world.stop().await;
    world.start().await;
    assert_eq!(homes(&world.objects().await), second);
    assert_eq!(world.standing().writes, 0);

    // Pods that go make no others move; a pod that names its node goes there.
    world.write("pods.yaml", &pods(3..6));
    world.write("named.yaml", &pod("named", ", nodeName: n2", ""));
    world
        .until_stored("fewer", |objects| {
            homes(objects).len() == 6 && homes(objects).get("named").is_some_and(|n| n == "n2")
        })
        .await;
    let third = homes(&world.objects().await);
    assert!(
        third
            .iter()
            .filter(|(pod, _)| *pod != "named")
            .all(|(pod, node)| second.get(pod) == Some(node))
    );

    // A node that goes gives its pods to the others.
    world.remove("n3.yaml");
    world
        .until_stored("moved", |objects| {
            homes(objects).values().all(|n| n != "n3") && homes(objects).len() == 6
        })
        .await;
    world.settle().await;
    let fourth = homes(&world.objects().await);
    for (pod, node) in third.iter().filter(|(_, node)| *node != "n3") {
        assert_eq!(fourth.get(pod), Some(node));
    }
    assert!(!world.objects().await.contains_key(&Key::global(Kind::Node, "n3")));
}

#[tokio::test]
async fn without_a_node_pods_wait_and_that_is_said() {
    let mut world = World::still_lab();
    world.write("pods.yaml", &pods(0..1));
    world.start().await;
    assert_eq!(homes(&world.objects().await).len(), 0);
    world
        .until_faults("it waits", |faults| {
            faults.len() == 1 && faults[0].contains("Pod shop/p0")
        })
        .await;
    // A node that another tool made serves as well.
    world
        .put(Object::named("theirs", NodeSpec::default()).into())
        .await;
    world
        .until_stored("placed", |objects| {
            homes(objects).get("p0").is_some_and(|n| n == "theirs")
        })
        .await;
    world.until_faults("no fault", |faults| faults.is_empty()).await;
}

#[tokio::test]
async fn without_the_option_pods_without_a_node_are_no_endpoints() {
    let mut world = World::still();
    world.write("all.yaml", &format!("{}---\n{}", node("n1"), pods(0..2)));
    world.start().await;
    assert!(homes(&world.objects().await).is_empty());
    assert_eq!(world.faults(), Vec::<String>::new());
}

/// Gives a pod an address on a node, in a ledger that then becomes the datastore's.
fn give(ledger: &mut Ledger, node: &str, pod: &str) {
    let mut request = AutoAssign::new(node, &format!("manx.{pod}"));
    request
        .attributes
        .insert(handle::ATTRIBUTE_NAMESPACE, "shop".to_owned());
    request.attributes.insert(handle::ATTRIBUTE_POD, pod.to_owned());
    ledger.run(Request::AutoAssign(request), 1).unwrap();
}

fn pool() -> Resource {
    let spec = IpPoolSpec {
        cidr: "10.65.0.0/16".parse().unwrap(),
        ..serde_json::from_str::<IpPoolSpec>("{\"cidr\": \"10.65.0.0/16\"}").unwrap()
    };
    Object::named("pods", spec).into()
}

fn blocks(objects: &BTreeMap<Key, Resource>) -> Vec<IpamBlockSpec> {
    let found = objects.values().filter_map(|resource| match resource {
        Resource::IPAMBlock(block) => Some(block.spec.clone()),
        _ => None,
    });
    found.collect()
}

fn holders(objects: &BTreeMap<Key, Resource>) -> Vec<String> {
    let mut handles: Vec<String> = blocks(objects)
        .iter()
        .flat_map(block::holders)
        .filter_map(|held| held.attribute.handle_id.clone())
        .collect();
    handles.sort();
    handles
}

#[tokio::test]
async fn a_node_that_goes_gives_back_what_no_endpoint_uses() {
    let mut world = World::still();
    world.write("n1.yaml", &node("n1"));
    world.write("n2.yaml", &node("n2"));
    world.write("stays.yaml", &pod("stays", ", nodeName: n1", ""));
    world.write("goes.yaml", &pod("goes", ", nodeName: n1", ""));
    world.write("other.yaml", &pod("other", ", nodeName: n2", ""));
    let mut ledger = Ledger::with([pool()]);
    give(&mut ledger, "n1", "stays");
    give(&mut ledger, "n1", "goes");
    give(&mut ledger, "n2", "other");
    ledger
        .run(Request::AutoAssign(AutoAssign::reserve("n1", 4, 0)), 1)
        .unwrap();
    for resource in ledger.resources() {
        world.put(resource.clone()).await;
    }
    world.start().await;
    world.settle().await;
    assert_eq!(
        holders(&world.objects().await).len(),
        7,
        "while the node is there nothing is judged"
    );

    world.remove("goes.yaml");
    world.remove("n1.yaml");
    let n1 = Key::global(Kind::Node, "n1");
    world
        .until_stored("the node is gone", |objects| !objects.contains_key(&n1))
        .await;
    world.settle().await;
    let objects = world.objects().await;
    assert_eq!(holders(&objects), ["manx.other", "manx.stays"]);
    assert!(
        blocks(&objects)
            .iter()
            .all(|spec| block::owner(spec) != Some("n1"))
    );
    assert!(
        blocks(&objects)
            .iter()
            .any(|spec| block::owner(spec) == Some("n2"))
    );
    let claims = |objects: &BTreeMap<Key, Resource>| {
        let claims = objects.values().filter_map(|resource| match resource {
            Resource::BlockAffinity(claim) => Some(claim.spec.node.clone()),
            _ => None,
        });
        claims.collect::<Vec<_>>()
    };
    assert_eq!(claims(&objects), ["n2"]);

    // With the last endpoint goes the last address, also in a process that did not see the node go.
    world.stop().await;
    world.remove("stays.yaml");
    world.start().await;
    world
        .until_stored("the last address", |objects| holders(objects) == ["manx.other"])
        .await;
}

#[tokio::test]
async fn addresses_of_nodes_that_no_manifest_defines_are_not_judged() {
    let mut world = World::still();
    let mut ledger = Ledger::with([pool()]);
    give(&mut ledger, "felix-only", "unknown");
    for resource in ledger.resources() {
        world.put(resource.clone()).await;
    }
    world.start().await;
    world.settle().await;
    assert_eq!(holders(&world.objects().await), ["manx.unknown"]);
    let revision = world.revision().await;
    assert!(
        world
            .store
            .list(policy_model_datastore::Selection::all())
            .await
            .unwrap()
            .revision
            == revision
    );
}
