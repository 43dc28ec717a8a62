//! Objects of a small cluster, in few words each.

use ipnet::IpNet;
use policy_model::{
    Action, AllocationAttribute, EndpointPort, EntityRule, GlobalNetworkPolicySpec, IpamBlockSpec,
    NetworkPolicySpec, NodeBgpSpec, NodeSpec, Object, PolicyRule, PolicyType, Port, ProfileSpec, Protocol,
    Resource, ServiceEndpointsSpec, ServicePort, TierSpec, WorkloadEndpointSpec,
};
use std::collections::BTreeMap;

pub(crate) fn labels(text: &str) -> BTreeMap<String, String> {
    let pair = |pair: &str| {
        pair.split_once('=')
            .map(|(key, value)| (key.to_string(), value.to_string()))
    };
    text.split_whitespace().filter_map(pair).collect()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A workload endpoint of the namespace `shop` with the profile `kns.shop`.
pub(crate) fn endpoint(name: &str, node: &str, nets: &[&str], with: &str) -> Object<WorkloadEndpointSpec> {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_string(),
        node: node.to_string(),
        pod: name.to_string(),
        ip_networks: nets.iter().map(|text| net(text)).collect(),
        profiles: vec!["kns.shop".to_string()],
        interface_name: format!("cali{name}"),
        ..WorkloadEndpointSpec::default()
    };
    let mut object = Object::namespaced("shop", name, spec);
    object.metadata.labels = labels(with);
    object
}

pub(crate) fn named_port(name: &str, port: u16) -> EndpointPort {
    EndpointPort {
        name: name.to_string(),
        protocol: Protocol::TCP,
        port,
        host_port: 0,
        host_ip: String::new(),
    }
}

pub(crate) fn profile(name: &str, with: &str) -> Resource {
    let spec = ProfileSpec {
        ingress: vec![],
        egress: vec![allow(side(""))],
        labels_to_apply: labels(with),
    };
    Object::named(name, spec).into()
}

pub(crate) fn side(selector: &str) -> EntityRule {
    EntityRule {
        selector: selector.to_string(),
        ..EntityRule::default()
    }
}

/// A rule that allows from a source.
pub(crate) fn allow(source: EntityRule) -> PolicyRule {
    PolicyRule {
        action: Action::Allow,
        source,
        ..PolicyRule::default()
    }
}

/// A rule that allows TCP from anywhere to a port of a name on this side.
pub(crate) fn allow_port(selector: &str, port: &str) -> PolicyRule {
    let destination = EntityRule {
        ports: vec![Port::Name(port.to_string())],
        ..side(selector)
    };
    PolicyRule {
        action: Action::Allow,
        protocol: Some(Protocol::TCP),
        destination,
        ..PolicyRule::default()
    }
}

pub(crate) fn policy(name: &str, selector: &str, ingress: Vec<PolicyRule>) -> Object<NetworkPolicySpec> {
    let spec = NetworkPolicySpec {
        selector: selector.to_string(),
        ingress,
        ..NetworkPolicySpec::default()
    };
    Object::namespaced("shop", name, spec)
}

pub(crate) fn global_policy(
    name: &str,
    tier: &str,
    order: Option<f64>,
    selector: &str,
) -> Object<GlobalNetworkPolicySpec> {
    let spec = GlobalNetworkPolicySpec {
        tier: tier.to_string(),
        order,
        selector: selector.to_string(),
        types: vec![PolicyType::Ingress, PolicyType::Egress],
        ingress: vec![allow(side("role == 'client'"))],
        egress: vec![PolicyRule {
            action: Action::Pass,
            ..PolicyRule::default()
        }],
        ..GlobalNetworkPolicySpec::default()
    };
    Object::named(name, spec)
}

pub(crate) fn tier(name: &str, order: Option<f64>) -> Resource {
    Object::named(
        name,
        TierSpec {
            order,
            default_action: None,
        },
    )
    .into()
}

/// A node in another subnet, with tunnel devices by its own word.
pub(crate) fn tunnel_node(name: &str, ipv4: &str, ipip: &str, vxlan: &str) -> Resource {
    let bgp = NodeBgpSpec {
        ipv4_address: Some(net(ipv4)),
        ipv4_ipip_tunnel_addr: ipip.parse().ok(),
        ..NodeBgpSpec::default()
    };
    let spec = NodeSpec {
        bgp: Some(bgp),
        ipv4_vxlan_tunnel_addr: vxlan.parse().ok(),
        ..NodeSpec::default()
    };
    Object::named(name, spec).into()
}

pub(crate) fn node(name: &str, ipv4: &str, ipv6: Option<&str>) -> Resource {
    let bgp = NodeBgpSpec {
        ipv4_address: Some(net(ipv4)),
        ipv6_address: ipv6.map(net),
        ..NodeBgpSpec::default()
    };
    Object::named(
        name,
        NodeSpec {
            bgp: Some(bgp),
            ..NodeSpec::default()
        },
    )
    .into()
}

/// A block with addresses of pods of the namespace `shop`, by ordinal.
pub(crate) fn block(name: &str, cidr: &str, node: Option<&str>, pods: &[(usize, &str)]) -> Resource {
    let cidr = net(cidr);
    let size = 1 << (cidr.max_prefix_len() - cidr.prefix_len());
    let mut allocations = vec![None; size];
    let mut attributes = Vec::new();
    for (ordinal, pod) in pods {
        allocations[*ordinal] = Some(attributes.len() as u32);
        // With "=" in it, it is no pod's name but what the attributes say.
        let text = if pod.contains('=') {
            (*pod).to_string()
        } else {
            format!("namespace=shop pod={pod}")
        };
        let secondary = labels(&text).into_iter().collect();
        attributes.push(AllocationAttribute {
            handle_id: None,
            secondary,
        });
    }
    let unallocated = (0..size as u32)
        .filter(|ordinal| allocations[*ordinal as usize].is_none())
        .collect();
    let spec = IpamBlockSpec {
        cidr,
        affinity: node.map(|node| format!("host:{node}")),
        strict_affinity: false,
        allocations,
        unallocated,
        attributes,
        sequence_number: 0,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
    };
    Object::named(name, spec).into()
}

pub(crate) fn service(slice: &str, name: &str, addresses: &[&str], ports: &[u16]) -> Resource {
    let port = |port: &u16| ServicePort {
        name: String::new(),
        protocol: Protocol::TCP,
        port: *port,
    };
    let spec = ServiceEndpointsSpec {
        service: name.to_string(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ports: ports.iter().map(port).collect(),
    };
    Object::namespaced("shop", slice, spec).into()
}
