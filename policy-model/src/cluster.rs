//! What the cluster says of itself.

use serde::{Deserialize, Serialize};

/// Facts about the cluster, written by the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInformationSpec {
    /// Identity of the cluster.
    #[serde(default, rename = "clusterGUID", skip_serializing_if = "String::is_empty")]
    pub cluster_guid: String,
    /// What it is made of, such as `k8s`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_type: String,
    /// Version of the network.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub calico_version: String,
    /// Whether agents may use the datastore; absent means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore_ready: Option<bool>,
}
