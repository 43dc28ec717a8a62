//! What goes to the datastore in the background: the record of what was given and taken back, and the reserve's filling.

use super::{Allocator, locked};
use crate::ipam::RequestError;
use crate::protocol::Failure;
use policy_model::AllocationAttribute;
use policy_model_ipam::engine::{AssignSpecific, AutoAssign, Outcome, Record, Refill, Request, Shortfall};
use policy_model_ipam::{Family, IpamError, config, handle, name};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// From the end of one write of what was given and taken back to the beginning of the next, and from the first of several
/// attachments that are made at once to the write: what comes in between goes in one. While pods come, the writes are most
/// of what the API server has to do: each costs it some ten milliseconds of processor time.
const COALESCE: Duration = Duration::from_millis(10);
/// How often it is looked whether something is not needed any more.
const UPKEEP: Duration = Duration::from_secs(10);
/// Pause after a first failure of the datastore; it doubles up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Longest pause after failures of the datastore.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// Most records that are written one after the other because the blocks contradict them.
const MOST_RECORDS: usize = 1000;
/// How many addresses of a family the reserve holds when it is full, where blocks are large enough ([`LARGE`]).
///
/// An address can be given at once when connection tracking was looked through since it was reserved. From the moment when
/// the reserve is found low until then two writes, a pause and a look pass, some 30 ms: pods that come one after the other
/// take a dozen meanwhile.
const FULL: usize = 32;
/// The size from which a block is large: half of it may be reserved. Of smaller ones it is a quarter.
const LARGE: usize = 64;
/// Where a node may use its own blocks only, all of a block is reserved, up to so many addresses.
const FULL_STRICT: usize = 256;

/// How many addresses a reserve shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Depth {
    full: usize,
    /// Below this it is filled.
    low: usize,
    /// Below this no time is lost before it is filled.
    urgent: usize,
    /// Below this another block is claimed.
    least: usize,
}

impl Depth {
    /// For blocks of so many addresses. What one node reserves no other can borrow, so small blocks are not emptied.
    fn of(block: usize, strict: bool) -> Self {
        let full = if strict {
            block.min(FULL_STRICT)
        } else {
            let part = if block >= LARGE { 2 } else { 4 };
            FULL.min(block / part).max(1)
        };
        let usual = full.min(FULL);
        Depth {
            full,
            low: (usual * 3 / 4).max(1),
            urgent: usual / 4,
            least: (usual / 8).max(1),
        }
    }
}

