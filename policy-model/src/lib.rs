//! The language: every resource kind that Manx knows, its serialised form and its validation.
//!
//! The serialised field names are those of `projectcalico.org/v3`, so that manifests written for that API apply
//! here. The crate is pure: no file, socket, clock or thread. Values are parsed at the edge ([`Resource::parse`])
//! and trusted inside.

mod attributes;
mod bgp;
mod cluster;
mod config;
mod decode;
mod endpoint;
mod error;
mod host_endpoint;
mod ipam;
mod key;
mod meta;
mod net;
mod network_set;
mod node;
mod policy;
mod pool;
mod port;
mod profile;
mod protocol;
mod resource;
mod service;
mod tier;
mod uninstall;
mod validate;

pub use attributes::Attributes;
pub use bgp::{BgpConfigurationSpec, BgpPeerSpec, PrefixAdvertisement, ServiceBlock};
pub use cluster::ClusterInformationSpec;
pub use config::FelixConfigurationSpec;
pub use decode::decode;
pub use endpoint::{EndpointPort, IpNat, WorkloadEndpointSpec};
pub use error::{FieldError, InvalidResource};
pub use host_endpoint::HostEndpointSpec;
pub use ipam::{
    AffinityState, AllocationAttribute, BlockAffinitySpec, IpReservationSpec, IpamBlockSpec, IpamConfigSpec,
    IpamHandleSpec,
};
pub use key::{Key, Kind};
pub use meta::{Metadata, Object};
pub use net::{InvalidNet, parse_net};
pub use network_set::NetworkSetSpec;
pub use node::{NodeAddress, NodeBgpSpec, NodeSpec, OrchRef};
pub use policy::{
    Action, EntityRule, GlobalNetworkPolicySpec, HttpMatch, HttpPath, Icmp, NetworkPolicySpec, PolicyRule,
    PolicyType, RuleMetadata, ServiceAccountMatch, ServiceMatch,
};
pub use pool::{EncapsulationMode, IpPoolSpec};
pub use port::{InvalidPort, Port, PortRange};
pub use profile::ProfileSpec;
pub use protocol::{InvalidProtocol, Protocol};
pub use resource::{GlobalSet, ParsedResource, Resource};
pub use service::{ServiceEndpointsSpec, ServicePort};
pub use tier::{DefaultAction, TierSpec};
pub use uninstall::{
    InvalidUninstall, UNINSTALL_FORCE, UNINSTALL_ORDER, UNINSTALL_REPORT, UninstallOrder, UninstallReport,
    UninstallState,
};

/// The API group and version that our resources are written in.
pub const API_VERSION: &str = "projectcalico.org/v3";
/// Label that every workload endpoint carries: its namespace.
pub const LABEL_NAMESPACE: &str = "projectcalico.org/namespace";
/// Label that every workload endpoint carries: who runs it (`k8s`).
pub const LABEL_ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
/// Label that a workload endpoint carries when its service account is known.
pub const LABEL_SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// Prefix of a namespace's labels on the profile that its endpoints inherit from.
pub const NAMESPACE_LABEL_PREFIX: &str = "pcns.";
/// Prefix of a service account's labels on the profile that its endpoints inherit from.
pub const SERVICE_ACCOUNT_LABEL_PREFIX: &str = "pcsa.";
/// Label, unprefixed, that holds a namespace's own name in its profile (`pcns.projectcalico.org/name`).
pub const LABEL_NAME: &str = "projectcalico.org/name";
/// Prefix of the name of a namespace's profile.
pub const NAMESPACE_PROFILE_PREFIX: &str = "kns.";
/// Prefix of the name of a service account's profile (`ksa.<namespace>.<name>`).
pub const SERVICE_ACCOUNT_PROFILE_PREFIX: &str = "ksa.";
/// Name of the tier of policies that name none.
pub const DEFAULT_TIER: &str = "default";
/// Order of the default tier where it is not written down.
pub const DEFAULT_TIER_ORDER: f64 = 1_000_000.0;
/// Prefix of the names of policies translated from Kubernetes' NetworkPolicy.
pub const KUBERNETES_POLICY_PREFIX: &str = "knp.default.";
/// Order of policies translated from Kubernetes' NetworkPolicy.
pub const KUBERNETES_POLICY_ORDER: f64 = 1000.0;
