//! What all our chains say, and which of them a pass changes.

use super::rule::Rule;
use crate::ops::{Family, Table, TableWrite};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The rules of a chain.
pub type ChainRules = Rc<[Rule]>;

/// Our chains of one table, by name.
pub type Chains = BTreeMap<String, ChainRules>;

/// What changes in one table: all of it at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Family.
    pub family: Family,
    /// Table.
    pub table: Table,
    /// Chains by name, those that go last. `None`: the chain goes.
    pub chains: Vec<(String, Option<ChainRules>)>,
}

impl Write {
    /// The same as text.
    pub fn text(&self, inserts: Vec<crate::ops::Insert>) -> TableWrite {
        let text = |rules: &ChainRules| rules.iter().map(|rule| rule.text(self.family)).collect();
        let chains = self.chains.iter();
        TableWrite {
            family: self.family,
            table: self.table,
            chains: chains
                .map(|(name, rules)| (name.clone(), rules.as_ref().map(text)))
                .collect(),
            inserts,
        }
    }
}

type Place = (Family, Table);

/// All chains, and what was otherwise when the pass began.
#[derive(Debug, Default)]
pub(super) struct Book {
    chains: BTreeMap<Place, Chains>,
    before: BTreeMap<Place, BTreeMap<String, Option<ChainRules>>>,
}

impl Book {
    /// What a chain is to say from now on.
    pub(super) fn put(&mut self, family: Family, table: Table, name: &str, rules: Vec<Rule>) {
        let place = (family, table);
        let chains = self.chains.entry(place).or_default();
        if chains.get(name).is_some_and(|known| **known == *rules) {
            return;
        }
        let known = chains.insert(name.to_owned(), rules.into());
        let before = self.before.entry(place).or_default();
        before.entry(name.to_owned()).or_insert(known);
    }

    /// A chain goes.
    pub(super) fn remove(&mut self, family: Family, table: Table, name: &str) {
        let place = (family, table);
        if let Some(known) = self.chains.get_mut(&place).and_then(|chains| chains.remove(name)) {
            let before = self.before.entry(place).or_default();
            before.entry(name.to_owned()).or_insert(Some(known));
        }
    }

    pub(super) fn get(&self, family: Family, table: Table, name: &str) -> Option<&ChainRules> {
        self.chains.get(&(family, table))?.get(name)
    }

    /// All chains.
    pub(super) fn chains(&self) -> &BTreeMap<Place, Chains> {
        &self.chains
    }

    /// What the pass changed. The next one begins.
    pub(super) fn take(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        for ((family, table), before) in std::mem::take(&mut self.before) {
            let now = self.chains.get(&(family, table));
            let (mut put, mut gone) = (Vec::new(), Vec::new());
            for (name, before) in before {
                let after = now.and_then(|chains| chains.get(&name)).cloned();
                if before != after {
                    let list = if after.is_some() { &mut put } else { &mut gone };
                    list.push((name, after));
                }
            }
            put.append(&mut gone);
            if !put.is_empty() {
                let chains = put;
                writes.push(Write {
                    family,
                    table,
                    chains,
                });
            }
        }
        writes
    }
}
