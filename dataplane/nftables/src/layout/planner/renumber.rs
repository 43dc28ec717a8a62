//! Which classes keep their number, and which get another one.
//!
//! A number keeps its classes while all groups treat them alike. If they part, or if an address has just left the
//! number, those may keep it whose keeping changes nothing for a packet of an address that left.

use super::addresses::Move;
use super::endpoints::Placing;
use super::{DIRECTIONS, GRACE, Pass, Planner, slot};
use crate::layout::identities::{MOST_WHEREABOUTS, Origin, Print, Whereabouts};
use crate::layout::names::NOTHING;
use dataplane_tables::{ClassId, Direction, GroupId};
use policy_model_rules::IpVersion;
use rustc_hash::{FxHashMap, FxHashSet};
use std::net::IpAddr;

/// What one renumbering did.
#[derive(Debug, Default)]
pub(super) struct Renumbered {
    /// Numbers that appeared, each with one of its classes. Sorted.
    pub(super) fresh: Vec<(u32, ClassId)>,
    /// Numbers that no class has any more. Sorted.
    pub(super) departed: Vec<u32>,
    /// Classes whose number changed, with the number before.
    pub(super) moved: FxHashMap<ClassId, u32>,
    /// What groups that stay do otherwise with classes that had a number before: what the tables say, and for classes
    /// that took the place of another one, what differs from that.
    pub(super) changed: Vec<(GroupId, ClassId)>,
}

/// A change of what interfaces that had a number get: the group that they are in now, and the number.
pub(super) type Transition = (Direction, GroupId, u32);

/// What a pass does to the classes of one number.
#[derive(Debug, Default)]
struct Touch {
    /// What changes for all classes of the number: terms that come and terms that go.
    plus: Print,
    minus: Print,
    /// Classes for which more changes.
    classes: FxHashMap<ClassId, Edit>,
}

#[derive(Debug, Clone, Copy)]
enum Edit {
    /// Terms that come and terms that go.
    Terms(Print, Print),
    /// Everything is to be looked at anew.
    Whole,
}

impl Touch {
    fn add(&mut self, class: ClassId, plus: Option<Print>, minus: Option<Print>) {
        if let Edit::Terms(p, m) = self
            .classes
            .entry(class)
            .or_insert(Edit::Terms(Print::default(), Print::default()))
        {
            *p = p.plus(plus.unwrap_or_default());
            *m = m.plus(minus.unwrap_or_default());
        }
    }
}

/// Classes of one number that get the same from now on.
struct Part {
    print: Print,
    /// The classes that are named; `rest` are all that are not.
    classes: Vec<ClassId>,
    rest: bool,
    weight: usize,
}

impl Planner {
    pub(super) fn renumber(&mut self, pass: &Pass<'_>, moves: &[Move], placing: &Placing) -> Renumbered {
        let mut out = Renumbered::default();
        let groups = self.groups_after(placing);
        let (emptied, heirs) = self.follow_classes(pass);
        out.changed = self.changed_rows(pass, placing, &groups, &heirs);
        let transitions = self.transitions(pass, placing, &out.changed);
        self.follow_addresses(pass, moves);
        let mut touches = self.touches(pass, placing, &groups, &out.changed);
        for number in self.identities.frozen().chain(emptied.iter().copied()) {
            touches.entry(number).or_default();
        }
        let mut order: Vec<(u32, Touch)> = touches.into_iter().collect();
        order.sort_unstable_by_key(|(number, _)| *number);
        let mut homeless: Vec<(ClassId, Print)> = Vec::new();
        for (number, touch) in &order {
            self.keep_or_part(pass, *number, touch, &groups, &transitions, &mut homeless);
        }
        if pass.all {
            self.new_prints(pass, &groups, &mut homeless);
        } else {
            for class in &pass.changes.addresses.new_classes {
                if !self.identities.of_class.contains_key(class) {
                    homeless.push((*class, self.print_of(pass, *class, &groups)));
                }
            }
        }
        homeless.sort_unstable();
        let mut touched: Vec<u32> = order.into_iter().map(|(number, _)| number).collect();
        for (class, print) in homeless {
            let number = match self.identities.find(print) {
                Some(number) => number,
                None => {
                    let number = self.identities.fresh(print);
                    out.fresh.push((number, class));
                    number
                }
            };
            self.move_class(pass, class, number, &mut out);
        }
        if pass.compacts {
            touched.extend(self.merge_twins(pass, &mut out));
        }
        touched.sort_unstable();
        touched.dedup();
        out.departed = touched
            .into_iter()
            .filter(|number| self.identities.depart(*number, pass.now + GRACE))
            .collect();
        out
    }

