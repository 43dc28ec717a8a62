//! The other nodes, where the addresses of their workloads are, and how packets get there.

use ipnet::IpNet;
use policy_model::EncapsulationMode;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A node of the cluster, this one included, as far as packets between nodes are concerned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterNode {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is the node of these hands.
    pub is_here: bool,
    /// All its own addresses. The first of a family is the one by which others reach it.
    pub addresses: Arc<[IpAddr]>,
    /// The address of its IPIP device, once it has one.
    pub ipip: Option<Ipv4Addr>,
    /// The address of its VXLAN device for IPv4, once it has one.
    pub vxlan4: Option<Ipv4Addr>,
    /// The address of its VXLAN device for IPv6, once it has one.
    pub vxlan6: Option<Ipv6Addr>,
    /// The Ethernet address of its VXLAN device for IPv4, where one is configured; otherwise it follows from the name.
    pub vxlan_mac: Option<[u8; 6]>,
}

impl ClusterNode {
    /// The address by which others reach it.
    pub fn address(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .find(|address| address.is_ipv4() == is_ipv4)
            .copied()
    }

    /// The address of its VXLAN device of a family.
    pub fn vxlan(&self, is_ipv4: bool) -> Option<IpAddr> {
        if is_ipv4 {
            self.vxlan4.map(IpAddr::V4)
        } else {
            self.vxlan6.map(IpAddr::V6)
        }
    }
}

/// How packets to a range of workload addresses travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// As they are; the next hop is this address of the node's.
    Plain(IpAddr),
    /// Inside IPIP, to this address of the node's.
    Ipip(Ipv4Addr),
    /// Inside VXLAN; this is the tunnel address of the node's device.
    Vxlan(IpAddr),
    /// The range is this node's own: what no workload here has is nowhere.
    Here,
    /// Nowhere: they would have to be wrapped, and the node lacks what is needed for it. As they are they may not go.
    Nowhere,
}

/// A range of workload addresses, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeRoute {
    /// The range: a block, a node's own range, or a single borrowed or fixed address.
    pub destination: IpNet,
    /// The node.
    pub node: Arc<str>,
    /// How packets get there.
    pub way: Way,
}

/// A range that workload addresses come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolRange {
    /// The range.
    pub cidr: IpNet,
    /// Whether traffic that leaves all pools takes the node's address.
    pub nat_outgoing: bool,
    /// Whether IPIP wraps the traffic between nodes.
    pub ipip: EncapsulationMode,
    /// Whether VXLAN wraps the traffic between nodes.
    pub vxlan: EncapsulationMode,
}
