//! Messages of the IP set protocol: operations as bytes. Pure.

use std::net::IpAddr;

use dataplane_netlink::attributes::{put, put_nested};
use dataplane_netlink::socket::{EXCLUSIVE, Request};
use ipnet::IpNet;
use policy_model::Protocol;

use crate::ops::{Family, Member, SetKind, SetOp, SetSpec};

use super::error::IpsetError;
use super::numbers::{self, NETWORK_ORDER, attribute, command, data};

/// How long a message may become: the kernel repeats it whole when it refuses a member.
const MESSAGE_LIMIT: usize = 16 * 1024;

/// Which revisions of a type the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeSupport {
    /// The first.
    pub first: u8,
    /// The last.
    pub last: u8,
}

impl TypeSupport {
    /// The revision of which a set is made: not the newest, since an older `ipset` program refuses to list anything while
    /// there is a set of a revision that it does not know.
    pub(super) fn revision_for(self, kind: SetKind) -> u8 {
        // Those of Linux 3.18; what came later is not used here.
        let usual = match kind {
            SetKind::HashIp => 4,
            SetKind::HashNet => 6,
            SetKind::HashIpPort => 5,
            SetKind::HashNetPort => 7,
            SetKind::HashNetIface => 6,
        };
        self.last.min(usual).max(self.first)
    }
}

/// What a new set is given beside what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Birth {
    /// The type's revision.
    pub(super) revision: u8,
    /// How many members it is to get at once.
    pub(super) members: usize,
}

impl Birth {
    /// How many buckets the kernel makes. It doubles them when one is full; where all members come at once it is better to
    /// have the room, and for the many small sets the usual 1,024 are 8 KiB each that nobody needs.
    fn buckets(self) -> u32 {
        let wanted = self
            .members
            .clamp(FEWEST_BUCKETS, MOST_BUCKETS)
            .next_power_of_two();
        u32::try_from(wanted).unwrap_or_default()
    }
}

/// The fewest that the kernel makes.
const FEWEST_BUCKETS: usize = 64;
/// Half a megabyte; what is larger has to wait for a few doublings.
const MOST_BUCKETS: usize = 1 << 16;

/// How much of sets a list says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    Header,
    Members,
}

/// A request with the operation that it is of, and its first member's place in the operation.
pub(super) struct Sent {
    pub(super) origin: Origin,
    pub(super) request: Request,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) operation: usize,
}

/// Appends the requests of an operation: one, or for many members as many as they need.
pub(super) fn requests(
    out: &mut Vec<Sent>,
    index: usize,
    operation: &SetOp,
    birth: Birth,
) -> Result<(), IpsetError> {
    let origin = Origin { operation: index };
    let mut push = |request| out.push(Sent { origin, request });
    match operation {
        SetOp::Create(SetSpec {
            name,
            family,
            kind,
            max_elements,
            with_timeout,
        }) => {
            let mut body = begin(name, *family)?;
            put_text(&mut body, attribute::TYPE_NAME, kind.name());
            put(&mut body, attribute::REVISION, &[birth.revision]);
            put(&mut body, attribute::FAMILY, &[family_number(*family)]);
            put_nested(&mut body, attribute::DATA, |inside| {
                put_be32(inside, data::MAX_ELEMENTS, *max_elements);
                put_be32(inside, data::BUCKETS, birth.buckets());
                if *with_timeout {
                    // Members stay for ever unless they are given a time.
                    put_be32(inside, data::TIMEOUT, 0);
                }
            });
            push(request(command::CREATE, EXCLUSIVE, body));
        }
        SetOp::Destroy(name) => push(request(command::DESTROY, 0, begin(name, Family::Inet)?)),
        SetOp::Swap(one, other) => {
            let mut body = begin(one, Family::Inet)?;
            put_text(&mut body, attribute::SET_NAME_2, checked(other)?);
            push(request(command::SWAP, 0, body));
        }
        SetOp::Add(name, members) => change(&mut push, command::ADD, name, members)?,
        SetOp::Remove(name, members) => change(&mut push, command::DELETE, name, members)?,
    }
    Ok(())
}

