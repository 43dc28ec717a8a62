//! What one table of one family should hold of ours.

use std::collections::BTreeMap;

use crate::ops::{Insert, Place, TableWrite};

use super::hash::Hashes;

/// A rule with the hash that its comment carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedRule {
    /// The hash.
    pub hash: String,
    /// The rule in `iptables-save` syntax, without `-A CHAIN` and without the comment.
    pub text: String,
}

/// What is in our chains and what of ours is in the kernel's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredTable {
    chains: BTreeMap<String, Vec<HashedRule>>,
    inserts: BTreeMap<String, Inserts>,
}

/// Our rules in one of the kernel's chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inserts {
    /// Those before everybody else's.
    pub first: Vec<HashedRule>,
    /// Those after everybody else's.
    pub last: Vec<HashedRule>,
}

/// What a write changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Chains that are to have other rules, or are new.
    pub written: Vec<String>,
    /// Chains that are to go.
    pub gone: Vec<String>,
    /// Whether what stands in the kernel's chains is to be another.
    pub inserts: bool,
}

impl DesiredTable {
    /// Takes a write in and says what is another now. Chains that it does not name stay; what it says of the kernel's chains
    /// is the whole.
    pub fn take(&mut self, write: &TableWrite) -> Changed {
        let mut changed = Changed::default();
        for (name, rules) in &write.chains {
            match rules {
                Some(rules) => {
                    let rules = hashed(name, rules);
                    if self.chains.get(name) != Some(&rules) {
                        changed.written.push(name.clone());
                        self.chains.insert(name.clone(), rules);
                    }
                }
                None => {
                    if self.chains.remove(name).is_some() {
                        changed.gone.push(name.clone());
                    }
                }
            }
        }
        let inserts = inserts_of(&write.inserts);
        if inserts != self.inserts {
            changed.inserts = true;
            self.inserts = inserts;
        }
        changed
    }

    /// Our chains by name.
    #[must_use]
    pub fn chains(&self) -> &BTreeMap<String, Vec<HashedRule>> {
        &self.chains
    }

    /// What stands in the kernel's chains, by their names.
    #[must_use]
    pub fn inserts(&self) -> &BTreeMap<String, Inserts> {
        &self.inserts
    }

    /// How many rules there should be.
    #[must_use]
    pub fn rules(&self) -> usize {
        let inserts = self.inserts.values();
        self.chains.values().map(Vec::len).sum::<usize>()
            + inserts
                .map(|inserts| inserts.first.len() + inserts.last.len())
                .sum::<usize>()
    }

    /// Whether nothing of ours should be there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.rules() == 0
    }
}

/// What stands in each of the kernel's chains.
fn inserts_of(list: &[Insert]) -> BTreeMap<String, Inserts> {
    let mut texts: BTreeMap<(&str, bool), Vec<String>> = BTreeMap::new();
    for Insert { chain, rule, place } in list {
        let is_last = *place == Place::Last;
        texts.entry((chain, is_last)).or_default().push(rule.clone());
    }
    let mut all: BTreeMap<String, Inserts> = BTreeMap::new();
    for ((chain, is_last), texts) in texts {
        let inserts = all.entry(chain.to_owned()).or_default();
        // The place is in the hash, so that a rule which is wanted at both is told apart.
        if is_last {
            inserts.last = hashed(&format!("{chain} last"), &texts);
        } else {
            inserts.first = hashed(&format!("{chain} first"), &texts);
        }
    }
    all
}

fn hashed(name: &str, rules: &[String]) -> Vec<HashedRule> {
    let mut hashes = Hashes::of(name);
    rules
        .iter()
        .map(|text| HashedRule {
            hash: hashes.next(text),
            text: text.clone(),
        })
        .collect()
}
