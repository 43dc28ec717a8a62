//! The objects of the benchmark: the shape of Felix's own, with a profile for each namespace.

use ipnet::IpNet;
use policy_model::{
    Action, EntityRule, GlobalNetworkPolicySpec, Object, PolicyRule, ProfileSpec, Resource,
    WorkloadEndpointSpec,
};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// How many endpoints are on the node that is calculated for.
pub(crate) const LOCAL: usize = 200;
/// How many different marker labels there are.
pub(crate) const MARKERS: usize = 31;
/// How many namespaces there are.
pub(crate) const NAMESPACES: usize = 100;

/// Everything, in one order or the other.
pub(crate) fn all(endpoints: usize, policies: usize, policies_first: bool) -> Vec<Resource> {
    let mut resources: Vec<Resource> = (0..endpoints).map(|n| endpoint(n, n % MARKERS)).collect();
    resources.extend((0..NAMESPACES).map(|n| namespace(n, "a")));
    resources.extend((0..policies).map(policy));
    if policies_first {
        resources.reverse();
    }
    resources
}

pub(crate) fn name(n: usize) -> String {
    format!("node--{}-k8s-pod--{n}-eth0", n / 110)
}

pub(crate) fn endpoint(n: usize, marker: usize) -> Resource {
    let mut object = Object::namespaced(
        format!("ns-{}", n % NAMESPACES),
        name(n),
        WorkloadEndpointSpec {
            orchestrator: "k8s".to_string(),
            node: if n < LOCAL {
                "here".to_string()
            } else {
                format!("node-{}", n / 110)
            },
            pod: format!("pod-{n}"),
            endpoint: "eth0".to_string(),
            ip_networks: vec![IpNet::from(std::net::IpAddr::from(Ipv4Addr::from_bits(
                0x0a00_0000 + n as u32,
            )))],
            profiles: vec![format!("kns.ns-{}", n % NAMESPACES)],
            interface_name: format!("cali{n:011x}"),
            ..WorkloadEndpointSpec::default()
        },
    );
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
        .insert(format!("marker-{marker}"), "true".to_string());
    object.into()
}

pub(crate) fn namespace(n: usize, team: &str) -> Resource {
    let labels = BTreeMap::from([
        ("pcns.projectcalico.org/name".to_string(), format!("ns-{n}")),
        ("pcns.team".to_string(), team.to_string()),
    ]);
    let rules = vec![PolicyRule {
        action: Action::Allow,
        ..PolicyRule::default()
    }];
    Object::named(
        format!("kns.ns-{n}"),
        ProfileSpec {
            ingress: rules.clone(),
            egress: rules,
            labels_to_apply: labels,
        },
    )
    .into()
}

pub(crate) fn allow(selector: &str) -> PolicyRule {
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

pub(crate) fn policy(n: usize) -> Resource {
    let spec = GlobalNetworkPolicySpec {
        selector: format!("has(marker-{})", n % MARKERS),
        ingress: (1..=5)
            .map(|k| allow(&format!("has(marker-{})", (n + k) % MARKERS)))
            .collect(),
        ..GlobalNetworkPolicySpec::default()
    };
    Object::named(format!("policy-{n:05}"), spec).into()
}
