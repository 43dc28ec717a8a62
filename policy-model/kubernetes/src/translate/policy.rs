//! A Kubernetes NetworkPolicy as a policy of ours.
//!
//! A rule of Kubernetes is a list of peers times a list of ports, all allowed; a rule of ours has one peer and one
//! protocol. So one rule becomes several, in the order of the peers and, within each, of the protocol numbers.

use super::{Translation, bounded_name, selector};
use crate::manifest::{check_egress_rule, check_ingress_rule, check_subject, is_policy_type};
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec as KubernetesSpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use policy_model::{
    Action, DEFAULT_TIER, EntityRule, FieldError, KUBERNETES_POLICY_ORDER, KUBERNETES_POLICY_PREFIX,
    Metadata, NetworkPolicySpec, Object, PolicyRule, PolicyType, Port, PortRange, Protocol,
};
use std::collections::BTreeMap;

pub(super) fn policy(policy: &NetworkPolicy) -> Translation {
    let mut faults = Vec::new();
    check_subject(policy, &mut faults);
    if !faults.is_empty() {
        // Whom it selects cannot be told, so nothing can be enforced.
        return Translation {
            resources: Vec::new(),
            faults,
        };
    }
    let empty = KubernetesSpec::default();
    let spec = policy.spec.as_ref().unwrap_or(&empty);
    let types = types(spec);
    let Expanded { ingress, egress } = expanded(spec, &types, &mut faults);
    let rules = |list: Vec<(usize, PolicyRule)>| list.into_iter().map(|(_, rule)| rule).collect();
    let spec = NetworkPolicySpec {
        tier: DEFAULT_TIER.to_string(),
        order: Some(KUBERNETES_POLICY_ORDER),
        selector: selector::pods(spec.pod_selector.as_ref()),
        types,
        ingress: rules(ingress),
        egress: rules(egress),
        ..NetworkPolicySpec::default()
    };
    let name = policy.metadata.name.as_deref().unwrap_or_default();
    let metadata = Metadata {
        name: bounded_name(format!("{KUBERNETES_POLICY_PREFIX}{name}")),
        namespace: policy
            .metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_string()),
        uid: policy.metadata.uid.clone().unwrap_or_default(),
        ..Metadata::default()
    };
    Translation {
        resources: vec![Object { metadata, spec }.into()],
        faults,
    }
}

/// A Kubernetes policy as its author wrote it, for whoever has to speak of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenPolicy {
    /// The name in its manifest.
    pub name: String,
    /// For each rule of the translation's `ingress`: the position, from 0, of the rule in the manifest's `ingress` that
    /// it was made of.
    pub ingress: Vec<usize>,
    /// The same for `egress`.
    pub egress: Vec<usize>,
}

/// Where the rules of a policy's translation come from.
///
/// Found by translating again, so that nothing about it is in the resource: agents compare resources, and a rule that
/// only moved in its manifest must not look changed to them.
pub(crate) fn written(policy: &NetworkPolicy) -> WrittenPolicy {
    let empty = KubernetesSpec::default();
    let spec = policy.spec.as_ref().unwrap_or(&empty);
    let Expanded { ingress, egress } = expanded(spec, &types(spec), &mut Vec::new());
    let positions = |list: Vec<(usize, PolicyRule)>| list.into_iter().map(|(position, _)| position).collect();
    WrittenPolicy {
        name: policy.metadata.name.clone().unwrap_or_default(),
        ingress: positions(ingress),
        egress: positions(egress),
    }
}

/// The rules of both directions, each with the position of the rule that it was made of.
struct Expanded {
    ingress: Vec<(usize, PolicyRule)>,
    egress: Vec<(usize, PolicyRule)>,
}

/// Rules of a direction that is not named have no effect in Kubernetes, and are left out.
fn expanded(spec: &KubernetesSpec, types: &[PolicyType], faults: &mut Vec<FieldError>) -> Expanded {
    let mut ingress = Vec::new();
    for (n, rule) in spec.ingress.iter().flatten().enumerate() {
        if accepted(|out| check_ingress_rule(n, rule, out), faults) && types.contains(&PolicyType::Ingress) {
            let made = rules(Side::Source, rule.from.as_deref(), rule.ports.as_deref());
            ingress.extend(made.into_iter().map(|made| (n, made)));
        }
    }
    let mut egress = Vec::new();
    for (n, rule) in spec.egress.iter().flatten().enumerate() {
        if accepted(|out| check_egress_rule(n, rule, out), faults) && types.contains(&PolicyType::Egress) {
            let made = rules(Side::Destination, rule.to.as_deref(), rule.ports.as_deref());
            egress.extend(made.into_iter().map(|made| (n, made)));
        }
    }
    Expanded { ingress, egress }
}

