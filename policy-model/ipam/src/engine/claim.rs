//! A node's claim on a block, step by step: affinity pending, block, affinity confirmed; and the way back.
//!
//! The block is the arbiter: whoever creates it owns it. So an affinity is brought in line with its block, never the
//! other way round, and whatever a crash left between the two is finished here by whoever comes next.

use super::machine::{Effect, Halt, Scene, Write};
use super::view::{Seen, View};
use crate::IpamError;
use crate::address::{self, Family};
use crate::{affinity, block, name};
use ipnet::IpNet;
use policy_model::{AffinityState, BlockAffinitySpec, IpamBlockSpec, Kind, Resource};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The ranges of a family on which a node has a claim: those of its blocks and of its affinities.
pub(super) fn ranges<V: Clone>(
    view: &View<V>,
    node: &str,
    family: Family,
) -> Result<BTreeSet<IpNet>, Halt<V>> {
    let mut ranges = BTreeSet::new();
    for seen in view.affinities()? {
        let spec = &seen.object.spec;
        if affinity::is_of(spec, node) && Family::of_net(&spec.cidr) == family {
            ranges.insert(spec.cidr.trunc());
        }
    }
    for seen in view.blocks()? {
        let spec = &seen.object.spec;
        if block::owner(spec) == Some(node) && Family::of_net(&spec.cidr) == family {
            ranges.insert(spec.cidr.trunc());
        }
    }
    Ok(ranges)
}

/// Brings a node's affinity in line with the block, and gives the block if it is the node's.
pub(super) fn settle<'a, V: Clone>(
    scene: &Scene<'a, V>,
    node: &str,
    cidr: IpNet,
) -> Result<Option<Seen<'a, IpamBlockSpec, V>>, Halt<V>> {
    let block = scene.view.block(&name::block_key(&cidr))?;
    let claim = claim_of(scene.view, node, &cidr)?;
    let is_own = block
        .as_ref()
        .is_some_and(|b| block::owner(&b.object.spec) == Some(node));
    match (block, claim) {
        // Another node was first, or nobody owns it any more: the claim means nothing.
        (Some(_), Some(claim)) if !is_own => {
            Err(Halt::write(claim.delete(Kind::BlockAffinity), Effect::default()))
        }
        (Some(block), Some(claim)) => {
            if claim.object.spec.state == AffinityState::Confirmed {
                return Ok(Some(block));
            }
            let confirmed = affinity::in_state(claim.object, AffinityState::Confirmed);
            Err(Halt::write(claim.update(confirmed.spec), Effect::default()))
        }
        (Some(_), None) if is_own => {
            let confirmed = affinity::new(node, cidr, AffinityState::Confirmed);
            Err(create(confirmed.into()))
        }
        (Some(_), None) | (None, None) => Ok(None),
        (None, Some(claim)) if claim.object.spec.state == AffinityState::PendingDeletion => {
            Err(Halt::write(claim.delete(Kind::BlockAffinity), Effect::default()))
        }
        (None, Some(_)) => Ok(None),
    }
}

/// The next write of a claim on a range that has no block. The range must be one of the pool's blocks.
pub(super) fn advance<V: Clone>(scene: &Scene<'_, V>, node: &str, cidr: IpNet, strict: bool) -> Halt<V> {
    match try_advance(scene, node, cidr, strict) {
        Ok(halt) | Err(halt) => halt,
    }
}

