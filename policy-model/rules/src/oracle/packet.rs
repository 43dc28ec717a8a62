//! A flow's first packet, as rules see it, and whether an address is in a set.

use super::facts::{Facts, Owner};
use crate::set::AddressSet;
use policy_model::Protocol;
use std::net::IpAddr;

/// The packet that opens a flow.
pub(super) struct Packet<'a> {
    pub(super) protocol: Protocol,
    /// Type and code, of ICMP only.
    pub(super) icmp: Option<(u8, u8)>,
    pub(super) source: End<'a>,
    pub(super) destination: End<'a>,
}

/// One end of a packet.
pub(super) struct End<'a> {
    pub(super) address: IpAddr,
    /// Of protocols that have ports only.
    pub(super) port: Option<u16>,
    /// Everything with labels that has the address.
    pub(super) owners: Vec<&'a Owner>,
}

/// Whether an end is in a set; `protocol` is the packet's.
pub(super) fn is_member(facts: &Facts, set: &AddressSet, end: &End<'_>, protocol: Protocol) -> bool {
    match set {
        AddressSet::Selected(selector) => end.owners.iter().any(|o| selector.evaluate(&o.labels)),
        AddressSet::Nets(nets) => nets.iter().any(|net| net.contains(&end.address)),
        AddressSet::NamedPort {
            selector,
            name,
            protocol: declared,
        } => {
            let declares = |owner: &Owner| {
                owner
                    .ports
                    .iter()
                    .any(|p| p.name == *name && p.protocol == *declared && Some(p.port) == end.port)
            };
            protocol == *declared
                && end
                    .owners
                    .iter()
                    .any(|o| selector.evaluate(&o.labels) && declares(o))
        }
        AddressSet::Service {
            namespace,
            name,
            with_ports,
        } => facts.services.iter().any(|slice| {
            let port = |p: &policy_model::ServicePort| p.protocol == protocol && Some(p.port) == end.port;
            slice.namespace == *namespace
                && slice.service == *name
                && slice.addresses.contains(&end.address)
                && (!with_ports || slice.ports.is_empty() || slice.ports.iter().any(port))
        }),
    }
}
