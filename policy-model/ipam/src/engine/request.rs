//! What can be asked of the engine, and what it answers.

use crate::address::Family;
use crate::block::Guard;
use crate::pool::{PoolRef, Use};
use crate::reservation::Reservations;
use crate::{handle, spread};
use ipnet::IpNet;
use policy_model::{AllocationAttribute, Attributes};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A request.
#[derive(Clone, Debug)]
pub enum Request {
    /// Any addresses. Answered by [`Outcome::Assigned`].
    AutoAssign(AutoAssign),
    /// Addresses that are named. Answered by [`Outcome::Assigned`].
    AssignSpecific(AssignSpecific),
    /// Makes addresses of a node's reserve into pods', and frees others, one write a block. Answered by
    /// [`Outcome::Recorded`].
    Record(Record),
    /// Frees every address of a handle. Answered by [`Outcome::Released`].
    ReleaseByHandle(String),
    /// Frees addresses that are named. Answered by [`Outcome::Released`].
    ReleaseAddresses(ReleaseAddresses),
    /// Gives blocks of a node back. Answered by [`Outcome::BlocksReleased`].
    ReleaseBlocks(ReleaseBlocks),
    /// Frees every address that is used on a node, its reserve and its tunnels', and gives back all of its blocks.
    /// For nodes that are gone. Answered by [`Outcome::Released`].
    ReleaseNode(String),
    /// Finishes what crashes left between blocks and affinities, in the whole cluster. Answered by
    /// [`Outcome::Repaired`].
    Repair,
}

impl Request {
    /// The handle that the request is about, where it is about one.
    pub fn handle(&self) -> Option<&str> {
        match self {
            Request::AutoAssign(r) => Some(&r.handle),
            Request::AssignSpecific(r) => Some(&r.handle),
            Request::ReleaseByHandle(handle) => Some(handle),
            Request::Record(_)
            | Request::ReleaseAddresses(_)
            | Request::ReleaseBlocks(_)
            | Request::ReleaseNode(_)
            | Request::Repair => None,
        }
    }
}

/// A request for any addresses.
///
/// What the handle already holds counts, so the same request asked again gets the same addresses.
#[derive(Clone, Debug)]
pub struct AutoAssign {
    /// How many IPv4 addresses the handle shall hold.
    pub ipv4: usize,
    /// How many IPv6 addresses the handle shall hold.
    pub ipv6: usize,
    /// The handle, not empty.
    pub handle: String,
    /// Namespace, pod, node, UID and such, kept beside each address (keys: [`crate::handle`]).
    pub attributes: Attributes,
    /// The node on which the addresses are used.
    pub node: String,
    /// Its labels.
    pub node_labels: BTreeMap<String, String>,
    /// Labels of the pod's namespace; nothing where the addresses are no pod's.
    pub namespace_labels: Option<BTreeMap<String, String>>,
    /// IPv4 pools that were asked for; empty means any.
    pub ipv4_pools: Vec<PoolRef>,
    /// IPv6 pools that were asked for; empty means any.
    pub ipv6_pools: Vec<PoolRef>,
    /// What the addresses are for.
    pub intended_use: Use,
    /// Most blocks of a family that the node may own, in place of the cluster's setting.
    pub max_blocks_per_host: Option<u32>,
    /// Whether to take only from own blocks, in place of the cluster's setting.
    pub strict_affinity: Option<bool>,
    /// What to do when there are fewer addresses.
    pub shortfall: Shortfall,
    /// Whether another node's block that has long been empty may be taken from it where there is no other room. False
    /// where only a node itself, and a controller, may change whose a block is.
    pub takes_abandoned: bool,
    /// Where the search for blocks begins; the node's own number spreads nodes over a pool.
    pub seed: u64,
}

impl AutoAssign {
    /// A request for one IPv4 address, with the cluster's settings and any pool.
    pub fn new(node: &str, handle: &str) -> Self {
        AutoAssign {
            ipv4: 1,
            ipv6: 0,
            handle: handle.to_owned(),
            attributes: Attributes::from([(handle::ATTRIBUTE_NODE, node.to_owned())]),
            node: node.to_owned(),
            node_labels: BTreeMap::new(),
            namespace_labels: None,
            ipv4_pools: Vec::new(),
            ipv6_pools: Vec::new(),
            intended_use: Use::Workload,
            max_blocks_per_host: None,
            strict_affinity: None,
            shortfall: Shortfall::Fail,
            takes_abandoned: true,
            seed: spread::of_text(node),
        }
    }

    /// A request that fills a node's reserve up to some addresses of each family, ahead of need.
    ///
    /// It takes what the node's own blocks have, claims a block only where they have nothing, and never borrows.
    pub fn reserve(node: &str, ipv4: usize, ipv6: usize) -> Self {
        AutoAssign {
            ipv4,
            ipv6,
            strict_affinity: Some(true),
            shortfall: Shortfall::Accept,
            ..AutoAssign::new(node, &handle::of_reserve(node))
        }
    }

    pub(crate) fn attribute(&self) -> AllocationAttribute {
        AllocationAttribute {
            handle_id: Some(self.handle.clone()),
            secondary: self.attributes.clone(),
        }
    }
}

