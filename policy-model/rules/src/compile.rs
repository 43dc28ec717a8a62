//! Policies to ordered rules.
//!
//! What a resource says in several fields becomes one selector for its subject and one for each side of a rule. The
//! translation is Calico's, so that a policy written for it means the same here.
//!
//! Faults fail closed: a rule that cannot be understood never lets through what its author did not mean to let
//! through. An Allow rule with a fault vanishes, a Deny or Pass rule with one denies everything that reaches it, and
//! a policy whose subject has a fault is refused as a whole, because it is unknown whom it was meant for.

mod ports;
mod rule;
mod selector;
mod side;

use crate::policy::{CompiledPolicy, PolicyId};
use crate::rule::Rule;
use crate::set::AddressSet;
use policy_model::{
    DEFAULT_TIER, FieldError, GlobalNetworkPolicySpec, Key, NetworkPolicySpec, Object, PolicyRule,
    PolicyType, ProfileSpec, Resource,
};
use policy_model_selector::{Expr, Selector};
use std::collections::BTreeSet;
use std::fmt;

/// A compiled policy, and what was wrong in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// The policy, closed where it had faults.
    pub policy: CompiledPolicy<AddressSet>,
    /// The faults, each with the path of its field. Empty for a policy without any.
    pub faults: Vec<FieldError>,
}

/// A policy that cannot be enforced in any part, because it is unknown whom it was meant for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidPolicy {
    /// The resource.
    pub key: Key,
    /// The faults. Never empty.
    pub faults: Vec<FieldError>,
}

impl fmt::Display for InvalidPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        for (n, fault) in self.faults.iter().enumerate() {
            write!(f, "{} {fault}", if n == 0 { ':' } else { ';' })?;
        }
        Ok(())
    }
}

/// Compiles a NetworkPolicy, GlobalNetworkPolicy or Profile.
///
/// `None` for every other kind, and for policies with `doNotTrack` or `preDNAT`: these apply to host endpoints alone,
/// at hooks of their own.
///
/// # Errors
/// The subject (namespace or a selector outside of the rules) has a fault. Faults of rules are no error: see
/// [`Compiled::faults`].
pub fn compile_policy(resource: &Resource) -> Result<Option<Compiled>, InvalidPolicy> {
    let source = match resource {
        Resource::NetworkPolicy(policy) => namespaced(policy),
        Resource::GlobalNetworkPolicy(policy) if policy.spec.do_not_track || policy.spec.pre_dnat => {
            return Ok(None);
        }
        Resource::GlobalNetworkPolicy(policy) => global(policy),
        Resource::Profile(profile) => Ok(self::profile(profile)),
        _ => return Ok(None),
    };
    let mut faults = resource
        .validate()
        .err()
        .map_or_else(Vec::new, |invalid| invalid.faults);
    let source = source.map_err(|fault| {
        // Validation knows the same selectors, and may know of several faults; ours is named where it does not.
        let mut subject: Vec<FieldError> = faults
            .iter()
            .filter(|f| !f.field.contains('['))
            .cloned()
            .collect();
        if !subject.iter().any(|f| f.field == fault.field) {
            subject.push(fault);
        }
        InvalidPolicy {
            key: resource.key(),
            faults: subject,
        }
    })?;
    let ingress = rules("ingress", &source, source.ingress, &mut faults);
    let egress = rules("egress", &source, source.egress, &mut faults);
    let policy = CompiledPolicy {
        id: source.id,
        tier: source.tier.into(),
        order: source.order,
        selector: source.subject,
        applies_ingress: source.applies_ingress,
        applies_egress: source.applies_egress,
        ingress,
        egress,
    };
    Ok(Some(Compiled { policy, faults }))
}

/// The namespace of a policy.
struct Namespace<'a> {
    name: &'a str,
    /// All endpoints in it.
    endpoints: Selector,
}

/// What the three kinds have in common.
struct Source<'a> {
    id: PolicyId,
    /// Namespace that the peers of rules are restricted to where they name none.
    namespace: Option<Namespace<'a>>,
    tier: &'a str,
    order: Option<f64>,
    subject: Selector,
    applies_ingress: bool,
    applies_egress: bool,
    ingress: &'a [PolicyRule],
    egress: &'a [PolicyRule],
}

