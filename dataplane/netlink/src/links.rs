//! Network interfaces: what there is, a pair made across two namespaces, and the changes to one.
//!
//! Deleting a link makes the kernel wait about 20 ms for readers to pass: callers keep it off the path that
//! applies policy. A group of links takes hardly longer than one.

use std::fmt;
use std::os::fd::AsRawFd;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use crate::attributes;
use crate::error::NetlinkError;
use crate::mac::MacAddress;
use crate::names::InterfaceName;
use crate::namespace::NetworkNamespace;
use crate::rtnetlink::Rtnetlink;
use crate::socket::{CREATE, EXCLUSIVE, Message};

/// Types of messages and attributes that are read here (`linux/if_link.h`, `linux/rtnetlink.h`).
const NEW_LINK: u16 = 16;
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const PEER: u16 = 5;
const MASTER: u16 = 10;
const OPER_STATE: u16 = 16;
const LINK_INFO: u16 = 18;
const GROUP: u16 = 27;
const PEER_NAMESPACE: u16 = 37;
const INFO_KIND: u16 = 1;
const NEW_NSID: u16 = 88;
const NSID: u16 = 1;
/// Bytes before the attributes of a link (`struct ifinfomsg`) and of a namespace number.
const LINK_HEADER: usize = 16;
const NSID_HEADER: usize = 4;
/// The interface is administratively up (`IFF_UP`).
const FLAG_UP: u32 = 1;

/// Whether an interface can carry packets (RFC 2863).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperState {
    /// The driver does not say; loopback is so.
    Unknown,
    /// It can.
    Up,
    /// It cannot: administratively down, without carrier, or waiting for a lower layer.
    Down,
}

/// An interface as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number, unique in its namespace while the interface lives.
    pub index: u32,
    /// Its name.
    pub name: InterfaceName,
    /// The driver's name for its kind (`veth`, `bridge`); hardware has none.
    pub kind: Option<String>,
    /// Its Ethernet address, if it is of that sort.
    pub mac: Option<MacAddress>,
    /// Its largest packet, in bytes.
    pub mtu: u32,
    /// Whether it was set up.
    pub up: bool,
    /// Whether it can carry packets.
    pub oper_state: OperState,
    /// The number of the other end or the lower interface, in that one's namespace.
    pub peer: Option<u32>,
    /// The number by which this namespace knows the other end's; absent if it is the same.
    pub peer_namespace: Option<i32>,
    /// The bridge or bond that it belongs to.
    pub master: Option<u32>,
    /// The group of interfaces that it is in; 0 where nobody put it into one.
    pub group: u32,
}

impl Link {
    /// Whether the interface is one end of a virtual pair.
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }
}

/// What is wanted of an existing interface; what is absent does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSpec {
    /// The largest packet, in bytes.
    pub mtu: Option<u32>,
    /// The Ethernet address.
    pub mac: Option<MacAddress>,
    /// Whether it is to be up.
    pub state: AdminState,
}

impl LinkSpec {
    /// Up, and everything else as it is.
    pub const UP: LinkSpec = LinkSpec {
        mtu: None,
        mac: None,
        state: AdminState::Up,
    };
}

/// Whether an interface is to be up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminState {
    /// Set up.
    Up,
    /// Set down.
    Down,
}

/// One change to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkStep {
    /// Set the largest packet, in bytes.
    SetMtu(u32),
    /// Set the Ethernet address.
    SetMac(MacAddress),
    /// Set it up or down.
    SetState(AdminState),
    /// Put it into a group of interfaces.
    SetGroup(u32),
}

impl fmt::Display for LinkStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetMtu(mtu) => write!(formatter, "mtu {mtu}"),
            Self::SetMac(mac) => write!(formatter, "address {mac}"),
            Self::SetState(AdminState::Up) => formatter.write_str("up"),
            Self::SetState(AdminState::Down) => formatter.write_str("down"),
            Self::SetGroup(group) => write!(formatter, "group {group}"),
        }
    }
}

/// Returns the changes from what an interface is to what it is to be.
///
/// The state comes last, so that an interface carries no packet with an address that it is about to lose.
pub fn plan(desired: &LinkSpec, observed: &Link) -> Vec<LinkStep> {
    let LinkSpec { mtu, mac, state } = desired;
    let mut steps = Vec::new();
    steps.extend(mtu.filter(|mtu| *mtu != observed.mtu).map(LinkStep::SetMtu));
    steps.extend(mac.filter(|mac| Some(*mac) != observed.mac).map(LinkStep::SetMac));
    if (*state == AdminState::Up) != observed.up {
        steps.push(LinkStep::SetState(*state));
    }
    steps
}