/// Whether a check found nothing; what it found is kept.
fn accepted(check: impl FnOnce(&mut Vec<FieldError>), faults: &mut Vec<FieldError>) -> bool {
    let before = faults.len();
    check(faults);
    faults.len() == before
}

/// The directions: those named, else Ingress, and Egress too where egress rules are written.
fn types(spec: &KubernetesSpec) -> Vec<PolicyType> {
    let mut types: Vec<PolicyType> = spec
        .policy_types
        .iter()
        .flatten()
        .filter_map(|t| is_policy_type(t))
        .collect();
    if types.is_empty() {
        types.push(PolicyType::Ingress);
        if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
            types.push(PolicyType::Egress);
        }
    }
    types.sort_unstable();
    types.dedup();
    types
}

/// On which side of a packet the peer stands.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

fn rules(
    side: Side,
    peers: Option<&[NetworkPolicyPeer]>,
    ports: Option<&[NetworkPolicyPort]>,
) -> Vec<PolicyRule> {
    let peers: Vec<EntityRule> = match peers {
        // No list and an empty list alike mean everyone.
        None | Some([]) => vec![EntityRule::default()],
        Some(list) => list.iter().map(peer).collect(),
    };
    let ports = ports_by_protocol(ports.unwrap_or_default());
    let last = ports.len();
    let mut out = Vec::with_capacity(peers.len() * ports.len());
    for mut peer in peers {
        for (place, (protocol, ports)) in (1..).zip(&ports) {
            let peer = if place == last {
                std::mem::take(&mut peer)
            } else {
                peer.clone()
            };
            let (source, mut destination) = match side {
                Side::Source => (peer, EntityRule::default()),
                Side::Destination => (EntityRule::default(), peer),
            };
            destination.ports.clone_from(ports);
            out.push(PolicyRule {
                action: Action::Allow,
                protocol: *protocol,
                source,
                destination,
                ..PolicyRule::default()
            });
        }
    }
    out
}

fn peer(peer: &NetworkPolicyPeer) -> EntityRule {
    let NetworkPolicyPeer {
        ip_block,
        namespace_selector,
        pod_selector,
    } = peer;
    if let Some(IPBlock { cidr, except }) = ip_block {
        // What cannot be read was refused before; `nets` is never left empty by it, which would mean everyone.
        let nets = host_bits_cleared(cidr).into_iter().collect();
        let not_nets = except
            .iter()
            .flatten()
            .filter_map(|text| host_bits_cleared(text))
            .collect();
        return EntityRule {
            nets,
            not_nets,
            ..EntityRule::default()
        };
    }
    EntityRule {
        selector: selector::pods(pod_selector.as_ref()),
        namespace_selector: selector::namespaces(namespace_selector.as_ref()),
        ..EntityRule::default()
    }
}

/// A network with its host bits cleared, as Kubernetes reads `ipBlock`; none for anything else.
pub(crate) fn host_bits_cleared(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().map(|net| net.trunc())
}

/// The ports by protocol; one entry without protocol and ports where none are listed (all traffic).
///
/// A protocol that is listed once without a port has no ports: all of it is meant.
fn ports_by_protocol(ports: &[NetworkPolicyPort]) -> Vec<(Option<Protocol>, Vec<Port>)> {
    if ports.is_empty() {
        return vec![(None, Vec::new())];
    }
    let mut found: BTreeMap<Protocol, Option<Vec<Port>>> = BTreeMap::new();
    for entry in ports {
        let protocol = match entry.protocol.as_deref() {
            None | Some("TCP") => Protocol::TCP,
            Some("UDP") => Protocol::UDP,
            Some("SCTP") => Protocol::SCTP,
            // Refused before.
            Some(_) => continue,
        };
        let listed = found.entry(protocol).or_insert_with(|| Some(Vec::new()));
        match &entry.port {
            None => *listed = None,
            Some(port) => {
                if let (Some(list), Some(port)) = (listed, self::port(port, entry.end_port))
                    && !list.contains(&port)
                {
                    list.push(port);
                }
            }
        }
    }
    // A list of which nothing could be read was refused before; were it kept, it would mean every port.
    let readable = |ports: &Option<Vec<Port>>| ports.as_ref().is_none_or(|list| !list.is_empty());
    found
        .into_iter()
        .filter(|(_, ports)| readable(ports))
        .map(|(protocol, ports)| (Some(protocol), ports.unwrap_or_default()))
        .collect()
}

fn port(port: &IntOrString, end: Option<i32>) -> Option<Port> {
    match port {
        IntOrString::Int(first) => {
            let first = u16::try_from(*first).ok()?;
            let last = end.map_or(Some(first), |end| u16::try_from(end).ok())?;
            PortRange::new(first, last).map(Port::Range)
        }
        IntOrString::String(name) => Some(Port::Name(name.clone())),
    }
}