impl Allocator {
    /// Works until it is dropped.
    pub(crate) async fn run(&self) {
        self.begin().await;
        let mut ground = self.view().ground_changes();
        let mut tick = tokio::time::interval(UPKEEP);
        let mut failures = 0u32;
        let mut last: Option<Instant> = None;
        // The first filling needs no cause.
        self.work.notify_one();
        loop {
            let mut is_upkeep_due = false;
            tokio::select! {
                () = self.work.notified() => {}
                Ok(()) = ground.changed() => {
                    self.observe();
                    is_upkeep_due = true;
                }
                _ = tick.tick() => is_upkeep_due = true,
            }
            self.let_gather(last).await;
            let outcome = self.round(is_upkeep_due).await;
            last = Some(Instant::now());
            match outcome {
                Ok(()) => failures = 0,
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%error, "addresses cannot be written to the datastore now; it is tried again");
                    }
                    let pause = FIRST_RETRY
                        .saturating_mul(1 << failures.min(8))
                        .min(LONGEST_RETRY);
                    failures = failures.saturating_add(1);
                    tokio::time::sleep(pause).await;
                    self.work.notify_one();
                }
            }
        }
    }

    /// Waits for what else comes that can go in the same write, unless somebody waits for addresses.
    async fn let_gather(&self, last: Option<Instant>) {
        let is_awaited = self.tickets.load(Ordering::SeqCst) > *self.served.borrow();
        if is_awaited || self.is_running_out() {
            return;
        }
        // The attachment that is the cause of this write may not be quite done; others will be the cause of one.
        let others_follow = locked(&self.under_way).len() > 1;
        let from = if others_follow { Some(Instant::now()) } else { last };
        if let Some(from) = from {
            sleep_until(from + COALESCE).await;
        }
    }

    /// Writes what is still to be written, before the process ends. What cannot be written is in the journal.
    pub(crate) async fn flush(&self) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        Ok(self.write_behind().await?)
    }

    async fn round(&self, is_upkeep_due: bool) -> Result<(), RequestError> {
        let _turn = self.turn.lock().await;
        let ticket = self.tickets.load(Ordering::SeqCst);
        let work = async {
            self.write_behind_and_take(|| self.refill()).await?;
            self.fill(ticket).await
        };
        let result = work.await;
        self.publish_kept();
        // Who waits goes on in any case: the datastore then says to him what is wrong.
        self.served.send_if_modified(|served| {
            let is_more = ticket > *served;
            *served = ticket.max(*served);
            is_more
        });
        result?;
        if is_upkeep_due {
            self.upkeep().await
        } else {
            Ok(())
        }
    }

    /// Tells the blocks what was given and taken back. The caller has the turn.
    pub(super) async fn write_behind(&self) -> Result<(), RequestError> {
        self.write_behind_and_take(Refill::default).await
    }

    /// The same, and takes more for the reserve where that costs no further write.
    async fn write_behind_and_take(&self, refill: impl Fn() -> Refill) -> Result<(), RequestError> {
        for _ in 0..MOST_RECORDS {
            let Some(mut record) = locked(&self.reserve).begin_record() else {
                return Ok(());
            };
            record.refill = refill();
            let mut writing = Writing {
                allocator: self,
                is_written: false,
            };
            let outcome = self.request(Request::Record(record.clone())).await;
            writing.is_written = outcome.is_ok();
            drop(writing);
            match outcome {
                Ok(Outcome::Recorded { reserved }) => {
                    for family in [Family::V4, Family::V6] {
                        self.stock(family, of_family(&reserved, family));
                    }
                    return Ok(());
                }
                Ok(other) => {
                    tracing::error!(?other, "address management answered something else");
                    return Ok(());
                }
                Err(RequestError::Refused(error)) => self.contradicted(error, &record).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A block contradicts the record of an address.
    async fn contradicted(&self, error: IpamError, record: &Record) -> Result<(), RequestError> {
        match &error {
            IpamError::Taken { address, holder } if self.is_own_ghost(holder, *address) => {
                // What an earlier request wrote that was believed to have failed.
                let handle = holder.handle_id.clone().unwrap_or_default();
                tracing::warn!(%address, handle, "a block says that an attachment has an address that is no longer there");
                locked(&self.reserve).free(*address, &handle);
                Ok(())
            }
            IpamError::Taken { address, .. } | IpamError::NotReserved { address, .. } => {
                let holder = locked(&self.reserve).dispute(*address);
                match holder {
                    Some(attribute) => self.take_again(*address, attribute).await,
                    None => Ok(()),
                }
            }
            _ => {
                tracing::error!(%error, addresses = record.given.len() + record.freed.len(), "addresses cannot be recorded");
                Err(error.into())
            }
        }
    }

    fn is_own_ghost(&self, holder: &AllocationAttribute, address: IpAddr) -> bool {
        let is_here = holder.secondary.get(handle::ATTRIBUTE_NODE).map(String::as_str) == Some(self.node());
        let handle = holder.handle_id.as_deref().unwrap_or_default();
        is_here && !handle::is_of_node(handle, self.node()) && !self.is_living(handle, address)
    }

    /// Takes an address for an attachment that has it already, because its block does not say so.
    pub(super) async fn take_again(
        &self,
        address: IpAddr,
        attribute: AllocationAttribute,
    ) -> Result<(), RequestError> {
        let request = AssignSpecific {
            addresses: vec![address],
            handle: attribute.handle_id.clone().unwrap_or_default(),
            attributes: attribute.secondary.clone(),
            node: self.node().to_owned(),
            strict_affinity: Some(false),
        };
        match self.request(Request::AssignSpecific(request)).await {
            Ok(_) => {
                tracing::warn!(%address, "a block did not say that an attachment of this node has an address; it does now");
                Ok(())
            }
            Err(RequestError::Refused(error)) => {
                let whose = policy_model_ipam::block::describe(&attribute);
                tracing::error!(
                    %address, %error,
                    "{whose} has an address that its block does not give to it; delete the pod, so that it gets another"
                );
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Fills the reserve where it is low or somebody waits. The caller has the turn, and nothing is left to be recorded.
    async fn fill(&self, ticket: u64) -> Result<(), RequestError> {
        let waiting = usize::try_from(ticket.saturating_sub(*self.served.borrow())).unwrap_or(usize::MAX);
        for family in [Family::V4, Family::V6] {
            let Some(depth) = self.depth(family) else { continue };
            if !self.is_low(family, depth) && waiting == 0 {
                continue;
            }
            let committed = locked(&self.reserve).committed(family);
            let full = committed.saturating_add(depth.full.max(waiting.min(FULL_STRICT)));
            let (ipv4, ipv6) = match family {
                Family::V4 => (full, 0),
                Family::V6 => (0, full),
            };
            let request = AutoAssign {
                shortfall: Shortfall::AcceptFrom(committed.saturating_add(depth.least)),
                node_labels: self.view().node_labels(),
                takes_abandoned: self.parts.takes_abandoned,
                ..AutoAssign::reserve(self.node(), ipv4, ipv6)
            };
            match self.request(Request::AutoAssign(request)).await {
                Ok(Outcome::Assigned(all)) => self.stock(family, all.into_iter().map(|one| one.address)),
                Ok(other) => tracing::error!(?other, "address management answered something else"),
                // Whoever needs an address now hears it from his own request; it may be that he can borrow.
                Err(RequestError::Refused(error)) => tracing::debug!(%family, %error, "nothing to reserve"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the reserve is to be filled.
    fn is_low(&self, family: Family, depth: Depth) -> bool {
        let ready = locked(&self.reserve).ready(family);
        self.parts.reserves && (ready < depth.low || self.shortages.has(family))
    }

    /// What a record is to take for the reserve from the blocks that it writes anyway.
    fn refill(&self) -> Refill {
        let mut refill = Refill::default();
        for (family, wanted) in [(Family::V4, &mut refill.ipv4), (Family::V6, &mut refill.ipv6)] {
            let Some(depth) = self.depth(family) else { continue };
            if !self.is_low(family, depth) {
                continue;
            }
            *wanted = depth.full.saturating_sub(locked(&self.reserve).ready(family));
            let pools = self.serving_pools(family);
            refill.ranges.extend(pools.iter().map(|pool| pool.cidr));
            refill.reservations = self.view().reservations();
        }
        refill
    }

    /// The reserve has these now.
    fn stock(&self, family: Family, addresses: impl IntoIterator<Item = IpAddr>) {
        let stocked = locked(&self.reserve).stock(addresses);
        if stocked > 0 {
            self.shortages.served(family, &[]);
            self.publish_kept();
            tracing::debug!(%family, stocked, "reserved addresses ahead of need");
        }
    }

    /// Whether so little is left of the reserve that it has to be filled without delay: a burst of pods takes it faster than
    /// it is filled.
    fn is_running_out(&self) -> bool {
        let is_short = |family| {
            let ready = locked(&self.reserve).ready(family);
            self.depth(family).is_some_and(|depth| ready < depth.urgent)
        };
        self.parts.reserves && [Family::V4, Family::V6].into_iter().any(is_short)
    }

    /// How many addresses of a family to reserve; nothing where no pool may serve this node's pods.
    fn depth(&self, family: Family) -> Option<Depth> {
        let pools = self.serving_pools(family);
        let blocks = pools.iter().map(|pool| {
            let bits = u32::from(family.bits() - pool.block_prefix_len());
            1usize.checked_shl(bits).unwrap_or(usize::MAX)
        });
        let settings = self.view().get(&name::config_key());
        let settings = settings.as_ref().and_then(|found| match found.resource.as_ref() {
            policy_model::Resource::IPAMConfig(config) => Some(&config.spec),
            _ => None,
        });
        let strict = config::resolve(settings, None, None).strict_affinity;
        blocks.max().map(|block| Depth::of(block, strict))
    }

    /// Compares the reserve with the blocks as they are now.
    pub(super) fn observe(&self) {
        let Some(blocks) = self.view().current(policy_model::Kind::IPAMBlock) else {
            return;
        };
        let mut reserve = locked(&self.reserve);
        let mut lost = 0;
        let mut seen: Vec<&policy_model::IpamBlockSpec> = Vec::new();
        let ready: Vec<IpAddr> = reserve.ready_addresses().collect();
        for found in &blocks {
            if let policy_model::Resource::IPAMBlock(block) = found.resource().as_ref()
                && ready.iter().any(|address| block.spec.cidr.contains(address))
            {
                lost += reserve.observe(&block.spec);
                seen.push(&block.spec);
            }
        }
        for address in ready {
            if !seen.iter().any(|block| block.cidr.contains(&address)) {
                lost += reserve.observe_gone(&ipnet::IpNet::from(address));
            }
        }
        drop(reserve);
        if lost > 0 {
            self.publish_kept();
            tracing::warn!(
                lost,
                "addresses that this node had reserved were given back by somebody else"
            );
        }
    }
}

fn of_family(addresses: &[IpAddr], family: Family) -> impl Iterator<Item = IpAddr> {
    let all = addresses.iter().copied();
    all.filter(move |address| Family::of_address(*address) == family)
}

/// A record on its way. It may be written or not when this is dropped before its end.
struct Writing<'a> {
    allocator: &'a Allocator,
    is_written: bool,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        locked(&self.allocator.reserve).end_record(self.is_written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_blocks_are_not_emptied_and_own_blocks_are_reserved_whole() {
        let of = |block, strict| {
            let Depth {
                full,
                low,
                urgent,
                least,
            } = Depth::of(block, strict);
            (full, low, urgent, least)
        };
        assert_eq!(of(64, false), (32, 24, 8, 4));
        assert_eq!(of(65_536, false), (32, 24, 8, 4));
        assert_eq!(of(32, false), (8, 6, 2, 1));
        assert_eq!(of(8, false), (2, 1, 0, 1));
        assert_eq!(of(1, false), (1, 1, 0, 1));
        assert_eq!(of(64, true), (64, 24, 8, 4));
        assert_eq!(of(65_536, true), (256, 24, 8, 4));
    }
}
