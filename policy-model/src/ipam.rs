//! The bookkeeping of addresses: blocks, affinities, handles, reservations and settings.
//!
//! The transitions between such values are in the crate `policy-model-ipam`.

use crate::Attributes;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A block: a small range of a pool, usually affine to one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamBlockSpec {
    /// The range.
    pub cidr: IpNet,
    /// `host:<node>`, or absent for a block that no node owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// Whether only the owner may take addresses.
    #[serde(default)]
    pub strict_affinity: bool,
    /// For each ordinal the index into `attributes`, or nothing where it is free.
    pub allocations: Vec<Option<u32>>,
    /// Free ordinals, in the order in which they will be given.
    pub unallocated: Vec<u32>,
    /// Who holds the addresses.
    #[serde(default)]
    pub attributes: Vec<AllocationAttribute>,
    /// Grows with each change, so that an address given again can be told from the same one before.
    #[serde(default)]
    pub sequence_number: u64,
    /// For each taken ordinal (as decimal text) the sequence number at which it was given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,
    /// Whether the block is about to be deleted; nothing may be taken from it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub deleted: bool,
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// Who holds an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AllocationAttribute {
    /// Handle by which it is released, usually `<network>.<containerID>`.
    #[serde(default, rename = "handle_id", skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// `namespace`, `pod`, `node`, `timestamp`, `uid` and such.
    #[serde(default, rename = "secondary", skip_serializing_if = "Attributes::is_empty")]
    pub secondary: Attributes,
}

/// How far a claim on a block has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AffinityState {
    /// Wanted; gives no right yet.
    #[default]
    Pending,
    /// Owned.
    Confirmed,
    /// Being given back.
    PendingDeletion,
}

/// A node's claim on a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockAffinitySpec {
    /// How far the claim has come.
    pub state: AffinityState,
    /// Name of the node.
    pub node: String,
    /// The block.
    pub cidr: IpNet,
    /// `host` for nodes.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub affinity_type: String,
}

/// The blocks that hold addresses of one handle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamHandleSpec {
    /// The handle.
    #[serde(rename = "handleID")]
    pub handle_id: String,
    /// How many addresses in which block.
    #[serde(default)]
    pub block: BTreeMap<String, u32>,
}

/// Settings of address management.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamConfigSpec {
    /// Whether a node may take addresses only from its own blocks.
    #[serde(default)]
    pub strict_affinity: bool,
    /// Whether nodes claim blocks by themselves.
    #[serde(default = "yes")]
    pub auto_allocate_blocks: bool,
    /// Most blocks that a node may own; 0 means 20.
    #[serde(default)]
    pub max_blocks_per_host: u32,
}

fn yes() -> bool {
    true
}

impl Default for IpamConfigSpec {
    fn default() -> Self {
        IpamConfigSpec {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
        }
    }
}

/// Addresses of pools that are never assigned by themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpReservationSpec {
    /// The ranges.
    #[serde(default, rename = "reservedCIDRs", deserialize_with = "crate::net::matched")]
    pub reserved_cidrs: Vec<IpNet>,
}
