//! Taking over what an earlier life of the agent left in the kernel.

use super::addresses::Move;
use super::retire::Retired;
use super::rows::is_row;
use super::{DIRECTIONS, GRACE, Pass, Plan, Planner, slot};
use crate::layout::row::LoweredRow;
use crate::layout::state::{GroupState, State};
use dataplane_tables::{Changes, ClassId, Direction, Tables};
use rustc_hash::{FxHashMap, FxHashSet};
use std::rc::Rc;

impl Planner {
    /// The state, for taking over what the kernel has.
    pub(crate) fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// Takes over a group's map.
    pub(crate) fn adopt_group(&mut self, direction: Direction, number: u32, group: GroupState) {
        self.groups[usize::from(slot(direction))].skip_to(number.saturating_add(1));
        self.group_state_mut(direction).insert(number, group);
    }

    /// Takes over the number of a class.
    pub(crate) fn adopt_identity(&mut self, class: ClassId, number: u32) {
        self.identities.adopt(class, number);
    }

    /// Makes sure that no identity below this number is given.
    pub(crate) fn skip_identities(&mut self, number: u32) {
        self.identities.skip_to(number);
    }

    /// Makes sure that this row's number is not given.
    pub(crate) fn skip_row(&mut self, code: u32) {
        self.next_row = self.next_row.max(code.saturating_add(1));
    }

    /// Plans the first pass on a table that was taken over; `moves` names every address.
    pub(crate) fn plan_adopted(&mut self, tables: &Tables, moves: Vec<Move>, now: u64) -> Plan {
        // Nobody knows what the earlier life did last.
        self.nets_changed = [Some(now); 2];
        self.pass(
            &Pass {
                tables,
                changes: &Changes::default(),
                all: true,
                compacts: false,
                now,
            },
            moves,
        )
    }

    /// Takes over a row that the kernel has.
    pub(crate) fn adopt_row(&mut self, code: u32, lowered: LoweredRow) {
        self.skip_row(code);
        self.row_numbers.entry(lowered.clone()).or_insert(code);
        self.row_content.insert(code, Rc::new(lowered.clone()));
        self.insert_row(code, lowered);
    }

    /// Counts the uses of what was taken over, and lets everything go that is unused.
    pub(crate) fn finish_adoption(&mut self, now: u64) {
        let mut uses: FxHashMap<u32, usize> = FxHashMap::default();
        for group in self.state.ingress.values().chain(self.state.egress.values()) {
            for code in group
                .entries
                .values()
                .chain([&group.default])
                .filter(|c| is_row(**c))
            {
                *uses.entry(*code).or_default() += 1;
            }
        }
        self.row_uses = uses;
        self.rows_unused.extend(self.state.rows.keys());
        self.retire_rows(now);
        for (interface, endpoint) in &self.state.endpoints {
            for (groups, number) in self.groups.iter_mut().zip([endpoint.ingress, endpoint.egress]) {
                groups.adopt(number, interface);
            }
        }
        for direction in DIRECTIONS {
            let n = usize::from(slot(direction));
            let lost = |number: &&u32| self.groups[n].get(**number).is_none();
            let strangers: Vec<u32> = self.group_state(direction).keys().filter(lost).copied().collect();
            for number in strangers {
                self.adopt_stranger(direction, number, now);
            }
        }
        let groups = self.state.ingress.values().chain(self.state.egress.values());
        let mut strangers: FxHashSet<u32> = groups.flat_map(|g| g.entries.keys().copied()).collect();
        strangers.retain(|number| !self.identities.is_live(*number));
        for number in strangers {
            self.identities.adopt_stranger(number, now + GRACE);
            self.retire_later(Retired::Identity(number), now);
        }
    }
}
