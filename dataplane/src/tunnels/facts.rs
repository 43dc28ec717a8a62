//! What nodes and pools say of tunnels.

use super::Kind;
use dataplane_api::{ClusterNode, PoolRange};
use ipnet::IpNet;
use policy_model::EncapsulationMode;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

/// The nodes, and the pools whose packets are wrapped.
#[derive(Debug, Default)]
pub(super) struct Facts {
    here: Option<ClusterNode>,
    others: BTreeMap<Arc<str>, ClusterNode>,
    /// When IPIP wraps, and when VXLAN does.
    pools: BTreeMap<IpNet, [EncapsulationMode; 2]>,
}

impl Facts {
    pub(super) fn set_node(&mut self, node: &ClusterNode) {
        if node.is_here {
            self.here = Some(node.clone());
        } else {
            self.others.insert(node.name.clone(), node.clone());
        }
    }

    pub(super) fn remove_node(&mut self, name: &Arc<str>) {
        // What is known of this node itself stays: while it has no object, nothing that works is taken down.
        self.others.remove(name);
    }

    /// Takes a pool in; says whether that changes anything here.
    pub(super) fn set_pool(&mut self, pool: &PoolRange) -> bool {
        let modes = [pool.ipip, pool.vxlan];
        self.pools.insert(pool.cidr, modes) != Some(modes)
    }

    /// Forgets a pool; says whether that changes anything here.
    pub(super) fn remove_pool(&mut self, cidr: &IpNet) -> bool {
        self.pools.remove(cidr).is_some()
    }

    /// Whether a pool asks for a kind of tunnel.
    pub(super) fn is_asked_for(&self, kind: Kind) -> bool {
        let wraps = |mode: EncapsulationMode| mode != EncapsulationMode::Never;
        self.pools.iter().any(|(cidr, modes)| {
            let [ipip, vxlan] = modes.map(wraps);
            let is_ipv4 = cidr.addr().is_ipv4();
            match kind {
                Kind::Ipip => ipip && is_ipv4,
                Kind::Vxlan4 => vxlan && is_ipv4,
                Kind::Vxlan6 => vxlan && !is_ipv4,
            }
        })
    }

    /// The pools, each with whether every packet to another node's part of it is wrapped.
    pub(super) fn ranges(&self) -> BTreeMap<IpNet, bool> {
        let always = |modes: &[EncapsulationMode; 2]| modes.contains(&EncapsulationMode::Always);
        self.pools
            .iter()
            .map(|(cidr, modes)| (*cidr, always(modes)))
            .collect()
    }

    /// Whether an address is of a pool.
    pub(super) fn is_of_pool(&self, address: IpAddr) -> bool {
        self.pools.keys().any(|cidr| cidr.contains(&address))
    }

    /// This node.
    pub(super) fn here(&self) -> Option<&ClusterNode> {
        self.here.as_ref()
    }

    /// The address by which others reach this node.
    pub(super) fn own_address(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.here.as_ref()?.address(is_ipv4)
    }

    /// Another node.
    pub(super) fn other(&self, name: &str) -> Option<&ClusterNode> {
        self.others.get(name)
    }

    /// All other nodes, in the order of their names.
    pub(super) fn others(&self) -> impl Iterator<Item = &ClusterNode> {
        self.others.values()
    }

    /// All other nodes, from the one behind this node in the order of their names.
    pub(super) fn after_here(&self) -> impl Iterator<Item = &ClusterNode> {
        let own = self
            .here
            .as_ref()
            .map(|here| here.name.as_ref())
            .unwrap_or_default();
        let behind = self
            .others
            .range::<str, _>((Bound::Excluded(own), Bound::Unbounded));
        let before = self
            .others
            .range::<str, _>((Bound::Unbounded, Bound::Excluded(own)));
        behind.chain(before).map(|(_, node)| node)
    }
}
