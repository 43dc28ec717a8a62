//! Where the addresses of other nodes' workloads are.

use ipnet::IpNet;
use policy_model::EncapsulationMode;
use std::net::IpAddr;
use std::sync::Arc;

/// A range of workload addresses behind another node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeRoute {
    /// The range: a block, or a single borrowed or fixed address.
    pub destination: IpNet,
    /// The node.
    pub node: Arc<str>,
    /// Address of the node, of the same family.
    pub via: IpAddr,
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