/// What to do when there are fewer addresses than were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shortfall {
    /// Fail, and give back what was taken.
    #[default]
    Fail,
    /// Be content with at least one of each family that was asked for.
    Accept,
    /// Be content with what the own blocks have, if the handle then holds at least so many of each family. Otherwise
    /// claim a block, if there is a free range for one, and be content with at least one of each family.
    AcceptFrom(usize),
}

/// A request for addresses that are named: all of them or none.
///
/// Reservations do not matter here: that somebody names an address is what it was reserved for. Neither do a pool's
/// selectors, but it must be enabled.
///
/// An address of the node's own reserve is taken from it. The caller must have removed it from what it gives out by
/// itself, and must not put it back when the request fails: the address may then be free for others.
#[derive(Clone, Debug)]
pub struct AssignSpecific {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// The handle, not empty.
    pub handle: String,
    /// Namespace, pod, node, UID and such, kept beside each address.
    pub attributes: Attributes,
    /// The node on which the addresses are used.
    pub node: String,
    /// Whether to take only from own blocks, in place of the cluster's setting.
    pub strict_affinity: Option<bool>,
}

impl AssignSpecific {
    pub(crate) fn attribute(&self) -> AllocationAttribute {
        AllocationAttribute {
            handle_id: Some(self.handle.clone()),
            secondary: self.attributes.clone(),
        }
    }
}

/// An address of a node's reserve that a pod was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The address.
    pub address: IpAddr,
    /// Who holds it now.
    pub attribute: AllocationAttribute,
}

/// What a node gave out of its reserve and took back since the last record.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The node.
    pub node: String,
    /// Addresses that were given.
    pub given: Vec<Given>,
    /// Addresses that were taken back. An address that was taken back and given again may stand in both lists: it is
    /// freed of its old holder before it is given.
    pub freed: Vec<Target>,
    /// What the reserve gets in the same writes; nothing where it is full.
    pub refill: Refill,
}

/// More addresses for a node's reserve, out of its own blocks that are written anyway: as many as these have, up to so
/// many. A block costs the datastore the same whether one of its addresses changes or all do.
#[derive(Clone, Debug, Default)]
pub struct Refill {
    /// At most so many IPv4 addresses.
    pub ipv4: usize,
    /// At most so many IPv6 addresses.
    pub ipv6: usize,
    /// Ranges of the pools that serve the node; of others nothing is taken.
    pub ranges: Vec<IpNet>,
    /// Addresses that are never given by themselves.
    pub reservations: Reservations,
}

impl Refill {
    /// How many addresses of a family.
    pub(crate) fn of(&self, family: Family) -> usize {
        match family {
            Family::V4 => self.ipv4,
            Family::V6 => self.ipv6,
        }
    }
}

/// An address to free, with what must be found there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address.
    pub address: IpAddr,
    /// Who must hold it.
    pub guard: Guard,
}

/// Addresses to free.
#[derive(Clone, Debug, Default)]
pub struct ReleaseAddresses {
    /// The addresses.
    pub targets: Vec<Target>,
}

/// Which blocks a node gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// One, whether or not it is empty. Its addresses stay with their holders.
    One(IpNet),
    /// One, if it is empty.
    OneIfEmpty(IpNet),
    /// All, whether or not they are empty.
    All,
    /// The empty ones, except that of each family the node keeps this many blocks in all.
    Empty {
        /// How many blocks of each family to keep.
        keep: usize,
    },
}

/// Blocks to give back.
#[derive(Clone, Debug)]
pub struct ReleaseBlocks {
    /// The node.
    pub node: String,
    /// Which of its blocks.
    pub which: Which,
}

/// An address that a handle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assignment {
    /// The address.
    pub address: IpAddr,
    /// The block that it is of.
    pub block: IpNet,
    /// The block's sequence number when it was given: the guard for its release.
    pub sequence: u64,
    /// Whether the block is not the node's, so that a route for this one address must be announced.
    pub borrowed: bool,
}

/// An address that was to be freed and was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreleased {
    /// Nobody held it.
    NotHeld(IpAddr),
    /// It is held otherwise than the guard says.
    HeldByAnother(IpAddr, Box<AllocationAttribute>),
}

/// What a release did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Addresses that this request freed, in the order of the addresses.
    pub freed: Vec<IpAddr>,
    /// Addresses that it was to free and did not.
    pub unreleased: Vec<Unreleased>,
}

/// The answer to a request that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The addresses that the handle holds: IPv4 first for [`AutoAssign`], in the order asked for
    /// [`AssignSpecific`].
    Assigned(Vec<Assignment>),
    /// What was freed.
    Released(Released),
    /// The blocks that the node no longer owns, and those that stayed because they are not empty.
    BlocksReleased {
        /// Given back by this request.
        released: Vec<IpNet>,
        /// Not empty.
        kept: Vec<IpNet>,
    },
    /// All that was given stands in the blocks.
    Recorded {
        /// What the reserve got beside ([`Refill`]).
        reserved: Vec<IpAddr>,
    },
    /// Blocks and affinities agree; how many objects this request changed.
    Repaired {
        /// How many writes that took.
        writes: usize,
    },
}
