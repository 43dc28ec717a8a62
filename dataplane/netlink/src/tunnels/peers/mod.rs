//! Which node is behind which Ethernet address of a VXLAN device, and which Ethernet address behind which tunnel address.
//!
//! A packet to another node's pods goes to that node's tunnel address; the neighbour entry says the Ethernet address
//! behind it, and the forwarding entry the node behind that. Both are written and none is asked for or learnt: no
//! first packet waits, and no packet that arrives can divert another.
//!
//! All permanent entries of a device of ours are ours: whatever else is there is removed.

mod forwarding;
mod plan;

pub use forwarding::{ForwardingEntry, PeerNews, news};
pub use plan::{PeerStep, change, plan};

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::NeighbourAttribute;

use crate::error::{NetlinkError, refusal_is_absent};
use crate::events::Change;
use crate::links::Link;
use crate::mac::MacAddress;
use crate::neighbours::{self, Neighbour, Origin};
use crate::rtnetlink::{Rtnetlink, encode};
use crate::socket::{CREATE, REPLACE, Request};

/// The kernel's group of changes of neighbours and forwarding entries (`RTNLGRP_NEIGH`), to read with [`news`].
pub const NEWS_GROUP: u32 = 3;

/// Another node, as a VXLAN device has to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelPeer {
    /// The Ethernet address of its device.
    pub mac: MacAddress,
    /// The address of its device inside the tunnel.
    pub tunnel: IpAddr,
    /// The node's own address, to which the tunnel's packets go.
    pub node: IpAddr,
}

/// A node that cannot be told from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerConflict {
    /// It has the Ethernet address of another.
    #[error(
        "node {node}: its tunnel's Ethernet address {mac} is that of node {other}: rename one of the nodes or configure \
         another address for its tunnel"
    )]
    Mac {
        /// The node.
        node: IpAddr,
        /// The address.
        mac: MacAddress,
        /// The node that has it.
        other: IpAddr,
    },
    /// It has the tunnel address of another.
    #[error(
        "node {node}: its tunnel address {tunnel} is that of the node with the tunnel's Ethernet address {other}"
    )]
    Tunnel {
        /// The node.
        node: IpAddr,
        /// The address.
        tunnel: IpAddr,
        /// The Ethernet address of the node that has it.
        other: MacAddress,
    },
    /// The Ethernet address is one of groups, or all zeroes.
    #[error("node {node}: {mac} cannot be the Ethernet address of a tunnel")]
    Unusable {
        /// The node.
        node: IpAddr,
        /// The address.
        mac: MacAddress,
    },
}

/// The wanted entries of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerTable {
    /// The node behind an Ethernet address.
    nodes: BTreeMap<MacAddress, IpAddr>,
    /// The Ethernet address behind a tunnel address.
    macs: BTreeMap<IpAddr, MacAddress>,
}

impl PeerTable {
    /// Knows no other node.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wants a node. One that is there with the same tunnel and Ethernet address gets the new node address.
    ///
    /// # Errors
    /// It cannot be told from another, which stays. Remove a node before it comes back with another address.
    pub fn insert(&mut self, peer: TunnelPeer) -> Result<(), PeerConflict> {
        let TunnelPeer { mac, tunnel, node } = peer;
        if !mac.is_usable() {
            return Err(PeerConflict::Unusable { node, mac });
        }
        match self.macs.get(&tunnel) {
            Some(other) if *other != mac => {
                let other = *other;
                return Err(PeerConflict::Tunnel { node, tunnel, other });
            }
            Some(_) => {}
            None => {
                if let Some(other) = self.nodes.get(&mac) {
                    let other = *other;
                    return Err(PeerConflict::Mac { node, mac, other });
                }
            }
        }
        self.macs.insert(tunnel, mac);
        self.nodes.insert(mac, node);
        Ok(())
    }

    /// Wants the node with this tunnel address no more; says whether it was there.
    pub fn remove(&mut self, tunnel: IpAddr) -> bool {
        match self.macs.remove(&tunnel) {
            Some(mac) => self.nodes.remove(&mac).is_some(),
            None => false,
        }
    }

    /// Whether news of the device's entries tells of nothing but what is wanted.
    pub fn agrees(&self, news: &PeerNews) -> bool {
        match news {
            PeerNews::Forwarding(Change::Present, entry) => {
                self.node(entry.mac).is_some_and(|node| entry.leads_to(node))
            }
            PeerNews::Forwarding(Change::Gone, entry) => {
                entry.node.is_none() || self.node(entry.mac) != entry.node
            }
            PeerNews::Neighbour(Change::Present, seen) => {
                let is_permanent = seen.origin == Origin::Permanent;
                match self.mac(seen.address) {
                    Some(mac) => is_permanent && seen.mac == Some(mac),
                    None => !is_permanent,
                }
            }
            PeerNews::Neighbour(Change::Gone, seen) => self.mac(seen.address).is_none(),
        }
    }

    /// How many nodes are wanted.
    pub fn len(&self) -> usize {
        self.macs.len()
    }

    /// Whether no node is wanted.
    pub fn is_empty(&self) -> bool {
        self.macs.is_empty()
    }

    /// Returns the node behind an Ethernet address.
    fn node(&self, mac: MacAddress) -> Option<IpAddr> {
        self.nodes.get(&mac).copied()
    }

