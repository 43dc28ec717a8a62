//! The names of everything of ours in nf_tables, and the numbers that lookups pass on. Made and recognised here only.

use crate::wire::{Datatype, KeyType, SetData};
use dataplane_tables::Direction;

/// Our table, in the family inet.
pub const TABLE: &str = "manx";
/// What the table's comment says to a person who lists it. The number is that of the layout.
pub const TABLE_COMMENT: &str = "Manx policy, layout 1. Ask 'manx explain'; do not edit: changes are undone.";

/// Result: the packet passes this direction.
pub const ALLOW: u32 = 0x9000_0001;
/// Result: the packet is dropped.
pub const DENY: u32 = 0x9000_0002;
/// Nothing is known yet.
pub const NOTHING: u32 = 0;
/// First number of identities; zero means nothing.
pub const FIRST_IDENTITY: u32 = 1;
/// First number of rows.
pub const FIRST_ROW: u32 = 0x8000_0000;
/// One beyond the last number of rows.
pub const END_OF_ROWS: u32 = 0x9000_0000;

/// Interface to the group of traffic to it.
pub const WL_IN: &str = "wl_in";
/// Interface to the group of traffic from it.
pub const WL_OUT: &str = "wl_out";
/// Interfaces with each IPv4 address that they may send from.
pub const OWN4: &str = "own4";
/// Interfaces with each IPv6 address that they may send from.
pub const OWN6: &str = "own6";
/// Interfaces of workloads that have IPv6.
pub const WL6: &str = "wl6";
/// Pairs of an interface with itself: a workload that reaches itself through its own Service.
pub const SELF: &str = "self";
/// Row, protocol and destination port to result.
pub const PORTS: &str = "ports";
/// Row and protocol to result.
pub const PROTOS: &str = "protos";
/// Rows that need more than two lookups, to their chain.
pub const ROWS: &str = "rows";

/// Protocol and port of every IPv4 address of the node, to address and port of a workload.
pub const HOST4: &str = "host4";
/// Protocol and port of every IPv6 address of the node, to address and port of a workload.
pub const HOST6: &str = "host6";
/// IPv4 address of the node, protocol and port, to address and port of a workload.
pub const HOST_AT4: &str = "host_at4";
/// IPv6 address of the node, protocol and port, to address and port of a workload.
pub const HOST_AT6: &str = "host_at6";

/// IPv4 addresses of this node's that nobody has now.
pub const VACANT4: &str = "vacant4";
/// IPv6 addresses of this node's that nobody has now.
pub const VACANT6: &str = "vacant6";

/// IPv4 addresses of the cluster's nodes.
pub const NODES4: &str = "nodes4";
/// IPv6 addresses of the cluster's nodes.
pub const NODES6: &str = "nodes6";

/// Chain of traffic to workloads.
pub const TO_WL: &str = "to_wl";
/// Chain of traffic from workloads.
pub const FROM_WL: &str = "from_wl";
/// Chain that lets pass only packets with an address of their interface, and none that are tunnelled.
pub const SPOOF: &str = "spoof";

/// Chain of packets from workloads to the node's own programs.
pub const TO_NODE: &str = "to_node";

/// Chain that lets no packet begin a connection with an address that nobody has.
pub const VACANT: &str = "vacant";

/// Chain of forwarded packets that were not allowed.
pub const REFUSED: &str = "refused";

/// Chain that leads packets to ports of the node on to workloads.
pub const HOST_PORTS: &str = "host_ports";

/// Chain that gives packets which leave all pools an address of the node.
pub const OUTGOING: &str = "outgoing";

/// Chain that lets tunnelled packets in from the cluster's nodes only.
pub const TUNNELS: &str = "tunnels";

/// Chain that stops what may leave the node inside a tunnel only.
pub const IN_CLEAR: &str = "in_clear";

/// Name of a group's map and chain.
pub fn group(direction: Direction, number: u32) -> String {
    match direction {
        Direction::Ingress => format!("in_{number}"),
        Direction::Egress => format!("out_{number}"),
    }
}

