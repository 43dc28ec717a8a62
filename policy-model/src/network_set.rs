//! Network sets: networks with labels, so that selectors can name what is outside the cluster.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A set of networks, of a namespace or of the whole cluster. Its labels stand in the object's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSetSpec {
    /// The networks. Duplicates and overlaps are fine.
    #[serde(
        default,
        deserialize_with = "crate::net::matched",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub nets: Vec<IpNet>,
}
