//! Objects with faults: what stays in force, what is said of them, and that none opens anything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says by a panic that it failed.

use dataplane_api::{Policy, Update};
use felix_calc::{CalcConfig, CalcGraph, Fault, InForce};
use policy_model::{
    Action, EntityRule, HttpMatch, IpPoolSpec, Key, Kind, NetworkPolicySpec, NetworkSetSpec, Object,
    PolicyRule, ProfileSpec, Resource, WorkloadEndpointSpec,
};
use std::sync::Arc;

fn graph_with_endpoint() -> CalcGraph {
    let mut graph = CalcGraph::new(CalcConfig::for_node("here"));
    graph.on_upsert(endpoint().into()).unwrap();
    graph
}

fn endpoint() -> Object<WorkloadEndpointSpec> {
    let spec = WorkloadEndpointSpec {
        node: "here".to_string(),
        interface_name: "cali1".to_string(),
        ip_networks: vec!["10.0.0.1/32".parse().unwrap()],
        ..WorkloadEndpointSpec::default()
    };
    Object::namespaced("shop", "web", spec)
}

fn policy(source: &str) -> Object<NetworkPolicySpec> {
    let source = EntityRule {
        selector: source.to_string(),
        ..EntityRule::default()
    };
    let ingress = vec![PolicyRule {
        action: Action::Allow,
        source,
        ..PolicyRule::default()
    }];
    Object::namespaced(
        "shop",
        "p",
        NetworkPolicySpec {
            ingress,
            ..NetworkPolicySpec::default()
        },
    )
}

fn flush(graph: &mut CalcGraph) -> Vec<Update> {
    let mut updates = Vec::new();
    graph.flush(&mut updates);
    updates
}

fn policies(updates: &[Update]) -> Vec<Arc<Policy>> {
    let policy = |update: &Update| {
        if let Update::Policy(policy) = update {
            Some(policy.clone())
        } else {
            None
        }
    };
    updates.iter().filter_map(policy).collect()
}

fn in_force(outcome: Result<(), Fault>) -> InForce {
    outcome.expect_err("the object has a fault").in_force
}

#[test]
fn a_policy_that_turns_invalid_stays_as_it_was_until_it_is_mended() {
    let mut graph = graph_with_endpoint();
    graph.on_upsert(policy("has(a)").into()).unwrap();
    assert_eq!(policies(&flush(&mut graph)).len(), 1);

    let mut bad_rule = policy("has(a) &&");
    assert_eq!(
        in_force(graph.on_upsert(bad_rule.clone().into())),
        InForce::LastValid
    );
    bad_rule.spec.selector = "((".to_string();
    let fault = graph.on_upsert(bad_rule.into()).unwrap_err();
    assert_eq!(fault.in_force, InForce::LastValid);
    let text = fault.to_string();
    assert!(
        text.starts_with("NetworkPolicy/shop/p: ") && text.ends_with("the last valid version stays in force"),
        "{text}"
    );
    assert_eq!(flush(&mut graph), []);
    assert_eq!(
        (graph.faulty().count(), graph.stats().faulty, graph.stats().faults),
        (1, 1, 2)
    );

    graph.on_upsert(policy("has(b)").into()).unwrap();
    assert_eq!(policies(&flush(&mut graph)).len(), 1);
    assert_eq!((graph.faulty().count(), graph.stats().faults), (0, 2));
}

#[test]
fn a_policy_that_never_was_valid_isolates_and_opens_nothing() {
    let mut graph = graph_with_endpoint();
    assert_eq!(
        in_force(graph.on_upsert(policy("has(a) &&").into())),
        InForce::Closed
    );
    let said = policies(&flush(&mut graph));
    assert!(said[0].applies_ingress && said[0].ingress.is_empty());
    // Another faulty version replaces it: there is no valid one to keep.
    let mut denies = policy("&&");
    denies.spec.ingress[0].action = Action::Deny;
    assert_eq!(in_force(graph.on_upsert(denies.into())), InForce::Closed);
    let said = policies(&flush(&mut graph));
    assert_eq!(
        (said[0].ingress.len(), said[0].ingress[0].action),
        (1, Action::Deny)
    );
    // A fault of the subject leaves what is in force.
    let mut nobody = policy("has(a)");
    nobody.spec.selector = "&&".to_string();
    assert_eq!(in_force(graph.on_upsert(nobody.into())), InForce::Closed);
    assert_eq!(flush(&mut graph), []);
    graph.on_delete(&Key::namespaced(Kind::NetworkPolicy, "shop", "p"));
    assert!(
        flush(&mut graph)
            .iter()
            .any(|update| matches!(update, Update::PolicyRemoved(_)))
    );
    assert_eq!(graph.faulty().count(), 0);
}

#[test]
fn a_policy_without_a_subject_is_not_in_force() {
    let mut graph = graph_with_endpoint();
    flush(&mut graph);
    let mut nobody = policy("has(a)");
    nobody.spec.selector = "&&".to_string();
    assert_eq!(in_force(graph.on_upsert(nobody.into())), InForce::Nothing);
    assert_eq!(flush(&mut graph), []);
}

