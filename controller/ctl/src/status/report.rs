//! How a cluster stands, judged from what was said. Pure.
//!
//! The fields are a contract with programs that read `manx status -o json`. What is `trouble` is not in force; what is
//! `unread` may be or not, and only where it decides about everything the standing is unknown.

use super::facts::{Facts, Owner};
use crate::cluster::NoAnswer;
use crate::cluster::agents::{Component, ComponentPod, Lease, NodeState};
use crate::cluster::local::LocalAgent;
use policy_model::{DefaultAction, IpamBlockSpec, KUBERNETES_POLICY_PREFIX, Kind, Resource};
use policy_model_ipam::Family;
use policy_model_ipam::block;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A lease that was not renewed for so many times its duration is held by nobody who works.
const LEASE_TIMES: u64 = 4;

const NO_CONTROLLER: &str = "no controller runs in this cluster";

/// Whether everything is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Everything is.
    InForce,
    /// Something is not.
    NotInForce,
    /// It cannot be told.
    Unknown,
}

/// How a cluster stands.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether everything is in force.
    pub standing: Standing,
    /// What is not in force, a line each.
    pub trouble: Vec<String>,
    /// What could not be read, a line each.
    pub unread: Vec<String>,
    /// The datastore.
    pub datastore: DatastoreReport,
    /// The tiers, in their order.
    pub tiers: Vec<TierReport>,
    /// The pools, by name.
    pub pools: Vec<PoolReport>,
    /// The nodes, by name.
    pub nodes: Vec<NodeReport>,
    /// The controller.
    pub controller: ControllerReport,
    /// How many policies there are of each kind.
    pub policies: BTreeMap<&'static str, usize>,
    /// Objects that cannot be taken as they are, a line each.
    pub faults: Vec<String>,
    /// The agent of this container.
    pub agent: Option<LocalAgent>,
}

/// The datastore.
#[derive(Debug, Serialize)]
pub struct DatastoreReport {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Where it is.
    pub server: String,
    /// Version of the API server; none where it does not answer.
    pub version: Option<String>,
    /// Whether the group of our kinds is ours; none where it cannot be told.
    pub ours: Option<bool>,
    /// Names of the definitions that lack; none where it cannot be told.
    pub undefined: Option<Vec<String>>,
}

/// A tier.
#[derive(Debug, Serialize)]
pub struct TierReport {
    /// Its name.
    pub name: String,
    /// Its order; none is the last.
    pub order: Option<f64>,
    /// What happens to what its policies leave open.
    #[serde(rename = "defaultAction")]
    pub default_action: DefaultAction,
}

/// A pool.
#[derive(Debug, Serialize)]
pub struct PoolReport {
    /// Its name.
    pub name: String,
    /// Its range.
    pub cidr: String,
    /// Whether no new addresses are taken from it.
    pub disabled: bool,
    /// How many addresses it has.
    pub size: u128,
    /// How many are held.
    pub used: u128,
    /// How many are not.
    pub free: u128,
    /// How many of its blocks are made.
    pub blocks: usize,
}

/// A node.
#[derive(Debug, Serialize)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// Whether kubelet says that it is ready.
    pub ready: Option<bool>,
    /// Whether its network is said to be unavailable.
    #[serde(rename = "networkUnavailable")]
    pub network_unavailable: Option<bool>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its blocks.
    pub blocks: Vec<String>,
    /// Its agent.
    pub agent: Option<ComponentPod>,
}

/// The controller.
#[derive(Debug, Serialize)]
pub struct ControllerReport {
    /// Its pods.
    pub pods: Vec<ComponentPod>,
    /// The lease by which one of them leads.
    pub lease: Option<Lease>,
}

