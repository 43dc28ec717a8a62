//! Permanent neighbour entries: the Ethernet address behind an IP address, written instead of asked for.
//!
//! A workload's first packet and its first answer need no ARP or neighbour discovery, and no workload can
//! claim another's address by answering for it.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::RouteType;

use crate::addresses::family;
use crate::attributes;
use crate::error::NetlinkError;
use crate::links::Link;
use crate::mac::MacAddress;
use crate::rtnetlink::Rtnetlink;
use crate::socket::{CREATE, Message, REPLACE};

/// Types of messages and attributes that are read here (`linux/neighbour.h`).
const NEW_NEIGHBOUR: u16 = 28;
const DESTINATION: u16 = 1;
const LINK_ADDRESS: u16 = 2;
/// Bytes before the attributes (`struct ndmsg`).
const HEADER: usize = 12;
/// The entry stays until it is removed (`NUD_PERMANENT`).
const PERMANENT: u16 = 0x80;
/// The entry says for whom this machine answers, not who answers (`NTF_PROXY`).
const FLAG_PROXY: u8 = 0x08;

/// An entry that is wanted on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourSpec {
    /// The IP address.
    pub address: IpAddr,
    /// The Ethernet address behind it.
    pub mac: MacAddress,
}

/// An entry as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The number of its interface.
    pub link: u32,
    /// The IP address.
    pub address: IpAddr,
    /// The Ethernet address behind it, once known.
    pub mac: Option<MacAddress>,
    /// Whether it was written or learnt.
    pub origin: Origin,
}

/// Where a neighbour entry comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Somebody wrote it, and it stays.
    Permanent,
    /// The kernel asked for it or is asking.
    Learnt,
}

/// One change to the neighbours of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourStep {
    /// Remove an entry.
    Remove(IpAddr),
    /// Write an entry over whatever is there.
    Set(NeighbourSpec),
}

impl fmt::Display for NeighbourStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove(address) => write!(formatter, "remove neighbour {address}"),
            Self::Set(NeighbourSpec { address, mac }) => {
                write!(formatter, "set neighbour {address} lladdr {mac}")
            }
        }
    }
}

/// Returns the changes that give an interface of ours exactly these permanent entries, removals first.
///
/// Learnt entries are left to the kernel, except where a wanted entry takes their place.
pub fn plan(desired: &[NeighbourSpec], observed: &[Neighbour]) -> Vec<NeighbourStep> {
    let mut steps: Vec<NeighbourStep> = observed
        .iter()
        .filter(|seen| seen.origin == Origin::Permanent)
        .filter(|seen| !desired.iter().any(|wanted| wanted.address == seen.address))
        .map(|seen| NeighbourStep::Remove(seen.address))
        .collect();
    steps.extend(missing(desired, observed));
    steps
}

/// Returns the changes that add what is wanted and remove nothing, for an interface that is not ours alone.
pub fn missing(desired: &[NeighbourSpec], observed: &[Neighbour]) -> Vec<NeighbourStep> {
    desired
        .iter()
        .filter(|wanted| {
            !observed.iter().any(|seen| {
                seen.address == wanted.address
                    && seen.mac == Some(wanted.mac)
                    && seen.origin == Origin::Permanent
            })
        })
        .map(|wanted| NeighbourStep::Set(*wanted))
        .collect()
}

