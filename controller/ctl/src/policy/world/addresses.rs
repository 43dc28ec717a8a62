//! Which addresses pods have.
//!
//! What a pod asks for comes first, then what its annotations or status say that it has, then what is known of a
//! running cluster; the rest comes out of the pools, by the same engine that gives addresses in a cluster.

use super::{DEFAULT_POOLS, Known, PodName};
use policy_model::{Attributes, IpPoolSpec, Key, Kind, NAMESPACE_LABEL_PREFIX, Object, Resource};
use policy_model_ipam::engine::{AssignSpecific, AutoAssign, Outcome, Request};
use policy_model_ipam::memory::MemoryStore;
use policy_model_ipam::pool::PoolRef;
use policy_model_ipam::{Family, annotation};
use policy_model_kubernetes::{Manifest, ManifestSet, PodFacts, namespace_profile_name};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

type Labels = BTreeMap<String, String>;

/// The addresses of every pod that has an interface of its own. A pod that gets none is a fault.
pub(super) fn assign(
    set: &ManifestSet,
    known: &Known,
    faults: &mut Vec<String>,
) -> BTreeMap<PodName, Vec<IpAddr>> {
    let name = |pod: &PodFacts| (pod.namespace.clone(), pod.name.clone());
    let endpoints = || set.pods().filter(|pod| pod.is_endpoint());
    let mut store = MemoryStore::with(pools(set));
    let families = [Family::V4, Family::V6].map(|family| has_pool(&store, family));
    let wishes = Wishes::of(set);
    let mut addresses = BTreeMap::new();
    for pod in endpoints() {
        let said = [&pod.requested_addresses, &pod.addresses];
        if let Some(said) = said.into_iter().find(|list| !list.is_empty()) {
            reserve(&mut store, set, pod, said);
            addresses.insert(name(pod), said.clone());
        }
    }
    // What manifests say comes first: an address that was given by itself moves when a manifest claims it.
    let claimed: BTreeSet<IpAddr> = addresses.values().flatten().copied().collect();
    for pod in endpoints() {
        if let Some((_, known)) = known.pods.get(&name(pod))
            && !addresses.contains_key(&name(pod))
            && !known.is_empty()
            && !known.iter().any(|address| claimed.contains(address))
        {
            reserve(&mut store, set, pod, known);
            addresses.insert(name(pod), known.clone());
        }
    }
    for pod in endpoints() {
        if addresses.contains_key(&name(pod)) {
            continue;
        }
        let Some(node) = set.node_of(&pod.namespace, &pod.name) else {
            continue;
        };
        let mut request = AutoAssign::new(node, &handle(pod));
        request.ipv4 = usize::from(families[0]);
        request.ipv6 = usize::from(families[1]);
        request.node_labels = wishes.nodes.get(node).copied().cloned().unwrap_or_default();
        request.namespace_labels = Some(namespace_labels(set, &pod.namespace));
        request.ipv4_pools = wishes.pools(pod, Family::V4, faults);
        request.ipv6_pools = wishes.pools(pod, Family::V6, faults);
        match store.run(Request::AutoAssign(request), 0) {
            Ok(Outcome::Assigned(given)) => {
                addresses.insert(name(pod), given.iter().map(|given| given.address).collect());
            }
            Ok(_) => {}
            Err(error) => faults.push(format!("Pod {}: it gets no address: {error}", handle(pod))),
        }
    }
    addresses
}

fn handle(pod: &PodFacts) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// The pools, reservations and settings of addresses.
fn pools(set: &ManifestSet) -> Vec<Resource> {
    let matters = |kind| matches!(kind, Kind::IPPool | Kind::IPReservation | Kind::IPAMConfig);
    let mut found: Vec<Resource> = set
        .resources()
        .filter(|resource| matters(resource.kind()))
        .cloned()
        .collect();
    if !found.iter().any(|resource| resource.kind() == Kind::IPPool) {
        let ranges = DEFAULT_POOLS
            .iter()
            .filter_map(|(name, range)| Some((*name, range.parse().ok()?)));
        found.extend(ranges.map(|(name, range)| Object::named(name, IpPoolSpec::of(range)).into()));
    }
    found
}

fn has_pool(store: &MemoryStore, family: Family) -> bool {
    store.resources().any(|resource| match resource {
        Resource::IPPool(pool) => !pool.spec.disabled && Family::of_net(&pool.spec.cidr) == family,
        _ => false,
    })
}

/// Keeps addresses that a pod has from being given to another. Those of no pool can be given to nobody anyway, and
/// those that two pods claim stay with both: that is what their manifests say.
fn reserve(store: &mut MemoryStore, set: &ManifestSet, pod: &PodFacts, addresses: &[IpAddr]) {
    let node = set.node_of(&pod.namespace, &pod.name).unwrap_or_default();
    for address in addresses {
        let request = AssignSpecific {
            addresses: vec![*address],
            handle: handle(pod),
            attributes: Attributes::default(),
            node: node.to_string(),
            strict_affinity: None,
        };
        let _ = store.run(Request::AssignSpecific(request), 0);
    }
}

fn namespace_labels(set: &ManifestSet, namespace: &str) -> Labels {
    let profile = Key::global(Kind::Profile, namespace_profile_name(namespace));
    let Some(Resource::Profile(profile)) = set.get(&profile) else {
        return Labels::new();
    };
    let labels = profile.spec.labels_to_apply.iter();
    labels
        .filter_map(|(key, value)| {
            let key = key.strip_prefix(NAMESPACE_LABEL_PREFIX)?;
            Some((key.to_string(), value.clone()))
        })
        .collect()
}

/// What annotations and labels say about pools.
struct Wishes<'a> {
    pods: BTreeMap<(&'a str, &'a str), &'a Labels>,
    namespaces: BTreeMap<&'a str, &'a Labels>,
    nodes: BTreeMap<&'a str, &'a Labels>,
}

impl<'a> Wishes<'a> {
    fn of(set: &'a ManifestSet) -> Self {
        let mut wishes = Wishes {
            pods: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        for (id, manifest) in set.manifests() {
            match manifest {
                Manifest::Pod(pod) => {
                    let place = (id.namespace.as_str(), id.name.as_str());
                    wishes
                        .pods
                        .extend(pod.metadata.annotations.iter().map(|a| (place, a)));
                }
                Manifest::Namespace(namespace) => {
                    let annotations = namespace.metadata.annotations.iter();
                    wishes
                        .namespaces
                        .extend(annotations.map(|a| (id.name.as_str(), a)));
                }
                _ => {}
            }
        }
        for resource in set.resources() {
            if let Resource::Node(node) = resource {
                wishes.nodes.insert(&node.metadata.name, &node.metadata.labels);
            }
        }
        wishes
    }

    /// The pools that a pod, or else its namespace, asks for.
    fn pools(&self, pod: &PodFacts, family: Family, faults: &mut Vec<String>) -> Vec<PoolRef> {
        let key = match family {
            Family::V4 => annotation::IPV4_POOLS,
            Family::V6 => annotation::IPV6_POOLS,
        };
        let of_pod = self.pods.get(&(pod.namespace.as_str(), pod.name.as_str()));
        let of_namespace = self.namespaces.get(pod.namespace.as_str());
        let Some(text) = [of_pod, of_namespace]
            .into_iter()
            .flatten()
            .find_map(|annotations| annotations.get(key))
        else {
            return Vec::new();
        };
        annotation::pools(family, text).unwrap_or_else(|error| {
            faults.push(format!("Pod {}: {error}", handle(pod)));
            Vec::new()
        })
    }
}
