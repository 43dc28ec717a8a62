//! What is no longer used goes when no packet can hold it.

use super::{DIRECTIONS, GRACE, Planner, push};
use crate::layout::names;
use crate::layout::ops::Op;
use crate::wire::{Element, Value};
use dataplane_tables::Direction;

/// Something that waits for its removal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Retired {
    Group(Direction, u32),
    Identity(u32),
    Row(u32),
    Set(String),
    /// Addresses that linger: of IPv6 or not.
    Lingering(bool),
}

impl Planner {
    pub(super) fn retire_later(&mut self, what: Retired, now: u64) {
        if matches!(what, Retired::Set(_)) {
            self.sets_waiting += 1;
        }
        self.retired.entry(now + GRACE).or_default().push(what);
    }

    /// Whether a set that nothing uses any more waits for its removal.
    pub fn is_waiting(&self, set: &str) -> bool {
        self.retired
            .values()
            .flatten()
            .any(|what| matches!(what, Retired::Set(name) if name == set))
    }

    /// When [`Planner::retire`] or [`Planner::compact`] has something to do, in milliseconds of the clock of `now`.
    pub fn next_retirement(&self) -> Option<u64> {
        self.retired
            .keys()
            .next()
            .copied()
            .into_iter()
            .chain(self.compact_at)
            .chain(self.spares.restock_at())
            .min()
    }

    /// The steps that remove what no packet can hold any more. One transaction.
    pub fn retire(&mut self, now: u64) -> Vec<Op> {
        if self.compact_at.is_some_and(|due| due <= now) {
            // Whoever wanted to compact has done so by now; what is left is looked at after the next pass.
            self.compact_at = None;
        }
        let later = self.retired.split_off(&(now + 1));
        let due: Vec<Retired> = std::mem::replace(&mut self.retired, later)
            .into_values()
            .flatten()
            .collect();
        let mut ops = Vec::new();
        for what in &due {
            match what {
                Retired::Group(direction, number) => self.retire_group(*direction, *number, &mut ops),
                Retired::Identity(number) => self.retire_identity(*number, &mut ops),
                Retired::Set(name) => {
                    self.sets_waiting = self.sets_waiting.saturating_sub(1);
                    ops.push(Op::RemoveSet(name.clone()));
                }
                Retired::Lingering(v6) => self.end_lingering(usize::from(*v6), now, &mut ops),
                Retired::Row(_) => {}
            }
        }
        for what in due {
            if let Retired::Row(code) = what {
                self.retire_row(code, &mut ops);
            }
        }
        self.retire_rows(now);
        self.restock_in_time(now, &mut ops);
        ops
    }

    fn retire_group(&mut self, direction: Direction, number: u32, ops: &mut Vec<Op>) {
        let Some(group) = self.group_state_mut(direction).remove(&number) else {
            return;
        };
        self.release_row(group.default);
        for code in group.entries.values() {
            self.release_row(*code);
        }
        let name = names::group(direction, number);
        ops.push(Op::RemoveChain(name.clone()));
        ops.push(Op::RemoveSet(name));
    }

    fn retire_identity(&mut self, number: u32, ops: &mut Vec<Op>) {
        self.identities.drop_number(number);
        for direction in DIRECTIONS {
            let mut released = Vec::new();
            for (group, state) in self.group_state_mut(direction) {
                if let Some(code) = state.entries.remove(&number) {
                    released.push((*group, code));
                }
            }
            for (group, code) in released {
                self.release_row(code);
                let element = Element::value(Value::host32(number));
                push(ops, &names::group(direction, group), vec![element], false);
            }
        }
    }
}
