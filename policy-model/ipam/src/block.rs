//! A block: a small range of a pool that gives addresses first in, first out, and takes them back.
//!
//! The transitions change a value in memory; whoever calls them writes the result with compare-and-swap, so that a
//! block never holds one address for two. The first and the last address of a range are given like all others.

use crate::address;
use crate::affinity;
use crate::name;
use crate::reservation::Reservations;
use ipnet::IpNet;
use policy_model::{AllocationAttribute, IpamBlockSpec, Object};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Longest block in bits of the host part: 65,536 addresses.
const MAX_HOST_BITS: u8 = 16;

/// One address that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding<'a> {
    /// The address.
    pub address: IpAddr,
    /// Who holds it.
    pub attribute: &'a AllocationAttribute,
    /// The block's sequence number when it was given; 0 where the block does not say.
    pub sequence: u64,
}

/// Why an address of a block could not be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAssigned {
    /// The address lies outside the block.
    #[error("{address} is not in block {cidr}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The block.
        cidr: IpNet,
    },
    /// Somebody holds it.
    #[error("{address} is taken by {}", describe(.holder))]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who holds it.
        holder: Box<AllocationAttribute>,
    },
}

/// What a release must find; a guard against taking an address from whoever got it next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// The handle that must hold the address.
    pub handle: Option<String>,
    /// The sequence number at which it must have been given.
    pub sequence: Option<u64>,
}

/// What became of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// The address is free now.
    Freed,
    /// It was free already.
    NotHeld,
    /// It is held otherwise than the guard says, and stays so.
    HeldByAnother(Box<AllocationAttribute>),
}

/// Makes an empty block; nothing where the range is too long to be one.
///
/// `sequence` should grow from block to block of the same range (microseconds of the clock do), so that an address of
/// a deleted and re-created block is told from the same one before.
pub fn new(cidr: IpNet, node: Option<&str>, strict: bool, sequence: u64) -> Option<Object<IpamBlockSpec>> {
    let cidr = cidr.trunc();
    let size = size(&cidr)?;
    let spec = IpamBlockSpec {
        cidr,
        affinity: node.map(affinity::text),
        strict_affinity: strict,
        allocations: vec![None; size],
        unallocated: (0..u32::try_from(size).ok()?).collect(),
        attributes: Vec::new(),
        sequence_number: sequence,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
    };
    Some(Object::named(name::of_cidr(&cidr), spec))
}

/// What there is to know of a block for who has nothing in it: its range, its owner and which addresses are free, without
/// who holds the others, which is nearly all of a block. It answers every question of this module as the block does, but
/// for those after holders.
///
/// Never to be written: [`crate::engine::Stored::outline`] sees to that.
pub fn outline(block: &IpamBlockSpec) -> IpamBlockSpec {
    // One place stands for all holders, the one behind it for those that the block does not say.
    let (known, unknown) = (0, 1);
    let is_said = |index: u32| (index as usize) < block.attributes.len();
    let place = |index: u32| if is_said(index) { known } else { unknown };
    IpamBlockSpec {
        cidr: block.cidr,
        affinity: block.affinity.clone(),
        strict_affinity: block.strict_affinity,
        allocations: block.allocations.iter().map(|held| held.map(place)).collect(),
        unallocated: block.unallocated.clone(),
        attributes: vec![AllocationAttribute::default()],
        sequence_number: block.sequence_number,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: block.deleted,
    }
}

/// The node that owns a block.
pub fn owner(block: &IpamBlockSpec) -> Option<&str> {
    block.affinity.as_deref().and_then(affinity::node_of)
}

/// Whether nobody holds an address of the block, reserves of nodes included.
pub fn is_empty(block: &IpamBlockSpec) -> bool {
    block.allocations.iter().all(Option::is_none)
}

/// How many addresses nobody holds.
pub fn free(block: &IpamBlockSpec) -> usize {
    block.allocations.iter().filter(|a| a.is_none()).count()
}

/// Every address that is taken, in the order of the addresses.
pub fn holders(block: &IpamBlockSpec) -> impl Iterator<Item = Holding<'_>> {
    block
        .allocations
        .iter()
        .enumerate()
        .filter_map(|(ordinal, index)| {
            let ordinal = u32::try_from(ordinal).ok()?;
            Some(Holding {
                address: address::address_at(&block.cidr, ordinal)?,
                attribute: block.attributes.get((*index)? as usize)?,
                sequence: sequence_of(block, ordinal),
            })
        })
}

/// Who holds an address of the block.
pub fn holder(block: &IpamBlockSpec, address: IpAddr) -> Option<Holding<'_>> {
    let ordinal = address::ordinal(&block.cidr, address)?;
    let index = (*block.allocations.get(ordinal as usize)?)?;
    let attribute = block.attributes.get(index as usize)?;
    Some(Holding {
        address,
        attribute,
        sequence: sequence_of(block, ordinal),
    })
}

