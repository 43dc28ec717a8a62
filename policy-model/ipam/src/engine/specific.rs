//! Addresses that are named: all of them or none.

use super::claim;
use super::machine::{Effect, Halt, Scene};
use super::request::{AssignSpecific, Assignment, Outcome};
use super::view::Seen;
use crate::address;
use crate::pool::{self, Refusal};
use crate::{IpamError, block, handle, name};
use policy_model::IpamBlockSpec;
use std::net::IpAddr;

pub(super) fn plan<V: Clone>(scene: &Scene<'_, V>, request: &AssignSpecific) -> Result<Outcome, Halt<V>> {
    if request.handle.is_empty() {
        return Err(Halt::fail(IpamError::NoHandle));
    }
    let mut assigned: Vec<Assignment> = Vec::with_capacity(request.addresses.len());
    for address in &request.addresses {
        assigned.push(one(scene, request, *address)?);
    }
    Ok(Outcome::Assigned(assigned))
}

fn one<V: Clone>(
    scene: &Scene<'_, V>,
    request: &AssignSpecific,
    address: IpAddr,
) -> Result<Assignment, Halt<V>> {
    let found = scene.view.block_with(address)?;
    if let Some(seen) = &found
        && let Some(held) = block::holder(&seen.object.spec, address)
        && held.attribute.handle_id.as_deref() == Some(request.handle.as_str())
    {
        let spec = &seen.object.spec;
        let borrowed = block::owner(spec) != Some(request.node.as_str());
        return Ok(Assignment {
            address,
            block: spec.cidr,
            sequence: held.sequence,
            borrowed,
        });
    }
    let pools = scene.view.pools()?;
    let Some(pool) = pool::containing(pools, address) else {
        return Err(Halt::fail(IpamError::OutsidePools { address }));
    };
    let refuse = |refusal| {
        let pool = pool.metadata.name.clone();
        Halt::fail(IpamError::PoolRefused {
            address,
            pool,
            refusal,
        })
    };
    if pool.spec.disabled {
        return Err(refuse(Refusal::Disabled));
    }
    let prefix = pool::check_block_size(&pool.spec).map_err(refuse)?;
    match found {
        Some(seen) => Err(take(scene, request, address, &seen)?),
        None => {
            let cidr = address::block_of(&pool.spec.cidr, prefix, address)
                .ok_or(Halt::fail(IpamError::OutsidePools { address }))?;
            let strict = scene.view.settings(None, None)?.strict_affinity;
            Err(claim::advance(scene, &request.node, cidr, strict))
        }
    }
}

/// The write that takes an address from a block that exists.
fn take<V: Clone>(
    scene: &Scene<'_, V>,
    request: &AssignSpecific,
    address: IpAddr,
    seen: &Seen<'_, IpamBlockSpec, V>,
) -> Result<Halt<V>, Halt<V>> {
    let old = &seen.object.spec;
    let owner = block::owner(old);
    if !block::is_usable(old) {
        return Err(Halt::fail(IpamError::BrokenBlock { cidr: old.cidr }));
    }
    if owner == Some(request.node.as_str()) && seen.object.metadata.name == name::of_cidr(&old.cidr) {
        // A block that was made a step ago still waits for its affinity to be confirmed.
        claim::settle(scene, &request.node, old.cidr)?;
    } else if owner != Some(request.node.as_str()) {
        let strict = scene
            .view
            .settings(request.strict_affinity, None)?
            .strict_affinity;
        if strict || old.strict_affinity {
            return Err(Halt::fail(IpamError::NotAffine {
                address,
                cidr: old.cidr,
                owner: owner.map(str::to_owned),
                node: request.node.clone(),
            }));
        }
    }
    let mut spec = old.clone();
    let reserve = handle::of_reserve(&request.node);
    if !block::hand_over(&mut spec, address, &reserve, &request.attribute()) {
        block::assign(&mut spec, address, &request.attribute())
            .map_err(|e| Halt::fail(IpamError::from(e)))?;
    }
    Ok(Halt::write(
        seen.update(spec),
        Effect {
            taken: vec![address],
            ..Effect::default()
        },
    ))
}
