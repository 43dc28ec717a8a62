//! Answers of the IP set protocol, as values. Pure.

use std::collections::HashMap;

use dataplane_netlink::NetlinkError;
use dataplane_netlink::attributes;
use dataplane_netlink::socket::Message;
use ipnet::IpNet;
use nix::errno::Errno;
use policy_model::Protocol;

use crate::ops::{Family, Member, SetKind, SetOp, SetSpec};

use super::error::SetProblem;
use super::numbers::{self, attribute, command, data};
use super::wire::{Origin, TypeSupport, family_number};

/// Bytes of the nfnetlink header.
const HEADER: usize = 4;
/// Netlink's own header.
const NETLINK_HEADER: usize = 16;
/// All kinds.
const KINDS: [SetKind; 5] = [
    SetKind::HashIp,
    SetKind::HashNet,
    SetKind::HashIpPort,
    SetKind::HashNetPort,
    SetKind::HashNetIface,
];

/// What is known of a set without its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetHeader {
    /// Its name.
    pub name: String,
    /// Its type; none if it is one that we never make.
    pub kind: Option<SetKind>,
    /// Its family; none if it is neither IPv4 nor IPv6.
    pub family: Option<Family>,
    /// The most members that it may have.
    pub max_elements: u32,
    /// How many members it has.
    pub elements: u32,
    /// How many rules name it.
    pub references: u32,
    /// How many bytes of memory it takes.
    pub memory: u32,
    /// Whether its members may be given a time to live.
    pub with_timeout: bool,
    /// Whether it has nothing else that would change what it means, such as a netmask.
    pub is_plain: bool,
}

/// A set with its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSet {
    /// What is known of it.
    pub header: SetHeader,
    /// Its members that are of a kind that we make.
    pub members: Vec<Member>,
    /// How many it has of other kinds (exceptions, ranges): somebody else's.
    pub strange: usize,
}

/// A request that was refused.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) number: i32,
    /// The place in the operation of the member that it is about.
    member: Option<usize>,
}

impl Refused {
    pub(super) fn reason(&self) -> String {
        match numbers::meaning(self.number) {
            Some(meaning) => meaning.to_owned(),
            None if self.number < numbers::ERR_PRIVATE => Errno::from_raw(self.number).desc().to_lowercase(),
            None => format!("error {} of IP sets", self.number),
        }
    }
}

/// Reads an acknowledgement.
pub(super) fn answer(message: Message<'_>) -> Result<(), Refused> {
    let number = attributes::native32(message.body).unwrap_or_default() as i32;
    if number == 0 {
        return Ok(());
    }
    // A refusal of a member repeats the request, with the member's line in it.
    let line = message
        .body
        .get(4 + NETLINK_HEADER + HEADER..)
        .and_then(|request| attributes::find(request, attribute::LINE))
        .and_then(attributes::network32);
    Err(Refused {
        number: number.saturating_neg(),
        member: line.and_then(|line| (line as usize).checked_sub(1)),
    })
}

/// Says of a refusal what it is about.
pub(super) fn problem(operations: &[SetOp], origin: Origin, refusal: Refused) -> SetProblem {
    let reason = refusal.reason();
    let (what, set, members): (String, &str, &[Member]) = match operations.get(origin.operation) {
        Some(SetOp::Create(SetSpec {
            name, family, kind, ..
        })) => {
            let what = format!("make IP set {name} ({} of {family})", kind.name());
            (what, name, &[])
        }
        Some(SetOp::Add(name, members)) => (format!("add to IP set {name}"), name, members),
        Some(SetOp::Remove(name, members)) => (format!("remove from IP set {name}"), name, members),
        Some(SetOp::Swap(one, other)) => (format!("exchange IP sets {one} and {other}"), one, &[]),
        Some(SetOp::Destroy(name)) => (format!("remove IP set {name}"), name, &[]),
        None => ("change IP sets".to_owned(), "", &[]),
    };
    SetProblem {
        operation: what,
        set: set.to_owned(),
        member: refusal.member.and_then(|place| members.get(place)).cloned(),
        reason,
        number: refusal.number,
    }
}

/// Whether a refusal has a number of the subsystem's own.
pub(super) fn is_private(error: &NetlinkError) -> bool {
    error.errno() == Some(Errno::UnknownErrno)
}

/// Reads the answer about a type.
pub(super) fn read_type(message: Message<'_>) -> Option<TypeSupport> {
    let body = body_of(message, command::TYPE)?;
    let number = |kind| attributes::find(body, kind).and_then(attributes::number8);
    let last = number(attribute::REVISION)?;
    Some(TypeSupport {
        first: number(attribute::REVISION_MIN).unwrap_or(last),
        last,
    })
}

