//! A policy in its two forms: with sets as rules write them while nobody needs it, with numbers while it is in force.
//!
//! Only one of the two is kept: the numbers lead back to the sets. What the hands were told is the form with
//! numbers itself, so that telling them again is noticed by comparing.

use crate::atoms::Atoms;
use crate::sequence::Sequence;
use dataplane_api::{AtomId, AtomScope, Policy, Update};
use policy_model_rules::{AddressSet, CompiledPolicy, Rule, RuleSide};
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
