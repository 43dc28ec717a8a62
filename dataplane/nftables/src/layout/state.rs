//! What our table says, in numbers: everything but the single addresses, which the decision tables hold already.

use super::row::LoweredRow;
use super::tunnels::RefusedTunnels;
use dataplane_api::HostPort;
use dataplane_tables::{Confined, TunnelsInUse};
use ipnet::IpNet;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// An endpoint as the table knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// Number of the group of traffic to it.
    pub ingress: u32,
    /// Number of the group of traffic from it.
    pub egress: u32,
    /// Addresses that it may send from, sorted.
    pub addresses: Vec<IpAddr>,
}

/// A group's map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// Row or result of identities that have no entry.
    pub default: u32,
    /// Row or result by identity.
    pub entries: FxHashMap<u32, u32>,
    /// Most entries that the map takes, the default included.
    pub size: u32,
}

/// An interval with the identity of its addresses.
pub type NetEntry = (IpAddr, IpAddr, u32);

/// What the table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Groups of traffic to workloads, by number.
    pub ingress: BTreeMap<u32, GroupState>,
    /// Groups of traffic from workloads, by number.
    pub egress: BTreeMap<u32, GroupState>,
    /// Rows, by number.
    pub rows: BTreeMap<u32, LoweredRow>,
    /// Endpoints, by interface.
    pub endpoints: BTreeMap<String, EndpointState>,
    /// Networks beside its own addresses that a workload may send from, by interface, sorted. Only interfaces that
    /// have any stand here.
    pub spoofable: BTreeMap<String, Vec<IpNet>>,
    /// Ports of the node, and where each leads.
    pub host_ports: BTreeMap<HostPort, SocketAddr>,
    /// Addresses of this node's that nobody has now: no connection with them begins.
    pub vacant: BTreeSet<IpAddr>,
    /// Addresses of the cluster's nodes.
    pub nodes: BTreeSet<IpAddr>,
    /// Ranges of workload addresses, and of each whether what leaves them all takes an address of the node.
    pub pools: BTreeMap<IpNet, bool>,
    /// Tunnels in use: what they bring in is let in from nodes only.
    pub tunnels: TunnelsInUse,
    /// What leaves the node inside a tunnel or not at all.
    pub confined: Confined,
    /// Tunnelled packets that workloads may not send.
    pub refused_tunnels: RefusedTunnels,
    /// Intervals of IPv4 and of IPv6, sorted.
    pub nets: [Vec<NetEntry>; 2],
    /// Identity of addresses that are in no interval, of IPv4 and of IPv6.
    pub world: [u32; 2],
    /// Which making of `id4` and `id6` the rules use.
    pub id_generation: [u32; 2],
    /// Which making of `net4` and `net6` the rules use.
    pub net_generation: [u32; 2],
    /// Most elements that `id4` and `id6` take.
    pub id_size: [u32; 2],
}
