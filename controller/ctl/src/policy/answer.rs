//! A flow's verdict in the words of the manifests.
//!
//! The oracle speaks of resources: a Kubernetes policy is there under another name, and one of its rules is several.
//! Whoever asks wrote manifests, so names and positions are put back here.

use super::flow::{End, Question};
use super::world::World;
use policy_model::KUBERNETES_POLICY_PREFIX;
use policy_model_rules::RuleAction;
use policy_model_rules::oracle::{
    Direction, Judgement, PolicyTrace, TierTrace, Trace, UnjudgeableFlow, Verdict,
};
use std::net::IpAddr;

/// What the policies say of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it may be opened. Allowed means: between all addresses that it could use, made-up ones left out where
    /// there are others.
    pub verdict: Verdict,
    /// Whose policies decided; `None` where no policy was asked.
    pub side: Option<Direction>,
    /// The policy that decided, as `tier/namespace/name` in its author's words.
    pub policy: Option<String>,
    /// The rule that decided: its position, from 0, in the policy's own list of that direction.
    pub rule: Option<usize>,
    /// Why, as a sentence without its full stop.
    pub reason: String,
    /// The ways to the verdict, one for each pair of addresses.
    pub ways: Vec<Way>,
}

/// What the policies say of a flow between two addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// From where; `None` where no address was needed, or none was there.
    pub source: Option<IpAddr>,
    /// To where.
    pub destination: Option<IpAddr>,
    /// What came out, and why.
    pub judgement: Judgement,
}

impl Answer {
    fn no_route(reason: String) -> Self {
        Answer {
            verdict: Verdict::Deny,
            side: None,
            policy: None,
            rule: None,
            reason,
            ways: Vec::new(),
        }
    }
}

impl World {
    /// Answers a question.
    ///
    /// # Errors
    /// The oracle cannot judge the flow. Questions that [`World::understand`] took are judged.
    pub fn answer(&self, question: &Question) -> Result<Answer, UnjudgeableFlow> {
        let Some(flow) = question.flow() else {
            let finished = [&question.from, &question.to].into_iter().find_map(End::finished);
            return Ok(Answer::no_route(format!(
                "no route: pod {} has finished",
                finished.unwrap_or_default()
            )));
        };
        let judgements = self.facts.judge_each(&flow)?;
        Ok(self.sum_up(
            judgements
                .into_iter()
                .map(|judgement| self.in_their_words(judgement)),
        ))
    }

    /// One answer of several judgements: a denial decides, because a client may choose either family.
    fn sum_up(&self, judgements: impl Iterator<Item = Judgement>) -> Answer {
        let ways: Vec<Way> = judgements
            .map(|judgement| Way {
                source: judgement.source,
                destination: judgement.destination,
                judgement,
            })
            .collect();
        let counts = |way: &&Way| !self.is_made_up(way.source, way.destination);
        let (firm, weak): (Vec<&Way>, Vec<&Way>) = ways.iter().partition(counts);
        // Where there is nothing else, addresses that were made up are what the flow would use.
        let deciding = if firm.is_empty() { &weak } else { &firm };
        let by = |verdict| move |way: &&&Way| way.judgement.verdict == verdict;
        let denied = deciding.iter().find(by(Verdict::Deny)).copied();
        let allowed = deciding.iter().find(by(Verdict::Allow)).copied();
        let Some(decisive) = denied.or(allowed) else {
            return Answer::no_route("no route".to_string());
        };
        let judgement = &decisive.judgement;
        let mut reason = judgement.reason.clone();
        if let (Some(denied), Some(allowed)) = (denied, allowed) {
            reason = format!(
                "{} is denied and {} allowed: {reason}",
                between(denied, allowed),
                between(allowed, denied)
            );
        } else if let Some(other) = weak.iter().find(|way| way.judgement.verdict != judgement.verdict) {
            reason = format!(
                "{reason} (IPv6, of which the manifests name no address, would be {}: {})",
                match other.judgement.verdict {
                    Verdict::Allow => "allowed",
                    Verdict::Deny => "denied",
                },
                other.judgement.reason
            );
        }
        Answer {
            verdict: judgement.verdict,
            side: judgement.side,
            policy: judgement.policy.as_ref().map(ToString::to_string),
            rule: judgement.rule,
            reason,
            ways,
        }
    }

