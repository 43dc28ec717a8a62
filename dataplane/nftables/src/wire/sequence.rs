//! Phrases: the usual sequences of expressions, as the nft program writes them, so that it prints them as one wrote them.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::batch::{SetId, anonymous_name};
use super::expr::{CmpOp, CtKey, Expr, Lookup, MetaKey, OnHit, PayloadBase};
use super::register::Register;
use super::set::Set;
use super::value::Value;

/// IPv4, as [`MetaKey::Family`] has it.
const FAMILY_IPV4: u8 = 2;
/// IPv6, as [`MetaKey::Family`] has it.
const FAMILY_IPV6: u8 = 10;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Something to load, compare or look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A property beside the packet.
    Meta(MetaKey),
    /// A property of the connection.
    Ct(CtKey),
    /// The IPv4 source. Only behind [`only_family`].
    Ipv4Source,
    /// The IPv4 destination.
    Ipv4Destination,
    /// The IPv6 source.
    Ipv6Source,
    /// The IPv6 destination.
    Ipv6Destination,
    /// The source port of TCP, UDP or SCTP. Without [`only_protocol`] printed as `th sport`.
    SourcePort,
    /// The destination port.
    DestinationPort,
    /// The type of an ICMP or ICMPv6 message.
    IcmpType,
    /// The code of an ICMP or ICMPv6 message.
    IcmpCode,
    /// The flags of a TCP header.
    TcpFlags,
}

impl Source {
    /// The source or destination of a packet of the address's family.
    #[must_use]
    pub const fn address(family_of: IpAddr, source: bool) -> Self {
        match (family_of, source) {
            (IpAddr::V4(_), true) => Self::Ipv4Source,
            (IpAddr::V4(_), false) => Self::Ipv4Destination,
            (IpAddr::V6(_), true) => Self::Ipv6Source,
            (IpAddr::V6(_), false) => Self::Ipv6Destination,
        }
    }

    /// The width in a register, in bytes.
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            Self::Meta(MetaKey::InInterfaceName | MetaKey::OutInterfaceName) => 16,
            Self::Meta(MetaKey::Family | MetaKey::L4Protocol | MetaKey::PacketType) => 1,
            Self::Meta(MetaKey::Protocol | MetaKey::InInterfaceType | MetaKey::OutInterfaceType) => 2,
            Self::Ct(CtKey::SourceIpv6 | CtKey::DestinationIpv6) => 16,
            Self::Ct(CtKey::Direction | CtKey::Protocol | CtKey::L3Protocol) => 1,
            Self::Ct(CtKey::SourcePort | CtKey::DestinationPort | CtKey::Zone) => 2,
            Self::Meta(_) | Self::Ct(_) | Self::Ipv4Source | Self::Ipv4Destination => 4,
            Self::Ipv6Source | Self::Ipv6Destination => 16,
            Self::SourcePort | Self::DestinationPort => 2,
            Self::IcmpType | Self::IcmpCode | Self::TcpFlags => 1,
        }
    }

    /// Loads it into a register.
    #[must_use]
    pub fn load(self, to: Register) -> Expr {
        let payload = |base, offset| Expr::Payload {
            base,
            offset,
            len: self.width() as u32,
            to,
        };
        match self {
            Self::Meta(key) => Expr::Meta { key, to },
            Self::Ct(key) => Expr::Ct {
                key,
                direction: None,
                to,
            },
            Self::Ipv4Source => payload(PayloadBase::Network, 12),
            Self::Ipv4Destination => payload(PayloadBase::Network, 16),
            Self::Ipv6Source => payload(PayloadBase::Network, 8),
            Self::Ipv6Destination => payload(PayloadBase::Network, 24),
            Self::SourcePort | Self::IcmpType => payload(PayloadBase::Transport, 0),
            Self::DestinationPort => payload(PayloadBase::Transport, 2),
            Self::IcmpCode => payload(PayloadBase::Transport, 1),
            Self::TcpFlags => payload(PayloadBase::Transport, 13),
        }
    }
}

/// Loads one thing into the first register.
#[must_use]
pub fn load(source: Source) -> Expr {
    source.load(Register::FIRST)
}

/// Loads several things one after the other, each at the start of a word, from the first register on.
pub fn concat(sources: impl IntoIterator<Item = Source>) -> impl Iterator<Item = Expr> {
    let mut register = Register::FIRST;
    sources.into_iter().map(move |source| {
        let to = register;
        register = register.after(source.width());
        source.load(to)
    })
}

/// Matches if the thing compares so with the value.
#[must_use]
pub fn compare(source: Source, op: CmpOp, value: Value) -> [Expr; 2] {
    [
        load(source),
        Expr::Cmp {
            op,
            from: Register::FIRST,
            value,
        },
    ]
}

/// Matches packets of the family of this address only; what nft puts before a match on an address in an inet table.
#[must_use]
pub fn only_family(of: IpAddr) -> [Expr; 2] {
    let family = if of.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 };
    compare(Source::Meta(MetaKey::Family), CmpOp::Eq, Value::byte(family))
}

