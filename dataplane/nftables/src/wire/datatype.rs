//! The types of set keys and data, with the numbers by which the nft program knows them.
//!
//! The kernel only keeps the numbers; they decide how `nft list ruleset` prints an element, and whether what it prints loads again.
//! A concatenation's number has six bits for each field, the first field highest.

use smallvec::SmallVec;

/// The type of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Datatype {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// An Ethernet address.
    Ethernet,
    /// A layer 4 protocol number.
    Protocol,
    /// A transport port.
    Port,
    /// An ICMP type.
    IcmpType,
    /// An ICMPv6 type.
    Icmpv6Type,
    /// A packet mark.
    Mark,
    /// A packet priority, printed as `major:minor`; our scratch register.
    Classid,
    /// An interface index.
    InterfaceIndex,
    /// An interface name.
    InterfaceName,
    /// Connection-tracking states, one bit each.
    CtState,
    /// The kind of an address, as the routing tables see it.
    AddressType,
}

/// The byte order that the nft program assumes of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    /// None: verdicts and concatenations.
    None = 0,
    Host = 1,
    Network = 2,
}

impl Datatype {
    /// The width in bytes.
    #[must_use]
    pub const fn width(self) -> usize {
        match self {
            Self::Protocol | Self::IcmpType | Self::Icmpv6Type => 1,
            Self::Port => 2,
            Self::Ipv4
            | Self::Mark
            | Self::Classid
            | Self::InterfaceIndex
            | Self::CtState
            | Self::AddressType => 4,
            Self::Ethernet => 6,
            Self::Ipv6 | Self::InterfaceName => 16,
        }
    }

    const fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Ethernet => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::IcmpType => 14,
            Self::Mark => 19,
            Self::InterfaceIndex => 20,
            Self::Classid => 23,
            Self::CtState => 26,
            Self::Icmpv6Type => 29,
            Self::AddressType => 38,
            Self::InterfaceName => 41,
        }
    }

    const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            7 => Self::Ipv4,
            8 => Self::Ipv6,
            9 => Self::Ethernet,
            12 => Self::Protocol,
            13 => Self::Port,
            14 => Self::IcmpType,
            19 => Self::Mark,
            20 => Self::InterfaceIndex,
            23 => Self::Classid,
            26 => Self::CtState,
            29 => Self::Icmpv6Type,
            38 => Self::AddressType,
            41 => Self::InterfaceName,
            _ => return None,
        })
    }

    const fn byte_order(self) -> ByteOrder {
        match self {
            Self::Mark
            | Self::Classid
            | Self::InterfaceIndex
            | Self::InterfaceName
            | Self::CtState
            | Self::AddressType => ByteOrder::Host,
            Self::Ipv4
            | Self::Ipv6
            | Self::Ethernet
            | Self::Protocol
            | Self::Port
            | Self::IcmpType
            | Self::Icmpv6Type => ByteOrder::Network,
        }
    }
}

/// The type of a set's key: one field, or a concatenation of at most five.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyType(SmallVec<[Datatype; 5]>);

impl KeyType {
    /// A key of one field.
    #[must_use]
    pub fn of(field: Datatype) -> Self {
        Self(SmallVec::from_slice(&[field]))
    }

    /// A concatenation. The nft program has room for five fields; more would load but not list.
    #[must_use]
    pub fn concat(fields: impl IntoIterator<Item = Datatype>) -> Self {
        Self(fields.into_iter().collect())
    }

    /// The fields in their order.
    #[must_use]
    pub fn fields(&self) -> &[Datatype] {
        &self.0
    }

    /// Whether the key has several fields.
    #[must_use]
    pub fn is_concatenation(&self) -> bool {
        self.0.len() > 1
    }

    /// The width of a key in bytes, padding of fields included.
    #[must_use]
    pub fn width(&self) -> usize {
        match self.0.as_slice() {
            [field] => field.width(),
            fields => fields.iter().map(|field| field.width().next_multiple_of(4)).sum(),
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.0
            .iter()
            .fold(0, |number, field| number.wrapping_shl(6) | field.number())
    }

    /// The type of a number, unless a field has no name here.
    pub(crate) fn from_number(mut number: u32) -> Option<Self> {
        let mut fields = SmallVec::new();
        while number != 0 {
            fields.insert(0, Datatype::from_number(number & 0x3f)?);
            number >>= 6;
        }
        (!fields.is_empty()).then_some(Self(fields))
    }

    pub(crate) fn byte_order(&self) -> ByteOrder {
        match self.0.as_slice() {
            [field] => field.byte_order(),
            _ => ByteOrder::None,
        }
    }
}

impl From<Datatype> for KeyType {
    fn from(field: Datatype) -> Self {
        Self::of(field)
    }
}

/// What a set keeps for each key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SetData {
    /// Nothing: a plain set.
    None,
    /// A value: a data map.
    Value(KeyType),
    /// A verdict: a verdict map. Every added element makes the kernel walk all its jumps again.
    Verdict,
}

/// `NFT_DATA_VERDICT`, the type number of verdicts.
const VERDICT_NUMBER: u32 = 0xffff_ff00;

impl SetData {
    /// A map to one plain field.
    #[must_use]
    pub fn value(field: Datatype) -> Self {
        Self::Value(KeyType::of(field))
    }

    pub(crate) fn number_and_width(&self) -> Option<(u32, usize)> {
        match self {
            Self::None => None,
            Self::Value(data) => Some((data.number(), data.width())),
            Self::Verdict => Some((VERDICT_NUMBER, 0)),
        }
    }

    /// The data type of a number, unless it has no name here.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        if number == VERDICT_NUMBER {
            Some(Self::Verdict)
        } else {
            KeyType::from_number(number).map(Self::Value)
        }
    }

    pub(crate) fn byte_order(&self) -> ByteOrder {
        match self {
            Self::Value(data) => data.byte_order(),
            Self::None | Self::Verdict => ByteOrder::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_concatenations_are_those_of_nft() {
        // As captured from `nft -f`: classid . inet_proto . inet_service, and ifname . ipv4_addr.
        let ports = KeyType::concat([Datatype::Classid, Datatype::Protocol, Datatype::Port]);
        assert_eq!((ports.number(), ports.width()), (0x0001_730d, 12));
        let own = KeyType::concat([Datatype::InterfaceName, Datatype::Ipv4]);
        assert_eq!((own.number(), own.width()), (0x0a47, 20));
        assert_eq!(KeyType::from_number(0x0001_730d), Some(ports));
        assert_eq!(KeyType::from_number(0), None);
        assert_eq!(KeyType::from_number(63), None);
    }
}
