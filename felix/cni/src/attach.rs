//! What the node does for an attachment: address, interface, policy, and the answer only when all are in force.

use crate::addresses::{Addresses, PodRef};
use crate::interface::{Interface, Sandbox, disconnect, text};
use crate::ipam;
use crate::journal::{Attachment, Journal, JournalError};
use crate::protocol::{
    AddressWishes, Answer, AttachmentKey, Command, Failure, Request, Success, Valid, code,
};
use crate::server::{Caller, Handler};
use dataplane_netlink::workload::{GATEWAY_V4, WorkloadSettings};
use dataplane_netlink::{InterfaceName, MacAddress, host_interface_name};
use policy_model::{Kind, Object, Resource, WorkloadEndpointSpec};
use policy_model_datastore::{Datastore, Selection};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long the datastore may take to answer when the node is asked how it stands.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// An endpoint that is in force on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgrammedEndpoint {
    /// Its addresses, sorted.
    pub addresses: Vec<IpAddr>,
    /// Whether its interface is there and up, with routes and policy.
    pub interface_up: bool,
}

/// What is in force on this node, by interface.
pub type EndpointView = Arc<BTreeMap<String, ProgrammedEndpoint>>;

/// Says why the node is not ready to connect workloads; nothing where it is.
pub type Unreadiness = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// Settings of the attachments of one node.
#[derive(Clone, Debug)]
pub struct AttachSettings {
    /// Name of the node.
    pub node: String,
    /// Folder of the journal.
    pub journal: PathBuf,
    /// Largest packet of workload interfaces where the caller does not say, in bytes.
    pub mtu: u32,
    /// How interfaces are made and recognised.
    pub workloads: WorkloadSettings,
    /// How long to wait for the pod to become known, and for its policy to come into force.
    pub patience: Duration,
}

/// Answers the requests of one node.
pub struct Attacher {
    settings: AttachSettings,
    store: Arc<dyn Datastore>,
    journal: Mutex<Journal>,
    programmed: watch::Receiver<EndpointView>,
    boot_id: String,
    unreadiness: Unreadiness,
    /// One request at a time for each attachment: a repeated one waits for the first and then finds its work done.
    running: Gates<AttachmentKey>,
    /// One at a time for each interface of the node: the sandbox that follows another of the same pod has its name.
    interfaces: Gates<String>,
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the lock guards is written in single steps; a panic between them leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gate<K: Hash + Eq + Clone>(gates: &Gates<K>, name: &K) -> Arc<tokio::sync::Mutex<()>> {
    let mut gates = locked(gates);
    // Nobody waits at a gate that only the map holds.
    gates.retain(|k, gate| k == name || Arc::strong_count(gate) > 1);
    gates.entry(name.clone()).or_default().clone()
}

impl Attacher {
    /// Opens the journal.
    ///
    /// # Errors
    /// The journal's folder cannot be used.
    pub fn open(
        settings: AttachSettings,
        store: Arc<dyn Datastore>,
        programmed: watch::Receiver<EndpointView>,
    ) -> Result<Self, JournalError> {
        let journal = Journal::open(&settings.journal)?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap_or_default()
            .trim()
            .to_string();
        Ok(Attacher {
            settings,
            store,
            journal: Mutex::new(journal),
            programmed,
            boot_id,
            unreadiness: Box::new(|| None),
            running: Mutex::default(),
            interfaces: Mutex::default(),
        })
    }

    /// Asks this whether the node is ready when a caller wants to know ([`Command::Status`]).
    #[must_use]
    pub fn with_unreadiness(mut self, unreadiness: Unreadiness) -> Self {
        self.unreadiness = unreadiness;
        self
    }

    fn addresses(&self) -> Addresses<'_> {
        Addresses {
            store: self.store.as_ref(),
            node: &self.settings.node,
        }
    }

    async fn add(&self, add: Add, caller: &Caller) -> Result<Success, Failure> {
        let endpoint = tokio::select! {
            endpoint = self.find_endpoint(&add.pod) => endpoint?,
            () = caller.gone() => return Err(vanished()),
        };
        let interface = self.interface_of(&endpoint, &add.pod)?;
        let addresses = self.addresses();
        let addresses = addresses
            .of_endpoint(&add.key, &endpoint, &add.pod, &add.wishes)
            .await?;
        let result = self.connect(&add, &interface, addresses, caller).await;
        match result {
            // Nobody heard of it: the runtime will remove the sandbox, or ask again and get it anew.
            Ok(_) if caller.is_gone() => {
                self.take_back(&add.key).await;
                Err(vanished())
            }
            Ok(success) => Ok(success),
            Err(failure) => {
                self.take_back(&add.key).await;
                Err(failure)
            }
        }
    }

