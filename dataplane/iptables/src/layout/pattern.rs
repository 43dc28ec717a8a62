//! What a row allows, cut into parts that rules and sets can say.
//!
//! A part says nothing of addresses: a rule matches the part and asks a set for the address. Single ports may stand in the
//! set itself, beside the address.

use super::rule::{Match, Rule, Target};
use crate::names;
use crate::ops::Family;
use dataplane_tables::{Area, EVERYTHING, Protocols, Row, Span, Verdict};
use policy_model::Protocol;
use std::fmt::Write;

/// A span of ports that is at most this wide becomes one member of a set for each port: a lookup is cheaper than a rule.
const WIDEST_SINGLE: u16 = 16;
/// How many ports a rule names at most; a span counts twice. The limit of the kernel's `multiport`.
const MOST_PORTS: usize = 15;
/// The last type and code of ICMP.
const LAST_BYTE: u16 = 255;

/// A part of the space of protocols, ports and types.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// Of one protocol: spans of destination ports or types, each with one of source ports or codes. Asked first: a packet's
    /// own fields cost less than a set.
    Of(u8, Vec<(Span, Span)>),
    /// Everything but these protocols, sorted.
    Rest(Vec<u8>),
}

/// A protocol and port.
pub type Single = (u8, u16);

/// A row, cut up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// All that is allowed.
    pub whole: Vec<Pattern>,
    /// What is allowed beside `singles`.
    pub wide: Vec<Pattern>,
    /// Ports that are allowed whatever the source's port is. With `wide` they are what `whole` is.
    pub singles: Vec<Single>,
    /// What is reported.
    pub logs: Vec<Pattern>,
}

impl Parts {
    /// Cuts a row up.
    pub fn of(row: &Row) -> Self {
        let mut parts = Parts::default();
        for (protocol, plane) in &row.protocols {
            let mut all: Vec<(Span, Span)> = Vec::new();
            let mut wide: Vec<(Span, Span)> = Vec::new();
            for strip in plane {
                for (y, _) in strip.cells.iter().filter(|(_, v)| *v == Verdict::Allow) {
                    let Some(cell) = clip(*protocol, (strip.x, *y)) else {
                        continue;
                    };
                    all.push(cell);
                    let ((first, last), y) = cell;
                    if protocol.has_ports() && y == EVERYTHING && last - first < WIDEST_SINGLE {
                        parts
                            .singles
                            .extend((first..=last).map(|port| (protocol.number(), port)));
                    } else {
                        wide.push(cell);
                    }
                }
            }
            for (cells, list) in [(all, &mut parts.whole), (wide, &mut parts.wide)] {
                if !cells.is_empty() {
                    list.push(Pattern::Of(protocol.number(), cells));
                }
            }
        }
        if row.rest == Verdict::Allow {
            let apart: Vec<u8> = row.protocols.iter().map(|(p, _)| p.number()).collect();
            parts.whole.push(Pattern::Rest(apart.clone()));
            parts.wide.push(Pattern::Rest(apart));
        }
        parts.logs = row.logs.iter().flat_map(reported).collect();
        parts.logs.sort();
        parts.logs.dedup();
        parts
    }

    /// Whether nothing is allowed or reported.
    pub fn is_nothing(&self) -> bool {
        self.whole.is_empty() && self.logs.is_empty()
    }
}

/// A cell without types and codes that no packet has.
fn clip(protocol: Protocol, (x, y): (Span, Span)) -> Option<(Span, Span)> {
    if !protocol.is_icmp() {
        return Some((x, y));
    }
    let byte = |(first, last): Span| match (first, last.min(LAST_BYTE)) {
        (0, LAST_BYTE) => Some(EVERYTHING),
        (first, last) => (first <= last).then_some((first, last)),
    };
    Some((byte(x)?, byte(y)?))
}

fn reported(area: &Area) -> Vec<Pattern> {
    let mut cells: Vec<(Span, Span)> = Vec::new();
    for x in &area.x {
        cells.extend(area.y.iter().map(|y| (*x, *y)));
    }
    let of = |protocol: Protocol| {
        let cells: Vec<_> = cells.iter().filter_map(|cell| clip(protocol, *cell)).collect();
        (!cells.is_empty()).then(|| Pattern::Of(protocol.number(), cells))
    };
    match area.protocols {
        Protocols::Any => vec![Pattern::Rest(Vec::new())],
        Protocols::Is(protocol) => of(protocol).into_iter().collect(),
        Protocols::Not(protocol) => vec![Pattern::Rest(vec![protocol.number()])],
        Protocols::NoneOf(list, one) => {
            let mut apart: Vec<u8> = list.iter().copied().chain(one).map(Protocol::number).collect();
            apart.sort_unstable();
            apart.dedup();
            vec![Pattern::Rest(apart)]
        }
    }
}

