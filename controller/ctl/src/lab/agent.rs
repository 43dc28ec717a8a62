//! The lab's agent: what a kubelet does. It makes a sandbox for each pod, asks the node's felix to connect it, and runs
//! its servers.
//!
//! Every pod goes its own way: one whose node does not answer holds up no other. What is wanted comes from the
//! datastore; pods that have no endpoint there (of their node's network, or finished) come from the manifests.

mod attach;
mod unwired;

use self::attach::{Attachment, connect, disconnect};
use self::unwired::Unwired;
use super::cluster;
use super::names::{self, OUTSIDE, OUTSIDE_ADDRESSES, OUTSIDE_PORTS};
use super::servers::{self, Port, Servers};
use super::state::{AgentState, LabState, PodKind, PodState};
use felix_cni::Success;
use policy_model::{Key, Kind, Object, Resource, WorkloadEndpointSpec};
use policy_model_datastore::{BackOff, Selection, SyncEvent, Syncer};
use policy_model_datastore_file::{FileStore, Settings};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Pause before a pod that could not be connected or disconnected, or a port that was taken, is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Most events of the datastore that are taken at once.
const BATCH: usize = 1000;

/// A pod with a network of its own.
#[derive(Default)]
struct Pod {
    wanted: Option<Wanted>,
    /// What felix was asked for, from the first try on: only felix can say that nothing of it is left.
    attached: Option<Attachment>,
    /// The addresses that felix gave it, once it has.
    addresses: Vec<IpAddr>,
    is_busy: bool,
    not_before: Option<Instant>,
    trouble: Option<String>,
    served: Vec<Port>,
    servers: Servers,
    servers_tried: Option<Instant>,
}

/// What the datastore says of a pod.
#[derive(Clone, PartialEq)]
struct Wanted {
    attachment: Attachment,
    ports: Vec<Port>,
    named_ports: Vec<(String, String, u16)>,
}

/// What became of a pod's way in or out.
enum Done {
    Connected(String, anyhow::Result<Success>),
    Disconnected(String, anyhow::Result<()>),
}

struct Agent {
    lab: LabState,
    /// The endpoints of the datastore. A pod that moves has two for a moment.
    endpoints: BTreeMap<Key, Object<WorkloadEndpointSpec>>,
    pods: BTreeMap<String, Pod>,
    unwired: Unwired,
    jobs: JoinSet<Done>,
    /// Pods of an agent before this one that may be gone meanwhile.
    inherited: BTreeMap<String, PodState>,
    has_sctp: bool,
    is_in_sync: bool,
    state: AgentState,
}

/// Runs until it is told to stop.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serve());
    // A call that waits for a felix must not hold up the end.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

async fn serve() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let lab = LabState::load()?;
    let store =
        tokio::task::spawn_blocking(|| FileStore::open(names::datastore(), Settings::default())).await??;
    let back_off = BackOff {
        initial: Duration::from_millis(50),
        longest: Duration::from_secs(2),
        jitter: 0.0,
    };
    let mut syncer = Syncer::new(
        Arc::new(store),
        Selection::kinds([Kind::WorkloadEndpoint]),
        back_off,
        || 0.5,
    );
    let outside = OUTSIDE_PORTS.map(|(protocol, port)| (protocol.to_string(), port));
    let _outside = servers::serve(OUTSIDE, "outside", &OUTSIDE_ADDRESSES, &outside)?;
    let mut agent = Agent {
        unwired: Unwired::open(&lab.manifests),
        lab,
        endpoints: BTreeMap::new(),
        pods: BTreeMap::new(),
        jobs: JoinSet::new(),
        inherited: AgentState::load().pods,
        has_sctp: servers::has_sctp(),
        is_in_sync: false,
        state: AgentState::default(),
    };
    let mut retry = tokio::time::interval(RETRY);
    loop {
        tokio::select! {
            batch = syncer.next_batch(BATCH) => agent.take(batch),
            Some(done) = agent.jobs.join_next() => agent.finish(done?),
            () = agent.unwired.changed() => {}
            _ = retry.tick() => {}
            _ = terminate.recv() => return Ok(()),
        }
        agent.go_on();
        agent.publish();
    }
}

