//! Groups' maps that are made before anybody needs them.
//!
//! What a change adds to maps that are there already is seen by packets together with what leads to it: a packet meets a
//! map's elements as they are when it looks. But of chains it sees those that were there when it began, so a new group's
//! chain has to be made in a transaction of its own, before anything leads to it. A few empty ones that wait make most
//! changes one transaction, and leave the making of chains and maps for later.

use super::retire::Retired;
use super::{DIRECTIONS, GRACE, Planner, SMALLEST_GROUP, slot};
use crate::layout::names::{self, DENY};
use crate::layout::ops::{Op, SetSpec};
use crate::layout::skeleton::group_rules;
use crate::layout::state::GroupState;
use crate::wire::{Element, Value};
use dataplane_tables::Direction;

/// How many wait, in each direction.
const SPARES: usize = 2;
/// How long after one was taken another one is made, in milliseconds: what comes with the change goes first.
const RESTOCKED_AFTER: u64 = 5;

/// A map that no interface leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spare {
    number: u32,
    /// From when on no packet can be on its way through it, in milliseconds.
    free_from: u64,
}

/// The maps that wait.
#[derive(Debug, Default)]
pub(super) struct Spares {
    waiting: [Vec<Spare>; 2],
    /// When more are to be made.
    restock_at: Option<u64>,
}

impl Spares {
    pub(super) fn restock_at(&self) -> Option<u64> {
        self.restock_at
    }
}

/// Makes a group's map, with what is in it, and the chain that looks into it.
pub(super) fn make_map(name: String, size: u32, elements: Vec<Element>, ops: &mut Vec<Op>) {
    ops.push(Op::AddSet(SetSpec {
        name: name.clone(),
        size: Some(size),
    }));
    ops.push(Op::AddElements(name.clone(), elements));
    let rules = group_rules(&name);
    ops.push(Op::AddChain(name, rules));
}

fn empty() -> GroupState {
    GroupState {
        default: DENY,
        entries: Default::default(),
        size: SMALLEST_GROUP,
    }
}

impl Planner {
    /// A number for a map that is to be made.
    pub(super) fn reserve_group(&mut self, direction: Direction) -> u32 {
        let n = usize::from(slot(direction));
        let mut groups = std::mem::take(&mut self.groups[n]);
        let number = groups.reserve(|number| self.group_state(direction).contains_key(&number));
        self.groups[n] = groups;
        number
    }

    /// A map that may be led to by the next transaction, if one waits: empty, and denying everything.
    pub(super) fn take_spare(&mut self, direction: Direction, now: u64) -> Option<u32> {
        let waiting = &mut self.spares.waiting[usize::from(slot(direction))];
        let at = waiting.iter().position(|spare| spare.free_from <= now)?;
        let spare = waiting.remove(at);
        self.spares.restock_at.get_or_insert(now + RESTOCKED_AFTER);
        Some(spare.number)
    }

    /// Makes as many as there should be.
    pub(super) fn restock(&mut self, now: u64, ops: &mut Vec<Op>) {
        self.spares.restock_at = None;
        for direction in DIRECTIONS {
            let n = usize::from(slot(direction));
            while self.spares.waiting[n].len() < SPARES {
                let number = self.reserve_group(direction);
                let denied = Element::any().to(Value::host32(DENY));
                let name = names::group(direction, number);
                make_map(name, SMALLEST_GROUP, vec![denied], ops);
                self.group_state_mut(direction).insert(number, empty());
                let free_from = now;
                self.spares.waiting[n].push(Spare { number, free_from });
            }
        }
    }

    /// [`Planner::restock`] where it is due.
    pub(super) fn restock_in_time(&mut self, now: u64, ops: &mut Vec<Op>) {
        if self.spares.restock_at.is_some_and(|due| due <= now) {
            self.restock(now, ops);
        }
    }

    /// What an earlier life left and nobody leads to: it waits to be used, or to go.
    pub(super) fn adopt_stranger(&mut self, direction: Direction, number: u32, now: u64) {
        let n = usize::from(slot(direction));
        let is_spare = self.group_state(direction).get(&number) == Some(&empty());
        if is_spare && self.spares.waiting[n].len() < SPARES {
            // A packet may be on its way through it.
            let free_from = now + GRACE;
            self.spares.waiting[n].push(Spare { number, free_from });
        } else {
            self.retire_later(Retired::Group(direction, number), now);
        }
    }
}
