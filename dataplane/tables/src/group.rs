//! A group: one direction of the local endpoints that have the same ordered policies and the same own side.
//!
//! The rules themselves are in two chains, which other groups may share; here they meet the group's own side.

use crate::chain::{CACHED, Chain, ChainId, Effects, Link, side_matches};
use crate::row::{Area, EVERYTHING, Painter, Protocols, Row, Span, Verdict, complement, intersect, spans};
use crate::sets::Membership;
use dataplane_api::{AtomId, PolicyId, TierPolicies};
use policy_model::{Action, Icmp, PortRange, Protocol};
use policy_model_rules::{IpVersion, PortMatch, Rule, Side};
use rustc_hash::FxHashMap;
use std::rc::Rc;

/// A direction, seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

/// What the group's own addresses are in, for one family: one entry for each different address.
pub type OwnSide = Vec<Rc<[Membership]>>;

/// What makes two endpoints share a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupKey {
    /// Direction.
    pub direction: Direction,
    /// Tiers and policies, in order.
    pub tiers: Rc<[TierPolicies]>,
    /// Profiles, in order.
    pub profiles: Rc<[PolicyId]>,
    /// What the own IPv4 addresses are in, as far as the group's rules ask.
    pub own_v4: OwnSide,
    /// What the own IPv6 addresses are in, as far as the group's rules ask.
    pub own_v6: OwnSide,
}

/// A group's own side and chains, ready to give rows.
#[derive(Debug)]
pub(crate) struct GroupRules {
    direction: Direction,
    own_v4: OwnSide,
    own_v6: OwnSide,
    /// The tiers', then the profiles'.
    pub(crate) chains: [ChainId; 2],
    /// Rows by what the chains do with a peer, where that does not depend on the own side.
    by_effects: FxHashMap<[Effects; 2], Rc<Row>>,
    /// Other rows by what the peer is in, as far as the chains ask.
    by_memberships: FxHashMap<(IpVersion, Box<[Membership]>), Rc<Row>>,
}

impl GroupRules {
    pub(crate) fn new(key: &GroupKey, chains: [ChainId; 2]) -> Self {
        GroupRules {
            direction: key.direction,
            own_v4: key.own_v4.clone(),
            own_v6: key.own_v6.clone(),
            chains,
            by_effects: FxHashMap::default(),
            by_memberships: FxHashMap::default(),
        }
    }

    /// Forgets the rows, because a chain is another now.
    pub(crate) fn forget(&mut self) {
        self.by_effects.clear();
        self.by_memberships.clear();
    }