    /// Returns the Ethernet address behind a tunnel address.
    fn mac(&self, tunnel: IpAddr) -> Option<MacAddress> {
        self.macs.get(&tunnel).copied()
    }
}

/// The entries of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedPeers {
    /// Which node is behind which Ethernet address, in the kernel's order.
    pub forwarding: Vec<ForwardingEntry>,
    /// Which Ethernet address is behind which IP address.
    pub neighbours: Vec<Neighbour>,
}

/// Returns the entries of one device; those of other devices are not read.
///
/// # Errors
/// A list could not be read; also if the device does not exist.
pub fn observe(netlink: &mut Rtnetlink, link: &Link) -> Result<ObservedPeers, NetlinkError> {
    Ok(ObservedPeers {
        forwarding: forwarding::list(netlink, link)?,
        neighbours: neighbours::list_of(netlink, link)?,
    })
}

/// A step that the kernel refused.
#[derive(Debug)]
pub struct PeerFailure {
    /// The step.
    pub step: PeerStep,
    /// Why; its text names the step.
    pub error: NetlinkError,
}

/// What one reconciliation did.
#[derive(Debug, Default)]
pub struct PeersReconciled {
    /// How many steps were carried out.
    pub done: usize,
    /// The steps that failed, each with the reason; try them again later.
    pub failures: Vec<PeerFailure>,
}

/// Brings the entries of a device of ours to the wanted ones.
///
/// # Errors
/// The entries could not be observed. A step that fails is reported in the answer and does not end the others.
pub fn reconcile(
    netlink: &mut Rtnetlink,
    link: &Link,
    desired: &PeerTable,
) -> Result<PeersReconciled, NetlinkError> {
    let observed = observe(netlink, link)?;
    let steps = plan(desired, &observed);
    let failures = execute(netlink, link, &steps)?;
    Ok(PeersReconciled {
        done: steps.len().saturating_sub(failures.len()),
        failures,
    })
}

/// Carries steps out in order and returns those that failed; a failure does not keep later ones from being tried.
///
/// # Errors
/// The conversation itself failed: which steps were carried out is unknown, so observe again.
pub fn execute(
    netlink: &mut Rtnetlink,
    link: &Link,
    steps: &[PeerStep],
) -> Result<Vec<PeerFailure>, NetlinkError> {
    let requests: Vec<Request> = steps.iter().map(|step| request(link.index, step)).collect();
    let operation = format_args!("apply {} tunnel steps dev {}", steps.len(), link.name);
    let outcomes = netlink.batch(&requests, &operation)?;
    let mut failures = Vec::new();
    for (step, outcome) in steps.iter().zip(outcomes) {
        match outcome {
            Ok(()) => {}
            Err(refusal) if step.is_removal() && refusal_is_absent(&refusal) => {}
            Err(refusal) => failures.push(PeerFailure {
                step: *step,
                error: NetlinkError::Refused {
                    operation: format!("{step} dev {}", link.name),
                    refusal,
                },
            }),
        }
    }
    Ok(failures)
}

fn request(link: u32, step: &PeerStep) -> Request {
    match step {
        PeerStep::SetForwarding { mac, node } => forwarding::addition(link, *mac, *node),
        PeerStep::RemoveForwarding(entry) => forwarding::removal(link, entry),
        PeerStep::SetNeighbour { tunnel, mac } => {
            let mut message = neighbours::permanent(link, *tunnel);
            message
                .attributes
                .push(NeighbourAttribute::LinkLayerAddress(mac.bytes().to_vec()));
            encode(&RouteNetlinkMessage::NewNeighbour(message), CREATE | REPLACE)
        }
        PeerStep::RemoveNeighbour(address) => encode(
            &RouteNetlinkMessage::DelNeighbour(neighbours::permanent(link, *address)),
            0,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(mac: u8, tunnel: u8, node: u8) -> TunnelPeer {
        TunnelPeer {
            mac: MacAddress::new([0x66, 0, 0, 0, 0, mac]),
            tunnel: [10, 65, 0, tunnel].into(),
            node: [192, 0, 2, node].into(),
        }
    }

    #[test]
    fn nodes_that_cannot_be_told_apart_are_named_and_the_first_stays() {
        let mut table = PeerTable::new();
        table.insert(peer(1, 1, 1)).unwrap();
        assert!(matches!(
            table.insert(peer(1, 2, 2)),
            Err(PeerConflict::Mac { .. })
        ));
        assert!(matches!(
            table.insert(peer(2, 1, 2)),
            Err(PeerConflict::Tunnel { .. })
        ));
        let group = TunnelPeer {
            mac: MacAddress::new([1, 0, 0, 0, 0, 1]),
            ..peer(3, 3, 3)
        };
        assert!(matches!(table.insert(group), Err(PeerConflict::Unusable { .. })));
        assert_eq!(table.len(), 1);
        table.insert(peer(1, 1, 9)).unwrap();
        assert_eq!(table.node(peer(1, 1, 1).mac), Some([192, 0, 2, 9].into()));
        assert!(table.remove([10, 65, 0, 1].into()));
        assert!(!table.remove([10, 65, 0, 1].into()));
        assert!(table.is_empty() && table.nodes.is_empty());
        table.insert(peer(1, 2, 2)).unwrap();
    }
}