impl Agent {
    fn take(&mut self, events: Vec<SyncEvent>) {
        for event in events {
            match event {
                SyncEvent::Upsert(versioned) => {
                    if let Resource::WorkloadEndpoint(endpoint) = versioned.resource.as_ref() {
                        self.endpoints.insert(versioned.key(), endpoint.clone());
                    }
                }
                SyncEvent::Delete(key) => drop(self.endpoints.remove(&key)),
                SyncEvent::InSync => self.is_in_sync = true,
                SyncEvent::Status(_) => {}
            }
        }
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for endpoint in self.endpoints.values() {
            let id = format!("{}/{}", endpoint.metadata.namespace, endpoint.spec.pod);
            wanted.entry(id).or_insert_with(|| self.wanted(endpoint));
        }
        for (id, pod) in &mut self.pods {
            let now = wanted.remove(id);
            if pod.wanted != now {
                pod.not_before = None;
                pod.wanted = now;
            }
        }
        for (id, wanted) in wanted {
            let pod = Pod {
                wanted: Some(wanted),
                ..Pod::default()
            };
            self.pods.insert(id, pod);
        }
        if self.is_in_sync {
            self.take_over();
        }
    }

    fn wanted(&self, endpoint: &Object<WorkloadEndpointSpec>) -> Wanted {
        let spec = &endpoint.spec;
        let attachment = Attachment {
            namespace: endpoint.metadata.namespace.clone(),
            pod: spec.pod.clone(),
            node: spec.node.clone(),
            uid: endpoint.metadata.uid.clone(),
            asked: spec.ip_networks.iter().map(|net| net.addr()).collect(),
        };
        let (ports, named_ports) = servers::ports(&spec.ports);
        Wanted {
            attachment,
            ports,
            named_ports,
        }
    }

    /// Pods that an earlier agent connected and that are no longer wanted are disconnected like any other.
    fn take_over(&mut self) {
        for (id, state) in std::mem::take(&mut self.inherited) {
            if state.kind != PodKind::Endpoint || state.node.is_empty() {
                continue;
            }
            let pod = self.pods.entry(id).or_default();
            let stays = pod
                .wanted
                .as_ref()
                .is_some_and(|w| w.attachment.node == state.node);
            if !stays && pod.attached.is_none() && !pod.is_busy {
                pod.attached = Some(Attachment {
                    namespace: state.namespace,
                    pod: state.pod,
                    node: state.node,
                    uid: String::new(),
                    asked: Vec::new(),
                });
                pod.addresses = state.addresses;
            }
        }
    }

    /// Takes the next step of every pod that waits for none.
    fn go_on(&mut self) {
        let now = Instant::now();
        self.pods
            .retain(|_, pod| pod.is_busy || pod.wanted.is_some() || pod.attached.is_some());
        for (id, pod) in &mut self.pods {
            if pod.is_busy || pod.not_before.is_some_and(|moment| now < moment) {
                continue;
            }
            let target = pod.wanted.as_ref().map(|w| &w.attachment);
            match (&pod.attached, target) {
                (Some(attached), target) if target != Some(attached) => {
                    pod.servers = Servers::default();
                    pod.served.clear();
                    pod.is_busy = true;
                    let (id, attached) = (id.clone(), attached.clone());
                    let addresses = std::mem::take(&mut pod.addresses);
                    self.jobs.spawn_blocking(move || {
                        cluster::forget_outside_routes(&addresses);
                        Done::Disconnected(id, disconnect(&attached))
                    });
                }
                (_, Some(target)) if pod.addresses.is_empty() => {
                    let Some(node) = self.lab.nodes.get(&target.node).cloned() else {
                        let known: Vec<&str> = self.lab.nodes.keys().map(String::as_str).collect();
                        pod.trouble = Some(format!(
                            "its node {} is not one of the lab ({}); 'manx lab up' makes the nodes",
                            target.node,
                            known.join(", ")
                        ));
                        continue;
                    };
                    pod.is_busy = true;
                    pod.attached = Some(target.clone());
                    let (id, target) = (id.clone(), target.clone());
                    self.jobs.spawn_blocking(move || {
                        let success = connect(&target).and_then(|success| {
                            cluster::outside_routes(&success.addresses, &node)?;
                            Ok(success)
                        });
                        Done::Connected(id, success)
                    });
                }
                _ => {}
            }
        }
        self.unwired.settle(&self.lab.nodes, self.has_sctp);
    }

