//! Which device carries the packets to an address, and which one has an address.
//!
//! The kernel's own answer for one destination, not a search of its tables: policy routing, metrics and several
//! gateways are then as they are for the packets themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use nix::errno::Errno;

use crate::addresses::{self, family};
use crate::attributes;
use crate::error::NetlinkError;
use crate::links::{self, Link};
use crate::rtnetlink::Rtnetlink;
use crate::socket::Message;

/// Addresses that nobody has, by which the kernel is asked for the default route: one of those reserved for later
/// (RFC 1112, section 4), and the last one for documentation (RFC 3849). Nothing is sent there.
const NOBODYS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(
        0x2001, 0x0db8, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff,
    )),
];

/// Types of messages and attributes that are read here (`linux/rtnetlink.h`).
const NEW_ROUTE: u16 = 24;
const OUT_INTERFACE: u16 = 4;
const GATEWAY: u16 = 5;
const PREFERRED_SOURCE: u16 = 7;
const METRICS: u16 = 8;
const VIA: u16 = 18;
const METRIC_MTU: u16 = 2;
/// Bytes before the attributes (`struct rtmsg`), and where the route's type stands among them.
const HEADER: usize = 12;
const TYPE_OFFSET: usize = 7;
const TYPE_UNICAST: u8 = 1;
const TYPE_LOCAL: u8 = 2;
/// Bytes before the address of a gateway of the other family (`struct rtvia`).
const VIA_HEADER: usize = 2;

/// Where packets to an address go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Nowhere: there is no route, or one that says so.
    Nowhere,
    /// Into this node: the address is its own.
    Here,
    /// Out of a device.
    Out(Carrier),
}

/// The device that carries packets to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carrier {
    /// The device's number.
    pub link: u32,
    /// The gateway; absent where the address is on the link.
    pub gateway: Option<IpAddr>,
    /// The address that the node's own packets take.
    pub source: Option<IpAddr>,
    /// The largest packet that the route itself allows, in bytes, where it says one: an administrator wrote it, or a
    /// router on the way told.
    pub mtu: Option<u32>,
}

/// Returns where the kernel sends packets of the node's own to an address.
///
/// # Errors
/// The kernel's refusal, other than that there is no way.
pub fn way_to(netlink: &mut Rtnetlink, address: IpAddr) -> Result<Way, NetlinkError> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = IpNet::from(address).prefix_len();
    message
        .attributes
        .push(RouteAttribute::Destination(address.into()));
    let operation = format_args!("find route to {address}");
    let found = netlink.fetch(&RouteNetlinkMessage::GetRoute(message), &operation, read);
    match found {
        Ok(way) => Ok(way.unwrap_or(Way::Nowhere)),
        // What unreachable, prohibiting and blackhole routes answer, and where there is none.
        Err(error)
            if matches!(
                error.errno(),
                Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL | Errno::ESRCH)
            ) =>
        {
            Ok(Way::Nowhere)
        }
        Err(error) => Err(error),
    }
}

/// Returns the device that has an address, if one has it.
///
/// This is the device that carries a tunnel whose packets leave with that address, as long as the node has not several
/// ways out.
///
/// # Errors
/// A list could not be read.
pub fn device_of(netlink: &mut Rtnetlink, address: IpAddr) -> Result<Option<Link>, NetlinkError> {
    let found = addresses::list(netlink)?
        .into_iter()
        .find(|candidate| candidate.net.addr() == address);
    match found {
        Some(found) => links::find_index(netlink, found.link),
        None => Ok(None),
    }
}

/// Returns the devices that the default routes lead to, of both families.
///
/// # Errors
/// The kernel's refusal.
pub fn default_devices(netlink: &mut Rtnetlink) -> Result<Vec<Link>, NetlinkError> {
    let mut devices = Vec::new();
    for address in NOBODYS {
        if let Way::Out(carrier) = way_to(netlink, address)? {
            devices.extend(links::find_index(netlink, carrier.link)?);
        }
    }
    Ok(devices)
}

fn read(message: Message<'_>) -> Option<Way> {
    if message.message_type == NEW_ROUTE {
        read_body(message.body)
    } else {
        None
    }
}

fn read_body(body: &[u8]) -> Option<Way> {
    match *body.get(TYPE_OFFSET)? {
        TYPE_UNICAST => {}
        TYPE_LOCAL => return Some(Way::Here),
        _ => return Some(Way::Nowhere),
    }
    let mut link = None;
    let (mut gateway, mut source, mut mtu) = (None, None, None);
    for (kind, value) in attributes::walk(body.get(HEADER..)?) {
        match kind {
            OUT_INTERFACE => link = attributes::native32(value),
            GATEWAY => gateway = attributes::address(value),
            VIA => gateway = value.get(VIA_HEADER..).and_then(attributes::address),
            PREFERRED_SOURCE => source = attributes::address(value),
            METRICS => mtu = attributes::find(value, METRIC_MTU).and_then(attributes::native32),
            _ => {}
        }
    }
    Some(Way::Out(Carrier {
        link: link?,
        gateway,
        source,
        mtu: mtu.filter(|mtu| *mtu != 0),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_body(&bytes);
        }
    }
}
