//! Which addresses the nodes' tunnel devices have, by the word of the blocks.
//!
//! An address of a tunnel is given like a pod's: in its block, with the node and the kind of tunnel beside it. Every
//! node reads it there, so nobody has to be told it in a second place.

use policy_model::AllocationAttribute;
use policy_model_ipam::handle;
use policy_model_selector::index::Symbol;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::net::IpAddr;

/// A device that a node has an address for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum TunnelKind {
    Ipip,
    Vxlan4,
    Vxlan6,
}

impl TunnelKind {
    /// The device that an allocation is for and the name of its node, by the attributes that Calico gives it.
    pub(crate) fn of_allocation(attribute: &AllocationAttribute) -> Option<(TunnelKind, &str)> {
        let kind = match attribute.secondary.get(handle::ATTRIBUTE_TYPE)?.as_str() {
            handle::TYPE_IPIP_TUNNEL => TunnelKind::Ipip,
            handle::TYPE_VXLAN_TUNNEL => TunnelKind::Vxlan4,
            handle::TYPE_VXLAN_V6_TUNNEL => TunnelKind::Vxlan6,
            _ => return None,
        };
        let node = attribute
            .secondary
            .get(handle::ATTRIBUTE_NODE)
            .filter(|node| !node.is_empty())?;
        Some((kind, node))
    }

    /// Whether a device of this kind can have the address.
    pub(crate) fn fits(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self != TunnelKind::Vxlan6)
    }
}

/// One claim of a block: this node's device has this address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TunnelEnd {
    pub(crate) node: Symbol,
    pub(crate) kind: TunnelKind,
    pub(crate) address: IpAddr,
}

/// The claims of all blocks.
#[derive(Default)]
pub(crate) struct TunnelEnds {
    /// An address stands here once for each block that gives it.
    claims: FxHashMap<(Symbol, TunnelKind), SmallVec<[IpAddr; 1]>>,
}

impl TunnelEnds {
    pub(crate) fn add(&mut self, end: TunnelEnd) {
        self.claims
            .entry((end.node, end.kind))
            .or_default()
            .push(end.address);
    }

    pub(crate) fn remove(&mut self, end: TunnelEnd) {
        let key = (end.node, end.kind);
        let Some(addresses) = self.claims.get_mut(&key) else {
            return;
        };
        if let Some(place) = addresses.iter().position(|other| *other == end.address) {
            addresses.swap_remove(place);
        }
        if addresses.is_empty() {
            self.claims.remove(&key);
        }
    }

    /// The address of a node's device: of several the lowest, whichever came first.
    pub(crate) fn of(&self, node: Symbol, kind: TunnelKind) -> Option<IpAddr> {
        self.claims.get(&(node, kind))?.iter().min().copied()
    }

    /// Calls `visit` with every symbol that is held here.
    pub(crate) fn for_each_symbol(&self, mut visit: impl FnMut(Symbol)) {
        self.claims.keys().for_each(|(node, _)| visit(*node));
    }
}
