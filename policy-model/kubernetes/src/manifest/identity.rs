//! Which object a document speaks of, and which kinds of objects are known at all.

use serde_json::Value;
use std::fmt;

/// The API group of our own resources.
pub(super) const OUR_GROUP: &str = "projectcalico.org";
/// The API group under which the same resources are stored as custom resources.
const STORED_GROUP: &str = "crd.projectcalico.org";

/// Group, kind, namespace and name of an object. The version does not matter: it is a way to write the object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ManifestId {
    /// API group, empty for Kubernetes' core.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace, empty for objects of the whole cluster.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ManifestId {
    /// Makes an identity from its parts.
    pub fn new(group: &str, kind: &str, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ManifestId {
            group: group.into(),
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ManifestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// What a document says that it is.
pub(super) enum Family {
    Namespace,
    ServiceAccount,
    Pod,
    Node,
    Service,
    EndpointSlice,
    NetworkPolicy,
    /// A kind of our own language.
    Ours,
    /// A kind that says nothing about the network.
    Ignored,
}

/// Kinds of the groups that are known wholly, so that a misspelt kind is not taken for one to ignore.
const CORE_KINDS: [&str; 18] = [
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "Endpoints",
    "Event",
    "LimitRange",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "Service",
    "ServiceAccount",
    "List",
];
const NETWORKING_KINDS: [&str; 5] = [
    "Ingress",
    "IngressClass",
    "IPAddress",
    "NetworkPolicy",
    "ServiceCIDR",
];

impl Family {
    /// The family of an `apiVersion` and `kind`, with the group.
    ///
    /// # Errors
    /// The field and the reason, for a kind or version that nobody knows but that looks as if it mattered.
    pub(super) fn of(api_version: &str, kind: &str) -> Result<(Family, String), (&'static str, String)> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let wrong_version = |wanted: &str| {
            Err((
                "apiVersion",
                format!("'{api_version}' is not read for kind {kind}; write {wanted}"),
            ))
        };
        let unknown_kind = || Err(("kind", format!("'{kind}' is no kind of {api_version}")));
        let found = match (group, kind) {
            (OUR_GROUP, _) if version != "v3" => return wrong_version("projectcalico.org/v3"),
            (STORED_GROUP, _) if version != "v1" => return wrong_version("projectcalico.org/v3"),
            (OUR_GROUP | STORED_GROUP, _) => return Ok((Family::Ours, OUR_GROUP.to_string())),
            ("networking.k8s.io", "NetworkPolicy") if version == "v1" => Family::NetworkPolicy,
            // Left out, a policy would not isolate what it should.
            ("networking.k8s.io" | "extensions" | "", "NetworkPolicy") => {
                return wrong_version("networking.k8s.io/v1");
            }
            ("networking.k8s.io", other) if version == "v1" && !NETWORKING_KINDS.contains(&other) => {
                return unknown_kind();
            }
            ("discovery.k8s.io", "EndpointSlice") if version == "v1" => Family::EndpointSlice,
            ("discovery.k8s.io" | "", "EndpointSlice") => return wrong_version("discovery.k8s.io/v1"),
            ("discovery.k8s.io", _) if version == "v1" => return unknown_kind(),
            ("", "Namespace" | "ServiceAccount" | "Pod" | "Node" | "Service") if version != "v1" => {
                return wrong_version("v1");
            }
            ("", "Namespace") => Family::Namespace,
            ("", "ServiceAccount") => Family::ServiceAccount,
            ("", "Pod") => Family::Pod,
            ("", "Node") => Family::Node,
            ("", "Service") => Family::Service,
            ("", other) if !CORE_KINDS.contains(&other) => return unknown_kind(),
            _ => Family::Ignored,
        };
        Ok((found, group.to_string()))
    }

    /// Whether objects of this family live in a namespace; `None` where the kind itself must say.
    pub(super) fn is_namespaced(&self, kind: &str) -> bool {
        match self {
            Family::Namespace | Family::Node => false,
            Family::ServiceAccount
            | Family::Pod
            | Family::Service
            | Family::EndpointSlice
            | Family::NetworkPolicy => true,
            Family::Ours => kind
                .parse::<policy_model::Kind>()
                .is_ok_and(policy_model::Kind::is_namespaced),
            Family::Ignored => false,
        }
    }
}

/// What people call the object that a document speaks of, as far as the document says.
pub(super) fn subject(value: &Value) -> String {
    let text = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = text(value.get("kind"));
    let metadata = value.get("metadata");
    let namespace = text(metadata.and_then(|m| m.get("namespace")));
    let name = text(metadata.and_then(|m| m.get("name")));
    let kind = if kind.is_empty() { "object" } else { &kind };
    match (namespace.is_empty(), name.is_empty()) {
        (_, true) => format!("{kind} without a name"),
        (true, false) => format!("{kind} {name}"),
        (false, false) => format!("{kind} {namespace}/{name}"),
    }
}
