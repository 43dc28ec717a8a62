//! The lab's agent: what a kubelet does. It makes a sandbox for each pod of the datastore, asks the node's felix to
//! connect it, and runs its servers.

use super::names::{self, OUTSIDE, OUTSIDE_PORTS};
use super::namespaces;
use super::servers::{self, Port, Servers};
use super::state::{AgentState, LabState, PodState};
use anyhow::Context;
use felix_cni::{AttachmentKey, Command, Request, Success, call};
use policy_model::{Kind, Object, Resource, WorkloadEndpointSpec};
use policy_model_datastore::{BackOff, Selection, SyncEvent, Syncer};
use policy_model_datastore_file::{FileStore, Settings};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Name of the network in attachment keys.
const NETWORK: &str = "lab";
/// How long a node's felix may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before a pod that could not be connected is tried again.
const RETRY: Duration = Duration::from_secs(1);

struct Pod {
    endpoint: Object<WorkloadEndpointSpec>,
    state: PodState,
    servers: Servers,
    connected: bool,
}

struct Agent {
    lab: LabState,
    pods: BTreeMap<String, Pod>,
    state: AgentState,
}

/// Runs until it is told to stop.
pub fn run() -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve())?;
    Ok(ExitCode::SUCCESS)
}

async fn serve() -> anyhow::Result<()> {
    let lab = LabState::load()?;
    let store = tokio::task::spawn_blocking(|| FileStore::open(names::datastore(), Settings::default())).await??;
    let back_off = BackOff { initial: Duration::from_millis(50), longest: Duration::from_secs(2), jitter: 0.0 };
    let mut syncer =
        Syncer::new(Arc::new(store), Selection::kinds([Kind::WorkloadEndpoint]), back_off, || 0.5);
    let outside = [OUTSIDE_PORTS.map(|number| Port { protocol: "TCP".into(), number }).to_vec(), vec![
        Port { protocol: "UDP".into(), number: 53 },
    ]]
    .concat();
    let _outside = servers::serve(OUTSIDE, "outside", &outside)?;
    let mut agent = Agent { lab, pods: BTreeMap::new(), state: AgentState::default() };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut retry = tokio::time::interval(RETRY);
    loop {
        tokio::select! {
            batch = syncer.next_batch(1000) => agent.take(batch).await,
            _ = retry.tick() => agent.connect_all().await,
            _ = terminate.recv() => return Ok(()),
        }
        agent.publish();
    }
}

impl Agent {
    async fn take(&mut self, events: Vec<SyncEvent>) {
        let mut in_sync = false;
        for event in events {
            match event {
                SyncEvent::Upsert(versioned) => {
                    if let Resource::WorkloadEndpoint(endpoint) = versioned.resource.as_ref() {
                        self.upsert(endpoint.clone()).await;
                    }
                }
                SyncEvent::Delete(key) => self.remove(&format!("{}/{}", key.namespace, key.name)).await,
                SyncEvent::InSync => in_sync = true,
                SyncEvent::Status(_) => {}
            }
        }
        self.connect_all().await;
        self.state.settled |= in_sync;
    }

    async fn upsert(&mut self, endpoint: Object<WorkloadEndpointSpec>) {
        let id = format!("{}/{}", endpoint.metadata.namespace, endpoint.metadata.name);
        if let Some(pod) = self.pods.get_mut(&id) {
            let same = |a: &WorkloadEndpointSpec, b: &WorkloadEndpointSpec| {
                a.node == b.node && a.pod == b.pod && a.ports == b.ports && a.ip_networks == b.ip_networks
            };
            if same(&pod.endpoint.spec, &endpoint.spec) {
                pod.endpoint = endpoint;
                return;
            }
            self.remove(&id).await;
        }
        let (namespace, name) = (endpoint.metadata.namespace.clone(), endpoint.spec.pod.clone());
        let netns = names::pod_namespace(&namespace, &name);
        let node = endpoint.spec.node.clone();
        let state = PodState { namespace, pod: name, node, netns, ..PodState::default() };
        self.pods.insert(id, Pod { endpoint, state, servers: Servers::default(), connected: false });
    }