    /// A judgement with the names and positions of the manifests.
    pub fn in_their_words(&self, mut judgement: Judgement) -> Judgement {
        let rule = judgement.rule;
        if let (Some(policy), Some(side)) = (&mut judgement.policy, judgement.side) {
            judgement.rule = rule.map(|rule| self.position(&policy.namespace, &policy.name, side, rule));
            if let Some(written) = self.written(&policy.namespace, &policy.name) {
                policy.name.clone_from(&written.name);
            }
        }
        self.rewrite_trace(&mut judgement.trace);
        judgement.reason = match (
            &judgement.policy,
            judgement.rule,
            judgement.side,
            judgement.trace.directions.last(),
        ) {
            (Some(policy), Some(rule), Some(side), Some(last)) => {
                let action = match judgement.verdict {
                    Verdict::Allow => RuleAction::Allow,
                    Verdict::Deny => RuleAction::Deny,
                };
                format!(
                    "{}: rule {rule} ({action:?}) of policy {policy} matches",
                    side_of(side, &last.endpoint)
                )
            }
            _ => own_names(&judgement.reason),
        };
        judgement
    }

    fn rewrite_trace(&self, trace: &mut Trace) {
        for direction in &mut trace.directions {
            for tier in &mut direction.tiers {
                for policy in &mut tier.policies {
                    self.rewrite_policy(policy, direction.direction);
                }
                rewrite_tier(tier);
            }
            let decided = direction.tiers.last().and_then(decision);
            direction.reason = match decided {
                Some((policy, rule, action)) if action != RuleAction::Pass => {
                    format!("rule {rule} ({action:?}) of policy {policy} matches")
                }
                _ => own_names(&direction.reason),
            };
        }
    }

    fn rewrite_policy(&self, trace: &mut PolicyTrace, side: Direction) {
        let Some((namespace, name)) = trace.policy.split_once('/') else {
            return;
        };
        let (namespace, name) = (namespace.to_string(), name.to_string());
        for rule in &mut trace.rules {
            rule.rule = self.position(&namespace, &name, side, rule.rule);
        }
        if let Some(written) = self.written(&namespace, &name) {
            trace.policy = format!("{namespace}/{}", written.name);
        }
        if let Some((rule, action)) = decisive_rule(trace) {
            trace.outcome = format!("rule {rule} ({action:?}) matches");
        }
    }

    /// The position of a rule in its author's list.
    fn position(&self, namespace: &str, policy: &str, side: Direction, rule: usize) -> usize {
        let written = self.written(namespace, policy);
        let positions = written.map(|written| match side {
            Direction::Ingress => &written.ingress,
            Direction::Egress => &written.egress,
        });
        positions
            .and_then(|positions| positions.get(rule).copied())
            .unwrap_or(rule)
    }
}

/// The last rule of a policy's trace, if it decided.
fn decisive_rule(trace: &PolicyTrace) -> Option<(usize, RuleAction)> {
    let last = trace.rules.last()?;
    (last.matched && last.action != RuleAction::Log).then_some((last.rule, last.action))
}

fn decision(tier: &TierTrace) -> Option<(String, usize, RuleAction)> {
    let policy = tier.policies.last()?;
    let (rule, action) = decisive_rule(policy)?;
    Some((format!("{}/{}", tier.tier, policy.policy), rule, action))
}

fn rewrite_tier(tier: &mut TierTrace) {
    for skipped in &mut tier.skipped {
        *skipped = own_names(skipped);
    }
    let decided = tier.policies.last().and_then(|policy| {
        let (rule, action) = decisive_rule(policy)?;
        Some(match action {
            RuleAction::Pass => format!("rule {rule} of {} passes to the next tier", policy.policy),
            _ => format!("rule {rule} of {} decides", policy.policy),
        })
    });
    tier.outcome = decided.unwrap_or_else(|| own_names(&tier.outcome));
}

/// A sentence with the prefix away that translated policies have. No manifest can name a policy so, and the character
/// before it tells it from a label's value.
fn own_names(text: &str) -> String {
    let text = text.replace(&format!("/{KUBERNETES_POLICY_PREFIX}"), "/");
    text.strip_prefix(KUBERNETES_POLICY_PREFIX)
        .map_or(text.clone(), str::to_string)
}

fn side_of(side: Direction, endpoint: &str) -> String {
    match side {
        Direction::Egress => format!("egress of {endpoint}"),
        Direction::Ingress => format!("ingress to {endpoint}"),
    }
}

/// What tells a way from another: its family, else its addresses.
fn between(way: &Way, other: &Way) -> String {
    let is_v4 = |way: &Way| way.destination.or(way.source).is_none_or(|a| a.is_ipv4());
    match (is_v4(way), is_v4(other)) {
        (true, false) => "IPv4".to_string(),
        (false, true) => "IPv6".to_string(),
        _ => addresses(way),
    }
}

/// The addresses of a way, as people write them.
pub fn addresses(way: &Way) -> String {
    let text = |address: Option<IpAddr>| address.map_or("its node".to_string(), |a| a.to_string());
    format!("{} -> {}", text(way.source), text(way.destination))
}
