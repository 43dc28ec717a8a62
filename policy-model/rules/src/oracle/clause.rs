//! Whether a rule matches a packet, clause by clause, and what to say of each.

use super::facts::{Facts, Owner};
use super::packet::{End, Packet, is_member};
use super::trace::{ClauseTrace, RuleTrace};
use crate::rule::{IpVersion, PortMatch, Rule, Side};
use crate::set::AddressSet;
use policy_model::{Icmp, Protocol};
use policy_model_selector::Selector;
use std::fmt::Display;

/// How many members of a list a clause shows.
const SHOWN: usize = 8;

/// Checks a rule. Without `explain` no clause is put into words, which is most of the work.
pub(super) fn check(facts: &Facts, rule: &Rule<AddressSet>, packet: &Packet<'_>, explain: bool) -> RuleTrace {
    let mut checker = Checker {
        facts,
        packet,
        explain,
        matched: true,
        clauses: Vec::new(),
    };
    if let Some(version) = rule.ip_version {
        let found = IpVersion::of(packet.destination.address);
        checker.clause(found == version, || format!("the packet is {found}"));
    }
    if let Some(wanted) = rule.protocol {
        let found = packet.protocol;
        checker.clause(found == wanted, || {
            if found == wanted {
                format!("protocol is {found}")
            } else {
                format!("protocol {found} is not {wanted}")
            }
        });
    }
    if let Some(refused) = rule.not_protocol {
        let found = packet.protocol;
        checker.clause(found != refused, || {
            format!("protocol is {found}, notProtocol is {refused}")
        });
    }
    if let Some(icmp) = rule.icmp {
        let holds = icmp_matches(icmp, packet);
        checker.clause(holds, || {
            format!("{} {} {}", icmp_found(packet), is(holds), icmp_wanted(icmp))
        });
    }
    if let Some(icmp) = rule.not_icmp {
        let excluded = icmp_matches(icmp, packet);
        let text = || {
            format!(
                "{} {} the excluded {}",
                icmp_found(packet),
                is(excluded),
                icmp_wanted(icmp)
            )
        };
        checker.clause(!excluded, text);
    }
    checker.side("source", &rule.source, &packet.source);
    checker.side("destination", &rule.destination, &packet.destination);
    RuleTrace {
        rule: rule.index,
        action: rule.action,
        matched: checker.matched,
        clauses: checker.clauses,
    }
}

struct Checker<'a> {
    facts: &'a Facts,
    packet: &'a Packet<'a>,
    explain: bool,
    matched: bool,
    clauses: Vec<ClauseTrace>,
}

impl Checker<'_> {
    fn clause(&mut self, matched: bool, text: impl FnOnce() -> String) {
        self.matched &= matched;
        if self.explain {
            self.clauses.push(ClauseTrace {
                matched,
                text: text(),
            });
        }
    }

    fn side(&mut self, which: &str, side: &Side<AddressSet>, end: &End<'_>) {
        let (facts, protocol) = (self.facts, self.packet.protocol);
        for set in &side.sets {
            let inside = is_member(facts, set, end, protocol);
            self.clause(inside, || format!("{which} {}", membership(set, end, inside)));
        }
        for set in &side.not_sets {
            let inside = is_member(facts, set, end, protocol);
            let excluded = if inside { "is excluded" } else { "is not excluded" };
            self.clause(!inside, || {
                format!("{which} {excluded}: {}", membership(set, end, inside))
            });
        }
        if let Some(ports) = &side.ports {
            let inside = has_port(facts, ports, end, protocol);
            self.clause(inside, || port_text(which, ports, end, protocol, is_in(inside)));
        }
        if let Some(ports) = &side.not_ports {
            let inside = has_port(facts, ports, end, protocol);
            let verb = if inside {
                "is in the excluded"
            } else {
                "is not in the excluded"
            };
            self.clause(!inside, || port_text(which, ports, end, protocol, verb));
        }
    }
}

fn has_port(facts: &Facts, ports: &PortMatch<AddressSet>, end: &End<'_>, protocol: Protocol) -> bool {
    let by_number = end
        .port
        .is_some_and(|port| ports.ranges.iter().any(|range| range.contains(port)));
    by_number || ports.named.iter().any(|set| is_member(facts, set, end, protocol))
}

fn icmp_matches(wanted: Icmp, packet: &Packet<'_>) -> bool {
    packet.icmp.is_some_and(|(found_type, found_code)| {
        wanted.icmp_type.is_none_or(|t| t == found_type) && wanted.code.is_none_or(|c| c == found_code)
    })
}

