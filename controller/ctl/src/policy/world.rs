//! A cluster as manifests describe it, with everything filled in that a running cluster would decide.
//!
//! What is filled in depends on the manifests alone, never on chance, so that two runs give the same answers. Where a
//! cluster runs already, what it decided is handed in ([`Known`]) and comes before what would be decided here. Of a
//! cluster that is asked itself ([`Observed`]) nothing is filled in: what it has not decided is not so.

mod addresses;
mod nodes;
mod observed;
mod settings;

pub use nodes::node_addresses;
pub use observed::Described;
pub(crate) use settings::{environment_saying, settings};

use controller::{FolderError, read_once};
use felix::settings::Layer;
use policy_model::{Key, Kind, NodeAddress, NodeSpec, Object, Resource};
use policy_model_kubernetes::{ManifestSet, PodFacts, WrittenPolicy};
use policy_model_rules::oracle::Facts;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

/// Namespace and name of a pod.
pub type PodName = (String, String);

/// Pools of pod addresses where the manifests define none: name and range.
pub const DEFAULT_POOLS: [(&str, &str); 2] =
    [("lab-ipv4", "10.65.0.0/16"), ("lab-ipv6", "fd65:6c61:6200::/64")];

/// What a running cluster, or another set of manifests, decided already.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Nodes with their addresses.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// Pods with their node and their addresses.
    pub pods: BTreeMap<PodName, (String, Vec<IpAddr>)>,
}

/// What is known of a running cluster beside its objects.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Nodes and addresses that the objects themselves do not say.
    pub known: Known,
    /// The agents' settings in their own environment, where that is known; they come before those of objects.
    pub environment: Option<Layer>,
    /// What could not be read, a line each.
    pub faults: Vec<String>,
}

/// A pod in its place.
#[derive(Clone, Debug)]
pub struct Pod {
    /// What its manifest says.
    pub facts: PodFacts,
    /// The node that it runs on; none for a pod that has finished.
    pub node: Option<String>,
    /// Its addresses; none for a pod of its node's network and for one that has finished.
    pub addresses: Vec<IpAddr>,
}

/// A cluster of manifests.
#[derive(Debug)]
pub struct World {
    /// The manifests in force.
    pub set: ManifestSet,
    /// What they amount to, with nodes and addresses filled in, in the order of keys.
    pub resources: Vec<Resource>,
    /// Every pod.
    pub pods: BTreeMap<PodName, Pod>,
    /// Every node with its addresses.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// What is wrong with the manifests, a line each: verdicts are those of the rest.
    pub faults: Vec<String>,
    /// What verdicts rest on.
    pub facts: Facts,
    written: BTreeMap<(String, String), WrittenPolicy>,
    /// IPv6 addresses that nothing in the manifests speaks of.
    made_up: BTreeSet<IpAddr>,
}

impl World {
    /// Reads a folder of manifests.
    ///
    /// # Errors
    /// The folder cannot be read. Everything else that is wrong is in [`World::faults`].
    pub fn load(path: &Path) -> Result<World, FolderError> {
        World::load_knowing(path, &Known::default())
    }

    /// Reads a folder of manifests for a cluster of which something is known.
    ///
    /// # Errors
    /// As [`World::load`].
    pub fn load_knowing(path: &Path, known: &Known) -> Result<World, FolderError> {
        let texts = read_once(path)?;
        let unreadable: Vec<String> = texts
            .iter()
            .filter_map(|(path, text)| Some(format!("{path}: it cannot be read: {}", text.as_ref().err()?)))
            .collect();
        let mut set = ManifestSet::new();
        let readable = texts
            .iter()
            .filter_map(|(path, text)| Some((path.as_str(), Some(text.as_ref().ok()?.as_str()))));
        set.update(readable);
        let mut world = World::new(set, known);
        world.faults.splice(..0, unreadable);
        Ok(world)
    }

    /// Fills in what the manifests do not say.
    pub fn new(mut set: ManifestSet, known: &Known) -> World {
        let mut faults: Vec<String> = set.faults().iter().map(ToString::to_string).collect();
        let nodes = nodes::nodes(&set, known);
        nodes::place(&mut set, &nodes, known);
        let addresses = addresses::assign(&set, known, &mut faults);
        let pods = pods(&set, &addresses);
        let made_up = made_up(&set, &pods, &nodes);
        World::assemble(Parts {
            resources: resources(&set, &nodes, &addresses),
            pods,
            nodes,
            faults,
            made_up,
            environment: None,
            set,
        })
    }

    fn assemble(parts: Parts) -> World {
        let Parts {
            set,
            resources,
            pods,
            nodes,
            mut faults,
            made_up,
            environment,
        } = parts;
        let facts = Facts::new(&resources, settings(&resources, environment.as_ref()));
        faults.extend(facts.faults().iter().map(ToString::to_string));
        let written = resources
            .iter()
            .map(Resource::key)
            .filter_map(|key| Some((set.written_policy(&key)?, key)))
            .map(|(written, key)| ((key.namespace, key.name), written))
            .collect();
        World {
            set,
            resources,
            pods,
            nodes,
            faults,
            facts,
            written,
            made_up,
        }
    }

