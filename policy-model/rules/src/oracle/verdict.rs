//! The answer: a verdict, who decided it and why.

use super::trace::Trace;
use crate::policy::CompiledPolicy;
use serde::{Serialize, Serializer};
use std::fmt;
use std::net::IpAddr;

/// Whether a flow may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        })
    }
}

/// A direction, seen from the endpoint whose policies are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the endpoint: the source's policies.
    Egress,
    /// To the endpoint: the destination's policies.
    Ingress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        })
    }
}

/// A policy, as verdicts name it. Written `tier/namespace/name`, or `tier/name` for one of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyRef {
    /// Tier.
    pub tier: String,
    /// Namespace; empty for a policy of the whole cluster.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl PolicyRef {
    pub(super) fn of<A>(policy: &CompiledPolicy<A>) -> Self {
        PolicyRef {
            tier: policy.tier.to_string(),
            namespace: policy.id.namespace.to_string(),
            name: policy.id.name.to_string(),
        }
    }
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PolicyRef {
            tier,
            namespace,
            name,
        } = self;
        if namespace.is_empty() {
            write!(f, "{tier}/{name}")
        } else {
            write!(f, "{tier}/{namespace}/{name}")
        }
    }
}

impl Serialize for PolicyRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A verdict with its grounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Whether the flow may be opened.
    pub verdict: Verdict,
    /// Whose policies decided: of a denied flow those that denied, of an allowed one the last that were asked. What a
    /// setting refuses is denied by the side that it is about. `None` where nobody was asked.
    pub side: Option<Direction>,
    /// The policy that decided. Where the end of a tier denied it is the last one of the tier that applies; where a
    /// profile decided there is none.
    pub policy: Option<PolicyRef>,
    /// Position of the rule that decided, in the policy's list of that direction; `None` where no rule matched.
    pub rule: Option<usize>,
    /// Why, as a sentence without its full stop.
    pub reason: String,
    /// The address that the flow was judged from; `None` where no address was needed or none was there.
    pub source: Option<IpAddr>,
    /// The address that the flow was judged to.
    pub destination: Option<IpAddr>,
    /// The way to the verdict.
    pub trace: Trace,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.verdict, self.reason)?;
        self.trace.fmt(f)
    }
}