    /// All atoms that rules ask of the peer: classes of nothing that is in one of them all have the row of the world.
    pub(crate) fn asked<'a>(
        &self,
        chains: &'a FxHashMap<ChainId, Chain>,
    ) -> impl Iterator<Item = AtomId> + use<'a> {
        let chains = self.chains.map(|id| chains.get(&id));
        chains.into_iter().flatten().flat_map(Chain::asked)
    }

    /// Whether a rule asks something of a peer that is in these sets.
    pub(crate) fn asks_any(&self, chains: &FxHashMap<ChainId, Chain>, peer: &[Membership]) -> bool {
        let mut chains = self.chains.iter().filter_map(|id| chains.get(id));
        chains.any(|chain| peer.iter().any(|membership| chain.asks(membership.atom())))
    }

    /// The row for peers of a class. `intern` gives the one row of all that are equal.
    pub(crate) fn row(
        &mut self,
        chains: &mut FxHashMap<ChainId, Chain>,
        version: IpVersion,
        class: &[Membership],
        intern: impl FnOnce(Row) -> Rc<Row>,
    ) -> Rc<Row> {
        let [tiers, profiles] = self.chains;
        let mut effects = |id| chains.get_mut(&id)?.effects(version, class);
        if let (Some(of_tiers), Some(of_profiles)) = (effects(tiers), effects(profiles)) {
            let key = [of_tiers, of_profiles];
            if let Some(row) = self.by_effects.get(&key) {
                return row.clone();
            }
            let row = intern(self.paint(chains, version, class));
            if self.by_effects.len() >= CACHED {
                self.by_effects.clear();
            }
            self.by_effects.insert(key, row.clone());
            return row;
        }
        let asks = |m: &&Membership| {
            self.chains
                .iter()
                .filter_map(|id| chains.get(id))
                .any(|c| c.asks(m.atom()))
        };
        let relevant: Box<[Membership]> = class.iter().filter(asks).copied().collect();
        let key = (version, relevant);
        if let Some(row) = self.by_memberships.get(&key) {
            return row.clone();
        }
        let row = intern(self.paint(chains, version, &key.1));
        if self.by_memberships.len() >= CACHED {
            self.by_memberships.clear();
        }
        self.by_memberships.insert(key, row.clone());
        row
    }

    fn paint(&self, chains: &FxHashMap<ChainId, Chain>, version: IpVersion, peer: &[Membership]) -> Row {
        let mut painter = Painter::new();
        for chain in self.chains.iter().filter_map(|id| chains.get(id)) {
            let mut stage = 0usize;
            for link in chain.matching(version, peer) {
                while stage < usize::from(link.stage) {
                    painter.end_stage(chain.stages[stage]);
                    stage += 1;
                }
                if painter.is_finished() {
                    break;
                }
                self.paint_rule(&mut painter, chain, link, version, peer);
            }
            for end in &chain.stages[stage..] {
                painter.end_stage(*end);
            }
        }
        painter.end_stage(Some(Verdict::Deny));
        painter.finish()
    }

    /// Paints a rule whose peer's side matches.
    fn paint_rule(
        &self,
        painter: &mut Painter,
        chain: &Chain,
        link: &Link,
        version: IpVersion,
        peer: &[Membership],
    ) {
        let rule = chain.rule(link);
        let (peer_side, own_side) = chain.sides(rule);
        let own = if version == IpVersion::V4 {
            &self.own_v4
        } else {
            &self.own_v6
        };
        // An endpoint without an address of the family belongs to nothing in it.
        let nothing: [Rc<[Membership]>; 1] = [Rc::from([])];
        let own = if own.is_empty() { &nothing[..] } else { own };
        let hits = own.iter().filter(|o| side_matches(own_side, o)).count();
        let Some(first) = own.iter().find(|o| side_matches(own_side, o)) else {
            return;
        };
        // Several own addresses that the rule treats differently are told apart by no row. What opens must then hold
        // for all of them, and what closes or could lead past a denial closes if it holds for any. Their ports are
        // those of one endpoint, so the first stands for all.
        let action = match rule.action {
            Action::Allow | Action::Log if hits < own.len() => return,
            Action::Pass if hits < own.len() => Action::Deny,
            action => action,
        };
        for area in self.areas(rule, peer_side, peer, own_side, first) {
            self.apply(painter, action, &area);
        }
    }

    fn apply(&self, painter: &mut Painter, action: Action, area: &Area) {
        match action {
            Action::Allow => painter.decide(area, Verdict::Allow),
            Action::Deny => painter.decide(area, Verdict::Deny),
            Action::Pass => painter.pass(area),
            Action::Log => painter.log(area),
        }
    }

    /// The protocols, ports and ICMP types that a rule matches, once its sets have matched.
    fn areas(
        &self,
        rule: &Rule<AtomId>,
        peer_side: &Side<AtomId>,
        peer: &[Membership],
        own_side: &Side<AtomId>,
        own: &[Membership],
    ) -> Vec<Area> {
        // In a row the first coordinate is the destination's port.
        let ((x_side, x_in), (y_side, y_in)) = match self.direction {
            Direction::Ingress => ((own_side, own), (peer_side, peer)),
            Direction::Egress => ((peer_side, peer), (own_side, own)),
        };
        let ported = [x_side, y_side]
            .iter()
            .any(|s| s.ports.is_some() || s.not_ports.is_some());
        let icmp = rule.icmp.is_some() || rule.not_icmp.is_some();
        let covers = |p: Protocol| rule.protocol.is_none_or(|r| r == p) && rule.not_protocol != Some(p);
        // Protocols by which ports or types say different things stand by themselves; all others are alike.
        let apart: &'static [Protocol] = match (ported, icmp) {
            (false, false) => &[],
            (true, false) => &WITH_PORTS,
            (false, true) => &ICMP,
            (true, true) => &WITH_PORTS_OR_ICMP,
        };
        let mut out = Vec::new();
        for protocol in apart.iter().copied().filter(|p| covers(*p)) {
            if protocol.is_icmp() {
                if portless(x_side, x_in) && portless(y_side, y_in) {
                    out.extend(icmp_areas(Protocols::Is(protocol), rule.icmp, rule.not_icmp));
                }
            } else if rule.icmp.is_none() {
                let x = port_spans(x_side, x_in, protocol);
                let y = port_spans(y_side, y_in, protocol);
                if !x.is_empty() && !y.is_empty() {
                    let protocols = Protocols::Is(protocol);
                    out.push(Area { protocols, x, y });
                }
            }
        }
        let others = match (rule.protocol, rule.not_protocol) {
            (Some(p), not) if not == Some(p) || apart.contains(&p) => None,
            (Some(p), _) => Some(Protocols::Is(p)),
            (None, Some(not)) if apart.is_empty() => Some(Protocols::Not(not)),
            (None, not) if !apart.is_empty() => Some(Protocols::NoneOf(apart, not)),
            (None, _) => Some(Protocols::Any),
        };
        if let Some(protocols) = others
            && rule.icmp.is_none()
            && portless(x_side, x_in)
            && portless(y_side, y_in)
        {
            let (x, y) = (vec![EVERYTHING], vec![EVERYTHING]);
            out.push(Area { protocols, x, y });
        }
        out
    }
}

