//! A chain: the rules of an ordered list of policies in one direction, resolved once for all groups that have them.
//!
//! Endpoints of different namespaces often have the same policies and different profiles. So a group has two chains,
//! one of its tiers and one of its profiles, and whatever does not depend on the own side is found once for each:
//! which rules concern a peer, and what those do.

use crate::group::Direction;
use crate::row::Verdict;
use crate::sets::Membership;
use dataplane_api::{AtomId, Policy, PolicyId, TierPolicies};
use policy_model::DefaultAction;
use policy_model_rules::{IpVersion, PortMatch, Rule, Side};
use rustc_hash::{FxHashMap, FxHashSet};
use std::rc::Rc;
use std::sync::Arc;

/// Number of a chain. Never used again within one life of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ChainId(pub(crate) u32);

/// Which policies a chain is of.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Those of tiers, in order.
    Tiers(Rc<[TierPolicies]>),
    /// Profiles, in order.
    Profiles(Rc<[PolicyId]>),
}

impl Content {
    /// The policies, in order.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &PolicyId> {
        let (tiers, profiles): (&[TierPolicies], &[PolicyId]) = match self {
            Content::Tiers(tiers) => (tiers, &[]),
            Content::Profiles(profiles) => (&[], profiles),
        };
        tiers.iter().flat_map(|tier| &tier.policies).chain(profiles)
    }
}

/// One rule in its place.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) stage: u16,
    /// What the rule does once it matches, as a number that equal rules share; none where its ports are those that
    /// an address declares, or where it asks something of the own side.
    does: Option<u32>,
    at: u32,
    policy: Arc<Policy>,
}

/// What a matching rule does: in which stage, and the number of what.
type Effect = (u16, u32);

/// What the matching rules do, in order.
pub(crate) type Effects = Rc<[Effect]>;

/// What ends a stage: a tier's default action, or nothing between profiles.
type StageEnd = Option<Verdict>;

/// How many answers are remembered before all are forgotten: peers come and go for months.
pub(crate) const CACHED: usize = 4096;

/// The rules of some policies.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) direction: Direction,
    pub(crate) content: Content,
    /// How many groups have it.
    pub(crate) groups: usize,
    links: Vec<Link>,
    pub(crate) stages: Vec<StageEnd>,
    /// Rules that can match only peers in an atom, by one such atom.
    by_atom: FxHashMap<AtomId, Vec<u32>>,
    /// Rules that can match any peer.
    general: Vec<u32>,
    /// All atoms that rules ask of the peer: the rest of a class does not matter here.
    asked: FxHashSet<AtomId>,
    /// All atoms that rules ask of the own side.
    pub(crate) asked_of_own: FxHashSet<AtomId>,
    /// By family and what the peer is in, as far as it is asked.
    known: FxHashMap<(IpVersion, Box<[Membership]>), Option<Effects>>,
}

impl Chain {
    pub(crate) fn new(
        direction: Direction,
        content: Content,
        policy: impl Fn(&PolicyId) -> Option<Arc<Policy>>,
    ) -> Self {
        let mut chain = Chain {
            direction,
            content: content.clone(),
            groups: 0,
            links: Vec::new(),
            stages: Vec::new(),
            by_atom: FxHashMap::default(),
            general: Vec::new(),
            asked: FxHashSet::default(),
            asked_of_own: FxHashSet::default(),
            known: FxHashMap::default(),
        };
        match content {
            Content::Tiers(tiers) => {
                for tier in tiers.iter() {
                    // The brain sends policies before the endpoints that need them. Should one lack all the same,
                    // the tier is cut off there: what an unknown policy would have passed or allowed stays closed.
                    let complete = tier.policies.iter().all(|id| chain.append(policy(id)));
                    let open = complete && tier.default_action == DefaultAction::Pass;
                    chain.stages.push(if open { None } else { Some(Verdict::Deny) });
                }
            }
            Content::Profiles(profiles) => {
                for id in profiles.iter() {
                    if !chain.append(policy(id)) {
                        break;
                    }
                    // A Pass leaves its profile for the next one.
                    chain.stages.push(None);
                }
            }
        }
        chain.links.shrink_to_fit();
        let mut numbers: FxHashMap<Rule<AtomId>, u32> = FxHashMap::default();
        for n in 0..chain.links.len() {
            let rule = chain.rule(&chain.links[n]);
            let (peer, own) = chain.sides(rule);
            let first = peer.sets.first().copied();
            let does = shape(rule, own).map(|shape| {
                let next = numbers.len() as u32;
                *numbers.entry(shape).or_insert(next)
            });
            let (asked, asked_of_own): (Vec<AtomId>, Vec<AtomId>) = (
                peer.all_sets().copied().collect(),
                own.all_sets().copied().collect(),
            );
            chain.links[n].does = does;
            chain.asked.extend(asked);
            chain.asked_of_own.extend(asked_of_own);
            match first {
                Some(atom) => chain.by_atom.entry(atom).or_default().push(n as u32),
                None => chain.general.push(n as u32),
            }
        }
        chain
    }

