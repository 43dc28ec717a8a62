//! Which number interfaces get, and the entries of groups' maps.
//!
//! A map changes in place while no packet can be on its way through it for an interface that has left. Interfaces
//! that come to a group share a map with those that are there, unless the map answers differently to a packet that
//! still holds a departed number: then they have a map of their own, until nobody holds such a number.

use super::endpoints::{Cohort, DirectionPlacing, Placing};
use super::renumber::Renumbered;
use super::retire::Retired;
use super::spares::make_map;
use super::{DIRECTIONS, Pass, Plan, Planner, SMALLEST_GROUP, classid_element, push, slot};
use crate::layout::names::{self, DENY};
use crate::layout::state::GroupState;
use crate::wire::{Element, Value};
use dataplane_tables::{Direction, GroupId};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// What changes in a map that stays.
#[derive(Debug, Default)]
struct Entries {
    /// Entries of numbers that nobody has had: they come before anything leads to them.
    fresh: Vec<(u32, u32)>,
    /// Entries of numbers in use; `None` means the default from now on.
    changed: Vec<(u32, Option<u32>)>,
}

impl Planner {
    pub(super) fn settle(
        &mut self,
        pass: &Pass<'_>,
        placing: &mut Placing,
        renumbered: &Renumbered,
        plan: &mut Plan,
    ) {
        for direction in DIRECTIONS {
            let n = usize::from(slot(direction));
            let placing = &mut placing.by_direction[n];
            let mut entries = self.changed_entries(pass, direction, placing, renumbered);
            self.give_up(pass, direction, &mut entries, placing);
            let cohorts = std::mem::take(&mut placing.cohorts);
            self.house(pass, direction, cohorts, placing, plan);
            for (number, entries) in entries {
                self.write_entries(direction, number, entries, plan);
            }
            for number in self.groups[n].deserted() {
                self.groups[n].dissolve(number);
                self.retire_later(Retired::Group(direction, number), pass.now);
            }
        }
    }

    /// What changes in the maps of numbers that interfaces have had.
    fn changed_entries(
        &self,
        pass: &Pass<'_>,
        direction: Direction,
        placing: &DirectionPlacing,
        renumbered: &Renumbered,
    ) -> BTreeMap<u32, Entries> {
        let groups = &self.groups[usize::from(slot(direction))];
        let mut out: BTreeMap<u32, Entries> = BTreeMap::new();
        let fresh: FxHashSet<u32> = renumbered.fresh.iter().map(|(number, _)| *number).collect();
        if !fresh.is_empty() {
            for (group, numbers) in groups.served() {
                let default = self.default_of(pass.tables, group);
                let mut list: Vec<(u32, u32)> = Vec::new();
                for (number, class) in &renumbered.fresh {
                    let code = self.code_of(pass.tables, group, *class);
                    if code != default {
                        list.push((*number, code));
                    }
                }
                if !list.is_empty() {
                    let inhabited = |n: &&u32| groups.get(**n).is_some_and(|m| !m.members.is_empty());
                    for number in numbers.iter().filter(inhabited) {
                        out.entry(*number).or_default().fresh.clone_from(&list);
                    }
                }
            }
        }
        let mut whole: Vec<(GroupId, u32)> = placing.reassigned.clone();
        for group in &pass.changes.changed_defaults {
            whole.extend(groups.numbers(*group).iter().map(|number| (*group, *number)));
        }
        whole.sort_unstable();
        whole.dedup();
        for (group, number) in &whole {
            let Some(state) = self.group_state(direction).get(number) else {
                continue;
            };
            let mut wanted = self.entries_of(pass, *group, state.default);
            wanted.retain(|identity, _| !fresh.contains(identity));
            let entries = out.entry(*number).or_default();
            for (identity, code) in &state.entries {
                if self.identities.is_live(*identity) && wanted.get(identity) != Some(code) {
                    entries.changed.push((*identity, wanted.get(identity).copied()));
                }
                wanted.remove(identity);
            }
            entries
                .changed
                .extend(wanted.into_iter().map(|(identity, code)| (identity, Some(code))));
            entries.changed.sort_unstable();
        }
        for (group, class) in &renumbered.changed {
            let Some(identity) = self.identity(*class).filter(|i| !fresh.contains(i)) else {
                continue;
            };
            let code = self.code_of(pass.tables, *group, *class);
            for number in groups.numbers(*group) {
                let Some(state) = self.group_state(direction).get(number) else {
                    continue;
                };
                if whole.binary_search(&(*group, *number)).is_ok() {
                    continue;
                }
                let wanted = (code != state.default).then_some(code);
                if state.entries.get(&identity).copied() != wanted {
                    let changed = &mut out.entry(*number).or_default().changed;
                    if !changed.contains(&(identity, wanted)) {
                        changed.push((identity, wanted));
                    }
                }
            }
        }
        out
    }