/// Carries changes to one interface out, in order; the first failure ends them.
///
/// # Errors
/// The kernel's refusal of one change.
pub fn execute(netlink: &mut Rtnetlink, link: &Link, steps: &[LinkStep]) -> Result<(), NetlinkError> {
    for step in steps {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        match step {
            LinkStep::SetMtu(mtu) => message.attributes.push(LinkAttribute::Mtu(*mtu)),
            LinkStep::SetMac(mac) => message
                .attributes
                .push(LinkAttribute::Address(mac.bytes().to_vec())),
            LinkStep::SetState(state) => {
                message.header.change_mask = LinkFlags::Up;
                if *state == AdminState::Up {
                    message.header.flags = LinkFlags::Up;
                }
            }
            LinkStep::SetGroup(group) => message.attributes.push(LinkAttribute::Group(*group)),
        }
        let operation = format_args!("set link {} {step}", link.name);
        netlink.execute(&RouteNetlinkMessage::SetLink(message), 0, &operation)?;
    }
    Ok(())
}

/// Returns all interfaces of the namespace.
///
/// An interface whose name is not text is left out: no name of ours is so.
///
/// # Errors
/// The list could not be read.
pub fn list(netlink: &mut Rtnetlink) -> Result<Vec<Link>, NetlinkError> {
    let mut message = LinkMessage::default();
    // Counters are most of what a link's message weighs, and nobody here reads them.
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    netlink.dump(&RouteNetlinkMessage::GetLink(message), &"list links", read)
}

/// Returns the interface of that name, if there is one.
///
/// # Errors
/// The kernel's refusal, other than that there is none.
pub fn find(netlink: &mut Rtnetlink, name: &InterfaceName) -> Result<Option<Link>, NetlinkError> {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.as_str().to_owned()));
    get(netlink, message, &format_args!("find link {name}"))
}

/// Returns the interface of that number, if there is one.
///
/// # Errors
/// The kernel's refusal, other than that there is none.
pub fn find_index(netlink: &mut Rtnetlink, index: u32) -> Result<Option<Link>, NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    get(netlink, message, &format_args!("find link number {index}"))
}

fn get(
    netlink: &mut Rtnetlink,
    mut message: LinkMessage,
    operation: &dyn fmt::Display,
) -> Result<Option<Link>, NetlinkError> {
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    match netlink.fetch(&RouteNetlinkMessage::GetLink(message), operation, read) {
        Err(error) if error.is_absent() => Ok(None),
        other => other,
    }
}

/// One end of a virtual pair that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethEnd {
    /// The name.
    pub name: InterfaceName,
    /// The Ethernet address; the kernel chooses one where it is absent.
    pub mac: Option<MacAddress>,
}

/// Makes a virtual pair, this end here and the peer directly in another namespace. Both ends are down.
///
/// The peer is never seen in this namespace, so no other software here can take it for an interface of its own.
///
/// # Errors
/// One of the names is taken in its namespace, or the kernel refuses for another reason.
pub fn create_veth(
    netlink: &mut Rtnetlink,
    here: &VethEnd,
    there: &VethEnd,
    namespace: &NetworkNamespace,
    mtu: u32,
) -> Result<(), NetlinkError> {
    let attributes = |end: &VethEnd| {
        let mut attributes = vec![
            LinkAttribute::IfName(end.name.as_str().to_owned()),
            LinkAttribute::Mtu(mtu),
            // As many as are used in any case. Unasked the kernel makes one for each processor, takes the others away
            // again, and waits for all processors to notice.
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
        ];
        attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.bytes().to_vec())));
        attributes
    };
    let mut peer = LinkMessage::default();
    peer.attributes = attributes(there);
    peer.attributes
        .push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    let mut message = LinkMessage::default();
    message.attributes = attributes(here);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    let operation = format_args!("add link {} type veth peer {}", here.name, there.name);
    netlink.execute(
        &RouteNetlinkMessage::NewLink(message),
        CREATE | EXCLUSIVE,
        &operation,
    )
}

