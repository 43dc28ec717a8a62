//! Address translation: ports of the node that lead to workloads, and sources that no answer would find.
//!
//! Destinations change before policy is asked and sources stay, so that policy sees the real client. On the way out to a
//! workload a source changes in two cases only: a packet from the node's loopback address, whose answer would not come
//! back, and a workload's packet to itself by way of the node, which it would take for a forgery. On the way elsewhere it
//! changes where no answer would find the way back: what the node says into a tunnel, and what leaves all pools. Only the
//! first packet of a connection comes here, and the first rule that translates decides, whosever it is.

use super::rule::{End, Lookup, Match, Names, Rule, Target};
use super::settings::LayoutSettings;
use super::skeleton::{LOOPBACK, to, unspecified};
use super::tunnels;
use crate::names;
use crate::ops::Family;
use dataplane_api::HostPort;
use dataplane_tables::{EVERYTHING, Exclusions};
use ipnet::IpNet;
use policy_model::Protocol;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The protocols whose ports are translated.
const WITH_PORTS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

fn to_host_ports() -> Rule {
    let chain = names::HOST_PORTS.to_owned();
    Rule::new([Match::Local(End::Destination)], Target::Jump(chain))
}

/// The chains that the kernel's own chains lead to.
pub(super) fn chains(family: Family, settings: &LayoutSettings) -> Vec<(&'static str, Vec<Rule>)> {
    let mut prerouting = Vec::new();
    if family == Family::Inet {
        // From outside nobody reaches a loopback address, though the interfaces of some workloads may carry such
        // addresses inwards.
        prerouting.push(Rule::new(
            [Match::Net(End::Destination, LOOPBACK)],
            Target::Return,
        ));
    }
    prerouting.push(to_host_ports());
    vec![
        (names::PREROUTING, prerouting),
        (names::OUTPUT, vec![to_host_ports()]),
        (names::POSTROUTING, postrouting(family, settings)),
    ]
}

fn postrouting(family: Family, settings: &LayoutSettings) -> Vec<Rule> {
    let masquerade = || Target::Masquerade(None);
    let mut rules = Vec::new();
    for prefix in &settings.interface_prefixes {
        if family == Family::Inet {
            let is = [Match::Net(End::Source, LOOPBACK), to(prefix)];
            rules.push(Rule::new(is, masquerade()));
        }
        // The source is an address of the very workload that the packet goes to.
        let own = Match::InSet(names::own_addresses(family), Lookup::AddressAndOut(End::Source));
        rules.push(Rule::new([to(prefix), Match::Translated, own], masquerade()));
    }
    for device in tunnels::devices(family) {
        // The other end knows the way back into the tunnel by the address of the device alone.
        let out = Match::Out(Names::Is((*device).to_owned()));
        let is = [out, Match::Local(End::Source), Match::NotOfOutInterface];
        rules.push(Rule::new(is, masquerade()));
    }
    rules.push(Rule::always(Target::Jump(names::OUTGOING.to_owned())));
    rules
}

/// Whether packets can be led there.
pub(super) fn leads(port: &HostPort, target: &SocketAddr) -> bool {
    port.address.is_ipv4() == target.is_ipv4() && port.protocol.has_ports()
}

/// The chain of ports of the node: a port of one address goes before that of all addresses.
pub(super) fn host_ports(family: Family, ports: &BTreeMap<HostPort, SocketAddr>) -> Vec<Rule> {
    let of_family = || {
        ports
            .iter()
            .filter(|(port, target)| Family::of(port.address) == family && leads(port, target))
    };
    let rule = |(port, target): (&HostPort, &SocketAddr)| {
        let number = port.protocol.number();
        let mut is = Vec::new();
        if !port.address.is_unspecified() {
            is.push(Match::Net(End::Destination, IpNet::from(port.address)));
        }
        is.push(Match::Protocol(number));
        is.push(Match::Ports {
            protocol: number,
            destination: (port.port, port.port),
            source: EVERYTHING,
        });
        Rule::new(is, Target::Destination(*target))
    };
    let everywhere = |port: &HostPort| port.address == unspecified(family);
    let mut rules: Vec<Rule> = of_family().filter(|(p, _)| !everywhere(p)).map(rule).collect();
    let mut last: Vec<Rule> = of_family().filter(|(p, _)| everywhere(p)).map(rule).collect();
    if family == Family::Inet6 && !last.is_empty() {
        // Answers to ::1 never come back from an interface: what listens there on the node is left to it.
        let itself = Match::Net(End::Destination, IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        rules.push(Rule::new([itself], Target::Return));
    }
    rules.append(&mut last);
    rules
}

/// The chain of the way out of the cluster: packets that leave all pools take an address of the node. None where no pool
/// of the family wants it.
///
/// Pools are few and stand in the rules themselves, which change as a whole: no packet meets them half made.
pub(super) fn outgoing(
    family: Family,
    pools: &BTreeMap<IpNet, bool>,
    settings: &LayoutSettings,
) -> Vec<Rule> {
    let of_family = || pools.iter().filter(|(pool, _)| Family::of(pool.addr()) == family);
    if !of_family().any(|(_, translated)| *translated) {
        return Vec::new();
    }
    let mut rules: Vec<Rule> = settings
        .interface_prefixes
        .iter()
        .map(|prefix| Rule::new([to(prefix)], Target::Return))
        .collect();
    rules.extend(
        of_family().map(|(pool, _)| Rule::new([Match::Net(End::Destination, *pool)], Target::Return)),
    );
    if settings.outgoing.exclusions == Exclusions::PoolsAndNodes {
        let nodes = Match::InSet(names::node_addresses(family), Lookup::Address(End::Destination));
        rules.push(Rule::new([nodes], Target::Return));
    }
    let address = settings.outgoing.address.filter(|_| family == Family::Inet);
    let translated = |ports| match address {
        Some(address) => Target::Source(address, ports),
        None => Target::Masquerade(ports),
    };
    for (pool, _) in of_family().filter(|(_, translated)| **translated) {
        let source = Match::Net(End::Source, *pool);
        if let Some(ports) = settings.outgoing.ports {
            for protocol in WITH_PORTS {
                let is = [source.clone(), Match::Protocol(protocol.number())];
                rules.push(Rule::new(is, translated(Some(ports))));
            }
        }
        rules.push(Rule::new([source], translated(None)));
    }
    rules
}
