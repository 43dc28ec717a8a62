//! Makes a typed object of a document's value, and refuses what the API server would refuse.
//!
//! Kubernetes' own types accept more than the API server does (an unknown field, a port of 70000, a selector whose
//! operator nobody knows); what they let through would be enforced as something that nobody wrote. So every field of
//! a manifest must be known, and everything that decides about traffic is checked.

mod check;
mod check_pod;
mod check_policy;
mod identity;
mod read;

pub(crate) use check::address;
pub(crate) use check_policy::{egress_rule as check_egress_rule, ingress_rule as check_ingress_rule};
pub(crate) use check_policy::{policy_subject as check_subject, policy_type as is_policy_type};

pub use identity::ManifestId;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use policy_model::{FieldError, Resource};
use serde_json::Value;
use std::fmt;

/// An object of a manifest, valid in itself. Namespaced objects have a namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum Manifest {
    /// A namespace: labels for selectors.
    Namespace(Box<Namespace>),
    /// A service account: labels for selectors.
    ServiceAccount(Box<ServiceAccount>),
    /// A pod: an endpoint.
    Pod(Box<Pod>),
    /// A node: addresses.
    Node(Box<Node>),
    /// A Service. Nothing is made of it by itself.
    Service(Box<Service>),
    /// Addresses and ports behind a Service.
    EndpointSlice(Box<EndpointSlice>),
    /// A policy.
    NetworkPolicy(Box<NetworkPolicy>),
    /// An object that is written in our own language.
    Resource(Box<Resource>),
    /// An object that says nothing about the network.
    Ignored {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
        /// Its name, empty where it has none.
        name: String,
    },
}

/// A document that is no valid object.
#[derive(Clone, Debug, PartialEq)]
pub struct InvalidManifest {
    /// Which object it would be; `None` where kind, namespace or name cannot be told.
    pub id: Option<Box<ManifestId>>,
    /// What people call it: `NetworkPolicy shop/web`, as far as the document says.
    pub subject: String,
    /// Every fault that was found. Never empty.
    pub faults: Vec<FieldError>,
    /// For a policy whose subject is sound: the policy without the rules that are not. It allows less than was
    /// meant, never more; it serves where no valid form of the policy was ever in force.
    pub remainder: Option<Box<Manifest>>,
}

impl std::error::Error for InvalidManifest {}

impl fmt::Display for InvalidManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subject)?;
        for (n, fault) in self.faults.iter().enumerate() {
            write!(f, "{} {fault}", if n == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl Manifest {
    /// Reads an object from a document's value.
    ///
    /// # Errors
    /// Every fault that was found; of several values of a wrong type, one outside of policy rules hides the others.
    pub fn parse(value: Value) -> Result<Manifest, InvalidManifest> {
        read::manifest(value)
    }

    /// Which object this is; `None` for what is ignored.
    pub fn id(&self) -> Option<ManifestId> {
        let of = |group: &str, kind: &str, metadata: &ObjectMeta| {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            Some(ManifestId::new(
                group,
                kind,
                text(&metadata.namespace),
                text(&metadata.name),
            ))
        };
        match self {
            Manifest::Namespace(o) => of("", "Namespace", &o.metadata),
            Manifest::ServiceAccount(o) => of("", "ServiceAccount", &o.metadata),
            Manifest::Pod(o) => of("", "Pod", &o.metadata),
            Manifest::Node(o) => of("", "Node", &o.metadata),
            Manifest::Service(o) => of("", "Service", &o.metadata),
            Manifest::EndpointSlice(o) => of("discovery.k8s.io", "EndpointSlice", &o.metadata),
            Manifest::NetworkPolicy(o) => of("networking.k8s.io", "NetworkPolicy", &o.metadata),
            Manifest::Resource(o) => {
                let metadata = o.metadata();
                let (namespace, name) = (metadata.namespace.clone(), metadata.name.clone());
                Some(ManifestId::new(
                    identity::OUR_GROUP,
                    o.kind().as_str(),
                    namespace,
                    name,
                ))
            }
            Manifest::Ignored { .. } => None,
        }
    }
}
