//! Workload endpoints: one interface of one pod.

use crate::protocol::Protocol;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A workload endpoint. Its labels stand in the object's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEndpointSpec {
    /// Who runs it: `k8s`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub orchestrator: String,
    /// Name of the workload where the orchestrator is not Kubernetes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// Name of the node that it runs on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Sandbox that the interface belongs to.
    #[serde(default, rename = "containerID", skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    /// Name of the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// Name of the interface inside the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Service account that the pod runs as.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_account_name: String,
    /// Addresses. Empty where the node's address blocks say them.
    #[serde(
        default,
        rename = "ipNetworks",
        deserialize_with = "crate::net::addresses",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub ip_networks: Vec<IpNet>,
    /// Floating addresses, translated one to one.
    #[serde(default, rename = "ipNATs", skip_serializing_if = "Vec::is_empty")]
    pub ip_nats: Vec<IpNat>,
    /// Gateway inside the pod, where it is not the link-local one.
    #[serde(default, rename = "ipv4Gateway", skip_serializing_if = "Option::is_none")]
    pub ipv4_gateway: Option<IpAddr>,
    /// Gateway inside the pod, where it is not the link-local one.
    #[serde(default, rename = "ipv6Gateway", skip_serializing_if = "Option::is_none")]
    pub ipv6_gateway: Option<IpAddr>,
    /// Profiles, in the order in which labels are inherited and rules are met.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Name of the interface on the node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface_name: String,
    /// Hardware address inside the pod, where it is fixed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Ports that the endpoint declares; rules may use their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPort>,
    /// Source networks, beside its own addresses, that it may send from.
    #[serde(
        default,
        deserialize_with = "crate::net::matched",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub allow_spoofed_source_prefixes: Vec<IpNet>,
}

/// A port that an endpoint declares.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPort {
    /// Name that rules use; may be empty for a port that is only mapped or only listed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
    /// Port of the node that leads here; 0 means none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub host_port: u16,
    /// Address of the node that `host_port` is bound to; empty means all.
    #[serde(default, rename = "hostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

fn is_zero(value: &u16) -> bool {
    *value == 0
}

/// A one-to-one translation of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpNat {
    /// The endpoint's own address.
    #[serde(rename = "internalIP")]
    pub internal_ip: IpAddr,
    /// The address that others use.
    #[serde(rename = "externalIP")]
    pub external_ip: IpAddr,
}
