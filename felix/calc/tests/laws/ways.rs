//! The model's answer about nodes, pools and the ways between nodes.

use crate::model::{State, addresses, blocks};
use crate::view::Plain;
use dataplane_api::{ClusterNode, NodeRoute, PoolRange, Way};
use ipnet::IpNet;
use policy_model::{EncapsulationMode, IpamBlockSpec, NodeSpec, Resource};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// By Calico's name of the kind.
const IPIP: &str = "ipipTunnelAddress";
const VXLAN: &str = "vxlanTunnelAddress";
const VXLAN_V6: &str = "vxlanV6TunnelAddress";

struct World<'a> {
    here: &'a str,
    nodes: BTreeMap<&'a str, &'a NodeSpec>,
    /// What blocks say, by kind and node.
    ends: BTreeMap<(&'a str, &'a str), BTreeSet<IpAddr>>,
    /// The owner of each range: the state goes by name, so the first block of a range counts.
    ranges: BTreeMap<IpNet, Option<String>>,
    pools: BTreeMap<IpNet, PoolRange>,
}

fn owner(block: &IpamBlockSpec) -> Option<String> {
    block.affinity.as_ref()?.strip_prefix("host:").map(str::to_string)
}

fn world<'a>(state: &'a State, here: &'a str) -> World<'a> {
    let mut world = World {
        here,
        nodes: BTreeMap::new(),
        ends: BTreeMap::new(),
        ranges: BTreeMap::new(),
        pools: BTreeMap::new(),
    };
    for resource in state.values() {
        if let Resource::Node(node) = resource {
            world.nodes.insert(&node.metadata.name, &node.spec);
        }
        if let Resource::IPPool(pool) = resource {
            let spec = &pool.spec;
            let range = PoolRange {
                cidr: spec.cidr,
                nat_outgoing: spec.nat_outgoing,
                ipip: spec.ipip_mode,
                vxlan: spec.vxlan_mode,
            };
            world.pools.entry(spec.cidr).or_insert(range);
        }
    }
    for (_, block) in blocks(state) {
        world
            .ranges
            .entry(block.cidr.trunc())
            .or_insert_with(|| owner(block));
        for (address, place) in block.cidr.hosts_and_all().zip(&block.allocations) {
            let Some(attribute) = place.map(|place| &block.attributes[place as usize].secondary) else {
                continue;
            };
            if let (Some(kind), Some(node)) = (attribute.get("type"), attribute.get("node"))
                && address.is_ipv4() == (kind != VXLAN_V6)
            {
                world.ends.entry((kind, node)).or_default().insert(address);
            }
        }
    }
    world
}

/// Every address of a block, in order.
trait Every {
    fn hosts_and_all(&self) -> Box<dyn Iterator<Item = IpAddr>>;
}

impl Every for IpNet {
    fn hosts_and_all(&self) -> Box<dyn Iterator<Item = IpAddr>> {
        match *self {
            IpNet::V4(net) => {
                let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
                Box::new((first..=last).map(|n| IpAddr::V4(Ipv4Addr::from(n))))
            }
            IpNet::V6(net) => {
                let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
                Box::new((first..=last).map(|n| IpAddr::V6(Ipv6Addr::from(n))))
            }
        }
    }
}

