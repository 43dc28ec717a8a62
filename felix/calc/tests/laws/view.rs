//! What the hands know: a fold of updates that refuses every update that breaks the order of the wall.

use dataplane_api::{
    AtomId, AtomScope, ClusterNode, EndpointId, Member, NodeRoute, Policy, PolicyId, PoolRange, Update,
    WorkloadEndpoint,
};
use ipnet::IpNet;
use policy_model_rules::{PolicyKind, Rule};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A set by its value: who refers to it, and its members.
pub(crate) type SetValue = (AtomScope, BTreeSet<Member>);

/// A policy whose rules hold the values of sets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlainPolicy {
    pub(crate) ingress: Vec<Rule<SetValue>>,
    pub(crate) egress: Vec<Rule<SetValue>>,
}

/// Everything that the hands know, without the numbers of sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plain {
    pub(crate) policies: BTreeMap<PolicyId, PlainPolicy>,
    pub(crate) endpoints: BTreeMap<EndpointId, WorkloadEndpoint>,
    pub(crate) nodes: BTreeMap<Arc<str>, ClusterNode>,
    pub(crate) routes: BTreeMap<IpNet, NodeRoute>,
    pub(crate) pools: BTreeMap<IpNet, PoolRange>,
}

/// The hands' memory.
#[derive(Default)]
pub(crate) struct View {
    atoms: BTreeMap<AtomId, SetValue>,
    ever: BTreeSet<AtomId>,
    policies: BTreeMap<PolicyId, Arc<Policy>>,
    endpoints: BTreeMap<EndpointId, Arc<WorkloadEndpoint>>,
    nodes: BTreeMap<Arc<str>, ClusterNode>,
    routes: BTreeMap<IpNet, NodeRoute>,
    pools: BTreeMap<IpNet, PoolRange>,
    pub(crate) in_sync: bool,
}

impl View {
    /// Takes in one flush.
    pub(crate) fn apply(&mut self, updates: &[Update]) {
        assert!(updates.is_sorted_by_key(place), "out of order: {updates:#?}");
        let mut filled = BTreeSet::new();
        for update in updates {
            match update {
                Update::AtomCreated { atom, scope } => {
                    assert!(self.ever.insert(*atom), "{atom:?} is used again");
                    self.atoms.insert(*atom, (*scope, BTreeSet::new()));
                }
                Update::Members { atom, added, removed } => {
                    assert!(
                        !added.is_empty() || !removed.is_empty(),
                        "nothing changed in {atom:?}"
                    );
                    assert!(filled.insert(*atom), "{atom:?} is filled twice in one flush");
                    let (_, members) = self
                        .atoms
                        .get_mut(atom)
                        .expect("members of a set that is not there");
                    for member in removed {
                        assert!(members.remove(member), "{member:?} was not in {atom:?}");
                    }
                    for member in added {
                        assert!(!removed.contains(member), "{member:?} comes and goes");
                        assert!(members.insert(*member), "{member:?} was in {atom:?}");
                    }
                }
                Update::Policy(policy) => {
                    for atom in sets_of(policy) {
                        assert!(
                            self.atoms.contains_key(&atom),
                            "{} refers to no set: {atom:?}",
                            policy.id
                        );
                    }
                    let before = self.policies.insert(policy.id.clone(), policy.clone());
                    assert_ne!(before.as_ref(), Some(policy), "said twice");
                }
                Update::Workload(endpoint) => {
                    for id in tiered(endpoint) {
                        assert!(
                            self.policies.contains_key(id),
                            "{:?} refers to no policy: {id}",
                            endpoint.id
                        );
                    }
                    let before = self.endpoints.insert(endpoint.id.clone(), endpoint.clone());
                    assert_ne!(before.as_ref(), Some(endpoint), "said twice");
                }
                Update::Node(node) => {
                    let before = self.nodes.insert(node.name.clone(), node.clone());
                    assert_ne!(before.as_ref(), Some(node), "said twice");
                }
                Update::NodeRemoved(name) => {
                    assert!(self.nodes.remove(name).is_some(), "no node {name}");
                }
                Update::Route(route) => {
                    let before = self.routes.insert(route.destination, route.clone());
                    assert_ne!(before.as_ref(), Some(route), "said twice");
                }
                Update::HostPort(..) | Update::HostPortRemoved(_) => {
                    panic!("the calculation knows no ports of nodes: {update:?}")
                }
                Update::Pool(pool) => {
                    let before = self.pools.insert(pool.cidr, pool.clone());
                    assert_ne!(before.as_ref(), Some(pool), "said twice");
                }
                Update::RouteRemoved(route) => {
                    assert!(self.routes.remove(route).is_some(), "no route {route}")
                }
                Update::PoolRemoved(pool) => assert!(self.pools.remove(pool).is_some(), "no pool {pool}"),
                Update::WorkloadRemoved(id) => {
                    assert!(self.endpoints.remove(id).is_some(), "no endpoint {id:?}")
                }
                Update::PolicyRemoved(id) => {
                    assert!(self.policies.remove(id).is_some(), "no policy {id}");
                    if id.kind != PolicyKind::Profile {
                        assert!(
                            self.endpoints
                                .values()
                                .all(|e| !tiered(e).any(|other| other == id)),
                            "{id} is in use"
                        );
                    }
                }
                Update::AtomRemoved(atom) => {
                    assert!(self.atoms.remove(atom).is_some(), "no set {atom:?}");
                    assert!(
                        self.policies.values().all(|p| !sets_of(p).any(|a| a == *atom)),
                        "{atom:?} is in use"
                    );
                }
                Update::InSync => {
                    assert!(!self.in_sync, "in sync is said once");
                    self.in_sync = true;
                }
            }
        }
        self.assert_nothing_is_left_over();
    }

