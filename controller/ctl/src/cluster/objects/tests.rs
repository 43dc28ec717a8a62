//! Objects of an API server go the way of manifests, without what nobody here reads.

use super::*;
use crate::policy::flow::{WrittenFlow, WrittenPort};
use policy_model::{AllocationAttribute, Protocol};
use policy_model_ipam::block;
use policy_model_rules::oracle::Verdict;

fn origin(kind: &str) -> Origin {
    origins()
        .into_iter()
        .find(|origin| origin.kind == kind && origin.group != GROUP)
        .unwrap()
}

/// Objects as an API server would list them.
fn objects(listed: &[(&str, Value)]) -> Objects {
    let mut waiting = Waiting::default();
    let mut observed = Observed::default();
    let described = listed
        .iter()
        .map(|(kind, value)| {
            if *kind == "Pod" {
                waiting.note(value);
            }
            describe(&origin(kind), &mut value.clone(), &mut observed.faults)
        })
        .collect();
    let mut given = block::new("10.1.0.0/30".parse().unwrap(), Some("n1"), false, 1)
        .unwrap()
        .spec;
    for (address, pod, uid) in [
        ("10.1.0.0", "late", "u-late"),
        ("10.1.0.1", "late", "u-earlier"),
        ("10.1.0.2", "web", "u"),
    ] {
        let said = [("namespace", "shop"), ("pod", pod), ("uid", uid)];
        let attribute = AllocationAttribute {
            handle_id: Some(uid.to_owned()),
            secondary: said
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        };
        block::assign(&mut given, address.parse().unwrap(), &attribute).unwrap();
    }
    observed.known.pods = waiting.addresses(&[given]);
    Objects { described, observed }
}

fn pod(name: &str, spec: Value, status: Value) -> (&'static str, Value) {
    let metadata = json!({
        "name": name, "namespace": "shop", "uid": format!("u-{name}"), "labels": { "app": name },
        "managedFields": [{ "manager": "x" }], "creationTimestamp": "2026-01-01T00:00:00Z", "fieldOfTheFuture": {}
    });
    let mut spec = spec;
    spec["containers"] = json!([{
        "name": "c", "image": "i", "resizePolicy": [{ "fieldOfTheFuture": 1 }],
        "ports": [{ "name": "http", "containerPort": 80, "protocol": "TCP" }]
    }]);
    (
        "Pod",
        json!({ "metadata": metadata, "spec": spec, "status": status }),
    )
}

fn cluster() -> Vec<(&'static str, Value)> {
    let policy = json!({
        "podSelector": { "matchLabels": { "app": "web" } },
        "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "late" } } }], "ports": [{ "port": "http" }] }]
    });
    let address = json!({ "type": "InternalIP", "address": "192.0.2.1" });
    vec![
        (
            "Namespace",
            json!({ "metadata": { "name": "shop" }, "status": { "phase": "Active" } }),
        ),
        (
            "Node",
            json!({ "metadata": { "name": "n1" }, "spec": { "x": 1 }, "status": { "addresses": [address] } }),
        ),
        pod(
            "web",
            json!({ "nodeName": "n1" }),
            json!({ "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }] }),
        ),
        pod("late", json!({ "nodeName": "n1" }), json!({ "phase": "Pending" })),
        pod(
            "other",
            json!({ "nodeName": "n1" }),
            json!({ "phase": "Running", "podIP": "10.0.0.3" }),
        ),
        pod("homeless", json!({}), json!({ "phase": "Pending" })),
        pod(
            "host",
            json!({ "nodeName": "n1", "hostNetwork": true }),
            json!({ "podIP": "192.0.2.1" }),
        ),
        (
            "NetworkPolicy",
            json!({ "metadata": { "name": "web", "namespace": "shop" }, "spec": policy }),
        ),
    ]
}

fn verdict(world: &World, from: &str) -> Verdict {
    let flow = WrittenFlow {
        from: from.to_owned(),
        to: "shop/web".to_owned(),
        protocol: Protocol::TCP,
        port: Some(WrittenPort::Name("http".to_owned())),
        icmp_type: None,
        icmp_code: None,
        expect: None,
    };
    world.answer(&flow.understand(world).unwrap()).unwrap().verdict
}

#[test]
fn nothing_is_made_up() {
    let world = objects(&cluster()).into_world();
    assert_eq!(world.faults, Vec::<String>::new());
    let addresses = |name: &str| -> Vec<String> {
        world
            .pod("shop", name)
            .unwrap()
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(
        addresses("web"),
        ["10.0.0.1"],
        "what it says comes before what a block says"
    );
    assert_eq!(
        addresses("late"),
        ["10.1.0.0"],
        "its own, and not its predecessor's"
    );
    assert_eq!(addresses("homeless"), Vec::<String>::new());
    assert_eq!(world.pod("shop", "homeless").unwrap().node, None);
    assert_eq!(world.nodes.keys().collect::<Vec<_>>(), ["n1"]);
    assert_eq!(verdict(&world, "shop/late"), Verdict::Allow);
    assert_eq!(verdict(&world, "shop/other"), Verdict::Deny);
}

#[test]
fn what_is_wrong_is_told_by_the_name_of_its_object() {
    let mut listed = cluster();
    let broken = json!({ "podSelector": {}, "ingress": [{ "ports": [{ "port": 70000 }] }] });
    listed.push((
        "NetworkPolicy",
        json!({ "metadata": { "name": "bad", "namespace": "shop" }, "spec": broken }),
    ));
    let world = objects(&listed).into_world();
    assert_eq!(world.faults.len(), 1, "{:?}", world.faults);
    assert!(
        world.faults[0].starts_with("NetworkPolicy shop/bad: spec.ingress[0]"),
        "{:?}",
        world.faults
    );
}

#[test]
fn a_folder_replaces_what_has_its_names_and_adds_the_rest() {
    let objects = objects(&cluster());
    let old = objects.world();
    let folder = tempfile::tempdir().unwrap();
    let text = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: other}}}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: shop, labels: {app: other}}
spec: {containers: [{name: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: more, namespace: shop}
spec: {containers: [{name: c}]}
";
    std::fs::write(folder.path().join("m.yaml"), text).unwrap();
    let new = objects.world_with(folder.path(), &old.known()).unwrap();
    assert_eq!(new.faults, Vec::<String>::new());
    assert_eq!(
        (verdict(&new, "shop/late"), verdict(&new, "shop/other")),
        (Verdict::Deny, Verdict::Allow)
    );
    let other = new.pod("shop", "other").unwrap();
    assert_eq!(
        (other.node.as_deref(), other.addresses.len()),
        (Some("n1"), 1),
        "it stays where it is"
    );
    assert_eq!(new.pod("shop", "more").unwrap().node, None);
}
