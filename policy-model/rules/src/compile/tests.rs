//! What each field of a policy compiles to, and how faults are closed.

use super::*;
use crate::rule::{IpVersion, PortMatch, RuleAction};
use policy_model::{PortRange, Protocol, Resource};
use serde_json::{Value, json};

/// Reads a resource without validating it, as a test of faults needs it.
fn resource(kind: &str, namespace: &str, spec: Value) -> Resource {
    let metadata = json!({ "name": "p", "namespace": namespace });
    let object = json!({ "metadata": metadata, "spec": spec });
    match kind {
        "NetworkPolicy" => Resource::NetworkPolicy(serde_json::from_value(object).unwrap()),
        "GlobalNetworkPolicy" => Resource::GlobalNetworkPolicy(serde_json::from_value(object).unwrap()),
        "Profile" => Resource::Profile(serde_json::from_value(object).unwrap()),
        "NetworkSet" => Resource::NetworkSet(serde_json::from_value(object).unwrap()),
        other => unreachable!("{other}"),
    }
}

fn compiled(kind: &str, namespace: &str, spec: Value) -> Compiled {
    compile_policy(&resource(kind, namespace, spec)).unwrap().unwrap()
}

fn namespaced(spec: Value) -> CompiledPolicy<AddressSet> {
    let compiled = compiled("NetworkPolicy", "ns", spec);
    assert_eq!(compiled.faults, []);
    compiled.policy
}

fn global(spec: Value) -> CompiledPolicy<AddressSet> {
    let compiled = compiled("GlobalNetworkPolicy", "", spec);
    assert_eq!(compiled.faults, []);
    compiled.policy
}

fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

fn selected(text: &str) -> AddressSet {
    AddressSet::Selected(selector(text))
}

fn nets(list: &[&str]) -> AddressSet {
    AddressSet::Nets(list.iter().map(|n| n.parse().unwrap()).collect())
}

/// The source side of the only ingress rule of a policy.
fn source(policy: CompiledPolicy<AddressSet>) -> crate::Side<AddressSet> {
    policy.ingress.into_iter().next().unwrap().source
}

fn ingress_from(source: Value) -> Value {
    json!({ "ingress": [{ "action": "Allow", "protocol": "TCP", "source": source }] })
}

#[test]
fn subjects() {
    let cases = [
        ("NetworkPolicy", json!({}), "projectcalico.org/namespace == 'ns'"),
        (
            "NetworkPolicy",
            json!({"selector": "all()"}),
            "projectcalico.org/namespace == 'ns'",
        ),
        (
            "NetworkPolicy",
            json!({"selector": "a == 'b'"}),
            "projectcalico.org/namespace == 'ns' && a == 'b'",
        ),
        (
            "NetworkPolicy",
            json!({"selector": "a == 'b' || has(c)", "serviceAccountSelector": "role in {'x'}"}),
            "projectcalico.org/namespace == 'ns' && (a == 'b' || has(c)) && pcsa.role in {'x'}",
        ),
        ("GlobalNetworkPolicy", json!({}), "all()"),
        ("GlobalNetworkPolicy", json!({"selector": "a == 'b'"}), "a == 'b'"),
        (
            "GlobalNetworkPolicy",
            json!({"namespaceSelector": "all()"}),
            "has(projectcalico.org/namespace)",
        ),
        (
            "GlobalNetworkPolicy",
            json!({"namespaceSelector": "global()"}),
            "!has(projectcalico.org/namespace)",
        ),
        (
            "GlobalNetworkPolicy",
            json!({"selector": "x != 'y'", "namespaceSelector": "env == 'p'", "serviceAccountSelector": "!has(z)"}),
            "x != 'y' && pcns.env == 'p' && !has(pcsa.z)",
        ),
        ("Profile", json!({}), "!all()"),
    ];
    for (kind, spec, expected) in cases {
        let namespace = if kind == "NetworkPolicy" { "ns" } else { "" };
        let compiled = compiled(kind, namespace, spec.clone());
        assert_eq!(compiled.policy.selector, selector(expected), "{kind} {spec}");
        assert_eq!(compiled.faults, []);
    }
}

