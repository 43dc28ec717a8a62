//! A full node in a middling cluster: 110 pods in 60 groups, 500 policies, 20,000 addresses, a list of 1,000 networks.

use crate::shape::{HERE, allow};
use ipnet::{IpNet, Ipv4Net};
use policy_model::{
    Action, GlobalNetworkPolicySpec, GlobalSet, Key, Kind, NetworkSetSpec, Object, PolicyRule, Port,
    PortRange, ProfileSpec, Protocol, Resource, WorkloadEndpointSpec,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// Pods of the node.
pub const LOCAL: usize = 110;
/// Different applications among them: each has policies, and hence a group, of its own.
const APPLICATIONS: usize = 60;
/// Policies.
const POLICIES: usize = 500;
/// Pods of other nodes.
const REMOTE: usize = 20_000;
/// Different roles among all pods, each of which some policy allows.
const ROLES: usize = 300;
/// Namespaces of the other nodes' pods: 1,000 pods each.
pub const NAMESPACES: usize = 20;
/// Networks in the list.
const NETWORKS: usize = 1_000;

/// Everything.
pub fn all() -> Vec<Resource> {
    // One namespace has the colour that a policy asks for from the start, so that others can join it.
    let mut all: Vec<Resource> = (0..=NAMESPACES).map(|n| namespace(n, n == 0)).collect();
    all.extend((0..LOCAL).map(|n| local(n, Kin::Common)));
    all.extend((0..REMOTE).map(remote));
    all.push(networks(NETWORKS));
    all.extend((0..POLICIES).map(policy));
    all.push(policy_for_special());
    all.push(policy_with_new_selector());
    all.push(policy_by_colour());
    all.push(policy_by_networks());
    all
}

/// A namespace, whose pods are red or not.
pub fn namespace(n: usize, red: bool) -> Resource {
    let rules = vec![PolicyRule {
        action: Action::Allow,
        ..PolicyRule::default()
    }];
    let colour = if red { "red" } else { "none" };
    let labels = BTreeMap::from([("pcns.colour".to_string(), colour.to_string())]);
    let spec = ProfileSpec {
        ingress: rules.clone(),
        egress: rules,
        labels_to_apply: labels,
    };
    Object::named(format!("kns.ns-{n}"), spec).into()
}

/// What sets a pod of the node apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kin {
    /// Nothing: others have the same policies.
    Common,
    /// One more policy, whose selectors are all in force already: a new group.
    OwnGroup,
    /// One more policy, with a selector that is not in force yet and selects every pod of the cluster.
    NewSelector,
}

/// A pod of the node.
pub fn local(n: usize, kin: Kin) -> Resource {
    let address = Ipv4Addr::from_bits(0x0a41_0000 + u32::try_from(n).unwrap_or(0));
    let mut object = endpoint(HERE, NAMESPACES, &format!("local-{n}"), address);
    let labels = &mut object.metadata.labels;
    labels.insert("app".to_string(), format!("app-{}", n % APPLICATIONS));
    labels.insert("role".to_string(), format!("role-{}", n % ROLES));
    match kin {
        Kin::Common => {}
        Kin::OwnGroup => {
            labels.insert("special".to_string(), "yes".to_string());
        }
        Kin::NewSelector => {
            labels.insert("special".to_string(), "new".to_string());
        }
    }
    object.into()
}

/// Key of a pod of the node.
pub fn local_key(n: usize) -> Key {
    Key::namespaced(
        Kind::WorkloadEndpoint,
        format!("ns-{NAMESPACES}"),
        format!("{HERE}-k8s-local-{n}-eth0"),
    )
}

/// A pod of another node.
pub fn remote(n: usize) -> Resource {
    let address = Ipv4Addr::from_bits(0x0a42_0000 + u32::try_from(n).unwrap_or(0));
    let mut object = endpoint("elsewhere", n % NAMESPACES, &format!("remote-{n}"), address);
    // Another stride than the namespaces', so that every namespace has pods of every role.
    object
        .metadata
        .labels
        .insert("role".to_string(), format!("role-{}", (n / NAMESPACES) % ROLES));
    object.into()
}

fn endpoint(node: &str, namespace: usize, name: &str, address: Ipv4Addr) -> Object<WorkloadEndpointSpec> {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_string(),
        node: node.to_string(),
        pod: name.to_string(),
        endpoint: "eth0".to_string(),
        ip_networks: vec![IpNet::from(IpAddr::from(address))],
        profiles: vec![format!("kns.ns-{namespace}")],
        interface_name: format!("cali{:x}", address.to_bits()),
        ..WorkloadEndpointSpec::default()
    };
    Object::namespaced(format!("ns-{namespace}"), format!("{node}-k8s-{name}-eth0"), spec)
}

/// The list of networks, so many of them.
pub fn networks(number: usize) -> Resource {
    let net = |n: usize| {
        // Every second network of 24 bits, so that no two touch.
        let first = 0xac10_0000 + (u32::try_from(n).unwrap_or(0) << 9);
        Ipv4Net::new(Ipv4Addr::from_bits(first), 24).map(IpNet::from)
    };
    let spec = NetworkSetSpec {
        nets: (0..number).filter_map(|n| net(n).ok()).collect(),
    };
    let mut object = Object::named("partners", GlobalSet(spec));
    object
        .metadata
        .labels
        .insert("partners".to_string(), "yes".to_string());
    object.into()
}

/// The list of networks and some more.
pub fn networks_and(more: usize) -> Resource {
    networks(NETWORKS + more)
}

fn on_port(mut rule: PolicyRule, port: usize) -> PolicyRule {
    rule.protocol = Some(Protocol::TCP);
    rule.destination.ports = vec![Port::Range(PortRange::single(u16::try_from(port).unwrap_or(0)))];
    rule
}

fn named(name: String, selector: String, rule: PolicyRule) -> Resource {
    let spec = GlobalNetworkPolicySpec {
        selector,
        ingress: vec![rule],
        ..GlobalNetworkPolicySpec::default()
    };
    Object::named(name, spec).into()
}

fn policy(n: usize) -> Resource {
    let rule = on_port(allow(&format!("role == 'role-{}'", n % ROLES)), 8_000 + n % 40);
    named(
        format!("policy-{n:03}"),
        format!("app == 'app-{}'", n % APPLICATIONS),
        rule,
    )
}

/// Asks for every role, each by the selector that another policy has in force already.
fn policy_for_special() -> Resource {
    let rules = (0..ROLES).map(|n| on_port(allow(&format!("role == 'role-{n}'")), 9_000));
    let spec = GlobalNetworkPolicySpec {
        selector: "special == 'yes'".to_string(),
        ingress: rules.collect(),
        ..GlobalNetworkPolicySpec::default()
    };
    Object::named("special", spec).into()
}

/// Asks for all pods by a selector that nobody else has.
fn policy_with_new_selector() -> Resource {
    named(
        "new".to_string(),
        "special == 'new'".to_string(),
        on_port(allow("has(role)"), 9_003),
    )
}

fn policy_by_colour() -> Resource {
    named(
        "colour".to_string(),
        "app == 'app-1'".to_string(),
        on_port(allow("pcns.colour == 'red'"), 9_001),
    )
}

fn policy_by_networks() -> Resource {
    named(
        "partners".to_string(),
        "app == 'app-2'".to_string(),
        on_port(allow("has(partners)"), 9_002),
    )
}