    async fn connect(
        &self,
        add: &Add,
        interface: &InterfaceName,
        addresses: Vec<IpAddr>,
        caller: &Caller,
    ) -> Result<Success, Failure> {
        let mtu = if add.mtu == 0 { self.settings.mtu } else { add.mtu };
        let attachment = self.attachment(&add.key, &add.pod, &addresses, interface.as_str(), mtu);
        let wanted = Interface {
            settings: self.settings.workloads.clone(),
            sandbox: add.sandbox.clone(),
            inside: add.key.interface.clone(),
            outside: interface.clone(),
            addresses: addresses.clone(),
            mtu,
        };
        let mac = {
            let gate = gate(&self.interfaces, &attachment.host_interface);
            let _turn = gate.lock().await;
            // On the disk before the interface exists: whatever dies from here on, the removal knows what to remove.
            self.record(attachment.clone())?;
            blocking(move || wanted.connect()).await?
        };
        tokio::select! {
            waited = self.wait_programmed(interface, &addresses) => waited?,
            () = caller.gone() => return Err(vanished()),
        }
        Ok(success(&attachment, mac))
    }

    fn attachment(
        &self,
        key: &AttachmentKey,
        pod: &PodRef,
        addresses: &[IpAddr],
        interface: &str,
        mtu: u32,
    ) -> Attachment {
        Attachment {
            key: key.clone(),
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            addresses: addresses.to_vec(),
            host_interface: interface.to_string(),
            boot_id: self.boot_id.clone(),
            mtu,
        }
    }

    /// Gives addresses without an interface.
    async fn assign(
        &self,
        key: &AttachmentKey,
        pod: &PodRef,
        wishes: &AddressWishes,
        caller: &Caller,
    ) -> Result<Success, Failure> {
        let addresses = self
            .addresses()
            .of_pools(key, pod, &BTreeMap::new(), wishes)
            .await?;
        let attachment = self.attachment(key, pod, &addresses, "", 0);
        let recorded = self.record(attachment.clone());
        if recorded.is_err() || caller.is_gone() {
            self.take_back(key).await;
        }
        recorded.map(|()| success(&attachment, String::new()))
    }

    /// Waits until the pod's endpoint on this node is known.
    async fn find_endpoint(&self, pod: &PodRef) -> Result<Object<WorkloadEndpointSpec>, Failure> {
        let selection = || Selection::kinds([Kind::WorkloadEndpoint]).in_namespace(pod.namespace.clone());
        let deadline = tokio::time::Instant::now() + self.settings.patience;
        loop {
            // The watch starts where the list ends, so nothing is missed between the two.
            let listing = self.store.list(selection()).await.map_err(ipam::failure)?;
            let mut watch = self
                .store
                .watch(selection(), listing.revision)
                .await
                .map_err(ipam::failure)?;
            let found = listing.items.iter().find_map(|v| self.matching(&v.resource, pod));
            if let Some(endpoint) = found {
                return Ok(endpoint);
            }
            let next = tokio::time::timeout_at(deadline, watch.next()).await;
            if next.is_err() {
                let who = format!(
                    "pod {}/{} on node {}",
                    pod.namespace, pod.name, self.settings.node
                );
                return Err(Failure::new(
                    code::TRY_AGAIN,
                    format!("{who} is not known to the datastore yet"),
                ));
            }
        }
    }

    fn matching(&self, resource: &Resource, pod: &PodRef) -> Option<Object<WorkloadEndpointSpec>> {
        let Resource::WorkloadEndpoint(endpoint) = resource else {
            return None;
        };
        let uid = pod.uid.is_empty() || endpoint.metadata.uid.is_empty() || endpoint.metadata.uid == pod.uid;
        let here = endpoint.spec.pod == pod.name && endpoint.spec.node == self.settings.node;
        (here && uid).then(|| endpoint.clone())
    }

