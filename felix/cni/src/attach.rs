//! What the node does for each request: address, interface, policy, and the answer only when all are in force.

mod add;
mod ports;
mod remove;

use crate::addresses::StatedAddresses;
use crate::allocator::{Allocator, Parts, locked};
use crate::connecting::Connector;
use crate::holder::PodRef;
use crate::interface::{Interface, Sandbox, blocking, text};
use crate::journal::{Attachment, Attachments, Journal, JournalError};
use crate::protocol::{AddressWishes, Answer, AttachmentKey, Command, Failure, Request, Success, code};
use crate::server::{Caller, Handler};
use crate::shortage::Shortage;
use crate::tunnel_addresses::TunnelAddresses;
use crate::view::ClusterView;
use add::Add;
use dataplane_api::HostPort;
use dataplane_netlink::workload::{GATEWAY_V4, WorkloadSettings};
use dataplane_netlink::{InterfaceName, MacAddress};
use policy_model_datastore::Datastore;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How long what was given may take to be written when the node's process ends; the journal has it in any case.
const LAST_WRITES: Duration = Duration::from_secs(3);

/// An endpoint that is in force on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgrammedEndpoint {
    /// Its addresses, sorted.
    pub addresses: Vec<IpAddr>,
    /// Whether its interface is there and up, with routes and policy.
    pub interface_up: bool,
}

/// What is in force on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// Endpoints, by interface.
    pub endpoints: BTreeMap<String, ProgrammedEndpoint>,
    /// Ports of the node, and where each leads.
    pub host_ports: BTreeMap<HostPort, SocketAddr>,
    /// Addresses of this node's that nobody has and of which no flow is left; who gets one waits for nothing.
    pub clean: BTreeSet<IpAddr>,
}

/// What is in force on this node, for many readers.
pub type EndpointView = Arc<InForce>;

/// Says why the node is not ready to connect workloads; nothing where it is.
pub type Unreadiness = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// Settings of the attachments of one node.
#[derive(Clone, Debug)]
pub struct AttachSettings {
    /// Name of the node.
    pub node: String,
    /// Folder of the journal.
    pub journal: PathBuf,
    /// Largest packet of new workload interfaces where the caller does not say, in bytes; nothing until it was found out.
    pub mtu: watch::Receiver<Option<u32>>,
    /// How interfaces are made and recognised.
    pub workloads: WorkloadSettings,
    /// How long to wait for the pod to become known, and for its policy to come into force.
    pub patience: Duration,
}

/// Answers the requests of one node.
pub struct Attacher {
    settings: AttachSettings,
    allocator: Allocator,
    journal: Arc<Journal>,
    connector: Connector,
    /// Whether the view follows the datastore by itself.
    follows: bool,
    stated: StatedAddresses,
    programmed: watch::Receiver<EndpointView>,
    boot_id: String,
    unreadiness: Unreadiness,
    /// One request at a time for each attachment: a repeated one waits for the first and then finds its work done.
    running: Gates<AttachmentKey>,
    /// One at a time for each interface of the node: the sandbox that follows another of the same pod has its name.
    interfaces: Gates<String>,
    /// One at a time looks whose a port of the node is, and takes it.
    host_ports: tokio::sync::Mutex<()>,
    /// Says that an attachment is ending.
    leaving: Notify,
}

/// Doors through which one goes at a time, one for each name.
type Gates<K> = Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>;

impl std::fmt::Debug for Attacher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attacher")
            .field("node", &self.settings.node)
            .finish_non_exhaustive()
    }
}

fn gate<K: Hash + Eq + Clone>(gates: &Gates<K>, name: &K) -> Arc<tokio::sync::Mutex<()>> {
    let mut gates = locked(gates);
    // Nobody waits at a gate that only the map holds.
    gates.retain(|k, gate| k == name || Arc::strong_count(gate) > 1);
    gates.entry(name.clone()).or_default().clone()
}

impl Attacher {
    /// Opens the journal. Nothing is asked of the datastore before the attacher is served
    /// ([`serve`](crate::serve)): then it follows the datastore with one watch and looks after the node's addresses.
    ///
    /// # Errors
    /// The journal's folder cannot be used.
    pub fn open(
        settings: AttachSettings,
        store: Arc<dyn Datastore>,
        programmed: watch::Receiver<EndpointView>,
    ) -> Result<Self, JournalError> {
        let journal = Arc::new(Journal::open(&settings.journal)?);
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap_or_default()
            .trim()
            .to_string();
        let allocator = Allocator::new(Parts {
            node: settings.node.clone(),
            boot_id: boot_id.clone(),
            workloads: settings.workloads.clone(),
            store,
            view: Arc::new(ClusterView::of_node(&settings.node)),
            journal: journal.clone(),
            programmed: programmed.clone(),
            patience: settings.patience,
            takes_abandoned: true,
            reserves: true,
            keeps_tunnels: false,
        });
        let connector = Connector::start().map_err(|source| JournalError {
            operation: "start the thread that connects pods beside",
            path: settings.journal.clone(),
            source,
        })?;
        Ok(Attacher {
            settings,
            allocator,
            journal,
            connector,
            follows: true,
            stated: StatedAddresses::default(),
            programmed,
            boot_id,
            unreadiness: Box::new(|| None),
            running: Mutex::default(),
            interfaces: Mutex::default(),
            host_ports: tokio::sync::Mutex::default(),
            leaving: Notify::new(),
        })
    }

