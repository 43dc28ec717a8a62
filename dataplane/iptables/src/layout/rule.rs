//! Rules as values, and their text. The simulator interprets the values; the kernel gets the text.

use crate::ops::Family;
use dataplane_tables::{EVERYTHING, Span};
use ipnet::IpNet;
use policy_model::Protocol;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};

/// A rule of a chain: what it matches, all of it, and what it does then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What a packet must be.
    pub matches: Vec<Match>,
    /// What happens to it.
    pub target: Target,
}

/// An end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes to.
    Destination,
}

/// Names of interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// This one.
    Is(String),
    /// All that begin so.
    Begins(String),
}

impl Names {
    /// Whether a name is one of them.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Names::Is(other) => name == other,
            Names::Begins(beginning) => name.starts_with(beginning.as_str()),
        }
    }
}

/// A state of connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// The packet begins a connection.
    New,
    /// It belongs to one.
    Established,
    /// It begins one that another one announced.
    Related,
    /// It belongs to none and can begin none.
    Invalid,
}

/// What is looked up in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The address of an end.
    Address(End),
    /// The address of an end with the protocol and the destination's port.
    AddressAndPort(End),
    /// The address of an end with the interface by which the packet comes in.
    AddressAndIn(End),
    /// The address of an end with the interface by which the packet goes out.
    AddressAndOut(End),
}

/// What a packet must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It comes in by one of these.
    In(Names),
    /// It goes out by one of these.
    Out(Names),
    /// An end is in a network.
    Net(End, IpNet),
    /// It is of a protocol.
    Protocol(u8),
    /// It is of another protocol.
    NotProtocol(u8),
    /// Its ports are within spans. Stands behind the protocol.
    Ports {
        /// One that has ports.
        protocol: u8,
        /// Of the destination's port.
        destination: Span,
        /// Of the source's port.
        source: Span,
    },
    /// Its destination's port is within one of a few spans. Stands behind the protocol.
    PortList(Vec<Span>),
    /// It is of a type of ICMP, and of a code. Stands behind the protocol.
    Icmp {
        /// Type.
        kind: u8,
        /// Code; every code where absent.
        code: Option<u8>,
    },
    /// The connection is in one of these states.
    Connection(Vec<Connection>),
    /// The connection is in none of these states.
    NotConnection(Vec<Connection>),
    /// The connection's destination was translated.
    Translated,
    /// It is no first packet of a TCP connection. Stands behind the protocol.
    NoSyn,
    /// A bit of its mark is clear.
    Unmarked(u32),
    /// It is in a set.
    InSet(String, Lookup),
    /// It is not in a set.
    NotInSet(String, Lookup),
    /// An end is an address of this node.
    Local(End),
    /// Its source is not the address of the interface by which it goes out.
    NotOfOutInterface,
    /// It is a VXLAN packet of this network. Stands behind protocol and port.
    VxlanNetwork(u32),
    /// In IPv6: something stands between its header and that of UDP.
    MoreHeaders,
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// It passes the table.
    Accept,
    /// It vanishes.
    Drop,
    /// It vanishes and its sender is told.
    Reject,
    /// The chain ends.
    Return,
    /// Another chain is walked; this one goes on behind the rule afterwards.
    Jump(String),
    /// Another chain is walked; the one that jumped goes on afterwards.
    Goto(String),
    /// A bit of its mark is set.
    Mark(u32),
    /// A bit of its mark is cleared.
    Unmark(u32),
    /// It is reported, and the chain goes on.
    Report,
    /// Its destination becomes another.
    Destination(SocketAddr),
    /// Its source becomes an address of the interface by which it goes out; its port is one of these.
    Masquerade(Option<(u16, u16)>),
    /// Its source becomes this; its port is one of these.
    Source(Ipv4Addr, Option<(u16, u16)>),
}

/// The NFLOG group that reports go to.
const LOG_GROUP: u16 = 7;