    /// Whether a way between two addresses exists only because a second family was made up for pods or nodes.
    ///
    /// Most manifests are written with one family in mind; where both families are possible, one that nobody spoke of
    /// must not decide.
    pub fn is_made_up(&self, source: Option<IpAddr>, destination: Option<IpAddr>) -> bool {
        [source, destination]
            .into_iter()
            .flatten()
            .any(|address| self.made_up.contains(&address))
    }

    /// A pod by namespace and name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.get(&(namespace.to_string(), name.to_string()))
    }

    /// What the author wrote of a policy that came from Kubernetes' own kind; none for every other policy.
    pub(crate) fn written(&self, namespace: &str, resource: &str) -> Option<&WrittenPolicy> {
        self.written.get(&(namespace.to_string(), resource.to_string()))
    }

    /// What this world decided, for another that shall agree with it.
    pub fn known(&self) -> Known {
        let decided = |pod: &Pod| Some((pod.node.clone()?, pod.addresses.clone()));
        Known {
            nodes: self.nodes.clone(),
            pods: self
                .pods
                .iter()
                .filter_map(|(name, pod)| Some((name.clone(), decided(pod)?)))
                .collect(),
        }
    }
}

/// What a world is made of.
struct Parts {
    set: ManifestSet,
    resources: Vec<Resource>,
    pods: BTreeMap<PodName, Pod>,
    nodes: BTreeMap<String, Vec<IpAddr>>,
    faults: Vec<String>,
    made_up: BTreeSet<IpAddr>,
    environment: Option<Layer>,
}

/// Every pod in its place.
fn pods(set: &ManifestSet, addresses: &BTreeMap<PodName, Vec<IpAddr>>) -> BTreeMap<PodName, Pod> {
    set.pods()
        .map(|facts| {
            let name = (facts.namespace.clone(), facts.name.clone());
            let node = set.node_of(&name.0, &name.1).filter(|_| !facts.finished);
            let pod = Pod {
                facts: facts.clone(),
                node: node.map(str::to_string),
                addresses: addresses.get(&name).cloned().unwrap_or_default(),
            };
            (name, pod)
        })
        .collect()
}

/// The IPv6 addresses that were filled in without anything in the manifests that asks for IPv6: those of pods where
/// no pool is defined, and of nodes whose manifests name no address.
fn made_up(
    set: &ManifestSet,
    pods: &BTreeMap<PodName, Pod>,
    nodes: &BTreeMap<String, Vec<IpAddr>>,
) -> BTreeSet<IpAddr> {
    let mut found: BTreeSet<IpAddr> = BTreeSet::new();
    if !set.resources().any(|resource| resource.kind() == Kind::IPPool) {
        let is_silent =
            |pod: &&Pod| pod.facts.requested_addresses.is_empty() && pod.facts.addresses.is_empty();
        found.extend(
            pods.values()
                .filter(is_silent)
                .flat_map(|pod| pod.addresses.iter().copied()),
        );
    }
    let says = |name: &str| match set.get(&Key::global(Kind::Node, name)) {
        Some(Resource::Node(node)) => !node.spec.all_addresses().is_empty(),
        _ => false,
    };
    let silent = nodes.iter().filter(|(name, _)| !says(name));
    found.extend(silent.flat_map(|(_, addresses)| addresses.iter().copied()));
    found.retain(IpAddr::is_ipv6);
    found
}

/// The resources with nodes and addresses filled in.
fn resources(
    set: &ManifestSet,
    nodes: &BTreeMap<String, Vec<IpAddr>>,
    addresses: &BTreeMap<PodName, Vec<IpAddr>>,
) -> Vec<Resource> {
    let mut all: BTreeMap<Key, Resource> = set.resources().map(|r| (r.key(), r.clone())).collect();
    for resource in all.values_mut() {
        if let Resource::WorkloadEndpoint(endpoint) = resource {
            let name = (endpoint.metadata.namespace.clone(), endpoint.spec.pod.clone());
            let found = addresses.get(&name).into_iter().flatten();
            endpoint.spec.ip_networks = found.map(|address| (*address).into()).collect();
        }
    }
    for (name, addresses) in nodes {
        let made = || Object::named(name.clone(), NodeSpec::default()).into();
        let entry = all
            .entry(Key::global(Kind::Node, name.as_str()))
            .or_insert_with(made);
        if let Resource::Node(node) = entry
            && node.spec.all_addresses().is_empty()
        {
            let internal = |address: &IpAddr| NodeAddress {
                address: *address,
                address_type: "InternalIP".to_string(),
            };
            node.spec.addresses = addresses.iter().map(internal).collect();
        }
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests;
