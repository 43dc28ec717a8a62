//! Which addresses the tunnel devices of a node have: from what the blocks say and what the pools ask for to the next step.
//!
//! What the node itself sends into a tunnel leaves with the address of the device, and answers have to find the node by
//! it. So it is an address of a pool whose traffic the tunnel wraps, held under Calico's handles and attributes: other
//! nodes find it in its block. Pure: `allocator/tunnels.rs` carries the steps out.

use policy_model::{AllocationAttribute, Attributes, EncapsulationMode, IpPoolSpec, Object};
use policy_model_ipam::block::{self, Guard};
use policy_model_ipam::engine::Target;
use policy_model_ipam::pool::{self, PoolRef, Refusal, Use, Wish};
use policy_model_ipam::{Family, handle};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses that a node's tunnel devices have by the blocks' word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelAddresses {
    /// Of the IPIP device.
    pub ipip: Option<Ipv4Addr>,
    /// Of the VXLAN device for IPv4.
    pub vxlan_v4: Option<Ipv4Addr>,
    /// Of the VXLAN device for IPv6.
    pub vxlan_v6: Option<Ipv6Addr>,
}

/// A tunnel device that has an address of the pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tunnel {
    Ipip,
    VxlanV4,
    VxlanV6,
}

impl Tunnel {
    pub(crate) const ALL: [Tunnel; 3] = [Tunnel::Ipip, Tunnel::VxlanV4, Tunnel::VxlanV6];

    pub(crate) fn family(self) -> Family {
        match self {
            Tunnel::Ipip | Tunnel::VxlanV4 => Family::V4,
            Tunnel::VxlanV6 => Family::V6,
        }
    }

    /// The handle under which a node's device holds its address.
    pub(crate) fn handle(self, node: &str) -> String {
        match self {
            Tunnel::Ipip => handle::of_ipip_tunnel(node),
            Tunnel::VxlanV4 => handle::of_vxlan_tunnel(node),
            Tunnel::VxlanV6 => handle::of_vxlan_v6_tunnel(node),
        }
    }

    /// What its block says of the address.
    pub(crate) fn attribute(self, node: &str) -> AllocationAttribute {
        let of_type = match self {
            Tunnel::Ipip => handle::TYPE_IPIP_TUNNEL,
            Tunnel::VxlanV4 => handle::TYPE_VXLAN_TUNNEL,
            Tunnel::VxlanV6 => handle::TYPE_VXLAN_V6_TUNNEL,
        };
        AllocationAttribute {
            handle_id: Some(self.handle(node)),
            secondary: Attributes::from([
                (handle::ATTRIBUTE_NODE, node.to_owned()),
                (handle::ATTRIBUTE_TYPE, of_type.to_owned()),
            ]),
        }
    }

    /// Whether a pool has its traffic between nodes wrapped by this kind of tunnel.
    fn wraps(self, pool: &IpPoolSpec) -> bool {
        let mode = match self {
            Tunnel::Ipip => pool.ipip_mode,
            Tunnel::VxlanV4 | Tunnel::VxlanV6 => pool.vxlan_mode,
        };
        mode != EncapsulationMode::Never && Family::of_net(&pool.cidr) == self.family()
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tunnel::Ipip => "IPIP",
            Tunnel::VxlanV4 => "VXLAN",
            Tunnel::VxlanV6 => "VXLAN over IPv6",
        })
    }
}

/// What the pools ask of a node's tunnel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demand<'a> {
    /// Those from which its address may be.
    sources: Vec<&'a Object<IpPoolSpec>>,
    /// Those that are switched off, whose pods' traffic is wrapped until the last of them is gone: they give no address,
    /// and none is taken from the node because of it.
    ending: Vec<&'a Object<IpPoolSpec>>,
    /// Those that have traffic wrapped and may not give the address, and why.
    refused: Vec<(&'a str, Refusal)>,
}

/// What is to be done about a tunnel's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Take one more than the handle holds now.
    Take {
        /// From one of these.
        pools: Vec<PoolRef>,
        /// How many it holds.
        held: usize,
    },
    /// Give back what is held and not needed.
    Release(Vec<Target>),
}

/// How a tunnel's address stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The address that the device has meanwhile.
    pub(crate) address: Option<IpAddr>,
    /// What to do next; nothing where all is as it should be, or nothing can be done.
    pub(crate) step: Option<Step>,
    /// Why there is no address, or not a right one, until somebody changes the pools.
    pub(crate) lack: Option<String>,
}

