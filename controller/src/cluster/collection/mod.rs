//! Gives back addresses that are nobody's on nodes that live: what a lost message, a wiped disk or a crash left taken.
//!
//! Giving away an address that is in use gives it to two, which is worse than wasting one. So four things must hold,
//! each asked for afresh: the pod that the block names does not exist, and has not for the whole grace period; its node
//! is healthy by its kubelet's word, so it had the time to take the pod down; and no pod on that node says that it has
//! the address (the node may have given it to another pod before the block said so). What a node keeps for itself is
//! never touched. A node that is silent proves nothing: its addresses wait until it speaks or is gone.

pub(crate) mod suspects;

use super::figures::Figures;
use super::nodes::now_in_microseconds;
use super::picture::Picture;
use super::reach::Reach;
use super::vitals::Pulse;
use crate::departed::{ReleaseError, drive};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod};
use policy_model_datastore::{Datastore, DatastoreError};
use policy_model_ipam::engine::{Outcome, ReleaseAddresses, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use suspects::{Living, Suspect, Watched, suspects};
use thiserror::Error;

/// Why leaked addresses stay leaked for now.
#[derive(Debug, Error)]
pub(crate) enum CollectionError {
    #[error(transparent)]
    Ask(#[from] DatastoreError),
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

/// The addresses that seem to be nobody's.
#[derive(Debug, Default)]
pub(crate) struct Collection {
    watched: Watched,
}

/// What the collection works with.
pub(crate) struct Ground<'a> {
    pub(crate) picture: &'a Picture,
    pub(crate) store: &'a dyn Datastore,
    pub(crate) reach: &'a Reach,
    pub(crate) pulse: &'a Pulse,
    pub(crate) figures: &'a Figures,
    pub(crate) grace: Duration,
}

impl Collection {
    /// Looks who is suspected now, and gives back what has been nobody's for long enough.
    pub(crate) async fn pass(&mut self, ground: &Ground<'_>) -> Result<(), CollectionError> {
        ground.pulse.moves("list pods");
        let moves = || ground.pulse.moves("list pods");
        // The picture stands still during a pass, so the blocks are older than the pods: a pod that came in between is in
        // the list and not in the blocks.
        let living: Living = ground.reach.pods(moves).await?.into_iter().collect();
        self.watched
            .note(suspects(ground.picture.blocks(), &living), Instant::now());
        let outcome = self.give_back(ground).await;
        self.tell(ground);
        outcome
    }

    async fn give_back(&mut self, ground: &Ground<'_>) -> Result<(), CollectionError> {
        let mut by_node: BTreeMap<String, Vec<Suspect>> = BTreeMap::new();
        for suspect in self.watched.due(ground.grace, Instant::now()) {
            by_node.entry(suspect.node.clone()).or_default().push(suspect);
        }
        for (node, due) in by_node {
            let proven = self.proven(ground, &node, due).await?;
            if proven.is_empty() {
                continue;
            }
            ground.pulse.moves("give back leaked addresses");
            let targets = proven.iter().map(Suspect::target).collect();
            let request = Request::ReleaseAddresses(ReleaseAddresses { targets });
            let outcome = drive(ground.store, &node, request, now_in_microseconds()).await?;
            let Outcome::Released(released) = outcome else {
                continue;
            };
            for suspect in proven {
                self.watched.forget(&suspect);
                if !released.freed.contains(&suspect.address) {
                    continue;
                }
                let pool = ground.picture.pool_of(&IpNet::from(suspect.address));
                ground.figures.reclaimed(pool, &node);
                tracing::info!(
                    "{} was nobody's (of {}/{} on {node}, which is gone) and is given back",
                    suspect.address,
                    suspect.pod.namespace,
                    suspect.pod.name
                );
            }
        }
        Ok(())
    }

    /// Those of a node's suspects for which the proof is whole now.
    async fn proven(
        &mut self,
        ground: &Ground<'_>,
        node: &str,
        due: Vec<Suspect>,
    ) -> Result<Vec<Suspect>, DatastoreError> {
        ground.pulse.moves("look for a node");
        let mut claimed = BTreeSet::new();
        match ground.reach.node(node).await? {
            // Its blocks are given back with it; here its addresses need no word of a kubelet that is gone.
            None => {}
            Some(found) if is_healthy(&found) => {
                let pods = ground.reach.pods_of_node(node).await?;
                claimed.extend(pods.iter().flat_map(addresses_of));
            }
            Some(_) => {
                tracing::debug!(
                    "{node} is not ready; {} of its addresses wait for its word",
                    due.len()
                );
                return Ok(Vec::new());
            }
        }
        let mut proven = Vec::new();
        for suspect in due {
            ground.pulse.moves("look for a pod");
            let (namespace, name) = (&suspect.pod.namespace, &suspect.pod.name);
            let found = ground.reach.pod(namespace, name).await?;
            if found.is_some_and(|found| suspect.pod.is(&found.uids)) || claimed.contains(&suspect.address) {
                self.watched.forget(&suspect);
            } else {
                proven.push(suspect);
            }
        }
        Ok(proven)
    }

    fn tell(&self, ground: &Ground<'_>) {
        let candidates = self.watched.all().map(|suspect| {
            let pool = ground.picture.pool_of(&IpNet::from(suspect.address));
            (pool.to_owned(), suspect.node.clone())
        });
        ground.figures.tell_candidates(candidates.collect());
    }
}

/// Whether a node's kubelet speaks and says that all is well. The API server's controllers take the word back when
/// the kubelet falls silent.
fn is_healthy(node: &Node) -> bool {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// The addresses that a pod has by its own word; one that has finished has none.
fn addresses_of(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let all = status.pod_ips.iter().flatten().map(|address| address.ip.as_str());
    all.chain(status.pod_ip.as_deref())
        .filter_map(|text| text.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_healthy_by_its_own_word_alone() {
        let node = |status: &str| -> Node {
            let condition = json!({ "type": "Ready", "status": status });
            serde_json::from_value(json!({ "status": { "conditions": [condition] } })).unwrap()
        };
        assert!(is_healthy(&node("True")));
        assert!(!is_healthy(&node("False")) && !is_healthy(&node("Unknown")));
        assert!(!is_healthy(&Node::default()));
    }

    #[test]
    fn a_pod_says_its_addresses_until_it_has_finished() {
        let pod = |phase: &str| -> Pod {
            serde_json::from_value(json!({ "status": {
                "phase": phase, "podIP": "10.0.0.1",
                "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }],
            } }))
            .unwrap()
        };
        assert!(addresses_of(&pod("Running")).contains(&"fd00::1".parse().unwrap()));
        assert!(addresses_of(&pod("Succeeded")).is_empty());
    }
}