fn namespaced(policy: &Object<NetworkPolicySpec>) -> Result<Source<'_>, FieldError> {
    let (metadata, spec) = (&policy.metadata, &policy.spec);
    if metadata.namespace.is_empty() {
        return Err(FieldError::new(
            "metadata.namespace",
            "is missing; a NetworkPolicy lives in one",
        ));
    }
    let (applies_ingress, applies_egress) = directions(&spec.types, &spec.ingress, &spec.egress);
    let namespace = Namespace {
        name: &metadata.namespace,
        endpoints: selector::of_namespace(&metadata.namespace),
    };
    Ok(Source {
        id: PolicyId::namespaced(&metadata.namespace, &metadata.name),
        tier: tier_name(&spec.tier),
        order: spec.order,
        subject: namespace
            .endpoints
            .and(&selector::endpoints(&"spec.selector", &spec.selector)?)
            .and(&selector::service_accounts(
                &"spec.serviceAccountSelector",
                &spec.service_account_selector,
            )?),
        namespace: Some(namespace),
        applies_ingress,
        applies_egress,
        ingress: &spec.ingress,
        egress: &spec.egress,
    })
}

fn global(policy: &Object<GlobalNetworkPolicySpec>) -> Result<Source<'_>, FieldError> {
    let spec = &policy.spec;
    let mut subject = selector::endpoints(&"spec.selector", &spec.selector)?;
    if !spec.namespace_selector.is_empty() {
        subject = subject.and(&selector::namespaces(
            &"spec.namespaceSelector",
            &spec.namespace_selector,
        )?);
    }
    subject = subject.and(&selector::service_accounts(
        &"spec.serviceAccountSelector",
        &spec.service_account_selector,
    )?);
    let (applies_ingress, applies_egress) = directions(&spec.types, &spec.ingress, &spec.egress);
    Ok(Source {
        id: PolicyId::global(&policy.metadata.name),
        namespace: None,
        tier: tier_name(&spec.tier),
        order: spec.order,
        subject,
        applies_ingress,
        applies_egress,
        ingress: &spec.ingress,
        egress: &spec.egress,
    })
}

fn profile(profile: &Object<ProfileSpec>) -> Source<'_> {
    Source {
        id: PolicyId::profile(&profile.metadata.name),
        namespace: None,
        tier: "",
        order: None,
        // Endpoints name their profiles; nothing is selected.
        subject: Selector::from_expr(Expr::All.negated()),
        applies_ingress: true,
        applies_egress: true,
        ingress: &profile.spec.ingress,
        egress: &profile.spec.egress,
    }
}

fn tier_name(written: &str) -> &str {
    if written.is_empty() { DEFAULT_TIER } else { written }
}

/// The directions that a policy applies to: ingress and egress.
///
/// Where none is written the rules say it, as the API's specification has it: egress rules alone make a policy of
/// egress alone, and a policy without any rules is one of ingress. (Kubernetes' own default is another; its
/// translation writes the types down.)
fn directions(types: &[PolicyType], ingress: &[PolicyRule], egress: &[PolicyRule]) -> (bool, bool) {
    if types.is_empty() {
        (!ingress.is_empty() || egress.is_empty(), !egress.is_empty())
    } else {
        (
            types.contains(&PolicyType::Ingress),
            types.contains(&PolicyType::Egress),
        )
    }
}

/// Compiles the rules of one direction; rules with faults are closed, and faults found here are added.
fn rules(
    direction: &str,
    source: &Source<'_>,
    list: &[PolicyRule],
    faults: &mut Vec<FieldError>,
) -> Vec<Rule<AddressSet>> {
    let faulty = faulty_rules(direction, faults);
    let mut compiled = Vec::with_capacity(list.len());
    for (index, written) in list.iter().enumerate() {
        if faulty.contains(&index) {
            compiled.extend(rule::closed(written.action, index));
            continue;
        }
        let at = format_args!("spec.{direction}[{index}]");
        match rule::compile(&at, written, index, source.namespace.as_ref()) {
            Ok(done) => {
                compiled.extend(done.rule);
                faults.extend(done.fault);
            }
            Err(fault) => {
                compiled.extend(rule::closed(written.action, index));
                faults.push(fault);
            }
        }
    }
    compiled
}

/// Positions of the rules of one direction that validation found a fault in.
fn faulty_rules(direction: &str, faults: &[FieldError]) -> BTreeSet<usize> {
    if faults.is_empty() {
        return BTreeSet::new();
    }
    let prefix = format!("spec.{direction}[");
    let position = |fault: &FieldError| {
        let rest = fault.field.strip_prefix(&prefix)?;
        rest.split_once(']')?.0.parse().ok()
    };
    faults.iter().filter_map(position).collect()
}

#[cfg(test)]
mod tests;
