//! What is said of nodes, pools, ports of the node, tunnels and what is confined to them, in any order.

use dataplane_api::{ClusterNode, HostPort, PoolRange, Update};
use dataplane_tables::{Confined, Tables, TunnelsInUse};
use policy_model::{EncapsulationMode, Protocol};
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};

/// Something that is said.
#[derive(Clone, Debug)]
pub(crate) enum Word {
    /// A node has these addresses; without any it leaves.
    Node(u8, Vec<u8>),
    /// A pool, and whether what leaves all pools is translated; or that it is none any more.
    Pool(u8, Option<bool>),
    /// A port of the node, and the workload that it leads to.
    Port(u8, Option<u8>),
    Tunnels(bool, bool, bool),
    /// Wires, and ranges of which some are confined.
    Confined(Vec<u8>, Vec<(u8, bool)>),
}

/// What is no matter of the decision tables.
#[derive(Clone, Debug)]
pub(crate) enum Aside {
    Tunnels(TunnelsInUse),
    Confined(Confined),
}

/// Ranges of both families, some within others.
const RANGES: [&str; 6] = [
    "10.0.0.0/16",
    "10.1.0.0/20",
    "fd00::/48",
    "0.0.0.0/0",
    "10.0.128.0/17",
    "fd00:0:0:8000::/49",
];

/// Something.
pub(crate) fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        (0u8..4, prop::collection::vec(0u8..8, 0..4)).prop_map(|(name, list)| Word::Node(name, list)),
        (0u8..4, any::<Option<bool>>()).prop_map(|(pool, kind)| Word::Pool(pool, kind)),
        (0u8..6, prop::option::of(0u8..4)).prop_map(|(port, to)| Word::Port(port, to)),
        any::<(bool, bool, bool)>().prop_map(|(a, b, c)| Word::Tunnels(a, b, c)),
        (
            prop::collection::vec(0u8..3, 0..3),
            prop::collection::vec((0u8..6, any::<bool>()), 0..4)
        )
            .prop_map(|(wires, ranges)| Word::Confined(wires, ranges)),
    ]
}

fn address(number: u8) -> IpAddr {
    if number.is_multiple_of(3) {
        format!("2001:db8::{number}").parse().unwrap()
    } else {
        IpAddr::from([192, 0, 2, number])
    }
}

/// Says it to the decision tables, and returns what is no matter of theirs.
pub(crate) fn say(word: &Word, tables: &mut Tables) -> Option<Aside> {
    match word {
        Word::Node(name, list) => {
            let name = name.to_string().as_str().into();
            tables.apply(&if list.is_empty() {
                Update::NodeRemoved(name)
            } else {
                Update::Node(ClusterNode {
                    name,
                    is_here: false,
                    addresses: list.iter().map(|n| address(*n)).collect(),
                    ipip: None,
                    vxlan4: None,
                    vxlan6: None,
                    vxlan_mac: None,
                })
            });
        }
        Word::Pool(pool, kind) => {
            let cidr = RANGES[usize::from(*pool)].parse().unwrap();
            tables.apply(&match kind {
                None => Update::PoolRemoved(cidr),
                Some(nat_outgoing) => Update::Pool(PoolRange {
                    cidr,
                    nat_outgoing: *nat_outgoing,
                    ipip: EncapsulationMode::Never,
                    vxlan: EncapsulationMode::Never,
                }),
            });
        }
        Word::Port(number, to) => {
            let at = ["0.0.0.0", "192.0.2.1", "::", "2001:db8::1"][usize::from(number % 4)];
            let port = HostPort {
                protocol: if *number < 4 { Protocol::TCP } else { Protocol::UDP },
                address: at.parse().unwrap(),
                port: 80,
            };
            tables.apply(&match to {
                None => Update::HostPortRemoved(port),
                Some(to) => Update::HostPort(port, SocketAddr::new(address(*to), 8080)),
            });
        }
        Word::Tunnels(ipip, vxlan4, vxlan6) => {
            let (ipip, vxlan4, vxlan6) = (*ipip, *vxlan4, *vxlan6);
            return Some(Aside::Tunnels(TunnelsInUse { ipip, vxlan4, vxlan6 }));
        }
        Word::Confined(wires, ranges) => {
            let range = |(n, confined): &(u8, bool)| (RANGES[usize::from(*n)].parse().unwrap(), *confined);
            return Some(Aside::Confined(Confined {
                wires: wires.iter().map(|n| format!("eth{n}")).collect(),
                ranges: ranges.iter().map(range).collect(),
            }));
        }
    }
    None
}
