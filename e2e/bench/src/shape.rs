//! A large cluster in the shape that Felix's own benchmark has: six labels an endpoint, policies that select by one
//! marker label and allow from five others.

use ipnet::IpNet;
use policy_model::{
    Action, EntityRule, GlobalNetworkPolicySpec, Key, Kind, Object, PolicyRule, ProfileSpec, Resource,
    WorkloadEndpointSpec,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// Name of the node that is calculated for.
pub const HERE: &str = "here";
/// How many endpoints are on that node.
pub const LOCAL: usize = 200;
/// How many different marker labels there are.
const MARKERS: usize = 31;
/// How many namespaces there are: 2,500 endpoints each, of 250,000.
pub const NAMESPACES: usize = 100;

/// Everything, made one by one.
pub fn all(endpoints: usize, policies: usize, policies_first: bool) -> Box<dyn Iterator<Item = Resource>> {
    let endpoints = (0..endpoints).map(|n| endpoint(n, n));
    let namespaces = (0..NAMESPACES).map(|n| namespace(n, "a"));
    let policies = (0..policies).map(policy);
    if policies_first {
        Box::new(policies.rev().chain(namespaces).chain(endpoints.rev()))
    } else {
        Box::new(endpoints.chain(namespaces).chain(policies))
    }
}

/// One endpoint; `marker` is the number of its marker label, counted round.
pub fn endpoint(n: usize, marker: usize) -> Resource {
    let address = Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(n).unwrap_or(u32::MAX));
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_string(),
        node: if n < LOCAL {
            HERE.to_string()
        } else {
            format!("node-{}", n / 110)
        },
        pod: format!("pod-{n}"),
        endpoint: "eth0".to_string(),
        ip_networks: vec![IpNet::from(IpAddr::from(address))],
        profiles: vec![format!("kns.ns-{}", n % NAMESPACES)],
        interface_name: format!("cali{n:011x}"),
        ..WorkloadEndpointSpec::default()
    };
    let mut object = Object::namespaced(format!("ns-{}", n % NAMESPACES), name(n), spec);
    for (key, values) in [
        ("ten", 10),
        ("eleven", 11),
        ("twenty", 20),
        ("thirty", 30),
        ("forty", 40),
    ] {
        object
            .metadata
            .labels
            .insert(key.to_string(), format!("value-{}", n % values));
    }
    object
        .metadata
        .labels
        .insert(format!("marker-{}", marker % MARKERS), "true".to_string());
    object.into()
}

fn name(n: usize) -> String {
    format!("node--{}-k8s-pod--{n}-eth0", n / 110)
}

/// The key of an endpoint.
pub fn endpoint_key(n: usize) -> Key {
    Key::namespaced(Kind::WorkloadEndpoint, format!("ns-{}", n % NAMESPACES), name(n))
}

/// The profile of a namespace, whose labels its endpoints inherit.
pub fn namespace(n: usize, team: &str) -> Resource {
    let labels = BTreeMap::from([
        ("pcns.projectcalico.org/name".to_string(), format!("ns-{n}")),
        ("pcns.team".to_string(), team.to_string()),
    ]);
    let rules = vec![PolicyRule {
        action: Action::Allow,
        ..PolicyRule::default()
    }];
    let spec = ProfileSpec {
        ingress: rules.clone(),
        egress: rules,
        labels_to_apply: labels,
    };
    Object::named(format!("kns.ns-{n}"), spec).into()
}

/// A rule that allows from what a selector selects.
pub fn allow(selector: &str) -> PolicyRule {
    let source = EntityRule {
        selector: selector.to_string(),
        ..EntityRule::default()
    };
    PolicyRule {
        action: Action::Allow,
        source,
        ..PolicyRule::default()
    }
}

/// One policy.
pub fn policy(n: usize) -> Resource {
    let marker = |k: usize| format!("has(marker-{})", (n + k) % MARKERS);
    let spec = GlobalNetworkPolicySpec {
        selector: marker(0),
        ingress: (1..=5).map(|k| allow(&marker(k))).collect(),
        ..GlobalNetworkPolicySpec::default()
    };
    Object::named(format!("policy-{n:05}"), spec).into()
}

/// A policy that asks for the namespaces' label.
pub fn policy_by_namespace() -> Resource {
    let spec = GlobalNetworkPolicySpec {
        selector: "has(marker-0)".to_string(),
        ingress: vec![allow("pcns.team == 'b'")],
        ..GlobalNetworkPolicySpec::default()
    };
    Object::named("by-namespace", spec).into()
}
