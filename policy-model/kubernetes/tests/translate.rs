//! Objects that no check of ours has seen, as another version of an API server may give them; and names.

#![allow(clippy::unwrap_used, clippy::panic)] // In a helper of a test too, a panic is the failure itself.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use policy_model::Resource;
use policy_model_kubernetes::{
    Manifest, Translation, pod_facts, service_account_profile_name, translate, translate_pod,
    workload_endpoint_name, workload_interface_name,
};
use serde_json::{Value, json};

fn policy(spec: Value) -> Translation {
    let value = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "p" }, "spec": spec });
    translate(&Manifest::NetworkPolicy(Box::new(
        serde_json::from_value::<NetworkPolicy>(value).unwrap(),
    )))
}

fn pod(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_rule_that_cannot_be_understood_is_left_out_and_the_policy_stays() {
    let bad = [
        json!({ "from": [{}] }),
        json!({ "from": [{ "podSelector": {} }, { "ipBlock": { "cidr": "10.0.0.0/33" } }] }),
        json!({ "from": [{ "podSelector": { "matchExpressions": [{ "key": "a", "operator": "Gt", "values": ["1"] }] } }] }),
        json!({ "ports": [{ "port": 80 }, { "port": 70000 }] }),
        json!({ "ports": [{ "protocol": "QUIC" }] }),
        json!({ "ports": [{ "port": 80, "endPort": 7 }] }),
    ];
    for rule in bad {
        let good = json!({ "from": [{ "podSelector": {} }] });
        let made = policy(json!({ "podSelector": {}, "ingress": [rule, good] }));
        assert_eq!(made.faults.len(), 1, "{rule}");
        assert!(made.faults[0].field.starts_with("spec.ingress[0]."), "{rule}");
        let [Resource::NetworkPolicy(found)] = &made.resources[..] else {
            panic!("{rule}: the policy is gone")
        };
        assert_eq!(found.spec.ingress.len(), 1, "{rule}");
        assert_eq!(
            found.spec.ingress[0].source.selector,
            "projectcalico.org/orchestrator == \"k8s\""
        );
    }
    // Without any egress rule that is understood, egress is still a direction of the policy.
    let made = policy(json!({ "podSelector": {}, "egress": [{ "to": [{}] }] }));
    assert_eq!(
        made.resources[0].to_value()["spec"]["types"],
        json!(["Ingress", "Egress"])
    );
}

#[test]
fn a_policy_whose_subject_cannot_be_understood_becomes_nothing() {
    for spec in [
        json!({ "podSelector": { "matchExpressions": [{ "key": "a", "operator": "In" }] } }),
        json!({ "podSelector": { "matchLabels": { "a": "it's" } } }),
        json!({ "podSelector": {}, "policyTypes": ["Both"] }),
    ] {
        let made = policy(spec);
        assert_eq!((made.resources.len(), made.faults.len()), (0, 1));
    }
}

#[test]
fn a_pod_needs_a_node_and_says_what_it_declares() {
    let value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "web", "namespace": "shop", "annotations": { "cni.projectcalico.org/ipAddrs": "[\"10.0.0.9\"]" } },
        "spec": {
            "containers": [{ "name": "c", "ports": [{ "name": "http", "containerPort": 80 }, { "containerPort": 70000 }] }],
            "serviceAccount": "old-field",
        },
    });
    let pod = pod(value);
    let facts = pod_facts(&pod);
    assert_eq!(
        (
            facts.node.as_deref(),
            facts.is_endpoint(),
            facts.service_account.as_str()
        ),
        (None, true, "old-field")
    );
    assert_eq!(
        facts.requested_addresses,
        ["10.0.0.9".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(
        facts
            .ports
            .iter()
            .map(|p| (p.name.as_str(), p.port))
            .collect::<Vec<_>>(),
        [("http", 80)]
    );
    assert_eq!(translate_pod(&pod, None), Translation::default());
    assert_eq!(
        translate(&Manifest::Pod(Box::new(pod.clone()))),
        Translation::default()
    );
    let made = translate_pod(&pod, Some("n-1"));
    assert_eq!(made.resources[0].metadata().name, "n--1-k8s-web-eth0");
    assert_eq!(
        made.resources[0].to_value()["spec"]["interfaceName"],
        workload_interface_name("shop", "web")
    );
}

#[test]
fn made_names_are_what_others_expect_and_never_too_long() {
    assert_eq!(
        workload_endpoint_name("node-1", "a-b.c"),
        "node--1-k8s-a--b.c-eth0"
    );
    // The first 11 digits of `printf shop.p | sha1sum`.
    assert_eq!(workload_interface_name("shop", "p"), "calif2d266f90e2");
    assert_eq!(
        service_account_profile_name("shop", "default"),
        "ksa.shop.default"
    );
    let long = |tail: &str| format!("{}{tail}", "a-".repeat(110));
    let (one, two) = (
        workload_endpoint_name("n", &long("x")),
        workload_endpoint_name("n", &long("y")),
    );
    assert!(one.len() <= 253 && two.len() <= 253 && one != two);
    assert!(one.starts_with("n-k8s-a--a--"));
    let name = "a".repeat(253);
    let value = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": name } });
    let made = translate(&Manifest::parse(value).unwrap());
    assert_eq!(made.resources[0].validate(), Ok(()));
}
