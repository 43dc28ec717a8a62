//! Addresses and blocks given back.
//!
//! An address goes to the end of its block's queue, so that it is given again as late as possible. A block that
//! nobody owns is deleted with its last address.

use super::claim;
use super::machine::{Effect, Halt, Scene};
use super::request::{Outcome, ReleaseBlocks, Released, Target, Unreleased, Which};
use crate::address::Family;
use crate::block::{self, Holding, Release};
use crate::{IpamError, handle, name};
use ipnet::IpNet;
use std::net::IpAddr;

pub(super) fn by_handle<V: Clone>(scene: &Scene<'_, V>, handle: &str) -> Result<Outcome, Halt<V>> {
    for seen in scene.view.blocks_of_handle()? {
        let mut spec = seen.object.spec.clone();
        let freed = block::release_handle(&mut spec, handle);
        if !freed.is_empty() {
            return Err(Halt::write(
                claim::put_back(&seen, spec),
                Effect {
                    freed,
                    ..Effect::default()
                },
            ));
        }
    }
    Ok(Outcome::Released(Released {
        freed: scene.log.freed.iter().copied().collect(),
        unreleased: Vec::new(),
    }))
}

pub(super) fn addresses<V: Clone>(scene: &Scene<'_, V>, targets: &[Target]) -> Result<Outcome, Halt<V>> {
    // All addresses of a block go with one write.
    for seen in scene.view.blocks_with(targets.iter().map(|t| &t.address))? {
        let mut spec = seen.object.spec.clone();
        let mut freed = Vec::new();
        for target in targets
            .iter()
            .filter(|t| spec.cidr.contains(&t.address))
            .collect::<Vec<_>>()
        {
            let is_new = !scene.log.freed.contains(&target.address);
            if is_new && block::release(&mut spec, target.address, &target.guard) == Release::Freed {
                freed.push(target.address);
            }
        }
        if !freed.is_empty() {
            return Err(Halt::write(
                claim::put_back(&seen, spec),
                Effect {
                    freed,
                    ..Effect::default()
                },
            ));
        }
    }
    let mut released = Released {
        freed: scene.log.freed.iter().copied().collect(),
        unreleased: Vec::new(),
    };
    for target in targets.iter().filter(|t| !scene.log.freed.contains(&t.address)) {
        let seen = scene.view.block_with(target.address)?;
        let held = seen
            .as_ref()
            .and_then(|b| block::holder(&b.object.spec, target.address));
        released.unreleased.push(match held {
            Some(held) => Unreleased::HeldByAnother(target.address, Box::new(held.attribute.clone())),
            None => Unreleased::NotHeld(target.address),
        });
    }
    Ok(Outcome::Released(released))
}

pub(super) fn blocks<V: Clone>(scene: &Scene<'_, V>, request: &ReleaseBlocks) -> Result<Outcome, Halt<V>> {
    let node = &request.node;
    let mut kept = Vec::new();
    let mut give_back = |cidr: IpNet, only_if_empty: bool| {
        let block = scene.view.block(&name::block_key(&cidr))?;
        let is_full = block.is_some_and(|b| {
            block::owner(&b.object.spec) == Some(node.as_str()) && !block::is_empty(&b.object.spec)
        });
        if only_if_empty && is_full {
            kept.push(cidr);
            return Ok(());
        }
        claim::give_back(scene, node, cidr)
    };
    match &request.which {
        Which::One(cidr) => give_back(*cidr, false)?,
        Which::OneIfEmpty(cidr) => give_back(*cidr, true)?,
        Which::All => {
            for family in [Family::V4, Family::V6] {
                for cidr in claim::ranges(scene.view, node, family)? {
                    give_back(cidr, false)?;
                }
            }
        }
        Which::Empty { keep } => {
            for family in [Family::V4, Family::V6] {
                let ranges = claim::ranges(scene.view, node, family)?;
                let mut surplus = ranges.len().saturating_sub(*keep);
                // The last ones first: the first ones are those that requests try first.
                for cidr in ranges.into_iter().rev() {
                    if surplus == 0 {
                        break;
                    }
                    let key = name::block_key(&cidr);
                    let is_empty = scene
                        .view
                        .block(&key)?
                        .is_none_or(|b| block::is_empty(&b.object.spec));
                    give_back(cidr, true)?;
                    surplus -= usize::from(is_empty);
                }
            }
        }
    }
    Ok(Outcome::BlocksReleased {
        released: scene.log.given_back.iter().copied().collect(),
        kept,
    })
}

pub(super) fn node<V: Clone>(scene: &Scene<'_, V>, node: &str) -> Result<Outcome, Halt<V>> {
    free_where(scene, |h| is_used_on(h, node))?;
    for family in [Family::V4, Family::V6] {
        for cidr in claim::ranges(scene.view, node, family)? {
            claim::give_back(scene, node, cidr)?;
        }
    }
    Ok(Outcome::Released(Released {
        freed: scene.log.freed.iter().copied().collect(),
        unreleased: Vec::new(),
    }))
}

/// Gives back what a request that failed has taken; its error stays the one to report.
pub(super) fn undo<V: Clone>(
    scene: &Scene<'_, V>,
    handle: &str,
    error: &IpamError,
) -> Result<Outcome, Halt<V>> {
    let is_taken = |a: &IpAddr| scene.log.taken.contains(a) && !scene.log.freed.contains(a);
    free_where(scene, |h| {
        is_taken(&h.address) && h.attribute.handle_id.as_deref() == Some(handle)
    })?;
    Err(Halt::fail(error.clone()))
}

fn is_used_on(held: &Holding<'_>, node: &str) -> bool {
    let secondary = &held.attribute.secondary;
    secondary.get(handle::ATTRIBUTE_NODE).is_some_and(|n| n == node)
        || held
            .attribute
            .handle_id
            .as_deref()
            .is_some_and(|h| handle::is_of_node(h, node))
}

fn free_where<V: Clone>(scene: &Scene<'_, V>, which: impl Fn(&Holding<'_>) -> bool) -> Result<(), Halt<V>> {
    for seen in scene.view.blocks()? {
        if !block::holders(&seen.object.spec).any(|h| which(&h)) {
            continue;
        }
        let mut spec = seen.object.spec.clone();
        let freed = block::release_where(&mut spec, &which);
        return Err(Halt::write(
            claim::put_back(&seen, spec),
            Effect {
                freed,
                ..Effect::default()
            },
        ));
    }
    Ok(())
}
