//! Ports as rules name them: a number, a range or a name.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// An inclusive range of port numbers; a single port is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port.
    pub const ANY: PortRange = PortRange {
        first: 0,
        last: u16::MAX,
    };

    /// The range of one port.
    pub const fn single(port: u16) -> Self {
        PortRange {
            first: port,
            last: port,
        }
    }

    /// The range from `first` to `last`, both included, or `None` where `first` is the larger.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(PortRange { first, last })
    }

    /// The first port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` is in the range.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}:{}", self.first, self.last)
        }
    }
}

/// A port in a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// A number or a range `first:last`.
    Range(PortRange),
    /// The name of a port that the endpoint declares.
    Name(String),
}

/// A text that is neither a port number, a range nor a port name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no port: write a number from 0 to 65535, a range such as 8000:9000, or a port's name")]
pub struct InvalidPort(pub String);

impl FromStr for Port {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let invalid = || InvalidPort(text.to_string());
        let number = |t: &str| {
            // A sign or white space is accepted by no one else who reads these manifests.
            if t.bytes().all(|b| b.is_ascii_digit()) {
                t.parse::<u16>().map_err(|_| invalid())
            } else {
                Err(invalid())
            }
        };
        if let Some((first, last)) = text.split_once(':') {
            return PortRange::new(number(first)?, number(last)?)
                .map(Port::Range)
                .ok_or_else(invalid);
        }
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return number(text).map(|n| Port::Range(PortRange::single(n)));
        }
        let named = text.len() <= 128
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if named && !text.is_empty() {
            Ok(Port::Name(text.to_string()))
        } else {
            Err(invalid())
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Port::Range(range) => range.fmt(f),
            Port::Name(name) => f.write_str(name),
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Port::Range(r) if r.first == r.last => serializer.serialize_u16(r.first),
            other => serializer.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Port;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number, a range such as 8000:9000, or a port's name")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Port, E> {
                v.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Port, E> {
                u16::try_from(v)
                    .map(|n| Port::Range(PortRange::single(n)))
                    .map_err(|_| E::custom(InvalidPort(v.to_string())))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Port, E> {
                u64::try_from(v)
                    .map_err(|_| E::custom(InvalidPort(v.to_string())))
                    .and_then(|v| self.visit_u64(v))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
