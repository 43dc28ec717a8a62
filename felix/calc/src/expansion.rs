//! A policy in its two forms: with sets as rules write them while nobody needs it, with numbers while it is in force.
//!
//! Only one of the two is kept: the numbers lead back to the sets. What the hands were told is the form with
//! numbers itself, so that telling them again is noticed by comparing.

use crate::atoms::Atoms;
use crate::sequence::Sequence;
use crate::waiting::{Rules, Waiting};
use dataplane_api::{AtomId, AtomScope, Policy, Update};
use policy_model_rules::{AddressSet, CompiledPolicy, PolicyId, Rule, RuleSide, TierId};
use policy_model_selector::Selector;
use std::collections::HashSet;
use std::sync::Arc;

/// What a policy or profile is beside its rules.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) id: PolicyId,
    pub(crate) tier: TierId,
    pub(crate) order: Option<f64>,
    pub(crate) selector: Selector,
    pub(crate) applies_ingress: bool,
    pub(crate) applies_egress: bool,
}

/// A policy or profile, taken apart.
pub(crate) fn parts(policy: CompiledPolicy<AddressSet>) -> (Subject, Rules) {
    let CompiledPolicy {
        id,
        tier,
        order,
        selector,
        applies_ingress,
        applies_egress,
        ingress,
        egress,
    } = policy;
    let subject = Subject {
        id,
        tier,
        order,
        selector,
        applies_ingress,
        applies_egress,
    };
    (subject, Rules { ingress, egress })
}

/// The content of a policy or profile.
#[derive(Default)]
pub(crate) struct Expansion {
    /// Rules that the hands do not have.
    written: Option<Waiting>,
    /// What the hands have.
    sent: Option<Arc<Policy>>,
}

impl Expansion {
    /// Puts other rules in the place of what there is. The subject is that of the next [`Expansion::settle`].
    pub(crate) fn write(&mut self, rules: Waiting) {
        self.written = Some(rules);
    }

    /// Forgets the rules that the hands do not have.
    pub(crate) fn discard(&mut self) {
        self.written = None;
    }

    /// Whether the hands have it.
    pub(crate) fn is_sent(&self) -> bool {
        self.sent.is_some()
    }

    /// Tells the hands what changed, where they are to have it as a policy of this subject; else takes it back, and keeps
    /// the rules if `keep`.
    pub(crate) fn settle(
        &mut self,
        in_force: Option<&Subject>,
        keep: bool,
        atoms: &mut Atoms,
        out: &mut Sequence,
    ) {
        if let Some(subject) = in_force {
            let Some(written) = self.written.take() else {
                return;
            };
            // The new uses come first, so that a set of both versions keeps its number.
            let now = expanded(subject, &written.rules(), atoms);
            let before = self.sent.take();
            if let Some(before) = before {
                if *before == now {
                    release(&now, atoms);
                    self.sent = Some(before);
                    return;
                }
                release(&before, atoms);
            }
            let now = Arc::new(now);
            out.policies.push(Update::Policy(now.clone()));
            self.sent = Some(now);
        } else if let Some(before) = self.sent.take() {
            if keep && self.written.is_none() {
                self.written = Some(Waiting::new(&collapsed(&before, atoms), Selector::clone));
            }
            release(&before, atoms);
            out.gone_policies.push(Update::PolicyRemoved(before.id.clone()));
        }
    }
}

/// With more than this all are forgotten, and those that come again are soon there again.
const MANY: usize = 1024;

/// Selectors of rules that were met last. Most policies of a cluster wait here for good, unused, and those of a namespace
/// have few selectors between them: what is equal is to be the same, and takes memory once.
#[derive(Default)]
pub(crate) struct RecentSelectors(HashSet<Selector>);

impl RecentSelectors {
    /// The selector that was met before, in the place of one that equals it; else this one, condensed.
    pub(crate) fn share(&mut self, selector: &Selector) -> Selector {
        if let Some(known) = self.0.get(selector) {
            return known.clone();
        }
        if self.0.len() >= MANY {
            self.0.clear();
        }
        let kept = selector.condensed();
        self.0.insert(kept.clone());
        kept
    }
}

/// Which side a rule's set is on, seen from the endpoint.
fn scope(is_ingress: bool, side: RuleSide) -> AtomScope {
    match (is_ingress, side) {
        (true, RuleSide::Source) | (false, RuleSide::Destination) => AtomScope::Peer,
        (true, RuleSide::Destination) | (false, RuleSide::Source) => AtomScope::Own,
    }
}

fn expanded(subject: &Subject, rules: &Rules, atoms: &mut Atoms) -> Policy {
    let mut numbered = |rules: &[Rule<AddressSet>], is_ingress| -> Vec<Rule<AtomId>> {
        rules
            .iter()
            .map(|rule| rule.map_sets(|set, side| atoms.acquire(set, scope(is_ingress, side))))
            .collect()
    };
    let (ingress, egress) = (numbered(&rules.ingress, true), numbered(&rules.egress, false));
    let Subject {
        id,
        tier,
        order,
        selector,
        applies_ingress,
        applies_egress,
    } = subject.clone();
    Policy {
        id,
        tier,
        order,
        selector,
        applies_ingress,
        applies_egress,
        ingress,
        egress,
    }
}

fn collapsed(policy: &Policy, atoms: &Atoms) -> Rules {
    let written = |rules: &[Rule<AtomId>]| -> Vec<Rule<AddressSet>> {
        // Every number that is in use leads to a set; an empty list of networks would match nothing.
        let set = |id: &AtomId| {
            atoms
                .set_of(*id)
                .map_or_else(|| AddressSet::Nets(Vec::new()), |set| (**set).clone())
        };
        rules.iter().map(|rule| rule.map_sets(|id, _| set(id))).collect()
    };
    Rules {
        ingress: written(&policy.ingress),
        egress: written(&policy.egress),
    }
}

fn release(policy: &Policy, atoms: &mut Atoms) {
    for rule in policy.ingress.iter().chain(&policy.egress) {
        rule.source
            .all_sets()
            .chain(&mut rule.destination.all_sets())
            .for_each(|id| atoms.release(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_selectors_become_one_and_not_all_are_remembered() {
        let mut recent = RecentSelectors::default();
        // Made anew each time, so that no two are the same.
        let selector = |text: &str| Selector::from_expr(Selector::parse(text).unwrap().expr().clone());
        let [a, again, b] = ["app == 'a'", "app == 'a'", "app == 'b'"].map(|text| {
            let shared = recent.share(&selector(text));
            assert_eq!(shared, selector(text));
            shared
        });
        let is_same = |one: &Selector, other: &Selector| std::ptr::eq(one.canonical(), other.canonical());
        assert!(is_same(&a, &again) && !is_same(&a, &b));
        for n in 0..3 * MANY {
            recent.share(&selector(&format!("app == '{n}'")));
        }
        assert!(recent.0.len() <= MANY);
    }
}
