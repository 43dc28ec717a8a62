//! The expressions that act on a packet and have much to say: log, limit, reject, routing questions, address translation.

use std::sync::Arc;

use super::super::attribute::{
    self, Attributes, Malformed, malformed, read_be16, read_be32, read_be64, read_text,
};
use super::super::register::Register;
use super::decode::register;
use super::numbers::{FibResult, LimitUnit, NatKind};

const NFTA_LOG_GROUP: u16 = 1;
const NFTA_LOG_PREFIX: u16 = 2;
const NFTA_LOG_SNAPLEN: u16 = 3;
const NFTA_LOG_QTHRESHOLD: u16 = 4;
const NFTA_LOG_LEVEL: u16 = 5;
const NFTA_LOG_FLAGS: u16 = 6;
const NFTA_LIMIT_RATE: u16 = 1;
const NFTA_LIMIT_UNIT: u16 = 2;
const NFTA_LIMIT_BURST: u16 = 3;
const NFTA_LIMIT_TYPE: u16 = 4;
const NFTA_LIMIT_FLAGS: u16 = 5;
const NFT_LIMIT_F_INV: u32 = 1;
const NFTA_REJECT_TYPE: u16 = 1;
const NFTA_REJECT_ICMP_CODE: u16 = 2;
const NFT_REJECT_ICMP_UNREACH: u32 = 0;
const NFT_REJECT_TCP_RST: u32 = 1;
const NFT_REJECT_ICMPX_UNREACH: u32 = 2;
const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_ADDR_MAX: u16 = 4;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFTA_NAT_REG_PROTO_MAX: u16 = 6;
const NFTA_NAT_FLAGS: u16 = 7;

/// The longest log prefix that the kernel takes, in bytes, without the terminating zero.
const LOG_PREFIX_MAX: usize = 127;

/// Writes to the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Log {
    /// What the entry begins with; what is beyond 127 bytes is cut at a character, since the kernel takes no more.
    pub prefix: Option<Arc<str>>,
    /// Where it goes.
    pub target: LogTarget,
}

/// Where a log entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// To the programs that listen to a netlink group (NFLOG).
    Group {
        /// The group.
        group: u16,
        /// How many bytes of the packet go along; zero means the listener's choice.
        snaplen: u32,
        /// How many entries the kernel gathers before it sends; zero means the listener's choice.
        threshold: u16,
    },
    /// To the kernel's log.
    Syslog {
        /// 0 (emergency) to 7 (debug).
        level: u32,
        /// What else is told ([`super::log_flag`]).
        flags: u32,
    },
}

impl Log {
    /// A log entry to a netlink group, whole packet, sent at the listener's pace.
    #[must_use]
    pub fn to_group(group: u16, prefix: impl Into<Arc<str>>) -> Self {
        Self {
            prefix: Some(prefix.into()),
            target: LogTarget::Group {
                group,
                snaplen: 0,
                threshold: 0,
            },
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        if let Some(prefix) = &self.prefix {
            let end = prefix.floor_char_boundary(LOG_PREFIX_MAX);
            attribute::text(out, NFTA_LOG_PREFIX, prefix.get(..end).unwrap_or_default());
        }
        match self.target {
            LogTarget::Group {
                group,
                snaplen,
                threshold,
            } => {
                attribute::be16(out, NFTA_LOG_GROUP, group);
                if snaplen != 0 {
                    attribute::be32(out, NFTA_LOG_SNAPLEN, snaplen);
                }
                if threshold != 0 {
                    attribute::be16(out, NFTA_LOG_QTHRESHOLD, threshold);
                }
            }
            LogTarget::Syslog { level, flags } => {
                attribute::be32(out, NFTA_LOG_LEVEL, level);
                if flags != 0 {
                    attribute::be32(out, NFTA_LOG_FLAGS, flags);
                }
            }
        }
    }

    pub(super) fn decode(data: Attributes<'_>) -> Result<Self, Malformed> {
        /// The level that the kernel takes if none is told: warning.
        const DEFAULT_LEVEL: u32 = 4;
        let prefix = data.find(NFTA_LOG_PREFIX).map(|prefix| read_text(prefix).into());
        let target = if let Some(group) = data.find(NFTA_LOG_GROUP) {
            LogTarget::Group {
                group: read_be16(group, "log group")?,
                snaplen: number(data, NFTA_LOG_SNAPLEN, "log snaplen")?.unwrap_or(0),
                threshold: data
                    .find(NFTA_LOG_QTHRESHOLD)
                    .map_or(Ok(0), |payload| read_be16(payload, "log threshold"))?,
            }
        } else {
            LogTarget::Syslog {
                level: number(data, NFTA_LOG_LEVEL, "log level")?.unwrap_or(DEFAULT_LEVEL),
                flags: number(data, NFTA_LOG_FLAGS, "log flags")?.unwrap_or(0),
            }
        };
        Ok(Self { prefix, target })
    }
}

/// Matches up to a rate, or above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// How many units in each period.
    pub rate: u64,
    /// The period in seconds.
    pub period: u64,
    /// How many units may come at once.
    pub burst: u32,
    /// What is counted.
    pub unit: LimitUnit,
    /// Whether to match what is above the rate, instead of what is below.
    pub over: bool,
}