impl World<'_> {
    fn end(&self, node: &str, kind: &'static str) -> Option<IpAddr> {
        let told = self.ends.get(&(kind, node)).and_then(|all| all.first().copied());
        let spec = self.nodes.get(node)?;
        told.or(match kind {
            IPIP => spec.bgp.as_ref()?.ipv4_ipip_tunnel_addr.map(IpAddr::V4),
            VXLAN => spec.ipv4_vxlan_tunnel_addr.map(IpAddr::V4),
            _ => spec.ipv6_vxlan_tunnel_addr.map(IpAddr::V6),
        })
    }

    fn node(&self, name: &str) -> ClusterNode {
        let v4 = |kind| match self.end(name, kind) {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        };
        ClusterNode {
            name: name.into(),
            is_here: name == self.here,
            addresses: self.nodes[name].all_addresses().into(),
            ipip: v4(IPIP),
            vxlan4: v4(VXLAN),
            vxlan6: match self.end(name, VXLAN_V6) {
                Some(IpAddr::V6(address)) => Some(address),
                _ => None,
            },
            vxlan_mac: None,
        }
    }

    /// The way to a destination of another node's.
    fn way(&self, node: &str, destination: IpNet) -> Option<Way> {
        let is_ipv4 = destination.addr().is_ipv4();
        let all = self
            .nodes
            .get(node)
            .map(|spec| spec.all_addresses())
            .unwrap_or_default();
        let address = all.into_iter().find(|address| address.is_ipv4() == is_ipv4);
        let around = self
            .pools
            .values()
            .filter(|pool| pool.cidr.contains(&destination));
        let pool = around.max_by_key(|pool| pool.cidr.prefix_len());
        let (ipip, vxlan) = pool.map_or(Default::default(), |pool| (pool.ipip, pool.vxlan));
        let mode = if vxlan == EncapsulationMode::Never {
            ipip
        } else {
            vxlan
        };
        if mode == EncapsulationMode::Never {
            return address.map(Way::Plain);
        }
        let Some(address) = address else {
            return Some(Way::Nowhere);
        };
        let near = self.nodes.get(self.here).and_then(|own| own.bgp.as_ref());
        let near = near.is_some_and(|bgp| {
            let subnets = [bgp.ipv4_address, bgp.ipv6_address];
            subnets.into_iter().flatten().any(|net| net.contains(&address))
        });
        Some(match address {
            address if near && mode == EncapsulationMode::CrossSubnet => Way::Plain(address),
            _ if vxlan != EncapsulationMode::Never => {
                let kind = if is_ipv4 { VXLAN } else { VXLAN_V6 };
                self.end(node, kind).map_or(Way::Nowhere, Way::Vxlan)
            }
            IpAddr::V4(address) => Way::Ipip(address),
            IpAddr::V6(_) => Way::Nowhere,
        })
    }

    /// Whether an address lies in a larger block of a node's.
    fn is_in_block_of(&self, node: &str, address: IpNet) -> bool {
        let around = self.ranges.iter().filter(|(range, _)| range.contains(&address));
        let smallest = around.max_by_key(|(range, _)| range.prefix_len());
        smallest.is_some_and(|(range, owner)| owner.as_deref() == Some(node) && *range != address)
    }
}

/// Nodes, pools and routes.
pub(crate) fn routes(state: &State, here: &str, out: &mut Plain) {
    let world = world(state, here);
    let mut found: BTreeMap<IpNet, (String, Way)> = BTreeMap::new();
    // Tunnels' ends outside of their nodes' blocks; of several nodes with one the first by name counts.
    let mut ends: BTreeMap<IpNet, &str> = BTreeMap::new();
    for name in world.nodes.keys() {
        out.nodes.insert((*name).into(), world.node(name));
        for kind in [IPIP, VXLAN, VXLAN_V6] {
            if let Some(end) = world.end(name, kind) {
                ends.entry(end.into()).or_insert(name);
            }
        }
    }
    for (end, node) in ends {
        if node != here
            && !world.is_in_block_of(node, end)
            && let Some(way) = world.way(node, end)
        {
            found.insert(end, (node.to_string(), way));
        }
    }
    for (range, owner) in &world.ranges {
        let Some(owner) = owner else { continue };
        let is_one = range.prefix_len() == range.max_prefix_len();
        let way = match owner == here {
            true => (!is_one).then_some(Way::Here),
            false => world.way(owner, *range),
        };
        match way {
            Some(way) => drop(found.insert(*range, (owner.clone(), way))),
            None => drop(found.remove(range)),
        }
    }
    let mut claims: BTreeMap<IpNet, BTreeSet<String>> = BTreeMap::new();
    for resource in state.values() {
        if let Resource::WorkloadEndpoint(object) = resource {
            for address in addresses(state, object) {
                let claimants = claims.entry(IpNet::from(address)).or_default();
                claimants.insert(object.spec.node.clone());
            }
        }
    }
    for (address, claimants) in claims {
        if claimants.contains(here) {
            // A local endpoint has the address: no route leads away from here.
            found.remove(&address);
            continue;
        }
        let known = claimants
            .iter()
            .filter(|node| world.nodes.contains_key(node.as_str()));
        let reachable = known
            .filter_map(|node| Some((node, world.way(node, address)?)))
            .next();
        let Some((node, way)) = reachable else { continue };
        if !world.is_in_block_of(node, address) {
            found.insert(address, (node.clone(), way));
        }
    }
    for (destination, (node, way)) in found {
        let node = node.as_str().into();
        let route = NodeRoute {
            destination,
            node,
            way,
        };
        out.routes.insert(destination, route);
    }
    out.pools = world.pools;
}
