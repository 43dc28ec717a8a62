//! The forwarding entries of a VXLAN device as the kernel's messages have them.
//!
//! The kernel speaks of them in the messages of neighbours, under the family of bridges: the "neighbour" is an Ethernet
//! address there, and the IP address is that of the node behind it.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::attributes::{self, put};
use crate::error::NetlinkError;
use crate::events::Change;
use crate::links::Link;
use crate::mac::MacAddress;
use crate::neighbours::{self, Neighbour};
use crate::rtnetlink::Rtnetlink;
use crate::socket::{CREATE, Message, REPLACE, Request};

/// Types of messages and attributes (`linux/rtnetlink.h`, `linux/neighbour.h`).
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;
const DESTINATION: u16 = 1;
const LINK_ADDRESS: u16 = 2;
const CACHE: u16 = 3;
const PORT: u16 = 6;
const VNI: u16 = 7;
const INTERFACE: u16 = 8;
/// Bytes before the attributes (`struct ndmsg`).
const HEADER: usize = 12;
/// The family of bridges (`AF_BRIDGE`).
const FAMILY_BRIDGE: u8 = 7;
/// The entry stays until it is removed (`NUD_PERMANENT`).
const PERMANENT: u16 = 0x80;
/// The entry is the device's own, not that of a bridge above it (`NTF_SELF`).
const FLAG_SELF: u8 = 0x02;

/// One entry as the kernel reports it. An Ethernet address may stand in several, and packets to it go to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardingEntry {
    /// The number of its device.
    pub link: u32,
    /// The Ethernet address; all zeroes for those that stand in no entry.
    pub mac: MacAddress,
    /// The node behind it; absent where the entry names a group of nodes.
    pub node: Option<IpAddr>,
    /// The port, if another than the device's.
    pub port: Option<u16>,
    /// The network's number, if another than the device's.
    pub vni: Option<u32>,
    /// The number of the device that carries packets to it, if it names one.
    pub carrier: Option<u32>,
    /// Whether it stays until it is removed.
    pub permanent: bool,
}

impl ForwardingEntry {
    /// Whether packets to its Ethernet address go to this node as we would write it.
    pub(super) fn leads_to(&self, wanted: IpAddr) -> bool {
        let Self {
            link: _,
            mac: _,
            node,
            port,
            vni,
            carrier,
            permanent,
        } = self;
        *node == Some(wanted) && *permanent && port.is_none() && vni.is_none() && carrier.is_none()
    }
}

impl fmt::Display for ForwardingEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.mac)?;
        self.node.map_or(Ok(()), |node| write!(formatter, " dst {node}"))
    }
}

/// Something about a device's entries that has changed. Includes what this program changed itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerNews {
    /// Which node is behind an Ethernet address.
    Forwarding(Change, ForwardingEntry),
    /// Which Ethernet address is behind an IP address.
    Neighbour(Change, Neighbour),
}

impl PeerNews {
    /// Returns the number of the device whose entry it is.
    pub fn link(&self) -> u32 {
        match self {
            Self::Forwarding(_, entry) => entry.link,
            Self::Neighbour(_, entry) => entry.link,
        }
    }
}

/// Reads news of the kernel's by the type of its message and what follows the message's header; news about other
/// things is none.
pub fn news(message_type: u16, body: &[u8]) -> Option<PeerNews> {
    let change = match message_type {
        NEW_NEIGHBOUR => Change::Present,
        DELETE_NEIGHBOUR => Change::Gone,
        _ => return None,
    };
    if body.first() == Some(&FAMILY_BRIDGE) {
        // Old kernels tell each change twice, the second time without what only VXLAN knows of an entry: as if it led
        // nowhere.
        attributes::find(body.get(HEADER..)?, CACHE)?;
        read_body(body).map(|entry| PeerNews::Forwarding(change, entry))
    } else {
        neighbours::read_body(body).map(|entry| PeerNews::Neighbour(change, entry))
    }
}

