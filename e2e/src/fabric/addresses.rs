//! Who has which address in a fabric. Everything follows from a few small numbers, so that a test can name any of them.
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | node `n` in subnet `s` | `172.30.s.(10+n)/24` | `fd00:30:s::(10+n)/64` |
//! | the server outside | `172.31.0.2` | `fd00:31::2` |
//! | range `r` (a pool) | `10.(64+r).0.0/16` | `fd00:(64+r)::/64` |
//! | the block of node `n` in it | `10.(64+r).n.0/26` | `fd00:(64+r)::n:0/122` |
//! | its tunnel addresses | `.1` VXLAN, `.2` IPIP | `:1` |
//! | pod `k` in it | `.(10+k)` | `:(10+k)` |

use ipnet::IpNet;
use std::net::IpAddr;

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// As `ip` wants it.
    pub fn flag(self) -> &'static str {
        match self {
            Family::V4 => "-4",
            Family::V6 => "-6",
        }
    }

    /// As the names of objects say it.
    pub fn word(self) -> &'static str {
        match self {
            Family::V4 => "v4",
            Family::V6 => "v6",
        }
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The `k`th address of a subnet of nodes; the first is the router's.
pub fn in_subnet(family: Family, subnet: u8, k: u8) -> IpAddr {
    match family {
        Family::V4 => address(&format!("172.30.{subnet}.{k}")),
        Family::V6 => address(&format!("fd00:30:{subnet}::{k}")),
    }
}

/// The place of a node in its subnet, as long as it is not told another one.
pub fn place_of_node(node: u8) -> u8 {
    10 + node
}

/// How long the prefix of a subnet is.
pub fn subnet_length(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 64,
    }
}

/// The address of the server outside; the first of its subnet is the router's.
pub fn outside(family: Family, k: u8) -> IpAddr {
    match family {
        Family::V4 => address(&format!("172.31.0.{k}")),
        Family::V6 => address(&format!("fd00:31::{k}")),
    }
}

/// A range that pods' addresses come from.
pub fn range(family: Family, range: u8) -> IpNet {
    let text = match family {
        Family::V4 => format!("10.{}.0.0/16", 64 + range),
        Family::V6 => format!("fd00:{}::/64", 64 + range),
    };
    text.parse().expect("a range")
}

/// A node's block of a range.
pub fn block(family: Family, range: u8, node: u8) -> IpNet {
    let text = match family {
        Family::V4 => format!("10.{}.{node}.0/26", 64 + range),
        Family::V6 => format!("fd00:{}::{node}:0/122", 64 + range),
    };
    text.parse().expect("a block")
}

/// The `k`th address of a node's block.
pub fn in_block(family: Family, range: u8, node: u8, k: u8) -> IpAddr {
    match family {
        Family::V4 => address(&format!("10.{}.{node}.{k}", 64 + range)),
        Family::V6 => address(&format!("fd00:{}::{node}:{k:x}", 64 + range)),
    }
}

/// The address of pod `k` of a node.
pub fn of_pod(family: Family, range: u8, node: u8, k: u8) -> IpAddr {
    in_block(family, range, node, 10 + k)
}

/// The place of the address of a node's VXLAN device in its block of the first range.
pub const VXLAN_ORDINAL: u8 = 1;
/// The place of the address of its IPIP device.
pub const IPIP_ORDINAL: u8 = 2;

/// Whether an address is of a range of pods.
pub fn is_pods(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.octets()[0] == 10,
        IpAddr::V6(a) => a.segments()[0] == 0xfd00 && (0x64..0x70).contains(&a.segments()[1]),
    }
}

/// Whether an address is that of a tunnel's device of a node.
pub fn is_tunnels(address: IpAddr) -> bool {
    let place = match address {
        IpAddr::V4(a) => u16::from(a.octets()[3]),
        IpAddr::V6(a) => a.segments()[7],
    };
    is_pods(address) && [VXLAN_ORDINAL, IPIP_ORDINAL].map(u16::from).contains(&place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_in_their_blocks_and_ranges_and_nodes_are_not() {
        for family in Family::BOTH {
            for (r, n, k) in [(0, 1, 0), (1, 4, 9), (3, 9, 30)] {
                let pod = of_pod(family, r, n, k);
                assert!(block(family, r, n).contains(&pod), "{pod}");
                assert!(range(family, r).contains(&pod), "{pod}");
                assert!(range(family, r).contains(&block(family, r, n)));
                assert!(is_pods(pod) && !block(family, r, n + 1).contains(&pod));
                let device = in_block(family, r, n, VXLAN_ORDINAL);
                assert!(is_tunnels(device) && !is_tunnels(pod), "{device} {pod}");
            }
            assert!(!is_pods(in_subnet(family, 2, 3)) && !is_pods(outside(family, 2)));
        }
    }
}
