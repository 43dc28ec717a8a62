//! The routes that the kernel has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use rustc_hash::FxHashMap;

use crate::addresses::family;
use crate::attributes;
use crate::error::NetlinkError;
use crate::links::{self, Link};
use crate::names::InterfaceName;
use crate::routes::ours::RouteOwnership;
use crate::routes::spec::Reach;
use crate::rtnetlink::Rtnetlink;
use crate::socket::Message;

/// Types of messages and attributes that are read here (`linux/rtnetlink.h`).
const NEW_ROUTE: u16 = 24;
const DESTINATION: u16 = 1;
const OUT_INTERFACE: u16 = 4;
const GATEWAY: u16 = 5;
const PRIORITY: u16 = 6;
const PREFERRED_SOURCE: u16 = 7;
const MULTIPATH: u16 = 9;
const TABLE: u16 = 15;
const VIA: u16 = 18;
const NEXT_HOP: u16 = 30;
/// Bytes before the attributes (`struct rtmsg`).
const HEADER: usize = 12;
const MAIN_TABLE: u32 = 254;
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;
const TYPE_UNICAST: u8 = 1;
const TYPE_LOCAL: u8 = 2;
const TYPE_BLACKHOLE: u8 = 6;
/// Where the type of a route stands in its message.
const TYPE_OFFSET: usize = 7;
/// The gateway was taken for granted to be on the link (`RTNH_F_ONLINK`).
const FLAG_ON_LINK: u32 = 4;
/// The route is a cache entry, not configuration (`RTM_F_CLONED`).
const FLAG_CLONED: u32 = 0x200;
/// The metric that IPv6 routes get when none is asked for.
pub(crate) const DEFAULT_METRIC_V6: u32 = 1024;

/// Where a route of the kernel's leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObservedTarget {
    /// Straight out of an interface, by number.
    Device {
        /// The interface's number.
        link: u32,
        /// The address that the node's own packets take (`ip route`'s `src`), if the route says one.
        source: Option<IpAddr>,
    },
    /// Through a gateway.
    Gateway {
        /// The gateway's address.
        gateway: IpAddr,
        /// The interface's number.
        link: u32,
        /// Whether the gateway was taken for granted.
        reach: Reach,
    },
    /// Nowhere.
    Blackhole,
    /// A kind that is never wanted: several gateways, another type of route.
    Other {
        /// The interface's number, if there is one.
        link: Option<u32>,
        /// The type of the route, by its number.
        route_type: u8,
    },
}

/// A route of the main table as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedRoute {
    /// The destination.
    pub destination: IpNet,
    /// Where it leads.
    pub target: ObservedTarget,
    /// The number of the program that made it (`ip route`'s `proto`).
    pub protocol: u8,
    /// Its rank among routes to the same destination; lower wins.
    pub metric: u32,
    /// The type of service that it is for; zero is all.
    pub tos: u8,
}

impl ObservedRoute {
    /// Returns the number of the interface that the route leads out of.
    pub fn interface(&self) -> Option<u32> {
        match self.target {
            ObservedTarget::Device { link, .. } | ObservedTarget::Gateway { link, .. } => Some(link),
            ObservedTarget::Blackhole => None,
            ObservedTarget::Other { link, .. } => link,
        }
    }

    /// Whether the route has the metric that a route gets when none is asked for.
    pub(crate) fn has_default_metric(&self) -> bool {
        self.metric
            == match self.destination {
                IpNet::V4(_) => 0,
                IpNet::V6(_) => DEFAULT_METRIC_V6,
            }
    }
}

/// What a route needs to know of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedLink {
    /// Its number.
    pub index: u32,
    /// Whether it is up: the kernel takes no route for one that is down.
    pub up: bool,
}

/// The interfaces and the routes of one reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedRoutes {
    /// The interfaces by name.
    pub links: BTreeMap<InterfaceName, ObservedLink>,
    /// The routes.
    pub routes: Vec<ObservedRoute>,
}

impl ObservedRoutes {
    /// Returns the interfaces' names by number.
    pub(crate) fn names(&self) -> FxHashMap<u32, &str> {
        self.links
            .iter()
            .map(|(name, link)| (link.index, name.as_str()))
            .collect()
    }
}

/// Returns the routes of the main table that are ours, and all interfaces.
///
/// The kernel filters by protocol, so a node with a full table of some routing daemon's costs nothing.
///
/// # Errors
/// A list could not be read.
pub fn observe(netlink: &mut Rtnetlink, ownership: &RouteOwnership) -> Result<ObservedRoutes, NetlinkError> {
    // Routes first: a route whose interface came after the list of interfaces would not be recognised.
    let mut routes = observe_marked(netlink, ownership)?;
    let mut observed = ObservedRoutes {
        links: observe_links(netlink)?,
        routes: Vec::new(),
    };
    let names = observed.names();
    routes.retain(|route: &ObservedRoute| {
        let interface = route.interface().and_then(|index| names.get(&index)).copied();
        ownership.is_ours(route.protocol, interface)
    });
    observed.routes = routes;
    Ok(observed)
}

/// Returns the routes of the main table that bear one of our marks, on whatever interface.
///
/// # Errors
/// A list could not be read.
pub fn observe_marked(
    netlink: &mut Rtnetlink,
    ownership: &RouteOwnership,
) -> Result<Vec<ObservedRoute>, NetlinkError> {
    let mut routes = Vec::new();
    list(netlink, Some(ownership.plain_protocol), None, &mut routes)?;
    if ownership.device_protocol != ownership.plain_protocol {
        list(netlink, Some(ownership.device_protocol), None, &mut routes)?;
    }
    Ok(routes)
}

