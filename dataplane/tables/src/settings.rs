//! What an operator may choose about the tables of every backend.

use std::net::Ipv4Addr;

/// What happens to a workload's packet to its own node, once its egress policy let it pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointToHost {
    /// Dropped.
    #[default]
    Drop,
    /// Left to other tables and the rest of the node's own rules.
    Return,
    /// Accepted by our table.
    Accept,
}

/// What happens to a packet that policy denies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    /// It vanishes.
    #[default]
    Drop,
    /// Its sender is told (ICMP port unreachable), so that programs fail at once in place of waiting.
    Reject,
}

/// How packets that leave all pools take an address of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The ports that they may come from then, the first and the last; by the kernel's choice where absent. For TCP, UDP
    /// and SCTP.
    pub ports: Option<(u16, u16)>,
    /// The address that they take, in IPv4; that of the interface which they leave by where absent.
    pub address: Option<Ipv4Addr>,
    /// Where they keep their source.
    pub exclusions: Exclusions,
}

/// The destinations to which workloads keep their own addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exclusions {
    /// All pools.
    #[default]
    Pools,
    /// All pools, and the addresses of the cluster's nodes.
    PoolsAndNodes,
}

/// Which tunnels unwrap packets on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelsInUse {
    /// IPIP.
    pub ipip: bool,
    /// VXLAN over IPv4.
    pub vxlan4: bool,
    /// VXLAN over IPv6.
    pub vxlan6: bool,
}

impl TunnelsInUse {
    /// Whether any is in use.
    pub fn any(self) -> bool {
        self.ipip || self.vxlan4 || self.vxlan6
    }
}

/// Which tunnelled packets workloads may send themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelsFromWorkloads {
    /// IPv4 inside IPv4 or IPv6.
    pub ipip: bool,
    /// What goes to the UDP port of VXLAN.
    pub vxlan: bool,
}
