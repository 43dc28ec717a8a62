//! Random worlds: what the brain may say, remembered plainly, and judged rule by rule without any table.
//!
//! The judge shares nothing with the code under test: it walks policies for one address and one port.

#![allow(dead_code, unused_imports)] // Each suite uses its part.

mod areas;
mod invent;
mod judge;
mod words;

use dataplane_api::{AtomId, AtomScope, EndpointId, Member, Policy, PolicyId, Update, WorkloadEndpoint};
use proptest::test_runner::Config as ProptestConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use areas::{EDGES, area};
pub(crate) use judge::Flow;
pub(crate) use words::{Aside, say, word};

/// How often a property is tried; the variable PROPTEST_CASES says otherwise. Failures are kept by name in the suites.
pub(crate) fn tries(cases: u32) -> ProptestConfig {
    let said = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: said.unwrap_or(cases),
        max_shrink_iters: 600,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Numbers that look random, from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.roll(list.len())]
    }
}

/// How rich a world is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Every kind of rule.
    Rich,
    /// Few addresses, few ports, few policies: collisions are likely.
    Dense,
}

/// Everything that was said and not taken back.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) kind: Kind,
    pub(crate) atoms: BTreeMap<AtomId, (AtomScope, BTreeSet<Member>)>,
    pub(crate) policies: BTreeMap<PolicyId, Arc<Policy>>,
    pub(crate) endpoints: BTreeMap<EndpointId, Arc<WorkloadEndpoint>>,
    next_atom: u32,
}

impl World {
    pub(crate) fn new(kind: Kind) -> Self {
        World {
            kind,
            atoms: BTreeMap::new(),
            policies: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            next_atom: 1,
        }
    }

    fn take_in(&mut self, update: &Update) {
        match update {
            Update::AtomCreated { atom, scope } => {
                assert!(self.atoms.insert(*atom, (*scope, BTreeSet::new())).is_none());
            }
            Update::Members { atom, added, removed } => {
                let members = &mut self.atoms.get_mut(atom).expect("an atom that was announced").1;
                for member in removed {
                    assert!(members.remove(member));
                }
                for member in added {
                    assert!(members.insert(*member));
                }
            }
            Update::AtomRemoved(atom) => {
                self.atoms.remove(atom).expect("an atom that was announced");
            }
            Update::Policy(policy) => {
                self.policies.insert(policy.id.clone(), policy.clone());
            }
            Update::PolicyRemoved(id) => {
                self.policies.remove(id).expect("a policy that was sent");
            }
            Update::Workload(endpoint) => {
                self.endpoints.insert(endpoint.id.clone(), endpoint.clone());
            }
            Update::WorkloadRemoved(id) => {
                self.endpoints.remove(id).expect("an endpoint that was sent");
            }
            _ => {}
        }
    }

    /// The whole world as one flush, in the order of the wall.
    pub(crate) fn updates(&self) -> Vec<Update> {
        self.since(&World::new(self.kind))
    }

    /// What the brain says when an earlier world has become this one, in the order of the wall.
    pub(crate) fn since(&self, before: &World) -> Vec<Update> {
        let mut out = Vec::new();
        let nobody = BTreeSet::new();
        for (atom, (scope, members)) in &self.atoms {
            let known = before.atoms.get(atom);
            if known.is_none() {
                let (atom, scope) = (*atom, *scope);
                out.push(Update::AtomCreated { atom, scope });
            }
            let known = known.map_or(&nobody, |(_, members)| members);
            let added: Vec<Member> = members.difference(known).copied().collect();
            let removed: Vec<Member> = known.difference(members).copied().collect();
            if !added.is_empty() || !removed.is_empty() {
                let atom = *atom;
                out.push(Update::Members { atom, added, removed });
            }
        }
        let policies = self
            .policies
            .iter()
            .filter(|(id, p)| before.policies.get(id) != Some(p));
        out.extend(policies.map(|(_, p)| Update::Policy(p.clone())));
        let endpoints = self
            .endpoints
            .iter()
            .filter(|(id, e)| before.endpoints.get(id) != Some(e));
        out.extend(endpoints.map(|(_, e)| Update::Workload(e.clone())));
        let gone = before
            .endpoints
            .keys()
            .filter(|id| !self.endpoints.contains_key(id));
        out.extend(gone.cloned().map(Update::WorkloadRemoved));
        let gone = before
            .policies
            .keys()
            .filter(|id| !self.policies.contains_key(id));
        out.extend(gone.cloned().map(Update::PolicyRemoved));
        let gone = before.atoms.keys().filter(|atom| !self.atoms.contains_key(atom));
        out.extend(gone.copied().map(Update::AtomRemoved));
        out
    }

    /// An endpoint with all that concerns it, for a failure's text.
    pub(crate) fn describe(&self, endpoint: &WorkloadEndpoint) -> String {
        let mut text = format!("{endpoint:?}\n");
        let tiers = endpoint
            .ingress
            .iter()
            .chain(&endpoint.egress)
            .flat_map(|t| &t.policies);
        let named: BTreeSet<&PolicyId> = tiers.chain(&endpoint.profiles).collect();
        for id in named {
            text += &format!("{id:?}\n");
            if let Some(policy) = self.policies.get(id) {
                for (direction, rules) in [("in", &policy.ingress), ("out", &policy.egress)] {
                    rules
                        .iter()
                        .for_each(|rule| text += &format!("  {direction} {rule:?}\n"));
                }
            }
        }
        text + &format!("{:?}", self.atoms)
    }

    /// Addresses worth asking for: members, their neighbours, and some that nobody knows.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let mut out: BTreeSet<IpAddr> = BTreeSet::new();
        for text in ["0.0.0.0", "255.255.255.255", "9.9.9.9", "::", "2001:db8::1"] {
            out.insert(text.parse().expect("an address"));
        }
        for (_, members) in self.atoms.values() {
            for member in members {
                match member {
                    Member::Port(address, _) => {
                        out.insert(*address);
                    }
                    Member::Net(net) => {
                        out.insert(net.network());
                        out.insert(net.broadcast());
                        out.extend(beside(net.network(), false));
                        out.extend(beside(net.broadcast(), true));
                    }
                }
            }
        }
        out.into_iter().collect()
    }
}

fn beside(address: IpAddr, above: bool) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) if above => u32::from(a).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V4(a) => u32::from(a).checked_sub(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(a) if above => u128::from(a).checked_add(1).map(|n| IpAddr::V6(n.into())),
        IpAddr::V6(a) => u128::from(a).checked_sub(1).map(|n| IpAddr::V6(n.into())),
    }
}