#[test]
fn identity_tier_and_order() {
    let policy = namespaced(json!({"order": 3.5}));
    assert_eq!(
        (policy.id, &*policy.tier, policy.order),
        (PolicyId::namespaced("ns", "p"), "default", Some(3.5))
    );
    let policy = global(json!({"tier": "admin"}));
    assert_eq!(
        (policy.id, &*policy.tier, policy.order),
        (PolicyId::global("p"), "admin", None)
    );
    let profile = compiled("Profile", "", json!({})).policy;
    assert_eq!((profile.id, &*profile.tier), (PolicyId::profile("p"), ""));
    assert!(profile.applies_ingress && profile.applies_egress);
}

#[test]
fn directions_are_as_written_or_follow_the_rules() {
    let allow = json!([{"action": "Allow"}]);
    let cases = [
        (json!({}), (true, false)),
        (json!({"ingress": allow}), (true, false)),
        (json!({"egress": allow}), (false, true)),
        (json!({"ingress": allow, "egress": allow}), (true, true)),
        (json!({"types": ["Ingress"], "egress": allow}), (true, false)),
        (json!({"types": ["Egress"]}), (false, true)),
        (json!({"types": ["Egress", "Ingress"]}), (true, true)),
    ];
    for (spec, expected) in cases {
        let policy = namespaced(spec.clone());
        assert_eq!(
            (policy.applies_ingress, policy.applies_egress),
            expected,
            "{spec}"
        );
    }
}

#[test]
fn selectors_of_a_side() {
    let here = "projectcalico.org/namespace == 'ns'";
    let cases = [
        (json!({}), None, None),
        (
            json!({"selector": "a == 'b'"}),
            Some(format!("{here} && a == 'b'")),
            Some("a == 'b'".to_string()),
        ),
        (
            json!({"selector": "all()"}),
            Some(here.to_string()),
            Some("all()".to_string()),
        ),
        (
            json!({"selector": "a == 'b'", "namespaceSelector": "env == 'p'"}),
            Some("pcns.env == 'p' && a == 'b'".to_string()),
            Some("pcns.env == 'p' && a == 'b'".to_string()),
        ),
        (
            json!({"namespaceSelector": "all()"}),
            Some("has(projectcalico.org/namespace)".to_string()),
            Some("has(projectcalico.org/namespace)".to_string()),
        ),
        (
            json!({"namespaceSelector": "global() || !(x == 'y')"}),
            Some("!has(projectcalico.org/namespace) || !(pcns.x == 'y')".to_string()),
            Some("!has(projectcalico.org/namespace) || !(pcns.x == 'y')".to_string()),
        ),
        (
            json!({"selector": "has(a)", "notSelector": "b == 'c'"}),
            Some(format!("{here} && has(a) && !(b == 'c')")),
            Some("has(a) && !(b == 'c')".to_string()),
        ),
        (
            json!({"serviceAccounts": {"names": ["y", "x"]}}),
            Some(format!(
                "{here} && projectcalico.org/serviceaccount in {{'x', 'y'}}"
            )),
            Some("projectcalico.org/serviceaccount in {'x', 'y'}".to_string()),
        ),
        (
            json!({"serviceAccounts": {"names": ["x"], "selector": "r == 's'"}, "namespaceSelector": "has(n)"}),
            Some("has(pcns.n) && projectcalico.org/serviceaccount in {'x'} && pcsa.r == 's'".to_string()),
            Some("has(pcns.n) && projectcalico.org/serviceaccount in {'x'} && pcsa.r == 's'".to_string()),
        ),
        (json!({"serviceAccounts": {}}), None, None),
    ];
    for (written, in_namespace, in_cluster) in cases {
        let sets = |text: Option<String>| text.map(|t| selected(&t)).into_iter().collect::<Vec<_>>();
        let side = source(namespaced(ingress_from(written.clone())));
        assert_eq!(
            (side.sets, side.not_sets),
            (sets(in_namespace), vec![]),
            "namespaced {written}"
        );
        let side = source(global(ingress_from(written.clone())));
        assert_eq!(
            (side.sets, side.not_sets),
            (sets(in_cluster), vec![]),
            "global {written}"
        );
    }
}

#[test]
fn a_lone_not_selector_matches_the_outside_in_global_policies_only() {
    let written = json!({"notSelector": "b == 'c'"});
    let side = source(global(ingress_from(written.clone())));
    assert_eq!((side.sets, side.not_sets), (vec![], vec![selected("b == 'c'")]));
    let side = source(namespaced(ingress_from(written)));
    let expected = selected("projectcalico.org/namespace == 'ns' && !(b == 'c')");
    assert_eq!((side.sets, side.not_sets), (vec![expected], vec![]));
}