/// The protocols that have ports.
const WITH_PORTS: [Protocol; 4] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::UDP_LITE];
/// The protocols that have types and codes.
const ICMP: [Protocol; 2] = [Protocol::ICMP, Protocol::ICMPV6];
/// Both.
const WITH_PORTS_OR_ICMP: [Protocol; 6] = [
    Protocol::TCP,
    Protocol::UDP,
    Protocol::SCTP,
    Protocol::UDP_LITE,
    Protocol::ICMP,
    Protocol::ICMPV6,
];

/// Whether the address is in a set of ports as a whole: a Service that names no port means all of them.
fn any_port(ports: &PortMatch<AtomId>, address: &[Membership]) -> bool {
    address
        .iter()
        .any(|m| m.port_key().is_none() && ports.named.contains(&m.atom()))
}

/// Whether the port clauses of a side match a packet that has no ports.
fn portless(side: &Side<AtomId>, address: &[Membership]) -> bool {
    side.ports.as_ref().is_none_or(|p| any_port(p, address))
        && !side.not_ports.as_ref().is_some_and(|p| any_port(p, address))
}

fn match_spans(ports: &PortMatch<AtomId>, address: &[Membership], protocol: Protocol) -> Vec<Span> {
    if any_port(ports, address) {
        return vec![EVERYTHING];
    }
    let named = address
        .iter()
        .filter(|m| ports.named.contains(&m.atom()))
        .filter_map(|m| m.port_key())
        .filter(|k| k.protocol == protocol);
    let numbers = ports.ranges.iter().copied();
    spans(numbers.chain(named.map(|k| PortRange::single(k.port))))
}

fn port_spans(side: &Side<AtomId>, address: &[Membership], protocol: Protocol) -> Vec<Span> {
    let wanted = side
        .ports
        .as_ref()
        .map_or(vec![EVERYTHING], |p| match_spans(p, address, protocol));
    match &side.not_ports {
        Some(not) => intersect(&wanted, &complement(&match_spans(not, address, protocol))),
        None => wanted,
    }
}

fn icmp_areas(protocols: Protocols, yes: Option<Icmp>, not: Option<Icmp>) -> Vec<Area> {
    let single = |v: Option<u8>| v.map_or(EVERYTHING, |n| (u16::from(n), u16::from(n)));
    let (x, y) = yes.map_or((EVERYTHING, EVERYTHING), |i| {
        (single(i.icmp_type), single(i.code))
    });
    let area = |x: Vec<Span>, y: Vec<Span>| Area { protocols, x, y };
    let Some(not) = not else {
        return vec![area(vec![x], vec![y])];
    };
    let (not_x, not_y) = (single(not.icmp_type), single(not.code));
    let other_types = intersect(&[x], &complement(&[not_x]));
    let same_type = intersect(&[x], &[not_x]);
    let other_codes = intersect(&[y], &complement(&[not_y]));
    let mut out = Vec::new();
    if !other_types.is_empty() {
        out.push(area(other_types, vec![y]));
    }
    if !same_type.is_empty() && !other_codes.is_empty() {
        out.push(area(same_type, other_codes));
    }
    out
}
