//! Pods without an interface of their own: those of their node's network, and those that have finished.
//!
//! The datastore knows nothing of them, so the manifests are followed, the way the controller follows them.

use super::super::names;
use super::super::servers::{self, Port, Servers};
use super::super::state::{PodKind, PodState};
use super::RETRY;
use controller::{Content, Folder, FolderOptions};
use policy_model_kubernetes::{ManifestSet, PodFacts};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use tokio::time::Instant;

/// A pod of its node's network.
struct HostPod {
    state: PodState,
    servers: Servers,
    /// When its servers were started, or tried again.
    tried: Instant,
}

impl HostPod {
    /// A port that another program had may be free by now.
    fn try_again(&mut self, id: &str) {
        if self.tried.elapsed() < RETRY {
            return;
        }
        self.tried = Instant::now();
        let again = self
            .servers
            .try_again(&self.state.netns, id, &self.state.addresses);
        self.state.trouble = again.err().map(|error| format!("{error:#}"));
        self.state.silent.clone_from(&self.servers.silent);
    }
}

/// The pods, and the manifests that say so.
pub(super) struct Unwired {
    folder: Option<Folder>,
    set: ManifestSet,
    hosts: BTreeMap<String, HostPod>,
    is_due: bool,
}

impl Unwired {
    /// Reads the manifests. Where they cannot be followed there are no such pods.
    pub(super) fn open(manifests: &Path) -> Unwired {
        let mut folder = Folder::open(manifests, FolderOptions::default())
            .map_err(|error| eprintln!("pods of their nodes' networks are not followed: {error}"))
            .ok();
        let edits = folder.as_mut().map(Folder::rescan).unwrap_or_default();
        let mut unwired = Unwired {
            folder,
            set: ManifestSet::new(),
            hosts: BTreeMap::new(),
            is_due: true,
        };
        unwired.take(&edits);
        unwired
    }

    /// Waits until the manifests change. Dropping the future loses nothing.
    pub(super) async fn changed(&mut self) {
        let edits = match &mut self.folder {
            Some(folder) => folder.next().await,
            None => std::future::pending().await,
        };
        self.take(&edits);
    }

    fn take(&mut self, edits: &[controller::Edit]) {
        let mut texts: Vec<(&str, Option<&str>)> = Vec::new();
        for edit in edits {
            match &edit.content {
                Content::Text(text) => texts.push((edit.path.as_str(), Some(text.as_str()))),
                Content::Gone => texts.push((edit.path.as_str(), None)),
                // What it said before stays.
                Content::Unreadable(_) => {}
            }
        }
        self.set.update(texts);
        self.is_due = true;
    }

    /// Starts and ends servers so that every pod of its node's network has its own.
    pub(super) fn settle(&mut self, nodes: &BTreeMap<String, Vec<IpAddr>>, has_sctp: bool) {
        if !std::mem::take(&mut self.is_due) {
            let refused = self
                .hosts
                .iter_mut()
                .filter(|(_, host)| !host.state.silent.is_empty());
            refused.for_each(|(id, host)| host.try_again(id));
            return;
        }
        let facts: BTreeMap<String, &PodFacts> = self
            .set
            .pods()
            .filter(|p| p.host_network && !p.finished)
            .map(|p| (id(p), p))
            .collect();
        // Those that change or go give their ports back before others ask for them.
        let mut kept: BTreeMap<String, HostPod> = BTreeMap::new();
        for (name, host) in std::mem::take(&mut self.hosts) {
            if let Some(facts) = facts.get(&name) {
                let (ports, _) = servers::ports(&facts.ports);
                let stays = facts.node.as_ref().is_none_or(|node| *node == host.state.node);
                if stays && ports == host.state.ports && nodes.contains_key(&host.state.node) {
                    kept.insert(name, host);
                }
            }
        }
        for (name, facts) in facts {
            if !kept.contains_key(&name) {
                let node = facts.node.clone().unwrap_or_else(|| emptiest(nodes, &kept));
                kept.insert(name, start(facts, node, nodes, has_sctp));
            }
        }
        self.hosts = kept;
    }

    /// How the pods stand.
    pub(super) fn states(&self) -> BTreeMap<String, PodState> {
        let hosts = self
            .hosts
            .iter()
            .map(|(id, host)| (id.clone(), host.state.clone()));
        let finished = self.set.pods().filter(|p| p.finished).map(|p| {
            let state = PodState {
                namespace: p.namespace.clone(),
                pod: p.name.clone(),
                kind: PodKind::Finished,
                ..PodState::default()
            };
            (id(p), state)
        });
        hosts.chain(finished).collect()
    }
}

fn id(facts: &PodFacts) -> String {
    format!("{}/{}", facts.namespace, facts.name)
}

/// The node with the fewest pods of its own network.
fn emptiest(nodes: &BTreeMap<String, Vec<IpAddr>>, hosts: &BTreeMap<String, HostPod>) -> String {
    let count = |node: &String| hosts.values().filter(|h| h.state.node == *node).count();
    nodes
        .keys()
        .min_by_key(|node| count(node))
        .cloned()
        .unwrap_or_default()
}

fn start(facts: &PodFacts, node: String, nodes: &BTreeMap<String, Vec<IpAddr>>, has_sctp: bool) -> HostPod {
    let (ports, named_ports) = servers::ports(&facts.ports);
    let mut state = PodState {
        namespace: facts.namespace.clone(),
        pod: facts.name.clone(),
        netns: names::node_namespace(&node),
        kind: PodKind::Host,
        ports,
        named_ports,
        ..PodState::default()
    };
    let mut started = Servers::default();
    match nodes.get(&node) {
        None => {
            state.trouble = Some(format!(
                "its node {node} is not one of the lab; 'manx lab up' makes the nodes"
            ))
        }
        Some(addresses) => {
            state.addresses.clone_from(addresses);
            let ports: Vec<Port> = state
                .ports
                .iter()
                .filter(|p| has_sctp || p.0 != "SCTP")
                .cloned()
                .collect();
            match servers::serve(&state.netns, &id(facts), addresses, &ports) {
                Ok(servers) => started = servers,
                Err(error) => state.trouble = Some(format!("{error:#}")),
            }
        }
    }
    state.silent.clone_from(&started.silent);
    state.node = node;
    HostPod {
        state,
        servers: started,
        tried: Instant::now(),
    }
}
