//! The trees that lead a packet to the chain of its interface.
//!
//! A chain stands for the names that begin alike. It leads on by the next letter: to the interface itself where only one
//! name goes on so, else to the chain of those that do. So a packet passes a few letters' worth of rules and not one rule
//! for each interface. The tree follows from the names alone, and a name that comes or goes changes only the chains that
//! its own beginnings lead through. The root stands for what all names begin with.

use super::rule::{Match, Names, Rule, Target};
use crate::names::{self, Toward};
use std::collections::BTreeSet;
use std::ops::Bound;

/// The rules of the chain of names that begin so.
pub(super) fn rules(
    names: &BTreeSet<String>,
    beginning: &str,
    toward: Toward,
    label: impl Fn(&str) -> String,
) -> Vec<Rule> {
    let on = |names: Names| match toward {
        Toward::FromWorkload => Match::In(names),
        Toward::ToWorkload => Match::Out(names),
    };
    branches(names, beginning)
        .into_iter()
        .map(|branch| match branch {
            Branch::Leaf(name) => {
                let chain = names::endpoint(toward, &name);
                Rule::new([on(Names::Is(name))], Target::Goto(chain))
            }
            Branch::Node(next) => {
                let chain = names::dispatch(toward, &label(&next));
                Rule::new([on(Names::Begins(next))], Target::Goto(chain))
            }
        })
        .collect()
}

/// The beginnings whose chains a name is led through, the root first.
pub(super) fn path(names: &BTreeSet<String>, root: &str, name: &str) -> Vec<String> {
    let mut out = vec![root.to_owned()];
    loop {
        let here = out.last().map_or("", String::as_str);
        let on_the_way = branches(names, here).into_iter().find_map(|branch| match branch {
            Branch::Node(next) if name.starts_with(next.as_str()) => Some(next),
            _ => None,
        });
        match on_the_way {
            Some(next) => out.push(next),
            None => return out,
        }
    }
}

enum Branch {
    Leaf(String),
    Node(String),
}

/// Where the chain of a beginning leads.
fn branches(names: &BTreeSet<String>, beginning: &str) -> Vec<Branch> {
    let mut out = Vec::new();
    let mut at: Bound<String> = Bound::Included(beginning.to_owned());
    while let Some(first) = names.range((at, Bound::Unbounded)).next() {
        if !first.starts_with(beginning) {
            break;
        }
        let Some(letter) = first.get(beginning.len()..).and_then(|rest| rest.chars().next()) else {
            // The beginning is itself a name.
            out.push(Branch::Leaf(first.clone()));
            at = Bound::Excluded(first.clone());
            continue;
        };
        let mut group = format!("{beginning}{letter}");
        let last = last_with(names, &group);
        if last == first {
            out.push(Branch::Leaf(first.clone()));
        } else {
            // As far as all of them agree.
            let common = first.chars().zip(last.chars()).take_while(|(a, b)| a == b);
            group = common.map(|(a, _)| a).collect();
            out.push(Branch::Node(group));
        }
        at = Bound::Excluded(last.clone());
    }
    out
}

/// The last name that begins so; there is one.
fn last_with<'a>(names: &'a BTreeSet<String>, beginning: &str) -> &'a String {
    // No name of an interface has a letter beyond this one.
    let end = format!("{beginning}\u{10ffff}");
    let found = names.range(..end).next_back();
    // A caller asks for the beginning of a name that it holds, so that there is one; otherwise nothing is led anywhere.
    static NONE: String = String::new();
    found.unwrap_or(&NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOT: &str = "cali";

    fn tree(names: &BTreeSet<String>) -> BTreeSet<String> {
        let mut out = BTreeSet::from([ROOT.to_owned()]);
        let mut todo = vec![ROOT.to_owned()];
        while let Some(beginning) = todo.pop() {
            for branch in branches(names, &beginning) {
                if let Branch::Node(next) = branch {
                    assert!(next.len() > beginning.len());
                    out.insert(next.clone());
                    todo.push(next);
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn every_name_is_found_and_changes_only_its_own_way(
            list in prop::collection::btree_set("cali[0-2a]{0,4}", 0..40),
            other in "cali[0-2a]{0,4}",
        ) {
            for name in &list {
                let way = path(&list, ROOT, name);
                let last = way.last().unwrap();
                let leaf = |b: Branch| matches!(b, Branch::Leaf(n) if n == *name);
                prop_assert!(branches(&list, last).into_iter().any(leaf), "{} at {}", name, last);
            }
            let mut more = list.clone();
            more.insert(other.clone());
            let way: BTreeSet<String> = path(&more, ROOT, &other).into_iter().chain(path(&list, ROOT, &other)).collect();
            let label = |n: &str| n.to_owned();
            for beginning in tree(&list).union(&tree(&more)) {
                if !way.contains(beginning) {
                    prop_assert_eq!(
                        rules(&list, beginning, Toward::ToWorkload, label),
                        rules(&more, beginning, Toward::ToWorkload, label)
                    );
                    prop_assert_eq!(tree(&list).contains(beginning), tree(&more).contains(beginning));
                }
            }
        }
    }

    #[test]
    fn a_hundred_pods_pass_few_rules() {
        let mut numbers = 7u64;
        let names: BTreeSet<String> = (0..100)
            .map(|_| {
                numbers = numbers.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                format!("cali{:011x}", numbers >> 20)
            })
            .collect();
        let mut most = 0;
        for name in &names {
            let way = path(&names, ROOT, name);
            most = most.max(way.iter().map(|b| branches(&names, b).len()).sum());
        }
        assert!(most < 40, "{most}");
    }
}