fn try_advance<V: Clone>(
    scene: &Scene<'_, V>,
    node: &str,
    cidr: IpNet,
    strict: bool,
) -> Result<Halt<V>, Halt<V>> {
    let claim = claim_of(scene.view, node, &cidr)?;
    let existing = scene
        .view
        .blocks()?
        .into_iter()
        .find(|b| address::overlap(&b.object.spec.cidr, &cidr));
    if let Some(existing) = existing {
        // The block of another size came first; a claim on this range can never be fulfilled.
        let existing = existing.object.spec.cidr;
        return Ok(match claim {
            Some(claim) => Halt::write(claim.delete(Kind::BlockAffinity), Effect::default()),
            None => Halt::fail(IpamError::OverlappingBlock { cidr, existing }),
        });
    }
    let Some(claim) = claim else {
        // What a node left that gave this range back and died in between.
        for left in scene.view.affinities()? {
            let spec = &left.object.spec;
            if spec.cidr == cidr && spec.state == AffinityState::PendingDeletion {
                return Ok(Halt::write(left.delete(Kind::BlockAffinity), Effect::default()));
            }
        }
        return Ok(create(affinity::new(node, cidr, AffinityState::Pending).into()));
    };
    if claim.object.spec.state == AffinityState::PendingDeletion {
        let pending = affinity::in_state(claim.object, AffinityState::Pending);
        return Ok(Halt::write(claim.update(pending.spec), Effect::default()));
    }
    Ok(match block::new(cidr, Some(node), strict, scene.now) {
        Some(new) => create(new.into()),
        None => Halt::fail(IpamError::BrokenBlock { cidr }),
    })
}

/// Takes a block from its node, step by step, and says when it is gone from it.
///
/// An empty block is deleted; one that is not loses its owner, and its addresses stay with their holders.
pub(super) fn give_back<V: Clone>(scene: &Scene<'_, V>, node: &str, cidr: IpNet) -> Result<(), Halt<V>> {
    let claim = claim_of(scene.view, node, &cidr)?;
    let block = scene.view.block(&name::block_key(&cidr))?;
    let block = block.filter(|b| block::owner(&b.object.spec) == Some(node));
    let done = Effect {
        given_back: Some(cidr),
        ..Effect::default()
    };
    match (block, claim) {
        (Some(_), Some(claim)) if claim.object.spec.state != AffinityState::PendingDeletion => {
            let leaving = affinity::in_state(claim.object, AffinityState::PendingDeletion);
            Err(Halt::write(claim.update(leaving.spec), Effect::default()))
        }
        (Some(block), _) if block::is_empty(&block.object.spec) => {
            Err(Halt::write(block.delete(Kind::IPAMBlock), done))
        }
        (Some(block), _) => {
            let mut spec = block.object.spec.clone();
            spec.affinity = None;
            spec.strict_affinity = false;
            spec.sequence_number = spec.sequence_number.saturating_add(1);
            Err(Halt::write(block.update(spec), done))
        }
        (None, Some(claim)) => Err(Halt::write(claim.delete(Kind::BlockAffinity), done)),
        (None, None) => Ok(()),
    }
}

/// The write that puts a changed block in place, or deletes it once nobody owns it or holds an address of it.
pub(super) fn put_back<V: Clone>(seen: &Seen<'_, IpamBlockSpec, V>, spec: IpamBlockSpec) -> Write<V> {
    if spec.affinity.is_none() && block::is_empty(&spec) {
        return seen.delete(Kind::IPAMBlock);
    }
    seen.update(spec)
}

pub(super) fn create<V>(resource: Resource) -> Halt<V> {
    Halt::write(
        Write::Create {
            resource: Arc::new(resource),
        },
        Effect::default(),
    )
}

/// A node's claim on a range: by its usual name, else by what it says (another program may name it otherwise).
fn claim_of<'a, V: Clone>(
    view: &'a View<V>,
    node: &str,
    cidr: &IpNet,
) -> Result<Option<Seen<'a, BlockAffinitySpec, V>>, Halt<V>> {
    let is_claim = |seen: &Seen<'_, BlockAffinitySpec, V>| {
        affinity::is_of(&seen.object.spec, node) && seen.object.spec.cidr == *cidr
    };
    if let Some(usual) = view.affinity(&name::affinity_key(node, cidr))?.filter(is_claim) {
        return Ok(Some(usual));
    }
    Ok(view.affinities()?.into_iter().find(is_claim))
}