impl Report {
    /// Judges what was said.
    pub fn of(facts: Facts) -> Report {
        let mut judge = Judge::default();
        let datastore = judge.datastore(&facts);
        let mut unread: Vec<&NoAnswer> = facts
            .objects
            .values()
            .filter_map(|found| found.as_ref().err())
            .collect();
        unread.extend(facts.nodes.as_ref().err());
        unread.extend(facts.pods.as_ref().err());
        unread.extend(facts.lease.as_ref().err());
        judge.unread.extend(unread.into_iter().map(ToString::to_string));
        judge.unread.sort_unstable();
        judge.unread.dedup();
        let blocks = blocks(&facts);
        let connects = facts.pods.iter().flatten().any(|pod| pod.connects);
        let pools = judge.pools(&facts, &blocks, connects);
        let nodes = judge.nodes(&facts, &blocks);
        let controller = judge.controller(&facts);
        for fault in &facts.faults {
            judge.trouble.push(format!("invalid object: {fault}"));
        }
        if let Some(agent) = &facts.local {
            for (name, page) in [("live", &agent.liveness), ("ready", &agent.readiness)] {
                if !page.ok {
                    let first = page.text.lines().next().unwrap_or_default();
                    judge
                        .trouble
                        .push(format!("the agent of this container is not {name}: {first}"));
                }
            }
        }
        // Nodes and their agents are what policy is enforced by: without a word about them there is no all clear.
        let is_decisive = |error: &NoAnswer| !matches!(error, NoAnswer::Absent { .. });
        let unknown = facts.version.is_err()
            || [facts.nodes.as_ref().err(), facts.pods.as_ref().err()]
                .into_iter()
                .flatten()
                .any(is_decisive);
        let standing = match (facts.version.is_err(), judge.trouble.is_empty(), unknown) {
            (true, ..) | (_, true, true) => Standing::Unknown,
            (false, false, _) => Standing::NotInForce,
            (false, true, false) => Standing::InForce,
        };
        Report {
            standing,
            trouble: judge.trouble,
            unread: judge.unread,
            datastore,
            tiers: tiers(&facts),
            pools,
            nodes,
            controller,
            policies: policies(&facts),
            faults: facts.faults,
            agent: facts.local,
        }
    }

    /// What is not in force, then what could not be read.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.trouble.iter().chain(&self.unread).map(String::as_str)
    }
}

#[derive(Default)]
struct Judge {
    trouble: Vec<String>,
    unread: Vec<String>,
}

impl Judge {
    fn datastore(&mut self, facts: &Facts) -> DatastoreReport {
        self.unread
            .extend(facts.version.as_ref().err().map(ToString::to_string));
        self.unread
            .extend(facts.undefined.as_ref().err().map(ToString::to_string));
        let ours = match &facts.owner {
            Ok(()) => Some(true),
            Err(Owner::Foreign(whose)) => {
                self.trouble
                    .push(format!("the datastore is another network's: {whose}"));
                Some(false)
            }
            Err(Owner::Unknown(error)) => {
                self.unread.push(error.to_string());
                None
            }
        };
        let name = |kind: &Kind| format!("{}.projectcalico.org", kind.plural());
        let undefined = facts.undefined.as_ref().ok();
        let undefined: Option<Vec<String>> = undefined.map(|kinds| kinds.iter().map(name).collect());
        if let Some(names) = undefined.as_deref().filter(|names| !names.is_empty()) {
            self.trouble.push(format!(
                "not defined: {}; the chart installs the definitions (crds.install)",
                names.join(", ")
            ));
        }
        DatastoreReport {
            kind: "kubernetes",
            server: facts.server.clone(),
            version: facts.version.as_ref().ok().cloned(),
            ours,
            undefined,
        }
    }

