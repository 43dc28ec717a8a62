//! What the policies and profiles of one endpoint say about a packet in one direction.

use super::clause::{check, mismatch};
use super::facts::{Endpoint, Facts};
use super::packet::Packet;
use super::trace::{DirectionTrace, PolicyTrace, TierTrace};
use super::verdict::{Direction, PolicyRef, Verdict};
use crate::order::TierSortKey;
use crate::policy::CompiledPolicy;
use crate::rule::RuleAction;
use crate::set::AddressSet;
use policy_model::DefaultAction;

/// What the policies of one endpoint say.
pub(super) struct Ruling {
    pub(super) verdict: Verdict,
    pub(super) policy: Option<PolicyRef>,
    pub(super) rule: Option<usize>,
    pub(super) reason: String,
}

impl Ruling {
    fn by_rule(action: RuleAction, policy: &CompiledPolicy<AddressSet>, rule: usize) -> Self {
        let verdict = if action == RuleAction::Allow {
            Verdict::Allow
        } else {
            Verdict::Deny
        };
        let policy = PolicyRef::of(policy);
        let reason = format!("rule {rule} ({action:?}) of policy {policy} matches");
        Ruling {
            verdict,
            policy: Some(policy),
            rule: Some(rule),
            reason,
        }
    }

    fn by_profiles(verdict: Verdict, reason: String) -> Self {
        Ruling {
            verdict,
            policy: None,
            rule: None,
            reason,
        }
    }
}

/// A question to one endpoint.
pub(super) struct Asked<'a> {
    pub(super) facts: &'a Facts,
    pub(super) endpoint: &'a Endpoint,
    pub(super) direction: Direction,
    pub(super) packet: &'a Packet<'a>,
    /// Whether traces are wanted.
    pub(super) explain: bool,
}

/// The endpoint's answer: tiers in order, then profiles in order.
pub(super) fn ask(asked: &Asked<'_>) -> (Ruling, DirectionTrace) {
    let mut trace = DirectionTrace {
        direction: asked.direction,
        endpoint: asked.endpoint.display().to_string(),
        verdict: Verdict::Deny,
        reason: String::new(),
        tiers: Vec::new(),
        profiles: Vec::new(),
    };
    let ruling = asked
        .tiers(&mut trace.tiers)
        .unwrap_or_else(|| asked.profiles(&mut trace.profiles));
    trace.verdict = ruling.verdict;
    trace.reason.clone_from(&ruling.reason);
    (ruling, trace)
}