    /// Follows what is attached, for those who must know addresses before the cluster does.
    pub fn attachments(&self) -> watch::Receiver<Attachments> {
        self.journal.follow()
    }

    /// Follows which addresses are this node's, for who guards them while no pod has them.
    pub fn kept_addresses(&self) -> watch::Receiver<Arc<BTreeSet<IpAddr>>> {
        self.allocator.kept()
    }

    /// Asks this whether the node is ready when a caller wants to know ([`Command::Status`]).
    #[must_use]
    pub fn with_unreadiness(mut self, unreadiness: Unreadiness) -> Self {
        self.unreadiness = unreadiness;
        self
    }

    /// Uses a view that somebody else hands the datastore's events to ([`ClusterView::take`]), instead of following the
    /// datastore with a watch of its own. The events must cover [`ClusterView::KINDS`].
    #[must_use]
    pub fn with_view(mut self, view: Arc<ClusterView>) -> Self {
        self.allocator = self.allocator.with_view(view);
        self.follows = false;
        self
    }

    /// Says what the addresses of an endpoint's resource mean; [`StatedAddresses::Wanted`] where nobody says.
    #[must_use]
    pub fn with_stated_addresses(mut self, stated: StatedAddresses) -> Self {
        self.stated = stated;
        self
    }

    /// Takes no block from another node, however long it has been empty: where only its node and a controller may change
    /// whose a block is.
    #[must_use]
    pub fn leaving_abandoned_blocks(mut self) -> Self {
        self.allocator = self.allocator.leaving_abandoned_blocks();
        self
    }

    /// Reserves no addresses of pools ahead of need: where pods get theirs from elsewhere. Other nodes' pods, or what is no
    /// pod at all, may then have what a pool holds too, so nothing is kept for workloads of this node but what these have.
    #[must_use]
    pub fn reserving_nothing(mut self) -> Self {
        self.allocator = self.allocator.reserving_nothing();
        self
    }

    /// Takes addresses of the pools for the tunnel devices of this node, for as long as a pool has its traffic wrapped.
    #[must_use]
    pub fn keeping_tunnel_addresses(mut self) -> Self {
        self.allocator = self.allocator.keeping_tunnel_addresses();
        self
    }

    /// Follows the addresses of this node's tunnel devices; nothing before they are known, and where they are not kept
    /// ([`Attacher::keeping_tunnel_addresses`]).
    pub fn tunnel_addresses(&self) -> watch::Receiver<Option<TunnelAddresses>> {
        self.allocator.tunnel_addresses()
    }

    /// Follows for want of what pods were refused an address, until there is one again.
    pub fn shortages(&self) -> watch::Receiver<Vec<Shortage>> {
        self.allocator.shortages().follow()
    }

    /// Whether an attachment was made before the machine was last started, so that nothing of it is in the kernel.
    fn is_of_another_boot(&self, attachment: &Attachment) -> bool {
        attachment.is_of_another_boot(&self.boot_id)
    }

    fn interface(&self, attachment: &Attachment, sandbox: Sandbox) -> Result<Interface, Failure> {
        let outside = InterfaceName::new(attachment.host_interface.clone())
            .map_err(|e| Failure::new(code::INVALID_REQUEST, e))?;
        Ok(Interface {
            settings: self.settings.workloads.clone(),
            sandbox,
            inside: attachment.key.interface.clone(),
            outside,
            addresses: attachment.addresses.clone(),
            mtu: attachment.mtu,
        })
    }

    async fn check(&self, key: &AttachmentKey, sandbox: Sandbox) -> Result<Success, Failure> {
        let lives = |a: &Attachment| !self.is_of_another_boot(a) && !self.journal.is_leaving(&a.key);
        let known = self.recorded(key).filter(lives);
        let Some(attachment) = known else {
            return Err(Failure::new(
                code::UNKNOWN_SANDBOX,
                format!("attachment {key} is not known on this node"),
            ));
        };
        if !attachment.host_interface.is_empty() {
            let wanted = self.interface(&attachment, sandbox)?;
            blocking(move || wanted.check()).await?;
            self.check_ports(&attachment)?;
        }
        Ok(success(&attachment, String::new()))
    }