/// Returns the forwarding entries of one device.
pub(super) fn list(netlink: &mut Rtnetlink, link: &Link) -> Result<Vec<ForwardingEntry>, NetlinkError> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    // Where the others' lists are filtered by an attribute, this one is by the header.
    message.header.ifindex = link.index;
    let operation = format_args!("list forwarding entries dev {}", link.name);
    let mut entries = netlink.dump(&RouteNetlinkMessage::GetNeighbour(message), &operation, read)?;
    entries.retain(|entry| entry.link == link.index);
    Ok(entries)
}

/// Returns the order that puts a node, and no other, behind an Ethernet address.
pub(super) fn addition(link: u32, mac: MacAddress, node: IpAddr) -> Request {
    let mut body = header(link);
    put(&mut body, LINK_ADDRESS, &mac.bytes());
    put(&mut body, DESTINATION, &attributes::octets(node));
    Request {
        message_type: NEW_NEIGHBOUR,
        flags: CREATE | REPLACE,
        body,
    }
}

/// Returns the order that removes exactly this entry.
pub(super) fn removal(link: u32, entry: &ForwardingEntry) -> Request {
    let ForwardingEntry {
        link: _,
        mac,
        node,
        port,
        vni,
        carrier,
        permanent: _,
    } = entry;
    let mut body = header(link);
    put(&mut body, LINK_ADDRESS, &mac.bytes());
    if let Some(node) = node {
        put(&mut body, DESTINATION, &attributes::octets(*node));
    }
    if let Some(port) = port {
        put(&mut body, PORT, &port.to_be_bytes());
    }
    if let Some(vni) = vni {
        put(&mut body, VNI, &vni.to_ne_bytes());
    }
    if let Some(carrier) = carrier {
        put(&mut body, INTERFACE, &carrier.to_ne_bytes());
    }
    Request {
        message_type: DELETE_NEIGHBOUR,
        flags: 0,
        body,
    }
}

fn header(link: u32) -> Vec<u8> {
    let mut header = vec![FAMILY_BRIDGE, 0, 0, 0];
    header.extend_from_slice(&link.to_ne_bytes());
    header.extend_from_slice(&PERMANENT.to_ne_bytes());
    header.extend_from_slice(&[FLAG_SELF, 0]);
    header
}

fn read(message: Message<'_>) -> Option<ForwardingEntry> {
    if message.message_type == NEW_NEIGHBOUR {
        read_body(message.body)
    } else {
        None
    }
}

fn read_body(body: &[u8]) -> Option<ForwardingEntry> {
    if body.first() != Some(&FAMILY_BRIDGE) {
        return None;
    }
    let link = attributes::native32(body.get(4..)?)?;
    let state = attributes::native16(body.get(8..)?)?;
    let mut mac = None;
    let (mut node, mut port, mut vni, mut carrier) = (None, None, None, None);
    for (kind, value) in attributes::walk(body.get(HEADER..)?) {
        match kind {
            LINK_ADDRESS => mac = MacAddress::try_from(value).ok(),
            DESTINATION => node = attributes::address(value),
            PORT => port = attributes::network16(value),
            VNI => vni = attributes::native32(value),
            INTERFACE => carrier = attributes::native32(value).filter(|index| *index != 0),
            _ => {}
        }
    }
    Some(ForwardingEntry {
        link,
        mac: mac?,
        node,
        port,
        vni,
        carrier,
        permanent: state & PERMANENT != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let entry = ForwardingEntry {
            link: 7,
            mac: MacAddress::new([0x66, 1, 2, 3, 4, 5]),
            node: Some("2001:db8::1".parse().unwrap()),
            port: Some(8472),
            vni: Some(5),
            carrier: Some(3),
            permanent: true,
        };
        assert_eq!(read_body(&removal(7, &entry).body), Some(entry));
        let written = addition(7, entry.mac, "192.0.2.1".parse().unwrap());
        assert!(
            read_body(&written.body)
                .unwrap()
                .leads_to("192.0.2.1".parse().unwrap())
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), message_type in 28u16..30) {
            let _ = news(message_type, &bytes);
            let mut bridge = bytes;
            bridge.insert(0, FAMILY_BRIDGE);
            let _ = news(message_type, &bridge);
        }
    }
}
