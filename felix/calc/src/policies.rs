//! All policies: their places in the order, and which of them are in force here.
//!
//! A policy is in force when a workload endpoint of this node is selected by it and its tier exists.

use crate::atoms::Atoms;
use crate::expansion::{Expansion, RecentSelectors, Subject, parts};
use crate::sequence::Sequence;
use crate::table::Table;
use crate::tiers::Tiers;
use crate::waiting::Waiting;
use hashbrown::{DefaultHashBuilder, HashTable};
use policy_model_rules::{AddressSet, CompiledPolicy, PolicyId, SortOrder, compare_in_tier};
use policy_model_selector::index::SelectorId;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;

/// With more names than this all are forgotten, and those that come again are soon there again.
const MANY_NAMES: usize = 1024;

/// One policy.
pub(crate) struct Record {
    pub(crate) subject: Subject,
    pub(crate) selector: SelectorId,
    /// How many local endpoints it selects.
    links: u32,
    /// Whether the resource exists; where not, the next flush takes the record away.
    present: bool,
    dirty: bool,
    content: Expansion,
}

/// All policies by number.
#[derive(Default)]
pub(crate) struct Policies {
    table: Table<Record>,
    /// Numbers by the hash of the policy's identity. Seeded hashing: the names are the users'.
    by_id: HashTable<u32>,
    hasher: DefaultHashBuilder,
    dirty: Vec<u32>,
    present: usize,
    in_force: usize,
    /// Names of tiers and namespaces that were met last: policies have few between them, and each takes memory once.
    names: HashSet<Arc<str>>,
    recent: RecentSelectors,
}

impl Policies {
    /// The number of a policy, whether it exists or is about to be taken away.
    fn number_of(&self, id: &PolicyId) -> Option<u32> {
        let is_it = |number: &u32| {
            self.table
                .get(*number)
                .is_some_and(|record| record.subject.id == *id)
        };
        self.by_id.find(self.hasher.hash_one(id), is_it).copied()
    }

    /// The number of a policy that exists.
    pub(crate) fn find(&self, id: &PolicyId) -> Option<u32> {
        let number = self.number_of(id)?;
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
            let subject = &record.subject;
            subject.tier == policy.tier
                && record.selector == selector
                && subject.applies_ingress == policy.applies_ingress
                && subject.applies_egress == policy.applies_egress
                && subject.id == policy.id
                && SortOrder::from(subject.order) == SortOrder::from(policy.order)
        })
    }

    /// Enters a policy, or gives one that links no endpoint another place and subject.
    pub(crate) fn put(&mut self, policy: CompiledPolicy<AddressSet>, selector: SelectorId) -> u32 {
        let (mut subject, rules) = parts(policy);
        self.keep_once(&mut subject.tier);
        self.keep_once(&mut subject.id.namespace);
        let rules = Waiting::new(&rules, |selector| self.recent.share(selector));
        let number = match self.number_of(&subject.id) {
            Some(number) => number,
            None => self.insert(subject.clone(), selector),
        };
        if let Some(record) = self.table.get_mut(number) {
            self.present += usize::from(!record.present);
            record.present = true;
            record.subject = subject;
            record.selector = selector;
            record.content.write(rules);
        }
        self.touch(number);
        number
    }

    fn insert(&mut self, subject: Subject, selector: SelectorId) -> u32 {
        let hash = self.hasher.hash_one(&subject.id);
        let number = self.table.insert(Record {
            subject,
            selector,
            links: 0,
            present: false,
            dirty: false,
            content: Expansion::default(),
        });
        let (table, hasher) = (&self.table, &self.hasher);
        self.by_id.insert_unique(hash, number, |other| {
            table
                .get(*other)
                .map_or(0, |record| hasher.hash_one(&record.subject.id))
        });
        number
    }

    /// Replaces a name by the equal one that is kept already.
    fn keep_once(&mut self, name: &mut Arc<str>) {
        match self.names.get(name) {
            Some(known) => *name = known.clone(),
            None => {
                if self.names.len() >= MANY_NAMES {
                    self.names.clear();
                }
                self.names.insert(name.clone());
            }
        }
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
            (Some(a), Some(b)) => {
                compare_in_tier((a.subject.order, &a.subject.id), (b.subject.order, &b.subject.id))
            }
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
            let in_force = record.present && record.links > 0 && tiers.get(&record.subject.tier).is_some();
            let was_in_force = record.content.is_sent();
            let subject = in_force.then_some(&record.subject);
            record.content.settle(subject, record.present, atoms, out);
            self.in_force = self.in_force + usize::from(in_force) - usize::from(was_in_force);
            if !record.present
                && let Some(record) = self.table.remove(number)
            {
                let hash = self.hasher.hash_one(&record.subject.id);
                if let Ok(found) = self.by_id.find_entry(hash, |other| *other == number) {
                    found.remove();
                }
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
