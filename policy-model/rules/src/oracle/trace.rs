//! How a verdict came about, for people (`Display`) and for programs (serde).

use super::verdict::{Direction, Verdict};
use policy_model::Action;
use serde::Serialize;
use std::fmt;

/// The way to a verdict: the directions that were judged, egress of the source first.
///
/// Empty where no policy was asked, and where the question was asked without a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// The directions, in order. Ingress is missing where egress denied.
    pub directions: Vec<DirectionTrace>,
}

/// The way through the policies of one endpoint in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectionTrace {
    /// Direction, seen from the endpoint.
    pub direction: Direction,
    /// The endpoint, as namespace and pod.
    pub endpoint: String,
    /// What came out.
    pub verdict: Verdict,
    /// Why, as a sentence without its full stop.
    pub reason: String,
    /// The tiers up to the one that decided, without those that have nothing to say.
    pub tiers: Vec<TierTrace>,
    /// The profiles up to the one that decided; empty where a tier decided.
    pub profiles: Vec<PolicyTrace>,
}

/// The way through one tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TierTrace {
    /// Name of the tier.
    pub tier: String,
    /// The policies that apply, up to the one that decided.
    pub policies: Vec<PolicyTrace>,
    /// Policies of the endpoint's namespace and of the cluster that do not apply, each with the reason.
    pub skipped: Vec<String>,
    /// What came out.
    pub outcome: String,
}

/// The way through one policy or profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyTrace {
    /// The policy, as namespace and name.
    pub policy: String,
    /// Its rules, up to the one that decided.
    pub rules: Vec<RuleTrace>,
    /// What came out.
    pub outcome: String,
}

/// What was found of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleTrace {
    /// Position in the policy's list of this direction, from 0.
    pub rule: usize,
    /// What it does.
    pub action: Action,
    /// Whether it matched: whether all clauses did.
    pub matched: bool,
    /// Its clauses. A rule without any matches everything.
    pub clauses: Vec<ClauseTrace>,
}

/// What was found of one clause of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClauseTrace {
    /// Whether it matched.
    pub matched: bool,
    /// What was compared, as a sentence without its full stop.
    pub text: String,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.directions
            .iter()
            .try_for_each(|direction| write!(f, "{direction}"))
    }
}

impl fmt::Display for DirectionTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = match self.direction {
            Direction::Egress => "of",
            Direction::Ingress => "to",
        };
        writeln!(
            f,
            "{} {link} {}: {}, because {}",
            self.direction, self.endpoint, self.verdict, self.reason
        )?;
        for tier in &self.tiers {
            writeln!(f, "  tier {}: {}", tier.tier, tier.outcome)?;
            for policy in &tier.policies {
                write_policy(f, "policy ", policy)?;
            }
            for skipped in &tier.skipped {
                writeln!(f, "    ({skipped})")?;
            }
        }
        if !self.profiles.is_empty() {
            writeln!(f, "  profiles:")?;
        }
        self.profiles
            .iter()
            .try_for_each(|profile| write_policy(f, "", profile))
    }
}

fn write_policy(f: &mut fmt::Formatter<'_>, what: &str, policy: &PolicyTrace) -> fmt::Result {
    writeln!(f, "    {what}{}: {}", policy.policy, policy.outcome)?;
    for rule in &policy.rules {
        let matched = match (rule.matched, rule.clauses.is_empty()) {
            (true, true) => "matches everything",
            (true, false) => "matches",
            (false, _) => "does not match",
        };
        writeln!(f, "      rule {} {:?} {matched}", rule.rule, rule.action)?;
        for clause in &rule.clauses {
            writeln!(
                f,
                "        {} {}",
                if clause.matched { '+' } else { '-' },
                clause.text
            )?;
        }
    }
    Ok(())
}
