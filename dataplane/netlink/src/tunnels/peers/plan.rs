//! Decides which changes bring a device's entries to the wanted ones.
//!
//! Pure. The other node is put in place of the one that is there, not after its removal: a node that changes its
//! address loses no packet here.

use std::fmt;
use std::net::IpAddr;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::mac::MacAddress;
use crate::neighbours::{Neighbour, Origin};
use crate::tunnels::peers::{ForwardingEntry, ObservedPeers, PeerTable, TunnelPeer};

/// One change to the entries of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerStep {
    /// Put a node behind an Ethernet address, in place of whatever is there.
    SetForwarding {
        /// The Ethernet address.
        mac: MacAddress,
        /// The node's own address.
        node: IpAddr,
    },
    /// Remove exactly this entry.
    RemoveForwarding(ForwardingEntry),
    /// Put an Ethernet address behind a tunnel address, in place of whatever is there.
    SetNeighbour {
        /// The tunnel address.
        tunnel: IpAddr,
        /// The Ethernet address.
        mac: MacAddress,
    },
    /// Remove the entry of an IP address.
    RemoveNeighbour(IpAddr),
}

impl PeerStep {
    /// Whether it takes something away, so that its object's absence is success.
    pub fn is_removal(&self) -> bool {
        match self {
            Self::RemoveForwarding(_) | Self::RemoveNeighbour(_) => true,
            Self::SetForwarding { .. } | Self::SetNeighbour { .. } => false,
        }
    }
}

impl fmt::Display for PeerStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetForwarding { mac, node } => write!(formatter, "set forwarding entry {mac} dst {node}"),
            Self::RemoveForwarding(entry) => write!(formatter, "remove forwarding entry {entry}"),
            Self::SetNeighbour { tunnel, mac } => write!(formatter, "set neighbour {tunnel} lladdr {mac}"),
            Self::RemoveNeighbour(address) => write!(formatter, "remove neighbour {address}"),
        }
    }
}

/// Returns the changes that leave a device of ours exactly the wanted entries.
///
/// What is added comes in the order in which a packet does not need it yet; what is removed in reverse. Neighbours that
/// the kernel looks for of its own accord are left to it, except where a wanted entry takes their place.
pub fn plan(desired: &PeerTable, observed: &ObservedPeers) -> Vec<PeerStep> {
    let (surplus, set, unwanted) = forwarding(desired, &observed.forwarding);
    let mut steps = surplus;
    steps.extend(set);
    let mut satisfied: FxHashSet<IpAddr> = FxHashSet::default();
    let mut gone = Vec::new();
    for seen in &observed.neighbours {
        match desired.mac(seen.address) {
            Some(mac) if seen.origin == Origin::Permanent && seen.mac == Some(mac) => {
                satisfied.insert(seen.address);
            }
            Some(_) => {}
            None if seen.origin == Origin::Permanent => gone.push(PeerStep::RemoveNeighbour(seen.address)),
            None => {}
        }
    }
    steps.extend(
        desired
            .macs
            .iter()
            .filter(|(tunnel, _)| !satisfied.contains(*tunnel))
            .map(|(tunnel, mac)| PeerStep::SetNeighbour {
                tunnel: *tunnel,
                mac: *mac,
            }),
    );
    steps.extend(gone);
    steps.extend(unwanted);
    steps
}

/// Returns the steps for one node's coming, going or change, on a device that has what was wanted of it before.
///
/// For a change at a time: reading the device's entries costs as much as there are nodes. What the steps rest on is
/// confirmed by the next [`crate::tunnels::peers::reconcile`]. The device's number names it in what is removed.
pub fn change(link: u32, before: Option<TunnelPeer>, after: Option<TunnelPeer>) -> Vec<PeerStep> {
    let mut desired = PeerTable::new();
    if let Some(peer) = after {
        // One alone is in nobody's way; one that is unusable was refused when it was to be wanted.
        let _ = desired.insert(peer);
    }
    let mut observed = ObservedPeers::default();
    if let Some(TunnelPeer { mac, tunnel, node }) = before {
        observed.forwarding.push(ForwardingEntry {
            link,
            mac,
            node: Some(node),
            port: None,
            vni: None,
            carrier: None,
            permanent: true,
        });
        observed.neighbours.push(Neighbour {
            link,
            address: tunnel,
            mac: Some(mac),
            origin: Origin::Permanent,
        });
    }
    plan(&desired, &observed)
}