    /// Gives a class a number; a packet may hold the one before.
    pub(super) fn move_class(&mut self, pass: &Pass<'_>, class: ClassId, number: u32, out: &mut Renumbered) {
        if let Some(before) = self.identities.assign(class, number) {
            out.moved.insert(class, before);
            self.identities
                .leave(before, pass.now + GRACE, Some(whereabouts(pass, class)));
        }
    }

    /// The groups that have a number after this pass, by direction.
    fn groups_after(&self, placing: &Placing) -> Vec<GroupId> {
        let mut out: Vec<GroupId> = Vec::new();
        for (groups, placing) in self.groups.iter().zip(&placing.by_direction) {
            let gone = |group: &GroupId| {
                placing.vanished.iter().any(|(g, _)| g == group)
                    && placing.appeared.binary_search(group).is_err()
            };
            out.extend(
                groups
                    .served()
                    .map(|(g, _)| g)
                    .chain(placing.appeared.iter().copied())
                    .filter(|g| !gone(g)),
            );
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// For whom something may change: interfaces that had a number and come to another group, and groups that change.
    fn transitions(
        &self,
        pass: &Pass<'_>,
        placing: &Placing,
        changed: &[(GroupId, ClassId)],
    ) -> Vec<Transition> {
        let mut out: Vec<Transition> = Vec::new();
        for direction in DIRECTIONS {
            let n = usize::from(slot(direction));
            let placing = &placing.by_direction[n];
            let cohorts = placing
                .cohorts
                .keys()
                .filter_map(|(group, from)| Some((*group, (*from)?)));
            let reassigned = placing.reassigned.iter().copied();
            out.extend(
                cohorts
                    .chain(reassigned)
                    .map(|(group, number)| (direction, group, number)),
            );
            let mut changed: Vec<GroupId> = changed.iter().map(|(group, _)| *group).collect();
            changed.extend(&pass.changes.changed_defaults);
            changed.sort_unstable();
            changed.dedup();
            for group in &changed {
                out.extend(
                    self.groups[n]
                        .numbers(*group)
                        .iter()
                        .map(|number| (direction, *group, *number)),
                );
            }
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// What groups that stay do otherwise with classes that had a number before.
    fn changed_rows(
        &self,
        pass: &Pass<'_>,
        placing: &Placing,
        groups: &[GroupId],
        heirs: &[ClassId],
    ) -> Vec<(GroupId, ClassId)> {
        let mut out = pass.changes.changed_rows.clone();
        if heirs.is_empty() {
            return out;
        }
        for direction in DIRECTIONS {
            let n = usize::from(slot(direction));
            for group in groups
                .iter()
                .filter(|g| placing.by_direction[n].appeared.binary_search(g).is_err())
            {
                let Some(number) = self.groups[n].numbers(*group).first() else {
                    continue;
                };
                let Some(state) = self.group_state(direction).get(number) else {
                    continue;
                };
                for class in heirs {
                    let before = self.identity(*class).and_then(|i| state.entries.get(&i).copied());
                    if self.code_of(pass.tables, *group, *class) != before.unwrap_or(state.default) {
                        out.push((*group, *class));
                    }
                }
            }
        }
        // The tables may have named one of them too; what is counted twice would count for another treatment.
        out.sort_unstable();
        out.dedup();
        out
    }

    /// Takes notice of classes that came and went. Returns the numbers of those that went, and the classes that took
    /// the place of another one.
    fn follow_classes(&mut self, pass: &Pass<'_>) -> (FxHashSet<u32>, Vec<ClassId>) {
        let (mut emptied, mut taken) = (FxHashSet::default(), Vec::new());
        let changes = &pass.changes.addresses;
        // A class of which all addresses went on together to a new class lives on in that.
        let mut heirs: FxHashMap<(ClassId, ClassId), usize> = FxHashMap::default();
        for (_, from, to) in &changes.moved {
            if let (Some(from), Some(to)) = (from, to) {
                *heirs.entry((*from, *to)).or_default() += 1;
            }
        }
        for version in [IpVersion::V4, IpVersion::V6] {
            if changes.intervals(version) {
                self.identities.lose_intervals(version == IpVersion::V6);
            }
        }
        let mut went: FxHashMap<Origin, Vec<Whereabouts>> = FxHashMap::default();
        for (address, from, to) in &changes.moved {
            let to = to.unwrap_or_else(|| pass.tables.peers().lookup(*address));
            let places = went.entry(from.ok_or(address.is_ipv6())).or_default();
            // Of more than can be remembered it only matters that they are too many.
            if places.len() <= MOST_WHEREABOUTS && places.iter().all(|place| place.class != to) {
                places.push(whereabouts(pass, to));
            }
        }
        self.identities.follow(&went);
        let mut order: Vec<((ClassId, ClassId), usize)> = heirs.into_iter().collect();
        order.sort_unstable_by_key(|(pair, count)| (std::cmp::Reverse(*count), *pair));
        for ((from, to), _) in order {
            let gone = changes.gone_classes.binary_search(&from).is_ok();
            let new =
                changes.new_classes.binary_search(&to).is_ok() && !self.identities.of_class.contains_key(&to);
            if gone
                && new
                && let Some(number) = self.identities.forget_class(from)
            {
                self.identities.assign(to, number);
                taken.push(to);
            }
        }
        self.identities.lose_classes(&changes.gone_classes);
        for class in &changes.gone_classes {
            emptied.extend(self.identities.forget_class(*class));
        }
        (emptied, taken)
    }

    /// Takes notice of addresses that leave a number because they belong to another class now.
    fn follow_addresses(&mut self, pass: &Pass<'_>, moves: &[Move]) {
        let until = pass.now + GRACE;
        let peers = pass.tables.peers();
        let mut seen: FxHashSet<(u32, ClassId)> = FxHashSet::default();
        for m in moves {
            let class = m.class.unwrap_or_else(|| peers.lookup(m.address));
            let after = self.identity(class);
            let before = m.before.or_else(|| self.number_of_interval(m.address));
            if let Some(before) = before
                && after != Some(before)
                && seen.insert((before, class))
            {
                self.identities
                    .leave(before, until, Some(whereabouts(pass, class)));
            }
        }
        for version in [IpVersion::V4, IpVersion::V6] {
            if !pass.all && !pass.changes.addresses.intervals(version) {
                continue;
            }
            for (number, class) in self.interval_changes(pass, version) {
                self.identities
                    .leave(number, until, Some(whereabouts(pass, class)));
            }
        }
    }

    /// The number that the intervals have for an address.
    pub(super) fn number_of_interval(&self, address: IpAddr) -> Option<u32> {
        let n = usize::from(address.is_ipv6());
        let nets = &self.state.nets[n];
        let at = nets.partition_point(|(first, _, _)| *first <= address);
        let inside = at
            .checked_sub(1)
            .and_then(|at| nets.get(at))
            .filter(|(_, last, _)| address <= *last);
        Some(inside.map_or(self.state.world[n], |entry| entry.2)).filter(|number| *number != NOTHING)
    }

    /// Finds the numbers of which something in a group changes, and what.
    fn touches(
        &self,
        pass: &Pass<'_>,
        placing: &Placing,
        groups: &[GroupId],
        changed: &[(GroupId, ClassId)],
    ) -> FxHashMap<u32, Touch> {
        let mut touches: FxHashMap<u32, Touch> = FxHashMap::default();
        if pass.all {
            for (class, number) in &self.identities.of_class {
                touches
                    .entry(*number)
                    .or_default()
                    .classes
                    .insert(*class, Edit::Whole);
            }
            return touches;
        }
        for direction in DIRECTIONS {
            let n = usize::from(slot(direction));
            let placing = &placing.by_direction[n];
            let first = |group: &GroupId| Some((*group, *self.groups[n].numbers(*group).first()?));
            let defaults: Vec<(GroupId, u32)> =
                pass.changes.changed_defaults.iter().filter_map(first).collect();
            let is_in = |list: &[GroupId], group: &GroupId| list.binary_search(group).is_ok();
            let ended = placing
                .vanished
                .iter()
                .chain(defaults.iter().filter(|(g, _)| !is_in(&placing.appeared, g)));
            let mut whole: FxHashSet<GroupId> = FxHashSet::default();
            for (group, number) in ended {
                if !whole.insert(*group) {
                    continue;
                }
                let Some(state) = self.group_state(direction).get(number) else {
                    continue;
                };
                for (identity, code) in state.entries.iter().filter(|(_, c)| **c != state.default) {
                    let touch = touches.entry(*identity).or_default();
                    touch.minus = touch.minus.plus(Print::of(*group, *code));
                }
            }
            let begun = placing
                .appeared
                .iter()
                .chain(defaults.iter().map(|(group, _)| group));
            let mut seen: FxHashSet<GroupId> = FxHashSet::default();
            for group in begun.filter(|g| groups.binary_search(g).is_ok()) {
                if !seen.insert(*group) {
                    continue;
                }
                let Some(view) = pass.tables.group(*group) else {
                    continue;
                };
                let default = self.code(view.default);
                for (class, row) in view.rows {
                    let code = self.code(row);
                    if code != default
                        && let Some(number) = self.identity(*class)
                    {
                        touches
                            .entry(number)
                            .or_default()
                            .add(*class, Some(Print::of(*group, code)), None);
                    }
                }
            }
            for (group, class) in changed {
                let (Some(number), Some((_, cells))) = (self.identity(*class), first(group)) else {
                    continue;
                };
                if whole.contains(group) || seen.contains(group) {
                    continue;
                }
                let Some(state) = self.group_state(direction).get(&cells) else {
                    continue;
                };
                let term = |code: u32| (code != state.default).then(|| Print::of(*group, code));
                let before = state.entries.get(&number).copied().unwrap_or(state.default);
                let after = self.code_of(pass.tables, *group, *class);
                touches
                    .entry(number)
                    .or_default()
                    .add(*class, term(after), term(before));
            }
        }
        touches
    }

    /// What all groups do with a class.
    fn print_of(&self, pass: &Pass<'_>, class: ClassId, groups: &[GroupId]) -> Print {
        let mut print = Print::default();
        for group in groups {
            let Some(view) = pass.tables.group(*group) else {
                continue;
            };
            if let Some(row) = view.rows.get(&class) {
                let code = self.code(row);
                if code != self.code(view.default) {
                    print = print.plus(Print::of(*group, code));
                }
            }
        }
        print
    }

    /// What all groups do with every class that has no number yet.
    fn new_prints(&self, pass: &Pass<'_>, groups: &[GroupId], out: &mut Vec<(ClassId, Print)>) {
        let homeless: FxHashSet<ClassId> = out.iter().map(|(class, _)| *class).collect();
        let unknown = |c: &ClassId| !self.identities.of_class.contains_key(c) && !homeless.contains(c);
        for class in pass.tables.peers().classes().filter(unknown) {
            out.push((class, self.print_of(pass, class, groups)));
        }
    }

    /// Decides which of a number's classes keep it. The others need another one.
    fn keep_or_part(
        &mut self,
        pass: &Pass<'_>,
        number: u32,
        touch: &Touch,
        groups: &[GroupId],
        transitions: &[Transition],
        homeless: &mut Vec<(ClassId, Print)>,
    ) {
        let Some(identity) = self.identities.get(number).filter(|i| !i.classes.is_empty()) else {
            // What the number got is not followed any more, so that nobody may find it by that.
            self.identities.bury(number);
            return;
        };
        let base = identity.print.plus(touch.plus).minus(touch.minus);
        let peers = pass.tables.peers();
        let mut by_print: FxHashMap<Print, Part> = FxHashMap::default();
        let named = touch
            .classes
            .iter()
            .filter(|(class, _)| identity.classes.contains(class));
        let mut count = 0;
        for (class, edit) in named {
            let print = match edit {
                Edit::Terms(plus, minus) => base.plus(*plus).minus(*minus),
                Edit::Whole => self.print_of(pass, *class, groups),
            };
            let part = by_print.entry(print).or_insert(Part {
                print,
                classes: Vec::new(),
                rest: false,
                weight: 0,
            });
            part.classes.push(*class);
            part.weight += peers.members(*class);
            count += 1;
        }
        if count < identity.classes.len() {
            let part = by_print.entry(base).or_insert(Part {
                print: base,
                classes: Vec::new(),
                rest: false,
                weight: 0,
            });
            part.rest = true;
        }
        let mut parts: Vec<Part> = by_print.into_values().collect();
        // What is not named changes least, and often is the most.
        parts.sort_unstable_by_key(|p| (!p.rest, std::cmp::Reverse(p.weight), p.print));
        let calm = parts.len() == 1 && !self.identities.is_frozen(number);
        let keeper = if calm {
            Some(0)
        } else {
            (0..parts.len()).find(|at| self.may_keep(pass, number, &parts, *at, touch, transitions))
        };
        for (at, part) in parts.iter().enumerate() {
            if Some(at) == keeper {
                if self.identities.get(number).is_some_and(|i| i.print != part.print) || pass.all {
                    self.identities.set_print(number, part.print);
                }
                continue;
            }
            homeless.extend(part.classes.iter().map(|class| (*class, part.print)));
            if part.rest {
                let rest = self.rest_of(number, touch);
                homeless.extend(rest.into_iter().map(|class| (class, part.print)));
            }
        }
        if keeper.is_none() {
            self.identities.bury(number);
        }
    }

    fn rest_of(&self, number: u32, touch: &Touch) -> Vec<ClassId> {
        let classes = self
            .identities
            .get(number)
            .map(|i| &i.classes)
            .into_iter()
            .flatten();
        classes
            .filter(|class| !touch.classes.contains_key(class))
            .copied()
            .collect()
    }

    /// Whether one part may keep the number, for packets of addresses that left or leave it.
    fn may_keep(
        &self,
        pass: &Pass<'_>,
        number: u32,
        parts: &[Part],
        at: usize,
        touch: &Touch,
        transitions: &[Transition],
    ) -> bool {
        let part = &parts[at];
        let class = part
            .classes
            .first()
            .copied()
            .or_else(|| self.rest_of(number, touch).first().copied());
        let Some(class) = class else { return false };
        let known: Option<Vec<ClassId>> = match self.identities.whereabouts(number) {
            None if self.identities.is_frozen(number) => None,
            list => {
                let others = parts.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, p)| p);
                // Classes of one part are treated alike, so one of each will do; the rest is not looked through.
                let mut list: Vec<ClassId> = list.into_iter().flatten().map(|w| w.class).collect();
                let mut rest = false;
                for other in others {
                    list.extend(other.classes.first());
                    rest |= other.rest && other.classes.is_empty();
                }
                (!rest).then_some(list)
            }
        };
        transitions.iter().all(|(direction, group, from)| {
            let after = self.code_of(pass.tables, *group, class);
            let Some(state) = self.group_state(*direction).get(from) else {
                return false;
            };
            let before = state.entries.get(&number).copied().unwrap_or(state.default);
            let mut now_in = known.iter().flatten();
            after == before
                || (known.is_some() && now_in.all(|c| self.code_of(pass.tables, *group, *c) == after))
        })
    }

    /// What a group gives to all addresses that left a number, if it gives them the same.
    pub(super) fn given_to_leavers(&self, pass: &Pass<'_>, group: GroupId, number: u32) -> Option<u32> {
        let mut codes = self
            .identities
            .whereabouts(number)?
            .iter()
            .map(|w| self.code_of(pass.tables, group, w.class));
        let first = codes.next()?;
        codes.all(|code| code == first).then_some(first)
    }
}

pub(super) fn whereabouts(pass: &Pass<'_>, class: ClassId) -> Whereabouts {
    let peers = pass.tables.peers();
    let interval_of = peers
        .is_of_intervals(class)
        .then(|| peers.version(class) == IpVersion::V6);
    Whereabouts { class, interval_of }
}
