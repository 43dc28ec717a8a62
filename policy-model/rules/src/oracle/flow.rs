//! The question: who opens a flow to whom, with which protocol and port.

use policy_model::Protocol;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Source port of a flow that names none: one from the range that clients' systems choose from.
pub(super) const EPHEMERAL_PORT: u16 = 40_000;

/// An end of a flow. Written `namespace/name`, `ip:ADDRESS` or `node:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// A workload endpoint.
    Endpoint {
        /// Its namespace.
        namespace: String,
        /// Name of its pod, or of the endpoint itself.
        name: String,
    },
    /// An address. That of an endpoint means the endpoint, that of a node means the node.
    Address(IpAddr),
    /// A node: what its own processes, and pods on its network, send and receive.
    Node(String),
}

impl Peer {
    /// The endpoint of a pod.
    pub fn endpoint(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Peer::Endpoint {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Endpoint { namespace, name } => write!(f, "{namespace}/{name}"),
            Peer::Address(address) => write!(f, "ip:{address}"),
            Peer::Node(name) => write!(f, "node:{name}"),
        }
    }
}

/// A text that names no peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no peer: write namespace/pod, ip:ADDRESS or node:NAME")]
pub struct InvalidPeer(pub String);

impl FromStr for Peer {
    type Err = InvalidPeer;

    fn from_str(text: &str) -> Result<Self, InvalidPeer> {
        let invalid = || InvalidPeer(text.to_string());
        if let Some(address) = text.strip_prefix("ip:") {
            return address.parse().map(Peer::Address).map_err(|_| invalid());
        }
        if let Some(name) = text.strip_prefix("node:") {
            return if name.is_empty() {
                Err(invalid())
            } else {
                Ok(Peer::Node(name.to_string()))
            };
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Peer::endpoint(namespace, name))
            }
            _ => Err(invalid()),
        }
    }
}

/// A flow that somebody wants to open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Who opens it.
    pub from: Peer,
    /// To whom.
    pub to: Peer,
    /// Protocol.
    pub protocol: Protocol,
    /// Source port, of protocols that have ports; absent means an ephemeral one.
    pub source_port: Option<u16>,
    /// Destination port, of protocols that have ports.
    pub port: Option<u16>,
    /// Type and code, of ICMP; absent means an echo request.
    pub icmp: Option<(u8, u8)>,
}

impl Flow {
    /// A flow of a protocol with ports, from an ephemeral port.
    pub fn new(from: Peer, to: Peer, protocol: Protocol, port: u16) -> Self {
        Flow {
            from,
            to,
            protocol,
            source_port: None,
            port: Some(port),
            icmp: None,
        }
    }

    /// An ICMP message; `protocol` says of which family.
    pub fn icmp(from: Peer, to: Peer, protocol: Protocol, icmp_type: u8, code: u8) -> Self {
        Flow {
            from,
            to,
            protocol,
            source_port: None,
            port: None,
            icmp: Some((icmp_type, code)),
        }
    }
}

/// A flow about which there is nothing to say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnjudgeableFlow {
    /// No such workload endpoint, or it runs nowhere.
    #[error("there is no workload endpoint {namespace}/{name}")]
    UnknownEndpoint {
        /// Namespace that was asked for.
        namespace: String,
        /// Name that was asked for.
        name: String,
    },
    /// No such node.
    #[error("there is no node {0}")]
    UnknownNode(String),
    /// A protocol with ports needs a destination port.
    #[error("a flow of protocol {0} needs a port")]
    MissingPort(Protocol),
    /// A protocol without ports cannot have one.
    #[error("a flow of protocol {0} has no ports")]
    UnexpectedPort(Protocol),
    /// Only ICMP has a type and a code.
    #[error("a flow of protocol {0} has no ICMP type and code")]
    UnexpectedIcmp(Protocol),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_and_written() {
        for text in ["shop/web", "ip:10.0.0.1", "ip:fd00::1", "node:n1"] {
            assert_eq!(text.parse::<Peer>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "web",
            "/web",
            "shop/",
            "a/b/c",
            "ip:",
            "ip:10.0.0.0/8",
            "node:",
            "10.0.0.1",
        ] {
            assert_eq!(text.parse::<Peer>(), Err(InvalidPeer(text.to_string())));
        }
    }
}
