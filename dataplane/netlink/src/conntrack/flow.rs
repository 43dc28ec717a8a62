//! Flows as connection tracking knows them, and which of them are meant.

use std::fmt;
use std::net::IpAddr;

/// What tells a flow of one protocol from others between the same addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer4 {
    /// TCP, UDP, SCTP, DCCP, UDP-Lite.
    Ports {
        /// The sender's port.
        source: u16,
        /// The receiver's port.
        destination: u16,
    },
    /// ICMP and ICMPv6.
    Icmp {
        /// The message's type.
        icmp_type: u8,
        /// The message's code.
        code: u8,
        /// The number of the exchange.
        identifier: u16,
    },
    /// A protocol that is tracked by its addresses alone, or by keys that are not read here.
    Other,
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The sender.
    pub source: IpAddr,
    /// The receiver.
    pub destination: IpAddr,
    /// The IP protocol's number.
    pub protocol: u8,
    /// Its ports or the like.
    pub layer4: Layer4,
}

impl Tuple {
    /// Whether an address is the sender or the receiver.
    pub fn involves(&self, address: IpAddr) -> bool {
        self.source == address || self.destination == address
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            destination,
            protocol,
            layer4,
        } = self;
        match layer4 {
            Layer4::Ports {
                source: from,
                destination: to,
            } => {
                write!(
                    formatter,
                    "protocol {protocol} [{source}]:{from} -> [{destination}]:{to}"
                )
            }
            Layer4::Icmp {
                icmp_type,
                code,
                identifier,
            } => write!(
                formatter,
                "protocol {protocol} {source} -> {destination} type {icmp_type} code {code} id {identifier}"
            ),
            Layer4::Other => write!(formatter, "protocol {protocol} {source} -> {destination}"),
        }
    }
}

/// What has happened to a flow so far (`enum ip_conntrack_status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlowStatus(pub u32);

impl FlowStatus {
    /// Whether an answer was seen.
    pub const fn is_answered(self) -> bool {
        self.0 & 1 << 1 != 0
    }

    /// Whether the entry is kept when the table is full.
    pub const fn is_assured(self) -> bool {
        self.0 & 1 << 2 != 0
    }

    /// Whether the sender's address is translated.
    pub const fn is_source_translated(self) -> bool {
        self.0 & 1 << 4 != 0
    }

    /// Whether the receiver's address is translated.
    pub const fn is_destination_translated(self) -> bool {
        self.0 & 1 << 5 != 0
    }
}

/// One tracked flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// As its first packet was before translation.
    pub original: Tuple,
    /// As answers are before translation back.
    pub reply: Tuple,
    /// What has happened so far.
    pub status: FlowStatus,
    /// The zone; zero unless somebody sets zones.
    pub zone: u16,
    /// The connection's mark.
    pub mark: u32,
    /// Seconds until the entry is forgotten, if no packet comes.
    pub timeout: Option<u32>,
    /// The kernel's number of this entry; a later entry of the same flow mostly has another.
    pub(crate) id: Option<u32>,
    /// The original direction in the kernel's own words, which also name what is not read here.
    pub(crate) raw_original: Box<[u8]>,
}

impl Flow {
    /// Whether an address stands anywhere in the flow, in either direction.
    pub fn involves(&self, address: IpAddr) -> bool {
        self.original.involves(address) || self.reply.involves(address)
    }
}

/// Which family of flows is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// Both.
    #[default]
    Both,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Returns the kernel's number.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Both => 0,
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Returns the family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Which flows are meant: those that have all that is named here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowFilter {
    /// The family.
    pub family: Family,
    /// An address anywhere in the flow.
    pub address: Option<IpAddr>,
    /// The IP protocol's number.
    pub protocol: Option<u8>,
    /// The receiver's port in the original direction.
    pub destination_port: Option<u16>,
    /// The zone.
    pub zone: Option<u16>,
}

impl FlowFilter {
    /// Means the flows that have an address anywhere.
    pub fn address(address: IpAddr) -> Self {
        Self {
            family: Family::of(address),
            address: Some(address),
            ..Self::default()
        }
    }

    /// Whether a flow is meant.
    pub fn matches(&self, flow: &Flow) -> bool {
        let Self {
            family,
            address,
            protocol,
            destination_port,
            zone,
        } = self;
        (*family == Family::Both || *family == Family::of(flow.original.source))
            && address.is_none_or(|address| flow.involves(address))
            && protocol.is_none_or(|protocol| flow.original.protocol == protocol)
            && destination_port.is_none_or(|port| {
                matches!(flow.original.layer4, Layer4::Ports { destination, .. } if destination == port)
            })
            && zone.is_none_or(|zone| flow.zone == zone)
    }
}
