//! What is not needed is given back: addresses of pools that no longer serve this node, empty blocks, and what nothing
//! here has any more.

use super::begin::as_block;
use super::{Allocator, as_pool, locked, wish};
use crate::ipam::RequestError;
use ipnet::IpNet;
use policy_model::{IpPoolSpec, IpamBlockSpec, Kind};
use policy_model_ipam::engine::{ReleaseBlocks, Request, Which};
use policy_model_ipam::reservation::Reservations;
use policy_model_ipam::{Family, block, pool};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// How long a block must have been without a pod before it is given back.
const IDLE: Duration = Duration::from_secs(60);
/// A block is given back only while the node's others have at least so many addresses.
const ENOUGH_ELSEWHERE: usize = 8;
/// How often the blocks are searched for what nothing here has any more.
const SEARCH: Duration = Duration::from_secs(300);

/// What was seen to be idle, and when something was last looked for.
#[derive(Debug, Default)]
pub(super) struct Idle {
    blocks: BTreeMap<IpNet, Instant>,
    searched: Option<Instant>,
}

#[cfg(test)]
impl Idle {
    pub(super) fn blocks_mut(&mut self) -> &mut BTreeMap<IpNet, Instant> {
        &mut self.blocks
    }
}

impl Allocator {
    /// The caller has the turn, and nothing is left to be recorded.
    pub(super) async fn upkeep(&self) -> Result<(), RequestError> {
        // Nothing is given back because of something that was not heard of yet.
        if self.view().current(Kind::IPPool).is_none() {
            return Ok(());
        }
        let unwanted = self.unwanted();
        let given_up = locked(&self.reserve).withdraw(&unwanted);
        self.publish_kept();
        if given_up > 0 {
            tracing::info!(
                given_up,
                "gave back reserved addresses of pools that no longer serve this node"
            );
        }
        let idle = self.idle_blocks(&unwanted);
        for cidr in &idle {
            locked(&self.reserve).withdraw(|address| cidr.contains(&address));
        }
        // Before the blocks say that others may have them.
        self.publish_kept();
        self.write_behind().await?;
        for cidr in idle {
            let which = Which::OneIfEmpty(cidr);
            let node = self.node().to_owned();
            self.request(Request::ReleaseBlocks(ReleaseBlocks { node, which }))
                .await?;
            tracing::info!(block = %cidr, "gave back a block that no pod of this node needs");
        }
        self.search().await;
        self.shortages.forget_old(Instant::now());
        Ok(())
    }

    /// Says of an unused address whether it may not be given any more.
    fn unwanted(&self) -> impl Fn(IpAddr) -> bool + use<> {
        let reserved: Reservations = self.view().reservations();
        let families = [Family::V4, Family::V6].into_iter();
        let pools = families.flat_map(|family| self.serving_pools(family));
        let ranges: Vec<IpNet> = pools.map(|pool| pool.cidr).collect();
        move |address| reserved.contains(address) || !ranges.iter().any(|range| range.contains(&address))
    }

    /// The pools that serve pods of this node that ask for none.
    pub(super) fn serving_pools(&self, family: Family) -> Vec<IpPoolSpec> {
        let (pools, labels) = (self.pools(), self.view().node_labels());
        let choice = pool::choose(pools.iter().filter_map(as_pool), &wish(family, &[], &labels));
        let usable = choice.map(|choice| choice.usable).unwrap_or_default();
        usable.iter().map(|pool| pool.spec.clone()).collect()
    }

    /// Blocks of this node in which no pod has an address, and which it has not needed for a while: all but one of a
    /// family, and that one too where no pool of it serves the node.
    fn idle_blocks(&self, unwanted: &impl Fn(IpAddr) -> bool) -> Vec<IpNet> {
        let blocks = self.view().own_blocks();
        let own: Vec<&IpamBlockSpec> = blocks
            .iter()
            .filter_map(|resource| as_block(resource))
            .filter(|spec| block::owner(spec) == Some(self.node()))
            .collect();
        let reserve = locked(&self.reserve);
        let is_empty = |spec: &IpamBlockSpec| {
            let mut others =
                block::holders(spec).filter(|h| h.attribute.handle_id.as_deref() != Some(reserve.handle()));
            others.next().is_none() && reserve.committed_in(&spec.cidr) == 0
        };
        let reserved = self.view().reservations();
        // What a block has for pods: what is free, and what is reserved and unused.
        let has = |spec: &IpamBlockSpec| {
            let ready = reserve
                .ready_addresses()
                .filter(|a| spec.cidr.contains(a))
                .count();
            ready + block::assignable(spec, &reserved)
        };
        let mut idle = locked(&self.idle);
        let now = Instant::now();
        let mut given_back: Vec<IpNet> = Vec::new();
        let mut seen = BTreeMap::new();
        // The last ones first: the first ones are those that requests try first.
        for spec in own.iter().rev().filter(|spec| is_empty(spec)) {
            let since = idle.blocks.get(&spec.cidr).copied().unwrap_or(now);
            let elsewhere: usize = own
                .iter()
                .filter(|other| other.cidr != spec.cidr && !given_back.contains(&other.cidr))
                .filter(|other| Family::of_net(&other.cidr) == Family::of_net(&spec.cidr))
                .filter(|other| !unwanted(other.cidr.network()))
                .map(|other| has(other))
                .sum();
            let is_of_no_use = (0..=u32::from(u16::MAX))
                .map_while(|ordinal| policy_model_ipam::address::address_at(&spec.cidr, ordinal))
                .all(unwanted);
            if is_of_no_use || (elsewhere >= ENOUGH_ELSEWHERE && now.duration_since(since) >= IDLE) {
                given_back.push(spec.cidr);
            } else {
                seen.insert(spec.cidr, since);
            }
        }
        idle.blocks = seen;
        given_back
    }

    /// Looks now and then for what should not be.
    async fn search(&self) {
        let has_strangers = locked(&self.reserve).withheld().next().is_some();
        let has_found = !self.journal().found().is_empty();
        let is_due = {
            let mut idle = locked(&self.idle);
            let now = Instant::now();
            // What was found at the beginning needs no second look at once.
            let since = *idle.searched.get_or_insert(now);
            let is_due = now.duration_since(since) >= SEARCH;
            if is_due {
                idle.searched = Some(now);
            }
            is_due
        };
        // Read before the kernel is: what is attached meanwhile is then in neither.
        let orphans = if is_due { self.orphans() } else { Vec::new() };
        if !has_strangers && !has_found && orphans.is_empty() {
            return;
        }
        match self.seen().await {
            Ok(seen) => {
                locked(&self.reserve).review(&seen.routed.keys().copied().collect());
                self.name_gone(&seen);
                self.judge(orphans, &seen.routed, false).await;
            }
            Err(failure) => tracing::warn!(%failure, "cannot read which addresses are in use"),
        }
    }
}
