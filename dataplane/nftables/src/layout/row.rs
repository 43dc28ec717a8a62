//! A row in the terms of our table: elements of `ports` and `protos`, and a chain for what does not fit.

use super::names;
use crate::wire::{CmpOp, PayloadBase, Register};
use crate::wire::{Expr, Log, MetaKey, Source, Value, Verdict as Nft, compare, load, set_priority};
use dataplane_tables::{Area, EVERYTHING, Plane, Protocols, Row, Span, Verdict};
use policy_model::Protocol;

/// A span of ports that is at most this wide becomes one element for each port: a lookup is cheaper than a rule.
const WIDEST_SINGLE: u16 = 16;

/// A row, lowered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoweredRow {
    /// Protocol, destination port, whether it passes. Looked up first.
    pub ports: Vec<(u8, u16, bool)>,
    /// Rules of the row's chain, met second; no chain where there are none.
    pub rules: Vec<RowRule>,
    /// Protocol, whether it passes. Looked up last.
    pub protos: Vec<(u8, bool)>,
}

/// What a rule of a row's chain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowAction {
    /// Sets the result and ends the chain.
    Decide(bool),
    /// Ends the chain without a result; the protocol decides.
    Leave,
    /// Reports and goes on.
    Report,
}

/// One rule of a row's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowRule {
    /// Protocol that it matches; `None` matches all.
    pub protocol: Option<u8>,
    /// Protocol that it does not match.
    pub not_protocol: Option<u8>,
    /// Span of destination ports or ICMP types; `None` matches all.
    pub x: Option<Span>,
    /// Span of source ports or ICMP codes; `None` matches all.
    pub y: Option<Span>,
    /// What it does.
    pub action: RowAction,
}

/// Lowers a row; a row that treats everything alike is its result already.
///
/// # Errors
/// The verdict, where no row is needed.
pub fn lower(row: &Row) -> Result<LoweredRow, Verdict> {
    if row.protocols.is_empty() && row.logs.is_empty() {
        return Err(row.rest);
    }
    let mut out = LoweredRow::default();
    // A port that is found in `ports` never meets the chain, so a row that reports says everything in its chain.
    let all_in_chain = !row.logs.is_empty();
    for area in &row.logs {
        report(area, &mut out.rules);
    }
    for (protocol, plane) in &row.protocols {
        lower_plane(*protocol, plane, row.rest, all_in_chain, &mut out);
    }
    if row.rest == Verdict::Allow {
        for (protocol, _) in &row.protocols {
            out.rules
                .push(rule(Some(protocol.number()), None, None, RowAction::Leave));
        }
        out.rules.push(rule(None, None, None, RowAction::Decide(true)));
    }
    out.ports.sort_unstable();
    out.protos.sort_unstable();
    Ok(out)
}

fn rule(protocol: Option<u8>, x: Option<Span>, y: Option<Span>, action: RowAction) -> RowRule {
    RowRule {
        protocol,
        not_protocol: None,
        x,
        y,
        action,
    }
}

fn part(span: Span) -> Option<Span> {
    (span != EVERYTHING).then_some(span)
}

fn report(area: &Area, out: &mut Vec<RowRule>) {
    for x in &area.x {
        for y in &area.y {
            let (protocol, not_protocol) = match area.protocols {
                Protocols::Any => (None, None),
                Protocols::Is(p) => (Some(p.number()), None),
                Protocols::Not(p) => (None, Some(p.number())),
                // A report too many is harmless.
                Protocols::NoneOf(..) => (None, None),
            };
            out.push(RowRule {
                protocol,
                not_protocol,
                x: part(*x),
                y: part(*y),
                action: RowAction::Report,
            });
        }
    }
}

/// What most of a plane's first coordinate gets: that becomes the protocol's own answer.
fn base(plane: &Plane) -> Verdict {
    let mut balance = 0i64;
    for strip in plane {
        if let [(_, verdict)] = strip.cells.as_slice() {
            let width = i64::from(strip.x.1) - i64::from(strip.x.0) + 1;
            balance += if *verdict == Verdict::Allow { width } else { -width };
        }
    }
    if balance > 0 {
        Verdict::Allow
    } else {
        Verdict::Deny
    }
}