    fn status(&self, wishes: &AddressWishes) -> Result<Success, Failure> {
        let not_available = |reason| Err(Failure::new(code::NOT_AVAILABLE, reason));
        if let Some(reason) = (self.unreadiness)() {
            return not_available(format!("felix is not ready: {reason}"));
        }
        match self.allocator.lack(wishes) {
            Some(reason) => not_available(reason),
            None => Ok(Success::default()),
        }
    }

    async fn answer(&self, request: Request, caller: &Caller) -> Result<Success, Failure> {
        let Request {
            addresses: wishes,
            host_ports,
            command,
            ..
        } = request;
        match command {
            Command::Add {
                key,
                netns,
                namespace,
                pod: name,
                uid,
                mtu,
            } => {
                let gate = gate(&self.running, &key);
                let _turn = gate.lock().await;
                if caller.is_gone() {
                    return Err(vanished());
                }
                let sandbox = Sandbox::new(netns, caller);
                let pod = PodRef { namespace, name, uid };
                let add = Add {
                    key,
                    sandbox,
                    pod,
                    mtu,
                    wishes,
                    host_ports,
                };
                self.add(add, caller).await
            }
            Command::Assign {
                key,
                namespace,
                pod: name,
                uid,
            } => {
                let gate = gate(&self.running, &key);
                let _turn = gate.lock().await;
                let pod = PodRef { namespace, name, uid };
                self.assign(&key, pod, &wishes, caller).await
            }
            Command::Del { key } => {
                let gate = gate(&self.running, &key);
                let _turn = gate.lock().await;
                self.remove(&key).await
            }
            Command::Check { key, netns } => self.check(&key, Sandbox::new(netns, caller)).await,
            Command::Gc { network, valid } => self.collect(&network, valid).await,
            Command::Status => self.status(&wishes),
        }
    }

    /// An attachment by its key, or by the handle that it shares with one that was found.
    fn recorded(&self, key: &AttachmentKey) -> Option<Attachment> {
        self.journal
            .get(key)
            .or_else(|| self.journal.with_handle(&key.handle()))
    }
}

impl Handler for Attacher {
    async fn handle(&self, request: Request, caller: Caller) -> Answer {
        let what = request.command.to_string();
        match self.answer(request, &caller).await {
            Ok(success) => Answer::Ok(success),
            Err(failure) => {
                tracing::warn!(request = what, %failure, "a CNI request failed");
                Answer::Error(failure)
            }
        }
    }

    async fn settle(&self) -> bool {
        self.release_other_boots().await
    }

    async fn run(&self) {
        let (view, store) = (self.allocator.view().clone(), self.allocator.store().clone());
        let following = async {
            if self.follows {
                view.follow(store).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::join!(
            following,
            self.allocator.run(),
            self.allocator.keep_tunnels(),
            self.end_all_leaving(),
            self.end_all_gone(),
        );
    }

    async fn finish(&self) {
        let work = async {
            self.end_leaving().await;
            match self.allocator.has_begun() {
                true => self.allocator.flush().await,
                false => Ok(()),
            }
        };
        match tokio::time::timeout(LAST_WRITES, work).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => tracing::warn!(%failure, "addresses that were given are in the journal only"),
            Err(_) => tracing::warn!(
                "addresses that were given are in the journal only: the datastore does not answer"
            ),
        }
    }
}

fn success(attachment: &Attachment, mac: String) -> Success {
    let is_ours = !attachment.host_interface.is_empty();
    let has = |is_v4: bool| is_ours && attachment.addresses.iter().any(|a| a.is_ipv4() == is_v4);
    let v4 = has(true).then_some(IpAddr::V4(GATEWAY_V4));
    let v6 = has(false).then(|| IpAddr::V6(MacAddress::HOST_SIDE.link_local()));
    Success {
        addresses: attachment.addresses.clone(),
        mac,
        host_interface: attachment.host_interface.clone(),
        host_mac: if is_ours {
            MacAddress::HOST_SIDE.to_string()
        } else {
            String::new()
        },
        gateways: v4.into_iter().chain(v6).collect(),
        mtu: attachment.mtu,
        host_ports: attachment.host_ports.clone(),
    }
}

fn vanished() -> Failure {
    Failure::new(
        code::TRY_AGAIN,
        "the caller did not wait for the answer; the attachment was taken back",
    )
}

fn journal_failure(error: &JournalError) -> Failure {
    Failure::new(code::STORE, text(error))
}
