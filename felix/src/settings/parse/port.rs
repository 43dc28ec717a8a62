//! Failsafe ports, ranges of ports, and ranges of routing tables.

use super::net::network;
use super::{Invalid, Parser};
use ipnet::IpNet;

/// The protocols that a failsafe port can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailsafeProtocol {
    /// TCP, also when no protocol is written.
    Tcp,
    /// UDP.
    Udp,
}

impl FailsafeProtocol {
    /// The name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            FailsafeProtocol::Tcp => "tcp",
            FailsafeProtocol::Udp => "udp",
        }
    }
}

/// A port that stays open on host endpoints whatever policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FailsafePort {
    /// The protocol.
    pub protocol: FailsafeProtocol,
    /// The peers for which it stays open; none means all.
    pub net: Option<IpNet>,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for FailsafePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.net {
            None => write!(f, "{}:{}", self.protocol.name(), self.port),
            Some(IpNet::V4(net)) => write!(f, "{}:{net}:{}", self.protocol.name(), self.port),
            Some(IpNet::V6(net)) => write!(f, "{}:[{net}]:{}", self.protocol.name(), self.port),
        }
    }
}

/// Failsafe ports, separated by commas: `22`, `udp:53`, `tcp:10.0.0.0/8:22`, `tcp:[fd00::/8]:22`.
#[derive(Debug)]
pub struct PortList;

fn failsafe_port(raw: &str) -> Result<FailsafePort, Invalid> {
    // The protocol is before the first colon and the port behind the last, so that an IPv6 network between them may
    // keep its own, with or without brackets.
    let (protocol, rest) = raw.split_once(':').unwrap_or(("tcp", raw));
    let (net, port) = match rest.rsplit_once(':') {
        Some((net, port)) => (Some(net), port),
        None => (None, rest),
    };
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => FailsafeProtocol::Tcp,
        "udp" => FailsafeProtocol::Udp,
        _ => {
            return Err(Invalid(format!(
                "{raw:?} has a protocol that is neither tcp nor udp"
            )));
        }
    };
    let port = match !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        true => port.parse().ok(),
        false => None,
    }
    .ok_or_else(|| Invalid(format!("{raw:?} has a port that is not a number from 0 to 65535")))?;
    let net = match net {
        None => None,
        Some(net) => match net.strip_prefix('[') {
            // Both `[fd00::]/8` and `[fd00::/8]` are in use.
            Some(inner) => Some(network(&inner.replacen(']', "", 1))?),
            None => Some(network(net)?),
        },
    };
    Ok(FailsafePort { protocol, net, port })
}

impl Parser for PortList {
    type Value = Vec<FailsafePort>;

    fn parse(raw: &str) -> Result<Vec<FailsafePort>, Invalid> {
        raw.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(failsafe_port)
            .collect()
    }
    fn empty() -> Vec<FailsafePort> {
        Vec::new()
    }
    fn show(value: &Vec<FailsafePort>) -> String {
        match value.is_empty() {
            true => "none".to_owned(),
            false => joined(value),
        }
    }
    fn expected() -> String {
        "ports as <port>, <protocol>:<port> or <protocol>:<CIDR>:<port>, separated by commas, or none"
            .to_owned()
    }
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port, not before the first.
    pub last: u16,
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}:{}", self.first, self.last),
        }
    }
}

fn port_range(raw: &str) -> Result<PortRange, Invalid> {
    let end = |part: &str| match !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
        true => part
            .parse::<u16>()
            .map_err(|_| Invalid(format!("{raw:?} goes beyond port 65535"))),
        false => Err(Invalid(format!(
            "{raw:?} is not a port or a range such as 30000:32767"
        ))),
    };
    let (first, last) = raw.split_once(':').unwrap_or((raw, raw));
    let (first, last) = (end(first)?, end(last)?);
    if first > last {
        return Err(Invalid(format!("{raw:?} ends before it begins")));
    }
    Ok(PortRange { first, last })
}

