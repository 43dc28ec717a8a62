//! Sets of addresses that rules refer to by number.

use ipnet::IpNet;
use policy_model::Protocol;
use std::net::IpAddr;

/// Number of a set of addresses. Given by the brain, never used again for another set within one life of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AtomId(pub u32);

/// Which side of the rules refers to a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AtomScope {
    /// The other end of a flow: members are addresses of the whole cluster and of outside.
    Peer,
    /// The local endpoint's own end: members are addresses of local endpoints and networks only.
    Own,
}

/// A protocol and port of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey {
    /// Protocol.
    pub protocol: Protocol,
    /// Port number.
    pub port: u16,
}

/// A member of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Member {
    /// A network, or a single address as a network of full length. Host bits are zero.
    Net(IpNet),
    /// A port of a single address, in sets of named ports and of Services' destinations.
    Port(IpAddr, PortKey),
}
