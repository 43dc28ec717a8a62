//! The lab as it is now: its nodes and pods, and what the policies in force say.

use super::names;
use super::servers;
use super::state::{AgentState, LabState, PodKind, PodState};
use crate::policy::world::{Known, World, environment_saying, settings};
use anyhow::Context;
use controller::{ANNOTATION_SOURCE, IMPLIED_SOURCE};
use policy_model::{Key, Kind, Resource, WorkloadEndpointSpec};
use policy_model_datastore::{Datastore, Selection};
use policy_model_datastore_file::{FileStore, Settings};
use policy_model_kubernetes::ManifestSet;
use policy_model_rules::oracle::Facts;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long controller and agent may take to follow the manifests before the lab is looked at as it is.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(30);

/// What the lab knows: its own state, its pods, and the policies' judge.
pub(super) struct Picture {
    /// The lab.
    pub(super) lab: LabState,
    /// The agent's pods.
    pub(super) agent: AgentState,
    /// The manifests' words, and as facts what the datastore holds: a policy whose manifest is broken now is still in
    /// force there.
    pub(super) world: World,
    stored: Vec<Arc<Resource>>,
}

impl Picture {
    /// Reads the lab as soon as controller and agent have followed what the manifests say now.
    pub(super) fn settled() -> anyhow::Result<Picture> {
        let lab = LabState::load()?;
        let store = FileStore::open(names::datastore(), Settings::default())
            .context("opening the lab's datastore")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stored = runtime.block_on(store.list(Selection::all()))?;
            let stored: Vec<Arc<Resource>> = stored.items.into_iter().map(|v| v.resource).collect();
            let picture = Picture::new(lab.clone(), stored);
            let lags = picture.lags();
            if lags.is_empty() || Instant::now() >= deadline {
                for what in lags {
                    eprintln!("manx lab: {what}");
                }
                return Ok(picture);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn new(lab: LabState, stored: Vec<Arc<Resource>>) -> Picture {
        let agent = AgentState::load();
        let name = |namespace: &str, pod: &str| (namespace.to_string(), pod.to_string());
        let pods = agent.pods.values().filter(|p| !p.node.is_empty());
        let pods = pods.map(|p| (name(&p.namespace, &p.pod), (p.node.clone(), p.addresses.clone())));
        let known = Known {
            nodes: lab.nodes.clone(),
            pods: pods.collect(),
        };
        // Without its folder the manifests have no words; the datastore still has its facts.
        let mut world = World::load_knowing(&lab.manifests, &known)
            .unwrap_or_else(|_| World::new(ManifestSet::new(), &known));
        // The lab's nodes accept what a pod's egress policy lets through to them, whatever an object says.
        let environment = environment_saying("DefaultEndpointToHostAction", "ACCEPT");
        let resources = || stored.iter().map(AsRef::as_ref);
        world.facts = Facts::new(resources(), settings(resources(), Some(&environment)));
        Picture {
            lab,
            agent,
            world,
            stored,
        }
    }

    /// Who has not followed the manifests yet, a line each.
    fn lags(&self) -> Vec<String> {
        let mut lags = Vec::new();
        if let Some(key) = self.unstored() {
            lags.push(format!("the controller has not followed the manifests: {key}"));
        }
        // A server that is opened in the place of one that is about to start would keep its port from it.
        if !self.lab.has_word(&self.agent) {
            lags.push("the agent has not said yet how its pods stand; see 'manx lab status'".to_string());
        }
        if let Some(pod) = self.unconnected() {
            lags.push(format!(
                "pod {pod} is not as its manifest says; see 'manx lab status'"
            ));
        }
        lags
    }

    /// An object in which the datastore differs from the manifests.
    fn unstored(&self) -> Option<Key> {
        let set = &self.world.set;
        let is_ours = |r: &&Resource| r.metadata().annotations.contains_key(ANNOTATION_SOURCE);
        let stored: BTreeMap<Key, Resource> = self
            .stored
            .iter()
            .map(AsRef::as_ref)
            .filter(is_ours)
            .map(bare)
            .collect();
        let is_decided = |r: &&Resource| {
            // Of a broken document nobody but the controller knows what is in force.
            let is_addressed = r.kind() == Kind::Node && self.lab.addressed.contains(&r.metadata().name);
            !is_addressed && !set.is_remainder(&r.key())
        };
        let wanted: BTreeMap<Key, Resource> = set.resources().filter(is_decided).map(bare).collect();
        let missing = wanted
            .iter()
            .find(|(key, resource)| stored.get(*key) != Some(*resource));
        let too_much = self.stored.iter().find(|r| {
            let source = r.metadata().annotations.get(ANNOTATION_SOURCE);
            source.is_some_and(|s| s != IMPLIED_SOURCE)
                && !wanted.contains_key(&bare(r).0)
                && !set.may_define(&r.key())
                && set.get(&r.key()).is_none()
        });
        missing.map(|(key, _)| key.clone()).or(too_much.map(|r| r.key()))
    }

    /// A pod that has other addresses than the datastore says: blocks are written behind, and that of the node that a pod
    /// left holds its old address until then.
    fn otherwise_known(&self) -> Option<&PodState> {
        let is_there = |pod: &&PodState| pod.kind == PodKind::Endpoint && pod.is_there();
        self.agent.pods.values().filter(is_there).find(|pod| {
            let known = self.world.facts.addresses(&pod.namespace, &pod.pod);
            let known: BTreeSet<&IpAddr> = known.unwrap_or_default().iter().collect();
            known != pod.addresses.iter().collect()
        })
    }

    /// A pod that the agent has not brought to where it should be, and that has no known trouble.
    fn unconnected(&self) -> Option<String> {
        // A pod that moves has two for a moment, and only one of them can be followed: both are asked.
        let mut endpoints: Vec<(String, &WorkloadEndpointSpec)> = Vec::new();
        for resource in &self.stored {
            if let Resource::WorkloadEndpoint(endpoint) = resource.as_ref() {
                let id = format!("{}/{}", endpoint.metadata.namespace, endpoint.spec.pod);
                endpoints.push((id, &endpoint.spec));
            }
        }
        let late = endpoints
            .iter()
            .find(|(id, endpoint)| self.agent.pods.get(id).is_none_or(|pod| !follows(pod, endpoint)));
        let known: BTreeSet<&String> = endpoints.iter().map(|(id, _)| id).collect();
        let gone = || {
            self.agent
                .pods
                .values()
                .find(|p| p.kind == PodKind::Endpoint && !known.contains(&p.name()))
        };
        let unwired = || {
            let kind = |host: bool| if host { PodKind::Host } else { PodKind::Finished };
            let pods = self.world.set.pods().filter(|p| !p.is_endpoint());
            pods.map(|p| {
                (
                    format!("{}/{}", p.namespace, p.name),
                    kind(p.host_network && !p.finished),
                )
            })
            .find(|(id, kind)| self.agent.pods.get(id).is_none_or(|found| found.kind != *kind))
        };
        late.map(|(id, _)| id.clone())
            .or_else(|| self.otherwise_known().map(PodState::name))
            .or_else(|| gone().map(|p| p.name()))
            .or_else(|| unwired().map(|(id, _)| id))
    }
}

/// Whether the agent did what an endpoint says, or says why it cannot. A trouble of where the pod was before is none
/// of where it is to be.
fn follows(pod: &PodState, endpoint: &WorkloadEndpointSpec) -> bool {
    let has_heard = pod.kind == PodKind::Endpoint
        && !pod.leaving
        && pod.node == endpoint.node
        && pod.ports == servers::ports(&endpoint.ports).0;
    has_heard && (pod.trouble.is_some() || !pod.addresses.is_empty())
}

/// What manifests say of an object, without what others decide or note at it. A pod's endpoint by the pod's name.
fn bare(resource: &Resource) -> (Key, Resource) {
    let mut bare = resource.clone();
    bare.metadata_mut().annotations.clear();
    if let Resource::WorkloadEndpoint(endpoint) = &mut bare {
        endpoint.metadata.name.clone_from(&endpoint.spec.pod);
        endpoint.spec.node.clear();
        endpoint.spec.ip_networks.clear();
    }
    (bare.key(), bare)
}
