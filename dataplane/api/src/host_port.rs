//! Ports of the node that lead to a workload's.

use policy_model::Protocol;
use std::net::IpAddr;

/// A port of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Protocol: one that has ports.
    pub protocol: Protocol,
    /// The address of the node at which it is. The unspecified address of a family (`0.0.0.0`, `::`) stands for every
    /// address of that family that the node has at the moment of a packet, as it does for sockets.
    pub address: IpAddr,
    /// Port number.
    pub port: u16,
}
