//! What a node gave out of its reserve, written behind: one write for all addresses of a block.
//!
//! The node has answered already (from its journal), so this must end as it says or fail loudly: an address that the
//! reserve no longer holds was given to two. What the reserve lacks is taken in the same writes.

use super::claim;
use super::machine::{Effect, Halt, Scene};
use super::request::{AutoAssign, Outcome, Record};
use crate::address::Family;
use crate::block::Release;
use crate::{IpamError, block, handle};
use policy_model::IpamBlockSpec;
use std::net::IpAddr;

pub(super) fn plan<V: Clone>(scene: &Scene<'_, V>, request: &Record) -> Result<Outcome, Halt<V>> {
    let reserve = handle::of_reserve(&request.node);
    let freed = request.freed.iter().map(|t| &t.address);
    let addresses = freed.chain(request.given.iter().map(|g| &g.address));
    for seen in scene.view.blocks_with(addresses)? {
        let cidr = seen.object.spec.cidr;
        let mut spec = seen.object.spec.clone();
        let mut freed = Vec::new();
        for target in request.freed.iter().filter(|t| cidr.contains(&t.address)) {
            let is_new = !scene.log.freed.contains(&target.address);
            if is_new && block::release(&mut spec, target.address, &target.guard) == Release::Freed {
                freed.push(target.address);
            }
        }
        for given in request.given.iter().filter(|g| cidr.contains(&g.address)) {
            let held = block::holder(&spec, given.address).map(|h| h.attribute.clone());
            match held {
                Some(holder) if holder == given.attribute => {}
                // Freed by this very record, and given again before it was written.
                None if freed.contains(&given.address) => {
                    block::assign(&mut spec, given.address, &given.attribute)
                        .map_err(|e| Halt::fail(IpamError::from(e)))?;
                }
                Some(holder) if holder.handle_id.as_deref() == Some(reserve.as_str()) => {
                    block::hand_over(&mut spec, given.address, &reserve, &given.attribute);
                }
                Some(holder) => {
                    let holder = Box::new(holder);
                    return Err(Halt::fail(IpamError::Taken {
                        address: given.address,
                        holder,
                    }));
                }
                None => return Err(Halt::fail(not_reserved(request, given.address))),
            }
        }
        if spec != seen.object.spec {
            let reserved = refill(scene, request, &mut spec);
            return Err(Halt::write(
                claim::put_back(&seen, spec),
                Effect {
                    freed,
                    reserved,
                    ..Effect::default()
                },
            ));
        }
    }
    for given in &request.given {
        if scene.view.block_with(given.address)?.is_none() {
            return Err(Halt::fail(not_reserved(request, given.address)));
        }
    }
    Ok(Outcome::Recorded {
        reserved: scene.log.reserved.iter().copied().collect(),
    })
}

/// Adds to the reserve what is still missing there and a block of the node has. Only to a block that is written anyway, so
/// that the record said again writes nothing.
fn refill<V>(scene: &Scene<'_, V>, request: &Record, spec: &mut IpamBlockSpec) -> Vec<IpAddr> {
    let refill = &request.refill;
    let is_wanted = refill.ranges.iter().any(|range| range.contains(&spec.cidr));
    if !is_wanted || block::owner(spec) != Some(&request.node) {
        return Vec::new();
    }
    let family = Family::of_net(&spec.cidr);
    let reserved = scene.log.reserved.iter();
    let has = reserved.filter(|address| Family::of_address(**address) == family);
    let missing = refill.of(family).saturating_sub(has.count());
    let attribute = AutoAssign::reserve(&request.node, 0, 0).attribute();
    block::assign_next(spec, missing, &attribute, &refill.reservations)
}

fn not_reserved(request: &Record, address: IpAddr) -> IpamError {
    IpamError::NotReserved {
        address,
        node: request.node.clone(),
    }
}