fn is(yes: bool) -> &'static str {
    if yes { "is" } else { "is not" }
}

fn is_in(yes: bool) -> &'static str {
    if yes { "is in" } else { "is not in" }
}

fn icmp_found(packet: &Packet<'_>) -> String {
    match packet.icmp {
        Some((icmp_type, code)) => format!("ICMP type {icmp_type} code {code}"),
        None => format!("{} (which has no ICMP type)", packet.protocol),
    }
}

fn icmp_wanted(icmp: Icmp) -> String {
    let of = |name: &str, number: Option<u8>| number.map(|n| format!("{name} {n}"));
    let parts: Vec<String> = [of("type", icmp.icmp_type), of("code", icmp.code)]
        .into_iter()
        .flatten()
        .collect();
    parts.join(" ")
}

/// Says of an address (not of a port) whether and why it is in a set.
fn membership(set: &AddressSet, end: &End<'_>, inside: bool) -> String {
    match set {
        AddressSet::Selected(selector) => selection(selector, end),
        AddressSet::Nets(nets) => format!("{} {} {}", end.address, is_in(inside), list(nets.iter())),
        AddressSet::NamedPort { name, .. } => format!("{} {} port {name:?}", end.address, is_in(inside)),
        AddressSet::Service { namespace, name, .. } => {
            format!(
                "{} {} an endpoint of Service {namespace}/{name}",
                end.address,
                is(inside)
            )
        }
    }
}

fn selection(selector: &Selector, end: &End<'_>) -> String {
    if let Some(owner) = end.owners.iter().find(|o| selector.evaluate(&o.labels)) {
        return format!("selector {selector} matches {}", owner.name);
    }
    if end.owners.is_empty() {
        let address = end.address;
        return format!(
            "selector {selector} does not match: {address} belongs to no endpoint or network set"
        );
    }
    let owners: Vec<String> = end.owners.iter().map(|o| mismatch(selector, o)).collect();
    format!("selector {selector} does not match {}", owners.join(" nor "))
}

/// The owner with those of its labels that the selector looks at.
pub(super) fn mismatch(selector: &Selector, owner: &Owner) -> String {
    let labels: Vec<String> = selector
        .keys()
        .into_iter()
        .map(|key| match owner.labels.get(key) {
            Some(value) => format!("{key}={value:?}"),
            None => format!("no {key}"),
        })
        .collect();
    if labels.is_empty() {
        owner.name.clone()
    } else {
        format!("{} with {}", owner.name, labels.join(", "))
    }
}

fn port_text(
    which: &str,
    ports: &PortMatch<AddressSet>,
    end: &End<'_>,
    protocol: Protocol,
    verb: &str,
) -> String {
    let found = match end.port {
        Some(port) => format!("{which} port {port}"),
        None => format!("{which} {} of {protocol} (which has no ports)", end.address),
    };
    let mut wanted: Vec<String> = ports.ranges.iter().map(ToString::to_string).collect();
    wanted.extend(ports.named.iter().map(|set| named_port(set, end)));
    format!("{found} {verb} {}", list(wanted.iter()))
}

/// A port's name with what it stands for at this end.
fn named_port(set: &AddressSet, end: &End<'_>) -> String {
    match set {
        AddressSet::NamedPort {
            selector,
            name,
            protocol,
        } => {
            let mut numbers = Vec::new();
            for owner in end.owners.iter().filter(|o| selector.evaluate(&o.labels)) {
                for port in owner
                    .ports
                    .iter()
                    .filter(|p| p.name == *name && p.protocol == *protocol)
                {
                    numbers.push(format!("{} at {}", port.port, owner.name));
                }
            }
            if numbers.is_empty() {
                format!("{name:?} (which {} does not declare)", end.address)
            } else {
                format!("{name:?} ({})", numbers.join(", "))
            }
        }
        AddressSet::Service { namespace, name, .. } => format!("those of Service {namespace}/{name}"),
        AddressSet::Selected(_) | AddressSet::Nets(_) => "any".to_string(),
    }
}

fn list<T: Display>(items: impl ExactSizeIterator<Item = T>) -> String {
    let more = items.len().saturating_sub(SHOWN);
    let shown: Vec<String> = items.take(SHOWN).map(|i| i.to_string()).collect();
    let shown = shown.join(", ");
    if more > 0 {
        format!("{shown} and {more} more")
    } else {
        shown
    }
}
