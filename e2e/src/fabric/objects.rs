//! The objects of a cluster whose nodes stand in a fabric.

use super::addresses::{self, Family, IPIP_ORDINAL, VXLAN_ORDINAL};
use ipnet::IpNet;
use policy_model::EncapsulationMode::{Always, CrossSubnet, Never};
use policy_model::{
    AllocationAttribute, EncapsulationMode, IpPoolSpec, IpamBlockSpec, NodeBgpSpec, NodeSpec, Object,
    Resource,
};
use std::fmt;
use std::net::IpAddr;

/// How a pool's addresses travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// When in IPIP. There is none for IPv6, whose pools then are in VXLAN at the same time.
    pub ipip: EncapsulationMode,
    /// When in VXLAN.
    pub vxlan: EncapsulationMode,
}

impl Mode {
    /// As they are.
    pub const PLAIN: Mode = Mode::of(Never, Never);
    /// In VXLAN.
    pub const VXLAN: Mode = Mode::of(Never, Always);
    /// In VXLAN to nodes of other subnets.
    pub const VXLAN_ACROSS: Mode = Mode::of(Never, CrossSubnet);
    /// In IPIP.
    pub const IPIP: Mode = Mode::of(Always, Never);
    /// In IPIP to nodes of other subnets.
    pub const IPIP_ACROSS: Mode = Mode::of(CrossSubnet, Never);

    const fn of(ipip: EncapsulationMode, vxlan: EncapsulationMode) -> Mode {
        Mode { ipip, vxlan }
    }

    /// Whether packets between two nodes are wrapped.
    pub fn wraps(self, across: bool) -> bool {
        [self.ipip, self.vxlan]
            .iter()
            .any(|mode| *mode == Always || (across && *mode == CrossSubnet))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ipip, self.vxlan) {
            (Never, Never) => out.write_str("plain"),
            (Never, vxlan) => write!(out, "VXLAN {vxlan:?}"),
            (ipip, _) => write!(out, "IPIP {ipip:?}"),
        }
    }
}

/// Whether packets that leave all pools take the node's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayOut {
    /// They keep their own.
    Own,
    /// They take the node's.
    Nat,
}

/// The pools of a range, one of each family.
pub fn pools(range: u8, mode: Mode, way_out: WayOut) -> Vec<Resource> {
    let pool = |family: Family| {
        let mut spec = IpPoolSpec::of(addresses::range(family, range));
        spec.vxlan_mode = mode.vxlan;
        match family {
            Family::V4 => spec.ipip_mode = mode.ipip,
            Family::V6 if mode.ipip != Never => spec.vxlan_mode = mode.ipip,
            Family::V6 => {}
        }
        spec.nat_outgoing = way_out == WayOut::Nat;
        Object::named(format!("range{range}-{}", family.word()), spec).into()
    };
    Family::BOTH.map(pool).into()
}

/// The name of a node.
pub fn node_name(node: u8) -> String {
    format!("n{node}")
}

/// A node at the `k`th addresses of a subnet.
pub fn node(node: u8, subnet: u8, k: u8) -> Resource {
    let own = |family: Family| {
        let (address, length) = (
            addresses::in_subnet(family, subnet, k),
            addresses::subnet_length(family),
        );
        Some(IpNet::new(address, length).expect("a prefix length"))
    };
    let bgp = NodeBgpSpec {
        ipv4_address: own(Family::V4),
        ipv6_address: own(Family::V6),
        ..NodeBgpSpec::default()
    };
    let spec = NodeSpec {
        bgp: Some(bgp),
        ..NodeSpec::default()
    };
    Object::named(node_name(node), spec).into()
}

/// The same node with ranges of its own for pods, in place of blocks of the first range, and with the addresses of its
/// tunnels, as other software writes both there.
pub fn with_ranges(object: Resource, node: u8) -> Resource {
    let Resource::Node(mut object) = object else {
        panic!("{:?} is no node", object.key());
    };
    let spec = &mut object.spec;
    spec.pod_cidrs = Family::BOTH
        .map(|family| addresses::block(family, 0, node))
        .into();
    let end = |family, ordinal| addresses::in_block(family, 0, node, ordinal);
    if let (IpAddr::V4(vxlan), IpAddr::V6(vxlan6), IpAddr::V4(ipip)) = (
        end(Family::V4, VXLAN_ORDINAL),
        end(Family::V6, VXLAN_ORDINAL),
        end(Family::V4, IPIP_ORDINAL),
    ) {
        (spec.ipv4_vxlan_tunnel_addr, spec.ipv6_vxlan_tunnel_addr) = (Some(vxlan), Some(vxlan6));
        if let Some(bgp) = &mut spec.bgp {
            bgp.ipv4_ipip_tunnel_addr = Some(ipip);
        }
    }
    object.into()
}

/// A node's blocks of a range, one of each family. Those of the first range hold the addresses of its tunnels.
pub fn blocks(node: u8, range: u8) -> Vec<Resource> {
    Family::BOTH
        .map(|family| block(family, node, range, range == 0))
        .into()
}

/// A node's block of a range, with the addresses of its tunnels or without any.
pub fn block(family: Family, node: u8, range: u8, with_tunnels: bool) -> Resource {
    let name = node_name(node);
    let cidr = addresses::block(family, range, node);
    let tunnels: &[(&str, &str, u8)] = match family {
        _ if !with_tunnels => &[],
        Family::V4 => &[
            ("vxlan-tunnel-addr", "vxlanTunnelAddress", VXLAN_ORDINAL),
            ("ipip-tunnel-addr", "ipipTunnelAddress", IPIP_ORDINAL),
        ],
        Family::V6 => &[("vxlan-v6-tunnel-addr", "vxlanV6TunnelAddress", VXLAN_ORDINAL)],
    };
    let mut allocations = vec![None; 64];
    let mut attributes = Vec::new();
    for (place, (handle, kind, ordinal)) in (0..).zip(tunnels) {
        allocations[usize::from(*ordinal)] = Some(place);
        let mut attribute = AllocationAttribute {
            handle_id: Some(format!("{handle}-{name}")),
            ..AllocationAttribute::default()
        };
        attribute.secondary.insert("node", name.clone());
        attribute.secondary.insert("type", (*kind).to_string());
        attributes.push(attribute);
    }
    let free = |k: &u32| !tunnels.iter().any(|(_, _, ordinal)| u32::from(*ordinal) == *k);
    let spec = IpamBlockSpec {
        cidr,
        affinity: Some(format!("host:{name}")),
        strict_affinity: false,
        unallocated: (0..64).filter(free).collect(),
        allocations,
        attributes,
        sequence_number: 0,
        sequence_number_for_allocation: Default::default(),
        deleted: false,
    };
    let name = cidr.to_string().replace(['.', ':', '/'], "-");
    Object::named(name, spec).into()
}
