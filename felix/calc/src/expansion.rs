//! A policy in its two forms: with sets as rules write them while nobody needs it, with numbers while it is in force.
//!
//! Only one of the two is kept: the numbers lead back to the sets. What the hands were told is the form with
//! numbers itself, so that telling them again is noticed by comparing.

use crate::atoms::Atoms;
use crate::sequence::Sequence;
use dataplane_api::{AtomId, AtomScope, Policy, Update};
use policy_model_rules::{AddressSet, CompiledPolicy, Rule, RuleSide};
use policy_model_selector::Selector;
use std::collections::HashSet;
use std::sync::Arc;

/// The content of a policy or profile.
#[derive(Default)]
pub(crate) struct Expansion {
    /// Content that the hands do not have.
    written: Option<Box<CompiledPolicy<AddressSet>>>,
    /// What the hands have.
    sent: Option<Arc<Policy>>,
}

impl Expansion {
    /// Puts other content in the place of what there is.
    pub(crate) fn write(&mut self, policy: CompiledPolicy<AddressSet>) {
        self.written = Some(Box::new(policy));
    }

    /// Forgets the content that the hands do not have.
    pub(crate) fn discard(&mut self) {
        self.written = None;
    }

    /// Whether the hands have it.
    pub(crate) fn is_sent(&self) -> bool {
        self.sent.is_some()
    }

    /// Tells the hands what changed, where they are to have it; else takes it back, and keeps the content if `keep`.
    pub(crate) fn settle(&mut self, in_force: bool, keep: bool, atoms: &mut Atoms, out: &mut Sequence) {
        if in_force {
            let Some(written) = self.written.take() else {
                return;
            };
            // The new uses come first, so that a set of both versions keeps its number.
            let now = expanded(*written, atoms);
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
                self.written = Some(Box::new(collapsed(&before, atoms)));
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
    /// Brings a policy that is to be kept down to the memory that it needs.
    pub(crate) fn compact(&mut self, policy: &mut CompiledPolicy<AddressSet>) {
        for rule in policy.ingress.iter_mut().chain(&mut policy.egress) {
            for side in [&mut rule.source, &mut rule.destination] {
                self.share(&mut side.sets);
                self.share(&mut side.not_sets);
                for ports in [&mut side.ports, &mut side.not_ports].into_iter().flatten() {
                    ports.ranges.shrink_to_fit();
                    self.share(&mut ports.named);
                }
            }
        }
    }

    fn share(&mut self, sets: &mut Vec<AddressSet>) {
        sets.shrink_to_fit();
        for set in sets {
            if let AddressSet::Selected(selector) | AddressSet::NamedPort { selector, .. } = set {
                self.meet(selector);
            }
        }
    }

    /// Puts the selector that was met before in the place of one that equals it.
    fn meet(&mut self, selector: &mut Selector) {
        if let Some(known) = self.0.get(selector) {
            *selector = known.clone();
            return;
        }
        if self.0.len() >= MANY {
            self.0.clear();
        }
        self.0.insert(selector.clone());
    }
}

/// Which side a rule's set is on, seen from the endpoint.
fn scope(is_ingress: bool, side: RuleSide) -> AtomScope {
    match (is_ingress, side) {
        (true, RuleSide::Source) | (false, RuleSide::Destination) => AtomScope::Peer,
        (true, RuleSide::Destination) | (false, RuleSide::Source) => AtomScope::Own,
    }
}

fn expanded(policy: CompiledPolicy<AddressSet>, atoms: &mut Atoms) -> Policy {
    let mut numbered = |rules: &[Rule<AddressSet>], is_ingress| -> Vec<Rule<AtomId>> {
        rules
            .iter()
            .map(|rule| rule.map_sets(|set, side| atoms.acquire(set, scope(is_ingress, side))))
            .collect()
    };
    let (ingress, egress) = (numbered(&policy.ingress, true), numbered(&policy.egress, false));
    let CompiledPolicy {
        id,
        tier,
        order,
        selector,
        applies_ingress,
        applies_egress,
        ingress: _,
        egress: _,
    } = policy;
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

fn collapsed(policy: &Policy, atoms: &Atoms) -> CompiledPolicy<AddressSet> {
    let written = |rules: &[Rule<AtomId>]| -> Vec<Rule<AddressSet>> {
        // Every number that is in use leads to a set; an empty list of networks would match nothing.
        let set = |id: &AtomId| {
            atoms
                .set_of(*id)
                .map_or_else(|| AddressSet::Nets(Vec::new()), |set| (**set).clone())
        };
        rules.iter().map(|rule| rule.map_sets(|id, _| set(id))).collect()
    };
    CompiledPolicy {
        id: policy.id.clone(),
        tier: policy.tier.clone(),
        order: policy.order,
        selector: policy.selector.clone(),
        applies_ingress: policy.applies_ingress,
        applies_egress: policy.applies_egress,
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
    use policy_model_rules::{PolicyId, Side};

    fn policy(selector: &str) -> CompiledPolicy<AddressSet> {
        let mut sets = Vec::with_capacity(8);
        sets.push(AddressSet::Selected(Selector::from_expr(
            Selector::parse(selector).unwrap().expr().clone(),
        )));
        let rule = Rule {
            action: policy_model::Action::Allow,
            index: 0,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Side {
                sets,
                ..Side::default()
            },
            destination: Side::default(),
        };
        CompiledPolicy {
            id: PolicyId::global("p"),
            tier: "default".into(),
            order: None,
            selector: Selector::all(),
            applies_ingress: true,
            applies_egress: false,
            ingress: vec![rule],
            egress: Vec::new(),
        }
    }

    fn expression(policy: &CompiledPolicy<AddressSet>) -> *const policy_model_selector::Expr {
        match &policy.ingress[0].source.sets[0] {
            AddressSet::Selected(selector) => selector.expr(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn equal_selectors_of_rules_become_one_and_the_rest_stays_as_it_was() {
        let mut recent = RecentSelectors::default();
        let texts = ["app == 'a'", "app == 'a'", "app == 'b'"];
        let policies = texts.map(|text| {
            let mut policy = policy(text);
            recent.compact(&mut policy);
            assert_eq!(policy, self::policy(text));
            assert_eq!(policy.ingress[0].source.sets.capacity(), 1);
            policy
        });
        let [a, again, b] = &policies;
        assert_eq!(expression(a), expression(again));
        assert_ne!(expression(a), expression(b));
        for n in 0..3 * MANY {
            recent.compact(&mut policy(&format!("app == '{n}'")));
        }
        assert!(recent.0.len() <= MANY);
    }
}