    /// What a group says of all numbers in use, where that is not its default.
    fn entries_of(&self, pass: &Pass<'_>, group: GroupId, default: u32) -> FxHashMap<u32, u32> {
        let Some(view) = pass.tables.group(group) else {
            return FxHashMap::default();
        };
        let coded = view
            .rows
            .iter()
            .map(|(class, row)| (class, self.code(row)))
            .filter(|(_, code)| *code != default);
        coded
            .filter_map(|(class, code)| Some((self.identity(*class)?, code)))
            .collect()
    }

    /// Numbers of which the map cannot become what it should be are given up; their interfaces need another one.
    fn give_up(
        &mut self,
        pass: &Pass<'_>,
        direction: Direction,
        entries: &mut BTreeMap<u32, Entries>,
        placing: &mut DirectionPlacing,
    ) {
        let n = usize::from(slot(direction));
        let mut concerned: Vec<u32> = entries.keys().copied().collect();
        for group in &pass.changes.changed_defaults {
            concerned.extend(self.groups[n].numbers(*group));
        }
        concerned.sort_unstable();
        concerned.dedup();
        for number in concerned {
            let Some(group) = self.groups[n].get(number).and_then(|m| m.group) else {
                continue;
            };
            let Some(state) = self.group_state(direction).get(&number) else {
                continue;
            };
            let none = Entries::default();
            let changes = entries.get(&number).unwrap_or(&none);
            let other_default = state.default != self.default_of(pass.tables, group);
            let more =
                changes.fresh.len() + changes.changed.iter().filter(|(_, code)| code.is_some()).count();
            let full = more > 0 && state.entries.len() + more + 1 > state.size as usize;
            let on_its_way = self.groups[n].is_frozen(number, pass.now) && !changes.changed.is_empty();
            if other_default || full || on_its_way {
                entries.remove(&number);
                let interfaces = self.groups[n].dissolve(number);
                self.retire_later(Retired::Group(direction, number), pass.now);
                if !interfaces.is_empty() {
                    placing
                        .cohorts
                        .entry((group, Some(number)))
                        .or_default()
                        .extend(interfaces);
                }
            }
        }
    }

    /// Gives interfaces a number of their group.
    fn house(
        &mut self,
        pass: &Pass<'_>,
        direction: Direction,
        cohorts: BTreeMap<Cohort, Vec<String>>,
        placing: &mut DirectionPlacing,
        plan: &mut Plan,
    ) {
        let n = usize::from(slot(direction));
        let departed = self.identities.departed();
        let mut cohorts: Vec<(Cohort, Vec<String>)> = cohorts.into_iter().collect();
        cohorts.sort_by_key(|((group, from), list)| (*group, std::cmp::Reverse(list.len()), *from));
        for ((group, from), interfaces) in cohorts {
            let inhabited = |number: &&u32| {
                self.groups[n]
                    .get(**number)
                    .is_some_and(|m| !m.members.is_empty())
            };
            let numbers = self.groups[n].numbers(group).iter().filter(inhabited);
            let found = numbers
                .copied()
                .find(|number| self.may_join(pass, direction, group, from, *number, &departed));
            let number =
                found.unwrap_or_else(|| self.make_group(pass, direction, group, from, &departed, plan));
            self.groups[n].enter(number, interfaces.iter().cloned());
            placing
                .assigned
                .extend(interfaces.into_iter().map(|interface| (interface, number)));
        }
    }