#[test]
fn what_is_valid_but_cannot_be_enforced_replaces_what_was_before() {
    let mut graph = graph_with_endpoint();
    graph.on_upsert(policy("has(a)").into()).unwrap();
    flush(&mut graph);
    let mut http = policy("has(a)");
    http.spec.ingress[0].http = Some(HttpMatch {
        methods: vec!["GET".to_string()],
        paths: Vec::new(),
    });
    assert_eq!(in_force(graph.on_upsert(http.into())), InForce::Partly);
    assert!(policies(&flush(&mut graph))[0].ingress.is_empty());
    assert_eq!(in_force(graph.on_upsert(policy("&&").into())), InForce::LastValid);
    assert_eq!(flush(&mut graph), []);
}

#[test]
fn a_faulty_profile_keeps_its_rules() {
    let mut graph = graph_with_endpoint();
    let mut endpoint = endpoint();
    endpoint.spec.profiles = vec!["kns.shop".to_string()];
    graph.on_upsert(endpoint.into()).unwrap();
    let profile = |selector: &str| -> Resource {
        Object::named(
            "kns.shop",
            ProfileSpec {
                ingress: policy(selector).spec.ingress,
                ..ProfileSpec::default()
            },
        )
        .into()
    };
    graph.on_upsert(profile("has(a)")).unwrap();
    assert_eq!(policies(&flush(&mut graph)).len(), 1);
    assert_eq!(in_force(graph.on_upsert(profile("&&"))), InForce::LastValid);
    assert_eq!(flush(&mut graph), []);
}

#[test]
fn a_faulty_endpoint_stays_as_it_was() {
    let mut graph = graph_with_endpoint();
    flush(&mut graph);
    let mut bad = endpoint();
    bad.spec.ip_networks = vec!["10.0.0.0/24".parse().unwrap()];
    bad.spec.mac = "no:mac".to_string();
    bad.spec.interface_name = "a/b".to_string();
    let fault = graph.on_upsert(bad.into()).unwrap_err();
    let fields: Vec<&str> = fault.faults.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(
        (fields, fault.in_force),
        (
            vec!["spec.ipNetworks[0]", "spec.interfaceName", "spec.mac"],
            InForce::LastValid
        )
    );
    assert_eq!(flush(&mut graph), []);

    let mut mac = endpoint();
    mac.spec.mac = "02:00:00:00:aB:01".to_string();
    graph.on_upsert(mac.into()).unwrap();
    let updates = flush(&mut graph);
    let [Update::Workload(endpoint)] = updates.as_slice() else {
        panic!("{updates:?}")
    };
    assert_eq!(endpoint.mac, Some([2, 0, 0, 0, 0xab, 1]));
}

#[test]
fn an_endpoint_without_an_interface_is_said_and_not_enforced() {
    let mut graph = CalcGraph::new(CalcConfig::for_node("here"));
    let mut nameless = endpoint();
    nameless.spec.interface_name.clear();
    let fault = graph.on_upsert(nameless.clone().into()).unwrap_err();
    assert_eq!(
        (fault.faults[0].field.as_str(), fault.in_force),
        ("spec.interfaceName", InForce::Nothing)
    );
    assert_eq!(flush(&mut graph), []);
    assert_eq!(
        (graph.stats().workload_endpoints, graph.stats().local_endpoints),
        (1, 0)
    );
    nameless.spec.node = "there".to_string();
    graph
        .on_upsert(nameless.into())
        .expect("remote endpoints need no interface here");
    graph.on_upsert(endpoint().into()).unwrap();
    assert_eq!(flush(&mut graph).len(), 1);
}

#[test]
fn other_faulty_objects_stay_as_they_were_or_are_absent() {
    let mut graph = CalcGraph::new(CalcConfig::for_node("here"));
    let pool =
        |cidr: &str| -> Resource { Object::named("pool", IpPoolSpec::of(cidr.parse().unwrap())).into() };
    assert_eq!(in_force(graph.on_upsert(pool("10.0.0.1/16"))), InForce::Nothing);
    graph.on_upsert(pool("10.0.0.0/16")).unwrap();
    assert_eq!(flush(&mut graph).len(), 1);
    assert_eq!(in_force(graph.on_upsert(pool("10.0.0.1/16"))), InForce::LastValid);
    assert_eq!(flush(&mut graph), []);
    let homeless: Resource = Object::named("set", NetworkSetSpec::default()).into();
    assert_eq!(in_force(graph.on_upsert(homeless)), InForce::Nothing);
    assert_eq!(graph.stats().network_sets, 0);
}

#[test]
fn in_sync_is_said_once_and_last() {
    let mut graph = graph_with_endpoint();
    assert_eq!(
        flush(&mut graph).len(),
        1,
        "before everything came, what came is said all the same"
    );
    graph.on_in_sync();
    graph.on_upsert(policy("has(a)").into()).unwrap();
    let updates = flush(&mut graph);
    assert_eq!((updates.len(), updates.last()), (4, Some(&Update::InSync)));
    graph.on_in_sync();
    assert_eq!(flush(&mut graph), []);
    let stats = graph.stats();
    assert_eq!((stats.flushes, stats.updates, stats.upserts), (3, 5, 2));
    assert_eq!(
        (
            stats.policies,
            stats.active_policies,
            stats.atoms,
            stats.active_selectors
        ),
        (1, 1, 1, 1)
    );
}
