//! One rule of a policy.

use super::{Namespace, side};
use crate::rule::{IpVersion, Rule, RuleAction, RuleSide, Side};
use crate::set::AddressSet;
use policy_model::{FieldError, Icmp, PolicyRule};
use std::fmt::Display;

/// What became of a rule without faults.
pub(super) struct Done {
    /// The rule, unless it had to be left out.
    pub(super) rule: Option<Rule<AddressSet>>,
    /// What of it cannot be enforced.
    pub(super) fault: Option<FieldError>,
}

/// Compiles a rule. `at` is its path; `namespace` that of its policy, if it has one.
pub(super) fn compile(
    at: &dyn Display,
    written: &PolicyRule,
    index: usize,
    namespace: Option<&Namespace<'_>>,
) -> Result<Done, FieldError> {
    let ip_version = match written.ip_version {
        None => None,
        Some(4) => Some(IpVersion::V4),
        Some(6) => Some(IpVersion::V6),
        Some(_) => return Err(FieldError::new(format!("{at}.ipVersion"), "must be 4 or 6")),
    };
    let mut rule = Rule {
        action: written.action,
        index,
        ip_version,
        protocol: written.protocol,
        not_protocol: written.not_protocol,
        icmp: restricting(written.icmp),
        not_icmp: restricting(written.not_icmp),
        source: side::compile(
            &format_args!("{at}.source"),
            &written.source,
            RuleSide::Source,
            written.protocol,
            namespace,
        )?,
        destination: side::compile(
            &format_args!("{at}.destination"),
            &written.destination,
            RuleSide::Destination,
            written.protocol,
            namespace,
        )?,
    };
    if !written
        .http
        .as_ref()
        .is_some_and(|http| !http.methods.is_empty() || !http.paths.is_empty())
    {
        return Ok(Done {
            rule: Some(rule),
            fault: None,
        });
    }
    // Without its HTTP part a rule matches more than was meant: a packet filter sees no requests.
    let what = match rule.action {
        RuleAction::Allow => "the rule is left out",
        RuleAction::Deny | RuleAction::Pass => "the rule denies whatever the HTTP match says",
        RuleAction::Log => "the rule logs whatever the HTTP match says",
    };
    let fault = FieldError::new(format!("{at}.http"), format!("cannot be enforced here: {what}"));
    let kept = match rule.action {
        RuleAction::Allow => None,
        RuleAction::Log => Some(rule),
        RuleAction::Deny | RuleAction::Pass => {
            // A Pass that matches too much could skip a later Deny, one that is left out could let a later Allow of
            // the same tier decide; only a Deny is surely not too open.
            rule.action = RuleAction::Deny;
            Some(rule)
        }
    };
    Ok(Done {
        rule: kept,
        fault: Some(fault),
    })
}

/// What stands in place of a rule with a fault: nothing for Allow and Log, a Deny of everything for Deny and Pass.
pub(super) fn closed(action: RuleAction, index: usize) -> Option<Rule<AddressSet>> {
    match action {
        RuleAction::Allow | RuleAction::Log => None,
        RuleAction::Deny | RuleAction::Pass => Some(Rule {
            action: RuleAction::Deny,
            index,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Side::default(),
            destination: Side::default(),
        }),
    }
}

/// An ICMP match without type and code says nothing beyond the protocol.
fn restricting(icmp: Option<Icmp>) -> Option<Icmp> {
    icmp.filter(|icmp| icmp.icmp_type.is_some() || icmp.code.is_some())
}