/// Deletes an interface and, of a virtual pair, its other end; says whether there was one to delete.
///
/// The kernel waits about 20 ms.
///
/// # Errors
/// The kernel's refusal, other than that there is none.
pub fn delete(netlink: &mut Rtnetlink, link: &Link) -> Result<bool, NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    let operation = format_args!("delete link {}", link.name);
    match netlink.execute(&RouteNetlinkMessage::DelLink(message), 0, &operation) {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes all interfaces of a group and, of virtual pairs, their other ends; says whether there were any.
///
/// The kernel waits about 20 ms in all, where it would wait so long for each.
///
/// # Errors
/// The kernel's refusal: of the group 0, or of an interface that cannot be deleted, and then none is.
pub fn delete_group(netlink: &mut Rtnetlink, group: u32) -> Result<bool, NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    let operation = format_args!("delete links of group {group}");
    match netlink.execute(&RouteNetlinkMessage::DelLink(message), 0, &operation) {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns the number by which this namespace knows another, if it has one for it.
///
/// # Errors
/// The kernel's refusal.
pub fn namespace_number(
    netlink: &mut Rtnetlink,
    namespace: &NetworkNamespace,
) -> Result<Option<i32>, NetlinkError> {
    let mut message = NsidMessage::default();
    let descriptor = u32::try_from(namespace.as_raw_fd()).unwrap_or(u32::MAX);
    message.attributes.push(NsidAttribute::Fd(descriptor));
    let number = netlink.fetch(
        &RouteNetlinkMessage::GetNsId(message),
        &"find a namespace's number",
        |answer| {
            if answer.message_type != NEW_NSID {
                return None;
            }
            attributes::find(answer.body.get(NSID_HEADER..)?, NSID)
                .and_then(attributes::native32)
                .map(|number| number as i32)
        },
    )?;
    Ok(number.filter(|number| *number >= 0))
}

/// Reads an interface from the kernel's message.
pub(crate) fn read(message: Message<'_>) -> Option<Link> {
    if message.message_type != NEW_LINK {
        return None;
    }
    read_body(message.body)
}

/// Reads an interface from what follows the message's header.
pub(crate) fn read_body(body: &[u8]) -> Option<Link> {
    let index = attributes::native32(body.get(4..)?)?;
    let flags = attributes::native32(body.get(8..)?)?;
    let mut name = None;
    let mut link = Link {
        index,
        name: InterfaceName::new("unnamed").ok()?,
        kind: None,
        mac: None,
        mtu: 0,
        up: flags & FLAG_UP != 0,
        oper_state: OperState::Unknown,
        peer: None,
        peer_namespace: None,
        master: None,
        group: 0,
    };
    for (kind, value) in attributes::walk(body.get(LINK_HEADER..)?) {
        match kind {
            ADDRESS => link.mac = MacAddress::try_from(value).ok(),
            NAME => {
                name = std::str::from_utf8(attributes::text(value))
                    .ok()
                    .and_then(|name| InterfaceName::new(name).ok());
            }
            MTU => link.mtu = attributes::native32(value)?,
            PEER => link.peer = attributes::native32(value),
            MASTER => link.master = attributes::native32(value),
            GROUP => link.group = attributes::native32(value)?,
            OPER_STATE => {
                link.oper_state = match attributes::number8(value) {
                    Some(0) | None => OperState::Unknown,
                    Some(6) => OperState::Up,
                    Some(_) => OperState::Down,
                }
            }
            LINK_INFO => {
                link.kind = attributes::find(value, INFO_KIND)
                    .map(|kind| String::from_utf8_lossy(attributes::text(kind)).into_owned());
            }
            PEER_NAMESPACE => link.peer_namespace = attributes::native32(value).map(|number| number as i32),
            _ => {}
        }
    }
    link.name = name?;
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn link(mtu: u32, mac: u8, up: bool) -> Link {
        Link {
            index: 7,
            name: InterfaceName::new("cali1").unwrap(),
            kind: Some("veth".into()),
            mac: Some(MacAddress::new([2, 0, 0, 0, 0, mac])),
            mtu,
            up,
            oper_state: OperState::Down,
            peer: Some(2),
            peer_namespace: Some(0),
            master: None,
            group: 0,
        }
    }

    fn apply(link: &mut Link, steps: &[LinkStep]) {
        for step in steps {
            match step {
                LinkStep::SetMtu(mtu) => link.mtu = *mtu,
                LinkStep::SetMac(mac) => link.mac = Some(*mac),
                LinkStep::SetState(state) => link.up = *state == AdminState::Up,
                LinkStep::SetGroup(group) => link.group = *group,
            }
        }
    }

    proptest! {
        #[test]
        fn applying_a_plan_twice_changes_nothing(
            mtu in proptest::option::of(1u32..4), mac in proptest::option::of(1u8..4), up: bool,
            seen_mtu in 1u32..4, seen_mac in 1u8..4, seen_up: bool,
        ) {
            let spec = LinkSpec {
                mtu,
                mac: mac.map(|last| MacAddress::new([2, 0, 0, 0, 0, last])),
                state: if up { AdminState::Up } else { AdminState::Down },
            };
            let mut observed = link(seen_mtu, seen_mac, seen_up);
            let steps = plan(&spec, &observed);
            apply(&mut observed, &steps);
            prop_assert_eq!(plan(&spec, &observed), vec![]);
            prop_assert_eq!(observed.up, up);
            prop_assert_eq!(observed.mtu, mtu.unwrap_or(seen_mtu));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_body(&bytes);
        }
    }
}
