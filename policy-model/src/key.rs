//! The name under which the datastore keeps an object.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Every kind of object that the datastore holds.
///
/// The order is the reading order of the model and the order in which a listing shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)] // The names are the serialised kinds; the specification types say what each is.
pub enum Kind {
    Tier,
    NetworkPolicy,
    GlobalNetworkPolicy,
    Profile,
    WorkloadEndpoint,
    HostEndpoint,
    NetworkSet,
    GlobalNetworkSet,
    ServiceEndpoints,
    IPPool,
    IPReservation,
    IPAMBlock,
    BlockAffinity,
    IPAMHandle,
    IPAMConfig,
    Node,
    FelixConfiguration,
    ClusterInformation,
    BGPConfiguration,
    BGPPeer,
}

impl Kind {
    /// All kinds, in their order.
    pub const ALL: [Kind; 20] = [
        Kind::Tier,
        Kind::NetworkPolicy,
        Kind::GlobalNetworkPolicy,
        Kind::Profile,
        Kind::WorkloadEndpoint,
        Kind::HostEndpoint,
        Kind::NetworkSet,
        Kind::GlobalNetworkSet,
        Kind::ServiceEndpoints,
        Kind::IPPool,
        Kind::IPReservation,
        Kind::IPAMBlock,
        Kind::BlockAffinity,
        Kind::IPAMHandle,
        Kind::IPAMConfig,
        Kind::Node,
        Kind::FelixConfiguration,
        Kind::ClusterInformation,
        Kind::BGPConfiguration,
        Kind::BGPPeer,
    ];

    /// The serialised name, as in a manifest's `kind` field.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Tier => "Tier",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Kind::Profile => "Profile",
            Kind::WorkloadEndpoint => "WorkloadEndpoint",
            Kind::HostEndpoint => "HostEndpoint",
            Kind::NetworkSet => "NetworkSet",
            Kind::GlobalNetworkSet => "GlobalNetworkSet",
            Kind::ServiceEndpoints => "ServiceEndpoints",
            Kind::IPPool => "IPPool",
            Kind::IPReservation => "IPReservation",
            Kind::IPAMBlock => "IPAMBlock",
            Kind::BlockAffinity => "BlockAffinity",
            Kind::IPAMHandle => "IPAMHandle",
            Kind::IPAMConfig => "IPAMConfig",
            Kind::Node => "Node",
            Kind::FelixConfiguration => "FelixConfiguration",
            Kind::ClusterInformation => "ClusterInformation",
            Kind::BGPConfiguration => "BGPConfiguration",
            Kind::BGPPeer => "BGPPeer",
        }
    }

    /// The lower-case plural, as in a command line or a folder's name.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Tier => "tiers",
            Kind::NetworkPolicy => "networkpolicies",
            Kind::GlobalNetworkPolicy => "globalnetworkpolicies",
            Kind::Profile => "profiles",
            Kind::WorkloadEndpoint => "workloadendpoints",
            Kind::HostEndpoint => "hostendpoints",
            Kind::NetworkSet => "networksets",
            Kind::GlobalNetworkSet => "globalnetworksets",
            Kind::ServiceEndpoints => "serviceendpoints",
            Kind::IPPool => "ippools",
            Kind::IPReservation => "ipreservations",
            Kind::IPAMBlock => "ipamblocks",
            Kind::BlockAffinity => "blockaffinities",
            Kind::IPAMHandle => "ipamhandles",
            Kind::IPAMConfig => "ipamconfigs",
            Kind::Node => "nodes",
            Kind::FelixConfiguration => "felixconfigurations",
            Kind::ClusterInformation => "clusterinformations",
            Kind::BGPConfiguration => "bgpconfigurations",
            Kind::BGPPeer => "bgppeers",
        }
    }

    /// Whether objects of this kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        matches!(
            self,
            Kind::NetworkPolicy | Kind::NetworkSet | Kind::WorkloadEndpoint | Kind::ServiceEndpoints
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Kind::ALL
            .into_iter()
            .find(|k| k.as_str() == text)
            .ok_or_else(|| format!("unknown kind '{text}'"))
    }
}

/// Kind, namespace (empty for cluster-scoped kinds) and name of one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Kind of the object.
    pub kind: Kind,
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// The key of a cluster-scoped object.
    pub fn global(kind: Kind, name: impl Into<String>) -> Self {
        Key {
            kind,
            namespace: String::new(),
            name: name.into(),
        }
    }

    /// The key of an object in a namespace.
    pub fn namespaced(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Key {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}