    fn interface_of(
        &self,
        endpoint: &Object<WorkloadEndpointSpec>,
        pod: &PodRef,
    ) -> Result<InterfaceName, Failure> {
        let prefixes = &self.settings.workloads.ownership.prefixes;
        if endpoint.spec.interface_name.is_empty() {
            return host_interface_name(prefixes, &pod.namespace, &pod.name)
                .map_err(|e| Failure::new(code::INVALID_REQUEST, e));
        }
        InterfaceName::new(endpoint.spec.interface_name.clone())
            .map_err(|e| Failure::new(code::INVALID_REQUEST, e))
    }

    /// Waits until policy, routes and interface are in the kernel.
    async fn wait_programmed(&self, interface: &InterfaceName, addresses: &[IpAddr]) -> Result<(), Failure> {
        let mut programmed = self.programmed.clone();
        let in_force = |view: &EndpointView| {
            view.get(interface.as_str())
                .is_some_and(|e| e.interface_up && e.addresses == addresses)
        };
        let waited = tokio::time::timeout(self.settings.patience, programmed.wait_for(in_force)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Failure::new(code::TRY_AGAIN, "felix is stopping")),
            Err(_) => {
                let seconds = self.settings.patience.as_secs();
                let why = format!("the policy of interface {interface} was not in force within {seconds} s");
                Err(Failure::new(code::TRY_AGAIN, why))
            }
        }
    }

    fn record(&self, attachment: Attachment) -> Result<(), Failure> {
        locked(&self.journal)
            .put(attachment)
            .map_err(|e| store_failure(&e))
    }

    fn recorded(&self, key: &AttachmentKey) -> Option<Attachment> {
        locked(&self.journal).get(key).cloned()
    }

    /// Whether an attachment was made before the machine was last started, so that nothing of it is in the kernel.
    fn is_of_another_boot(&self, attachment: &Attachment) -> bool {
        !attachment.boot_id.is_empty() && attachment.boot_id != self.boot_id
    }

    /// Undoes an attachment that did not come to be. What cannot be undone now is undone by the removal.
    async fn take_back(&self, key: &AttachmentKey) {
        if let Err(failure) = self.remove(key).await {
            tracing::warn!(%key, %failure, "cannot take back a failed attachment");
        }
    }

    /// Interface first, then the flows of its addresses, then the addresses: none is given again while something of
    /// the old holder is left.
    async fn remove(&self, key: &AttachmentKey) -> Result<Success, Failure> {
        let Some(attachment) = self.recorded(key) else {
            // Unknown here, but a lost journal must not leak an address.
            self.addresses().release(key).await?;
            return Ok(Success::default());
        };
        let gate = gate(&self.interfaces, &attachment.host_interface);
        let _turn = gate.lock().await;
        // A newer sandbox of the same pod has taken the interface over: it is no longer this one's. What another boot
        // of the machine had is gone.
        if !self.has_successor(&attachment) && !self.is_of_another_boot(&attachment) {
            let settings = self.settings.workloads.clone();
            let (interface, addresses) = (attachment.host_interface.clone(), attachment.addresses.clone());
            blocking(move || disconnect(settings, &interface, &addresses)).await?;
        }
        self.addresses().release(key).await?;
        locked(&self.journal).remove(key).map_err(|e| store_failure(&e))?;
        Ok(Success::default())
    }

    fn has_successor(&self, attachment: &Attachment) -> bool {
        !attachment.host_interface.is_empty()
            && locked(&self.journal).iter().any(|other| {
                other.key != attachment.key
                    && other.host_interface == attachment.host_interface
                    && !self.is_of_another_boot(other)
            })
    }

    async fn check(&self, key: &AttachmentKey, sandbox: Sandbox) -> Result<Success, Failure> {
        let known = self.recorded(key).filter(|a| !self.is_of_another_boot(a));
        let Some(attachment) = known else {
            return Err(Failure::new(
                code::UNKNOWN_SANDBOX,
                format!("attachment {key} is not known on this node"),
            ));
        };
        if !attachment.host_interface.is_empty() {
            let outside = InterfaceName::new(attachment.host_interface.clone())
                .map_err(|e| Failure::new(code::INVALID_REQUEST, e))?;
            let mtu = if attachment.mtu == 0 {
                self.settings.mtu
            } else {
                attachment.mtu
            };
            let wanted = Interface {
                settings: self.settings.workloads.clone(),
                sandbox,
                inside: key.interface.clone(),
                outside,
                addresses: attachment.addresses.clone(),
                mtu,
            };
            blocking(move || wanted.check()).await?;
        }
        Ok(success(&attachment, String::new()))
    }

    /// Removes every attachment of a network that is not named. All are tried, whatever becomes of one.
    async fn collect(&self, network: &str, valid: Vec<Valid>) -> Result<Success, Failure> {
        let valid: BTreeSet<Valid> = valid.into_iter().collect();
        let stale: Vec<AttachmentKey> = locked(&self.journal)
            .iter()
            .map(|attachment| &attachment.key)
            .filter(|key| key.network == network)
            .filter(|key| {
                !valid.contains(&Valid {
                    container_id: key.container_id.clone(),
                    interface: key.interface.clone(),
                })
            })
            .cloned()
            .collect();
        let mut failures = Vec::new();
        for key in stale {
            let gate = gate(&self.running, &key);
            let _turn = gate.lock().await;
            tracing::info!(%key, "collecting an attachment that the runtime does not know");
            if let Err(failure) = self.remove(&key).await {
                failures.push(format!("{key}: {failure}"));
            }
        }
        if failures.is_empty() {
            return Ok(Success::default());
        }
        Err(Failure::new(
            code::TRY_AGAIN,
            format!("not everything could be collected: {}", failures.join("; ")),
        ))
    }

    async fn status(&self) -> Result<Success, Failure> {
        if let Some(reason) = (self.unreadiness)() {
            return Err(Failure::new(
                code::NOT_AVAILABLE,
                format!("felix is not ready: {reason}"),
            ));
        }
        let asked = tokio::time::timeout(STATUS_PATIENCE, self.addresses().families()).await;
        let not_available = |reason| Failure::new(code::NOT_AVAILABLE, reason);
        match asked {
            Ok(Ok((false, false))) => Err(not_available("there is no enabled IP pool".to_owned())),
            Ok(Ok(_)) => Ok(Success::default()),
            Ok(Err(failure)) => Err(not_available(failure.message)),
            Err(_) => Err(not_available("the datastore does not answer".to_owned())),
        }
    }

    async fn answer(&self, request: Request, caller: &Caller) -> Result<Success, Failure> {
        let wishes = request.addresses;
        match request.command {
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
                self.assign(&key, &pod, &wishes, caller).await
            }
            Command::Del { key } => {
                let gate = gate(&self.running, &key);
                let _turn = gate.lock().await;
                self.remove(&key).await
            }
            Command::Check { key, netns } => self.check(&key, Sandbox::new(netns, caller)).await,
            Command::Gc { network, valid } => self.collect(&network, valid).await,
            Command::Status => self.status().await,
        }
    }
}