    fn pools(&mut self, facts: &Facts, blocks: &[&IpamBlockSpec], connects: bool) -> Vec<PoolReport> {
        let Some(Ok(found)) = facts.objects.get(&Kind::IPPool) else {
            return Vec::new();
        };
        let mut pools = Vec::new();
        for resource in found {
            let Resource::IPPool(pool) = resource.as_ref() else {
                continue;
            };
            let cidr = pool.spec.cidr.trunc();
            let inside: Vec<&&IpamBlockSpec> =
                blocks.iter().filter(|block| cidr.contains(&block.cidr)).collect();
            let held = inside
                .iter()
                .map(|block| block::holders(block).count())
                .sum::<usize>();
            let (size, used) = (size(&cidr), held as u128);
            let free = size.saturating_sub(used);
            let name = pool.metadata.name.clone();
            if free == 0 && !pool.spec.disabled {
                self.trouble
                    .push(format!("pool {name}: all {size} addresses of {cidr} are held"));
            }
            pools.push(PoolReport {
                name,
                cidr: cidr.to_string(),
                disabled: pool.spec.disabled,
                size,
                used,
                free,
                blocks: inside.len(),
            });
        }
        if connects && pools.iter().all(|pool| pool.disabled) {
            self.trouble.push(
                "there is no pool that addresses are taken from; the controller makes one where none is defined".to_owned(),
            );
        }
        pools
    }

    fn nodes(&mut self, facts: &Facts, blocks: &[&IpamBlockSpec]) -> Vec<NodeReport> {
        let mut agents: BTreeMap<&str, Vec<&ComponentPod>> = BTreeMap::new();
        for pod in facts
            .pods
            .iter()
            .flatten()
            .filter(|pod| pod.component == Component::Agent)
        {
            agents.entry(&pod.node).or_default().push(pod);
        }
        if facts.pods.as_ref().is_ok_and(|_| agents.is_empty()) {
            self.trouble.push(
                "no agent runs in this cluster: there is no pod with app.kubernetes.io/name=manx-node"
                    .to_owned(),
            );
        }
        let some_agents = !agents.is_empty();
        let mut reports = Vec::new();
        for node in facts.nodes.iter().flatten() {
            // While one is replaced there are two for a moment: the newcomer counts when it is ready.
            let own = agents.remove(node.name.as_str()).unwrap_or_default();
            let agent = own.iter().find(|pod| pod.ready).or(own.first()).copied();
            self.node(node, agent, some_agents);
            let of_node = |block: &&&IpamBlockSpec| block::owner(block) == Some(node.name.as_str());
            reports.push(NodeReport {
                name: node.name.clone(),
                ready: node.ready.holds,
                network_unavailable: node.network_unavailable.holds,
                addresses: node.addresses.clone(),
                blocks: blocks
                    .iter()
                    .filter(of_node)
                    .map(|block| block.cidr.to_string())
                    .collect(),
                agent: agent.cloned(),
            });
        }
        let known: BTreeSet<&str> = reports.iter().map(|node| node.name.as_str()).collect();
        let strays = agents.iter().filter(|(node, _)| !known.contains(**node));
        let strays: Vec<String> = strays
            .flat_map(|(node, pods)| pods.iter().map(move |pod| (node, pod)))
            .filter(|(node, _)| node.is_empty() || facts.nodes.is_ok())
            .map(|(node, pod)| match (*node, &pod.why) {
                ("", Some(why)) => format!("agent {}: it has no node: {why}", pod.name),
                ("", None) => format!("agent {}: it has no node", pod.name),
                (node, _) => format!("agent {}: its node {node} does not exist", pod.name),
            })
            .collect();
        self.trouble.extend(strays);
        reports
    }

    fn node(&mut self, node: &NodeState, agent: Option<&ComponentPod>, some_agents: bool) {
        let name = &node.name;
        let because = |why: &str| {
            if why.is_empty() {
                String::new()
            } else {
                format!(": {why}")
            }
        };
        if node.ready.holds != Some(true) {
            self.trouble
                .push(format!("node {name} is not Ready{}", because(&node.ready.why)));
        }
        if node.network_unavailable.holds == Some(true) {
            let why = because(&node.network_unavailable.why);
            self.trouble
                .push(format!("node {name}: its network is unavailable{why}"));
        }
        match agent {
            None if some_agents => self.trouble.push(format!("node {name} has no agent")),
            Some(pod) if !pod.ready => {
                let why = because(pod.why.as_deref().unwrap_or_default());
                self.trouble
                    .push(format!("node {name}: its agent {} is not ready{why}", pod.name));
            }
            _ => {}
        }
    }

