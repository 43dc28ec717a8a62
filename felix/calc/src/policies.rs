//! All policies: their places in the order, and which of them are in force here.
//!
//! A policy is in force when a workload endpoint of this node is selected by it and its tier exists.

use crate::atoms::Atoms;
use crate::expansion::{Expansion, RecentSelectors};
use crate::sequence::Sequence;
use crate::table::Table;
use crate::tiers::Tiers;
use policy_model_rules::{AddressSet, CompiledPolicy, PolicyId, PolicySortKey, TierId};
use policy_model_selector::index::SelectorId;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

/// One policy.
pub(crate) struct Record {
    pub(crate) id: PolicyId,
    pub(crate) tier: TierId,
    /// Place within the tier.
    place: PolicySortKey,
    pub(crate) selector: SelectorId,
    pub(crate) applies_ingress: bool,
    pub(crate) applies_egress: bool,
    /// How many local endpoints it selects.
    links: usize,
    /// Whether the resource exists; where not, the next flush takes the record away.
    present: bool,
    dirty: bool,
    content: Expansion,
}

/// All policies by number.
#[derive(Default)]
pub(crate) struct Policies {
    table: Table<Record>,
    by_id: HashMap<PolicyId, u32>,
    dirty: Vec<u32>,
    present: usize,
    in_force: usize,
    /// Names of tiers, each kept once.
    tier_names: HashSet<TierId>,
    recent: RecentSelectors,
}

impl Policies {
    /// The number of a policy that exists.
    pub(crate) fn find(&self, id: &PolicyId) -> Option<u32> {
        let number = *self.by_id.get(id)?;
        self.table
            .get(number)
            .filter(|record| record.present)
            .map(|_| number)
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Record> {
        self.table.get(number)
    }

    /// Whether a policy's place and subject are still those of `policy`, so that only its rules may differ.
    pub(crate) fn has_same_subject(
        &self,
        number: u32,
        policy: &CompiledPolicy<AddressSet>,
        selector: SelectorId,
    ) -> bool {
        self.table.get(number).is_some_and(|record| {
            record.tier == policy.tier
                && record.selector == selector
                && record.applies_ingress == policy.applies_ingress
                && record.applies_egress == policy.applies_egress
                && record.place == policy.sort_key()
        })
    }

    /// Enters a policy, or gives one that links no endpoint another place and subject.
    pub(crate) fn put(&mut self, mut policy: CompiledPolicy<AddressSet>, selector: SelectorId) -> u32 {
        match self.tier_names.get(&policy.tier) {
            Some(name) => policy.tier = name.clone(),
            None => {
                self.tier_names.insert(policy.tier.clone());
            }
        }
        let number = match self.by_id.get(&policy.id) {
            Some(number) => *number,
            None => {
                let number = self.table.insert(Record {
                    id: policy.id.clone(),
                    tier: policy.tier.clone(),
                    place: policy.sort_key(),
                    selector,
                    applies_ingress: false,
                    applies_egress: false,
                    links: 0,
                    present: false,
                    dirty: false,
                    content: Expansion::default(),
                });
                self.by_id.insert(policy.id.clone(), number);
                number
            }
        };
        if let Some(record) = self.table.get_mut(number) {
            self.present += usize::from(!record.present);
            record.present = true;
            record.tier = policy.tier.clone();
            record.place = policy.sort_key();
            record.selector = selector;
            record.applies_ingress = policy.applies_ingress;
            record.applies_egress = policy.applies_egress;
            self.recent.compact(&mut policy);
            record.content.write(policy);
        }
        self.touch(number);
        number
    }

    /// Marks a policy that links no endpoint as gone.
    pub(crate) fn remove(&mut self, number: u32) {
        if let Some(record) = self.table.get_mut(number) {
            self.present -= usize::from(record.present);
            record.present = false;
            record.content.discard();
        }
        self.touch(number);
    }

    /// Says that a local endpoint is selected by the policy, or no more.
    pub(crate) fn link(&mut self, number: u32, linked: bool) {
        let Some(record) = self.table.get_mut(number) else {
            return;
        };
        let before = record.links;
        record.links = if linked {
            before + 1
        } else {
            before.saturating_sub(1)
        };
        if before == 0 || record.links == 0 {
            self.touch(number);
        }
    }

    /// Has the next flush look at a policy.
    pub(crate) fn touch(&mut self, number: u32) {
        if let Some(record) = self.table.get_mut(number)
            && !record.dirty
        {
            record.dirty = true;
            self.dirty.push(number);
        }
    }

    /// Order of two policies of a tier.
    pub(crate) fn compare(&self, a: u32, b: u32) -> Ordering {
        match (self.table.get(a), self.table.get(b)) {
            (Some(a), Some(b)) => a.place.cmp(&b.place),
            _ => a.cmp(&b),
        }
    }

    /// Tells what changed since the last flush.
    pub(crate) fn settle(&mut self, tiers: &Tiers, atoms: &mut Atoms, out: &mut Sequence) {
        for number in std::mem::take(&mut self.dirty) {
            let Some(record) = self.table.get_mut(number) else {
                continue;
            };
            record.dirty = false;
            let in_force = record.present && record.links > 0 && tiers.get(&record.tier).is_some();
            let was_in_force = record.content.is_sent();
            record.content.settle(in_force, record.present, atoms, out);
            self.in_force = self.in_force + usize::from(in_force) - usize::from(was_in_force);
            if !record.present
                && let Some(record) = self.table.remove(number)
            {
                self.by_id.remove(&record.id);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.present
    }

    pub(crate) fn in_force(&self) -> usize {
        self.in_force
    }
}
