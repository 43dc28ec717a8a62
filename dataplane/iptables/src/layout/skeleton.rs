//! The chains that are always there: those that the kernel's own chains lead to, and what they share.
//!
//! Only the mark lets a packet of a workload pass: a direction that finds nothing, an unknown interface, a chain that
//! somebody emptied leave it unmarked, and unmarked is refused. What is not a workload's is left to others.

use super::confined;
use super::rule::{Connection, End, Lookup, Match, Names, Rule, Target};
use super::settings::{AllowAction, LayoutSettings};
use super::tunnels;
use crate::names;
use crate::ops::{Family, Insert, Table};
use dataplane_tables::{Confined, EndpointToHost, Refusal, TunnelsInUse};
use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr};

/// Router solicitation, neighbour solicitation and advertisement: what a workload may say from a link-local address.
const NEIGHBOUR_DISCOVERY: [u8; 3] = [133, 135, 136];
const ICMPV6: u8 = 58;
const TCP: u8 = 6;
/// Every address of a loopback interface.
pub(super) const LOOPBACK: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));

/// The ways on which a packet may meet a workload.
fn ways(settings: &LayoutSettings) -> Vec<Match> {
    let prefixes = settings.interface_prefixes.iter();
    prefixes
        .flat_map(|p| {
            [
                Match::In(Names::Begins(p.clone())),
                Match::Out(Names::Begins(p.clone())),
            ]
        })
        .collect()
}

/// From workloads.
pub(super) fn from(prefix: &str) -> Match {
    Match::In(Names::Begins(prefix.to_owned()))
}

/// To workloads.
pub(super) fn to(prefix: &str) -> Match {
    Match::Out(Names::Begins(prefix.to_owned()))
}

fn allow(settings: &LayoutSettings) -> Target {
    match settings.allow {
        AllowAction::Accept => Target::Accept,
        AllowAction::Return => Target::Return,
    }
}

fn refuse(settings: &LayoutSettings) -> Target {
    match settings.refusal {
        Refusal::Drop => Target::Drop,
        Refusal::Reject => Target::Reject,
    }
}

fn connection(states: &[Connection]) -> Match {
    Match::Connection(states.to_vec())
}

fn jump(chain: &str) -> Target {
    Target::Jump(chain.to_owned())
}

fn midstream(on: Match) -> Rule {
    let is = [
        on,
        Match::Protocol(TCP),
        connection(&[Connection::New]),
        Match::NoSyn,
    ];
    Rule::new(is, Target::Drop)
}

/// The chain of forwarded packets.
pub(super) fn forward(settings: &LayoutSettings, within_tunnels: &Confined) -> Vec<Rule> {
    let bit = settings.marks.accept;
    let mut rules = confined::jumps(within_tunnels);
    for on in ways(settings) {
        rules.push(Rule::new(
            [on, connection(&[Connection::Established])],
            allow(settings),
        ));
    }
    // In front of what is related, for that begins a connection of its own.
    let unknown = Match::NotConnection(vec![Connection::Established]);
    rules.push(Rule::new([unknown], jump(names::VACANT)));
    let mut decided = vec![Connection::Related];
    if settings.drop_invalid {
        decided.push(Connection::Invalid);
    }
    rules.push(Rule::new(
        [connection(&decided)],
        Target::Goto(names::NOT_NEW.to_owned()),
    ));
    if settings.refuse_midstream {
        rules.extend(ways(settings).into_iter().map(midstream));
    }
    for (dispatch, on) in [
        (names::FROM_DISPATCH, from as fn(&str) -> Match),
        (names::TO_DISPATCH, to as fn(&str) -> Match),
    ] {
        rules.push(Rule::always(Target::Unmark(bit)));
        for prefix in &settings.interface_prefixes {
            rules.push(Rule::new([on(prefix)], jump(dispatch)));
            rules.push(Rule::new([on(prefix), Match::Unmarked(bit)], refuse(settings)));
        }
    }
    rules.push(Rule::always(Target::Unmark(bit)));
    for on in ways(settings) {
        rules.push(Rule::new([on], allow(settings)));
    }
    rules
}

/// Of a connection that another one announced, or of none: decided for workloads, left to others otherwise.
fn not_new(settings: &LayoutSettings) -> Vec<Rule> {
    let mut rules = Vec::new();
    if settings.drop_invalid {
        for on in ways(settings) {
            rules.push(Rule::new([on, connection(&[Connection::Invalid])], Target::Drop));
        }
    }
    for on in ways(settings) {
        rules.push(Rule::new([on], allow(settings)));
    }
    rules
}

/// Lets no packet begin a connection with an address that nobody has.
///
/// What is sent to such an address, or in its name, would leave an entry in connection tracking, by which the address's
/// next holder could speak and be spoken to without policy being asked.
fn vacant(family: Family) -> Vec<Rule> {
    [End::Source, End::Destination]
        .map(|end| {
            let asked = Match::InSet(names::vacant_addresses(family), Lookup::Address(end));
            Rule::new([asked], Target::Drop)
        })
        .to_vec()
}

fn beginning_of_a_connection() -> Rule {
    let begins = connection(&[Connection::New, Connection::Related]);
    Rule::new([begins], jump(names::VACANT))
}

/// The chain of packets of the node.
pub(super) fn output(within_tunnels: &Confined) -> Vec<Rule> {
    let mut rules = confined::jumps(within_tunnels);
    rules.push(beginning_of_a_connection());
    rules
}