impl Rule {
    /// A rule.
    pub fn new(matches: impl IntoIterator<Item = Match>, target: Target) -> Self {
        let matches = matches.into_iter().collect();
        Rule { matches, target }
    }

    /// A rule that matches every packet.
    pub fn always(target: Target) -> Self {
        Rule::new([], target)
    }

    /// The chain that it leads to.
    pub fn leads_to(&self) -> Option<&str> {
        match &self.target {
            Target::Jump(chain) | Target::Goto(chain) => Some(chain),
            _ => None,
        }
    }

    /// The sets that it asks.
    pub fn sets(&self) -> impl Iterator<Item = &str> {
        self.matches.iter().filter_map(|m| match m {
            Match::InSet(name, _) | Match::NotInSet(name, _) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Its text, in the syntax and the order of the saving program.
    pub fn text(&self, family: Family) -> String {
        let mut out = String::new();
        // Every packet is within a network of length zero, and the saving program does not name it.
        let says = |m: &&Match| !matches!(m, Match::Net(_, net) if net.prefix_len() == 0);
        let mut matches: Vec<&Match> = self.matches.iter().filter(says).collect();
        // What belongs to every packet stands in front, in a fixed order; the rest as it is asked.
        matches.sort_by_key(|m| basic(m));
        for m in matches {
            if !out.is_empty() {
                out.push(' ');
            }
            out += &text_of_match(m, family);
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out += &text_of_target(&self.target, family);
        out
    }
}

fn basic(m: &Match) -> u8 {
    match m {
        Match::Net(End::Source, _) => 0,
        Match::Net(End::Destination, _) => 1,
        Match::In(_) => 2,
        Match::Out(_) => 3,
        Match::Protocol(_) | Match::NotProtocol(_) => 4,
        _ => 5,
    }
}

fn text_of_match(m: &Match, family: Family) -> String {
    match m {
        Match::In(names) => format!("-i {}", text_of_names(names)),
        Match::Out(names) => format!("-o {}", text_of_names(names)),
        Match::Net(End::Source, net) => format!("-s {net}"),
        Match::Net(End::Destination, net) => format!("-d {net}"),
        Match::Protocol(number) => format!("-p {}", protocol(*number)),
        Match::NotProtocol(number) => format!("! -p {}", protocol(*number)),
        Match::Ports {
            protocol: number,
            destination,
            source,
        } => text_of_ports(*number, *destination, *source),
        Match::PortList(spans) => format!("-m multiport --dports {}", span_list(spans)),
        Match::Icmp { kind, code } => {
            let code = code.map(|code| format!("/{code}")).unwrap_or_default();
            match family {
                Family::Inet => format!("-m icmp --icmp-type {kind}{code}"),
                Family::Inet6 => format!("-m icmp6 --icmpv6-type {kind}{code}"),
            }
        }
        Match::Connection(states) => format!("-m conntrack --ctstate {}", states_text(states)),
        Match::NotConnection(states) => format!("-m conntrack ! --ctstate {}", states_text(states)),
        Match::Translated => "-m conntrack --ctstate DNAT".to_owned(),
        Match::NoSyn => "-m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN".to_owned(),
        Match::Unmarked(bit) => format!("-m mark ! --mark {bit:#x}/{bit:#x}"),
        Match::InSet(name, lookup) => format!("-m set --match-set {name} {}", flags(*lookup)),
        Match::NotInSet(name, lookup) => format!("-m set ! --match-set {name} {}", flags(*lookup)),
        Match::Local(End::Source) => "-m addrtype --src-type LOCAL".to_owned(),
        Match::Local(End::Destination) => "-m addrtype --dst-type LOCAL".to_owned(),
        Match::NotOfOutInterface => "-m addrtype ! --src-type LOCAL --limit-iface-out".to_owned(),
        // Behind the IP header, whose length IPv4 says itself, stand 8 bytes of UDP and 4 of flags.
        Match::VxlanNetwork(number) => match family {
            Family::Inet => format!("-m u32 --u32 \"0x0>>0x16&0x3c@0xc>>0x8={number:#x}\""),
            Family::Inet6 => format!("-m u32 --u32 \"0x34>>0x8={number:#x}\""),
        },
        Match::MoreHeaders => "-m u32 ! --u32 \"0x4>>0x8&0xff=0x11\"".to_owned(),
    }
}

fn text_of_names(names: &Names) -> String {
    match names {
        Names::Is(name) => name.clone(),
        Names::Begins(beginning) => format!("{beginning}+"),
    }
}

/// The name that the saving program gives a protocol, where it is sure to know one.
fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "ipv6-icmp".to_owned(),
        132 => "sctp".to_owned(),
        136 => "udplite".to_owned(),
        other => other.to_string(),
    }
}

fn text_of_ports(number: u8, destination: Span, source: Span) -> String {
    let mut out = String::new();
    if number == Protocol::UDP_LITE.number() {
        // It has no match of its own.
        for (span, side) in [(source, "sports"), (destination, "dports")] {
            if span != EVERYTHING {
                let _ = write!(out, "-m multiport --{side} {} ", span_list(&[span]));
            }
        }
        return out.trim_end().to_owned();
    }
    let _ = write!(out, "-m {}", protocol(number));
    for (span, side) in [(source, "sport"), (destination, "dport")] {
        if span != EVERYTHING {
            let _ = write!(out, " --{side} {}", span_list(&[span]));
        }
    }
    out
}

fn span_list(spans: &[Span]) -> String {
    let one = |(first, last): &Span| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}:{last}")
        }
    };
    spans.iter().map(one).collect::<Vec<_>>().join(",")
}

