//! Finishes, in the whole cluster, what crashes left between blocks and affinities.
//!
//! It may run beside anything: each write is a compare-and-swap, and a claim that it ends too early is begun anew by
//! the machine that was making it.

use super::claim;
use super::machine::{Effect, Halt, Scene};
use super::request::Outcome;
use crate::{affinity, block};
use policy_model::{AffinityState, Kind};

pub(super) fn plan<V: Clone>(scene: &Scene<'_, V>) -> Result<Outcome, Halt<V>> {
    let blocks = scene.view.blocks()?;
    let claims = scene.view.affinities()?;
    for seen in &blocks {
        let spec = &seen.object.spec;
        let mut repaired = spec.clone();
        if block::is_empty(spec) && (spec.affinity.is_none() || spec.deleted) {
            return Err(Halt::write(seen.delete(Kind::IPAMBlock), Effect::default()));
        }
        let is_changed = block::normalise(&mut repaired);
        // A deletion that found an address in the end was called off.
        let is_called_off = std::mem::replace(&mut repaired.deleted, false);
        if is_changed || is_called_off {
            return Err(Halt::write(seen.update(repaired), Effect::default()));
        }
    }
    for seen in claims.iter().filter(|c| affinity::is_of_a_node(&c.object.spec)) {
        let spec = &seen.object.spec;
        let block = blocks
            .iter()
            .map(|b| &b.object.spec)
            .find(|b| b.cidr == spec.cidr);
        let is_own = block.is_some_and(|b| block::owner(b).is_some_and(|owner| affinity::is_of(spec, owner)));
        if !is_own {
            return Err(Halt::write(seen.delete(Kind::BlockAffinity), Effect::default()));
        }
        if spec.state != AffinityState::Confirmed {
            let confirmed = affinity::in_state(seen.object, AffinityState::Confirmed);
            return Err(Halt::write(seen.update(confirmed.spec), Effect::default()));
        }
    }
    for seen in &blocks {
        if let Some(owner) = block::owner(&seen.object.spec) {
            let cidr = seen.object.spec.cidr;
            let is_claimed =
                |spec: &policy_model::BlockAffinitySpec| affinity::is_of(spec, owner) && spec.cidr == cidr;
            if !claims.iter().any(|c| is_claimed(&c.object.spec)) {
                return Err(claim::create(
                    affinity::new(owner, cidr, AffinityState::Confirmed).into(),
                ));
            }
        }
    }
    Ok(Outcome::Repaired {
        writes: scene.log.writes,
    })
}
