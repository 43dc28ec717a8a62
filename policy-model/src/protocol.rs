//! A transport protocol as rules name it: by a well-known name or by its IP protocol number.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// An IP protocol number (1 to 255), written by name where it has one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(u8);

/// The names that are understood (in any case) and printed, with their IANA numbers.
const NAMES: [(&str, u8); 6] = [
    ("TCP", 6),
    ("UDP", 17),
    ("SCTP", 132),
    ("ICMP", 1),
    ("ICMPv6", 58),
    ("UDPLite", 136),
];

impl Protocol {
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);
    /// SCTP.
    pub const SCTP: Protocol = Protocol(132);
    /// ICMP of IPv4.
    pub const ICMP: Protocol = Protocol(1);
    /// ICMP of IPv6.
    pub const ICMPV6: Protocol = Protocol(58);
    /// UDP-Lite.
    pub const UDP_LITE: Protocol = Protocol(136);

    /// The protocol of a number.
    pub const fn from_number(number: u8) -> Self {
        Protocol(number)
    }

    /// The IANA number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Whether packets of this protocol have ports where TCP has them.
    pub fn has_ports(self) -> bool {
        matches!(
            self,
            Protocol::TCP | Protocol::UDP | Protocol::SCTP | Protocol::UDP_LITE
        )
    }

    /// Whether this is ICMP of either family.
    pub fn is_icmp(self) -> bool {
        matches!(self, Protocol::ICMP | Protocol::ICMPV6)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, n)| *n == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A protocol that is neither a known name nor a number from 1 to 255.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no protocol: write TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite or a number from 1 to 255")]
pub struct InvalidProtocol(pub String);

impl FromStr for Protocol {
    type Err = InvalidProtocol;

    fn from_str(text: &str) -> Result<Self, InvalidProtocol> {
        if let Some((_, number)) = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            return Ok(Protocol(*number));
        }
        match text.parse::<u8>() {
            // A sign is accepted by no one else who reads these manifests.
            Ok(number) if number > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(Protocol(number)),
            _ => Err(InvalidProtocol(text.to_string())),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if NAMES.iter().any(|(_, n)| *n == self.0) {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u8(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Protocol;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a protocol name or a number from 1 to 255")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Protocol, E> {
                v.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Protocol, E> {
                match u8::try_from(v) {
                    Ok(n) if n > 0 => Ok(Protocol(n)),
                    _ => Err(E::custom(InvalidProtocol(v.to_string()))),
                }
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Protocol, E> {
                u64::try_from(v)
                    .map_err(|_| E::custom(InvalidProtocol(v.to_string())))
                    .and_then(|v| self.visit_u64(v))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