impl Limit {
    /// Matches up to so many packets a second, in bursts of five as the nft program has it.
    #[must_use]
    pub const fn packets_per_second(rate: u64) -> Self {
        Self {
            rate,
            period: 1,
            burst: 5,
            unit: LimitUnit::Packets,
            over: false,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        attribute::be64(out, NFTA_LIMIT_RATE, self.rate);
        attribute::be64(out, NFTA_LIMIT_UNIT, self.period);
        if self.burst != 0 {
            attribute::be32(out, NFTA_LIMIT_BURST, self.burst);
        }
        attribute::be32(out, NFTA_LIMIT_TYPE, self.unit.number());
        attribute::be32(out, NFTA_LIMIT_FLAGS, if self.over { NFT_LIMIT_F_INV } else { 0 });
    }

    pub(super) fn decode(data: Attributes<'_>) -> Result<Self, Malformed> {
        let rate = data
            .find(NFTA_LIMIT_RATE)
            .ok_or(malformed("limit without rate"))?;
        let period = data
            .find(NFTA_LIMIT_UNIT)
            .ok_or(malformed("limit without period"))?;
        Ok(Self {
            rate: read_be64(rate, "limit rate")?,
            period: read_be64(period, "limit period")?,
            burst: number(data, NFTA_LIMIT_BURST, "limit burst")?.unwrap_or(0),
            unit: LimitUnit::from_number(number(data, NFTA_LIMIT_TYPE, "limit type")?.unwrap_or(0)),
            over: number(data, NFTA_LIMIT_FLAGS, "limit flags")?.unwrap_or(0) & NFT_LIMIT_F_INV != 0,
        })
    }
}

/// What a rejected sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reject {
    /// An ICMP (or, in an IPv6 chain, ICMPv6) unreachable message with this code.
    Icmp(u8),
    /// The fitting message of either family: 0 no route, 1 port unreachable, 2 host unreachable, 3 prohibited.
    Icmpx(u8),
    /// A TCP reset; the rule must match TCP only.
    TcpReset,
}

impl Reject {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let (kind, code) = match self {
            Self::Icmp(code) => (NFT_REJECT_ICMP_UNREACH, code),
            Self::TcpReset => (NFT_REJECT_TCP_RST, 0),
            Self::Icmpx(code) => (NFT_REJECT_ICMPX_UNREACH, code),
        };
        attribute::be32(out, NFTA_REJECT_TYPE, kind);
        attribute::bytes(out, NFTA_REJECT_ICMP_CODE, &[code]);
    }

    /// `None` for a kind of answer without a name here.
    pub(super) fn decode(data: Attributes<'_>) -> Result<Option<Self>, Malformed> {
        let code = data
            .find(NFTA_REJECT_ICMP_CODE)
            .and_then(|code| code.first().copied())
            .unwrap_or(0);
        Ok(match number(data, NFTA_REJECT_TYPE, "reject type")? {
            Some(NFT_REJECT_ICMP_UNREACH) => Some(Self::Icmp(code)),
            Some(NFT_REJECT_TCP_RST) => Some(Self::TcpReset),
            Some(NFT_REJECT_ICMPX_UNREACH) => Some(Self::Icmpx(code)),
            _ => None,
        })
    }
}

