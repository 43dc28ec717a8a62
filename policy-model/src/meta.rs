//! What every object carries: its name, namespace, labels and annotations.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The metadata of an object. Only what Manx uses is kept; times and managed fields are not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name, unique among the objects of its kind (and namespace).
    #[serde(default)]
    pub name: String,
    /// Namespace; empty for cluster-scoped kinds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Labels, which selectors match.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations, which carry requests such as `cni.projectcalico.org/ipAddrs`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Identity that survives no re-creation under the same name; empty where the origin has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// A named value: metadata and the specification of its kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Object<S> {
    /// Name, namespace, labels, annotations.
    pub metadata: Metadata,
    /// What the object says.
    pub spec: S,
}

impl<S> Object<S> {
    /// Makes an object from a name and a specification, without namespace, labels or annotations.
    pub fn named(name: impl Into<String>, spec: S) -> Self {
        Object {
            metadata: Metadata {
                name: name.into(),
                ..Metadata::default()
            },
            spec,
        }
    }

    /// Makes an object in a namespace.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>, spec: S) -> Self {
        Object {
            metadata: Metadata {
                name: name.into(),
                namespace: namespace.into(),
                ..Metadata::default()
            },
            spec,
        }
    }
}
