//! An attachment comes to be: pod, addresses, journal, interface, policy.

use super::{Attacher, EndpointView, gate, journal_failure, success, vanished};
use crate::allocator::{Holder, Promise};
use crate::holder::{self, PodRef};
use crate::interface::{Interface, Sandbox};
use crate::journal::{Attachment, Origin};
use crate::naming;
use crate::protocol::{AddressWishes, AttachmentKey, Failure, PortMapping, Success, code};
use crate::server::Caller;
use crate::view::usual_name;
use dataplane_netlink::InterfaceName;
use policy_model::{Key, Kind, Object, Resource, WorkloadEndpointSpec};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How long the node's own watch may take to tell of a pod before the datastore is asked for it.
const UNTIL_ASKED: Duration = Duration::from_secs(1);

/// Pauses before an interface that could not be made is tried again.
const CONNECT_PAUSES: [Duration; 3] = [
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
];

/// What is to be attached.
pub(super) struct Add {
    pub(super) key: AttachmentKey,
    pub(super) sandbox: Sandbox,
    pub(super) pod: PodRef,
    pub(super) mtu: u32,
    pub(super) wishes: AddressWishes,
    pub(super) host_ports: Vec<PortMapping>,
}

impl Attacher {
    pub(super) async fn add(&self, add: Add, caller: &Caller) -> Result<Success, Failure> {
        let endpoint = tokio::select! {
            endpoint = self.find_endpoint(&add.pod) => endpoint?,
            () = caller.gone() => return Err(vanished()),
        };
        let interface = self.interface_of(&endpoint)?;
        let result = self.attach(&add, &endpoint, &interface, caller).await;
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

    async fn attach(
        &self,
        add: &Add,
        endpoint: &Object<WorkloadEndpointSpec>,
        interface: &InterfaceName,
        caller: &Caller,
    ) -> Result<Success, Failure> {
        let begun = Instant::now();
        let before = self.attached_before(&add.key);
        let mtu = self.mtu_of(add, before.as_ref()).await?;
        let attachment = Attachment {
            host_ports: add.host_ports.clone(),
            ..self.attachment(&add.key, &add.pod, interface.as_str(), mtu)
        };
        let holder = self.holder(&add.key, &add.pod);
        let _under_way = self.allocator.under_way(&holder.handle);
        let promise = match &before {
            Some(_) => Promise::default(),
            None => {
                self.allocator
                    .of_endpoint(&holder, endpoint, &add.wishes, self.stated)
                    .await?
            }
        };
        let gate = gate(&self.interfaces, &interface.to_string());
        let turn = gate.lock().await;
        let addressed = Instant::now();
        // On the disk before the interface exists: whatever dies from here on, the removal knows what to remove.
        let attachment = match before {
            Some(before) => {
                let addresses = before.addresses;
                self.record(Attachment {
                    addresses,
                    ..attachment
                })
                .await?
            }
            None => self.promised(attachment, promise, &holder).await?,
        };
        let recorded = Instant::now();
        let wanted = self.interface(&attachment, add.sandbox.clone())?;
        let mac = self.connect(wanted).await?;
        drop(turn);
        let connected = Instant::now();
        tokio::select! {
            waited = self.wait_programmed(interface, &attachment) => waited?,
            () = caller.gone() => return Err(vanished()),
        }
        tracing::debug!(
            key = %add.key,
            addresses = ?(addressed - begun),
            journal = ?(recorded - addressed),
            interface = ?(connected - recorded),
            policy = ?connected.elapsed(),
            "connected a pod; how long each step took"
        );
        Ok(success(&attachment, mac))
    }

    /// Makes an interface. The kernel's refusal is not believed at once: whoever puts endpoints into force may be at the
    /// same interface before it has heard of the addresses, and switch IPv6 off for a moment.
    async fn connect(&self, wanted: Interface) -> Result<String, Failure> {
        for pause in CONNECT_PAUSES {
            match self.connector.connect(wanted.clone()).await {
                Err(failure) if failure.code == code::KERNEL => {
                    tracing::debug!(%failure, "an interface could not be made; it is tried again");
                    tokio::time::sleep(pause).await;
                }
                other => return other,
            }
        }
        self.connector.connect(wanted).await
    }

    /// The largest packet of an interface: what the caller says, what it had before, or what fits into the node's network
    /// now.
    async fn mtu_of(&self, add: &Add, before: Option<&Attachment>) -> Result<u32, Failure> {
        let stated = [add.mtu, before.map_or(0, |before| before.mtu)];
        if let Some(mtu) = stated.into_iter().find(|mtu| *mtu != 0) {
            return Ok(mtu);
        }
        // The dataplane finds it out in its first pass, which the answer waits for anyway.
        let mut mtu = self.settings.mtu.clone();
        let found = timeout(self.settings.patience, mtu.wait_for(Option::is_some)).await;
        match found.map(|found| found.map(|mtu| *mtu)) {
            Ok(Ok(Some(mtu))) => Ok(mtu),
            Ok(_) => Err(Failure::new(code::TRY_AGAIN, "felix is stopping")),
            Err(_) => {
                let seconds = self.settings.patience.as_secs();
                let why = format!("how large pods' packets may be was not found out within {seconds} s");
                Err(Failure::new(code::TRY_AGAIN, why))
            }
        }
    }

    /// Gives addresses without an interface.
    pub(super) async fn assign(
        &self,
        key: &AttachmentKey,
        pod: PodRef,
        wishes: &AddressWishes,
        caller: &Caller,
    ) -> Result<Success, Failure> {
        let attachment = match self.attached_before(key) {
            Some(before) => before,
            None => {
                let holder = self.holder(key, &pod);
                let _under_way = self.allocator.under_way(&holder.handle);
                let promise = self.allocator.of_nobody(&holder, wishes).await?;
                self.promised(self.attachment(key, &pod, "", 0), promise, &holder)
                    .await?
            }
        };
        if caller.is_gone() {
            self.take_back(key).await;
            return Err(vanished());
        }
        Ok(success(&attachment, String::new()))
    }

    /// What an earlier request of the same key attached, in this boot of the machine.
    fn attached_before(&self, key: &AttachmentKey) -> Option<Attachment> {
        let before = self.journal.get(key)?;
        let lives = !self.is_of_another_boot(&before) && !self.journal.is_leaving(key);
        (lives && !before.addresses.is_empty()).then_some(before)
    }

    fn holder(&self, key: &AttachmentKey, pod: &PodRef) -> Holder {
        Holder {
            handle: key.handle(),
            attribute: holder::attribute(&self.settings.node, key, pod),
        }
    }

    /// Records an attachment with the addresses that it was promised. From then on they are its own.
    async fn promised(
        &self,
        attachment: Attachment,
        promise: Promise,
        holder: &Holder,
    ) -> Result<Attachment, Failure> {
        let attachment = Attachment {
            addresses: promise.addresses(),
            ..attachment
        };
        let before = self.journal.get(&attachment.key);
        match self.record(attachment).await {
            Ok(attachment) => {
                // What another boot of the machine gave to a sandbox of the same name.
                let mut stale = before.map(|before| before.addresses).unwrap_or_default();
                stale.retain(|address| !attachment.addresses.contains(address));
                self.allocator.free(&stale, &holder.handle);
                self.allocator.keep(promise, holder);
                Ok(attachment)
            }
            Err(failure) => {
                self.allocator.cancel(promise, &holder.handle);
                Err(failure)
            }
        }
    }

    async fn record(&self, attachment: Attachment) -> Result<Attachment, Failure> {
        // From the look at who has the ports until everybody sees whose they are.
        let _turn = match attachment.host_ports.is_empty() {
            true => None,
            false => Some(self.host_ports.lock().await),
        };
        self.refuse_taken(&attachment)?;
        self.journal
            .put(attachment.clone(), Origin::Made)
            .await
            .map_err(|error| journal_failure(&error))?;
        Ok(attachment)
    }

    fn attachment(&self, key: &AttachmentKey, pod: &PodRef, interface: &str, mtu: u32) -> Attachment {
        Attachment {
            key: key.clone(),
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            addresses: Vec::new(),
            host_interface: interface.to_string(),
            boot_id: self.boot_id.clone(),
            mtu,
            host_ports: Vec::new(),
        }
    }

    /// Waits until the pod's endpoint on this node is known.
    ///
    /// The node's watch tells of it, usually before the request comes. Once it is late, the datastore itself is asked.
    async fn find_endpoint(&self, pod: &PodRef) -> Result<Object<WorkloadEndpointSpec>, Failure> {
        let view = self.allocator.view();
        let begun = Instant::now();
        let deadline = begun + self.settings.patience;
        let mut changes = view.endpoint_changes();
        let mut is_asked = false;
        loop {
            changes.borrow_and_update();
            if let Some(endpoint) = view.endpoint(&pod.namespace, &pod.name, &pod.uid) {
                return Ok(endpoint);
            }
            let until = if is_asked {
                deadline
            } else {
                deadline.min(begun + UNTIL_ASKED)
            };
            match timeout_at(until, changes.changed()).await {
                Ok(_) => {}
                Err(_) if !is_asked => {
                    is_asked = true;
                    self.ask_for_endpoint(pod).await;
                }
                Err(_) => {
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
    }

    async fn ask_for_endpoint(&self, pod: &PodRef) {
        let name = usual_name(&self.settings.node, &pod.name);
        let key = Key::namespaced(Kind::WorkloadEndpoint, pod.namespace.clone(), name);
        let asked = self.allocator.store().get(&key);
        match tokio::time::timeout(self.settings.patience, asked).await {
            Ok(Ok(Some(found))) if matches!(&*found.resource, Resource::WorkloadEndpoint(e) if e.spec.node == self.settings.node) =>
            {
                self.allocator.view().note(&found);
            }
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot ask the datastore for a pod"),
        }
    }

    fn interface_of(&self, endpoint: &Object<WorkloadEndpointSpec>) -> Result<InterfaceName, Failure> {
        let prefixes = &self.settings.workloads.ownership.prefixes;
        naming::interface_of(endpoint, prefixes).map_err(|e| Failure::new(code::INVALID_REQUEST, e))
    }

    /// Waits until policy, routes and interface are in the kernel.
    async fn wait_programmed(
        &self,
        interface: &InterfaceName,
        attachment: &Attachment,
    ) -> Result<(), Failure> {
        let mut programmed = self.programmed.clone();
        let addresses = &attachment.addresses;
        let ports = attachment.mapped_ports();
        let in_force = |view: &EndpointView| {
            view.endpoints
                .get(interface.as_str())
                .is_some_and(|e| e.interface_up && addresses.iter().all(|a| e.addresses.contains(a)))
                && ports
                    .iter()
                    .all(|(port, to)| view.host_ports.get(port) == Some(to))
        };
        let waited = timeout(self.settings.patience, programmed.wait_for(in_force)).await;
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
}
