//! Which nodes there are, and on which of them a pod runs whose manifest does not say.

use super::{Known, PodName};
use policy_model::Resource;
use policy_model_kubernetes::ManifestSet;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How many nodes there are where no manifest defines one.
const NODES: usize = 3;

/// Addresses of the n-th node (from 1) of those whose manifests say none.
pub fn node_addresses(n: usize) -> [IpAddr; 2] {
    let n = u16::try_from(n).unwrap_or(u16::MAX);
    let [high, low] = n.to_be_bytes();
    [
        IpAddr::V4(Ipv4Addr::new(10, 98, high, low)),
        IpAddr::V6(Ipv6Addr::new(0xfd98, 0x6c61, 0x6200, 0, 0, 0, 0, n)),
    ]
}

/// The nodes: those that Node manifests define and pods name. Where there is no Node manifest they are filled up to
/// three with `node1`, `node2`, and so on.
pub(super) fn nodes(set: &ManifestSet, known: &Known) -> BTreeMap<String, Vec<IpAddr>> {
    let mut nodes: BTreeMap<String, Vec<IpAddr>> = set
        .node_names()
        .into_iter()
        .map(|name| (name.to_string(), Vec::new()))
        .collect();
    let mut is_defined = false;
    for resource in set.resources() {
        if let Resource::Node(node) = resource {
            is_defined = true;
            nodes.insert(node.metadata.name.clone(), node.spec.all_addresses());
        }
    }
    if !is_defined {
        for name in known.nodes.keys() {
            nodes.entry(name.clone()).or_default();
        }
        let mut n = 1;
        while nodes.len() < NODES {
            nodes.entry(format!("node{n}")).or_default();
            n += 1;
        }
    }
    for (name, addresses) in nodes.iter_mut().filter(|(_, found)| found.is_empty()) {
        addresses.extend(known.nodes.get(name).into_iter().flatten());
    }
    let taken: Vec<IpAddr> = nodes.values().flatten().copied().collect();
    let is_free = |addresses: &[IpAddr; 2]| !addresses.iter().any(|address| taken.contains(address));
    let mut free = (1..).map(node_addresses).filter(is_free);
    for addresses in nodes.values_mut().filter(|found| found.is_empty()) {
        addresses.extend(free.next().into_iter().flatten());
    }
    nodes
}

/// Gives every pod a node that its manifest does not name: the one that is known, else the one with the fewest pods.
pub(super) fn place(set: &mut ManifestSet, nodes: &BTreeMap<String, Vec<IpAddr>>, known: &Known) {
    let mut load: BTreeMap<&str, usize> = nodes.keys().map(|node| (node.as_str(), 0)).collect();
    for pod in set.pods().filter(|pod| !pod.finished) {
        if let Some(count) = pod.node.as_deref().and_then(|node| load.get_mut(node)) {
            *count += 1;
        }
    }
    let waiting: Vec<PodName> = set
        .unassigned_pods()
        .map(|pod| (pod.namespace.clone(), pod.name.clone()))
        .collect();
    let mut placed: BTreeMap<PodName, String> = BTreeMap::new();
    for pod in &waiting {
        if let Some((node, _)) = known.pods.get(pod)
            && let Some(count) = load.get_mut(node.as_str())
        {
            *count += 1;
            placed.insert(pod.clone(), node.clone());
        }
    }
    for pod in waiting {
        if placed.contains_key(&pod) {
            continue;
        }
        // Of equals the first by name.
        if let Some((node, count)) = load.iter_mut().min_by_key(|(_, count)| **count) {
            *count += 1;
            placed.insert(pod, (*node).to_string());
        }
    }
    set.set_assignments(placed);
}