    /// Whether a map answers rightly to packets that hold a departed number, for interfaces that come from another.
    fn may_join(
        &self,
        pass: &Pass<'_>,
        direction: Direction,
        group: GroupId,
        from: Option<u32>,
        number: u32,
        departed: &[u32],
    ) -> bool {
        let states = self.group_state(direction);
        let Some(state) = states.get(&number) else {
            return false;
        };
        let Some(before) = from.and_then(|from| states.get(&from)) else {
            return true;
        };
        departed.iter().all(|identity| {
            let answer = state.entries.get(identity).copied().unwrap_or(state.default);
            let known = before.entries.get(identity).copied().unwrap_or(before.default);
            answer == known || self.given_to_leavers(pass, group, *identity) == Some(answer)
        })
    }

    fn make_group(
        &mut self,
        pass: &Pass<'_>,
        direction: Direction,
        group: GroupId,
        from: Option<u32>,
        departed: &[u32],
        plan: &mut Plan,
    ) -> u32 {
        let default = self.default_of(pass.tables, group);
        let mut entries = self.entries_of(pass, group, default);
        for identity in departed {
            let before = from.and_then(|from| self.group_state(direction).get(&from));
            let known = before.map(|b| b.entries.get(identity).copied().unwrap_or(b.default));
            let answer = self
                .given_to_leavers(pass, group, *identity)
                .or(known)
                .unwrap_or(DENY);
            if answer != default {
                entries.insert(*identity, answer);
            }
        }
        self.need_row(default, plan);
        let mut sorted: Vec<(u32, u32)> = entries.iter().map(|(k, v)| (*k, *v)).collect();
        sorted.sort_unstable();
        for (_, code) in &sorted {
            self.need_row(*code, plan);
        }
        let size = SMALLEST_GROUP.max((entries.len() as u32 + 1).saturating_mul(2).next_power_of_two());
        let spare = (size == SMALLEST_GROUP).then(|| self.take_spare(direction, pass.now));
        let spare = spare.flatten();
        let number = spare.unwrap_or_else(|| self.reserve_group(direction));
        self.groups[usize::from(slot(direction))].lead(number, group);
        let name = names::group(direction, number);
        let by_default = Element::any().to(Value::host32(default));
        let mut elements: Vec<Element> = sorted.into_iter().map(|(k, v)| classid_element(k, v)).collect();
        if spare.is_none() {
            elements.insert(0, by_default);
            make_map(name, size, elements, &mut plan.prepare);
        } else {
            if default != DENY {
                push(&mut plan.prepare, &name, vec![Element::any()], false);
                elements.insert(0, by_default);
            }
            push(&mut plan.prepare, &name, elements, true);
        }
        self.group_state_mut(direction).insert(
            number,
            GroupState {
                default,
                entries,
                size,
            },
        );
        number
    }

    fn write_entries(&mut self, direction: Direction, number: u32, entries: Entries, plan: &mut Plan) {
        let name = names::group(direction, number);
        let (mut prepare, mut removed, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for (identity, code) in entries.fresh {
            self.need_row(code, plan);
            if let Some(state) = self.group_state_mut(direction).get_mut(&number) {
                state.entries.insert(identity, code);
            }
            prepare.push(classid_element(identity, code));
        }
        for (identity, code) in entries.changed {
            if let Some(code) = code {
                self.need_row(code, plan);
                added.push(classid_element(identity, code));
            }
            let Some(state) = self.group_state_mut(direction).get_mut(&number) else {
                continue;
            };
            let before = match code {
                Some(code) => state.entries.insert(identity, code),
                None => state.entries.remove(&identity),
            };
            if let Some(before) = before {
                self.release_row(before);
                removed.push(Element::value(Value::host32(identity)));
            }
        }
        push(&mut plan.prepare, &name, prepare, true);
        push(&mut plan.switch, &name, removed, false);
        push(&mut plan.switch, &name, added, true);
    }
}