/// Whether a handle holds an address of the block.
pub fn is_held_by(block: &IpamBlockSpec, handle: &str) -> bool {
    // Attributes that nobody uses are removed at release, but another program's block may still carry one.
    block
        .attributes
        .iter()
        .any(|a| a.handle_id.as_deref() == Some(handle))
        && holders(block).any(|h| h.attribute.handle_id.as_deref() == Some(handle))
}

/// Whether addresses may be taken: nothing in it contradicts itself, and nobody is deleting it.
pub fn is_usable(block: &IpamBlockSpec) -> bool {
    !block.deleted
        && Some(block.allocations.len()) == size(&block.cidr)
        && block
            .allocations
            .iter()
            .flatten()
            .all(|a| (*a as usize) < block.attributes.len())
}

/// How many addresses [`assign_next`] could give.
pub fn assignable(block: &IpamBlockSpec, reserved: &Reservations) -> usize {
    if is_usable(block) {
        queue(block, reserved).len()
    } else {
        0
    }
}

/// Gives up to `count` addresses, those that are free for the longest time first, and says which.
///
/// Reserved addresses keep their place in the queue. A block that is not usable gives none.
pub fn assign_next(
    block: &mut IpamBlockSpec,
    count: usize,
    attribute: &AllocationAttribute,
    reserved: &Reservations,
) -> Vec<IpAddr> {
    if count == 0 || !is_usable(block) {
        return Vec::new();
    }
    let mut ordinals = queue(block, reserved);
    ordinals.truncate(count);
    if ordinals.is_empty() {
        return Vec::new();
    }
    block.sequence_number = block.sequence_number.saturating_add(1);
    for ordinal in &ordinals {
        give(block, *ordinal, attribute);
    }
    ordinals
        .iter()
        .filter_map(|o| address::address_at(&block.cidr, *o))
        .collect()
}

/// Gives one address that was asked for by name, also where it is reserved.
///
/// # Errors
/// The address lies outside the block or somebody holds it.
pub fn assign(
    block: &mut IpamBlockSpec,
    address: IpAddr,
    attribute: &AllocationAttribute,
) -> Result<(), NotAssigned> {
    let outside = NotAssigned::Outside {
        address,
        cidr: block.cidr,
    };
    let Some(ordinal) = address::ordinal(&block.cidr, address) else {
        return Err(outside);
    };
    match block.allocations.get(ordinal as usize) {
        None => Err(outside),
        Some(Some(index)) => {
            let holder = block.attributes.get(*index as usize).cloned().unwrap_or_default();
            Err(NotAssigned::Taken {
                address,
                holder: Box::new(holder),
            })
        }
        Some(None) => {
            block.sequence_number = block.sequence_number.saturating_add(1);
            give(block, ordinal, attribute);
            Ok(())
        }
    }
}

/// Hands an address from one handle to another without freeing it; says whether `from` held it.
///
/// This is how an address that was reserved ahead becomes a pod's.
pub fn hand_over(
    block: &mut IpamBlockSpec,
    address: IpAddr,
    from: &str,
    attribute: &AllocationAttribute,
) -> bool {
    let held = holder(block, address).is_some_and(|h| h.attribute.handle_id.as_deref() == Some(from));
    if let (true, Some(ordinal)) = (held, address::ordinal(&block.cidr, address)) {
        block.sequence_number = block.sequence_number.saturating_add(1);
        give(block, ordinal, attribute);
        drop_unused_attributes(block);
        return true;
    }
    false
}

/// Takes one address back, if it is held as the guard says; it goes to the end of the queue.
pub fn release(block: &mut IpamBlockSpec, address: IpAddr, guard: &Guard) -> Release {
    let Some(held) = holder(block, address) else {
        return Release::NotHeld;
    };
    let same_handle = guard.handle.is_none() || guard.handle == held.attribute.handle_id;
    if !same_handle || guard.sequence.is_some_and(|s| s != held.sequence) {
        return Release::HeldByAnother(Box::new(held.attribute.clone()));
    }
    release_where(block, |h| h.address == address);
    Release::Freed
}

/// Takes back every address of a handle, and says which.
pub fn release_handle(block: &mut IpamBlockSpec, handle: &str) -> Vec<IpAddr> {
    release_where(block, |h| h.attribute.handle_id.as_deref() == Some(handle))
}

