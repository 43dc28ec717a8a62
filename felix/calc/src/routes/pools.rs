//! The pools: which one an address is of, and what it says of the way between nodes.

use crate::sequence::Sequence;
use dataplane_api::{PoolRange, Update};
use ipnet::IpNet;
use policy_model::{EncapsulationMode, IpPoolSpec};
use std::collections::BTreeMap;

/// The pools and what the hands know of them.
#[derive(Default)]
pub(super) struct Pools {
    by_name: BTreeMap<Box<str>, PoolRange>,
    sent: BTreeMap<IpNet, PoolRange>,
    changed: bool,
}

/// How packets to a pool's addresses are wrapped between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrapping {
    Ipip(EncapsulationMode),
    Vxlan(EncapsulationMode),
}

impl Pools {
    pub(super) fn set(&mut self, name: &str, spec: &IpPoolSpec) {
        let pool = PoolRange {
            cidr: spec.cidr.trunc(),
            nat_outgoing: spec.nat_outgoing,
            ipip: spec.ipip_mode,
            vxlan: spec.vxlan_mode,
        };
        if self.by_name.get(name) != Some(&pool) {
            self.by_name.insert(name.into(), pool);
            self.changed = true;
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.changed |= self.by_name.remove(name).is_some();
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Tells what changed since the last time; says whether the way to some address may be another.
    pub(super) fn settle(&mut self, out: &mut Sequence) -> bool {
        if !std::mem::take(&mut self.changed) {
            return false;
        }
        let mut now: BTreeMap<IpNet, PoolRange> = BTreeMap::new();
        for pool in self.by_name.values() {
            // Pools do not overlap; if two claim one range, the first by name counts.
            now.entry(pool.cidr).or_insert_with(|| pool.clone());
        }
        let differs = |(cidr, pool): &(&IpNet, &PoolRange)| self.sent.get(*cidr) != Some(*pool);
        let new = now.iter().filter(differs);
        out.routes.extend(new.map(|(_, pool)| Update::Pool(pool.clone())));
        let gone = self.sent.keys().filter(|cidr| !now.contains_key(*cidr));
        out.gone_routes
            .extend(gone.map(|cidr| Update::PoolRemoved(*cidr)));
        // One inside another that wraps nothing counts as well.
        let ways = |pools: &BTreeMap<IpNet, PoolRange>| -> Vec<_> {
            let modes = pools.values().map(|pool| (pool.cidr, pool.ipip, pool.vxlan));
            modes.collect()
        };
        let (before, after) = (ways(&self.sent), ways(&now));
        let wraps = |(_, ipip, vxlan): &(IpNet, _, _)| [ipip, vxlan] != [&EncapsulationMode::Never; 2];
        let other_ways = before != after && before.iter().chain(&after).any(wraps);
        self.sent = now;
        other_ways
    }

    /// How packets to a destination are wrapped, by the smallest pool that it is in; none where they are not.
    pub(super) fn wrapping(&self, destination: IpNet) -> Option<Wrapping> {
        let around = self.sent.values().filter(|pool| pool.cidr.contains(&destination));
        let pool = around.max_by_key(|pool| pool.cidr.prefix_len())?;
        match (pool.ipip, pool.vxlan) {
            (EncapsulationMode::Never, EncapsulationMode::Never) => None,
            (ipip, EncapsulationMode::Never) => Some(Wrapping::Ipip(ipip)),
            (_, vxlan) => Some(Wrapping::Vxlan(vxlan)),
        }
    }
}
