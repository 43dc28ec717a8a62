//! Members of sets: which come and go, and in which order.

use super::assign::{Assigned, Settled};
use super::classes::IntervalChanges;
use super::{Pass, Plan, Planner, slot};
use crate::layout::sets::{PeerSet, address_member, cover, net_member};
use crate::layout::side::Suffixes;
use crate::names::Role;
use crate::ops::{Member, SetOp};
use dataplane_tables::{ClassId, Interval};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Members that come to a set and leave it.
#[derive(Debug, Default)]
pub(super) struct MemberChange {
    come: BTreeSet<Member>,
    go: BTreeSet<Member>,
}

impl MemberChange {
    // What goes from one class and comes from another stays.
    fn add(&mut self, member: Member) {
        if !self.go.remove(&member) {
            self.come.insert(member);
        }
    }

    fn remove(&mut self, member: Member) {
        if !self.come.remove(&member) {
            self.go.insert(member);
        }
    }

    /// Whether a set of networks cannot become what it is to be while packets ask it.
    pub(super) fn tears(&self, set: &PeerSet) -> bool {
        set.content.net && set.gets_other_lengths(&self.come, &self.go)
    }

    /// Whether members come.
    pub(super) fn brings(&self) -> bool {
        !self.come.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.come.is_empty() && self.go.is_empty()
    }
}

/// The order in which sets change in place: what is allowed comes first and goes last, and in between what keeps
/// everything else shut, networks inside single addresses.
const COME: [(Role, bool); 6] = [
    (Role::Report, false),
    (Role::Report, true),
    (Role::Allow, false),
    (Role::Known, false),
    (Role::Allow, true),
    (Role::Known, true),
];

impl Planner {
    /// What changes in sets that were there before the pass.
    pub(super) fn member_changes(
        &mut self,
        pass: &Pass<'_>,
        intervals: &IntervalChanges,
        assigned: &Assigned,
    ) -> BTreeMap<u32, MemberChange> {
        let mut out: BTreeMap<u32, MemberChange> = BTreeMap::new();
        if pass.all {
            // Sets of an earlier life are taken over as they are.
            return out;
        }
        let peers = pass.tables.peers();
        let before = |number: u32, set: &PeerSet, class: ClassId| -> Option<Suffixes> {
            match assigned
                .reshaped
                .get(&number)
                .and_then(|changes| changes.get(&class))
            {
                Some(change) => change.before.clone(),
                None => set.classes.get(&class).cloned(),
            }
        };
        // Sets that held a class until now.
        let mut held: FxHashMap<ClassId, Vec<u32>> = FxHashMap::default();
        for (number, changes) in &assigned.reshaped {
            for (class, change) in changes {
                if change.before.is_some() {
                    held.entry(*class).or_default().push(*number);
                }
            }
        }
        let with = |class: ClassId| -> BTreeSet<u32> {
            let held = held.get(&class).into_iter().flatten().copied();
            let all = self.sets.with_class(class).chain(held);
            all.filter(|number| !assigned.created.contains(number)).collect()
        };
        let mut moved: FxHashSet<IpAddr> = FxHashSet::default();
        for (address, from, to) in &pass.changes.addresses.moved {
            moved.insert(*address);
            for (class, comes) in [(*from, false), (*to, true)] {
                let Some(class) = class else { continue };
                for number in with(class) {
                    let Some(set) = self.sets.get(number).filter(|set| !set.content.net) else {
                        continue;
                    };
                    let suffixes = if comes {
                        set.classes.get(&class).cloned()
                    } else {
                        before(number, set, class)
                    };
                    let change = out.entry(number).or_default();
                    for suffix in suffixes.iter().flat_map(|s| s.iter()) {
                        let member = address_member(*address, *suffix);
                        if comes {
                            change.add(member);
                        } else {
                            change.remove(member);
                        }
                    }
                }
            }
        }
        for (n, list, comes) in [
            (0, &intervals.gone[0], false),
            (1, &intervals.gone[1], false),
            (0, &intervals.come[0], true),
            (1, &intervals.come[1], true),
        ] {
            debug_assert!(list.iter().all(|i| usize::from(i.first.is_ipv6()) == n));
            for interval in list {
                for number in with(interval.class) {
                    let Some(set) = self.sets.get(number).filter(|set| set.content.net) else {
                        continue;
                    };
                    let suffixes = if comes {
                        set.classes.get(&interval.class).cloned()
                    } else {
                        before(number, set, interval.class)
                    };
                    let change = out.entry(number).or_default();
                    change_interval(change, interval, suffixes.as_ref(), comes);
                }
            }
        }
        for (number, changes) in &assigned.reshaped {
            let Some(set) = self.sets.get(*number) else {
                continue;
            };
            let change = out.entry(*number).or_default();
            if set.content.net {
                let n = slot(set.content.family);
                let new = |interval: &&Interval| !intervals.come[n].contains(interval);
                for interval in self.intervals[n].iter().filter(new) {
                    if let Some(of_class) = changes.get(&interval.class) {
                        change_interval(change, interval, of_class.before.as_ref(), false);
                        change_interval(change, interval, of_class.after.as_ref(), true);
                    }
                }
                continue;
            }
            for (class, of_class) in changes {
                if of_class.before == of_class.after {
                    continue;
                }
                for address in peers.addresses_of(*class).filter(|a| !moved.contains(a)) {
                    let suffixes = |list: &Option<Suffixes>| -> Vec<Member> {
                        let list = list.iter().flat_map(|s| s.iter());
                        list.map(|suffix| address_member(address, *suffix)).collect()
                    };
                    suffixes(&of_class.before)
                        .into_iter()
                        .for_each(|m| change.remove(m));
                    suffixes(&of_class.after).into_iter().for_each(|m| change.add(m));
                }
            }
        }
        out.retain(|_, change| !change.is_empty());
        out
    }

