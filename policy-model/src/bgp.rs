//! BGP: what the cluster announces and to whom.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Settings of BGP for the whole cluster (`default`) or one node (`node.<name>`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpConfigurationSpec {
    /// `Debug`, `Info`, `Warning`, `Error` or `Fatal`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_severity_screen: String,
    /// Whether every node peers with every other; absent means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,
    /// Autonomous system of the nodes; absent means 64512.
    #[serde(default, rename = "asNumber", skip_serializing_if = "Option::is_none")]
    pub as_number: Option<u32>,
    /// Ranges of Service addresses that are announced.
    #[serde(default, rename = "serviceClusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub service_cluster_ips: Vec<ServiceBlock>,
    /// Ranges of external Service addresses that are announced.
    #[serde(default, rename = "serviceExternalIPs", skip_serializing_if = "Vec::is_empty")]
    pub service_external_ips: Vec<ServiceBlock>,
    /// Ranges of load-balancer addresses that are announced.
    #[serde(
        default,
        rename = "serviceLoadBalancerIPs",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub service_load_balancer_ips: Vec<ServiceBlock>,
    /// Port that the nodes listen on; absent means 179.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// Communities by prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
}

/// A range of Service addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceBlock {
    /// The range.
    pub cidr: IpNet,
}

/// Communities that go with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixAdvertisement {
    /// The prefix.
    pub cidr: IpNet,
    /// Communities, as `aa:nn` or `aa:nn:mm`.
    #[serde(default)]
    pub communities: Vec<String>,
}

/// A BGP peer of some or all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerSpec {
    /// Node that peers; empty means by selector or all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Nodes that peer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_selector: String,
    /// Address of the peer, with or without a port.
    #[serde(default, rename = "peerIP", skip_serializing_if = "String::is_empty")]
    pub peer_ip: String,
    /// Peers that are nodes themselves.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer_selector: String,
    /// Autonomous system of the peer.
    #[serde(default, rename = "asNumber", skip_serializing_if = "Option::is_none")]
    pub as_number: Option<u32>,
    /// Whether the next hop of learnt routes stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_original_next_hop: Option<bool>,
}