/// The rules by which packets of a pattern that also match `asked` meet a target, and a chain that these need.
pub(super) fn rules(pattern: &Pattern, family: Family, asked: &[Match], target: &Target) -> Lowered {
    let rule =
        |own: Vec<Match>, target: Target| Rule::new(own.into_iter().chain(asked.iter().cloned()), target);
    let plain = |lists: Vec<Vec<Match>>| Lowered {
        rules: lists.into_iter().map(|own| rule(own, target.clone())).collect(),
        chain: None,
    };
    match pattern {
        Pattern::Rest(apart) => match apart.as_slice() {
            [] => plain(vec![Vec::new()]),
            [one] => plain(vec![vec![Match::NotProtocol(*one)]]),
            // A report too many is harmless.
            _ if *target == Target::Report => plain(vec![Vec::new()]),
            several => {
                let exceptions = several.iter().map(|p| vec![Match::Protocol(*p)]);
                beside(exceptions, target, |chain| vec![rule(Vec::new(), chain)])
            }
        },
        Pattern::Of(number, cells) => {
            let protocol = Protocol::from_number(*number);
            let of = Match::Protocol(*number);
            if cells.as_slice() == [(EVERYTHING, EVERYTHING)] || !protocol.has_ports() && !protocol.is_icmp()
            {
                return plain(vec![vec![of]]);
            }
            if protocol.is_icmp() {
                // The other family's ICMP has no types to this family's programs, and no packet is of it: what is not
                // allowed as a whole stays closed.
                if (family == Family::Inet) != (protocol == Protocol::ICMP) {
                    return plain(Vec::new());
                }
                let (allowed, others) = types(cells);
                if allowed.len() <= others.len() || *target == Target::Report {
                    return plain(allowed.into_iter().map(|icmp| vec![of.clone(), icmp]).collect());
                }
                let exceptions = others.into_iter().map(|icmp| vec![of.clone(), icmp]);
                return beside(exceptions, target, |chain| vec![rule(vec![of.clone()], chain)]);
            }
            let mut lists: Vec<Vec<Match>> = Vec::new();
            let spans = cells.iter().filter(|(_, y)| *y == EVERYTHING).map(|(x, _)| *x);
            for list in port_lists(spans) {
                let ports = match list.as_slice() {
                    [one] => Match::Ports {
                        protocol: *number,
                        destination: *one,
                        source: EVERYTHING,
                    },
                    _ => Match::PortList(list),
                };
                lists.push(vec![of.clone(), ports]);
            }
            for (destination, source) in cells.iter().filter(|(_, y)| *y != EVERYTHING) {
                let ports = Match::Ports {
                    protocol: *number,
                    destination: *destination,
                    source: *source,
                };
                lists.push(vec![of.clone(), ports]);
            }
            plain(lists)
        }
    }
}

/// Rules, and a chain that they lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lowered {
    /// The rules.
    pub rules: Vec<Rule>,
    /// The chain: its name says its content.
    pub(super) chain: Option<(String, Vec<Rule>)>,
}

/// A target for all but some: a chain of its own, which the exceptions leave.
fn beside(
    exceptions: impl Iterator<Item = Vec<Match>>,
    target: &Target,
    lead: impl Fn(Target) -> Vec<Rule>,
) -> Lowered {
    let mut content: Vec<Rule> = exceptions.map(|own| Rule::new(own, Target::Return)).collect();
    content.push(Rule::always(target.clone()));
    let mut text = String::new();
    for rule in &content {
        // The text is that of one family, which serves as a name for both.
        let _ = writeln!(text, "{}", rule.text(Family::Inet));
    }
    let name = names::shared(&text);
    Lowered {
        rules: lead(Target::Jump(name.clone())),
        chain: Some((name, content)),
    }
}

/// Types and codes as matches: those that some cells name, and those that they do not.
fn types(cells: &[(Span, Span)]) -> (Vec<Match>, Vec<Match>) {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    let byte = |n: u16| u8::try_from(n).unwrap_or(u8::MAX);
    for kind in 0..=LAST_BYTE {
        let inside = |span: &Span, n: u16| span.0 <= n && n <= span.1;
        let codes: Vec<Span> = cells
            .iter()
            .filter(|(x, _)| inside(x, kind))
            .map(|(_, y)| *y)
            .collect();
        let one = |code| Match::Icmp {
            kind: byte(kind),
            code,
        };
        if codes.is_empty() {
            others.push(one(None));
        } else if codes.contains(&EVERYTHING) {
            named.push(one(None));
        } else {
            for code in 0..=LAST_BYTE {
                let is_named = codes.iter().any(|span| inside(span, code));
                let list = if is_named { &mut named } else { &mut others };
                list.push(one(Some(byte(code))));
            }
        }
    }
    (named, others)
}

/// Spans in lists that a rule can name.
fn port_lists(spans: impl Iterator<Item = Span>) -> Vec<Vec<Span>> {
    let mut out: Vec<Vec<Span>> = Vec::new();
    let mut room = 0;
    for span in spans {
        let needs = if span.0 == span.1 { 1 } else { 2 };
        match out.last_mut() {
            Some(list) if needs <= room => {
                list.push(span);
                room -= needs;
            }
            _ => {
                out.push(vec![span]);
                room = MOST_PORTS - needs;
            }
        }
    }
    out
}
