//! A group: one direction of the local endpoints that have the same ordered policies and the same own side.
//!
//! Everything that does not depend on the peer is resolved once for the group; a row then costs only the rules that
//! can match that peer.

use crate::row::{Area, EVERYTHING, Painter, Protocols, Row, Span, Verdict, complement, intersect, spans};
use crate::sets::Membership;
use dataplane_api::{AtomId, Policy, PolicyId, TierPolicies};
use policy_model::{Action, DefaultAction, Icmp, PortRange, Protocol};
use policy_model_rules::{IpVersion, PortMatch, Rule, Side};
use rustc_hash::{FxHashMap, FxHashSet};
use std::rc::Rc;
use std::sync::Arc;

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
    pub tiers: Vec<TierPolicies>,
    /// Profiles, in order.
    pub profiles: Vec<PolicyId>,
    /// What the own IPv4 addresses are in, as far as the group's rules ask.
    pub own_v4: OwnSide,
    /// What the own IPv6 addresses are in, as far as the group's rules ask.
    pub own_v6: OwnSide,
}

/// One rule with the own side still in it: whether that matches depends on the peer's family only.
#[derive(Debug)]
struct GroupRule {
    stage: u16,
    policy: Arc<Policy>,
    at: usize,
}

/// What ends a stage: a tier's default action, or nothing between profiles.
type StageEnd = Option<Verdict>;

/// How many rows a group remembers before it forgets them all: peers come and go for months.
const CACHED_ROWS: usize = 4096;

/// A group's rules, ready to give rows.
#[derive(Debug)]
pub(crate) struct GroupRules {
    direction: Direction,
    own_v4: OwnSide,
    own_v6: OwnSide,
    rules: Vec<GroupRule>,
    stages: Vec<StageEnd>,
    /// Rules that can match only peers in an atom, by one such atom.
    by_atom: FxHashMap<AtomId, Vec<u32>>,
    /// Rules that can match any peer.
    general: Vec<u32>,
    /// All atoms that rules ask of the peer: the rest of a class does not matter here.
    asked: FxHashSet<AtomId>,
    rows: FxHashMap<(IpVersion, Box<[Membership]>), Rc<Row>>,
}

impl GroupRules {
    pub(crate) fn new(key: &GroupKey, policy: impl Fn(&PolicyId) -> Option<Arc<Policy>>) -> Self {
        let mut rules = Vec::new();
        let mut stages = Vec::new();
        let mut take = |id: &PolicyId, stage: usize| match policy(id) {
            Some(policy) => {
                let list = if key.direction == Direction::Ingress {
                    &policy.ingress
                } else {
                    &policy.egress
                };
                for at in 0..list.len() {
                    rules.push(GroupRule {
                        stage: stage as u16,
                        policy: policy.clone(),
                        at,
                    });
                }
                true
            }
            None => false,
        };
        for tier in &key.tiers {
            let mut complete = true;
            for id in &tier.policies {
                // The brain sends policies before the endpoints that need them. Should one lack all the same, the
                // tier is cut off there: what an unknown policy would have passed or allowed stays closed.
                if !take(id, stages.len()) {
                    complete = false;
                    break;
                }
            }
            let open = complete && tier.default_action == DefaultAction::Pass;
            stages.push(if open { None } else { Some(Verdict::Deny) });
        }
        for id in &key.profiles {
            if !take(id, stages.len()) {
                break;
            }
            // A Pass leaves its profile for the next one.
            stages.push(None);
        }
        stages.push(Some(Verdict::Deny));
        let mut group = GroupRules {
            direction: key.direction,
            own_v4: key.own_v4.clone(),
            own_v6: key.own_v6.clone(),
            rules,
            stages,
            by_atom: FxHashMap::default(),
            general: Vec::new(),
            asked: FxHashSet::default(),
            rows: FxHashMap::default(),
        };
        for n in 0..group.rules.len() {
            let (peer, _) = group.sides(&group.rules[n]);
            let first = peer.sets.first().copied();
            let asked: Vec<AtomId> = peer.all_sets().copied().collect();
            group.asked.extend(asked);
            match first {
                Some(atom) => group.by_atom.entry(atom).or_default().push(n as u32),
                None => group.general.push(n as u32),
            }
        }
        group
    }

    fn rule<'a>(&self, rule: &'a GroupRule) -> &'a Rule<AtomId> {
        match self.direction {
            Direction::Ingress => &rule.policy.ingress[rule.at],
            Direction::Egress => &rule.policy.egress[rule.at],
        }
    }

    /// The peer's and the own side of a rule.
    fn sides<'a>(&self, rule: &'a GroupRule) -> (&'a Side<AtomId>, &'a Side<AtomId>) {
        let r = self.rule(rule);
        match self.direction {
            Direction::Ingress => (&r.source, &r.destination),
            Direction::Egress => (&r.destination, &r.source),
        }
    }

    /// The row for peers of a class.
    pub(crate) fn row(&mut self, version: IpVersion, class: &[Membership]) -> Rc<Row> {
        let relevant: Box<[Membership]> = class
            .iter()
            .filter(|m| self.asked.contains(&m.atom()))
            .copied()
            .collect();
        if let Some(row) = self.rows.get(&(version, relevant.clone())) {
            return row.clone();
        }
        let row = Rc::new(self.paint(version, &relevant));
        if self.rows.len() >= CACHED_ROWS {
            self.rows.clear();
        }
        self.rows.insert((version, relevant), row.clone());
        row
    }

    fn paint(&self, version: IpVersion, peer: &[Membership]) -> Row {
        let mut order: Vec<u32> = self.general.clone();
        let mut last = None;
        for membership in peer {
            // Memberships are sorted by atom; one with several ports stands several times.
            if last != Some(membership.atom()) {
                last = Some(membership.atom());
                order.extend(self.by_atom.get(&membership.atom()).into_iter().flatten());
            }
        }
        order.sort_unstable();
        let mut painter = Painter::new();
        let mut stage = 0usize;
        for n in order {
            let rule = &self.rules[n as usize];
            while stage < usize::from(rule.stage) {
                painter.end_stage(self.stages[stage]);
                stage += 1;
            }
            if painter.is_finished() {
                break;
            }
            self.paint_rule(&mut painter, rule, version, peer);
        }
        for end in &self.stages[stage..] {
            painter.end_stage(*end);
        }
        painter.finish()
    }

    fn paint_rule(&self, painter: &mut Painter, rule: &GroupRule, version: IpVersion, peer: &[Membership]) {
        let (peer_side, own_side) = self.sides(rule);
        let rule = self.rule(rule);
        if rule.ip_version.is_some_and(|v| v != version) || !side_matches(peer_side, peer) {
            return;
        }
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

fn contains(set: &[Membership], atom: AtomId) -> bool {
    let at = set.partition_point(|m| m.atom() < atom);
    set.get(at).is_some_and(|m| m.atom() == atom)
}

fn side_matches(side: &Side<AtomId>, address: &[Membership]) -> bool {
    side.sets.iter().all(|a| contains(address, *a)) && !side.not_sets.iter().any(|a| contains(address, *a))
}

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