    /// Adds a policy's rules to the running stage; false if there is none.
    fn append(&mut self, policy: Option<Arc<Policy>>) -> bool {
        let Some(policy) = policy else { return false };
        let stage = self.stages.len() as u16;
        let rules = match self.direction {
            Direction::Ingress => policy.ingress.len(),
            Direction::Egress => policy.egress.len(),
        };
        self.links.extend((0..rules as u32).map(|at| Link {
            stage,
            does: None,
            at,
            policy: policy.clone(),
        }));
        true
    }

    pub(crate) fn rule<'a>(&self, link: &'a Link) -> &'a Rule<AtomId> {
        match self.direction {
            Direction::Ingress => &link.policy.ingress[link.at as usize],
            Direction::Egress => &link.policy.egress[link.at as usize],
        }
    }

    /// The peer's and the own side of a rule.
    pub(crate) fn sides<'a>(&self, rule: &'a Rule<AtomId>) -> (&'a Side<AtomId>, &'a Side<AtomId>) {
        match self.direction {
            Direction::Ingress => (&rule.source, &rule.destination),
            Direction::Egress => (&rule.destination, &rule.source),
        }
    }

    /// Whether some rule asks of the peer whether it is in an atom.
    pub(crate) fn asks(&self, atom: AtomId) -> bool {
        self.asked.contains(&atom)
    }

    /// All atoms that rules ask of the peer.
    pub(crate) fn asked(&self) -> impl Iterator<Item = AtomId> + '_ {
        self.asked.iter().copied()
    }

    /// The rules whose family and peer's sets match, in order.
    pub(crate) fn matching(&self, version: IpVersion, peer: &[Membership]) -> impl Iterator<Item = &Link> {
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
        let links = order.into_iter().map(|n| &self.links[n as usize]);
        links.filter(move |link| {
            let rule = self.rule(link);
            rule.ip_version.is_none_or(|v| v == version) && side_matches(self.sides(rule).0, peer)
        })
    }

    /// What the rules do that match peers of a class; none where that depends on the own side. Equal effects give
    /// equal rows.
    pub(crate) fn effects(&mut self, version: IpVersion, class: &[Membership]) -> Option<Effects> {
        let relevant = class.iter().filter(|m| self.asked.contains(&m.atom()));
        let key = (version, relevant.copied().collect::<Box<[Membership]>>());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let mut effects: Option<Vec<Effect>> = Some(Vec::new());
        for link in self.matching(version, &key.1) {
            let (Some(list), Some(does)) = (&mut effects, link.does) else {
                effects = None;
                break;
            };
            // What a stage did once to everything that was open, it does not do again.
            let of_stage = list.iter().rev().take_while(|(stage, _)| *stage == link.stage);
            if !of_stage.into_iter().any(|(_, other)| *other == does) {
                list.push((link.stage, does));
            }
        }
        let effects: Option<Effects> = effects.map(Into::into);
        if self.known.len() >= CACHED {
            self.known.clear();
        }
        self.known.insert(key, effects.clone());
        effects
    }
}

/// What a rule does once its family and its peer's sets have matched, if that is the same for every own side and
/// every peer: the rule without these.
fn shape(rule: &Rule<AtomId>, own: &Side<AtomId>) -> Option<Rule<AtomId>> {
    let names_ports =
        |ports: &Option<Box<PortMatch<AtomId>>>| ports.as_ref().is_some_and(|p| !p.named.is_empty());
    let by_name = [&rule.source, &rule.destination]
        .into_iter()
        .any(|side| names_ports(&side.ports) || names_ports(&side.not_ports));
    if by_name || !own.sets.is_empty() || !own.not_sets.is_empty() {
        return None;
    }
    let without_sets = |side: &Side<AtomId>| Side {
        sets: Vec::new(),
        not_sets: Vec::new(),
        ports: side.ports.clone(),
        not_ports: side.not_ports.clone(),
    };
    Some(Rule {
        action: rule.action,
        index: 0,
        ip_version: None,
        protocol: rule.protocol,
        not_protocol: rule.not_protocol,
        icmp: rule.icmp,
        not_icmp: rule.not_icmp,
        source: without_sets(&rule.source),
        destination: without_sets(&rule.destination),
    })
}

fn contains(set: &[Membership], atom: AtomId) -> bool {
    let at = set.partition_point(|m| m.atom() < atom);
    set.get(at).is_some_and(|m| m.atom() == atom)
}

/// Whether an address is in the sets of a side; its ports are another matter.
pub(crate) fn side_matches(side: &Side<AtomId>, address: &[Membership]) -> bool {
    side.sets.iter().all(|a| contains(address, *a)) && !side.not_sets.iter().any(|a| contains(address, *a))
}