impl Handler for Attacher {
    async fn handle(&self, request: Request, caller: Caller) -> Answer {
        let what = format!("{:?}", std::mem::discriminant(&request.command));
        match self.answer(request, &caller).await {
            Ok(success) => Answer::Ok(success),
            Err(failure) => {
                tracing::warn!(request = what, %failure, "a CNI request failed");
                Answer::Error(failure)
            }
        }
    }

    /// Gives back the addresses of what a start of the machine has ended.
    async fn settle(&self) -> bool {
        let dead: Vec<AttachmentKey> = locked(&self.journal)
            .iter()
            .filter(|attachment| self.is_of_another_boot(attachment))
            .map(|attachment| attachment.key.clone())
            .collect();
        let mut is_settled = true;
        for key in dead {
            let gate = gate(&self.running, &key);
            let _turn = gate.lock().await;
            // The same sandbox may have been attached anew meanwhile.
            if self.recorded(&key).is_none_or(|a| !self.is_of_another_boot(&a)) {
                continue;
            }
            match self.remove(&key).await {
                Ok(_) => {
                    tracing::info!(%key, "the machine was started anew: released an attachment's addresses")
                }
                Err(failure) => {
                    tracing::warn!(%key, %failure, "cannot release what another boot of the machine left");
                    is_settled = false;
                }
            }
        }
        is_settled
    }
}

/// What is to be attached.
struct Add {
    key: AttachmentKey,
    sandbox: Sandbox,
    pod: PodRef,
    mtu: u32,
    wishes: AddressWishes,
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
    }
}

fn vanished() -> Failure {
    Failure::new(
        code::TRY_AGAIN,
        "the caller did not wait for the answer; the attachment was taken back",
    )
}

/// Runs what waits for the kernel away from the threads that answer requests.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(
            code::KERNEL,
            format!("the request's thread ended: {error}"),
        )),
    }
}

fn store_failure(error: &JournalError) -> Failure {
    Failure::new(code::STORE, text(error))
}