    /// Connects every pod that is not, several at once.
    async fn connect_all(&mut self) {
        let waiting: Vec<String> = self.pods.iter().filter(|(_, p)| !p.connected).map(|(id, _)| id.clone()).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for id in waiting {
            let Some(pod) = self.pods.get(&id) else { continue };
            if !self.lab.nodes.contains_key(&pod.state.node) {
                let trouble = format!("its node {:?} is not one of the lab", pod.state.node);
                if let Some(pod) = self.pods.get_mut(&id) {
                    pod.state.trouble = Some(trouble);
                }
                continue;
            }
            let (state, uid) = (pod.state.clone(), pod.endpoint.metadata.uid.clone());
            tasks.spawn_blocking(move || (id, connect(&state, uid)));
        }
        while let Some(done) = tasks.join_next().await {
            let Ok((id, result)) = done else { continue };
            let Some(pod) = self.pods.get_mut(&id) else { continue };
            match result {
                Ok(success) => {
                    pod.connected = true;
                    pod.state.addresses = success.addresses;
                    pod.state.trouble = None;
                    let node = self.lab.nodes.get(&pod.state.node).cloned().unwrap_or_default();
                    for address in &pod.state.addresses {
                        if let Err(error) = super::cluster::outside_route(*address, &node) {
                            pod.state.trouble = Some(format!("{error:#}"));
                        }
                    }
                    open_servers(pod);
                }
                Err(error) => pod.state.trouble = Some(format!("{error:#}")),
            }
        }
    }

    async fn remove(&mut self, id: &str) {
        let Some(pod) = self.pods.remove(id) else { return };
        let state = pod.state.clone();
        drop(pod);
        let removed = tokio::task::spawn_blocking(move || disconnect(&state)).await;
        if let Ok(Err(error)) = removed {
            eprintln!("removing pod {id}: {error:#}");
        }
    }

    fn publish(&mut self) {
        let pods = self.pods.values().map(|p| (format!("{}/{}", p.state.namespace, p.state.pod), p.state.clone()));
        let next = AgentState { pods: pods.collect(), settled: self.state.settled };
        if next != self.state || !names::path("agent.json").exists() {
            if let Err(error) = next.save() {
                eprintln!("{error:#}");
            }
            self.state = next;
        }
    }
}

fn key(state: &PodState) -> AttachmentKey {
    AttachmentKey {
        network: NETWORK.into(),
        container_id: format!("{}.{}", state.namespace, state.pod),
        interface: "eth0".into(),
    }
}

/// Makes the sandbox, if it is not there, and has it connected.
fn connect(state: &PodState, uid: String) -> anyhow::Result<Success> {
    if !names::namespace_path(&state.netns).exists() {
        namespaces::create(&state.netns)?;
    }
    let request = Request::new(Command::Add {
        key: key(state),
        netns: names::namespace_path(&state.netns).display().to_string(),
        namespace: state.namespace.clone(),
        pod: state.pod.clone(),
        uid,
        mtu: 0,
    });
    call(&names::cni_socket(&state.node), &request, PATIENCE).with_context(|| format!("connecting on {}", state.node))
}

fn disconnect(state: &PodState) -> anyhow::Result<()> {
    let asked = call(&names::cni_socket(&state.node), &Request::new(Command::Del { key: key(state) }), PATIENCE);
    namespaces::remove(&state.netns)?;
    asked.map(|_| ()).with_context(|| format!("disconnecting on {}", state.node))
}

fn open_servers(pod: &mut Pod) {
    let mut ports: Vec<Port> = pod
        .endpoint
        .spec
        .ports
        .iter()
        .map(|p| Port { protocol: p.protocol.to_string(), number: p.port })
        .collect();
    ports.sort();
    ports.dedup();
    let name = format!("{}/{}", pod.state.namespace, pod.state.pod);
    match servers::serve(&pod.state.netns, &name, &ports) {
        Ok(servers) => {
            pod.state.ports = servers.ports.iter().map(|p| (p.protocol.clone(), p.number)).collect();
            if !servers.trouble.is_empty() {
                pod.state.trouble = Some(format!("no server at {}", servers.trouble.join(", ")));
            }
            pod.servers = servers;
        }
        Err(error) => pod.state.trouble = Some(format!("{error:#}")),
    }
}
