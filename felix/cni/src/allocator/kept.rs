//! Addresses that nobody but this node's pods may have, for who guards them while nobody has them.
//!
//! From the reserve to the end of an attachment an address is among them without a gap, so that it is guarded from the
//! moment it becomes vacant. The dataplane says which vacant ones have no flow left: these are given first, for who gets
//! one waits for nothing.

use super::{Allocator, begin::as_block, locked};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;

impl Allocator {
    /// Follows which addresses are this node's.
    pub(crate) fn kept(&self) -> watch::Receiver<Arc<BTreeSet<IpAddr>>> {
        self.kept.subscribe()
    }

    /// Whether all of these are.
    pub(crate) fn keeps(&self, addresses: &[IpAddr]) -> bool {
        let kept = self.kept.borrow();
        addresses.iter().all(|address| kept.contains(address))
    }

    /// Says which addresses are this node's now: its reserve, and what its attachments have of its blocks. Where others
    /// make the interface, others also know when nobody has the address.
    pub(crate) fn publish_kept(&self) {
        self.kept.send_if_modified(|known| {
            // Under the lock of what is published, so that an older picture never takes the place of a newer one.
            let blocks = self.view().own_blocks();
            let blocks: Vec<IpNet> = blocks.iter().filter_map(|r| Some(as_block(r)?.cidr)).collect();
            let (attachments, leaving) = (self.journal().all(), self.journal().leaving());
            let with_interface = attachments
                .iter()
                .chain(&leaving)
                .filter(|a| !a.host_interface.is_empty() && !self.is_of_another_boot(a));
            let of_blocks = with_interface
                .flat_map(|attachment| attachment.addresses.iter().copied())
                .filter(|address| blocks.iter().any(|block| block.contains(address)));
            let mut now: BTreeSet<IpAddr> = of_blocks.collect();
            // What others hold by the journal without an interface of ours is in no reserve that can be given.
            if self.parts.reserves {
                now.extend(locked(&self.reserve).unused_addresses());
            }
            let changed = **known != now;
            if changed {
                *known = Arc::new(now);
            }
            changed
        });
    }

    /// Which addresses of the reserve can be given without waiting.
    pub(super) fn is_clean(&self) -> impl Fn(&IpAddr) -> bool + use<> {
        let in_force = self.parts.programmed.borrow().clone();
        move |address| in_force.clean.contains(address)
    }
}
