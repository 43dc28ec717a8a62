//! A simulator of our chains: it walks a packet through the rules as the kernel does.
//!
//! It interprets the lowered form, so that what the planner wrote can be judged without a kernel. Address translation is
//! left out: packets are given as they are behind it.

use super::rule::{Connection, End, Lookup, Match, Rule, Target};
use crate::names;
use crate::ops::{Family, Table};
use policy_model::Protocol;
use std::net::IpAddr;

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port, or ICMP type.
    pub x: u16,
    /// Source port, or ICMP code.
    pub y: u16,
    /// What connection tracking says of it.
    pub connection: Connection,
    /// Whether, in TCP, it is a connection's first.
    pub syn: bool,
    /// The number of the VXLAN network, where it is of one.
    pub vxlan: Option<u32>,
}

impl Packet {
    /// A packet that opens a flow.
    pub fn first(source: IpAddr, destination: IpAddr, protocol: Protocol, x: u16, y: u16) -> Self {
        Packet {
            source,
            destination,
            protocol,
            x,
            y,
            connection: Connection::New,
            syn: true,
            vxlan: None,
        }
    }

    fn end(&self, end: End) -> IpAddr {
        match end {
            End::Source => self.source,
            End::Destination => self.destination,
        }
    }
}

/// How the node sees the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way<'a> {
    /// Interface that it comes in at; `None` for a packet of the node itself.
    pub from: Option<&'a str>,
    /// Interface that it goes out at; `None` for a packet to the node itself.
    pub to: Option<&'a str>,
}

/// What is looked up in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a> {
    /// Address.
    pub address: IpAddr,
    /// Protocol and port, where the set has ports; the port of ICMP is type and code, and that of others zero.
    pub port: Option<(u8, u16)>,
    /// Interface, where the set has interfaces.
    pub interface: Option<&'a str>,
}

/// Chains and sets that a packet may meet.
pub trait Ruleset {
    /// The rules of a chain of ours, if it is there.
    fn chain(&self, family: Family, table: Table, name: &str) -> Option<&[Rule]>;
    /// Whether a set has this.
    fn contains(&self, set: &str, key: &Key<'_>) -> bool;
}

/// Whether our chains let the packet pass: what comes in is asked for its source, then what passes the node, what is to the
/// node and what is of the node for policy.
pub fn simulate(rules: &impl Ruleset, packet: &Packet, way: Way<'_>) -> bool {
    let mut walk = Walk {
        rules,
        packet,
        way,
        family: Family::of(packet.source),
        table: Table::Raw,
        mark: 0,
        steps: 0,
    };
    walk.passes()
}

/// How many rules the packet's walk through the filter table asks.
pub fn rules_asked(rules: &impl Ruleset, packet: &Packet, way: Way<'_>) -> usize {
    let mut walk = Walk {
        rules,
        packet,
        way,
        family: Family::of(packet.source),
        table: Table::Filter,
        mark: 0,
        steps: 0,
    };
    walk.filter();
    walk.steps
}

/// What a chain says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Accept,
    Drop,
    Nothing,
}

struct Walk<'a, R> {
    rules: &'a R,
    packet: &'a Packet,
    way: Way<'a>,
    family: Family,
    table: Table,
    mark: u32,
    steps: usize,
}

impl<R: Ruleset> Walk<'_, R> {
    fn passes(&mut self) -> bool {
        if self.way.from.is_some() && self.chain(names::PREROUTING, 0) == Said::Drop {
            return false;
        }
        self.table = Table::Filter;
        self.filter() != Said::Drop
    }

    fn filter(&mut self) -> Said {
        let chain = match (self.way.from, self.way.to) {
            (None, _) => names::OUTPUT,
            (Some(_), None) => names::INPUT,
            (Some(_), Some(_)) => names::FORWARD,
        };
        self.chain(chain, 0)
    }

    fn chain(&mut self, name: &str, depth: usize) -> Said {
        // A chain that is not there says nothing, and none leads back to itself.
        let rules = self.rules;
        let Some(list) = rules.chain(self.family, self.table, name).filter(|_| depth < 16) else {
            return Said::Nothing;
        };
        for rule in list {
            self.steps += 1;
            if !rule.matches.iter().all(|m| self.matches(m)) {
                continue;
            }
            match &rule.target {
                Target::Accept => return Said::Accept,
                Target::Drop | Target::Reject => return Said::Drop,
                Target::Return => return Said::Nothing,
                Target::Goto(chain) => return self.chain(chain, depth + 1),
                Target::Jump(chain) => match self.chain(chain, depth + 1) {
                    Said::Nothing => {}
                    said => return said,
                },
                Target::Mark(bit) => self.mark |= bit,
                Target::Unmark(bit) => self.mark &= !bit,
                Target::Report | Target::Destination(_) | Target::Masquerade(_) | Target::Source(..) => {}
            }
        }
        Said::Nothing
    }

    fn matches(&self, m: &Match) -> bool {
        let packet = self.packet;
        let within = |(first, last): (u16, u16), n: u16| first <= n && n <= last;
        match m {
            Match::In(names) => self.way.from.is_some_and(|name| names.contains(name)),
            Match::Out(names) => self.way.to.is_some_and(|name| names.contains(name)),
            Match::Net(end, net) => net.contains(&packet.end(*end)),
            Match::Protocol(number) => packet.protocol.number() == *number,
            Match::NotProtocol(number) => packet.protocol.number() != *number,
            Match::Ports {
                protocol,
                destination,
                source,
            } => {
                packet.protocol.number() == *protocol
                    && within(*destination, packet.x)
                    && within(*source, packet.y)
            }
            Match::PortList(spans) => {
                packet.protocol.has_ports() && spans.iter().any(|span| within(*span, packet.x))
            }
            Match::Icmp { kind, code } => {
                packet.protocol.is_icmp()
                    && packet.x == u16::from(*kind)
                    && code.is_none_or(|code| packet.y == u16::from(code))
            }
            Match::Connection(states) => states.contains(&packet.connection),
            Match::NotConnection(states) => !states.contains(&packet.connection),
            Match::NoSyn => packet.protocol == Protocol::TCP && !packet.syn,
            Match::Unmarked(bit) => self.mark & bit == 0,
            Match::InSet(name, lookup) => self.is_in(name, *lookup),
            Match::NotInSet(name, lookup) => !self.is_in(name, *lookup),
            Match::VxlanNetwork(number) => packet.vxlan == Some(*number),
            // These are asked in address translation, and of packets with extension headers.
            Match::Translated | Match::Local(_) | Match::NotOfOutInterface | Match::MoreHeaders => false,
        }
    }

    fn is_in(&self, set: &str, lookup: Lookup) -> bool {
        let packet = self.packet;
        let number = packet.protocol.number();
        let port = match () {
            () if packet.protocol.has_ports() => packet.x,
            () if packet.protocol.is_icmp() => packet.x << 8 | packet.y,
            () => 0,
        };
        let key = |end, port, interface| Key {
            address: packet.end(end),
            port,
            interface,
        };
        let key = match lookup {
            Lookup::Address(end) => key(end, None, None),
            Lookup::AddressAndPort(end) => key(end, Some((number, port)), None),
            Lookup::AddressAndIn(end) => key(end, None, self.way.from),
            Lookup::AddressAndOut(end) => key(end, None, self.way.to),
        };
        self.rules.contains(set, &key)
    }
}
