//! Endpoints of this node, with the policies that apply to them in order.

use ipnet::IpNet;
use policy_model::DefaultAction;
use policy_model_rules::{PolicyId, TierId};
use std::net::IpAddr;
use std::sync::Arc;

/// Identifies a workload endpoint: namespace and name of the resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// A workload endpoint of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadEndpoint {
    /// Which endpoint.
    pub id: EndpointId,
    /// Interface on the node.
    pub interface: String,
    /// Hardware address inside the workload, where it is fixed or known.
    pub mac: Option<[u8; 6]>,
    /// Its addresses, sorted.
    pub addresses: Vec<IpAddr>,
    /// Networks beside its addresses that it may send from, sorted.
    pub spoofable: Vec<IpNet>,
    /// Tiers with policies that apply to traffic to the endpoint, in order. A tier stands here only where it has such
    /// a policy; only then does its default action apply.
    pub ingress: Vec<TierPolicies>,
    /// The same for traffic from the endpoint.
    pub egress: Vec<TierPolicies>,
    /// Profiles, in order; they decide what no tier decided. One that was never sent denies: what is not known is
    /// not open.
    pub profiles: Vec<PolicyId>,
}

/// The policies of one tier that apply to an endpoint in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TierPolicies {
    /// Name of the tier.
    pub tier: TierId,
    /// What happens to traffic that none of the policies decides.
    pub default_action: DefaultAction,
    /// The policies, in order. Never empty.
    pub policies: Vec<PolicyId>,
}