    fn controller(&mut self, facts: &Facts) -> ControllerReport {
        let pods = facts
            .pods
            .iter()
            .flatten()
            .filter(|pod| pod.component == Component::Controller);
        let pods: Vec<ComponentPod> = pods.cloned().collect();
        for pod in pods.iter().filter(|pod| !pod.ready) {
            let why = pod.why.as_deref().unwrap_or_default();
            self.trouble
                .push(format!("controller {} is not ready: {why}", pod.name));
        }
        let lease = facts.lease.as_ref().ok().cloned().flatten();
        match (&facts.lease, &lease) {
            // Without a word about the lease its holders' pods are what there is to go by.
            (Err(_), _) if facts.pods.is_ok() && pods.is_empty() => {
                self.trouble.push(NO_CONTROLLER.to_owned());
            }
            (Err(_), _) => {}
            (Ok(_), None) => self.trouble.push(match pods.is_empty() {
                true => NO_CONTROLLER.to_owned(),
                false => "no controller leads: the lease manx-controller does not exist yet".to_owned(),
            }),
            (Ok(_), Some(lease)) if lease.holder.is_empty() => {
                self.trouble
                    .push("no controller leads: nobody holds the lease manx-controller".to_owned());
            }
            (Ok(_), Some(lease)) => {
                let limit = lease.duration.saturating_mul(LEASE_TIMES);
                if lease.age.is_none_or(|age| age > limit) {
                    let since = lease.age.map_or("ever".to_owned(), |age| format!("{age} s"));
                    self.trouble.push(format!(
                        "no controller leads: {} holds the lease and has not renewed it for {since}",
                        lease.holder
                    ));
                }
            }
        }
        ControllerReport { pods, lease }
    }
}

/// How many addresses a range has.
pub(crate) fn size(net: &ipnet::IpNet) -> u128 {
    let bits = Family::of_net(net).bits().saturating_sub(net.prefix_len());
    1u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX)
}

fn blocks(facts: &Facts) -> Vec<&IpamBlockSpec> {
    let found = facts
        .objects
        .get(&Kind::IPAMBlock)
        .into_iter()
        .flatten()
        .flatten();
    found
        .filter_map(|resource| match resource.as_ref() {
            Resource::IPAMBlock(block) => Some(&block.spec),
            _ => None,
        })
        .collect()
}

fn tiers(facts: &Facts) -> Vec<TierReport> {
    let found = facts.objects.get(&Kind::Tier).into_iter().flatten().flatten();
    let mut tiers: Vec<TierReport> = found
        .filter_map(|resource| match resource.as_ref() {
            Resource::Tier(tier) => Some(TierReport {
                name: tier.metadata.name.clone(),
                order: tier.spec.order,
                default_action: tier.spec.default_action.unwrap_or_default(),
            }),
            _ => None,
        })
        .collect();
    let place = |tier: &TierReport| tier.order.unwrap_or(f64::INFINITY);
    tiers.sort_by(|a, b| place(a).total_cmp(&place(b)).then_with(|| a.name.cmp(&b.name)));
    tiers
}

/// Policies by the names that people know their kinds by.
fn policies(facts: &Facts) -> BTreeMap<&'static str, usize> {
    let mut count = BTreeMap::new();
    if let Some(Ok(found)) = facts.objects.get(&Kind::NetworkPolicy) {
        let translated = found
            .iter()
            .filter(|policy| policy.metadata().name.starts_with(KUBERNETES_POLICY_PREFIX))
            .count();
        count.insert("networkpolicies.networking.k8s.io", translated);
        count.insert("networkpolicies.projectcalico.org", found.len() - translated);
    }
    if let Some(Ok(found)) = facts.objects.get(&Kind::GlobalNetworkPolicy) {
        count.insert("globalnetworkpolicies.projectcalico.org", found.len());
    }
    count
}

#[cfg(test)]
mod tests;