/// Takes back every address for which `which` holds, in the order of the addresses, and says which.
pub fn release_where(block: &mut IpamBlockSpec, which: impl Fn(&Holding<'_>) -> bool) -> Vec<IpAddr> {
    let freed: Vec<IpAddr> = holders(block).filter(|h| which(h)).map(|h| h.address).collect();
    if freed.is_empty() {
        return freed;
    }
    block.sequence_number = block.sequence_number.saturating_add(1);
    for ordinal in freed.iter().filter_map(|a| address::ordinal(&block.cidr, *a)) {
        if let Some(slot) = block.allocations.get_mut(ordinal as usize) {
            *slot = None;
        }
        block.sequence_number_for_allocation.remove(&ordinal.to_string());
        block.unallocated.retain(|o| *o != ordinal);
        block.unallocated.push(ordinal);
    }
    drop_unused_attributes(block);
    freed
}

/// Repairs a block that contradicts itself, and says whether anything was wrong.
///
/// An address whose holder cannot be read stays taken (by nobody known): losing one address is better than giving it
/// twice. A free address that is missing from the queue goes to its end.
pub fn normalise(block: &mut IpamBlockSpec) -> bool {
    let before = block.clone();
    if let Some(size) = size(&block.cidr) {
        block.allocations.resize(size, None);
    }
    let known = block.attributes.len();
    if block.allocations.iter().flatten().any(|a| *a as usize >= known) {
        let unknown = u32::try_from(known).unwrap_or(u32::MAX);
        block.attributes.push(AllocationAttribute::default());
        for index in block
            .allocations
            .iter_mut()
            .flatten()
            .filter(|a| **a as usize >= known)
        {
            *index = unknown;
        }
    }
    let mut seen = vec![false; block.allocations.len()];
    let allocations = &block.allocations;
    block.unallocated.retain(
        |o| match (allocations.get(*o as usize), seen.get_mut(*o as usize)) {
            (Some(None), Some(seen)) => !std::mem::replace(seen, true),
            _ => false,
        },
    );
    for (ordinal, (allocation, seen)) in allocations.iter().zip(&seen).enumerate() {
        if allocation.is_none() && !seen {
            block.unallocated.extend(u32::try_from(ordinal));
        }
    }
    let taken = |text: &str| {
        text.parse::<usize>()
            .is_ok_and(|o| allocations.get(o).is_some_and(Option::is_some))
    };
    block
        .sequence_number_for_allocation
        .retain(|ordinal, _| taken(ordinal));
    drop_unused_attributes(block);
    let changed = *block != before;
    if changed {
        block.sequence_number = block.sequence_number.saturating_add(1);
    }
    changed
}

/// A holder in words: the pod where there is one, else the handle.
pub fn describe(holder: &AllocationAttribute) -> String {
    let of = |key: &str| holder.secondary.get(key);
    let mut text = match (
        of(crate::handle::ATTRIBUTE_NAMESPACE),
        of(crate::handle::ATTRIBUTE_POD),
    ) {
        (Some(namespace), Some(pod)) => format!("pod {namespace}/{pod}"),
        _ => match &holder.handle_id {
            Some(handle) => format!("handle '{handle}'"),
            None => String::from("a holder without a handle"),
        },
    };
    if let Some(node) = of(crate::handle::ATTRIBUTE_NODE) {
        text.push_str(" on node ");
        text.push_str(node);
    }
    text
}

fn size(cidr: &IpNet) -> Option<usize> {
    let bits = cidr.max_prefix_len() - cidr.prefix_len();
    (bits <= MAX_HOST_BITS).then(|| 1usize << bits)
}

fn sequence_of(block: &IpamBlockSpec, ordinal: u32) -> u64 {
    // Most blocks of other programs carry no numbers; the text key is then not worth making.
    if block.sequence_number_for_allocation.is_empty() {
        return 0;
    }
    block
        .sequence_number_for_allocation
        .get(&ordinal.to_string())
        .copied()
        .unwrap_or(0)
}

/// The ordinals that may be given, in their order. Another program's queue may repeat an ordinal or name a taken one.
fn queue(block: &IpamBlockSpec, reserved: &Reservations) -> Vec<u32> {
    let mut seen = vec![false; block.allocations.len()];
    let mut open = Vec::with_capacity(block.unallocated.len());
    for ordinal in &block.unallocated {
        let at = *ordinal as usize;
        let (Some(None), Some(seen)) = (block.allocations.get(at), seen.get_mut(at)) else {
            continue;
        };
        let is_new = !std::mem::replace(seen, true);
        if is_new && address::address_at(&block.cidr, *ordinal).is_some_and(|a| !reserved.contains(a)) {
            open.push(*ordinal);
        }
    }
    open
}

fn give(block: &mut IpamBlockSpec, ordinal: u32, attribute: &AllocationAttribute) {
    let index = block
        .attributes
        .iter()
        .position(|a| a == attribute)
        .unwrap_or_else(|| {
            block.attributes.push(attribute.clone());
            block.attributes.len() - 1
        });
    if let (Some(slot), Ok(index)) = (block.allocations.get_mut(ordinal as usize), u32::try_from(index)) {
        *slot = Some(index);
    }
    block.unallocated.retain(|o| *o != ordinal);
    block
        .sequence_number_for_allocation
        .insert(ordinal.to_string(), block.sequence_number);
}

fn drop_unused_attributes(block: &mut IpamBlockSpec) {
    let mut renumbered: Vec<Option<u32>> = vec![None; block.attributes.len()];
    for index in block.allocations.iter().flatten() {
        if let Some(slot) = renumbered.get_mut(*index as usize) {
            *slot = Some(0);
        }
    }
    for (next, slot) in (0u32..).zip(renumbered.iter_mut().flatten()) {
        *slot = next;
    }
    let mut old = renumbered.iter();
    block
        .attributes
        .retain(|_| old.next().is_some_and(Option::is_some));
    for index in block.allocations.iter_mut().flatten() {
        if let Some(Some(new)) = renumbered.get(*index as usize) {
            *index = *new;
        }
    }
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
