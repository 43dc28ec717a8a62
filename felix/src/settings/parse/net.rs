//! Addresses and networks.

use super::{Invalid, Parser};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Declares a parser of one address that may be absent.
macro_rules! address_parser {
    ($(#[$doc:meta])+ $name:ident, $type:ty, $family:literal) => {
        $(#[$doc])+
        #[derive(Debug)]
        pub struct $name;

        impl Parser for $name {
            type Value = Option<$type>;

            fn parse(raw: &str) -> Result<Self::Value, Invalid> {
                raw.parse().map(Some).map_err(|_| Invalid::new(concat!("it is not an ", $family, " address")))
            }
            fn empty() -> Self::Value {
                None
            }
            fn show(value: &Self::Value) -> String {
                value.map(|address| address.to_string()).unwrap_or_default()
            }
            fn expected() -> String {
                concat!("an ", $family, " address").to_owned()
            }
        }
    };
}

address_parser!(
    /// An IPv4 address, or nothing.
    Ipv4,
    Ipv4Addr,
    "IPv4"
);
address_parser!(
    /// An IPv6 address, or nothing.
    Ipv6,
    Ipv6Addr,
    "IPv6"
);

/// Reads a network in CIDR notation, or an address as the network of itself; bits behind the prefix are cut off.
pub(super) fn network(raw: &str) -> Result<IpNet, Invalid> {
    if let Ok(net) = raw.parse::<IpNet>() {
        return Ok(net.trunc());
    }
    raw.parse::<IpAddr>()
        .map(IpNet::from)
        .map_err(|_| Invalid(format!("{raw:?} is neither an address nor a CIDR")))
}

/// Networks and addresses of either family, separated by commas; empty parts are passed by.
#[derive(Debug)]
pub struct CidrList;

impl Parser for CidrList {
    type Value = Vec<IpNet>;

    fn parse(raw: &str) -> Result<Vec<IpNet>, Invalid> {
        raw.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(network)
            .collect()
    }
    fn empty() -> Vec<IpNet> {
        Vec::new()
    }
    fn show(value: &Vec<IpNet>) -> String {
        let parts: Vec<String> = value.iter().map(ToString::to_string).collect();
        parts.join(",")
    }
    fn expected() -> String {
        "addresses and CIDRs, separated by commas".to_owned()
    }
}
