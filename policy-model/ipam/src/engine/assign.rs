//! Any addresses: from own blocks, then from a new block, then from another node's empty block, then borrowed.

use super::claim;
use super::machine::{Effect, Halt, Scene};
use super::request::{Assignment, AutoAssign, Outcome, Shortfall};
use super::view::{Seen, View};
use crate::address::{self, Family, Span};
use crate::config::Settings;
use crate::pool::{self, Choice, Refusal, Wish};
use crate::reservation::Reservations;
use crate::{IpamError, PoolShortage, block, name, spread};
use ipnet::IpNet;
use policy_model::{IpPoolSpec, IpamBlockSpec, Kind, Object};
use std::collections::BTreeSet;

/// How long a block of another node must have lain untouched and empty before it may be taken from it, in
/// microseconds: one that was just claimed is about to be used.
const LEAST_AGE: u64 = 60_000_000;

pub(super) fn plan<V: Clone>(scene: &Scene<'_, V>, request: &AutoAssign) -> Result<Outcome, Halt<V>> {
    if request.handle.is_empty() {
        return Err(Halt::fail(IpamError::NoHandle));
    }
    let mut assigned = Vec::new();
    for (family, wanted) in [(Family::V4, request.ipv4), (Family::V6, request.ipv6)] {
        if wanted > 0 {
            assigned.extend(Search::new(scene, request, family, wanted)?.run()?);
        }
    }
    Ok(Outcome::Assigned(assigned))
}

/// The addresses of a family that the machine's handle holds, in the order of blocks and addresses.
pub(super) fn held<V: Clone>(
    view: &View<V>,
    handle: &str,
    node: &str,
    family: Family,
) -> Result<Vec<Assignment>, Halt<V>> {
    let mut held = Vec::new();
    for seen in view.blocks_of_handle()? {
        let spec = &seen.object.spec;
        if Family::of_net(&spec.cidr) == family {
            let mine = block::holders(spec).filter(|h| h.attribute.handle_id.as_deref() == Some(handle));
            held.extend(mine.map(|h| assignment(spec, h.address, h.sequence, node)));
        }
    }
    held.sort_unstable();
    Ok(held)
}

pub(super) fn assignment(
    spec: &IpamBlockSpec,
    address: std::net::IpAddr,
    sequence: u64,
    node: &str,
) -> Assignment {
    Assignment {
        address,
        block: spec.cidr,
        sequence,
        borrowed: block::owner(spec) != Some(node),
    }
}

/// The search for addresses of one family.
struct Search<'a, V> {
    scene: &'a Scene<'a, V>,
    request: &'a AutoAssign,
    family: Family,
    wanted: usize,
    held: Vec<Assignment>,
}

/// What is read once the handle turns out to hold too little.
struct Ground<'a> {
    settings: Settings,
    reserved: Reservations,
    choice: Choice<'a>,
    own: BTreeSet<IpNet>,
    /// The cluster's own setting of strict affinity, which is what blocks are marked with.
    is_cluster_strict: bool,
}

impl<'a, V: Clone> Search<'a, V> {
    fn new(
        scene: &'a Scene<'a, V>,
        request: &'a AutoAssign,
        family: Family,
        wanted: usize,
    ) -> Result<Self, Halt<V>> {
        let held = held(scene.view, &request.handle, &request.node, family)?;
        Ok(Search {
            scene,
            request,
            family,
            wanted,
            held,
        })
    }

    fn run(mut self) -> Result<Vec<Assignment>, Halt<V>> {
        if self.held.len() >= self.wanted {
            self.held.truncate(self.wanted);
            return Ok(self.held);
        }
        let ground = self.survey()?;
        self.give_unselected_back(&ground)?;
        self.take_from_own(&ground)?;
        let enough = match self.request.shortfall {
            Shortfall::Fail => usize::MAX,
            Shortfall::Accept => 1,
            Shortfall::AcceptFrom(least) => least.max(1),
        };
        if self.held.len() >= enough {
            return Ok(self.held);
        }
        self.claim_another(&ground)?;
        if !ground.settings.strict_affinity {
            self.borrow(&ground)?;
        }
        if self.request.shortfall != Shortfall::Fail && !self.held.is_empty() {
            return Ok(self.held);
        }
        Err(Halt::fail(self.shortage(&ground)?))
    }