fn states_text(states: &[Connection]) -> String {
    let in_order = [
        (Connection::Invalid, "INVALID"),
        (Connection::New, "NEW"),
        (Connection::Related, "RELATED"),
        (Connection::Established, "ESTABLISHED"),
    ];
    let named = in_order.iter().filter(|(state, _)| states.contains(state));
    named.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
}

fn flags(lookup: Lookup) -> String {
    let end = |end: End| match end {
        End::Source => "src",
        End::Destination => "dst",
    };
    match lookup {
        Lookup::Address(of) => end(of).to_owned(),
        Lookup::AddressAndPort(of) => format!("{},dst", end(of)),
        Lookup::AddressAndIn(of) => format!("{},src", end(of)),
        Lookup::AddressAndOut(of) => format!("{},dst", end(of)),
    }
}

fn text_of_target(target: &Target, family: Family) -> String {
    let ports = |ports: &Option<(u16, u16)>| ports.map(|(first, last)| format!("{first}-{last}"));
    match target {
        Target::Accept => "-j ACCEPT".to_owned(),
        Target::Drop => "-j DROP".to_owned(),
        Target::Reject => match family {
            Family::Inet => "-j REJECT --reject-with icmp-port-unreachable".to_owned(),
            Family::Inet6 => "-j REJECT --reject-with icmp6-port-unreachable".to_owned(),
        },
        Target::Return => "-j RETURN".to_owned(),
        Target::Jump(chain) => format!("-j {chain}"),
        Target::Goto(chain) => format!("-g {chain}"),
        Target::Mark(bit) => format!("-j MARK --set-xmark {bit:#x}/{bit:#x}"),
        Target::Unmark(bit) => format!("-j MARK --set-xmark 0x0/{bit:#x}"),
        Target::Report => format!("-j NFLOG --nflog-prefix \"manx \" --nflog-group {LOG_GROUP}"),
        Target::Destination(to) => format!("-j DNAT --to-destination {to}"),
        Target::Masquerade(None) => "-j MASQUERADE".to_owned(),
        Target::Masquerade(range) => format!("-j MASQUERADE --to-ports {}", ports(range).unwrap_or_default()),
        Target::Source(address, range) => {
            let ports = ports(range).map(|p| format!(":{p}")).unwrap_or_default();
            format!("-j SNAT --to-source {address}{ports}")
        }
    }
}
