//! An attachment ends: interface, flows, journal, addresses.

use super::{Attacher, EndpointView, gate, journal_failure};
use crate::interface::{blocking, cut, disconnect_all, forget_flows};
use crate::journal::{Attachment, Origin};
use crate::protocol::{AttachmentKey, Failure, Success, Valid, code};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

/// Pause before what could not be removed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// The removal of interfaces begins when none has been cut for so long. It keeps everybody else from the kernel's routing
/// side; and most interfaces go with their sandboxes meanwhile, many at once.
const QUIET: Duration = Duration::from_millis(50);
/// So many interfaces are removed at once: that keeps others waiting hardly longer than one does, for 20 ms.
const AT_ONCE: usize = 16;
/// It waits no longer for that than so.
const BUSY: Duration = Duration::from_millis(500);
/// How long the dataplane may take to forget the flows of an address that it guards, before it is done here.
const UNTIL_CLEAN: Duration = Duration::from_secs(1);

fn warn(attachment: &Attachment, failure: &Failure) {
    tracing::warn!(key = %attachment.key, %failure, "cannot remove what is left of an attachment; it is tried again");
}

fn interfaces<'a>(attachments: impl IntoIterator<Item = &'a Attachment>) -> BTreeSet<String> {
    let each = attachments.into_iter();
    each.map(|attachment| attachment.host_interface.clone()).collect()
}

impl Attacher {
    /// Undoes an attachment that did not come to be. What cannot be undone now is undone by the removal.
    pub(super) async fn take_back(&self, key: &AttachmentKey) {
        if let Err(failure) = self.remove(key).await {
            tracing::warn!(%key, %failure, "cannot take back a failed attachment");
        }
    }

    /// Answered when nothing passes any more and the journal says that the rest has to follow: the kernel takes its time
    /// to remove an interface.
    pub(super) async fn remove(&self, key: &AttachmentKey) -> Result<Success, Failure> {
        let Some(attachment) = self.recorded(key) else {
            // Unknown here, but a lost journal must not leak an address.
            let handle = key.handle();
            let held = self.allocator.held_by(&handle);
            self.allocator.free(&held, &handle);
            return Ok(Success::default());
        };
        let gate = gate(&self.interfaces, &attachment.host_interface);
        let _turn = gate.lock().await;
        if self.recorded(key).is_none() {
            return Ok(Success::default());
        }
        if !self.has_interface(&attachment) {
            if !self.is_of_another_boot(&attachment) {
                self.forget(&attachment.addresses).await?;
            }
            self.release(&attachment).await?;
            return Ok(Success::default());
        }
        let (settings, interface) = (self.settings.workloads.clone(), attachment.host_interface.clone());
        // Side by side: either alone has the rest follow, and the answer waits for both.
        let (is_cut, is_noted) = tokio::join!(
            blocking(move || cut(&settings, &interface)),
            self.journal.put(attachment.clone(), Origin::Leaving),
        );
        is_noted.map_err(|error| journal_failure(&error))?;
        self.leaving.notify_one();
        is_cut?;
        self.wait_unmapped(&attachment).await;
        Ok(Success::default())
    }

    /// Has the flows of addresses forgotten. The dataplane does so by itself for those that it guards.
    async fn forget(&self, addresses: &[IpAddr]) -> Result<(), Failure> {
        let mut programmed = self.programmed.clone();
        if self.allocator.keeps(addresses) {
            let are_clean =
                |view: &EndpointView| addresses.iter().all(|address| view.clean.contains(address));
            let waited = timeout(UNTIL_CLEAN, programmed.wait_for(are_clean)).await;
            if matches!(waited, Ok(Ok(_))) {
                return Ok(());
            }
        }
        let (settings, addresses) = (self.settings.workloads.clone(), addresses.to_vec());
        blocking(move || forget_flows(&settings, &addresses)).await
    }

    /// The last step of an end: nothing of the attachment is left but its entry and its addresses.
    async fn release(&self, attachment: &Attachment) -> Result<(), Failure> {
        self.journal
            .remove(&attachment.key)
            .await
            .map_err(|error| journal_failure(&error))?;
        self.allocator
            .free(&attachment.addresses, &attachment.key.handle());
        Ok(())
    }

    /// Whether there may be an interface that is this attachment's: one that a newer sandbox of the same pod has taken
    /// over is not, and what another boot of the machine had is gone.
    fn has_interface(&self, attachment: &Attachment) -> bool {
        !attachment.host_interface.is_empty()
            && !self.is_of_another_boot(attachment)
            && !self.journal.is_interface_of_another(attachment, &self.boot_id)
    }

