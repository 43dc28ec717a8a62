//! What rules need of a Kubernetes Service: the addresses and ports behind it.

use crate::protocol::Protocol;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One EndpointSlice of a Service, reduced to what a rule's `services` match needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEndpointsSpec {
    /// Name of the Service; its namespace is the object's own.
    pub service: String,
    /// Addresses of the endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Ports; empty means that all are meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
}

/// A port of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServicePort {
    /// Name within the Service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Number on the endpoints.
    pub port: u16,
}
