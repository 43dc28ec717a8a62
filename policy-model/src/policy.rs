//! Policies: who they select, in which order, and their rules.

use crate::port::Port;
use crate::protocol::Protocol;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A direction that a policy applies to, seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PolicyType {
    /// Traffic to the endpoint.
    Ingress,
    /// Traffic from the endpoint.
    Egress,
}

/// What a rule does with a packet that it matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// Accept, and look no further.
    #[default]
    Allow,
    /// Refuse, and look no further.
    Deny,
    /// Skip the rest of this tier; the next tier, or the profiles after the last, decide.
    Pass,
    /// Report the packet and go on with the next rule.
    Log,
}

fn none<T>(value: &Option<T>) -> bool {
    value.is_none()
}

fn no(value: &bool) -> bool {
    !*value
}

/// A policy in a namespace: it selects endpoints of that namespace only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Tier; empty means the default tier.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tier: String,
    /// Position within the tier, smaller first; absent comes last. Ties go by name.
    #[serde(default, skip_serializing_if = "none")]
    pub order: Option<f64>,
    /// Which endpoints of the namespace; empty means all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Which service accounts' endpoints; empty means all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_account_selector: String,
    /// Directions; empty means those that have rules, and Ingress where neither has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<PolicyType>,
    /// Rules for traffic to the endpoint, first match decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<PolicyRule>,
    /// Rules for traffic from the endpoint, first match decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<PolicyRule>,
    /// Hints to the agents, such as `AssumeNeededOnEveryNode`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub performance_hints: Vec<String>,
}

/// A policy of the whole cluster: it selects workload and host endpoints anywhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalNetworkPolicySpec {
    /// Tier; empty means the default tier.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tier: String,
    /// Position within the tier, smaller first; absent comes last. Ties go by name.
    #[serde(default, skip_serializing_if = "none")]
    pub order: Option<f64>,
    /// Which endpoints; empty means all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Which namespaces' endpoints; empty means all, host endpoints included.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace_selector: String,
    /// Which service accounts' endpoints; empty means all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_account_selector: String,
    /// Directions; empty means those that have rules, and Ingress where neither has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<PolicyType>,
    /// Rules for traffic to the endpoint, first match decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<PolicyRule>,
    /// Rules for traffic from the endpoint, first match decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<PolicyRule>,
    /// Applies before connection tracking, host endpoints only.
    #[serde(default, skip_serializing_if = "no")]
    pub do_not_track: bool,
    /// Applies before destination NAT, host endpoints only.
    #[serde(default, rename = "preDNAT", skip_serializing_if = "no")]
    pub pre_dnat: bool,
    /// Applies to traffic that a host endpoint's node forwards.
    #[serde(default, skip_serializing_if = "no")]
    pub apply_on_forward: bool,
    /// Hints to the agents, such as `AssumeNeededOnEveryNode`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub performance_hints: Vec<String>,
}

/// One rule: it matches a packet when every part that is written matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRule {
    /// What happens to a packet that matches.
    pub action: Action,
    /// Restricts the rule to family 4 or 6.
    #[serde(default, rename = "ipVersion", skip_serializing_if = "none")]
    pub ip_version: Option<u8>,
    /// The packet's protocol.
    #[serde(default, skip_serializing_if = "none")]
    pub protocol: Option<Protocol>,
    /// A protocol that the packet must not have.
    #[serde(default, skip_serializing_if = "none")]
    pub not_protocol: Option<Protocol>,
    /// ICMP type and code; needs an ICMP protocol.
    #[serde(default, skip_serializing_if = "none")]
    pub icmp: Option<Icmp>,
    /// ICMP type and code that the packet must not have.
    #[serde(default, rename = "notICMP", skip_serializing_if = "none")]
    pub not_icmp: Option<Icmp>,
    /// Where the packet comes from.
    #[serde(default, skip_serializing_if = "EntityRule::is_empty")]
    pub source: EntityRule,
    /// Where the packet goes to.
    #[serde(default, skip_serializing_if = "EntityRule::is_empty")]
    pub destination: EntityRule,
    /// HTTP methods and paths; kept, enforced by a layer-7 proxy only.
    #[serde(default, skip_serializing_if = "none")]
    pub http: Option<HttpMatch>,
    /// Annotations that show up as comments.
    #[serde(default, skip_serializing_if = "none")]
    pub metadata: Option<RuleMetadata>,
}

/// An ICMP type, with or without a code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Icmp {
    /// Type, 0 to 254; absent matches every type.
    #[serde(default, rename = "type", skip_serializing_if = "none")]
    pub icmp_type: Option<u8>,
    /// Code; needs a type.
    #[serde(default, skip_serializing_if = "none")]
    pub code: Option<u8>,
}

/// One side of a rule: every part that is written must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntityRule {
    /// The address is in one of these networks.
    #[serde(
        default,
        deserialize_with = "crate::net::matched",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub nets: Vec<IpNet>,
    /// The address is in none of these networks.
    #[serde(
        default,
        deserialize_with = "crate::net::matched",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub not_nets: Vec<IpNet>,
    /// The address belongs to an endpoint or network set that this selects.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// The address belongs to nothing that this selects.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub not_selector: String,
    /// The namespaces that `selector` looks into.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace_selector: String,
    /// The endpoints' service accounts.
    #[serde(default, skip_serializing_if = "none")]
    pub service_accounts: Option<ServiceAccountMatch>,
    /// The endpoints (and, as a destination, the ports) of a Kubernetes Service.
    #[serde(default, skip_serializing_if = "none")]
    pub services: Option<ServiceMatch>,
    /// The port is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// The port is none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ports: Vec<Port>,
}

impl EntityRule {
    /// Whether nothing is written: such a side matches everything.
    pub fn is_empty(&self) -> bool {
        *self == EntityRule::default()
    }
}

/// Service accounts by name and by their labels; both must match where both are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccountMatch {
    /// Names, one of which the endpoint runs as.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Selector over the service accounts' labels.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
}

/// A Kubernetes Service by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceMatch {
    /// Name of the Service.
    pub name: String,
    /// Its namespace; empty means the policy's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// HTTP methods and paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpMatch {
    /// Methods, one of which the request has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Paths, one of which the request has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<HttpPath>,
}

/// A path, whole or by its beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HttpPath {
    /// The whole path.
    Exact(String),
    /// How the path begins.
    Prefix(String),
}

/// What a rule carries for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleMetadata {
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
