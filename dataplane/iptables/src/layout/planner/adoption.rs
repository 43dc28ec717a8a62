//! What an earlier life left in the kernel, taken over where it is what is wanted now.
//!
//! Numbers are this life's own, and mean nothing to the next. So a set is known again by what it holds, and a group's chain
//! by an interface that leads to it. What is not known again stays in force under its own name until the tables have gone
//! over to what was made beside it, and goes then.

use super::{Plan, Planner};
use crate::layout::book::Write;
use crate::layout::sets::PeerSet;
use crate::names::{self, Role, Toward};
use crate::ops::{Family, Member, SetKind, SetOp, SetSpec, Table};
use rustc_hash::FxHashSet;
use std::collections::{BTreeMap, BTreeSet};

/// A set of ours that the kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSet {
    /// Family.
    pub family: Family,
    /// What its members are.
    pub kind: SetKind,
    /// Its members, in any order.
    pub members: Vec<Member>,
}

/// Everything of ours that the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Sets by name.
    pub sets: BTreeMap<String, FoundSet>,
    /// Names of chains.
    pub chains: BTreeMap<(Family, Table), BTreeSet<String>>,
    /// The chains that chains of interfaces lead to last, by family and name.
    pub leads: BTreeMap<(Family, String), String>,
}

/// What is left of it while the first pass goes on.
#[derive(Debug, Default)]
pub(super) struct Leftover {
    found: Found,
    /// Sets of peers by what they are and hold.
    by_content: BTreeMap<(Family, Role, SetKind, Vec<Member>), u32>,
    /// Groups' chains that nobody has taken over.
    groups: FxHashSet<u32>,
}

impl Planner {
    /// Takes over what an earlier life left, as far as the first pass wants it. Of use before that.
    pub fn adopt(&mut self, mut found: Found) {
        let mut leftover = Leftover::default();
        for (name, set) in &mut found.sets {
            set.members.sort_unstable();
            if let Some((family, role, number)) = names::parse_peers(name) {
                self.sets.avoid(number);
                let key = (family, role, set.kind, set.members.clone());
                leftover.by_content.entry(key).or_insert(number);
            }
            if let Some(family) = Family::BOTH
                .into_iter()
                .find(|family| *name == names::vacant_addresses(*family))
            {
                let addresses = set.members.iter().filter_map(|member| match member {
                    Member::Ip(address) if Family::of(*address) == family => Some(*address),
                    _ => None,
                });
                self.vacant.extend(addresses);
            }
        }
        for name in found.chains.values().flatten() {
            if let Some((_, number)) = names::parse_group(name) {
                self.groups_taken.insert(number);
                leftover.groups.insert(number);
            }
        }
        leftover.found = found;
        self.leftover = leftover;
    }

    /// The number of a set of the earlier life that holds this.
    pub(super) fn known_set(&mut self, set: &PeerSet, members: &[Member]) -> Option<u32> {
        let spec = set.spec(0, self.settings.max_set_elements);
        if self.leftover.by_content.is_empty() {
            return None;
        }
        self.leftover
            .by_content
            .remove(&(spec.family, set.content.role, spec.kind, members.to_vec()))
    }

    /// The number of a group's chain of the earlier life to which an interface led.
    pub(super) fn known_group(&mut self, family: Family, toward: Toward, interface: &str) -> Option<u32> {
        let key = (family, names::endpoint(toward, interface));
        let chain = self.leftover.found.leads.get(&key)?;
        let (of, number) = names::parse_group(chain)?;
        (of == toward && self.leftover.groups.remove(&number)).then_some(number)
    }

    /// The members that a set of a fixed name has; `None` where there is no such set.
    pub(super) fn known_members(&self, spec: &SetSpec) -> Option<BTreeSet<Member>> {
        let set = self.leftover.found.sets.get(&spec.name)?;
        let fits = set.family == spec.family && set.kind == spec.kind;
        fits.then(|| set.members.iter().cloned().collect())
    }

    /// Has everything go that was left and not taken over.
    pub(super) fn clear_leftover(&mut self, plan: &mut Plan) {
        let Found { sets, chains, .. } = std::mem::take(&mut self.leftover).found;
        for ((family, table), left) in chains {
            let gone = left
                .into_iter()
                .filter(|name| self.book.get(family, table, name).is_none());
            let gone: Vec<_> = gone.map(|name| (name, None)).collect();
            if gone.is_empty() {
                continue;
            }
            let place = |write: &&mut Write| (write.family, write.table) == (family, table);
            match plan.writes.iter_mut().find(place) {
                Some(write) => write.chains.extend(gone),
                None => plan.writes.push(Write {
                    family,
                    table,
                    chains: gone,
                }),
            }
        }
        let fixed: BTreeSet<String> = self.fixed_sets().into_iter().map(|spec| spec.name).collect();
        for name in sets.into_keys().filter(|name| !fixed.contains(name)) {
            let known =
                names::parse_peers(&name).and_then(|(_, _, number)| Some((self.sets.get(number)?, number)));
            let stays = known.is_some_and(|(set, number)| set.name(number) == name);
            if !stays {
                plan.after.push(SetOp::Destroy(name));
            }
        }
    }
}
