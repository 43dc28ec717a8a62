//! A row: what a group of endpoints does with one peer, for every protocol and port.
//!
//! Rules are painted onto the space of (protocol, first coordinate, second coordinate) in their order; what is painted
//! stays. The coordinates are destination and source port for protocols that have ports, type and code for ICMP. The
//! result has tiers, order, Pass, profiles and defaults compiled away, and is canonical: two rows are equal exactly if
//! they treat every packet alike.

use policy_model::{PortRange, Protocol};
use std::collections::BTreeMap;

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
}

/// An inclusive range of one coordinate.
pub type Span = (u16, u16);

/// A span of the first coordinate with what happens along the second.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Strip {
    /// Destination ports, or ICMP types.
    pub x: Span,
    /// Spans of source ports, or ICMP codes; together they cover everything, neighbours differ.
    pub cells: Vec<(Span, Verdict)>,
}

/// One protocol's part of a row: strips that together cover everything; neighbours differ.
pub type Plane = Vec<Strip>;

/// What a group does with one peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    /// Protocols that are treated otherwise than `rest`, sorted.
    pub protocols: Vec<(Protocol, Plane)>,
    /// All other protocols.
    pub rest: Verdict,
    /// What is reported, in order, without being decided by it.
    pub logs: Vec<Area>,
}

impl Row {
    /// The row that treats everything alike.
    pub fn uniform(verdict: Verdict) -> Self {
        Row {
            protocols: Vec::new(),
            rest: verdict,
            logs: Vec::new(),
        }
    }

    /// What happens to a packet. For protocols without ports the coordinates are zero.
    pub fn verdict(&self, protocol: Protocol, x: u16, y: u16) -> Verdict {
        let Some((_, plane)) = self.protocols.iter().find(|(p, _)| *p == protocol) else {
            return self.rest;
        };
        let strip = plane.iter().find(|s| s.x.0 <= x && x <= s.x.1);
        let cell = strip.and_then(|s| s.cells.iter().find(|((a, b), _)| *a <= y && y <= *b));
        cell.map_or(self.rest, |(_, v)| *v)
    }
}

/// Which protocols an area covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocols {
    /// Every protocol.
    Any,
    /// This one.
    Is(Protocol),
    /// Every protocol but this one.
    Not(Protocol),
    /// Every protocol but these and, where there is one, this one.
    NoneOf(&'static [Protocol], Option<Protocol>),
}

impl Protocols {
    /// Whether a protocol is covered.
    pub fn covers(self, protocol: Protocol) -> bool {
        match self {
            Protocols::Any => true,
            Protocols::Is(p) => p == protocol,
            Protocols::Not(p) => p != protocol,
            Protocols::NoneOf(list, one) => !list.contains(&protocol) && one != Some(protocol),
        }
    }
}

/// A part of the space: protocols, and spans of both coordinates (a packet matches one of each).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Area {
    /// Protocols.
    pub protocols: Protocols,
    /// Spans of the first coordinate; sorted, disjoint.
    pub x: Vec<Span>,
    /// Spans of the second coordinate; sorted, disjoint.
    pub y: Vec<Span>,
}

/// Everything along one coordinate.
pub const EVERYTHING: Span = (0, u16::MAX);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paint {
    Open,
    Passed,
    Done(Verdict),
}

/// A whole plane, as starts of strips and, in each, starts of cells.
#[derive(Clone, Debug, PartialEq)]
struct Canvas {
    strips: BTreeMap<u16, BTreeMap<u16, Paint>>,
    /// Whether any cell may still be open: painting a finished canvas costs nothing.
    open: bool,
    /// Whether any cell may be sent to the next stage.
    passed: bool,
}

impl Canvas {
    fn uniform(paint: Paint) -> Self {
        Canvas {
            strips: BTreeMap::from([(0, BTreeMap::from([(0, paint)]))]),
            open: paint == Paint::Open,
            passed: paint == Paint::Passed,
        }
    }

    fn paint(&mut self, xs: &[Span], ys: &[Span], paint: Paint) {
        if !self.open {
            return;
        }
        self.passed |= paint == Paint::Passed;
        for x in xs {
            cut(&mut self.strips, *x);
            for (_, cells) in self.strips.range_mut(x.0..=x.1) {
                if cells.values().all(|p| *p != Paint::Open) {
                    continue;
                }
                for y in ys {
                    cut(cells, *y);
                    for (_, cell) in cells.range_mut(y.0..=y.1) {
                        if *cell == Paint::Open {
                            *cell = paint;
                        }
                    }
                }
            }
        }
        // Only an area that spans everything can close the canvas; looking after each small one would cost a walk.
        if xs == [EVERYTHING] && ys == [EVERYTHING] {
            self.open = false;
        }
    }

    fn end_stage(&mut self, default: Option<Verdict>) {
        let mut open = false;
        for cell in self.strips.values_mut().flat_map(BTreeMap::values_mut) {
            *cell = stage_end(*cell, default);
            open |= *cell == Paint::Open;
        }
        self.open = open;
        self.passed = false;
    }

    fn finish(self) -> Plane {
        let mut plane: Plane = Vec::new();
        let ends: Vec<u16> = self
            .strips
            .keys()
            .skip(1)
            .map(|x| x - 1)
            .chain([u16::MAX])
            .collect();
        for ((start, cells), end) in self.strips.into_iter().zip(ends) {
            let cells = finish_cells(cells);
            match plane.last_mut() {
                Some(last) if last.cells == cells => last.x.1 = end,
                _ => plane.push(Strip {
                    x: (start, end),
                    cells,
                }),
            }
        }
        plane
    }
}

