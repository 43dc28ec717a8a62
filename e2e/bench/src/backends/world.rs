//! Pods of a node, policies that select them, and pods of other nodes that these speak of, as many as are asked for.

use crate::shape::{HERE, allow};
use ipnet::IpNet;
use policy_model::{
    Action, GlobalNetworkPolicySpec, Object, PolicyRule, Port, PortRange, ProfileSpec, Protocol, Resource,
    WorkloadEndpointSpec,
};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Namespace of all pods, whose profile lets everything pass that no policy judges.
const NAMESPACE: &str = "bench";

/// How large the world is.
#[derive(Clone, Copy, Debug)]
pub(super) struct World {
    /// Pods of this node that policies select. One more, the last, is selected by none of them.
    pub(super) pods: usize,
    /// Policies, each of one pod, with two selectors.
    pub(super) policies: usize,
    /// Pods of other nodes that each selector selects.
    pub(super) members: usize,
    /// Whether each pod has an IPv6 address too.
    pub(super) both_families: bool,
}

impl World {
    /// How many selectors the policies have.
    pub(super) fn selectors(&self) -> usize {
        2 * self.policies
    }

    /// How many pods other nodes have.
    pub(super) fn remotes(&self) -> usize {
        self.selectors() * self.members
    }

    /// All objects.
    pub(super) fn all(&self) -> Vec<Resource> {
        let mut all = vec![profile()];
        all.extend((0..=self.pods).map(|n| self.local(n)));
        all.extend((0..self.remotes()).map(|n| self.remote(n, n)));
        all.extend((0..self.policies).map(|n| self.policy(n)));
        all
    }

    fn addresses(&self, subnet: u8, n: usize) -> Vec<IpNet> {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        let v4 = Ipv4Addr::from_bits((u32::from_be_bytes([10, subnet, 0, 0])) + n);
        let v6 = Ipv6Addr::new(0xfd00, u16::from(subnet), 0, 0, 0, 0, (n >> 16) as u16, n as u16);
        let v6 = self
            .both_families
            .then_some(IpNet::from(std::net::IpAddr::V6(v6)));
        [IpNet::from(std::net::IpAddr::V4(v4))]
            .into_iter()
            .chain(v6)
            .collect()
    }

    /// A pod of this node.
    fn local(&self, n: usize) -> Resource {
        let label = ("pod", format!("p{n}"));
        endpoint(
            HERE,
            &format!("pod-{n}"),
            interface(n),
            self.addresses(65, n + 2),
            label,
        )
    }

    /// A pod of another node, at the address of that number.
    pub(super) fn remote(&self, n: usize, at: usize) -> Resource {
        let label = ("peer", format!("s{}", n % self.selectors().max(1)));
        endpoint(
            "elsewhere",
            &format!("peer-{n}"),
            format!("calip{n}"),
            self.addresses(66, at),
            label,
        )
    }

    /// A policy of one of the pods, with a rule for each of its selectors.
    fn policy(&self, n: usize) -> Resource {
        let rule = |k: usize| on_port(allow(&format!("peer == 's{}'", 2 * n + k)), 1_000 + n + k);
        let spec = GlobalNetworkPolicySpec {
            selector: format!("pod == 'p{}'", n % self.pods.max(1)),
            ingress: vec![rule(0), rule(1)],
            ..GlobalNetworkPolicySpec::default()
        };
        Object::named(format!("policy-{n:04}"), spec).into()
    }

    /// A policy that lets every pod of other nodes into the pod that no other selects.
    pub(super) fn for_everybody(&self) -> Resource {
        let spec = GlobalNetworkPolicySpec {
            selector: format!("pod == 'p{}'", self.pods),
            ingress: vec![on_port(allow("has(peer)"), 80)],
            ..GlobalNetworkPolicySpec::default()
        };
        Object::named("everybody", spec).into()
    }
}

/// The interface of a pod of this node.
fn interface(n: usize) -> String {
    format!(
        "cali{:011x}",
        (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a) & 0xfff_ffff_ffff
    )
}

/// A rule for one TCP port.
pub(super) fn on_port(mut rule: PolicyRule, port: usize) -> PolicyRule {
    rule.protocol = Some(Protocol::TCP);
    rule.destination.ports = vec![Port::Range(PortRange::single(u16::try_from(port).unwrap_or(0)))];
    rule
}

fn profile() -> Resource {
    let rules = vec![PolicyRule {
        action: Action::Allow,
        ..PolicyRule::default()
    }];
    let spec = ProfileSpec {
        ingress: rules.clone(),
        egress: rules,
        labels_to_apply: BTreeMap::new(),
    };
    Object::named(format!("kns.{NAMESPACE}"), spec).into()
}

fn endpoint(
    node: &str,
    name: &str,
    interface: String,
    addresses: Vec<IpNet>,
    (key, value): (&str, String),
) -> Resource {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_string(),
        node: node.to_string(),
        pod: name.to_string(),
        endpoint: "eth0".to_string(),
        ip_networks: addresses,
        profiles: vec![format!("kns.{NAMESPACE}")],
        interface_name: interface,
        ..WorkloadEndpointSpec::default()
    };
    let mut object = Object::namespaced(NAMESPACE, format!("{node}-k8s-{name}-eth0"), spec);
    object.metadata.labels.insert(key.to_string(), value);
    object.into()
}