/// The group of a map's or chain's name.
pub fn parse_group(name: &str) -> Option<(Direction, u32)> {
    let (direction, number) = match name.strip_prefix("in_") {
        Some(number) => (Direction::Ingress, number),
        None => (Direction::Egress, name.strip_prefix("out_")?),
    };
    Some((direction, number.parse().ok()?))
}

/// Name of a row's chain.
pub fn row_chain(row: u32) -> String {
    format!("row_{}", row - FIRST_ROW)
}

/// The row of a chain's name.
pub fn parse_row_chain(name: &str) -> Option<u32> {
    let number: u32 = name.strip_prefix("row_")?.parse().ok()?;
    FIRST_ROW.checked_add(number).filter(|n| *n < END_OF_ROWS)
}

/// Name of an address map (`id4`, `net6`, ...) in its `generation`-th making; the first has the plain name.
pub fn address_map(base: &str, generation: u32) -> String {
    if generation == 0 {
        base.to_string()
    } else {
        format!("{base}_{generation}")
    }
}

/// The base and the generation of an address map's name.
pub fn parse_address_map(name: &str) -> Option<(&'static str, u32)> {
    for base in ["id4", "id6", "net4", "net6"] {
        if name == base {
            return Some((base, 0));
        }
        if let Some(generation) = name.strip_prefix(base).and_then(|r| r.strip_prefix('_')) {
            return generation.parse().ok().map(|g| (base, g));
        }
    }
    None
}

/// Type of the keys and data of each of our sets and maps, by name.
pub fn shape(name: &str) -> Option<(KeyType, SetData, bool)> {
    let classid = || SetData::value(Datatype::Classid);
    let one = KeyType::of;
    let exact = |key: KeyType, data: SetData| Some((key, data, false));
    match name {
        WL_IN | WL_OUT => exact(one(Datatype::InterfaceName), SetData::Verdict),
        OWN4 => exact(
            KeyType::concat([Datatype::InterfaceName, Datatype::Ipv4]),
            SetData::None,
        ),
        OWN6 => exact(
            KeyType::concat([Datatype::InterfaceName, Datatype::Ipv6]),
            SetData::None,
        ),
        WL6 => exact(one(Datatype::InterfaceName), SetData::None),
        VACANT4 | NODES4 => exact(one(Datatype::Ipv4), SetData::None),
        VACANT6 | NODES6 => exact(one(Datatype::Ipv6), SetData::None),
        SELF => exact(
            KeyType::concat([Datatype::InterfaceName, Datatype::InterfaceName]),
            SetData::None,
        ),
        PORTS => exact(
            KeyType::concat([Datatype::Classid, Datatype::Protocol, Datatype::Port]),
            classid(),
        ),
        PROTOS => exact(
            KeyType::concat([Datatype::Classid, Datatype::Protocol]),
            classid(),
        ),
        ROWS => exact(one(Datatype::Classid), SetData::Verdict),
        HOST4 | HOST6 | HOST_AT4 | HOST_AT6 => {
            let address = if matches!(name, HOST4 | HOST_AT4) {
                Datatype::Ipv4
            } else {
                Datatype::Ipv6
            };
            let at = matches!(name, HOST_AT4 | HOST_AT6).then_some(address);
            let port = [Datatype::Protocol, Datatype::Port];
            exact(
                KeyType::concat(at.into_iter().chain(port)),
                SetData::Value(KeyType::concat([address, Datatype::Port])),
            )
        }
        _ if parse_group(name).is_some() => exact(one(Datatype::Classid), classid()),
        _ => match parse_address_map(name)?.0 {
            "id4" => exact(one(Datatype::Ipv4), classid()),
            "id6" => exact(one(Datatype::Ipv6), classid()),
            "net4" => Some((one(Datatype::Ipv4), classid(), true)),
            _ => Some((one(Datatype::Ipv6), classid(), true)),
        },
    }
}