impl Asked<'_> {
    /// `None` leaves the decision to the profiles.
    fn tiers(&self, trace: &mut Vec<TierTrace>) -> Option<Ruling> {
        for (place, tier) in &self.facts.tiers {
            let mut tier_trace = TierTrace {
                tier: place.name().to_string(),
                policies: Vec::new(),
                skipped: Vec::new(),
                outcome: String::new(),
            };
            let mut applying = Vec::new();
            for policy in tier.policies.values() {
                match self.why_not(policy) {
                    None => applying.push(policy),
                    Some(reason) if !reason.is_empty() => tier_trace.skipped.push(reason),
                    Some(_) => {}
                }
            }
            let ruling = self.tier(place, tier.default_action, &applying, &mut tier_trace);
            if !(applying.is_empty() && tier_trace.skipped.is_empty()) {
                trace.push(tier_trace);
            }
            if ruling.is_some() {
                return ruling;
            }
        }
        None
    }

    /// `None` leaves the decision to the next tier.
    fn tier(
        &self,
        place: &TierSortKey,
        default_action: DefaultAction,
        applying: &[&CompiledPolicy<AddressSet>],
        trace: &mut TierTrace,
    ) -> Option<Ruling> {
        for policy in applying {
            let (decided, policy_trace) = self.policy(policy);
            trace.policies.push(policy_trace);
            let Some((action, rule)) = decided else { continue };
            if action == RuleAction::Pass {
                trace.outcome = format!("rule {rule} of {} passes to the next tier", policy.id);
                return None;
            }
            trace.outcome = format!("rule {rule} of {} decides", policy.id);
            return Some(Ruling::by_rule(action, policy, rule));
        }
        let Some(last) = applying.last() else {
            trace.outcome = "no policy applies".to_string();
            return None;
        };
        if default_action == DefaultAction::Pass {
            trace.outcome = "no rule matches, the tier's default action is Pass".to_string();
            return None;
        }
        trace.outcome = "no rule matches, the tier's default action is Deny".to_string();
        let names: Vec<String> = applying.iter().map(|p| p.id.to_string()).collect();
        let reason = format!(
            "no rule of {} matches, and tier {} denies what its policies leave",
            names.join(", "),
            place.name()
        );
        Some(Ruling {
            verdict: Verdict::Deny,
            policy: Some(PolicyRef::of(last)),
            rule: None,
            reason,
        })
    }

    fn profiles(&self, trace: &mut Vec<PolicyTrace>) -> Ruling {
        for name in &self.endpoint.profiles {
            let Some(profile) = self.facts.profiles.get(name) else {
                let outcome = "is missing and denies".to_string();
                trace.push(PolicyTrace {
                    policy: name.clone(),
                    rules: Vec::new(),
                    outcome,
                });
                return Ruling::by_profiles(Verdict::Deny, format!("profile {name} is missing"));
            };
            let (decided, mut profile_trace) = self.policy(profile);
            profile_trace.policy.clone_from(name);
            trace.push(profile_trace);
            // A Pass leaves this profile: there is no tier after it.
            if let Some((action @ (RuleAction::Allow | RuleAction::Deny), rule)) = decided {
                let verdict = if action == RuleAction::Allow {
                    Verdict::Allow
                } else {
                    Verdict::Deny
                };
                let reason =
                    format!("no policy decides, and rule {rule} ({action:?}) of profile {name} matches");
                return Ruling::by_profiles(verdict, reason);
            }
        }
        let reason = "neither a policy nor a profile allows it".to_string();
        Ruling::by_profiles(Verdict::Deny, reason)
    }

    /// The action and position of the rule that decides, if one does.
    fn policy(&self, policy: &CompiledPolicy<AddressSet>) -> (Option<(RuleAction, usize)>, PolicyTrace) {
        let rules = match self.direction {
            Direction::Egress => &policy.egress,
            Direction::Ingress => &policy.ingress,
        };
        let mut trace = PolicyTrace {
            policy: policy.id.to_string(),
            rules: Vec::new(),
            outcome: "no rule matches".to_string(),
        };
        for rule in rules {
            let found = check(self.facts, rule, self.packet, self.explain);
            let decides = found.matched && rule.action != RuleAction::Log;
            if self.explain {
                trace.rules.push(found);
            }
            if decides {
                trace.outcome = format!("rule {} ({:?}) matches", rule.index, rule.action);
                return (Some((rule.action, rule.index)), trace);
            }
        }
        (None, trace)
    }

    /// Why a policy does not apply to the endpoint in this direction; `None` where it does. The text is empty where
    /// nobody would ask: without traces, and for policies of other namespaces.
    fn why_not(&self, policy: &CompiledPolicy<AddressSet>) -> Option<String> {
        let (owner, direction) = (&self.endpoint.owner, self.direction);
        let applies = match direction {
            Direction::Egress => policy.applies_egress,
            Direction::Ingress => policy.applies_ingress,
        };
        let selects = policy.selector.evaluate(&owner.labels);
        if applies && selects {
            return None;
        }
        let namespace = &*policy.id.namespace;
        if !self.explain || !(namespace.is_empty() || namespace == self.endpoint.namespace) {
            return Some(String::new());
        }
        Some(if selects {
            format!("{} does not apply to {direction}", policy.id)
        } else {
            let found = mismatch(&policy.selector, owner);
            format!(
                "{} does not apply: selector {} does not match {found}",
                policy.id, policy.selector
            )
        })
    }
}
