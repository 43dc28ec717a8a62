//! What a node gave out of its reserve, written behind: one write for all addresses of a block.
//!
//! The node has answered already (from its journal), so this must end as it says or fail loudly: an address that the
//! reserve no longer holds was given to two.

use super::claim;
use super::machine::{Effect, Halt, Scene};
use super::request::{Outcome, Record};
use crate::block::Release;
use crate::{IpamError, block, handle};

pub(super) fn plan<V: Clone>(scene: &Scene<'_, V>, request: &Record) -> Result<Outcome, Halt<V>> {
    let reserve = handle::of_reserve(&request.node);
    for seen in scene.view.blocks()? {
        let cidr = seen.object.spec.cidr;
        let mut addresses = request
            .freed
            .iter()
            .map(|t| &t.address)
            .chain(request.given.iter().map(|g| &g.address));
        if !addresses.any(|address| cidr.contains(address)) {
            continue;
        }
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
            return Err(Halt::write(
                claim::put_back(&seen, spec),
                Effect {
                    freed,
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
    Ok(Outcome::Recorded)
}

fn not_reserved(request: &Record, address: std::net::IpAddr) -> IpamError {
    IpamError::NotReserved {
        address,
        node: request.node.clone(),
    }
}
