//! Nodes of a cluster with their blocks, as objects: what the way between nodes is calculated from.

use ipnet::{IpNet, Ipv4Net};
use policy_model::{
    AllocationAttribute, EncapsulationMode, IpPoolSpec, IpamBlockSpec, Key, NodeBgpSpec, NodeSpec, Object,
    Resource,
};
use std::net::Ipv4Addr;

/// How many addresses a block has.
const BLOCK: u32 = 64;
/// The first address of the nodes' network, and its length.
const NODES: (Ipv4Addr, u8) = (Ipv4Addr::new(172, 16, 0, 0), 16);
/// The first address of the pool, and its length.
const POOL: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 0, 0), 8);

/// How packets between nodes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// As they are.
    Plain,
    /// In VXLAN.
    Vxlan,
    /// In IPIP.
    Ipip,
}

impl Way {
    /// As the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Way::Plain => "plain routes",
            Way::Vxlan => "VXLAN",
            Way::Ipip => "IPIP",
        }
    }
}

/// The name of a node.
pub fn name(node: u32) -> String {
    format!("node-{node}")
}

fn offset(first: Ipv4Addr, by: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + by)
}

fn net(address: Ipv4Addr, length: u8) -> IpNet {
    // The lengths here are the ones above, of blocks and of single addresses.
    Ipv4Net::new(address, length).map_or(IpNet::from(std::net::IpAddr::V4(address)), IpNet::V4)
}

/// The address of a node, in a network that is one segment.
pub fn address(node: u32) -> Ipv4Addr {
    offset(NODES.0, 256 + node)
}

/// How long the prefix of the nodes' network is.
pub const fn prefix() -> u8 {
    NODES.1
}

/// The `k`th address of a block; the first two are the tunnels'.
pub fn in_block(number: u32, k: u32) -> Ipv4Addr {
    offset(POOL.0, number * BLOCK + k)
}

/// The pool that all blocks are from.
pub fn pool(way: Way) -> Resource {
    let mut spec = IpPoolSpec::of(net(POOL.0, POOL.1));
    match way {
        Way::Plain => {}
        Way::Vxlan => spec.vxlan_mode = EncapsulationMode::Always,
        Way::Ipip => spec.ipip_mode = EncapsulationMode::Always,
    }
    Object::named("pool", spec).into()
}

/// A node, at the address of that number.
pub fn node(number: u32, at: u32) -> Resource {
    let bgp = NodeBgpSpec {
        ipv4_address: Some(net(address(at), NODES.1)),
        ..NodeBgpSpec::default()
    };
    let spec = NodeSpec {
        bgp: Some(bgp),
        ..NodeSpec::default()
    };
    Object::named(name(number), spec).into()
}

/// A block of a node. The first of each node holds the addresses of its tunnels.
pub fn block(number: u32, node: u32, is_first: bool) -> Resource {
    let mut allocations = vec![None; BLOCK as usize];
    let mut attributes = Vec::new();
    if is_first {
        for (place, kind) in (0u32..).zip(["vxlan", "ipip"]) {
            let mut attribute = AllocationAttribute {
                handle_id: Some(format!("{kind}-tunnel-addr-{}", name(node))),
                ..AllocationAttribute::default()
            };
            attribute.secondary.insert("node", name(node));
            attribute.secondary.insert("type", format!("{kind}TunnelAddress"));
            attributes.push(attribute);
            if let Some(taken) = allocations.get_mut(place as usize) {
                *taken = Some(place);
            }
        }
    }
    let free = (0..BLOCK).filter(|k| !is_first || *k > 1).collect();
    let cidr = net(in_block(number, 0), 26);
    let spec = IpamBlockSpec {
        cidr,
        affinity: Some(format!("host:{}", name(node))),
        strict_affinity: false,
        allocations,
        unallocated: free,
        attributes,
        sequence_number: 0,
        sequence_number_for_allocation: Default::default(),
        deleted: false,
    };
    Object::named(cidr.to_string().replace(['.', '/'], "-"), spec).into()
}

/// A node with its blocks, which are numbered through over all nodes.
pub fn node_with_blocks(number: u32, blocks: u32) -> Vec<Resource> {
    let own = (0..blocks).map(|k| block(number * blocks + k, number, k == 0));
    [node(number, number)].into_iter().chain(own).collect()
}

/// The keys of these objects.
pub fn keys(objects: &[Resource]) -> Vec<Key> {
    objects.iter().map(Resource::key).collect()
}