    fn survey(&self) -> Result<Ground<'a>, Halt<V>> {
        let (request, view) = (self.request, self.scene.view);
        let wish = Wish {
            family: self.family,
            intended_use: request.intended_use,
            requested: match self.family {
                Family::V4 => &request.ipv4_pools,
                Family::V6 => &request.ipv6_pools,
            },
            node_labels: &request.node_labels,
            namespace_labels: request.namespace_labels.as_ref(),
        };
        let choice = pool::choose(view.pools()?, &wish)
            .map_err(|(pool, refusal)| Halt::fail(IpamError::RequestedPool { pool, refusal }))?;
        if choice.usable.is_empty() {
            let (family, node) = (self.family, request.node.clone());
            return Err(Halt::fail(match choice.refused {
                refused if refused.is_empty() => IpamError::NoPools { family, node },
                refused => IpamError::NoUsablePool {
                    family,
                    node,
                    refused,
                },
            }));
        }
        Ok(Ground {
            settings: view.settings(request.strict_affinity, request.max_blocks_per_host)?,
            reserved: view.reservations()?,
            choice,
            own: claim::ranges(view, &request.node, self.family)?,
            is_cluster_strict: view.settings(None, None)?.strict_affinity,
        })
    }

    /// Gives back this node's empty blocks of pools that no longer select it, so that another node can have them.
    fn give_unselected_back(&self, ground: &Ground<'_>) -> Result<(), Halt<V>> {
        let pools = self.scene.view.pools()?;
        for cidr in &ground.own {
            let Some(pool) = pool::containing(pools.iter().copied(), cidr.network()) else {
                continue;
            };
            // A selector that cannot be read says nothing about this node.
            let refusal = pool::selects_node(&pool.spec, &self.request.node_labels);
            // A pool that serves this very request, because it was asked for by name, is in use whatever it selects.
            let serves = ground
                .choice
                .usable
                .iter()
                .any(|p| p.metadata.name == pool.metadata.name);
            if serves || !matches!(refusal, Err(Refusal::NodeNotSelected(_))) {
                continue;
            }
            let block = self.scene.view.block(&name::block_key(cidr))?;
            if block.is_none_or(|b| block::is_empty(&b.object.spec)) {
                claim::give_back(self.scene, &self.request.node, *cidr)?;
            }
        }
        Ok(())
    }

    fn take_from_own(&self, ground: &Ground<'_>) -> Result<(), Halt<V>> {
        let node = &self.request.node;
        for pool in &ground.choice.usable {
            for cidr in ground.own.iter().filter(|c| pool.spec.cidr.contains(*c)) {
                if let Some(block) = claim::settle(self.scene, node, *cidr)? {
                    self.take(&block, ground)?;
                } else if let Some(halt) = self.resume_claim(pool, *cidr, ground)? {
                    return Err(halt);
                }
            }
        }
        Ok(())
    }

    /// A claim without a block: it was begun and not ended, by a machine that died or by one beside this.
    fn resume_claim(
        &self,
        pool: &Object<IpPoolSpec>,
        cidr: IpNet,
        ground: &Ground<'_>,
    ) -> Result<Option<Halt<V>>, Halt<V>> {
        let node = &self.request.node;
        if self.scene.view.block(&name::block_key(&cidr))?.is_some() {
            return Ok(None);
        }
        if cidr.prefix_len() != pool.spec.block_prefix_len() || !ground.settings.auto_allocate_blocks {
            claim::give_back(self.scene, node, cidr)?;
            return Ok(None);
        }
        Ok(Some(claim::advance(
            self.scene,
            node,
            cidr,
            ground.is_cluster_strict,
        )))
    }

    /// Takes what is missing, or as much as there is, from a block; goes on if there is nothing.
    fn take(&self, seen: &Seen<'_, IpamBlockSpec, V>, ground: &Ground<'_>) -> Result<(), Halt<V>> {
        let missing = self.wanted - self.held.len();
        let mut spec = seen.object.spec.clone();
        let taken = block::assign_next(&mut spec, missing, &self.request.attribute(), &ground.reserved);
        if taken.is_empty() {
            return Ok(());
        }
        if block::owner(&spec) == Some(self.request.node.as_str()) {
            // The cluster's setting may have changed since the block was made.
            spec.strict_affinity = ground.is_cluster_strict;
        }
        Err(Halt::write(
            seen.update(spec),
            Effect {
                taken,
                ..Effect::default()
            },
        ))
    }

    /// Claims a range that has no block; where there is none, makes room by taking back an abandoned block.
    fn claim_another(&self, ground: &Ground<'_>) -> Result<(), Halt<V>> {
        if !ground.settings.auto_allocate_blocks || ground.own.len() >= ground.settings.max_blocks as usize {
            return Ok(());
        }
        for pool in &ground.choice.usable {
            if let Some(cidr) = self.free_range(pool, ground)? {
                return Err(claim::advance(
                    self.scene,
                    &self.request.node,
                    cidr,
                    ground.is_cluster_strict,
                ));
            }
        }
        // Who only wants more than it has leaves the others' blocks alone.
        let is_in_need = self.held.is_empty() || self.request.shortfall == Shortfall::Fail;
        if is_in_need && self.request.takes_abandoned {
            self.take_abandoned(ground)?;
        }
        Ok(())
    }

    fn free_range(&self, pool: &Object<IpPoolSpec>, ground: &Ground<'_>) -> Result<Option<IpNet>, Halt<V>> {
        let blocks = self.scene.view.blocks()?;
        let of_family = blocks
            .iter()
            .map(|b| &b.object.spec.cidr)
            .filter(|c| Family::of_net(c) == self.family);
        // A range of a claim of this node that is still there could not be made into a block.
        let taken: Vec<Span> = of_family.chain(&ground.own).map(Span::of_net).collect();
        let start = spread::mix(self.request.seed, &pool.metadata.name);
        let reserved = ground.reserved.spans(self.family);
        Ok(address::free_block(
            &pool.spec.cidr,
            pool.spec.block_prefix_len(),
            start,
            &taken,
            reserved,
        ))
    }

    fn take_abandoned(&self, ground: &Ground<'_>) -> Result<(), Halt<V>> {
        for seen in self.blocks_elsewhere(ground)? {
            let spec = &seen.object.spec;
            let is_old = self.scene.now.saturating_sub(spec.sequence_number) >= LEAST_AGE;
            // A block that holds nothing but reserved addresses would be of no use.
            let is_useful = spec.deleted || block::assignable(spec, &ground.reserved) > 0;
            if !block::is_empty(spec) || !is_useful {
                continue;
            }
            match block::owner(spec) {
                Some(owner) if is_old && spec.cidr == spec.cidr.trunc() => {
                    claim::give_back(self.scene, owner, spec.cidr)?;
                }
                None if spec.affinity.is_none() => {
                    return Err(Halt::write(seen.delete(Kind::IPAMBlock), Effect::default()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn borrow(&self, ground: &Ground<'_>) -> Result<(), Halt<V>> {
        for seen in self.blocks_elsewhere(ground)? {
            let spec = &seen.object.spec;
            // What belongs to something other than a node (a load balancer, say) is not for pods.
            let is_of_nodes = spec.affinity.is_none() || block::owner(spec).is_some();
            if is_of_nodes && !spec.strict_affinity {
                self.take(&seen, ground)?;
            }
        }
        Ok(())
    }

    /// The blocks of the usable pools that are not this node's, pool by pool, each pool's in an order of the seed's.
    fn blocks_elsewhere(&self, ground: &Ground<'_>) -> Result<Vec<Seen<'a, IpamBlockSpec, V>>, Halt<V>> {
        let rank = |cidr: &IpNet| {
            ground
                .choice
                .usable
                .iter()
                .position(|p| p.spec.cidr.contains(cidr))
        };
        let mut found = Vec::new();
        for seen in self.scene.view.blocks()? {
            let spec = &seen.object.spec;
            if let (Some(rank), false) = (
                rank(&spec.cidr),
                block::owner(spec) == Some(self.request.node.as_str()),
            ) {
                found.push((
                    rank,
                    spread::mix(self.request.seed, &seen.object.metadata.name),
                    seen,
                ));
            }
        }
        found.sort_by(|a, b| {
            (a.0, a.1, &a.2.object.metadata.name).cmp(&(b.0, b.1, &b.2.object.metadata.name))
        });
        Ok(found.into_iter().map(|(_, _, seen)| seen).collect())
    }

    fn shortage(&self, ground: &Ground<'_>) -> Result<IpamError, Halt<V>> {
        let (family, node) = (self.family, self.request.node.clone());
        let mut pools = Vec::new();
        for pool in &ground.choice.usable {
            let cidr = pool.spec.cidr;
            let mut shortage = PoolShortage {
                pool: pool.metadata.name.clone(),
                cidr,
                blocks: 0,
                own: 0,
                has_room: self.free_range(pool, ground)?.is_some(),
                free_elsewhere: 0,
            };
            for seen in self
                .scene
                .view
                .blocks()?
                .iter()
                .filter(|b| cidr.contains(&b.object.spec.cidr))
            {
                shortage.blocks += 1;
                if block::owner(&seen.object.spec) == Some(node.as_str()) {
                    shortage.own += 1;
                } else {
                    shortage.free_elsewhere += block::assignable(&seen.object.spec, &ground.reserved);
                }
            }
            pools.push(shortage);
        }
        let (owned, limit) = (ground.own.len(), ground.settings.max_blocks);
        let has_room = pools.iter().any(|p| p.has_room);
        Ok(match (has_room, ground.settings.auto_allocate_blocks) {
            (true, false) => IpamError::ClaimsDisabled { family, node, pools },
            (true, true) if owned >= limit as usize => IpamError::MaxBlocks {
                family,
                node,
                owned,
                limit,
                pools,
            },
            _ => {
                let refused = ground.choice.refused.clone();
                IpamError::Exhausted {
                    family,
                    node,
                    pools,
                    refused,
                    strict: ground.settings.strict_affinity,
                }
            }
        })
    }
}
