//! Which set each place in a chain asks, and which sets must not change under it.

use super::endpoints::Placing;
use super::members::MemberChange;
use super::{Pass, Planner, slot};
use crate::layout::sets::{Content, PeerSet};
use crate::layout::side::{Change, SideId, SideRules, SlotChanges, SlotKey};
use crate::names::Role;
use crate::ops::{Family, Table};
use dataplane_tables::ClassId;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};

/// What became of sets.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    /// Who asked a set before the pass, where that is not who asks it now.
    before: FxHashMap<u32, BTreeSet<SideId>>,
    /// Sets that hold other classes than before.
    pub(super) reshaped: BTreeMap<u32, FxHashMap<ClassId, Change>>,
    /// Sets that nothing in the kernel stands for yet.
    pub(super) created: BTreeSet<u32>,
}

/// What is to be written about sets and the chains of groups.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Sets to be made.
    pub(super) created: BTreeSet<u32>,
    /// Sets to be removed, by name.
    pub(super) destroyed: BTreeSet<String>,
    /// Sets that change under rules which stay.
    pub(super) changes: BTreeMap<u32, MemberChange>,
    /// The chains of sides that may have changed, and the chains that they need.
    pub(super) chains: BTreeMap<SideId, SideRules>,
}

impl Planner {
    /// Gives every place of the sides that were touched the set that holds what it asks for.
    ///
    /// A set that nobody else asks any more is made to hold what a place that asked it asks for now. So whatever happened
    /// before, what is asked for in several places is one set.
    pub(super) fn assign(
        &mut self,
        pass: &Pass<'_>,
        touched: &BTreeSet<SideId>,
        placing: &Placing,
    ) -> Assigned {
        let mut out = Assigned::default();
        let mut asked: BTreeMap<Content, Vec<(SideId, SlotKey)>> = BTreeMap::new();
        let mut left: BTreeMap<(SideId, SlotKey), u32> = BTreeMap::new();
        for (id, side) in &placing.gone {
            left.extend(
                side.assigned
                    .iter()
                    .map(|(key, (_, set))| ((*id, key.clone()), *set)),
            );
        }
        let mut deltas: BTreeMap<SideId, SlotChanges> = BTreeMap::new();
        for id in touched {
            let Some(side) = self.sides.get_mut(id) else {
                continue;
            };
            deltas.insert(*id, std::mem::take(&mut side.changes));
            let wanted = side.wanted();
            side.assigned.retain(|key, (digest, set)| {
                let stays = wanted.get(key) == Some(digest);
                if !stays {
                    left.insert((*id, key.clone()), *set);
                }
                stays
            });
            for (key, digest) in wanted {
                if !side.assigned.contains_key(&key) {
                    asked
                        .entry(Content::of(id.1, &key, digest))
                        .or_default()
                        .push((*id, key));
                }
            }
        }
        for (place, set) in &left {
            self.note_users(*set, &mut out);
            if let Some(set) = self.sets.get_mut(*set) {
                set.users.remove(place);
            }
        }
        for (content, places) in asked {
            let number = match self.sets.with_content(&content) {
                Some(number) => number,
                None => self.make(pass, content, &places, &left, &mut deltas, &mut out),
            };
            self.note_users(number, &mut out);
            if let Some(set) = self.sets.get_mut(number) {
                set.users.extend(places.iter().cloned());
            }
            for (id, key) in places {
                if let Some(side) = self.sides.get_mut(&id) {
                    side.assigned.insert(key, (content.digest, number));
                }
            }
        }
        out
    }

    fn note_users(&self, number: u32, out: &mut Assigned) {
        if let Some(set) = self.sets.get(number) {
            let users = || set.users.iter().map(|(id, _)| *id).collect();
            out.before.entry(number).or_insert_with(users);
        }
    }

    /// A set for what no set holds: one that a place asked before and nobody asks now, else a new one.
    fn make(
        &mut self,
        pass: &Pass<'_>,
        content: Content,
        places: &[(SideId, SlotKey)],
        left: &BTreeMap<(SideId, SlotKey), u32>,
        deltas: &mut BTreeMap<SideId, SlotChanges>,
        out: &mut Assigned,
    ) -> u32 {
        for place in places {
            let Some(number) = left.get(place) else { continue };
            let is_free = self.sets.get(*number).is_some_and(|set| set.users.is_empty());
            if !is_free || out.created.contains(number) || out.reshaped.contains_key(number) {
                continue;
            }
            let (id, key) = place;
            if let Some(changes) = deltas.get_mut(id).and_then(|of_side| of_side.remove(key)) {
                self.sets.reshape(*number, content, &changes);
                out.reshaped.insert(*number, changes);
                return *number;
            }
        }
        let of = |(id, key): &(SideId, SlotKey)| self.sides.get(id).map(|side| side.content(key));
        let classes = places.first().and_then(of).unwrap_or_default();
        if !pass.all {
            let number = self.sets.create(content, classes);
            out.created.insert(number);
            return number;
        }
        let mut set = PeerSet::new(content, classes);
        let members = set.members(pass.tables.peers(), &self.intervals[slot(content.family)]);
        set.count(&members, []);
        match self.known_set(&set, &members) {
            Some(number) => {
                self.sets.insert(number, set);
                number
            }
            None => {
                let number = self.sets.create(content, set.classes);
                out.created.insert(number);
                number
            }
        }
    }

