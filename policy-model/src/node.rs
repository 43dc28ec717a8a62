//! Nodes: the hosts of the cluster, their addresses and tunnel ends.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A node. Its labels stand in the object's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// What BGP and routing need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<NodeBgpSpec>,
    /// Address of the node's VXLAN device.
    #[serde(
        default,
        rename = "ipv4VXLANTunnelAddr",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv4_vxlan_tunnel_addr: Option<Ipv4Addr>,
    /// Address of the node's IPv6 VXLAN device.
    #[serde(
        default,
        rename = "ipv6VXLANTunnelAddr",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv6_vxlan_tunnel_addr: Option<Ipv6Addr>,
    /// Hardware address of the node's VXLAN device.
    #[serde(
        default,
        rename = "vxlanTunnelMACAddr",
        skip_serializing_if = "String::is_empty"
    )]
    pub vxlan_tunnel_mac_addr: String,
    /// The node's names elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orch_refs: Vec<OrchRef>,
    /// All addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NodeAddress>,
    /// The node's own ranges for pods, where the cluster gives each node some (Calico has them in the status).
    #[serde(default, rename = "podCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<IpNet>,
}

impl NodeSpec {
    /// The addresses that other nodes reach this one by: those of `bgp` first, then all others, none twice.
    pub fn all_addresses(&self) -> Vec<IpAddr> {
        let bgp = self
            .bgp
            .iter()
            .flat_map(|b| [b.ipv4_address, b.ipv6_address])
            .flatten()
            .map(|n| n.addr());
        let mut all = Vec::new();
        for address in bgp.chain(self.addresses.iter().map(|a| a.address)) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }
}

/// What BGP and routing need of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeBgpSpec {
    /// Autonomous system; absent means the cluster's.
    #[serde(default, rename = "asNumber", skip_serializing_if = "Option::is_none")]
    pub as_number: Option<u32>,
    /// Address with its subnet.
    #[serde(
        default,
        rename = "ipv4Address",
        deserialize_with = "crate::net::address",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv4_address: Option<IpNet>,
    /// Address with its subnet.
    #[serde(
        default,
        rename = "ipv6Address",
        deserialize_with = "crate::net::address",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv6_address: Option<IpNet>,
    /// Address of the node's IPIP device.
    #[serde(
        default,
        rename = "ipv4IPIPTunnelAddr",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv4_ipip_tunnel_addr: Option<Ipv4Addr>,
    /// Cluster identifier of a route reflector.
    #[serde(
        default,
        rename = "routeReflectorClusterID",
        skip_serializing_if = "String::is_empty"
    )]
    pub route_reflector_cluster_id: String,
}

/// A node's name in an orchestrator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrchRef {
    /// Name there.
    #[serde(default)]
    pub node_name: String,
    /// Which orchestrator: `k8s`.
    #[serde(default)]
    pub orchestrator: String,
}

/// An address of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// The address.
    pub address: IpAddr,
    /// `InternalIP`, `ExternalIP` or `CalicoNodeIP`.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub address_type: String,
}