    /// Writes what became of sets.
    pub(super) fn write_sets(&mut self, pass: &Pass<'_>, settled: Settled, plan: &mut Plan) {
        let Settled {
            created,
            destroyed,
            mut changes,
            chains: _,
        } = settled;
        let mut in_order: [Vec<(String, u32)>; 6] = Default::default();
        for (number, change) in &changes {
            let Some(set) = self.sets.get_mut(*number) else {
                continue;
            };
            set.count(&change.come, &change.go);
            let place = (set.content.role, set.content.net);
            if let Some(list) = COME
                .iter()
                .position(|p| *p == place)
                .and_then(|n| in_order.get_mut(n))
            {
                list.push((set.name(*number), *number));
            }
        }
        let mut push = |name: &String, members: BTreeSet<Member>, comes: bool| {
            if members.is_empty() {
                return;
            }
            let members = members.into_iter().collect();
            plan.before.push(if comes {
                SetOp::Add(name.clone(), members)
            } else {
                SetOp::Remove(name.clone(), members)
            });
        };
        for (name, number) in in_order.iter().flatten() {
            if let Some(change) = changes.get_mut(number) {
                push(name, std::mem::take(&mut change.come), true);
            }
        }
        for (name, number) in in_order.iter().rev().flatten() {
            if let Some(change) = changes.get_mut(number) {
                push(name, std::mem::take(&mut change.go), false);
            }
        }
        for number in created {
            let Some(set) = self.sets.get_mut(number) else {
                continue;
            };
            let spec = set.spec(number, self.settings.max_set_elements);
            let members = set.members(pass.tables.peers(), &self.intervals[slot(spec.family)]);
            set.count(&members, []);
            let name = spec.name.clone();
            plan.before.push(SetOp::Create(spec));
            if !members.is_empty() {
                plan.before.push(SetOp::Add(name, members));
            }
        }
        plan.after.extend(destroyed.into_iter().map(SetOp::Destroy));
    }
}

fn change_interval(change: &mut MemberChange, interval: &Interval, suffixes: Option<&Suffixes>, comes: bool) {
    let Some(suffixes) = suffixes else { return };
    for net in cover(interval.first, interval.last) {
        for suffix in suffixes.iter() {
            let member = net_member(net, *suffix);
            if comes {
                change.add(member);
            } else {
                change.remove(member);
            }
        }
    }
}
