//! What differs between what should be and what is.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::desired::{DesiredTable, HashedRule, Inserts};
use super::save::{SavedChain, SavedRule, SavedTable};
use super::{is_our_chain, is_our_rule, text};

/// What brings a table from what is to what should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablePlan {
    /// Our chains that are written anew.
    pub rewrite: BTreeSet<String>,
    /// Chains of ours that go.
    pub delete: BTreeSet<String>,
    /// Chains of ours that nobody wants and that cannot go, since a rule of somebody else's jumps to them; they are emptied.
    pub empty: BTreeSet<String>,
    /// Rules of ours that go from chains of others: the chain and the rule's text.
    pub remove: Vec<(String, String)>,
    /// The kernel's chains in which ours are put in anew, all of them.
    pub insert: BTreeSet<String>,
    /// Rules whose comment is ours and whose text is not what we wrote, or not known to be. In a table that was once as it
    /// should be, somebody changed them.
    pub tampered: usize,
}

impl TablePlan {
    /// Whether nothing has to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.differences() == 0
    }

    /// How many chains and rules have to change.
    #[must_use]
    pub fn differences(&self) -> usize {
        self.rewrite.len() + self.delete.len() + self.empty.len() + self.remove.len() + self.insert.len()
    }
}

/// How the program prints rules of ours that it prints in a form that [`text::normal`] does not foresee: the texts by the
/// hashes of one table, learned from the first reading after a write of ours.
///
/// What was not learned and is not foreseen, in a table that an earlier life left, may be somebody's change under our
/// comment, so such a chain is written once more, and learned then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned(FxHashMap<String, String>);

/// Whether the text of a rule with the right hash is what we wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Ours,
    Unknown,
    Changed,
}

impl Learned {
    fn judge(&self, wanted: &HashedRule, found: &SavedRule) -> Text {
        if text::is_verbatim(&wanted.text, &found.text)
            || text::normal(&wanted.text) == text::normal(&found.text)
        {
            return Text::Ours;
        }
        match self.0.get(&wanted.hash) {
            Some(known) if *known == found.text => Text::Ours,
            Some(_) => Text::Changed,
            None => Text::Unknown,
        }
    }

    /// Takes over how rules that we just wrote are printed. `written` are the chains of the write, the kernel's among them.
    pub fn learn(&mut self, desired: &DesiredTable, observed: &SavedTable, written: &BTreeSet<String>) {
        for chain in &observed.chains {
            if !written.contains(&chain.name) {
                continue;
            }
            let ours: Vec<_> = chain.rules.iter().filter(|rule| is_our_rule(rule)).collect();
            let wanted: Vec<_> = match desired.inserts().get(&chain.name) {
                Some(Inserts { first, last }) => first.iter().chain(last).collect(),
                None => desired.chains().get(&chain.name).into_iter().flatten().collect(),
            };
            for (wanted, found) in wanted.into_iter().zip(ours) {
                if found.hash.as_deref() == Some(wanted.hash.as_str())
                    && self.judge(wanted, found) == Text::Unknown
                {
                    self.0.insert(wanted.hash.clone(), found.text.clone());
                }
            }
        }
    }

    /// Forgets rules that nobody wants any more.
    pub fn retain(&mut self, desired: &DesiredTable) {
        if self.0.len() <= 2 * desired.rules() + 64 {
            return;
        }
        let inserts = desired.inserts().values();
        let hashes: BTreeSet<&str> = desired
            .chains()
            .values()
            .flatten()
            .chain(inserts.flat_map(|inserts| inserts.first.iter().chain(&inserts.last)))
            .map(|rule| rule.hash.as_str())
            .collect();
        self.0.retain(|hash, _| hashes.contains(hash.as_str()));
    }
}