/// Reads one message of a list: a set, or a further part of one. Sets of other names are passed over.
pub(super) fn read_set(message: Message<'_>, wanted: &impl Fn(&str) -> bool) -> Option<ObservedSet> {
    let body = body_of(message, command::LIST)?;
    let text = |kind| {
        let value = attributes::text(attributes::find(body, kind)?);
        std::str::from_utf8(value).ok()
    };
    let name = text(attribute::SET_NAME).filter(|name| wanted(name))?;
    let kind = text(attribute::TYPE_NAME).and_then(|name| KINDS.into_iter().find(|kind| kind.name() == name));
    let family = attributes::find(body, attribute::FAMILY)
        .and_then(attributes::number8)
        .and_then(|number| {
            Family::BOTH
                .into_iter()
                .find(|&family| family_number(family) == number)
        });
    let inside = attributes::find(body, attribute::DATA).unwrap_or_default();
    let number = |kind| attributes::find(inside, kind).and_then(attributes::network32);
    let has = |kind| attributes::find(inside, kind).is_some();
    let header = SetHeader {
        name: name.to_owned(),
        kind,
        family,
        max_elements: number(data::MAX_ELEMENTS).unwrap_or_default(),
        elements: number(data::ELEMENTS).unwrap_or_default(),
        references: number(data::REFERENCES).unwrap_or_default(),
        memory: number(data::MEMORY).unwrap_or_default(),
        with_timeout: has(data::TIMEOUT),
        is_plain: !has(data::NETMASK) && !has(data::BIT_MASK),
    };
    let (mut members, mut strange) = (Vec::new(), 0);
    let list = attributes::find(body, attribute::MEMBERS).unwrap_or_default();
    for (_, member) in attributes::walk(list) {
        match read_member(member) {
            Some(member) => members.push(member),
            None => strange += 1,
        }
    }
    Some(ObservedSet {
        header,
        members,
        strange,
    })
}

/// Reads a member; which kind it is shows in what it has.
pub(super) fn read_member(member: &[u8]) -> Option<Member> {
    let find = |kind| attributes::find(member, kind);
    let flags = find(data::FLAGS)
        .and_then(attributes::network32)
        .unwrap_or_default();
    // Exceptions, ports of bridges and beginnings of names are nothing that we make.
    if flags & (numbers::NO_MATCH | numbers::PHYSICAL | numbers::WILDCARD) != 0 {
        return None;
    }
    let (_, address) = attributes::walk(find(data::IP)?).next()?;
    let address = attributes::address(address)?;
    let prefix = find(data::PREFIX).and_then(attributes::number8);
    let net = prefix
        .map(|prefix| IpNet::new(address, prefix))
        .transpose()
        .ok()?;
    let port = find(data::PORT).and_then(attributes::network16);
    let protocol = find(data::PROTOCOL)
        .and_then(attributes::number8)
        .map(Protocol::from_number);
    if let Some(interface) = find(data::INTERFACE) {
        let interface = std::str::from_utf8(attributes::text(interface)).ok()?.to_owned();
        return Some(Member::NetIface { net: net?, interface });
    }
    match (net, port) {
        (None, None) => Some(Member::Ip(address)),
        (Some(net), None) => Some(Member::Net(net)),
        (None, Some(port)) => Some(Member::IpPort {
            address,
            protocol: protocol?,
            port,
        }),
        (Some(net), Some(port)) => Some(Member::NetPort {
            net,
            protocol: protocol?,
            port,
        }),
    }
}

/// Joins the parts of sets that did not fit into one message. Only a set's first part has its header.
pub(super) fn join(parts: Vec<ObservedSet>) -> Vec<ObservedSet> {
    let mut sets: Vec<ObservedSet> = Vec::with_capacity(parts.len());
    let mut places: HashMap<String, usize> = HashMap::new();
    for part in parts {
        match places
            .get(&part.header.name)
            .and_then(|&place| sets.get_mut(place))
        {
            Some(set) => {
                set.members.extend(part.members);
                set.strange += part.strange;
            }
            None => {
                places.insert(part.header.name.clone(), sets.len());
                sets.push(part);
            }
        }
    }
    sets
}

fn body_of(message: Message<'_>, command: u16) -> Option<&[u8]> {
    (message.message_type == (numbers::SUBSYSTEM << 8) | command)
        .then(|| message.body.get(HEADER..))
        .flatten()
}
