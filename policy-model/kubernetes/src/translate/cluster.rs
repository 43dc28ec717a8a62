//! Nodes and EndpointSlices: addresses of hosts, and addresses behind Services.

use super::Translation;
use crate::manifest::address;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use policy_model::{
    FieldError, Metadata, NodeAddress, NodeBgpSpec, NodeSpec, Object, OrchRef, Protocol,
    ServiceEndpointsSpec, ServicePort, parse_net,
};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

/// Beginning of the annotations by which a node says its addresses, tunnel ends and autonomous system.
pub(crate) const ANNOTATION_NODE_PREFIX: &str = "projectcalico.org/";
/// Label of an EndpointSlice that names its Service.
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(super) fn node(node: &Node) -> Translation {
    let mut faults = Vec::new();
    let mut spec = addressing(node, &mut faults);
    let name = node.metadata.name.clone().unwrap_or_default();
    spec.orch_refs = vec![OrchRef {
        node_name: name.clone(),
        orchestrator: "k8s".to_string(),
    }];
    for (n, found) in node
        .status
        .iter()
        .flat_map(|s| &s.addresses)
        .flatten()
        .enumerate()
    {
        if !matches!(found.type_.as_str(), "InternalIP" | "ExternalIP") {
            continue;
        }
        match address(&format!("status.addresses[{n}].address"), &found.address) {
            Ok(address) => spec.addresses.push(NodeAddress {
                address,
                address_type: found.type_.clone(),
            }),
            Err(fault) => faults.push(fault),
        }
    }
    let ranges = node.spec.iter().flat_map(|s| match s.pod_cidrs.as_deref() {
        // The first of `podCIDRs` is `podCIDR`, which is all that old API servers tell.
        Some(ranges) if !ranges.is_empty() => ranges,
        _ => s.pod_cidr.as_slice(),
    });
    for (n, range) in ranges.enumerate() {
        match parse_net(range) {
            Ok(range) => spec.pod_cidrs.push(range),
            Err(fault) => faults.push(FieldError::new(format!("spec.podCIDRs[{n}]"), fault.to_string())),
        }
    }
    let annotations = node.metadata.annotations.iter().flatten();
    let metadata = Metadata {
        name,
        labels: node.metadata.labels.clone().unwrap_or_default(),
        annotations: annotations
            .filter(|(key, _)| key.starts_with(ANNOTATION_NODE_PREFIX))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..Metadata::default()
    };
    Translation {
        resources: vec![Object { metadata, spec }.into()],
        faults,
    }
}

/// What a node's annotations say; what cannot be read is left out.
pub(crate) fn addressing(node: &Node, out: &mut Vec<FieldError>) -> NodeSpec {
    let empty = BTreeMap::new();
    let mut annotations = Annotations {
        all: node.metadata.annotations.as_ref().unwrap_or(&empty),
        out,
    };
    let bgp = NodeBgpSpec {
        as_number: annotations.read("ASNumber", "autonomous system number"),
        ipv4_address: annotations.net("IPv4Address", IpAddr::is_ipv4),
        ipv6_address: annotations.net("IPv6Address", IpAddr::is_ipv6),
        ipv4_ipip_tunnel_addr: annotations.read("IPv4IPIPTunnelAddr", "IPv4 address"),
        route_reflector_cluster_id: annotations
            .text("RouteReflectorClusterID")
            .unwrap_or_default()
            .to_string(),
    };
    NodeSpec {
        bgp: (bgp != NodeBgpSpec::default()).then_some(bgp),
        ipv4_vxlan_tunnel_addr: annotations.read("IPv4VXLANTunnelAddr", "IPv4 address"),
        ipv6_vxlan_tunnel_addr: annotations.read("IPv6VXLANTunnelAddr", "IPv6 address"),
        vxlan_tunnel_mac_addr: annotations
            .text("VXLANTunnelMACAddr")
            .unwrap_or_default()
            .to_string(),
        ..NodeSpec::default()
    }
}

/// A node's annotations, read one by one.
struct Annotations<'a> {
    all: &'a BTreeMap<String, String>,
    out: &'a mut Vec<FieldError>,
}

impl Annotations<'_> {
    /// The text of an annotation; an empty one is as good as none.
    fn text(&self, name: &str) -> Option<&str> {
        self.all
            .get(&format!("{ANNOTATION_NODE_PREFIX}{name}"))
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    fn read<T: FromStr>(&mut self, name: &str, what: &str) -> Option<T> {
        let text = self.text(name)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(_) => {
                let why = format!("'{text}' is no {what}");
                self.refuse(name, why)
            }
        }
    }

    fn net(&mut self, name: &str, family: fn(&IpAddr) -> bool) -> Option<IpNet> {
        let text = self.text(name)?;
        match parse_net(text) {
            Ok(net) if family(&net.addr()) => Some(net),
            _ => {
                let why =
                    format!("'{text}' is no address of the family, with or without the length of its subnet");
                self.refuse(name, why)
            }
        }
    }

    fn refuse<T>(&mut self, name: &str, why: impl Display) -> Option<T> {
        self.out.push(FieldError::new(
            format!("metadata.annotations[{ANNOTATION_NODE_PREFIX}{name}]"),
            why,
        ));
        None
    }
}

/// The addresses and ports behind a Service; nothing for a slice that belongs to none or holds host names.
///
/// Endpoints count unless they say that they are not ready: policy must know an address before traffic reaches it.
pub(super) fn service_endpoints(slice: &EndpointSlice) -> Translation {
    let service = slice
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(LABEL_SERVICE_NAME));
    let Some(service) = service.filter(|_| slice.address_type != "FQDN") else {
        return Translation::default();
    };
    let mut faults = Vec::new();
    let mut addresses = Vec::new();
    for (n, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        if endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(false) {
            continue;
        }
        for (m, text) in endpoint.addresses.iter().enumerate() {
            match address(&format!("endpoints[{n}].addresses[{m}]"), text) {
                Ok(address) => addresses.push(address),
                Err(fault) => faults.push(fault),
            }
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    let listed = slice.ports.as_deref().unwrap_or_default();
    let mut ports: Vec<ServicePort> = listed
        .iter()
        .filter_map(|port| {
            let protocol = port
                .protocol
                .as_deref()
                .filter(|p| !p.is_empty())
                .map_or(Ok(Protocol::TCP), str::parse)
                .ok()?;
            let number = u16::try_from(port.port?).ok().filter(|p| *p > 0)?;
            Some(ServicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol,
                port: number,
            })
        })
        .collect();
    if listed.iter().any(|port| port.port.is_none()) {
        // A port without a number stands for all of them.
        ports.clear();
    } else if ports.is_empty() && !listed.is_empty() {
        // Nothing could be read, and no ports would mean every port.
        addresses.clear();
    }
    let spec = ServiceEndpointsSpec {
        service: service.clone(),
        addresses,
        ports,
    };
    let metadata = Metadata {
        name: slice.metadata.name.clone().unwrap_or_default(),
        namespace: slice
            .metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_string()),
        uid: slice.metadata.uid.clone().unwrap_or_default(),
        ..Metadata::default()
    };
    Translation {
        resources: vec![Object { metadata, spec }.into()],
        faults,
    }
}