    /// Ends for good what is ending, for as long as it is awaited.
    pub(super) async fn end_all_leaving(&self) {
        loop {
            self.end_leaving().await;
            tokio::select! {
                () = self.leaving.notified() => self.wait_quiet().await,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Ends attachments that were found, and of which nothing is left, for as long as it is awaited.
    pub(super) async fn end_all_gone(&self) {
        let mut gone = self.allocator.gone();
        while gone.changed().await.is_ok() {
            let keys = gone.borrow_and_update().clone();
            for key in keys {
                let gate = gate(&self.running, &key);
                let _turn = gate.lock().await;
                // It may have ended meanwhile, or the same sandbox may have been attached anew.
                if !self.journal.is_found(&key) {
                    continue;
                }
                tracing::info!(%key, "nothing is left of an attachment that was found; it ends");
                if let Err(failure) = self.remove(&key).await {
                    tracing::warn!(%key, %failure, "cannot end an attachment of which nothing is left; it is tried again");
                }
            }
        }
    }

    async fn wait_quiet(&self) {
        let quiet = async { while timeout(QUIET, self.leaving.notified()).await.is_ok() {} };
        // A node that is busy for longer does both at once.
        let _ = timeout(BUSY, quiet).await;
    }

    /// Ends for good what is ending; what cannot be ended now stays in the journal.
    ///
    /// Interfaces first, then the flows of all their addresses, then the journal's entries, then the addresses: none is
    /// given again while something of the old holder is left, and whatever dies in between is found by who comes next.
    pub(super) async fn end_leaving(&self) {
        let leaving = self.journal.leaving();
        let mut ending = Vec::new();
        for some in leaving.chunks(AT_ONCE) {
            ending.extend(self.remove_interfaces(some).await);
        }
        let living = ending
            .iter()
            .filter(|attachment| !self.is_of_another_boot(attachment));
        let addresses: Vec<IpAddr> = living.flat_map(|a| a.addresses.iter().copied()).collect();
        if !addresses.is_empty()
            && let Err(failure) = self.forget(&addresses).await
        {
            ending.iter().for_each(|attachment| warn(attachment, &failure));
            return;
        }
        for some in ending.chunks(AT_ONCE) {
            self.release_all(some).await;
        }
    }

    /// Removes the interfaces of attachments that are ending, and returns those of which none is left.
    async fn remove_interfaces<'a>(&self, leaving: &'a [Arc<Attachment>]) -> Vec<&'a Attachment> {
        let leaving = leaving.iter().map(Arc::as_ref);
        let _turns = self.turns(interfaces(leaving.clone())).await;
        let mut ending: Vec<&Attachment> = leaving
            .filter(|attachment| self.journal.is_leaving(&attachment.key))
            .collect();
        let had = ending.iter().copied();
        let had = interfaces(had.filter(|attachment| self.has_interface(attachment)));
        if had.is_empty() {
            return ending;
        }
        let settings = self.settings.workloads.clone();
        match blocking(move || disconnect_all(settings, had)).await {
            Ok(failures) => ending.retain(|attachment| {
                let failure = failures.get(&attachment.host_interface);
                failure.inspect(|failure| warn(attachment, failure)).is_none()
            }),
            Err(failure) => ending.drain(..).for_each(|attachment| warn(attachment, &failure)),
        }
        ending
    }

    /// Ends for good those of which nothing else is left.
    async fn release_all(&self, ending: &[&Attachment]) {
        let _turns = self.turns(interfaces(ending.iter().copied())).await;
        // The same sandbox may have been attached anew meanwhile, and released these addresses by that.
        let still = ending.iter().filter(|attachment| {
            self.journal.is_leaving(&attachment.key)
                && self.recorded(&attachment.key).as_ref() == Some(**attachment)
        });
        let still: Vec<&Attachment> = still.copied().collect();
        let keys: Vec<&AttachmentKey> = still.iter().map(|attachment| &attachment.key).collect();
        for (attachment, removed) in still.iter().zip(self.journal.remove_all(&keys).await) {
            match removed {
                Ok(()) => self
                    .allocator
                    .free(&attachment.addresses, &attachment.key.handle()),
                Err(error) => warn(attachment, &journal_failure(&error)),
            }
        }
    }

    /// Lets nobody else work on these interfaces. Two sandboxes of one pod have one name for theirs, and a gate lets one
    /// through.
    async fn turns(&self, interfaces: BTreeSet<String>) -> Vec<OwnedMutexGuard<()>> {
        let mut turns = Vec::with_capacity(interfaces.len());
        for interface in &interfaces {
            turns.push(gate(&self.interfaces, interface).lock_owned().await);
        }
        turns
    }

    /// Removes every attachment of a network that is not named. All are tried, whatever becomes of one.
    pub(super) async fn collect(&self, network: &str, valid: Vec<Valid>) -> Result<Success, Failure> {
        let valid: BTreeSet<Valid> = valid.into_iter().collect();
        let attachments = self.journal.all();
        let of_network = attachments.iter().map(|attachment| &attachment.key);
        let stale: Vec<AttachmentKey> = of_network
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

    /// Gives back the addresses of what a start of the machine has ended; says whether all of it is done.
    pub(super) async fn release_other_boots(&self) -> bool {
        // Until then the entries say whose the addresses are that the blocks still give to them.
        if !self.allocator.has_begun() {
            return false;
        }
        let attachments = self.journal.all();
        let dead = attachments
            .iter()
            .filter(|attachment| self.is_of_another_boot(attachment));
        let dead: Vec<AttachmentKey> = dead.map(|attachment| attachment.key.clone()).collect();
        let mut is_settled = true;
        for key in dead {
            let gate = gate(&self.running, &key);
            let _turn = gate.lock().await;
            // The same sandbox may have been attached anew meanwhile.
            if self
                .journal
                .get(&key)
                .is_none_or(|a| !self.is_of_another_boot(&a))
            {
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