/// A question to the routing tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fib {
    /// What is answered.
    pub result: FibResult,
    /// What is asked by ([`super::fib_flag`]).
    pub flags: u32,
    /// Where the answer goes.
    pub to: Register,
}

impl Fib {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        attribute::be32(out, NFTA_FIB_FLAGS, self.flags);
        attribute::be32(out, NFTA_FIB_RESULT, self.result.number());
        attribute::be32(out, NFTA_FIB_DREG, self.to.number());
    }

    pub(super) fn decode(data: Attributes<'_>) -> Result<Self, Malformed> {
        let result = number(data, NFTA_FIB_RESULT, "fib result")?.ok_or(malformed("fib without result"))?;
        Ok(Self {
            result: FibResult::from_number(result),
            flags: number(data, NFTA_FIB_FLAGS, "fib flags")?.unwrap_or(0),
            to: register(data, NFTA_FIB_DREG, "fib without register")?,
        })
    }
}

/// A range of addresses or ports, in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatRange {
    /// The register of the first.
    pub first: Register,
    /// The register of the last, if it is another one.
    pub last: Option<Register>,
}

impl NatRange {
    pub(super) fn encode(self, out: &mut Vec<u8>, first: u16, last: u16) {
        attribute::be32(out, first, self.first.number());
        if let Some(register) = self.last {
            attribute::be32(out, last, register.number());
        }
    }

    pub(super) fn decode(data: Attributes<'_>, first: u16, last: u16) -> Result<Option<Self>, Malformed> {
        let Some(_) = data.find(first) else {
            return Ok(None);
        };
        let first = register(data, first, "translation register")?;
        let last = data
            .find(last)
            .map(|_| register(data, last, "translation register"))
            .transpose()?;
        // The kernel fills the last in if it was not told; that says nothing new.
        Ok(Some(Self {
            first,
            last: last.filter(|&last| last != first),
        }))
    }
}

/// An address translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nat {
    /// Which end.
    pub kind: NatKind,
    /// The family of the address (2 or 10).
    pub family: u32,
    /// The address.
    pub address: Option<NatRange>,
    /// The port.
    pub port: Option<NatRange>,
    /// How it is chosen ([`super::nat_flag`]).
    pub flags: u32,
}

impl Nat {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        attribute::be32(out, NFTA_NAT_TYPE, self.kind.number());
        attribute::be32(out, NFTA_NAT_FAMILY, self.family);
        if let Some(address) = self.address {
            address.encode(out, NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_ADDR_MAX);
        }
        if let Some(port) = self.port {
            port.encode(out, NFTA_NAT_REG_PROTO_MIN, NFTA_NAT_REG_PROTO_MAX);
        }
        if self.flags != 0 {
            attribute::be32(out, NFTA_NAT_FLAGS, self.flags);
        }
    }

    pub(super) fn decode(data: Attributes<'_>) -> Result<Self, Malformed> {
        let kind = number(data, NFTA_NAT_TYPE, "nat type")?.ok_or(malformed("nat without type"))?;
        Ok(Self {
            kind: NatKind::from_number(kind),
            family: number(data, NFTA_NAT_FAMILY, "nat family")?.ok_or(malformed("nat without family"))?,
            address: NatRange::decode(data, NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_ADDR_MAX)?,
            port: NatRange::decode(data, NFTA_NAT_REG_PROTO_MIN, NFTA_NAT_REG_PROTO_MAX)?,
            flags: number(data, NFTA_NAT_FLAGS, "nat flags")?.unwrap_or(0),
        })
    }
}

/// Reads a 32-bit number that may be missing.
pub(super) fn number(data: Attributes<'_>, kind: u16, what: &'static str) -> Result<Option<u32>, Malformed> {
    data.find(kind)
        .map(|payload| read_be32(payload, what))
        .transpose()
}