#[test]
fn networks_are_sorted_without_host_bits_and_repetitions() {
    let side = source(namespaced(ingress_from(json!({
        "nets": ["10.2.0.7/16", "10.1.0.0/16", "10.2.0.0/16", "fd00::1/64"],
        "notNets": ["10.1.1.1/32"],
        "selector": "has(a)",
    }))));
    let own = selected("projectcalico.org/namespace == 'ns' && has(a)");
    assert_eq!(
        side.sets,
        vec![own, nets(&["10.1.0.0/16", "10.2.0.0/16", "fd00::/64"])]
    );
    assert_eq!(side.not_sets, vec![nets(&["10.1.1.1/32"])]);
}

#[test]
fn ports_by_number_and_by_name() {
    let policy = namespaced(json!({"ingress": [{
        "action": "Allow",
        "protocol": "UDP",
        "source": {"ports": ["b", 53]},
        "destination": {"selector": "has(a)", "ports": [443, "80:90", 91, "web", "web"], "notPorts": ["85:86"]},
    }]}));
    let rule = &policy.ingress[0];
    let named = |text: &str, name: &str| AddressSet::NamedPort {
        selector: selector(text),
        name: name.to_string(),
        protocol: Protocol::UDP,
    };
    let range = |first, last| PortRange::new(first, last).unwrap();
    assert_eq!(
        rule.source.ports,
        Some(Box::new(PortMatch {
            ranges: vec![range(53, 53)],
            named: vec![named("all()", "b")]
        }))
    );
    let own = "projectcalico.org/namespace == 'ns' && has(a)";
    let expected = PortMatch {
        ranges: vec![range(80, 91), range(443, 443)],
        named: vec![named(own, "web")],
    };
    assert_eq!(rule.destination.ports, Some(Box::new(expected)));
    assert_eq!(
        rule.destination.not_ports,
        Some(Box::new(PortMatch {
            ranges: vec![range(85, 86)],
            named: vec![]
        }))
    );
}

#[test]
fn services() {
    let service = |namespace: &str, with_ports| AddressSet::Service {
        namespace: namespace.to_string(),
        name: "s".to_string(),
        with_ports,
    };
    let policy = namespaced(json!({
        "ingress": [{"action": "Allow", "source": {"services": {"name": "s"}}}],
        "egress": [{"action": "Allow", "destination": {"services": {"name": "s", "namespace": "other"}}}],
    }));
    assert_eq!(policy.ingress[0].source.sets, vec![service("ns", false)]);
    assert_eq!(policy.egress[0].destination.sets, vec![]);
    let expected = PortMatch {
        ranges: vec![],
        named: vec![service("other", true)],
    };
    assert_eq!(policy.egress[0].destination.ports, Some(Box::new(expected)));
}

#[test]
fn family_protocols_and_icmp() {
    let policy = global(json!({"egress": [
        {"action": "Log", "ipVersion": 6, "notProtocol": "SCTP"},
        {"action": "Pass", "ipVersion": 4, "protocol": "ICMP", "icmp": {"type": 8, "code": 0}, "notICMP": {}},
    ]}));
    let (first, second) = (&policy.egress[0], &policy.egress[1]);
    assert_eq!(
        (first.action, first.index, first.ip_version),
        (RuleAction::Log, 0, Some(IpVersion::V6))
    );
    assert_eq!((first.protocol, first.not_protocol), (None, Some(Protocol::SCTP)));
    assert_eq!(
        (second.action, second.index, second.ip_version),
        (RuleAction::Pass, 1, Some(IpVersion::V4))
    );
    let icmp = second.icmp.unwrap();
    assert_eq!(
        (icmp.icmp_type, icmp.code, second.not_icmp),
        (Some(8), Some(0), None)
    );
}

/// Action, position, and whether it matches everything, of each rule.
fn shape(rules: &[Rule<AddressSet>]) -> Vec<(RuleAction, usize, bool)> {
    let everything = |r: &Rule<AddressSet>| *r == super::rule::closed(RuleAction::Deny, r.index).unwrap();
    rules.iter().map(|r| (r.action, r.index, everything(r))).collect()
}

