//! A running cluster as a world: nothing is filled in that the cluster itself has not decided.

use super::{Known, Observed, Parts, Pod, PodName, World};
use ipnet::IpNet;
use policy_model::{KUBERNETES_POLICY_PREFIX, Key, Kind, Resource, WorkloadEndpointSpec};
use policy_model_ipam::assigned;
use policy_model_kubernetes::{ManifestSet, PodFacts, WrittenPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What one or more objects of a cluster amount to. The objects themselves are not kept: pods are many, and most of
/// what they say decides nothing.
#[derive(Clone, Debug, Default)]
pub struct Described {
    resources: Vec<Resource>,
    /// Pods, each with its node where it has one.
    pods: Vec<(PodFacts, Option<String>)>,
    /// What authors wrote, by namespace and name of the resources that it became.
    written: Vec<(PodName, WrittenPolicy)>,
}

impl Described {
    /// What the objects of a set amount to.
    pub fn of(set: &ManifestSet) -> Self {
        let keys = set.resources().map(Resource::key);
        let written = keys.filter_map(|key| Some((set.written_policy(&key)?, key)));
        let node = |pod: &PodFacts| set.node_of(&pod.namespace, &pod.name).map(str::to_owned);
        Described {
            resources: set.resources().cloned().collect(),
            pods: set.pods().map(|pod| (pod.clone(), node(pod))).collect(),
            written: written
                .map(|(written, key)| ((key.namespace, key.name), written))
                .collect(),
        }
    }

    /// Leaves out profiles: those of a pod's namespace and account are only there in case that nobody defines them.
    pub fn without_profiles(mut self) -> Self {
        self.resources.retain(|resource| resource.kind() != Kind::Profile);
        self
    }
}

impl World {
    /// The world of a running cluster's objects. Of two that say something of one resource the first is right.
    pub fn observed(described: impl IntoIterator<Item = Described>, observed: &Observed) -> World {
        let mut resources: BTreeMap<Key, Resource> = BTreeMap::new();
        let mut pods: BTreeMap<PodName, Pod> = BTreeMap::new();
        let mut written = BTreeMap::new();
        for one in described {
            for resource in one.resources {
                resources.entry(resource.key()).or_insert(resource);
            }
            for (facts, node) in one.pods {
                let name = (facts.namespace.clone(), facts.name.clone());
                pods.entry(name.clone())
                    .or_insert_with(|| in_place(facts, node, observed.known.pods.get(&name)));
            }
            for (name, policy) in one.written {
                written.entry(name).or_insert(policy);
            }
        }
        for resource in resources.values_mut() {
            if let Resource::WorkloadEndpoint(endpoint) = resource {
                let name = (endpoint.metadata.namespace.clone(), endpoint.spec.pod.clone());
                let addresses = pods.get(&name).into_iter().flat_map(|pod| &pod.addresses);
                endpoint.spec.ip_networks = addresses.map(|address| (*address).into()).collect();
            }
        }
        let resources: Vec<Resource> = resources.into_values().collect();
        let mut world = World::assemble(Parts {
            nodes: nodes(&resources, &pods, &observed.known),
            set: ManifestSet::new(),
            resources,
            pods,
            faults: observed.faults.clone(),
            made_up: BTreeSet::new(),
            environment: observed.environment.clone(),
        });
        world.written = written;
        world
    }

    /// The world of a datastore's objects. Nobody knows any more how the authors of policies wrote them: rules are
    /// counted as they stand in the datastore.
    pub fn of_resources(mut all: Vec<Resource>, faults: Vec<String>) -> World {
        fill_from_blocks(&mut all);
        let (mut pods, mut nodes) = (BTreeMap::new(), BTreeMap::new());
        let mut written = BTreeMap::new();
        for resource in &all {
            match resource {
                Resource::Node(node) => {
                    nodes.insert(node.metadata.name.clone(), node.spec.all_addresses());
                }
                Resource::WorkloadEndpoint(endpoint) => {
                    let pod = pod(&endpoint.metadata.namespace, &endpoint.spec);
                    let name = (endpoint.metadata.namespace.clone(), endpoint.spec.pod.clone());
                    pods.insert(name, pod);
                }
                Resource::NetworkPolicy(policy) => {
                    let (namespace, name) = (&policy.metadata.namespace, &policy.metadata.name);
                    if let Some(author) = name.strip_prefix(KUBERNETES_POLICY_PREFIX) {
                        let policy = WrittenPolicy {
                            name: author.to_owned(),
                            ingress: (0..policy.spec.ingress.len()).collect(),
                            egress: (0..policy.spec.egress.len()).collect(),
                        };
                        written.insert((namespace.clone(), name.clone()), policy);
                    }
                }
                _ => {}
            }
        }
        let mut world = World::assemble(Parts {
            set: ManifestSet::new(),
            resources: all,
            pods,
            nodes,
            faults,
            made_up: BTreeSet::new(),
            environment: None,
        });
        world.written = written;
        world
    }
}

fn nodes(
    resources: &[Resource],
    pods: &BTreeMap<PodName, Pod>,
    known: &Known,
) -> BTreeMap<String, Vec<IpAddr>> {
    let named = pods.values().filter_map(|pod| pod.node.clone());
    let mut nodes: BTreeMap<String, Vec<IpAddr>> = named.map(|name| (name, Vec::new())).collect();
    for resource in resources {
        if let Resource::Node(node) = resource {
            nodes.insert(node.metadata.name.clone(), node.spec.all_addresses());
        }
    }
    for (name, addresses) in nodes.iter_mut().filter(|(_, found)| found.is_empty()) {
        addresses.extend(known.nodes.get(name).into_iter().flatten());
    }
    nodes
}

/// A pod with its node, and with the addresses that it says it has, else with those that are known. What it only asks
/// for it does not have.
fn in_place(facts: PodFacts, node: Option<String>, known: Option<&(String, Vec<IpAddr>)>) -> Pod {
    let known = || known.map(|(_, addresses)| addresses.clone()).unwrap_or_default();
    let addresses = match (facts.is_endpoint(), facts.addresses.as_slice()) {
        (false, _) => Vec::new(),
        (true, []) => known(),
        (true, said) => said.to_vec(),
    };
    Pod {
        node: node.filter(|_| !facts.finished),
        facts,
        addresses,
    }
}

/// Endpoints that name no address have those that blocks give their pods.
fn fill_from_blocks(all: &mut [Resource]) {
    let mut given: BTreeMap<PodName, Vec<IpNet>> = BTreeMap::new();
    for resource in all.iter() {
        if let Resource::IPAMBlock(block) = resource {
            for held in assigned(&block.spec) {
                let name = (held.namespace.to_owned(), held.pod.to_owned());
                given.entry(name).or_default().push(held.address.into());
            }
        }
    }
    for resource in all
        .iter_mut()
        .filter(|resource| resource.kind() == Kind::WorkloadEndpoint)
    {
        if let Resource::WorkloadEndpoint(endpoint) = resource
            && endpoint.spec.ip_networks.is_empty()
        {
            let name = (endpoint.metadata.namespace.clone(), endpoint.spec.pod.clone());
            endpoint.spec.ip_networks = given.get(&name).cloned().unwrap_or_default();
        }
    }
}

fn pod(namespace: &str, endpoint: &WorkloadEndpointSpec) -> Pod {
    let addresses: Vec<IpAddr> = endpoint.ip_networks.iter().map(IpNet::addr).collect();
    Pod {
        facts: PodFacts {
            namespace: namespace.to_owned(),
            name: endpoint.pod.clone(),
            node: Some(endpoint.node.clone()),
            host_network: false,
            finished: false,
            terminating: false,
            service_account: endpoint.service_account_name.clone(),
            ports: endpoint.ports.clone(),
            requested_addresses: Vec::new(),
            addresses: addresses.clone(),
            uid: String::new(),
        },
        node: Some(endpoint.node.clone()),
        addresses,
    }
}
