//! What is in use without an entry in the journal: after a wiped disk, or where another program attached it.
//!
//! Freeing an address that is in use gives it to two, keeping one that is not wastes it; the first is worse. So what
//! the kernel routes is kept and gets an entry of its own; what no interface has is freed, unless the journal was lost
//! and the pod is there: then it may be an address without an interface of ours, and goes with its pod.

use super::{Allocator, locked, pod_of};
use crate::holder::{self, PodRef};
use crate::interface::{Routed, Seen};
use crate::journal::{Attachment, Origin};
use crate::protocol::AttachmentKey;
use dataplane_netlink::host_interface_name;
use policy_model::{Object, Resource, WorkloadEndpointSpec};
use policy_model_ipam::Orphan;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Network of attachments that were found by their interface alone.
const FOUND: &str = "found";

impl Allocator {
    /// Decides about addresses that blocks say are used here and of which the journal knows nothing.
    pub(super) async fn judge(&self, orphans: Vec<Orphan>, routed: &Routed, journal_was_lost: bool) {
        let mut found: BTreeMap<AttachmentKey, Attachment> = BTreeMap::new();
        for orphan in orphans {
            let Some((key, pod)) = holder::read(&orphan.attribute) else {
                continue;
            };
            let interface = routed.get(&orphan.address);
            let has_others = self.journal().with_handle(&key.handle()).is_some();
            if self.is_living(&key.handle(), orphan.address) || (has_others && interface.is_some()) {
                continue;
            }
            let may_live = journal_was_lost
                && !has_others
                && pod_of(&orphan.attribute).is_none_or(|pod| self.is_here(&pod));
            if interface.is_none() && !may_live {
                tracing::info!(address = %orphan.address, handle = key.handle(), "nothing here has this address any more; it is freed");
                locked(&self.reserve).free_orphan(&orphan);
                continue;
            }
            let entry = found
                .entry(key.clone())
                .or_insert_with(|| self.attachment(key, pod));
            entry.addresses.push(orphan.address);
            if let Some(interface) = interface {
                entry.host_interface.clone_from(interface);
            }
        }
        for (_, mut attachment) in found {
            attachment.addresses.sort_unstable();
            self.enter(attachment).await;
        }
        self.work.notify_one();
    }

    /// Looks for the pods of reserved addresses that the kernel routes.
    pub(super) async fn recognise(&self, strangers: &[IpAddr], routed: &Routed) {
        let mut by_interface: BTreeMap<&String, Vec<IpAddr>> = BTreeMap::new();
        for address in strangers {
            if let Some(interface) = routed.get(address) {
                by_interface.entry(interface).or_default().push(*address);
            }
        }
        for (interface, mut addresses) in by_interface {
            tracing::warn!(
                interface,
                ?addresses,
                "an interface has addresses that no attachment accounts for"
            );
            let Some(pod) = self.pod_of_interface(interface) else {
                continue;
            };
            let key = AttachmentKey {
                network: FOUND.to_owned(),
                container_id: interface.clone(),
                interface: "eth0".to_owned(),
            };
            addresses.sort_unstable();
            let mut attachment = self.attachment(key, pod);
            attachment.addresses = addresses.clone();
            attachment.host_interface.clone_from(interface);
            let attribute = holder::attribute_of(self.node(), &attachment);
            if self.enter(attachment).await {
                let mut reserve = locked(&self.reserve);
                addresses
                    .iter()
                    .for_each(|address| reserve.recognise(*address, attribute.clone()));
            }
        }
        self.work.notify_one();
    }

    /// Names found attachments of which nothing is left, for who ends attachments: whoever else removed one from the
    /// journal could do so in the middle of its end.
    pub(super) fn name_gone(&self, seen: &Seen) {
        let found = self.journal().found();
        let gone = found.iter().filter(|attachment| !self.is_left(attachment, seen));
        self.gone
            .send_replace(gone.map(|attachment| attachment.key.clone()).collect());
    }

    /// Whether anything is left of a found attachment.
    fn is_left(&self, attachment: &Attachment, seen: &Seen) -> bool {
        let interface = &attachment.host_interface;
        if interface.is_empty() {
            // Of what names no pod only its runtime knows the end.
            return attachment.pod.is_empty() || self.is_here(&holder::pod_of(attachment));
        }
        let is_others = || {
            self.journal()
                .is_interface_of_another(attachment, &self.parts.boot_id)
        };
        // An interface that is down for a moment leads nowhere, and its pod has its addresses all the same.
        attachment.addresses.iter().any(|a| seen.routed.contains_key(a))
            || (seen.interfaces.contains(interface) && !is_others())
    }

    /// Addresses that the blocks say are used here, whose attachments the journal does not know.
    pub(super) fn orphans(&self) -> Vec<Orphan> {
        let blocks = self.view().own_blocks();
        let reserve = locked(&self.reserve);
        let blocks = blocks
            .iter()
            .filter_map(|resource| super::begin::as_block(resource));
        let mut orphans = policy_model_ipam::reserved::orphans(self.node(), blocks, |handle, address| {
            self.is_living(handle, address)
        });
        orphans.retain(|orphan| !reserve.is_freed(orphan.address));
        orphans
    }

    fn attachment(&self, key: AttachmentKey, pod: PodRef) -> Attachment {
        Attachment {
            key,
            namespace: pod.namespace,
            pod: pod.name,
            uid: pod.uid,
            addresses: Vec::new(),
            host_interface: String::new(),
            boot_id: self.parts.boot_id.clone(),
            mtu: 0,
            host_ports: Vec::new(),
        }
    }

    async fn enter(&self, attachment: Attachment) -> bool {
        tracing::info!(key = %attachment.key, addresses = ?attachment.addresses, interface = attachment.host_interface, "found an attachment that the journal did not know");
        match self.journal().put(attachment, Origin::Found).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, source = %error.source, "cannot record an attachment that was found");
                false
            }
        }
    }

    /// Whether a pod is one of this node's.
    fn is_here(&self, pod: &PodRef) -> bool {
        self.view()
            .endpoint(&pod.namespace, &pod.name, &pod.uid)
            .is_some()
    }

    fn pod_of_interface(&self, interface: &str) -> Option<PodRef> {
        let prefixes = &self.parts.workloads.ownership.prefixes;
        let has_it = |endpoint: &Object<WorkloadEndpointSpec>| {
            let usual = host_interface_name(prefixes, &endpoint.metadata.namespace, &endpoint.spec.pod);
            endpoint.spec.interface_name == interface || usual.is_ok_and(|usual| usual.as_str() == interface)
        };
        let endpoints = self.view().local_endpoints();
        endpoints.iter().find_map(|resource| match resource.as_ref() {
            Resource::WorkloadEndpoint(endpoint) if has_it(endpoint) => Some(PodRef {
                namespace: endpoint.metadata.namespace.clone(),
                name: endpoint.spec.pod.clone(),
                uid: endpoint.metadata.uid.clone(),
            }),
            _ => None,
        })
    }
}
