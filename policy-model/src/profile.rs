//! Profiles: labels that endpoints inherit, and rules for endpoints that no policy decided.

use crate::policy::PolicyRule;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A profile. Namespaces and service accounts become profiles (`kns.` and `ksa.` names).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileSpec {
    /// Rules for traffic to endpoints of this profile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<PolicyRule>,
    /// Rules for traffic from endpoints of this profile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<PolicyRule>,
    /// Labels that endpoints of this profile inherit; an endpoint's own labels win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels_to_apply: BTreeMap<String, String>,
}