/// One range of ports, or nothing.
#[derive(Debug)]
pub struct PortRangeOrNone;

impl Parser for PortRangeOrNone {
    type Value = Option<PortRange>;

    fn parse(raw: &str) -> Result<Option<PortRange>, Invalid> {
        port_range(raw).map(Some)
    }
    fn empty() -> Option<PortRange> {
        None
    }
    fn show(value: &Option<PortRange>) -> String {
        value.map(|range| range.to_string()).unwrap_or_default()
    }
    fn expected() -> String {
        "a port, or a range such as 30000:32767".to_owned()
    }
}

/// Ranges of ports, separated by commas.
#[derive(Debug)]
pub struct PortRangeList;

impl Parser for PortRangeList {
    type Value = Vec<PortRange>;

    fn parse(raw: &str) -> Result<Vec<PortRange>, Invalid> {
        raw.split(',').map(|part| port_range(part.trim())).collect()
    }
    fn empty() -> Vec<PortRange> {
        Vec::new()
    }
    fn show(value: &Vec<PortRange>) -> String {
        joined(value)
    }
    fn expected() -> String {
        "ports and ranges such as 30000:32767, separated by commas".to_owned()
    }
}

fn table_range(raw: &str) -> Result<(u32, u32), Invalid> {
    let refused = || Invalid(format!("{raw:?} is not a range such as 1-250"));
    let (first, last) = raw.split_once('-').ok_or_else(refused)?;
    let (first, last): (u32, u32) = (
        first.parse().map_err(|_| refused())?,
        last.parse().map_err(|_| refused())?,
    );
    if first == 0 || first > last {
        return Err(refused());
    }
    Ok((first, last))
}

/// The routing tables that may be used, as one range within 1-250, or nothing.
#[derive(Debug)]
pub struct RouteTableRange;

impl Parser for RouteTableRange {
    type Value = Option<(u32, u32)>;

    fn parse(raw: &str) -> Result<Self::Value, Invalid> {
        let (first, last) = table_range(raw)?;
        if last > 250 {
            return Err(Invalid::new("it goes beyond table 250"));
        }
        Ok(Some((first, last)))
    }
    fn empty() -> Self::Value {
        None
    }
    fn show(value: &Self::Value) -> String {
        value
            .map(|(first, last)| format!("{first}-{last}"))
            .unwrap_or_default()
    }
    fn expected() -> String {
        "a range of routing tables within 1-250".to_owned()
    }
}

/// The routing tables that may be used, as ranges separated by commas.
#[derive(Debug)]
pub struct RouteTableRanges;

/// More tables than this in all ranges together would be a slip of the pen.
const MOST_TABLES: u64 = 65_535;

impl Parser for RouteTableRanges {
    type Value = Vec<(u32, u32)>;

    fn parse(raw: &str) -> Result<Self::Value, Invalid> {
        let ranges = raw
            .split(',')
            .map(|part| table_range(part.trim()))
            .collect::<Result<Vec<_>, _>>()?;
        let tables: u64 = ranges
            .iter()
            .map(|(first, last)| u64::from(last - first) + 1)
            .sum();
        match tables > MOST_TABLES {
            true => Err(Invalid(format!(
                "it has {tables} tables, more than {MOST_TABLES}"
            ))),
            false => Ok(ranges),
        }
    }
    fn empty() -> Self::Value {
        Vec::new()
    }
    fn show(value: &Self::Value) -> String {
        let parts: Vec<String> = value
            .iter()
            .map(|(first, last)| format!("{first}-{last}"))
            .collect();
        parts.join(",")
    }
    fn expected() -> String {
        "ranges of routing tables such as 1-250,1000-2000".to_owned()
    }
}

fn joined<T: ToString>(values: &[T]) -> String {
    let parts: Vec<String> = values.iter().map(ToString::to_string).collect();
    parts.join(",")
}
