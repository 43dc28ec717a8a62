//! Tiers: ordered groups of policies, each with what happens to traffic that its policies leave undecided.

use serde::{Deserialize, Serialize};

/// What a tier does with traffic of an endpoint that it applies to, when none of its rules decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DefaultAction {
    /// Refuse.
    #[default]
    Deny,
    /// Leave the decision to the next tier or the profiles.
    Pass,
}

/// A tier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TierSpec {
    /// Position among the tiers, smaller first; absent comes last. Ties go by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<f64>,
    /// What happens to undecided traffic; absent means Deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_action: Option<DefaultAction>,
}