/// Carries changes to the neighbours of one interface out, in order; the first failure ends them.
///
/// # Errors
/// The kernel's refusal, other than that what is to be removed is not there.
pub fn execute(netlink: &mut Rtnetlink, link: &Link, steps: &[NeighbourStep]) -> Result<(), NetlinkError> {
    for step in steps {
        let operation = format_args!("{step} dev {}", link.name);
        match step {
            NeighbourStep::Set(NeighbourSpec { address, mac }) => {
                let mut message = permanent(link.index, *address);
                message
                    .attributes
                    .push(NeighbourAttribute::LinkLayerAddress(mac.bytes().to_vec()));
                netlink.execute(
                    &RouteNetlinkMessage::NewNeighbour(message),
                    CREATE | REPLACE,
                    &operation,
                )?;
            }
            NeighbourStep::Remove(address) => {
                let message = RouteNetlinkMessage::DelNeighbour(permanent(link.index, *address));
                match netlink.execute(&message, 0, &operation) {
                    Err(error) if !error.is_absent() => return Err(error),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// The message of a permanent entry, without what it leads to.
pub(crate) fn permanent(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message
        .attributes
        .push(NeighbourAttribute::Destination(address.into()));
    message
}

/// Returns the IP neighbours of all interfaces of the namespace.
///
/// # Errors
/// The list could not be read.
pub fn list(netlink: &mut Rtnetlink) -> Result<Vec<Neighbour>, NetlinkError> {
    let message = NeighbourMessage::default();
    netlink.dump(
        &RouteNetlinkMessage::GetNeighbour(message),
        &"list neighbours",
        read,
    )
}

/// Returns the IP neighbours on one interface.
///
/// # Errors
/// The list could not be read.
pub fn list_of(netlink: &mut Rtnetlink, link: &Link) -> Result<Vec<Neighbour>, NetlinkError> {
    let mut message = NeighbourMessage::default();
    message.attributes.push(NeighbourAttribute::IfIndex(link.index));
    let operation = format_args!("list neighbours dev {}", link.name);
    let mut neighbours = netlink.dump(&RouteNetlinkMessage::GetNeighbour(message), &operation, read)?;
    neighbours.retain(|neighbour| neighbour.link == link.index);
    Ok(neighbours)
}

fn read(message: Message<'_>) -> Option<Neighbour> {
    if message.message_type == NEW_NEIGHBOUR {
        read_body(message.body)
    } else {
        None
    }
}

/// Reads a neighbour from what follows the message's header.
pub(crate) fn read_body(body: &[u8]) -> Option<Neighbour> {
    let link = attributes::native32(body.get(4..)?)?;
    let state = attributes::native16(body.get(8..)?)?;
    if *body.get(10)? & FLAG_PROXY != 0 {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for (kind, value) in attributes::walk(body.get(HEADER..)?) {
        match kind {
            DESTINATION => address = attributes::address(value),
            LINK_ADDRESS => mac = MacAddress::try_from(value).ok(),
            _ => {}
        }
    }
    let origin = if state & PERMANENT != 0 {
        Origin::Permanent
    } else {
        Origin::Learnt
    };
    Some(Neighbour {
        link,
        address: address?,
        mac,
        origin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec((last, mac): (u8, u8)) -> NeighbourSpec {
        NeighbourSpec {
            address: [10, 0, 0, last].into(),
            mac: MacAddress::new([2, 0, 0, 0, 0, mac]),
        }
    }

    fn apply(observed: &mut Vec<Neighbour>, steps: &[NeighbourStep]) {
        for step in steps {
            match step {
                NeighbourStep::Remove(address) => observed.retain(|seen| seen.address != *address),
                NeighbourStep::Set(NeighbourSpec { address, mac }) => {
                    observed.retain(|seen| seen.address != *address);
                    observed.push(Neighbour {
                        link: 1,
                        address: *address,
                        mac: Some(*mac),
                        origin: Origin::Permanent,
                    });
                }
            }
        }
    }

    proptest! {
        #[test]
        fn applying_a_plan_twice_changes_nothing(
            desired in proptest::collection::btree_map(1u8..6, 1u8..3, 0..5),
            seen in proptest::collection::btree_map(1u8..6, (1u8..3, any::<bool>()), 0..5),
        ) {
            let desired: Vec<NeighbourSpec> = desired.into_iter().map(spec).collect();
            let mut observed: Vec<Neighbour> = seen
                .iter()
                .map(|(last, (mac, permanent))| Neighbour {
                    link: 1,
                    address: [10, 0, 0, *last].into(),
                    mac: Some(MacAddress::new([2, 0, 0, 0, 0, *mac])),
                    origin: if *permanent { Origin::Permanent } else { Origin::Learnt },
                })
                .collect();
            let learnt: Vec<Neighbour> = observed
                .iter()
                .filter(|seen| seen.origin == Origin::Learnt)
                .filter(|seen| !desired.iter().any(|wanted| wanted.address == seen.address))
                .copied()
                .collect();
            let steps = plan(&desired, &observed);
            apply(&mut observed, &steps);
            prop_assert_eq!(plan(&desired, &observed), vec![]);
            for seen in learnt {
                prop_assert!(observed.contains(&seen), "a learnt entry was touched");
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_body(&bytes);
        }
    }
}
