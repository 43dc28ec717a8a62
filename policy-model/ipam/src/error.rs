//! Why a request failed, in words that tell a person what to change.

use crate::address::Family;
use crate::block::{self, NotAssigned};
use crate::pool::{PoolRef, Refusal};
use ipnet::IpNet;
use policy_model::{AllocationAttribute, Key};
use std::fmt;
use std::net::IpAddr;

/// Why a pool that may serve a request has no address for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolShortage {
    /// Name of the pool.
    pub pool: String,
    /// Its range.
    pub cidr: IpNet,
    /// Number of blocks that exist in it.
    pub blocks: usize,
    /// Number of those that the asking node owns.
    pub own: usize,
    /// Whether the range still has room for another block.
    pub has_room: bool,
    /// Number of addresses that are free in blocks of other nodes, which strict affinity keeps out of reach.
    pub free_elsewhere: usize,
}

impl fmt::Display for PoolShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PoolShortage {
            pool,
            cidr,
            blocks,
            own,
            has_room,
            free_elsewhere,
        } = self;
        write!(
            f,
            "pool {pool} ({cidr}): {blocks} blocks, {own} of them this node's, all full or reserved"
        )?;
        f.write_str(if *has_room {
            ", room for more blocks"
        } else {
            ", no room for another block"
        })?;
        if *free_elsewhere > 0 {
            write!(f, ", {free_elsewhere} addresses free in blocks of other nodes")?;
        }
        Ok(())
    }
}

/// Why a request of address management failed. Nothing that a failed request took stays taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// The request names no handle.
    #[error("an address cannot be given without a handle to release it by")]
    NoHandle,
    /// The cluster has no pool of the family.
    #[error("no {family} address for node {node}: there is no {family} IP pool")]
    NoPools {
        /// The family.
        family: Family,
        /// The node.
        node: String,
    },
    /// There are pools, but none may serve.
    #[error("no {family} address for node {node}: no IP pool may serve it: {}", list_refused(.refused))]
    NoUsablePool {
        /// The family.
        family: Family,
        /// The node.
        node: String,
        /// Each pool, and why it may not.
        refused: Vec<(String, Refusal)>,
    },
    /// A pool that was asked for may not serve.
    #[error("the requested IP pool {pool} {refusal}")]
    RequestedPool {
        /// The pool as it was asked for.
        pool: PoolRef,
        /// Why it may not.
        refusal: Refusal,
    },
    /// No pool has an address left.
    #[error(
        "no {family} address for node {node}: {}{}{}",
        list(.pools),
        if *.strict { "; strict affinity forbids borrowing" } else { "" },
        if .refused.is_empty() { String::new() } else { format!("; not usable: {}", list_refused(.refused)) }
    )]
    Exhausted {
        /// The family.
        family: Family,
        /// The node.
        node: String,
        /// The pools that were tried.
        pools: Vec<PoolShortage>,
        /// The pools that may not serve, and why.
        refused: Vec<(String, Refusal)>,
        /// Whether the node may not borrow.
        strict: bool,
    },
    /// The node's blocks are full and it may not own another.
    #[error(
        "no {family} address for node {node}: it owns {owned} blocks and may own {limit} (maxBlocksPerHost): {}",
        list(.pools)
    )]
    MaxBlocks {
        /// The family.
        family: Family,
        /// The node.
        node: String,
        /// How many it owns.
        owned: usize,
        /// How many it may own.
        limit: u32,
        /// The pools that were tried.
        pools: Vec<PoolShortage>,
    },
    /// The node's blocks are full, and the settings forbid both claiming and borrowing.
    #[error("no {family} address for node {node}: its blocks are full and autoAllocateBlocks is off: {}", list(.pools))]
    ClaimsDisabled {
        /// The family.
        family: Family,
        /// The node.
        node: String,
        /// The pools that were tried.
        pools: Vec<PoolShortage>,
    },
    /// An address that was asked for lies in no pool.
    #[error("the requested address {address} is in no IP pool")]
    OutsidePools {
        /// The address.
        address: IpAddr,
    },
    /// An address that was asked for lies in a pool that may not serve.
    #[error("the requested address {address} is in IP pool {pool}, which {refusal}")]
    PoolRefused {
        /// The address.
        address: IpAddr,
        /// The pool.
        pool: String,
        /// Why it may not serve.
        refusal: Refusal,
    },
    /// An address that was asked for, or that was handed over, is somebody else's.
    #[error("the address {address} is taken by {}", block::describe(.holder))]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who holds it.
        holder: Box<AllocationAttribute>,
    },
    /// An address that should become a pod's is not held by the node's reserve.
    #[error("the address {address} is not reserved by node {node}")]
    NotReserved {
        /// The address.
        address: IpAddr,
        /// The node.
        node: String,
    },
    /// Strict affinity keeps a node from an address of another's block.
    #[error(
        "the requested address {address} is in block {cidr} of {}, and strict affinity forbids node {node} to take it",
        .owner.as_ref().map_or_else(|| String::from("no node"), |o| format!("node {o}"))
    )]
    NotAffine {
        /// The address.
        address: IpAddr,
        /// The block.
        cidr: IpNet,
        /// The node that owns it.
        owner: Option<String>,
        /// The node that asks.
        node: String,
    },
    /// A block of another size lies where one would have to be made.
    #[error("block {cidr} cannot be made: block {existing} overlaps it (was the pool's blockSize changed?)")]
    OverlappingBlock {
        /// The block that would have to be made.
        cidr: IpNet,
        /// The block that is there.
        existing: IpNet,
    },
    /// A block contradicts itself or is being deleted.
    #[error("block {cidr} cannot be used: it is damaged or about to be deleted")]
    BrokenBlock {
        /// The block.
        cidr: IpNet,
    },
    /// Others changed the same objects too often.
    #[error("gave up on {key} after {tries} conflicting writes")]
    TooManyConflicts {
        /// The object of the last conflict.
        key: Key,
        /// How many conflicts there were.
        tries: u32,
    },
    /// The request did not end; somebody undoes what it does.
    #[error("gave up after {steps} steps")]
    TooManySteps {
        /// How many steps were made.
        steps: usize,
    },
}

impl From<NotAssigned> for IpamError {
    fn from(error: NotAssigned) -> Self {
        match error {
            NotAssigned::Outside { address, .. } => IpamError::OutsidePools { address },
            NotAssigned::Taken { address, holder } => IpamError::Taken { address, holder },
        }
    }
}

fn list(pools: &[PoolShortage]) -> String {
    pools
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

fn list_refused(refused: &[(String, Refusal)]) -> String {
    refused
        .iter()
        .map(|(pool, refusal)| format!("pool {pool} {refusal}"))
        .collect::<Vec<_>>()
        .join("; ")
}