/// Returns the routes of the main table that lead out of one interface, everybody's.
///
/// # Errors
/// A list could not be read; also if the interface does not exist.
pub fn observe_link(netlink: &mut Rtnetlink, link: &Link) -> Result<Vec<ObservedRoute>, NetlinkError> {
    let mut routes = Vec::new();
    list(netlink, None, Some(link.index), &mut routes)?;
    routes.retain(|route| route.interface() == Some(link.index));
    Ok(routes)
}

/// Returns all routes of the main table, everybody's, and all interfaces.
///
/// # Errors
/// A list could not be read.
pub fn observe_all(netlink: &mut Rtnetlink) -> Result<ObservedRoutes, NetlinkError> {
    let mut routes = Vec::new();
    list(netlink, None, None, &mut routes)?;
    Ok(ObservedRoutes {
        links: observe_links(netlink)?,
        routes,
    })
}

/// Whether the namespace takes packets to an address in as its own.
///
/// The kernel makes an IPv6 address effective in the background, some time after it was accepted.
///
/// # Errors
/// The kernel's refusal, other than that no route leads to the address at all.
pub fn is_local(netlink: &mut Rtnetlink, address: IpAddr) -> Result<bool, NetlinkError> {
    let destination = IpNet::from(address);
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = destination.prefix_len();
    message
        .attributes
        .push(RouteAttribute::Destination(address.into()));
    let operation = format_args!("find route to {address}");
    let route_type = netlink.fetch(&RouteNetlinkMessage::GetRoute(message), &operation, |answer| {
        (answer.message_type == NEW_ROUTE)
            .then(|| answer.body.get(TYPE_OFFSET).copied())
            .flatten()
    });
    match route_type {
        Ok(route_type) => Ok(route_type == Some(TYPE_LOCAL)),
        Err(error)
            if matches!(
                error.errno(),
                Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn observe_links(netlink: &mut Rtnetlink) -> Result<BTreeMap<InterfaceName, ObservedLink>, NetlinkError> {
    let links = links::list(netlink)?;
    Ok(links
        .into_iter()
        .map(|link| {
            (
                link.name,
                ObservedLink {
                    index: link.index,
                    up: link.up,
                },
            )
        })
        .collect())
}

/// Appends the main table's routes of both families, of one protocol or all, out of one interface or any.
fn list(
    netlink: &mut Rtnetlink,
    protocol: Option<u8>,
    link: Option<u32>,
    routes: &mut Vec<ObservedRoute>,
) -> Result<(), NetlinkError> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        // Zero is all, to the kernel.
        message.header.protocol = protocol.unwrap_or(0).into();
        message.attributes.push(RouteAttribute::Table(MAIN_TABLE));
        message.attributes.extend(link.map(RouteAttribute::Oif));
        let operation = format_args!("list {family:?} routes of protocol {protocol:?} out of {link:?}");
        match netlink.dump(&RouteNetlinkMessage::GetRoute(message), &operation, read) {
            Ok(found) => routes.extend(
                found
                    .into_iter()
                    .filter(|route| protocol.is_none_or(|protocol| route.protocol == protocol)),
            ),
            // A family that the kernel lacks, or a table that no route has made yet.
            Err(error)
                if matches!(
                    error.errno(),
                    Some(Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read(message: Message<'_>) -> Option<ObservedRoute> {
    if message.message_type == NEW_ROUTE {
        read_body(message.body)
    } else {
        None
    }
}

/// Reads a route of the main table from what follows the message's header.
pub(crate) fn read_body(body: &[u8]) -> Option<ObservedRoute> {
    let &[family, prefix_length, _, tos, table, protocol, _, route_type, ..] = body else {
        return None;
    };
    let flags = attributes::native32(body.get(8..)?)?;
    if flags & FLAG_CLONED != 0 {
        return None;
    }
    let mut table = u32::from(table);
    let mut destination = match family {
        FAMILY_V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        FAMILY_V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut link, mut gateway, mut source, mut metric, mut exotic) = (None, None, None, 0, false);
    for (kind, value) in attributes::walk(body.get(HEADER..)?) {
        match kind {
            DESTINATION => destination = attributes::address(value)?,
            OUT_INTERFACE => link = attributes::native32(value),
            GATEWAY => gateway = attributes::address(value),
            PREFERRED_SOURCE => source = attributes::address(value),
            PRIORITY => metric = attributes::native32(value)?,
            TABLE => table = attributes::native32(value)?,
            MULTIPATH | VIA | NEXT_HOP => exotic = true,
            _ => {}
        }
    }
    if table != MAIN_TABLE {
        return None;
    }
    let reach = if flags & FLAG_ON_LINK != 0 {
        Reach::OnLink
    } else {
        Reach::Routed
    };
    let target = match (route_type, link, gateway) {
        (TYPE_UNICAST, Some(link), None) if !exotic => ObservedTarget::Device { link, source },
        (TYPE_UNICAST, Some(link), Some(gateway)) if !exotic => {
            ObservedTarget::Gateway { gateway, link, reach }
        }
        (TYPE_BLACKHOLE, _, _) => ObservedTarget::Blackhole,
        (route_type, link, _) => ObservedTarget::Other { link, route_type },
    };
    let destination = IpNet::new(destination, prefix_length).ok()?;
    Some(ObservedRoute {
        destination,
        target,
        protocol,
        metric,
        tos,
    })
}
