//! A simulator of our table: it walks a packet through the numbers as the kernel does through the sets.
//!
//! It interprets the lowered form, so that what the planner wrote can be judged without a kernel.

use super::names::{ALLOW, DENY, NOTHING};
use super::state::{GroupState, State};
use policy_model::Protocol;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A packet that opens a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port, or ICMP type.
    pub x: u16,
    /// Source port, or ICMP code.
    pub y: u16,
}

/// How the node sees the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way<'a> {
    /// Interface that it comes in at.
    pub from: Option<&'a str>,
    /// Interface that it goes out at; `None` for a packet to the node itself.
    pub to: Option<&'a str>,
}

/// Whether the table lets the packet pass: what is confined to tunnels, what workloads may not send at all, the check of
/// sources, egress of the sender, ingress of the receiver.
///
/// `identity` is the map of single addresses; `is_workload` says which interface names are workloads'.
pub fn simulate(
    state: &State,
    identity: impl Fn(IpAddr) -> Option<u32>,
    is_workload: impl Fn(&str) -> bool,
    packet: &Packet,
    way: Way<'_>,
) -> bool {
    let from = way.from.filter(|i| is_workload(i));
    let is_node = |address: IpAddr| state.nodes.contains(&address);
    let confined = &state.confined;
    if way
        .to
        .is_some_and(|out| confined.refuses(packet.source, packet.destination, out, is_node))
    {
        return false;
    }
    let to = way.to.filter(|i| is_workload(i));
    if let Some(from) = from
        && (state.refused_tunnels.refuses(packet.protocol, packet.x) || !may_send(state, from, packet.source))
    {
        return false;
    }
    if let (Some(from), Some(to)) = (from, to)
        && from == to
        && state.endpoints.contains_key(from)
    {
        return true;
    }
    let number = |address: IpAddr| {
        let n = usize::from(address.is_ipv6());
        let net = state.nets[n]
            .iter()
            .find(|(first, last, _)| *first <= address && address <= *last);
        identity(address).or(net.map(|e| e.2)).unwrap_or(state.world[n])
    };
    if let Some(from) = from {
        let group = state
            .endpoints
            .get(from)
            .and_then(|e| state.egress.get(&e.egress));
        if !passes(state, group, number(packet.destination), packet) {
            return false;
        }
    }
    if let Some(to) = to {
        let group = state
            .endpoints
            .get(to)
            .and_then(|e| state.ingress.get(&e.ingress));
        if !passes(state, group, number(packet.source), packet) {
            return false;
        }
    }
    true
}

/// Whether the check of sources lets a workload send from an address.
fn may_send(state: &State, interface: &str, source: IpAddr) -> bool {
    let own = state
        .endpoints
        .get(interface)
        .is_some_and(|e| e.addresses.contains(&source));
    let spoofable = state.spoofable.get(interface);
    own || spoofable.is_some_and(|nets| nets.iter().any(|net| net.contains(&source)))
}

fn passes(state: &State, group: Option<&GroupState>, identity: u32, packet: &Packet) -> bool {
    let Some(group) = group else { return false };
    match group.entries.get(&identity).copied().unwrap_or(group.default) {
        ALLOW => true,
        DENY | NOTHING => false,
        row => {
            let row = state.rows.get(&row);
            row.and_then(|r| r.verdict(packet.protocol.number(), packet.x, packet.y))
                .unwrap_or(false)
        }
    }
}

/// Checks that every number that something points at is there.
///
/// # Errors
/// What points at what is missing.
pub fn dangling(state: &State) -> Result<(), String> {
    let check = |groups: &BTreeMap<u32, GroupState>, what: &str| {
        for (number, group) in groups {
            for code in group.entries.values().chain([&group.default]) {
                if !matches!(*code, ALLOW | DENY) && !state.rows.contains_key(code) {
                    return Err(format!(
                        "{what} group {number} points at row {code:x}, which is not there"
                    ));
                }
            }
        }
        Ok(())
    };
    check(&state.ingress, "ingress")?;
    check(&state.egress, "egress")?;
    for (interface, endpoint) in &state.endpoints {
        if !state.ingress.contains_key(&endpoint.ingress) || !state.egress.contains_key(&endpoint.egress) {
            return Err(format!(
                "interface {interface} points at a group that is not there"
            ));
        }
    }
    Ok(())
}