/// Matches packets of one layer 4 protocol only; what nft puts before a match on a port or flag.
#[must_use]
pub fn only_protocol(protocol: u8) -> [Expr; 2] {
    compare(
        Source::Meta(MetaKey::L4Protocol),
        CmpOp::Eq,
        Value::byte(protocol),
    )
}

/// Matches if an address is in the net, or (`op` unequal) is not. Needs [`only_family`] before it.
#[must_use]
pub fn masked(source: Source, op: CmpOp, net: IpNet) -> Vec<Expr> {
    let from = Register::FIRST;
    let address = Value::ip(net.network());
    let (mut loads, bits) = (load(source), net.prefix_len());
    if bits > 0 && bits.is_multiple_of(8) {
        // Whole bytes need no mask: only they are loaded, and nft says it so too.
        let bytes = usize::from(bits / 8);
        if let Expr::Payload { len, .. } = &mut loads {
            *len = bytes as u32;
        }
        let value = Value::bytes(address.as_bytes().get(..bytes).unwrap_or_default());
        return vec![loads, Expr::Cmp { op, from, value }];
    }
    let mask = Expr::Bitwise {
        from,
        to: from,
        mask: Value::ip(net.netmask()),
        xor: address.all_zeros(),
    };
    let value = address;
    vec![loads, mask, Expr::Cmp { op, from, value }]
}

/// Matches if a port is from the first to the last, both counted. Needs a match on the protocol before it.
#[must_use]
pub fn port_range(source: Source, first: u16, last: u16) -> Vec<Expr> {
    let bound = |op, port| Expr::Cmp {
        op,
        from: Register::FIRST,
        value: Value::port(port),
    };
    if first == last {
        return compare(source, CmpOp::Eq, Value::port(first)).into();
    }
    vec![load(source), bound(CmpOp::Gte, first), bound(CmpOp::Lte, last)]
}

/// Matches packets of one interface: `key` is a name key.
#[must_use]
pub fn interface_is(key: MetaKey, name: &str) -> [Expr; 2] {
    compare(Source::Meta(key), CmpOp::Eq, Value::interface(name))
}

/// Matches packets of the interfaces whose names begin so, printed as `"cali*"`: a shorter value compares a prefix.
#[must_use]
pub fn interface_starts_with(key: MetaKey, prefix: &str) -> [Expr; 2] {
    compare(Source::Meta(key), CmpOp::Eq, Value::bytes(prefix.as_bytes()))
}

/// `meta priority set NUMBER`.
#[must_use]
pub fn set_priority(number: u32) -> [Expr; 2] {
    [
        Expr::immediate(Value::host32(number)),
        Expr::set_meta(MetaKey::Priority),
    ]
}

/// `meta priority set A . B . C map @NAME`; a miss does not match and leaves the priority as it is.
#[must_use]
pub fn set_priority_from_map(
    sources: impl IntoIterator<Item = Source>,
    map: impl Into<Arc<str>>,
) -> Vec<Expr> {
    let mut expressions: Vec<Expr> = concat(sources).collect();
    expressions.push(Expr::lookup(map, OnHit::Load(Register::FIRST)));
    expressions.push(Expr::set_meta(MetaKey::Priority));
    expressions
}

/// `A . B . C vmap @NAME`; a miss goes on with the next rule.
#[must_use]
pub fn vmap(sources: impl IntoIterator<Item = Source>, map: impl Into<Arc<str>>) -> Vec<Expr> {
    let mut expressions: Vec<Expr> = concat(sources).collect();
    expressions.push(Expr::lookup(map, OnHit::Verdict));
    expressions
}

/// The lookup in an anonymous set or map that was just put into the batch.
#[must_use]
pub fn inline(set: &Set<'_>, id: SetId, hit: OnHit) -> Expr {
    Expr::Lookup(Lookup {
        set: anonymous_name(set).into(),
        id: Some(id),
        from: Register::FIRST,
        hit,
    })
}

/// `icmp type NUMBER`, the family's match included.
#[must_use]
pub fn icmp_type(kind: u8) -> Vec<Expr> {
    icmp_message(FAMILY_IPV4, ICMP, kind)
}

/// `icmpv6 type NUMBER`, the family's match included.
#[must_use]
pub fn icmpv6_type(kind: u8) -> Vec<Expr> {
    icmp_message(FAMILY_IPV6, ICMPV6, kind)
}

fn icmp_message(family: u8, protocol: u8, kind: u8) -> Vec<Expr> {
    let mut expressions = compare(Source::Meta(MetaKey::Family), CmpOp::Eq, Value::byte(family)).to_vec();
    expressions.extend(only_protocol(protocol));
    expressions.extend(compare(Source::IcmpType, CmpOp::Eq, Value::byte(kind)));
    expressions
}

/// `jump CHAIN`.
#[must_use]
pub fn jump(chain: impl Into<Arc<str>>) -> Expr {
    Expr::jump(chain)
}

/// `counter drop`.
#[must_use]
pub fn drop_counted() -> [Expr; 2] {
    [Expr::counter(), Expr::Verdict(super::verdict::Verdict::Drop)]
}