    /// Decides which sets change in place, and which are made anew beside what the rules in force ask.
    pub(super) fn settle(
        &mut self,
        touched: BTreeSet<SideId>,
        placing: &Placing,
        assigned: Assigned,
        mut changes: BTreeMap<u32, MemberChange>,
    ) -> Settled {
        let mut out = Settled {
            created: assigned.created,
            ..Settled::default()
        };
        // Whose rules in force must go on meaning what they mean until the tables are written.
        let mut held: BTreeSet<SideId> = placing.gone.keys().chain(&placing.left).copied().collect();
        held.extend(self.torn(&changes));
        let mut open = touched;
        loop {
            for id in std::mem::take(&mut open) {
                let Some(side) = self.sides.get(&id) else { continue };
                let lowered = side.rules(id.1);
                let known = self.book.get(id.1, Table::Filter, &side.chain());
                if known.is_some_and(|known| **known != *lowered.rules) {
                    held.insert(id);
                }
                out.chains.insert(id, lowered);
            }
            let mut moved: Vec<u32> = Vec::new();
            for (number, change) in &changes {
                let Some(set) = self.sets.get(*number) else {
                    continue;
                };
                let is_held = match assigned.before.get(number) {
                    Some(users) => users.iter().any(|id| held.contains(id)),
                    None => set.users.iter().any(|(id, _)| held.contains(id)),
                };
                if (is_held || change.tears(set)) && !set.users.is_empty() {
                    moved.push(*number);
                }
            }
            if moved.is_empty() {
                break;
            }
            for number in moved {
                changes.remove(&number);
                let Some(set) = self.sets.remove(number) else {
                    continue;
                };
                out.destroyed.insert(set.name(number));
                let fresh = self.sets.create(set.content, set.classes);
                out.created.insert(fresh);
                for (id, key) in &set.users {
                    open.insert(*id);
                    if let Some(side) = self.sides.get_mut(id) {
                        side.assigned.insert(key.clone(), (set.content.digest, fresh));
                    }
                }
                if let Some(made) = self.sets.get_mut(fresh) {
                    made.users = set.users;
                }
            }
        }
        let orphans: Vec<u32> = assigned
            .before
            .keys()
            .copied()
            .filter(|n| self.sets.get(*n).is_some_and(|set| set.users.is_empty()))
            .collect();
        for number in orphans {
            changes.remove(&number);
            if let Some(set) = self.sets.remove(number) {
                out.destroyed.insert(set.name(number));
            }
        }
        out.changes = changes;
        out
    }

    /// Sides that shut a single address out while they open a network: a packet that is between the two questions could miss
    /// the first change and meet the second.
    fn torn(&self, changes: &BTreeMap<u32, MemberChange>) -> BTreeSet<SideId> {
        let users = |role: Role, net: bool| -> BTreeSet<SideId> {
            let bringing = changes.iter().filter(|(_, change)| change.brings());
            let sets = bringing.filter_map(|(number, _)| self.sets.get(*number));
            let of_role = sets.filter(|set| set.content.role == role && set.content.net == net);
            of_role
                .flat_map(|set| set.users.iter().map(|(id, _)| *id))
                .collect()
        };
        let shut = users(Role::Known, false);
        shut.intersection(&users(Role::Allow, true)).copied().collect()
    }

    /// Writes the chains of groups. One whose interfaces change at the same time gets another name, so that no packet on
    /// its way between two chains finds rules that were never meant for it.
    pub(super) fn write_groups(&mut self, settled: &Settled, placing: &mut Placing) {
        let mut released: Vec<(Family, String)> = Vec::new();
        for (id, side) in &placing.gone {
            self.book.remove(id.1, Table::Filter, &side.chain());
            released.extend(side.shared.iter().map(|name| (id.1, name.clone())));
        }
        for (id, SideRules { rules, chains }) in &settled.chains {
            let family = id.1;
            let Some(side) = self.sides.get(id) else { continue };
            let known = self.book.get(family, Table::Filter, &side.chain());
            let changes = known.is_some_and(|known| **known != **rules);
            if changes && placing.stirred.contains(id) {
                self.book.remove(family, Table::Filter, &side.chain());
                let number = self.fresh_group();
                if let Some(side) = self.sides.get_mut(id) {
                    side.number = number;
                    placing.led_anew.extend(side.interfaces.iter().cloned());
                }
            }
            let Some(side) = self.sides.get_mut(id) else {
                continue;
            };
            self.book.put(family, Table::Filter, &side.chain(), rules.clone());
            let needed: BTreeSet<String> = chains.keys().cloned().collect();
            let before = std::mem::replace(&mut side.shared, needed);
            for (name, content) in chains {
                if !before.contains(name) {
                    *self.shared.entry((family, name.clone())).or_default() += 1;
                    self.book.put(family, Table::Filter, name, content.clone());
                }
            }
            let unneeded = before.into_iter().filter(|name| !chains.contains_key(name));
            released.extend(unneeded.map(|name| (family, name)));
        }
        for (family, name) in released {
            let key = (family, name);
            let Some(count) = self.shared.get_mut(&key) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                self.shared.remove(&key);
                self.book.remove(family, Table::Filter, &key.1);
            }
        }
    }
}
