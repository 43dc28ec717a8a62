//! Resources in few words, and their YAML.

use policy_model::{
    Action, EntityRule, GlobalNetworkPolicySpec, NetworkPolicySpec, Object, PolicyRule, PolicyType,
    ProfileSpec, Resource, WorkloadEndpointSpec,
};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Labels, written `key=value` with spaces between.
pub fn labels(text: &str) -> BTreeMap<String, String> {
    let pair = |pair: &str| pair.split_once('=').map(|(k, v)| (k.to_string(), v.to_string()));
    text.split_whitespace().filter_map(pair).collect()
}

/// The workload endpoint of a pod.
pub fn endpoint(
    namespace: &str,
    name: &str,
    node: &str,
    interface: &str,
    addresses: &[IpAddr],
    with: &str,
) -> Resource {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_string(),
        node: node.to_string(),
        pod: name.to_string(),
        endpoint: "eth0".to_string(),
        ip_networks: addresses.iter().map(|a| (*a).into()).collect(),
        profiles: vec![format!("kns.{namespace}")],
        interface_name: interface.to_string(),
        ..WorkloadEndpointSpec::default()
    };
    let mut object = Object::namespaced(namespace, name, spec);
    object.metadata.labels = labels(with);
    object.into()
}

/// A namespace's profile, which allows everything both ways.
pub fn open_profile(namespace: &str) -> Resource {
    let allow = || {
        vec![PolicyRule {
            action: Action::Allow,
            ..PolicyRule::default()
        }]
    };
    let spec = ProfileSpec {
        ingress: allow(),
        egress: allow(),
        labels_to_apply: labels(&format!(
            "pcns.projectcalico.org/name={namespace} pcns.team={namespace}"
        )),
    };
    Object::named(format!("kns.{namespace}"), spec).into()
}

/// A policy of a namespace.
pub fn policy(namespace: &str, name: &str, spec: NetworkPolicySpec) -> Resource {
    Object::namespaced(namespace, name, spec).into()
}

/// A policy of the cluster.
pub fn global_policy(name: &str, spec: GlobalNetworkPolicySpec) -> Resource {
    Object::named(name, spec).into()
}

/// A policy for traffic to the selected endpoints of a namespace.
pub fn ingress(selector: &str, rules: Vec<PolicyRule>) -> NetworkPolicySpec {
    NetworkPolicySpec {
        selector: selector.to_string(),
        types: vec![PolicyType::Ingress],
        ingress: rules,
        ..NetworkPolicySpec::default()
    }
}

/// A policy for traffic from the selected endpoints of a namespace.
pub fn egress(selector: &str, rules: Vec<PolicyRule>) -> NetworkPolicySpec {
    NetworkPolicySpec {
        selector: selector.to_string(),
        types: vec![PolicyType::Egress],
        egress: rules,
        ..NetworkPolicySpec::default()
    }
}

/// A side that selects.
pub fn selected(selector: &str) -> EntityRule {
    EntityRule {
        selector: selector.to_string(),
        ..EntityRule::default()
    }
}

/// A side that names networks or addresses, with spaces between.
pub fn nets(text: &str) -> EntityRule {
    let address = |n: &str| n.parse::<IpAddr>().expect("a network").into();
    let nets = text
        .split_whitespace()
        .map(|n| n.parse().unwrap_or_else(|_| address(n)))
        .collect();
    EntityRule {
        nets,
        ..EntityRule::default()
    }
}

/// A rule that allows from a source.
pub fn allow_from(source: EntityRule) -> PolicyRule {
    PolicyRule {
        action: Action::Allow,
        source,
        ..PolicyRule::default()
    }
}

/// A rule that allows to a destination.
pub fn allow_to(destination: EntityRule) -> PolicyRule {
    PolicyRule {
        action: Action::Allow,
        destination,
        ..PolicyRule::default()
    }
}

/// Resources as YAML, one document each.
pub fn yaml(resources: &[Resource]) -> String {
    let one = |r: &Resource| serde_norway::to_string(&r.to_value()).expect("YAML");
    resources.iter().map(one).collect::<Vec<_>>().join("---\n")
}
