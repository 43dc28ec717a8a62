//! Every kind of manifest, from the file to the datastore.

#![allow(clippy::unwrap_used, clippy::panic)] // A panic is how a test fails.

mod world;

use policy_model::{Key, Kind, Resource};
use world::{World, namespace, node, pod, policy, policy_key, profile, source};

const SLICE: &str = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, namespace: shop, \
                     labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: [{addresses: [10.0.0.9]}]\n\
                     ports: [{name: http, port: 80, protocol: TCP}]\n";
const SERVICE: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80}]}\n";
const ACCOUNT: &str =
    "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: clerk, namespace: shop, labels: {team: a}}\n";
const POOL: &str =
    "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pods}\nspec: {cidr: 10.65.0.0/16}\n";

#[tokio::test]
async fn every_kind_arrives_with_its_source() {
    let world = World::running().await;
    world.write("policy.yaml", &policy("web", "web"));
    world.write("sub/deep/namespace.yml", &namespace("shop", "tier: front"));
    world.write("account.yaml", ACCOUNT);
    world.write(
        "pod.yaml",
        &pod("web-0", ", nodeName: node-1, serviceAccountName: clerk", ""),
    );
    world.write(
        "node.json",
        "{\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"node-1\"}}",
    );
    world.write("service.yaml", &format!("{SERVICE}---\n{SLICE}"));
    world.write("pool.yaml", POOL);
    let expected = [
        (policy_key("web"), "policy.yaml"),
        (profile("shop"), "sub/deep/namespace.yml"),
        (Key::global(Kind::Profile, "ksa.shop.clerk"), "account.yaml"),
        (
            Key::namespaced(Kind::WorkloadEndpoint, "shop", "node--1-k8s-web--0-eth0"),
            "pod.yaml",
        ),
        (
            Key::namespaced(Kind::ServiceEndpoints, "shop", "web-1"),
            "service.yaml",
        ),
        (Key::global(Kind::IPPool, "pods"), "pool.yaml"),
        (Key::global(Kind::Node, "node-1"), "node.json"),
    ];
    world
        .until_stored("all seven", |objects| {
            objects.len() == expected.len()
                && expected.iter().all(|(key, file)| {
                    objects
                        .get(key)
                        .is_some_and(|resource| source(resource) == Some(file))
                })
        })
        .await;
}

#[tokio::test]
async fn profiles_that_pods_need_are_implied() {
    let mut world = World::running().await;
    world.write("pod.yaml", &pod("web", ", nodeName: n", ""));
    let implied = |objects: &std::collections::BTreeMap<Key, Resource>| {
        objects
            .get(&profile("shop"))
            .is_some_and(|found| source(found) == Some("(implied)"))
    };
    world.until_stored("the implied profile", implied).await;
    world.write("namespace.yaml", &namespace("shop", "a: b"));
    world
        .until_stored("the written one", |objects| {
            objects
                .get(&profile("shop"))
                .is_some_and(|found| source(found) == Some("namespace.yaml"))
        })
        .await;
    world.remove("namespace.yaml");
    world.until_stored("the implied one again", implied).await;
    world.remove("pod.yaml");
    world.until_stored("nothing", |objects| objects.is_empty()).await;
    world
        .until("nothing wanted", |standing| {
            standing.objects == 0 && standing.in_sync
        })
        .await;
}

#[tokio::test]
async fn requested_addresses_are_set_where_that_is_asked_for() {
    let asks = "cni.projectcalico.org/ipAddrs: '[\"10.65.0.7\", \"fd00::7\"]'";
    for requested_addresses in [false, true] {
        let mut world = World::still();
        world.options.wanted.requested_addresses = requested_addresses;
        world.write("pod.yaml", &pod("web", ", nodeName: n", asks));
        world.start().await;
        let key = Key::namespaced(Kind::WorkloadEndpoint, "shop", "n-k8s-web-eth0");
        let Some(Resource::WorkloadEndpoint(endpoint)) = world.get(&key).await else {
            panic!("there is no endpoint")
        };
        let addresses: Vec<_> = endpoint
            .spec
            .ip_networks
            .iter()
            .map(ToString::to_string)
            .collect();
        let expected: &[&str] = if requested_addresses {
            &["10.65.0.7/32", "fd00::7/128"]
        } else {
            &[]
        };
        assert_eq!(addresses, expected);
    }
}