/// Adds or removes members, as many a message as fit. What is so already is no error (no `NLM_F_EXCL`).
fn change(
    push: &mut impl FnMut(Request),
    command: u16,
    name: &str,
    members: &[Member],
) -> Result<(), IpsetError> {
    let empty = begin(name, Family::Inet)?;
    let mut elements = Vec::new();
    let mut finish = |elements: &mut Vec<u8>| {
        if !elements.is_empty() {
            let mut body = empty.clone();
            // The kernel wants a line number beside a list, and fills it in when it refuses a member.
            put_be32(&mut body, attribute::LINE, 0);
            put_nested(&mut body, attribute::MEMBERS, |inside| inside.append(elements));
            push(request(command, 0, body));
        }
    };
    for (place, member) in members.iter().enumerate() {
        // Lines count from one, so that zero says that no member was at fault.
        let line = u32::try_from(place + 1).unwrap_or_default();
        for form in super::kernel_forms(member).iter().flatten() {
            put_nested(&mut elements, attribute::DATA, |inside| {
                put_member(inside, form);
                put_be32(inside, data::LINE, line);
            });
        }
        if elements.len() > MESSAGE_LIMIT {
            finish(&mut elements);
        }
    }
    finish(&mut elements);
    Ok(())
}

/// Asks whether a set has a member.
pub(super) fn test_request(name: &str, member: &Member) -> Request {
    let mut body = start(Family::Inet);
    put_text(&mut body, attribute::SET_NAME, name);
    put_nested(&mut body, attribute::DATA, |inside| {
        put_member(inside, member);
        put_be32(inside, data::LINE, 0);
    });
    request(command::TEST, EXCLUSIVE, body)
}

/// Asks for the revisions of a type.
pub(super) fn type_request(kind: SetKind, family: Family) -> Request {
    let mut body = start(family);
    put_text(&mut body, attribute::TYPE_NAME, kind.name());
    put(&mut body, attribute::FAMILY, &[family_number(family)]);
    request(command::TYPE, 0, body)
}

/// Asks for one set or all.
pub(super) fn list_request(name: Option<&str>, detail: Detail) -> Request {
    let mut body = start(Family::Inet);
    if let Some(name) = name {
        put_text(&mut body, attribute::SET_NAME, name);
    }
    if detail == Detail::Header {
        put_be32(&mut body, attribute::FLAGS, numbers::LIST_HEADER);
    }
    request(command::LIST, 0, body)
}

fn request(command: u16, flags: u16, body: Vec<u8>) -> Request {
    Request {
        message_type: (numbers::SUBSYSTEM << 8) | command,
        flags,
        body,
    }
}

/// The nfnetlink header and the protocol's version.
fn start(family: Family) -> Vec<u8> {
    let mut body = vec![family_number(family), 0, 0, 0];
    put(&mut body, attribute::PROTOCOL, &[numbers::PROTOCOL_VERSION]);
    body
}

fn begin(name: &str, family: Family) -> Result<Vec<u8>, IpsetError> {
    let mut body = start(family);
    put_text(&mut body, attribute::SET_NAME, checked(name)?);
    Ok(body)
}

fn checked(name: &str) -> Result<&str, IpsetError> {
    if name.is_empty() || name.len() > numbers::NAME_LIMIT || name.contains('\0') {
        return Err(IpsetError::Name(name.to_owned()));
    }
    Ok(name)
}

/// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
pub(super) fn family_number(family: Family) -> u8 {
    match family {
        Family::Inet => 2,
        Family::Inet6 => 10,
    }
}

fn put_text(body: &mut Vec<u8>, kind: u16, text: &str) {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    put(body, kind, &value);
}

fn put_be32(body: &mut Vec<u8>, kind: u16, number: u32) {
    put(body, kind | NETWORK_ORDER, &number.to_be_bytes());
}

fn put_member(body: &mut Vec<u8>, member: &Member) {
    match *member {
        Member::Ip(address) => put_address(body, address),
        Member::Net(net) => put_net(body, net),
        Member::IpPort {
            address,
            protocol,
            port,
        } => {
            put_address(body, address);
            put_port(body, protocol, port);
        }
        Member::NetPort { net, protocol, port } => {
            put_net(body, net);
            put_port(body, protocol, port);
        }
        Member::NetIface { net, ref interface } => {
            put_net(body, net);
            put_text(body, data::INTERFACE, interface);
        }
    }
}

fn put_address(body: &mut Vec<u8>, address: IpAddr) {
    put_nested(body, data::IP, |inside| match address {
        IpAddr::V4(address) => put(inside, data::IPV4 | NETWORK_ORDER, &address.octets()),
        IpAddr::V6(address) => put(inside, data::IPV6 | NETWORK_ORDER, &address.octets()),
    });
}

fn put_net(body: &mut Vec<u8>, net: IpNet) {
    put_address(body, net.network());
    put(body, data::PREFIX, &[net.prefix_len()]);
}

fn put_port(body: &mut Vec<u8>, protocol: Protocol, port: u16) {
    put(body, data::PORT | NETWORK_ORDER, &port.to_be_bytes());
    put(body, data::PROTOCOL, &[protocol.number()]);
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
