//! Which classes of peers each group tells apart.

use super::endpoints::Placing;
use super::{Pass, Planner, slot};
use crate::layout::side::SideId;
use crate::ops::Family;
use dataplane_tables::{AddressIndex, ClassId, Tables};
use policy_model_rules::IpVersion;
use std::collections::BTreeSet;
use std::rc::Rc;

fn version(family: Family) -> IpVersion {
    match family {
        Family::Inet => IpVersion::V4,
        Family::Inet6 => IpVersion::V6,
    }
}

fn family(peers: &AddressIndex, class: ClassId) -> Family {
    match peers.version(class) {
        IpVersion::V4 => Family::Inet,
        IpVersion::V6 => Family::Inet6,
    }
}

/// The intervals that a pass takes away and brings, of a family.
#[derive(Debug, Default)]
pub(super) struct IntervalChanges {
    pub(super) gone: [Vec<dataplane_tables::Interval>; 2],
    pub(super) come: [Vec<dataplane_tables::Interval>; 2],
}

impl Planner {
    /// Takes over the intervals, and says how they differ.
    pub(super) fn take_intervals(&mut self, pass: &Pass<'_>) -> IntervalChanges {
        let mut out = IntervalChanges::default();
        for family in Family::BOTH {
            let version = version(family);
            if !pass.all && !pass.changes.addresses.intervals(version) {
                continue;
            }
            let n = slot(family);
            let now = pass.tables.peers().intervals(version);
            let before = std::mem::replace(&mut self.intervals[n], now);
            let now = &self.intervals[n];
            // Both are sorted by where intervals begin.
            let absent = |list: &[dataplane_tables::Interval], one: &dataplane_tables::Interval| {
                let at = list.partition_point(|other| other.first < one.first);
                list.get(at) != Some(one)
            };
            out.come[n] = now.iter().filter(|i| absent(&before, i)).copied().collect();
            out.gone[n] = before.into_iter().filter(|i| absent(now, i)).collect();
        }
        out
    }

    /// Follows which classes of single addresses lie in which class of intervals.
    pub(super) fn index_classes(&mut self, pass: &Pass<'_>) {
        let peers = pass.tables.peers();
        for gone in &pass.changes.addresses.gone_classes {
            self.inside.remove(gone);
            if let Some(around) = self.around.remove(gone)
                && let Some(classes) = self.inside.get_mut(&around)
            {
                classes.remove(gone);
            }
        }
        let new: Vec<ClassId> = if pass.all {
            peers.classes().collect()
        } else {
            pass.changes.addresses.new_classes.clone()
        };
        for class in new.into_iter().filter(|c| !peers.is_of_intervals(*c)) {
            let around = peers.around(class);
            self.around.insert(class, around);
            self.inside.entry(around).or_default().insert(class);
        }
    }

    /// Brings what each side tells apart up to date. Returns the sides that may have changed.
    pub(super) fn tell_apart(&mut self, pass: &Pass<'_>, placing: &Placing) -> BTreeSet<SideId> {
        let (tables, changes) = (pass.tables, pass.changes);
        let peers = tables.peers();
        let mut anew: BTreeSet<SideId> = placing.appeared.clone();
        let groups = changes.changed_defaults.iter();
        anew.extend(groups.flat_map(|group| Family::BOTH.map(|family| (*group, family))));
        let mut concerned: Vec<(SideId, ClassId)> = Vec::new();
        for (group, class) in &changes.changed_rows {
            let side = (*group, family(peers, *class));
            if *class == ClassId::WORLD_V6 {
                anew.insert(side);
                continue;
            }
            concerned.push((side, *class));
            // What is around an address decides whether it is told apart.
            let inside = self.inside.get(class).into_iter().flatten();
            concerned.extend(inside.map(|class| (side, *class)));
        }
        anew.retain(|id| self.sides.contains_key(id));
        let others = self.sides.keys().copied().filter(|id| !anew.contains(id));
        let others: Vec<SideId> = others.collect();
        let mut touched: BTreeSet<SideId> = anew.clone();
        for id in &others {
            for class in &changes.addresses.gone_classes {
                if self.sides.get_mut(id).is_some_and(|side| side.forget(*class)) {
                    touched.insert(*id);
                }
            }
            for class in &changes.addresses.new_classes {
                if family(peers, *class) == id.1 && self.tell(tables, *id, *class) {
                    touched.insert(*id);
                }
            }
        }
        for (id, class) in concerned {
            if !anew.contains(&id) && self.tell(tables, id, class) {
                touched.insert(id);
            }
        }
        for id in &anew {
            self.tell_all(tables, *id);
        }
        touched.extend(placing.stirred.iter().copied());
        touched.retain(|id| self.sides.contains_key(id));
        for id in &touched {
            let limit = self.settings.max_merged_elements;
            let sets = &self.sets;
            let members = |class| peers.members(class);
            if let Some(side) = self.sides.get_mut(id) {
                let too_large = side
                    .assigned
                    .values()
                    .filter_map(|(_, set)| sets.get(*set))
                    .any(|set| set.content.merged && set.size > limit);
                let members: Option<&dyn Fn(ClassId) -> usize> = anew.contains(id).then_some(&members);
                side.choose(limit, members, too_large);
            }
        }
        touched
    }

    /// Looks at one class for one side; says whether that changes the side.
    fn tell(&mut self, tables: &Tables, id: SideId, class: ClassId) -> bool {
        let peers = tables.peers();
        let (group, family) = id;
        let net = peers.is_of_intervals(class);
        let reference = if net {
            ClassId::world(version(family))
        } else {
            peers.around(class)
        };
        let (Some(row), Some(around)) = (tables.row(group, class), tables.row(group, reference)) else {
            return false;
        };
        // Most classes mean nothing to most groups.
        let parts = (!Rc::ptr_eq(row, around)).then(|| self.parts(row));
        let side = self.sides.get_mut(&id);
        side.is_some_and(|side| side.tell(class, net, parts))
    }

    /// Looks at all classes for one side.
    fn tell_all(&mut self, tables: &Tables, id: SideId) {
        let (group, of) = id;
        let world = ClassId::world(version(of));
        let Some(row) = tables.row(group, world) else {
            return;
        };
        let default = self.parts(row);
        let peers = tables.peers();
        let classes: BTreeSet<ClassId> = peers.classes().filter(|c| family(peers, *c) == of).collect();
        if let Some(side) = self.sides.get_mut(&id) {
            side.set_default(default);
            for class in side.told_apart() {
                if !classes.contains(&class) {
                    side.forget(class);
                }
            }
        }
        for class in classes {
            self.tell(tables, id, class);
        }
    }
}