    fn finish(&mut self, done: Done) {
        let (id, result) = match done {
            Done::Connected(id, Ok(success)) => {
                if let Some(pod) = self.pods.get_mut(&id) {
                    pod.addresses = success.addresses;
                }
                (id, Ok(()))
            }
            Done::Connected(id, Err(error)) => (id, Err(error)),
            Done::Disconnected(id, Ok(())) => {
                if let Some(pod) = self.pods.get_mut(&id) {
                    pod.attached = None;
                }
                (id, Ok(()))
            }
            Done::Disconnected(id, Err(error)) => (id, Err(error)),
        };
        let Some(pod) = self.pods.get_mut(&id) else { return };
        pod.is_busy = false;
        pod.not_before = None;
        pod.trouble = None;
        if let Err(error) = result {
            let text = format!("{error:#}");
            eprintln!("{id}: {text}");
            pod.trouble = Some(text);
            pod.not_before = Some(Instant::now() + RETRY);
        }
    }

    /// Opens the servers of what is connected, and says how everything stands, once everything is known: until then the
    /// word of the agent before this one is the better one, and all there is to take over from.
    fn publish(&mut self) {
        let has_sctp = self.has_sctp;
        let mut pods = self.unwired.states();
        for (id, pod) in &mut self.pods {
            pod.open_servers(id, has_sctp);
            pods.insert(id.clone(), pod.state(id));
        }
        if !self.is_in_sync {
            return;
        }
        let written_by = std::process::id();
        let next = AgentState { pods, written_by };
        if next != self.state || !names::path("agent.json").exists() {
            if let Err(error) = next.save() {
                eprintln!("{error:#}");
            }
            self.state = next;
        }
    }
}

impl Pod {
    fn open_servers(&mut self, id: &str, has_sctp: bool) {
        let Some(wanted) = &self.wanted else { return };
        let is_up = !self.addresses.is_empty() && self.attached.as_ref() == Some(&wanted.attachment);
        if !is_up || self.is_busy {
            return;
        }
        let is_due = self.servers_tried.is_none_or(|tried| tried.elapsed() >= RETRY);
        if self.served == wanted.ports {
            if is_due {
                self.servers_tried = Some(Instant::now());
                let again = self
                    .servers
                    .try_again(&wanted.attachment.netns(), id, &self.addresses);
                if let Err(error) = again {
                    self.trouble = Some(format!("{error:#}"));
                }
            }
            return;
        }
        self.servers_tried = Some(Instant::now());
        let ports: Vec<Port> = wanted
            .ports
            .iter()
            .filter(|p| has_sctp || p.0 != "SCTP")
            .cloned()
            .collect();
        // The old ones first, so that a port that stays is free.
        self.servers = Servers::default();
        match servers::serve(&wanted.attachment.netns(), id, &self.addresses, &ports) {
            Ok(servers) => {
                self.served.clone_from(&wanted.ports);
                self.servers = servers;
            }
            Err(error) => self.trouble = Some(format!("{error:#}")),
        }
    }

    fn state(&self, id: &str) -> PodState {
        let attachment = self
            .wanted
            .as_ref()
            .map(|w| &w.attachment)
            .or(self.attached.as_ref());
        let (namespace, pod) = id.split_once('/').unwrap_or(("", id));
        PodState {
            namespace: namespace.to_string(),
            pod: pod.to_string(),
            node: attachment.map(|a| a.node.clone()).unwrap_or_default(),
            kind: PodKind::Endpoint,
            addresses: self.addresses.clone(),
            netns: names::pod_namespace(namespace, pod),
            ports: self.wanted.as_ref().map(|w| w.ports.clone()).unwrap_or_default(),
            named_ports: self
                .wanted
                .as_ref()
                .map(|w| w.named_ports.clone())
                .unwrap_or_default(),
            silent: self.servers.silent.clone(),
            leaving: self.wanted.is_none(),
            trouble: self.trouble.clone(),
        }
    }
}
