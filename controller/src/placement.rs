//! On which node a pod runs whose manifest does not say.
//!
//! Pure and deterministic: a pod keeps its node while that exists; others go to the node with the fewest endpoints, and
//! among equals to the one that a hash of both names prefers, so that adding a node moves nobody.

use rustc_hash::FxHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

/// Namespace and name of a pod.
pub(crate) type PodName = (String, String);

/// What is known before pods are placed.
#[derive(Debug, Default)]
pub(crate) struct Scene<'a> {
    /// Every node that exists.
    pub(crate) nodes: BTreeSet<&'a str>,
    /// How many endpoints each node has by the pods' own word.
    pub(crate) fixed: BTreeMap<&'a str, usize>,
    /// The pods to place, with the node on which each is now.
    pub(crate) pods: BTreeMap<PodName, Option<&'a str>>,
}

/// Places the pods. Without nodes none is placed.
pub(crate) fn place(scene: &Scene<'_>) -> BTreeMap<PodName, String> {
    let mut load: BTreeMap<&str, usize> = scene.nodes.iter().map(|node| (*node, 0)).collect();
    for (node, count) in &scene.fixed {
        if let Some(found) = load.get_mut(node) {
            *found += count;
        }
    }
    let mut placed = BTreeMap::new();
    let mut homeless = Vec::new();
    for (pod, now) in &scene.pods {
        match now.and_then(|node| load.get_mut(node).map(|count| (node, count))) {
            Some((node, count)) => {
                *count += 1;
                placed.insert(pod.clone(), node.to_owned());
            }
            None => homeless.push(pod),
        }
    }
    for pod in homeless {
        let best = load
            .iter_mut()
            .min_by_key(|(node, count)| (**count, std::cmp::Reverse(preference(pod, node))));
        if let Some((node, count)) = best {
            *count += 1;
            placed.insert(pod.clone(), (*node).to_owned());
        }
    }
    placed
}

fn preference((namespace, name): &PodName, node: &str) -> u64 {
    let mut hasher = FxHasher::default();
    for part in [namespace, name, node] {
        hasher.write(part.as_bytes());
        hasher.write_usize(part.len());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pods(count: usize) -> BTreeMap<PodName, Option<&'static str>> {
        (0..count)
            .map(|n| (("ns".to_owned(), format!("pod-{n}")), None))
            .collect()
    }

    #[test]
    fn without_nodes_nothing_is_placed() {
        let scene = Scene {
            pods: pods(3),
            ..Scene::default()
        };
        assert!(place(&scene).is_empty());
    }

    proptest! {
        #[test]
        fn pods_are_spread_evenly_and_stay(count in 0usize..40, nodes in 1usize..6, gone in 0usize..6) {
            let names: Vec<String> = (0..nodes).map(|n| format!("node-{n}")).collect();
            let all: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            let first = place(&Scene { nodes: all.clone(), pods: pods(count), ..Scene::default() });
            prop_assert_eq!(first.len(), count);
            let load = |placed: &BTreeMap<PodName, String>, node: &str| placed.values().filter(|n| *n == node).count();
            for node in &all {
                let found = load(&first, node);
                prop_assert!(found == count / nodes || found == count.div_ceil(nodes));
            }
            // Placed again from where they are, nobody moves.
            let now = first.iter().map(|(pod, node)| (pod.clone(), Some(node.as_str()))).collect();
            prop_assert_eq!(&place(&Scene { nodes: all.clone(), pods: now, ..Scene::default() }), &first);
            // A node that goes moves its own pods only.
            let left: BTreeSet<&str> = names.iter().map(String::as_str).filter(|n| *n != format!("node-{gone}")).collect();
            let now = first.iter().map(|(pod, node)| (pod.clone(), Some(node.as_str()))).collect();
            let second = place(&Scene { nodes: left.clone(), pods: now, ..Scene::default() });
            for (pod, node) in &first {
                if left.contains(node.as_str()) {
                    prop_assert_eq!(&second[pod], node);
                } else {
                    prop_assert!(second.get(pod).is_none_or(|n| left.contains(n.as_str())));
                }
            }
        }
    }
}
