//! A group: one direction of the local endpoints that have the same ordered policies and the same own side.
//!
//! Everything that does not depend on the peer is resolved once for the group; a row then costs only the rules that
//! can match that peer.

use crate::row::{Area, EVERYTHING, Painter, Protocols, Row, Span, Verdict, complement, intersect, spans};
use crate::sets::Membership;
use dataplane_api::{AtomId, Policy, PolicyId, TierPolicies};
use policy_model::{Action, DefaultAction, Icmp, Protocol};
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
        let areas = |own: &[Membership]| self.areas(rule, peer_side, peer, own_side, own);
        if own.is_empty() {
            for area in areas(&[]) {
                self.apply(painter, rule.action, &area);
            }
        } else if own.len() == 1 {
            if side_matches(own_side, &own[0]) {
                for area in areas(&own[0]) {
                    self.apply(painter, rule.action, &area);
                }
            }
        } else {
            // Several own addresses that the rule may treat differently: what opens must hold for all of them, what
            // closes holds for any. Their ports are those of one endpoint, so the first stands for all.
            let hits = own.iter().filter(|o| side_matches(own_side, o)).count();
            let enough = if rule.action == Action::Deny {
                hits > 0
            } else {
                hits == own.len()
            };
            if enough && let Some(first) = own.iter().find(|o| side_matches(own_side, o)) {
                for area in areas(first) {
                    self.apply(painter, rule.action, &area);
                }
            }
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
        let protocols = match (rule.protocol, rule.not_protocol) {
            (Some(p), Some(not)) if p == not => return Vec::new(),
            (Some(p), _) => Protocols::Is(p),
            (None, Some(not)) => Protocols::Not(not),
            (None, None) => Protocols::Any,
        };
        if rule.icmp.is_some() || rule.not_icmp.is_some() {
            return icmp_areas(protocols, rule.icmp, rule.not_icmp);
        }
        // In a row the first coordinate is the destination's port.
        let ((x_side, x_in), (y_side, y_in)) = match self.direction {
            Direction::Ingress => ((own_side, own), (peer_side, peer)),
            Direction::Egress => ((peer_side, peer), (own_side, own)),
        };
        // Ports of an atom with several protocols: only those of the rule's own protocol count.
        let x = port_spans(x_side, x_in, rule.protocol);
        let y = port_spans(y_side, y_in, rule.protocol);
        if rule.protocol.is_none()
            && let Some(by_protocol) = service_ports(x_side, x_in)
        {
            // A Service names protocol and port together, in a rule that names no protocol; it may still exclude one.
            return by_protocol
                .into_iter()
                .filter(|(p, _)| rule.not_protocol != Some(*p))
                .map(|(p, x)| Area {
                    protocols: Protocols::Is(p),
                    x,
                    y: y.clone(),
                })
                .collect();
        }
        if x.is_empty() || y.is_empty() {
            return Vec::new();
        }
        vec![Area { protocols, x, y }]
    }
}

fn contains(set: &[Membership], atom: AtomId) -> bool {
    let at = set.partition_point(|m| m.atom() < atom);
    set.get(at).is_some_and(|m| m.atom() == atom)
}

fn side_matches(side: &Side<AtomId>, address: &[Membership]) -> bool {
    side.sets.iter().all(|a| contains(address, *a)) && !side.not_sets.iter().any(|a| contains(address, *a))
}

fn ports_of<'a>(
    ports: &'a PortMatch<AtomId>,
    address: &'a [Membership],
) -> impl Iterator<Item = dataplane_api::PortKey> + 'a {
    address
        .iter()
        .filter(|m| ports.named.contains(&m.atom()))
        .filter_map(|m| m.port_key())
}

/// Whether an address is in a set of ports as a whole: then every port of every protocol is meant (a Service whose
/// endpoints state no ports).
fn has_all_ports(ports: &PortMatch<AtomId>, address: &[Membership]) -> bool {
    address.iter().any(|m| m.port_key().is_none() && ports.named.contains(&m.atom()))
}

fn match_spans(ports: &PortMatch<AtomId>, address: &[Membership], protocol: Option<Protocol>) -> Vec<Span> {
    if has_all_ports(ports, address) {
        return vec![EVERYTHING];
    }
    let named = ports_of(ports, address).filter(|k| protocol.is_none_or(|p| p == k.protocol));
    let numbers = ports.ranges.iter().copied();
    spans(numbers.chain(named.map(|k| policy_model::PortRange::single(k.port))))
}

fn port_spans(side: &Side<AtomId>, address: &[Membership], protocol: Option<Protocol>) -> Vec<Span> {
    let wanted = side
        .ports
        .as_ref()
        .map_or(vec![EVERYTHING], |p| match_spans(p, address, protocol));
    match &side.not_ports {
        Some(not) => intersect(&wanted, &complement(&match_spans(not, address, protocol))),
        None => wanted,
    }
}

/// The ports by protocol, where a side names ports in a rule without a protocol (a Service).
fn service_ports(side: &Side<AtomId>, address: &[Membership]) -> Option<Vec<(Protocol, Vec<Span>)>> {
    let ports = side.ports.as_ref().filter(|p| !p.named.is_empty() && !has_all_ports(p, address))?;
    let mut keys: Vec<_> = ports_of(ports, address).collect();
    keys.sort_unstable();
    let mut out: Vec<(Protocol, Vec<Span>)> = Vec::new();
    for key in keys {
        match out.last_mut() {
            Some((p, list)) if *p == key.protocol => list.push((key.port, key.port)),
            _ => out.push((key.protocol, vec![(key.port, key.port)])),
        }
    }
    Some(out)
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