fn lower_plane(protocol: Protocol, plane: &Plane, rest: Verdict, all_in_chain: bool, out: &mut LoweredRow) {
    let number = protocol.number();
    let base = base(plane);
    let base_allows = base == Verdict::Allow;
    // What no lookup finds is dropped, so a protocol's denial needs no word unless other protocols pass by default.
    if base_allows || rest == Verdict::Allow {
        out.protos.push((number, base_allows));
    }
    for strip in plane {
        if let [(_, verdict)] = strip.cells.as_slice() {
            if *verdict == base {
                continue;
            }
            let allows = *verdict == Verdict::Allow;
            let width = u32::from(strip.x.1) - u32::from(strip.x.0) + 1;
            if protocol.has_ports() && !all_in_chain && width <= u32::from(WIDEST_SINGLE) {
                out.ports
                    .extend((strip.x.0..=strip.x.1).map(|port| (number, port, allows)));
            } else {
                out.rules
                    .push(rule(Some(number), part(strip.x), None, RowAction::Decide(allows)));
            }
            continue;
        }
        for (y, verdict) in strip.cells.iter().filter(|(_, v)| *v != base) {
            let decide = RowAction::Decide(*verdict == Verdict::Allow);
            out.rules
                .push(rule(Some(number), part(strip.x), part(*y), decide));
        }
    }
}

impl LoweredRow {
    /// What the lookups answer, in their order. `None` means that none of them found anything: dropped.
    pub fn verdict(&self, protocol: u8, x: u16, y: u16) -> Option<bool> {
        let has_ports = Protocol::from_number(protocol).has_ports();
        if has_ports
            && let Some((_, _, allows)) = self.ports.iter().find(|(p, d, _)| *p == protocol && *d == x)
        {
            return Some(*allows);
        }
        for rule in &self.rules {
            let within = |span: Option<Span>, v: u16| span.is_none_or(|(a, b)| a <= v && v <= b);
            if rule.protocol.is_some_and(|p| p != protocol)
                || rule.not_protocol == Some(protocol)
                || !within(rule.x, x)
                || !within(rule.y, y)
            {
                continue;
            }
            match rule.action {
                RowAction::Decide(allows) => return Some(allows),
                RowAction::Leave => break,
                RowAction::Report => {}
            }
        }
        self.protos
            .iter()
            .find(|(p, _)| *p == protocol)
            .map(|(_, allows)| *allows)
    }

    /// The rules of the row's chain.
    pub fn chain(&self) -> Vec<Vec<Expr>> {
        self.rules.iter().map(RowRule::expressions).collect()
    }
}

impl RowRule {
    fn expressions(&self) -> Vec<Expr> {
        let mut out = Vec::new();
        let protocol = Source::Meta(MetaKey::L4Protocol);
        if let Some(p) = self.protocol {
            out.extend(compare(protocol, CmpOp::Eq, Value::byte(p)));
        }
        if let Some(p) = self.not_protocol {
            out.extend(compare(protocol, CmpOp::Neq, Value::byte(p)));
        }
        let icmp = self.protocol.is_some_and(|p| Protocol::from_number(p).is_icmp());
        if icmp {
            byte_span(0, self.x, &mut out);
            byte_span(1, self.y, &mut out);
        } else {
            for (source, span) in [(Source::DestinationPort, self.x), (Source::SourcePort, self.y)] {
                if let Some((first, last)) = span {
                    out.extend(crate::wire::port_range(source, first, last));
                }
            }
        }
        match self.action {
            RowAction::Decide(allows) => {
                out.extend(set_priority(if allows { names::ALLOW } else { names::DENY }));
                out.push(Expr::Verdict(Nft::Return));
            }
            RowAction::Leave => out.push(Expr::Verdict(Nft::Return)),
            RowAction::Report => out.push(Expr::Log(Log::to_group(LOG_GROUP, "manx "))),
        }
        out
    }
}

/// The NFLOG group that reports go to.
const LOG_GROUP: u16 = 7;

/// Types and codes of ICMP are one byte wide; a span that ends at or beyond 255 has no upper bound.
fn byte_span(offset: u32, span: Option<Span>, out: &mut Vec<Expr>) {
    let Some((first, last)) = span else { return };
    let from = Register::FIRST;
    let field = Expr::Payload {
        base: PayloadBase::Transport,
        offset,
        len: 1,
        to: from,
    };
    let Ok(first) = u8::try_from(first) else {
        // No type or code is that large: the rule never matches.
        out.push(load(Source::Meta(MetaKey::L4Protocol)));
        out.push(Expr::Cmp {
            op: CmpOp::Eq,
            from,
            value: Value::byte(0),
        });
        out.push(Expr::Cmp {
            op: CmpOp::Eq,
            from,
            value: Value::byte(1),
        });
        return;
    };
    out.push(field);
    match u8::try_from(last) {
        Ok(last) if last == first => out.push(Expr::equals(Value::byte(first))),
        Ok(last) if last < u8::MAX => {
            if first > 0 {
                out.push(Expr::Cmp {
                    op: CmpOp::Gte,
                    from,
                    value: Value::byte(first),
                });
            }
            out.push(Expr::Cmp {
                op: CmpOp::Lte,
                from,
                value: Value::byte(last),
            });
        }
        _ => out.push(Expr::Cmp {
            op: CmpOp::Gte,
            from,
            value: Value::byte(first),
        }),
    }
}
