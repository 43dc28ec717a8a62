//! A policy after compilation: its place in the order, whom it selects, and its rules.

use crate::rule::Rule;
use policy_model_selector::Selector;
use std::fmt;
use std::sync::Arc;

/// Name of a tier.
pub type TierId = Arc<str>;

/// Which kind of resource a policy came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// A policy of a namespace.
    Namespaced,
    /// A policy of the whole cluster.
    Global,
    /// A profile: met after all tiers.
    Profile,
}

/// Identifies a policy or profile. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId {
    /// Which kind of resource it came from.
    pub kind: PolicyKind,
    /// Namespace, empty for global policies and profiles.
    pub namespace: Arc<str>,
    /// Name of the resource (for a translated Kubernetes policy with its `knp.default.` prefix).
    pub name: Arc<str>,
}

impl PolicyId {
    /// The identity of a policy in a namespace.
    pub fn namespaced(namespace: &str, name: &str) -> Self {
        PolicyId {
            kind: PolicyKind::Namespaced,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The identity of a policy of the whole cluster.
    pub fn global(name: &str) -> Self {
        PolicyId {
            kind: PolicyKind::Global,
            namespace: "".into(),
            name: name.into(),
        }
    }

    /// The identity of a profile.
    pub fn profile(name: &str) -> Self {
        PolicyId {
            kind: PolicyKind::Profile,
            namespace: "".into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            PolicyKind::Namespaced => write!(f, "{}/{}", self.namespace, self.name),
            PolicyKind::Global => f.write_str(&self.name),
            PolicyKind::Profile => write!(f, "profile {}", self.name),
        }
    }
}

/// A policy or profile, ready to be enforced. `A` is how its rules refer to sets of addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledPolicy<A> {
    /// Which policy this is.
    pub id: PolicyId,
    /// Tier; the empty name for profiles.
    pub tier: TierId,
    /// Order within the tier; `None` comes last. Ties go by name, then by namespace.
    pub order: Option<f64>,
    /// The endpoints that it selects, namespace and service account included. A profile's selects nothing: endpoints
    /// name their profiles.
    pub selector: Selector,
    /// Whether it applies to traffic to the endpoint. With no rule that matches, the tier's default action decides.
    pub applies_ingress: bool,
    /// Whether it applies to traffic from the endpoint.
    pub applies_egress: bool,
    /// Rules for traffic to the endpoint.
    pub ingress: Vec<Rule<A>>,
    /// Rules for traffic from the endpoint.
    pub egress: Vec<Rule<A>>,
}