fn finish_cells(cells: BTreeMap<u16, Paint>) -> Vec<(Span, Verdict)> {
    let ends: Vec<u16> = cells.keys().skip(1).map(|y| y - 1).chain([u16::MAX]).collect();
    let mut out: Vec<(Span, Verdict)> = Vec::new();
    for ((start, paint), end) in cells.into_iter().zip(ends) {
        // What nothing decided is denied.
        let verdict = if let Paint::Done(v) = paint {
            v
        } else {
            Verdict::Deny
        };
        match out.last_mut() {
            Some(((_, last), v)) if *v == verdict => *last = end,
            _ => out.push(((start, end), verdict)),
        }
    }
    out
}

fn stage_end(paint: Paint, default: Option<Verdict>) -> Paint {
    match (paint, default) {
        (Paint::Passed, _) => Paint::Open,
        (Paint::Open, Some(verdict)) => Paint::Done(verdict),
        (other, _) => other,
    }
}

/// Makes both ends of a span starts of entries.
fn cut<T: Clone>(map: &mut BTreeMap<u16, T>, span: Span) {
    for at in [Some(span.0), span.1.checked_add(1)].into_iter().flatten() {
        if !map.contains_key(&at)
            && let Some(value) = map.range(..at).next_back().map(|(_, v)| v.clone())
        {
            map.insert(at, value);
        }
    }
}

/// Paints rules in their order and gives the row.
#[derive(Debug)]
pub struct Painter {
    protocols: BTreeMap<Protocol, Canvas>,
    rest: Paint,
    logs: Vec<Area>,
}

impl Painter {
    /// Nothing is decided.
    pub fn new() -> Self {
        Painter {
            protocols: BTreeMap::new(),
            rest: Paint::Open,
            logs: Vec::new(),
        }
    }

    /// Whether everything is decided for good: further rules cannot change anything.
    pub fn is_finished(&self) -> bool {
        !matches!(self.rest, Paint::Open | Paint::Passed)
            && self.protocols.values().all(|c| !c.open && !c.passed)
    }

    /// Decides what is still open in an area.
    pub fn decide(&mut self, area: &Area, verdict: Verdict) {
        self.paint(area, Paint::Done(verdict));
    }

    /// Sends what is still open in an area to the next stage.
    pub fn pass(&mut self, area: &Area) {
        self.paint(area, Paint::Passed);
    }

    /// Reports an area. Packets that were decided before are not met by a later rule, so they are not reported; that
    /// is not cut out here: a report too many is harmless.
    pub fn log(&mut self, area: &Area) {
        if !self.logs.contains(area) {
            self.logs.push(area.clone());
        }
    }

    /// Ends a tier: what is open takes the default (`None` leaves it open), what was passed is open again.
    pub fn end_stage(&mut self, default: Option<Verdict>) {
        self.rest = stage_end(self.rest, default);
        for canvas in self.protocols.values_mut() {
            canvas.end_stage(default);
        }
    }

    fn paint(&mut self, area: &Area, paint: Paint) {
        let rest = self.rest;
        let mut named = |p: Protocol| {
            self.protocols.entry(p).or_insert_with(|| Canvas::uniform(rest));
        };
        // A protocol that is told apart from the rest keeps what it had, so it needs a canvas of its own first.
        match area.protocols {
            Protocols::Any => {}
            Protocols::Is(p) | Protocols::Not(p) => named(p),
            Protocols::NoneOf(list, one) => list.iter().copied().chain(one).for_each(named),
        }
        for (p, canvas) in &mut self.protocols {
            if area.protocols.covers(*p) {
                canvas.paint(&area.x, &area.y, paint);
            }
        }
        // Ports and types are said of protocols by name; what is said of the rest is said of it whole.
        if !matches!(area.protocols, Protocols::Is(_)) && self.rest == Paint::Open {
            self.rest = paint;
        }
    }

    /// The row. What is still open is denied.
    pub fn finish(self) -> Row {
        let rest = if let Paint::Done(v) = self.rest {
            v
        } else {
            Verdict::Deny
        };
        let uniform = vec![Strip {
            x: EVERYTHING,
            cells: vec![(EVERYTHING, rest)],
        }];
        let protocols = self.protocols.into_iter().map(|(p, canvas)| (p, canvas.finish()));
        Row {
            protocols: protocols.filter(|(_, plane)| *plane != uniform).collect(),
            rest,
            logs: self.logs,
        }
    }
}

impl Default for Painter {
    fn default() -> Self {
        Painter::new()
    }
}

/// Spans of port ranges.
pub fn spans(ranges: impl IntoIterator<Item = PortRange>) -> Vec<Span> {
    let mut all: Vec<Span> = ranges.into_iter().map(|r| (r.first(), r.last())).collect();
    all.sort_unstable();
    let mut out: Vec<Span> = Vec::new();
    for (first, last) in all {
        match out.last_mut() {
            Some(before) if u32::from(first) <= u32::from(before.1) + 1 => before.1 = before.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

/// What spans leave uncovered.
pub fn complement(spans: &[Span]) -> Vec<Span> {
    let mut out = Vec::new();
    let mut next = 0u32;
    for (first, last) in spans {
        if u32::from(*first) > next {
            out.push((next as u16, first - 1));
        }
        next = u32::from(*last) + 1;
    }
    if next <= u32::from(u16::MAX) {
        out.push((next as u16, u16::MAX));
    }
    out
}

/// What two lists of spans have in common.
pub fn intersect(a: &[Span], b: &[Span]) -> Vec<Span> {
    let mut out = Vec::new();
    for x in a {
        for y in b {
            let (first, last) = (x.0.max(y.0), x.1.min(y.1));
            if first <= last {
                out.push((first, last));
            }
        }
    }
    out.sort_unstable();
    out
}