/// What the pools ask of a tunnel of a node with these labels.
pub(crate) fn demand<'a>(
    tunnel: Tunnel,
    pools: impl IntoIterator<Item = &'a Object<IpPoolSpec>>,
    node_labels: &BTreeMap<String, String>,
) -> Demand<'a> {
    let mut demand = Demand::default();
    for pool in pools {
        if !tunnel.wraps(&pool.spec) {
            continue;
        }
        let refusal = match pool::selects_node(&pool.spec, node_labels) {
            Err(Refusal::NodeNotSelected(_)) => continue,
            // What cannot be read says nothing about this node, so nothing that it has is taken away because of it.
            Err(unreadable) => Err(unreadable),
            Ok(()) => may_give(tunnel, pool, node_labels),
        };
        match refusal {
            Ok(()) => demand.sources.push(pool),
            Err(Refusal::Disabled) => demand.ending.push(pool),
            Err(refusal) => demand.refused.push((&pool.metadata.name, refusal)),
        }
    }
    demand
}

/// Whether a pool may give a tunnel's address. It is asked for by name, so neither its assignment mode nor its namespaces
/// matter: these are about pods.
fn may_give(
    tunnel: Tunnel,
    pool: &Object<IpPoolSpec>,
    node_labels: &BTreeMap<String, String>,
) -> Result<(), Refusal> {
    let wish = Wish {
        family: tunnel.family(),
        intended_use: Use::Tunnel,
        requested: &[PoolRef::Name(pool.metadata.name.clone())],
        node_labels,
        namespace_labels: None,
    };
    pool::choose([pool], &wish)
        .map(|_| ())
        .map_err(|(_, refusal)| refusal)
}

/// The addresses that a handle holds in some blocks, in their order.
pub(crate) fn held<'a>(
    handle: &str,
    blocks: impl IntoIterator<Item = &'a policy_model::IpamBlockSpec>,
) -> Vec<Target> {
    let holders = blocks.into_iter().flat_map(block::holders);
    let own = holders.filter(|held| held.attribute.handle_id.as_deref() == Some(handle));
    let mut own: Vec<Target> = own
        .map(|held| Target {
            address: held.address,
            guard: Guard {
                handle: Some(handle.to_owned()),
                sequence: (held.sequence != 0).then_some(held.sequence),
            },
        })
        .collect();
    own.sort_by_key(|target| target.address);
    own
}

/// Says how a tunnel's address stands and what to do next.
///
/// A new address comes before the old one goes, so the device is without one as shortly as can be; and what a node has
/// is not taken from it because no pool may give another.
pub(crate) fn plan(tunnel: Tunnel, held: &[Target], demand: &Demand<'_>) -> Plan {
    let Demand {
        sources,
        ending,
        refused,
    } = demand;
    // Once another pool gives addresses, those of pools that end are replaced.
    let none_gives = sources.is_empty() && refused.is_empty();
    let of = if none_gives { ending } else { sources };
    let is_right = |target: &&Target| of.iter().any(|pool| pool.spec.cidr.contains(&target.address));
    let release = |targets: Vec<Target>| (!targets.is_empty()).then_some(Step::Release(targets));
    if let Some(right) = held.iter().find(is_right) {
        let others = held.iter().filter(|target| *target != right);
        return Plan {
            address: Some(right.address),
            step: release(others.cloned().collect()),
            lack: None,
        };
    }
    if none_gives {
        return Plan {
            step: release(held.to_vec()),
            ..Plan::default()
        };
    }
    let address = held.first().map(|target| target.address);
    if sources.is_empty() {
        return Plan {
            address,
            step: None,
            lack: Some(lack(tunnel, refused)),
        };
    }
    let pools = sources
        .iter()
        .map(|pool| PoolRef::Name(pool.metadata.name.clone()));
    Plan {
        address,
        step: Some(Step::Take {
            pools: pools.collect(),
            held: held.len(),
        }),
        lack: None,
    }
}

fn lack(tunnel: Tunnel, refused: &[(&str, Refusal)]) -> String {
    let refused: Vec<String> = refused
        .iter()
        .map(|(pool, refusal)| format!("pool {pool} {refusal}"))
        .collect();
    format!(
        "no IP pool whose traffic goes through {tunnel} may give its address: {}; let one of them have Tunnel among its \
         allowedUses (or none at all), with a nodeSelector and a blockSize that are valid",
        refused.join("; ")
    )
}

#[cfg(test)]
#[path = "tunnel_addresses_tests.rs"]
mod tests;