/// Returns what stands beside a wanted entry, what is to be set, and what is wanted for no node.
fn forwarding(
    desired: &PeerTable,
    observed: &[ForwardingEntry],
) -> (Vec<PeerStep>, Vec<PeerStep>, Vec<PeerStep>) {
    let (mut surplus, mut unwanted) = (Vec::new(), Vec::new());
    let mut by_mac: FxHashMap<MacAddress, Vec<&ForwardingEntry>> = FxHashMap::default();
    for seen in observed {
        match desired.node(seen.mac) {
            Some(_) => by_mac.entry(seen.mac).or_default().push(seen),
            None => unwanted.push(PeerStep::RemoveForwarding(*seen)),
        }
    }
    let mut set = Vec::new();
    for (mac, node) in &desired.nodes {
        let seen = by_mac.get(mac).map_or(&[][..], Vec::as_slice);
        let right = seen.iter().position(|entry| entry.leads_to(*node));
        // The kernel replaces what is there only where it is one; so all but one go first.
        let kept = right.unwrap_or(0);
        let others = seen.iter().enumerate().filter(|(place, _)| *place != kept);
        surplus.extend(others.map(|(_, entry)| PeerStep::RemoveForwarding(**entry)));
        if right.is_none() {
            set.push(PeerStep::SetForwarding {
                mac: *mac,
                node: *node,
            });
        }
    }
    (surplus, set, unwanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mac(last: u8) -> MacAddress {
        MacAddress::new([0x66, 0, 0, 0, 0, last])
    }

    fn tunnel(last: u8) -> IpAddr {
        [10, 65, 0, last].into()
    }

    fn node(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn entry(at: u8, to: u8, port: Option<u16>, permanent: bool) -> ForwardingEntry {
        ForwardingEntry {
            link: 7,
            mac: mac(at),
            node: Some(node(to)),
            port,
            vni: None,
            carrier: None,
            permanent,
        }
    }

    /// Does to the entries what the kernel would.
    fn apply(observed: &mut ObservedPeers, steps: &[PeerStep]) {
        for step in steps {
            match *step {
                PeerStep::RemoveForwarding(entry) => observed.forwarding.retain(|seen| *seen != entry),
                PeerStep::SetForwarding { mac, node } => {
                    let new = ForwardingEntry {
                        mac,
                        node: Some(node),
                        ..entry(0, 0, None, true)
                    };
                    let of_mac = |seen: &&mut ForwardingEntry| seen.mac == mac;
                    // Where one leads to the node already, only its lifetime is changed.
                    let same = |seen: &ForwardingEntry| {
                        seen.mac == mac
                            && ForwardingEntry {
                                permanent: true,
                                ..*seen
                            } == new
                    };
                    let place = observed.forwarding.iter().position(same);
                    match place {
                        Some(place) => observed.forwarding[place] = new,
                        None => match observed.forwarding.iter_mut().find(of_mac) {
                            Some(first) => *first = new,
                            None => observed.forwarding.push(new),
                        },
                    }
                }
                PeerStep::RemoveNeighbour(address) => {
                    observed.neighbours.retain(|seen| seen.address != address)
                }
                PeerStep::SetNeighbour { tunnel, mac } => {
                    observed.neighbours.retain(|seen| seen.address != tunnel);
                    observed.neighbours.push(Neighbour {
                        link: 7,
                        address: tunnel,
                        mac: Some(mac),
                        origin: Origin::Permanent,
                    });
                }
            }
        }
    }

    #[test]
    fn another_node_takes_the_place_without_a_moment_of_none() {
        let mut desired = PeerTable::new();
        desired
            .insert(TunnelPeer {
                mac: mac(1),
                tunnel: tunnel(1),
                node: node(2),
            })
            .unwrap();
        let observed = ObservedPeers {
            forwarding: vec![entry(1, 1, None, true)],
            neighbours: vec![],
        };
        let lines: Vec<String> = plan(&desired, &observed)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            lines,
            [
                "set forwarding entry 66:00:00:00:00:01 dst 192.0.2.2",
                "set neighbour 10.65.0.1 lladdr 66:00:00:00:00:01"
            ]
        );
    }

    #[test]
    fn one_nodes_change_is_its_own_steps_alone() {
        let lines = |before: Option<TunnelPeer>, after: Option<TunnelPeer>| -> Vec<String> {
            let steps = change(7, before, after);
            steps.iter().map(ToString::to_string).collect()
        };
        let peer = |number| TunnelPeer {
            mac: mac(number),
            tunnel: tunnel(1),
            node: node(1),
        };
        let moved = TunnelPeer {
            node: node(2),
            ..peer(1)
        };
        let (forwarding, neighbour) = (
            "forwarding entry 66:00:00:00:00:01 dst 192.0.2",
            "neighbour 10.65.0.1",
        );
        assert_eq!(lines(None, None), Vec::<String>::new());
        assert_eq!(lines(Some(peer(1)), Some(peer(1))), Vec::<String>::new());
        assert_eq!(
            lines(None, Some(peer(1))),
            [
                format!("set {forwarding}.1"),
                format!("set {neighbour} lladdr 66:00:00:00:00:01")
            ]
        );
        assert_eq!(lines(Some(peer(1)), Some(moved)), [format!("set {forwarding}.2")]);
        assert_eq!(
            lines(Some(peer(1)), None),
            [format!("remove {neighbour}"), format!("remove {forwarding}.1")]
        );
        assert_eq!(
            lines(Some(peer(1)), Some(peer(2))),
            [
                "set forwarding entry 66:00:00:00:00:02 dst 192.0.2.1".to_owned(),
                format!("set {neighbour} lladdr 66:00:00:00:00:02"),
                format!("remove {forwarding}.1")
            ]
        );
    }

    proptest! {
        #[test]
        fn applying_a_plan_leaves_what_is_wanted_and_twice_changes_nothing(
            wanted in proptest::collection::btree_map(1u8..6, 1u8..4, 0..5),
            seen in proptest::collection::vec((0u8..6, 1u8..4, proptest::option::of(1u16..2), any::<bool>()), 0..8),
            neighbours in proptest::collection::btree_map(1u8..6, (1u8..6, any::<bool>()), 0..5),
        ) {
            let mut desired = PeerTable::new();
            for (last, to) in &wanted {
                let peer = TunnelPeer { mac: mac(*last), tunnel: tunnel(*last), node: node(*to) };
                prop_assert!(desired.insert(peer).is_ok());
            }
            let mut observed = ObservedPeers::default();
            for (at, to, port, permanent) in seen {
                let new = entry(at, to, port, permanent);
                // The lifetime is that of all entries of an Ethernet address.
                let key = |entry: &ForwardingEntry| (entry.mac, entry.node, entry.port);
                if !observed.forwarding.iter().any(|other| key(other) == key(&new)) {
                    observed.forwarding.push(new);
                }
            }
            observed.neighbours = neighbours
                .iter()
                .map(|(last, (behind, permanent))| Neighbour {
                    link: 7,
                    address: tunnel(*last),
                    mac: Some(mac(*behind)),
                    origin: if *permanent { Origin::Permanent } else { Origin::Learnt },
                })
                .collect();
            let steps = plan(&desired, &observed);
            apply(&mut observed, &steps);
            prop_assert_eq!(plan(&desired, &observed), vec![]);
            prop_assert_eq!(observed.forwarding.len(), wanted.len());
            for (last, to) in &wanted {
                prop_assert!(observed.forwarding.iter().any(|entry| entry.mac == mac(*last) && entry.leads_to(node(*to))));
            }
        }
    }
}