/// Says what has to change. A table that is not there is compared as an empty one.
///
/// Only chains and rules of ours are ever named; see [`super::is_our_chain`] and [`super::is_our_rule`].
#[must_use]
pub fn compare(desired: &DesiredTable, observed: &SavedTable, learned: &Learned) -> TablePlan {
    let mut plan = TablePlan::default();
    let found: FxHashMap<&str, &SavedChain> = observed
        .chains
        .iter()
        .map(|chain| (chain.name.as_str(), chain))
        .collect();
    for (name, rules) in desired.chains() {
        let wanted: Vec<_> = rules.iter().collect();
        let is_right = found.get(name.as_str()).is_some_and(|chain| {
            let found: Vec<_> = chain.rules.iter().collect();
            chain.others == 0 && matches(&wanted, &found, learned, &mut plan.tampered)
        });
        if !is_right {
            plan.rewrite.insert(name.clone());
        }
    }
    for chain in &observed.chains {
        if is_our_chain(&chain.name) {
            if !desired.chains().contains_key(&chain.name) {
                remove_chain(&mut plan, chain, observed);
            }
        } else {
            compare_inserts(&mut plan, desired, chain, learned);
        }
    }
    // The kernel's chains are there in every table, but a table of the nft variant is made with the first write to it.
    for (name, inserts) in desired.inserts() {
        let is_wanted = !inserts.first.is_empty() || !inserts.last.is_empty();
        if is_wanted && !found.contains_key(name.as_str()) {
            plan.insert.insert(name.clone());
        }
    }
    plan
}

fn matches(wanted: &[&HashedRule], found: &[&SavedRule], learned: &Learned, tampered: &mut usize) -> bool {
    let same_hash = |(wanted, found): (&&HashedRule, &&SavedRule)| found.hash.as_ref() == Some(&wanted.hash);
    if wanted.len() != found.len() || !wanted.iter().zip(found).all(same_hash) {
        return false;
    }
    let mut is_right = true;
    for (wanted, found) in wanted.iter().zip(found) {
        match learned.judge(wanted, found) {
            Text::Ours => {}
            Text::Unknown | Text::Changed => {
                is_right = false;
                *tampered += 1;
            }
        }
    }
    is_right
}

/// A chain of ours that nobody wants goes, unless somebody else's rule would keep the kernel from removing it.
fn remove_chain(plan: &mut TablePlan, chain: &SavedChain, observed: &SavedTable) {
    let is_held = observed
        .chains
        .iter()
        .filter(|other| !is_our_chain(&other.name))
        .flat_map(|other| &other.rules)
        .any(|rule| !is_our_rule(rule) && rule.target().as_deref() == Some(chain.name.as_str()));
    if !is_held {
        plan.delete.insert(chain.name.clone());
    } else if !chain.rules.is_empty() || chain.others > 0 {
        plan.empty.insert(chain.name.clone());
    }
}

/// Ours in a chain of others: in the kernel's where they should be, nowhere else.
fn compare_inserts(plan: &mut TablePlan, desired: &DesiredTable, chain: &SavedChain, learned: &Learned) {
    let none = Inserts::default();
    let inserts = desired.inserts().get(&chain.name).unwrap_or(&none);
    let ours: Vec<_> = chain.rules.iter().filter(|rule| is_our_rule(rule)).collect();
    let is_right = if chain.is_builtin {
        let (first, last) = (inserts.first.len(), inserts.last.len());
        let all: Vec<_> = chain.rules.iter().collect();
        ours.len() == first + last
            && all.len() >= first + last
            && matches(
                &inserts.first.iter().collect::<Vec<_>>(),
                all.get(..first).unwrap_or_default(),
                learned,
                &mut plan.tampered,
            )
            && matches(
                &inserts.last.iter().collect::<Vec<_>>(),
                all.get(all.len() - last..).unwrap_or_default(),
                learned,
                &mut plan.tampered,
            )
    } else {
        ours.is_empty()
    };
    if is_right {
        return;
    }
    // All of ours go and come anew, in one transaction: so order, doubles and places need no further thought.
    let texts = ours.iter().map(|rule| (chain.name.clone(), rule.text.clone()));
    plan.remove.extend(texts);
    if !inserts.first.is_empty() || !inserts.last.is_empty() {
        plan.insert.insert(chain.name.clone());
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