    fn assert_nothing_is_left_over(&self) {
        let used: BTreeSet<AtomId> = self
            .policies
            .values()
            .flat_map(|policy| sets_of(policy))
            .collect();
        assert_eq!(
            used,
            self.atoms.keys().copied().collect(),
            "sets in use, and sets"
        );
        for id in self.policies.keys() {
            let names = |e: &Arc<WorkloadEndpoint>| tiered(e).chain(&e.profiles).any(|other| other == id);
            assert!(self.endpoints.values().any(names), "no endpoint refers to {id}");
        }
    }

    /// What is known, by value.
    pub(crate) fn plain(&self) -> Plain {
        let value = |atom: &AtomId| self.atoms[atom].clone();
        let rules = |rules: &[Rule<AtomId>]| {
            rules
                .iter()
                .map(|rule| rule.map_sets(|atom, _| value(atom)))
                .collect()
        };
        let plain = |policy: &Arc<Policy>| PlainPolicy {
            ingress: rules(&policy.ingress),
            egress: rules(&policy.egress),
        };
        Plain {
            policies: self
                .policies
                .iter()
                .map(|(id, policy)| (id.clone(), plain(policy)))
                .collect(),
            endpoints: self
                .endpoints
                .iter()
                .map(|(id, endpoint)| (id.clone(), (**endpoint).clone()))
                .collect(),
            nodes: self.nodes.clone(),
            routes: self.routes.clone(),
            pools: self.pools.clone(),
        }
    }
}

/// The place of an update in the order of the wall.
fn place(update: &Update) -> u8 {
    match update {
        Update::AtomCreated { .. } | Update::Members { .. } => 0,
        Update::Policy(_) => 1,
        Update::Workload(_) => 2,
        Update::Node(_) | Update::Route(_) | Update::Pool(_) => 3,
        Update::HostPort(..) | Update::HostPortRemoved(_) => {
            unreachable!("the calculation knows no ports of nodes")
        }
        Update::NodeRemoved(_) | Update::RouteRemoved(_) | Update::PoolRemoved(_) => 4,
        Update::WorkloadRemoved(_) => 5,
        Update::PolicyRemoved(_) => 6,
        Update::AtomRemoved(_) => 7,
        Update::InSync => 8,
    }
}

fn sets_of(policy: &Policy) -> impl Iterator<Item = AtomId> {
    let rules = policy.ingress.iter().chain(&policy.egress);
    rules
        .flat_map(|rule| rule.source.all_sets().chain(rule.destination.all_sets()))
        .copied()
}

fn tiered(endpoint: &WorkloadEndpoint) -> impl Iterator<Item = &PolicyId> {
    endpoint
        .ingress
        .iter()
        .chain(&endpoint.egress)
        .flat_map(|tier| &tier.policies)
}