/// The chain of packets to the node.
pub(super) fn input(settings: &LayoutSettings, in_use: TunnelsInUse) -> Vec<Rule> {
    let mut rules = Vec::new();
    if in_use.any() {
        // Before anything that asks for the connection: a stranger's packets make one like anybody's.
        rules.push(Rule::always(jump(names::TUNNELS)));
    }
    rules.push(beginning_of_a_connection());
    for prefix in &settings.interface_prefixes {
        rules.push(Rule::new(
            [from(prefix)],
            Target::Goto(names::WORKLOAD_TO_HOST.to_owned()),
        ));
    }
    rules
}

fn workload_to_host(family: Family, settings: &LayoutSettings) -> Vec<Rule> {
    let bit = settings.marks.accept;
    let known = connection(&[Connection::Established, Connection::Related]);
    let mut rules = vec![Rule::new([known], allow(settings))];
    if settings.drop_invalid {
        rules.push(Rule::new([connection(&[Connection::Invalid])], Target::Drop));
    }
    match family {
        // Some workloads' interfaces carry such addresses inwards (`route_localnet`), for the node's own packets.
        Family::Inet => rules.push(Rule::new([Match::Net(End::Destination, LOOPBACK)], Target::Drop)),
        Family::Inet6 => {
            for kind in NEIGHBOUR_DISCOVERY {
                let icmp = Match::Icmp { kind, code: None };
                rules.push(Rule::new([Match::Protocol(ICMPV6), icmp], allow(settings)));
            }
        }
    }
    if settings.refuse_midstream {
        let is = [Match::Protocol(TCP), connection(&[Connection::New]), Match::NoSyn];
        rules.push(Rule::new(is, Target::Drop));
    }
    rules.push(Rule::always(Target::Unmark(bit)));
    rules.push(Rule::always(jump(names::FROM_DISPATCH)));
    rules.push(Rule::new([Match::Unmarked(bit)], refuse(settings)));
    rules.push(Rule::always(Target::Unmark(bit)));
    match settings.endpoint_to_host {
        EndpointToHost::Drop => rules.push(Rule::always(Target::Drop)),
        EndpointToHost::Accept => rules.push(Rule::always(Target::Accept)),
        EndpointToHost::Return => {}
    }
    rules
}

/// The rules of the chain that lets pass only what a workload may say at all, and in its own name. `spoofable` are the
/// networks beside its addresses that a workload may send from, by interface.
///
/// Every packet of a workload passes here, not only the first ones, so that one lookup in one set decides.
pub(super) fn sources<'a>(
    family: Family,
    settings: &LayoutSettings,
    spoofable: impl Iterator<Item = (&'a str, IpNet)>,
) -> Vec<Rule> {
    let mut rules = tunnels::from_workloads(settings);
    let own = Match::InSet(names::own_addresses(family), Lookup::AddressAndIn(End::Source));
    rules.push(Rule::new([own], Target::Return));
    if family == Family::Inet6 {
        for kind in NEIGHBOUR_DISCOVERY {
            // From fe80::/10 and from :: (duplicate address detection).
            for source in ["fe80::/10", "::/128"] {
                let Ok(net) = source.parse() else { continue };
                let icmp = Match::Icmp { kind, code: None };
                let is = [Match::Net(End::Source, net), Match::Protocol(ICMPV6), icmp];
                rules.push(Rule::new(is, Target::Return));
            }
        }
    }
    for (interface, net) in spoofable {
        let is = [
            Match::In(Names::Is(interface.to_owned())),
            Match::Net(End::Source, net),
        ];
        rules.push(Rule::new(is, Target::Return));
    }
    rules.push(Rule::always(Target::Drop));
    rules
}

/// The chains of the filter table that never change, and the one that they all end in.
pub(super) fn filter(family: Family, settings: &LayoutSettings) -> Vec<(&'static str, Vec<Rule>)> {
    vec![
        (names::NOT_NEW, not_new(settings)),
        (names::VACANT, vacant(family)),
        (names::WORKLOAD_TO_HOST, workload_to_host(family, settings)),
        (
            names::ALLOW,
            vec![Rule::always(Target::Mark(settings.marks.accept))],
        ),
    ]
}

/// The chain of the raw table that never changes.
pub(super) fn raw(settings: &LayoutSettings) -> Vec<Rule> {
    let prefixes = settings.interface_prefixes.iter();
    prefixes
        .map(|prefix| Rule::new([from(prefix)], Target::Goto(names::SOURCES.to_owned())))
        .collect()
}

/// The rules that must stand in the kernel's own chains of a table.
pub fn inserts(table: Table, settings: &LayoutSettings) -> Vec<Insert> {
    let chains: &[(&'static str, &str)] = match table {
        Table::Raw => &[("PREROUTING", names::PREROUTING)],
        Table::Mangle => &[],
        Table::Filter => &[
            ("FORWARD", names::FORWARD),
            ("INPUT", names::INPUT),
            ("OUTPUT", names::OUTPUT),
        ],
        Table::Nat => &[
            ("PREROUTING", names::PREROUTING),
            ("OUTPUT", names::OUTPUT),
            ("POSTROUTING", names::POSTROUTING),
        ],
    };
    let insert = |(chain, ours): &(&'static str, &str)| Insert {
        chain,
        rule: Rule::always(jump(ours)).text(Family::Inet),
        place: settings.place,
    };
    chains.iter().map(insert).collect()
}

/// The unspecified address of a family.
pub(super) fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}
