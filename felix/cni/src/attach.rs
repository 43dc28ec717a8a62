//! What the node does for an attachment: address, interface, policy, and the answer only when all are in force.

use crate::ipam;
use crate::journal::{Attachment, Journal, JournalError};
use crate::protocol::{Answer, AttachmentKey, Command, Failure, Request, Success, code};
use crate::server::Handler;
use dataplane_netlink::conntrack::Conntrack;
use dataplane_netlink::workload::{ConnectRequest, WorkloadError, WorkloadSettings, Workloads};
use dataplane_netlink::{InterfaceName, NetlinkError, NetworkNamespace, host_interface_name};
use policy_model::{Kind, Object, Resource, WorkloadEndpointSpec};
use policy_model_datastore::{Datastore, Selection};
use policy_model_ipam::engine::{AssignSpecific, AutoAssign, Outcome, Request as IpamRequest};
use policy_model_ipam::{Family, annotation, handle};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

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
    /// One request at a time for each attachment: a repeated one waits for the first and then finds its work done.
    running: Mutex<HashMap<AttachmentKey, Arc<tokio::sync::Mutex<()>>>>,
}

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
            running: Mutex::default(),
        })
    }

    async fn add(
        &self,
        key: AttachmentKey,
        netns: String,
        pod: PodRef,
        mtu: u32,
    ) -> Result<Success, Failure> {
        let endpoint = self.find_endpoint(&pod).await?;
        let interface = self.interface_of(&endpoint, &pod)?;
        let addresses = self.addresses_for(&key, &endpoint, &pod).await?;
        let result = self
            .connect(&key, netns, &pod, &interface, addresses.clone(), mtu)
            .await;
        match result {
            Ok(success) => Ok(success),
            Err(failure) => {
                self.take_back(&key, &interface).await;
                Err(failure)
            }
        }
    }

    async fn connect(
        &self,
        key: &AttachmentKey,
        netns: String,
        pod: &PodRef,
        interface: &InterfaceName,
        addresses: Vec<IpAddr>,
        mtu: u32,
    ) -> Result<Success, Failure> {
        // On the disk before the interface exists: whatever dies from here on, the removal knows what to remove.
        self.record(Attachment {
            key: key.clone(),
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            addresses: addresses.clone(),
            host_interface: interface.to_string(),
            boot_id: self.boot_id.clone(),
        })?;
        let mtu = if mtu == 0 { self.settings.mtu } else { mtu };
        let (settings, name, inside) = (
            self.settings.workloads.clone(),
            interface.clone(),
            key.interface.clone(),
        );
        let wanted = addresses.clone();
        let connected = blocking(move || connect(settings, &netns, &inside, name, wanted, mtu)).await?;
        self.wait_programmed(interface, &addresses).await?;
        Ok(Success {
            addresses,
            mac: connected,
            host_interface: interface.to_string(),
        })
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

    /// The attachment's addresses: those that it has, those that it asks for, or new ones.
    async fn addresses_for(
        &self,
        key: &AttachmentKey,
        endpoint: &Object<WorkloadEndpointSpec>,
        pod: &PodRef,
    ) -> Result<Vec<IpAddr>, Failure> {
        let fixed: Vec<IpAddr> = endpoint.spec.ip_networks.iter().map(|n| n.addr()).collect();
        let invalid = |e: annotation::InvalidAnnotation| Failure::new(code::INVALID_REQUEST, e);
        let annotations = &endpoint.metadata.annotations;
        let asked = match annotations.get(annotation::IP_ADDRS) {
            Some(text) => annotation::addresses(text).map_err(invalid)?,
            None => fixed.clone(),
        };
        let attributes = self.attributes(pod);
        if !asked.is_empty() {
            let request = IpamRequest::AssignSpecific(AssignSpecific {
                addresses: asked.clone(),
                handle: key.handle(),
                attributes,
                node: self.settings.node.clone(),
                strict_affinity: Some(false),
            });
            return match self.assign(request).await {
                Ok(addresses) => Ok(addresses),
                // An address that the endpoint itself states and that no pool covers needs no bookkeeping.
                Err(error) if !fixed.is_empty() && self.outside_pools(&asked).await? => {
                    tracing::debug!(%error, "addresses outside all pools are taken as they are");
                    Ok(sorted(asked))
                }
                Err(error) => Err(error),
            };
        }
        let (ipv4, ipv6) = self.families().await?;
        if ipv4 + ipv6 == 0 {
            return Err(Failure::new(
                code::NO_ADDRESS,
                "there is no enabled IP pool to take an address from",
            ));
        }
        let pools = |family, name| match annotations.get(name) {
            Some(text) => annotation::pools(family, text).map_err(invalid),
            None => Ok(Vec::new()),
        };
        let request = AutoAssign {
            ipv4,
            ipv6,
            attributes,
            ipv4_pools: pools(Family::V4, annotation::IPV4_POOLS)?,
            ipv6_pools: pools(Family::V6, annotation::IPV6_POOLS)?,
            node_labels: self.node_labels().await?,
            ..AutoAssign::new(&self.settings.node, &key.handle())
        };
        self.assign(IpamRequest::AutoAssign(request)).await
    }

    fn attributes(&self, pod: &PodRef) -> BTreeMap<String, String> {
        let mut attributes = BTreeMap::from([
            (handle::ATTRIBUTE_NAMESPACE.to_string(), pod.namespace.clone()),
            (handle::ATTRIBUTE_POD.to_string(), pod.name.clone()),
            (handle::ATTRIBUTE_NODE.to_string(), self.settings.node.clone()),
        ]);
        if !pod.uid.is_empty() {
            attributes.insert(handle::ATTRIBUTE_UID.to_string(), pod.uid.clone());
        }
        attributes
    }

    async fn assign(&self, request: IpamRequest) -> Result<Vec<IpAddr>, Failure> {
        match ipam::run(self.store.as_ref(), request).await? {
            Outcome::Assigned(assigned) => Ok(sorted(assigned.into_iter().map(|a| a.address).collect())),
            other => Err(Failure::new(
                code::STORE,
                format!("address management answered {other:?}"),
            )),
        }
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Arc<Resource>>, Failure> {
        let listing = self
            .store
            .list(Selection::kinds([kind]))
            .await
            .map_err(ipam::failure)?;
        Ok(listing.items.into_iter().map(|v| v.resource).collect())
    }

    /// How many addresses of each family a workload gets: one of each that an enabled pool has.
    async fn families(&self) -> Result<(usize, usize), Failure> {
        let (mut v4, mut v6) = (0, 0);
        for resource in self.list(Kind::IPPool).await? {
            if let Resource::IPPool(pool) = resource.as_ref()
                && !pool.spec.disabled
            {
                let count = if pool.spec.cidr.addr().is_ipv4() {
                    &mut v4
                } else {
                    &mut v6
                };
                *count = 1;
            }
        }
        Ok((v4, v6))
    }

    async fn outside_pools(&self, addresses: &[IpAddr]) -> Result<bool, Failure> {
        let pools = self.list(Kind::IPPool).await?;
        let inside = |a: &IpAddr| {
            pools
                .iter()
                .any(|r| matches!(r.as_ref(), Resource::IPPool(pool) if pool.spec.cidr.contains(a)))
        };
        Ok(!addresses.iter().any(inside))
    }

    async fn node_labels(&self) -> Result<BTreeMap<String, String>, Failure> {
        let nodes = self.list(Kind::Node).await?;
        let own = nodes.iter().find(|n| n.metadata().name == self.settings.node);
        Ok(own.map(|n| n.metadata().labels.clone()).unwrap_or_default())
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

    /// Undoes an attachment that did not come to be. What cannot be undone now is undone by the removal.
    async fn take_back(&self, key: &AttachmentKey, interface: &InterfaceName) {
        if let Err(failure) = self.remove(key).await {
            tracing::warn!(%key, %interface, %failure, "cannot take back a failed attachment");
        }
    }

    /// Interface first, then the flows of its addresses, then the addresses: none is given again while something of
    /// the old holder is left.
    async fn remove(&self, key: &AttachmentKey) -> Result<Success, Failure> {
        let Some(attachment) = locked(&self.journal).get(key).cloned() else {
            // Unknown here, but a lost journal must not leak an address.
            self.release(key).await?;
            return Ok(Success::default());
        };
        let settings = self.settings.workloads.clone();
        let (interface, addresses) = (attachment.host_interface.clone(), attachment.addresses.clone());
        let others = locked(&self.journal)
            .iter()
            .any(|a| a.key != *key && a.host_interface == interface);
        // A newer sandbox of the same pod has taken the interface over: it is no longer this one's.
        if !others {
            blocking(move || disconnect(settings, &interface, &addresses)).await?;
        }
        self.release(key).await?;
        locked(&self.journal).remove(key).map_err(|e| store_failure(&e))?;
        Ok(Success::default())
    }

    async fn release(&self, key: &AttachmentKey) -> Result<(), Failure> {
        ipam::run(self.store.as_ref(), IpamRequest::ReleaseByHandle(key.handle()))
            .await
            .map(|_| ())
    }

    async fn check(&self, key: &AttachmentKey, netns: String) -> Result<Success, Failure> {
        let Some(attachment) = locked(&self.journal).get(key).cloned() else {
            return Err(Failure::new(
                code::UNKNOWN_SANDBOX,
                format!("attachment {key} is not known on this node"),
            ));
        };
        let name = InterfaceName::new(attachment.host_interface.clone())
            .map_err(|e| Failure::new(code::INVALID_REQUEST, e))?;
        let (settings, inside, mtu) = (
            self.settings.workloads.clone(),
            key.interface.clone(),
            self.settings.mtu,
        );
        let addresses = attachment.addresses.clone();
        blocking(move || check(settings, &netns, &inside, name, addresses, mtu)).await?;
        Ok(Success {
            addresses: attachment.addresses,
            mac: String::new(),
            host_interface: attachment.host_interface,
        })
    }

    fn gate(&self, key: &AttachmentKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut running = locked(&self.running);
        // Nobody waits at a gate that only the map holds.
        running.retain(|k, gate| k == key || Arc::strong_count(gate) > 1);
        running.entry(key.clone()).or_default().clone()
    }

    async fn answer(&self, request: Request) -> Result<Success, Failure> {
        match request.command {
            Command::Add {
                key,
                netns,
                namespace,
                pod,
                uid,
                mtu,
            } => {
                let gate = self.gate(&key);
                let _turn = gate.lock().await;
                let pod = PodRef {
                    namespace,
                    name: pod,
                    uid,
                };
                self.add(key, netns, pod, mtu).await
            }
            Command::Del { key } => {
                let gate = self.gate(&key);
                let _turn = gate.lock().await;
                self.remove(&key).await
            }
            Command::Check { key, netns } => self.check(&key, netns).await,
            Command::Status => Ok(Success::default()),
        }
    }
}

impl Handler for Attacher {
    async fn handle(&self, request: Request) -> Answer {
        let what = format!("{:?}", std::mem::discriminant(&request.command));
        match self.answer(request).await {
            Ok(success) => Answer::Ok(success),
            Err(failure) => {
                tracing::warn!(request = what, %failure, "a CNI request failed");
                Answer::Error(failure)
            }
        }
    }
}

#[derive(Clone, Debug)]
struct PodRef {
    namespace: String,
    name: String,
    uid: String,
}

fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses
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

fn connect(
    settings: WorkloadSettings,
    netns: &str,
    inside: &str,
    host_interface: InterfaceName,
    addresses: Vec<IpAddr>,
    mtu: u32,
) -> Result<String, Failure> {
    let namespace =
        NetworkNamespace::open(netns).map_err(|e| Failure::new(code::UNKNOWN_SANDBOX, text(&e)))?;
    let container_interface =
        InterfaceName::new(inside).map_err(|e| Failure::new(code::INVALID_REQUEST, e))?;
    let mut workloads = Workloads::open(settings).map_err(|e| kernel_failure(&e))?;
    let request = ConnectRequest {
        namespace: &namespace,
        container_interface,
        host_interface,
        addresses,
        mtu,
        container_mac: None,
        routes: Vec::new(),
    };
    let connected = workloads.connect(&request).map_err(workload_failure)?;
    Ok(connected.container_mac.to_string())
}

fn check(
    settings: WorkloadSettings,
    netns: &str,
    inside: &str,
    host_interface: InterfaceName,
    addresses: Vec<IpAddr>,
    mtu: u32,
) -> Result<(), Failure> {
    let namespace =
        NetworkNamespace::open(netns).map_err(|e| Failure::new(code::UNKNOWN_SANDBOX, text(&e)))?;
    let container_interface =
        InterfaceName::new(inside).map_err(|e| Failure::new(code::INVALID_REQUEST, e))?;
    let mut workloads = Workloads::open(settings).map_err(|e| kernel_failure(&e))?;
    let request = ConnectRequest {
        namespace: &namespace,
        container_interface,
        host_interface,
        addresses,
        mtu,
        container_mac: None,
        routes: Vec::new(),
    };
    let faults = workloads.check(&request).map_err(workload_failure)?;
    if faults.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = faults.iter().map(|f| f.remedy.clone()).collect();
    Err(Failure::new(
        code::KERNEL,
        format!(
            "the attachment is not as it was made; it would take: {}",
            list.join(", ")
        ),
    ))
}

fn disconnect(settings: WorkloadSettings, interface: &str, addresses: &[IpAddr]) -> Result<(), Failure> {
    let name = InterfaceName::new(interface).map_err(|e| Failure::new(code::INVALID_REQUEST, e))?;
    let mut workloads = Workloads::open(settings).map_err(|e| kernel_failure(&e))?;
    workloads.disconnect(&name).map_err(workload_failure)?;
    let mut conntrack = Conntrack::open().map_err(|e| kernel_failure(&e))?;
    conntrack
        .forget_addresses(addresses)
        .map_err(|e| kernel_failure(&e))?;
    Ok(())
}

fn workload_failure(error: WorkloadError) -> Failure {
    Failure::new(code::KERNEL, text(&error))
}

fn kernel_failure(error: &NetlinkError) -> Failure {
    Failure::new(code::KERNEL, text(error))
}

fn store_failure(error: &JournalError) -> Failure {
    Failure::new(code::STORE, text(error))
}

fn text(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        out.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    out
}