#[tokio::test]
async fn what_is_no_manifest_is_left_alone() {
    let mut world = World::running().await;
    for name in [
        ".hidden.yaml",
        "a.yaml.swp",
        "a.yaml~",
        "#a.yaml#",
        "notes.txt",
        ".git/x.yaml",
    ] {
        world.write(name, &policy("wrong", "wrong"));
    }
    world.write(
        "config.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: b}\n",
    );
    world.write("a.yaml", &node("n"));
    world.until_stored("the node", |objects| objects.len() == 1).await;
    world.settle().await;
    assert_eq!(world.objects().await.len(), 1);
    assert_eq!(world.faults(), Vec::<String>::new());
}

#[tokio::test]
async fn links_are_followed_once() {
    let mut world = World::still();
    let outside = world.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("p.yaml"), policy("linked", "x")).unwrap();
    std::os::unix::fs::symlink(&world.options.manifests, world.path("loop")).unwrap();
    std::os::unix::fs::symlink(outside.join("p.yaml"), world.path("link.yaml")).unwrap();
    world.write("a.yaml", &policy("plain", "x"));
    world.start().await;
    assert_eq!(world.objects().await.len(), 2);
    assert_eq!(world.faults(), Vec::<String>::new());
    // The target changes, where it stands.
    std::fs::write(outside.join("p.yaml"), policy("linked", "y")).unwrap();
    world
        .until_stored("the change", |objects| world::selects(objects, "linked", "y"))
        .await;
    // A mounted configuration is turned by one rename of a link.
    for (folder, app) in [("..one", "one"), ("..two", "two")] {
        world.write(&format!("{folder}/m.yaml"), &policy("mounted", app));
    }
    let turn = |to: &str| {
        std::os::unix::fs::symlink(to, world.path("..new")).unwrap();
        std::fs::rename(world.path("..new"), world.path("..data")).unwrap();
    };
    turn("..one");
    std::os::unix::fs::symlink("..data/m.yaml", world.path("m.yaml")).unwrap();
    world
        .until_stored("the mount", |objects| world::selects(objects, "mounted", "one"))
        .await;
    turn("..two");
    world
        .until_stored("the turn", |objects| world::selects(objects, "mounted", "two"))
        .await;
}

#[tokio::test]
async fn pools_that_share_addresses_are_told_and_stay_in_force() {
    let world = World::running().await;
    let pool = |name: &str, cidr: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}}}\n"
        )
    };
    world.write("a.yaml", &pool("wide", "10.65.0.0/16"));
    world.write("b.yaml", &pool("narrow", "10.65.128.0/17"));
    world.until_faults("both pools", |faults| faults.len() == 2).await;
    let faults = world.faults();
    for (fault, place, words) in [
        (
            &faults[0],
            "a.yaml (IPPool wide): spec.cidr: ",
            "10.65.0.0/16 overlaps other pools: narrow (10.65.128.0/17). Two may be given one address",
        ),
        (
            &faults[1],
            "b.yaml (IPPool narrow): spec.cidr: ",
            "10.65.128.0/17 overlaps other pools: wide (10.65.0.0/16). Two may be given one address",
        ),
    ] {
        assert!(
            fault.starts_with(place) && fault.contains(words) && fault.contains("spec.disabled"),
            "{fault}"
        );
        assert!(fault.ends_with("(nothing was changed for that)"), "{fault}");
    }
    world
        .until_stored("both pools", |objects| {
            ["wide", "narrow"]
                .map(|name| Key::global(Kind::IPPool, name))
                .iter()
                .all(|key| objects.contains_key(key))
        })
        .await;
    assert!(world.standing().in_sync, "what is told holds nothing up");

    // A node inside of a pool, from a file of its own, and the end of one overlap.
    world.write("b.yaml", &pool("narrow", "10.66.0.0/17"));
    world.write(
        "node.yaml",
        &format!(
            "{}status: {{addresses: [{{type: InternalIP, address: 10.66.0.9}}]}}\n",
            node("n1")
        ),
    );
    world
        .until_faults("the node alone", |faults| {
            faults.len() == 1
                && faults[0].contains("IPPool narrow")
                && faults[0].contains("nodes: n1 (10.66.0.9)")
        })
        .await;
    world.remove("node.yaml");
    world.until_faults("none", |faults| faults.is_empty()).await;

    // One that somebody else made has no file.
    let theirs = serde_json::json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "theirs" },
        "spec": { "cidr": "10.66.64.0/18" },
    });
    world.put(Resource::parse(theirs).unwrap().resource).await;
    world
        .until_faults("theirs", |faults| {
            faults.len() == 2
                && faults
                    .iter()
                    .any(|fault| fault.starts_with("manifests (IPPool theirs)"))
        })
        .await;
}
