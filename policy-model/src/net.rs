//! Networks as manifests write them: with a prefix length, or a bare address that stands for itself alone.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use std::net::IpAddr;

/// A text that is neither a network nor an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no CIDR: write a network such as 10.0.0.0/8 or fd00::/8, or an address")]
pub struct InvalidNet(pub String);

/// Reads a network, or an address as the network that holds it alone. Host bits are kept.
///
/// # Errors
/// The text is neither.
pub fn parse_net(text: &str) -> Result<IpNet, InvalidNet> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| InvalidNet(text.to_string()))
}

/// Reads a range, with the length of its prefix. Host bits are kept.
pub(crate) fn range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        let like = "such as 10.244.0.0/16 or fd00:10:244::/56";
        serde::de::Error::custom(format!(
            "'{text}' is no range: write a network with the length of its prefix, {like}"
        ))
    })
}

/// One element of a list, so that an error names its place in the list.
struct Net(IpNet);

impl<'de> Deserialize<'de> for Net {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_net(&text).map(Net).map_err(serde::de::Error::custom)
    }
}

/// Networks that are matched: host bits mean nothing and are cleared.
pub(crate) fn matched<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    Ok(Vec::<Net>::deserialize(deserializer)?
        .into_iter()
        .map(|n| n.0.trunc())
        .collect())
}

/// An address with the length of its subnet.
pub(crate) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpNet>, D::Error> {
    Ok(Option::<Net>::deserialize(deserializer)?.map(|n| n.0))
}

/// Addresses with the length of their subnet.
pub(crate) fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    Ok(Vec::<Net>::deserialize(deserializer)?
        .into_iter()
        .map(|n| n.0)
        .collect())
}
