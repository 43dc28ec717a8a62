//! One node whose server pods are selected by no, one, ten and up to 5,000 policies, all in force at once.
//!
//! Every policy allows one port from a selector of its own. The client is let in at a server's port by the last of that
//! server's policies only: whoever walks the policies must walk them all. Where they are ordered, each denies what another
//! selector selects before it allows anything.

use crate::backends::Backend;
use crate::hands::Hands;
use crate::shape::{HERE, allow};
use ipnet::IpNet;
use policy_model::{
    Action, GlobalNetworkPolicySpec, Object, PolicyRule, Port, PortRange, ProfileSpec, Protocol, Resource,
    WorkloadEndpointSpec,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// How many policies select each of the server pods.
pub const COUNTS: [usize; 6] = [0, 1, 10, 100, 500, 5_000];
/// How many policies there are.
pub const POLICIES: usize = 5_000;
/// How many pods of other nodes the policies speak of.
pub const PEERS: usize = 20_000;
/// The port at which the first server answers; each of the others answers at the next one.
const FIRST_PORT: u16 = 9_000;
/// Addresses of the client pod: two, because a run needs more flows than one has ports.
pub const CLIENT: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 65, 0, 2), Ipv4Addr::new(10, 65, 0, 3)];
/// The client's interface on the node.
pub const CLIENT_INTERFACE: &str = "caliclient";

/// Address of a server pod.
pub fn server(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 65, 0, 10 + u8::try_from(n).unwrap_or(0))
}

/// Interface of a server pod on the node.
pub fn server_interface(n: usize) -> String {
    format!("caliserver{n}")
}

/// Interfaces and addresses of all pods of the node, the client first.
pub fn pods() -> Vec<(String, Vec<IpAddr>)> {
    let client = (CLIENT_INTERFACE.to_string(), CLIENT.map(IpAddr::from).to_vec());
    let servers = (0..COUNTS.len()).map(|n| (server_interface(n), vec![server(n).into()]));
    std::iter::once(client).chain(servers).collect()
}

/// Address of a pod of another node.
pub fn peer(n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a42_0000 + u32::try_from(n).unwrap_or(0))
}

/// The port at which a server answers.
pub fn port(server: usize) -> u16 {
    FIRST_PORT + u16::try_from(server).unwrap_or(0)
}

/// The server whose last policy this is. It lets the client in there.
fn last_of(policy: usize) -> Option<usize> {
    COUNTS.iter().position(|count| *count == policy + 1)
}

/// Whether a policy lets the client in.
pub fn is_last(policy: usize) -> bool {
    last_of(policy).is_some()
}

/// The port that a policy opens.
pub fn port_of(policy: usize) -> u16 {
    last_of(policy).map_or(8_000 + u16::try_from(policy % 50).unwrap_or(0), port)
}

/// What the policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Style {
    /// They only allow.
    Allow,
    /// Each denies first, and their order decides.
    Ordered,
}

/// The policy whose allowed peers this one denies, where policies deny.
pub fn denied(policy: usize) -> usize {
    (policy + POLICIES / 2) % POLICIES
}

/// Brings the node's policies into force with the product's own code. Runs in the node's namespace.
///
/// # Errors
/// The kernel refused.
pub fn program(backend: Backend, style: Style) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut hands = Hands::open_with(HERE, backend.settings(folder.path()))?;
    hands.begin(resources(style)).map(drop)
}

fn resources(style: Style) -> Vec<Resource> {
    let mut all = vec![namespace()];
    let client = CLIENT.map(IpAddr::from);
    all.push(endpoint(
        "client",
        HERE,
        CLIENT_INTERFACE,
        &client,
        &[("client", "yes".to_string())],
    ));
    for (n, count) in COUNTS.iter().enumerate() {
        let labels = [("selected", format!("by-{count}"))];
        all.push(endpoint(
            &format!("server-{n}"),
            HERE,
            &server_interface(n),
            &[server(n).into()],
            &labels,
        ));
    }
    for n in 0..PEERS {
        let labels = [("peer", format!("p{}", n % POLICIES))];
        all.push(endpoint(
            &format!("peer-{n}"),
            "elsewhere",
            &format!("calip{n}"),
            &[peer(n).into()],
            &labels,
        ));
    }
    all.extend((0..POLICIES).map(|n| policy(n, style)));
    all
}

fn namespace() -> Resource {
    let rules = vec![PolicyRule {
        action: Action::Allow,
        ..PolicyRule::default()
    }];
    let spec = ProfileSpec {
        ingress: rules.clone(),
        egress: rules,
        labels_to_apply: BTreeMap::new(),
    };
    Object::named("kns.bench", spec).into()
}

fn endpoint(
    name: &str,
    node: &str,
    interface: &str,
    addresses: &[IpAddr],
    labels: &[(&str, String)],
) -> Resource {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_string(),
        node: node.to_string(),
        pod: name.to_string(),
        endpoint: "eth0".to_string(),
        ip_networks: addresses.iter().map(|a| IpNet::from(*a)).collect(),
        profiles: vec!["kns.bench".to_string()],
        interface_name: interface.to_string(),
        ..WorkloadEndpointSpec::default()
    };
    let mut object = Object::namespaced("bench", format!("{node}-k8s-{name}-eth0"), spec);
    object
        .metadata
        .labels
        .extend(labels.iter().map(|(k, v)| (k.to_string(), v.clone())));
    object.into()
}

fn policy(n: usize, style: Style) -> Resource {
    let selecting: Vec<String> = COUNTS
        .iter()
        .filter(|c| **c > n)
        .map(|c| format!("'by-{c}'"))
        .collect();
    let client = if is_last(n) { " || client == 'yes'" } else { "" };
    let mut ingress = Vec::new();
    if style == Style::Ordered {
        let mut rule = allow(&format!("peer == 'p{}'", denied(n)));
        rule.action = Action::Deny;
        ingress.push(rule);
    }
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let mut rule = allow(&format!("peer == 'p{n}'{client}"));
        rule.protocol = Some(protocol);
        rule.destination.ports = vec![Port::Range(PortRange::single(port_of(n)))];
        ingress.push(rule);
    }
    let spec = GlobalNetworkPolicySpec {
        order: (style == Style::Ordered).then_some(n as f64),
        selector: format!("selected in {{{}}}", selecting.join(", ")),
        ingress,
        ..GlobalNetworkPolicySpec::default()
    };
    Object::named(format!("policy-{n:05}"), spec).into()
}