#[test]
fn faulty_rules_fail_closed_and_are_reported() {
    let bad = json!({"selector": "a ="});
    let compiled = compiled(
        "NetworkPolicy",
        "ns",
        json!({
            "types": ["Ingress", "Egress"],
            "ingress": [
                {"action": "Allow", "source": bad},
                {"action": "Deny", "source": {"ports": [80]}},
                {"action": "Allow", "protocol": "TCP"},
                {"action": "Pass", "ipVersion": 5},
                {"action": "Log", "destination": {"notSelector": "("}},
            ],
            "egress": [{"action": "Allow", "icmp": {"type": 8}}],
        }),
    );
    use policy_model::Action::{Allow, Deny};
    assert_eq!(
        shape(&compiled.policy.ingress),
        [(Deny, 1, true), (Allow, 2, false), (Deny, 3, true)]
    );
    assert_eq!(shape(&compiled.policy.egress), []);
    assert!(compiled.policy.applies_egress, "the direction stays isolated");
    let fields: Vec<&str> = compiled.faults.iter().map(|f| f.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.ingress[0].source.selector",
            "spec.ingress[1].source.ports",
            "spec.ingress[3].ipVersion",
            "spec.ingress[4].destination.notSelector",
            "spec.egress[0].icmp",
        ]
    );
}

#[test]
fn a_dropped_rule_does_not_change_the_default_directions() {
    let spec = json!({"egress": [{"action": "Allow", "destination": {"selector": "("}}]});
    let policy = compiled("NetworkPolicy", "ns", spec).policy;
    assert!(policy.applies_egress && policy.egress.is_empty());
}

#[test]
fn a_service_without_a_namespace_is_a_fault_in_a_global_policy() {
    let spec = json!({"egress": [
        {"action": "Allow", "destination": {"services": {"name": "s"}}},
        {"action": "Deny", "destination": {"services": {"name": "s"}}},
    ]});
    let compiled = compiled("GlobalNetworkPolicy", "", spec);
    assert_eq!(shape(&compiled.policy.egress), [(RuleAction::Deny, 1, true)]);
    assert_eq!(
        compiled.faults[0].field,
        "spec.egress[0].destination.services.namespace"
    );
    assert_eq!(compiled.faults.len(), 2);
}

#[test]
fn http_rules_are_never_widened() {
    let http = json!({"methods": ["GET"]});
    let spec = json!({"ingress": [
        {"action": "Allow", "protocol": "TCP", "http": http},
        {"action": "Deny", "protocol": "TCP", "http": http},
        {"action": "Pass", "protocol": "UDP", "http": http},
        {"action": "Log", "protocol": "TCP", "http": http},
        {"action": "Allow", "protocol": "TCP", "http": {}},
    ]});
    let compiled = compiled("NetworkPolicy", "ns", spec);
    use policy_model::Action::{Allow, Deny, Log};
    let expected = [
        (Deny, 1, false),
        (Deny, 2, false),
        (Log, 3, false),
        (Allow, 4, false),
    ];
    assert_eq!(shape(&compiled.policy.ingress), expected);
    assert_eq!(compiled.policy.ingress[1].protocol, Some(Protocol::UDP));
    assert_eq!(compiled.faults.len(), 4);
    assert_eq!(compiled.faults[0].field, "spec.ingress[0].http");
}

#[test]
fn a_faulty_subject_refuses_the_policy() {
    let error = compile_policy(&resource("NetworkPolicy", "ns", json!({"selector": "a ="}))).unwrap_err();
    assert_eq!(error.faults.len(), 1, "{error}");
    assert!(
        error
            .to_string()
            .starts_with("NetworkPolicy/ns/p: spec.selector: invalid selector 'a ='"),
        "{error}"
    );
    for field in ["selector", "namespaceSelector", "serviceAccountSelector"] {
        let error = compile_policy(&resource("GlobalNetworkPolicy", "", json!({field: "("}))).unwrap_err();
        assert_eq!(error.faults[0].field, format!("spec.{field}"));
    }
    let error = compile_policy(&resource("NetworkPolicy", "", json!({}))).unwrap_err();
    assert_eq!(error.faults[0].field, "metadata.namespace");
}

#[test]
fn other_kinds_and_policies_of_other_hooks_compile_to_nothing() {
    assert_eq!(compile_policy(&resource("NetworkSet", "ns", json!({}))), Ok(None));
    for flag in ["doNotTrack", "preDNAT"] {
        let spec = json!({flag: true, "applyOnForward": true});
        assert_eq!(
            compile_policy(&resource("GlobalNetworkPolicy", "", spec)),
            Ok(None)
        );
    }
}
