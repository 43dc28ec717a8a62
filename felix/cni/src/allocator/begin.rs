//! What a process does before it gives its first address: it finds out what lived before it.
//!
//! The journal says what this node attached, the kernel which addresses lead to interfaces, the blocks who holds what.
//! README.md says which of them wins after which death.

use super::{Allocator, locked};
use crate::holder;
use crate::interface::{self, Routed, Seen};
use policy_model::{AllocationAttribute, IpamBlockSpec, Kind, Resource};
use policy_model_ipam::engine::Given;
use policy_model_ipam::{NodeReserve, Rebuilt, block, pool};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Pause before the kernel is asked again.
const RETRY: Duration = Duration::from_secs(1);

impl Allocator {
    /// Waits for the view, and puts the reserve together again.
    pub(super) async fn begin(&self) {
        let mut in_sync = self.view().in_sync();
        if in_sync.wait_for(|yes| *yes).await.is_err() {
            return;
        }
        // What the kernel has must be known: giving an address that an interface has is the worst that can happen.
        let routed = loop {
            match self.seen().await {
                Ok(seen) => break seen.routed,
                Err(failure) => {
                    tracing::warn!(%failure, "cannot read which addresses are in use; no address is given until then");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let _turn = self.turn.lock().await;
        let Rebuilt {
            reserve,
            orphans,
            unheld,
            contested,
        } = self.rebuild(&routed);
        let strangers: Vec<IpAddr> = reserve.withheld().collect();
        for (given, of) in contested {
            // Of another node's block the view does not know whose the address is.
            let of = self.holder_of(given.address).await.unwrap_or(of);
            tracing::error!(
                address = %given.address,
                "{} has an address that its block gives to {}; delete the pod, so that it gets another",
                block::describe(&given.attribute),
                block::describe(&of),
            );
        }
        for given in unheld {
            // An address outside all pools is in no block.
            let pools = self.pools();
            if pool::containing(pools.iter().filter_map(super::as_pool), given.address).is_some()
                && let Err(error) = self.take_again(given.address, given.attribute).await
            {
                tracing::warn!(%error, address = %given.address, "cannot take an address again that an attachment has");
            }
        }
        self.judge(orphans, &routed, self.journal().is_new()).await;
        self.recognise(&strangers, &routed).await;
        self.publish_kept();
        self.begun.send_replace(true);
        let ready = locked(&self.reserve).ready_addresses().count();
        tracing::info!(
            ready,
            in_use = self.journal().all().len(),
            "it is known which addresses this node has"
        );
    }

    /// Who has an address by the datastore itself, if it says.
    async fn holder_of(&self, address: IpAddr) -> Option<AllocationAttribute> {
        let blocks = self.view().all(Kind::IPAMBlock);
        let around =
            |resource: &&Arc<Resource>| as_block(resource).is_some_and(|b| b.cidr.contains(&address));
        let key = blocks.iter().find(around)?.key();
        let found = self.parts.store.get(&key).await.ok().flatten()?;
        let held = block::holder(as_block(&found.resource)?, address)?;
        Some(held.attribute.clone())
    }

    /// Under the lock from the reading of the journal on: what is removed meanwhile is either not in it, or freed after.
    fn rebuild(&self, routed: &Routed) -> Rebuilt {
        let mut reserve = locked(&self.reserve);
        let blocks = self.view().all(Kind::IPAMBlock);
        let (attachments, leaving) = (self.journal().all(), self.journal().leaving());
        let alive = attachments
            .iter()
            .chain(&leaving)
            .filter(|a| !self.is_of_another_boot(a));
        let journal: Vec<Given> = alive
            .flat_map(|attachment| {
                let attribute = holder::attribute_of(self.node(), attachment);
                attachment.addresses.iter().map(move |address| Given {
                    address: *address,
                    attribute: attribute.clone(),
                })
            })
            .collect();
        let addresses: BTreeSet<IpAddr> = routed.keys().copied().collect();
        let rebuilt = NodeReserve::rebuild(
            self.node(),
            blocks.iter().filter_map(|resource| as_block(resource)),
            &journal,
            &addresses,
        );
        *reserve = rebuilt.reserve.clone();
        rebuilt
    }

    pub(super) fn is_of_another_boot(&self, attachment: &crate::journal::Attachment) -> bool {
        attachment.is_of_another_boot(&self.parts.boot_id)
    }

    /// What the kernel has of workloads.
    pub(super) async fn seen(&self) -> Result<Seen, crate::protocol::Failure> {
        let settings = self.parts.workloads.clone();
        interface::blocking(move || interface::see(&settings)).await
    }
}

pub(super) fn as_block(resource: &Resource) -> Option<&IpamBlockSpec> {
    match resource {
        Resource::IPAMBlock(block) => Some(&block.spec),
        _ => None,
    }
}
