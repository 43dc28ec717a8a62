//! The owner of the node's addresses: reserves them ahead of need, gives them from memory, and tells the blocks later.
//!
//! An attachment takes an address from the reserve, records it in the journal and goes on; no write to the datastore is
//! waited for. One task ([`Allocator::run`]) writes behind what was given and taken back, all of it in one write a block,
//! fills the reserve before it is empty and gives back what is not needed. Only what the reserve cannot serve waits for
//! the datastore: named addresses, pools that a pod asks for, and borrowing when the node's own blocks are full.

mod begin;
mod found;
mod kept;
mod named;
mod tunnels;
mod upkeep;
mod write;

use crate::attach::EndpointView;
use crate::holder::PodRef;
use crate::ipam;
use crate::journal::Journal;
use crate::protocol::{AttachmentKey, Failure, code};
use crate::shortage::Shortages;
use crate::tunnel_addresses::TunnelAddresses;
use crate::view::ClusterView;
use dataplane_netlink::workload::WorkloadSettings;
use policy_model::{AllocationAttribute, IpPoolSpec, Kind, Object, Resource};
use policy_model_datastore::Datastore;
use policy_model_ipam::engine::{AutoAssign, Outcome, Request};
use policy_model_ipam::pool::{self, PoolRef, Use, Wish};
use policy_model_ipam::{Family, IpamError, NodeReserve, handle};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use upkeep::Idle;

/// How often an attachment waits for the reserve to be filled before it asks the datastore itself.
const ROUNDS: usize = 3;

/// What an allocator is made of.
pub(crate) struct Parts {
    pub(crate) node: String,
    pub(crate) boot_id: String,
    pub(crate) workloads: WorkloadSettings,
    pub(crate) store: Arc<dyn Datastore>,
    pub(crate) view: Arc<ClusterView>,
    pub(crate) journal: Arc<Journal>,
    /// What is in force on the node.
    pub(crate) programmed: watch::Receiver<EndpointView>,
    /// How long an attachment waits for what it needs.
    pub(crate) patience: Duration,
    /// Whether blocks of other nodes that have long been empty may be taken where there is no other room.
    pub(crate) takes_abandoned: bool,
    /// Whether addresses are reserved ahead of need, and guarded while nobody has them.
    pub(crate) reserves: bool,
    /// Whether the node's tunnel devices have addresses of the pools.
    pub(crate) keeps_tunnels: bool,
}

/// See the module.
pub(crate) struct Allocator {
    parts: Parts,
    reserve: Mutex<NodeReserve>,
    kept: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    /// Whether the reserve is known: what lived before this process was found out.
    begun: watch::Sender<bool>,
    /// One request about the node's blocks at a time.
    turn: tokio::sync::Mutex<()>,
    work: Notify,
    /// How many attachments have found the reserve too small, and up to which of them it was filled since.
    tickets: AtomicU64,
    served: watch::Sender<u64>,
    shortages: Shortages,
    /// Handles of attachments that are being made: no block's word about them is judged.
    under_way: Mutex<BTreeSet<String>>,
    idle: Mutex<Idle>,
    /// Found attachments of which nothing is left.
    gone: watch::Sender<Vec<AttachmentKey>>,
    /// Given from host-local ranges, and not in the journal yet; and the last one of each range.
    local: Mutex<crate::host_local::Given>,
    tunnels: watch::Sender<Option<TunnelAddresses>>,
}

/// Who is to have addresses.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) handle: String,
    pub(crate) attribute: AllocationAttribute,
}

/// One address that is wished for.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    pub(crate) family: Family,
    /// Pools that were asked for; empty means any.
    pub(crate) pools: Vec<PoolRef>,
}

/// Addresses for an attachment that is not in the journal yet. Ends in [`Allocator::keep`] or [`Allocator::cancel`].
#[must_use]
#[derive(Debug, Default)]
pub(crate) struct Promise {
    /// From the reserve.
    reserved: Vec<IpAddr>,
    /// Written to their blocks already, or in none.
    written: Vec<IpAddr>,
    /// From a range of this node's own.
    local: Vec<IpAddr>,
}

impl Promise {
    /// Addresses that need no bookkeeping but the journal's.
    pub(crate) fn outside(addresses: Vec<IpAddr>) -> Self {
        Promise {
            written: addresses,
            ..Promise::default()
        }
    }

    pub(crate) fn of_ranges(addresses: Vec<IpAddr>) -> Self {
        Promise {
            local: addresses,
            ..Promise::default()
        }
    }

    /// All addresses, sorted.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let all = self.reserved.iter().chain(&self.written).chain(&self.local);
        let mut all: Vec<IpAddr> = all.copied().collect();
        all.sort_unstable();
        all
    }

    fn has(&self, family: Family) -> bool {
        self.addresses().iter().any(|a| Family::of_address(*a) == family)
    }
}

/// Keeps a handle among those that are under way.
pub(crate) struct UnderWay<'a> {
    allocator: &'a Allocator,
    handle: String,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        locked(&self.allocator.under_way).remove(&self.handle);
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the lock guards is written in single steps; a panic between them leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Allocator {
    pub(crate) fn new(parts: Parts) -> Self {
        let reserve = NodeReserve::new(&parts.node);
        Allocator {
            parts,
            reserve: Mutex::new(reserve),
            kept: watch::Sender::default(),
            begun: watch::Sender::new(false),
            turn: tokio::sync::Mutex::default(),
            work: Notify::new(),
            tickets: AtomicU64::new(0),
            served: watch::Sender::new(0),
            shortages: Shortages::default(),
            under_way: Mutex::default(),
            idle: Mutex::default(),
            gone: watch::Sender::default(),
            local: Mutex::default(),
            tunnels: watch::Sender::default(),
        }
    }

    /// Leaves other nodes' blocks to whoever cleans up after them.
    pub(crate) fn leaving_abandoned_blocks(mut self) -> Self {
        self.parts.takes_abandoned = false;
        self
    }

    /// Takes addresses only when somebody asks for one.
    pub(crate) fn reserving_nothing(mut self) -> Self {
        self.parts.reserves = false;
        self
    }

    /// Has the node's tunnel devices have addresses of the pools.
    pub(crate) fn keeping_tunnel_addresses(mut self) -> Self {
        self.parts.keeps_tunnels = true;
        self
    }

    /// The same, with another view. Only before it runs.
    pub(crate) fn with_view(self, view: Arc<ClusterView>) -> Self {
        Allocator::new(Parts { view, ..self.parts })
    }

    pub(crate) fn node(&self) -> &str {
        &self.parts.node
    }

    pub(crate) fn view(&self) -> &Arc<ClusterView> {
        &self.parts.view
    }

    pub(crate) fn store(&self) -> &Arc<dyn Datastore> {
        &self.parts.store
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.parts.journal
    }

    pub(crate) fn local(&self) -> MutexGuard<'_, crate::host_local::Given> {
        locked(&self.local)
    }

    /// Marks an attachment as under way.
    pub(crate) fn under_way(&self, handle: &str) -> UnderWay<'_> {
        locked(&self.under_way).insert(handle.to_owned());
        UnderWay {
            allocator: self,
            handle: handle.to_owned(),
        }
    }

    /// Follows which attachments were found, and have ended without a word of their runtime. To be ended at the gates.
    pub(crate) fn gone(&self) -> watch::Receiver<Vec<AttachmentKey>> {
        self.gone.subscribe()
    }

    /// Waits until it is known what lived before this process.
    pub(crate) async fn wait_begun(&self) -> Result<(), Failure> {
        let mut begun = self.begun.subscribe();
        match tokio::time::timeout(self.parts.patience, begun.wait_for(|yes| *yes)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.not_begun()),
        }
    }

    fn not_begun(&self) -> Failure {
        Failure::new(
            code::TRY_AGAIN,
            "felix has not read yet which addresses the cluster's IP pools and blocks give to this node",
        )
    }

    pub(crate) fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Addresses that a handle holds by a block's word, and that are not on their way out.
    pub(crate) fn held_by(&self, handle: &str) -> Vec<IpAddr> {
        let blocks = self.parts.view.own_blocks();
        let reserve = locked(&self.reserve);
        let held = blocks.iter().flat_map(|resource| holders(resource));
        let mut held: Vec<IpAddr> = held
            .filter(|held| held.attribute.handle_id.as_deref() == Some(handle))
            .map(|held| held.address)
            .filter(|address| !reserve.is_freed(*address))
            .collect();
        held.sort_unstable();
        held
    }

    /// One address for each want, from the reserve where it has them.
    pub(crate) async fn any(&self, holder: &Holder, wants: &[Want]) -> Result<Promise, Failure> {
        self.wait_begun().await?;
        let mut promise = Promise::default();
        let deadline = Instant::now() + self.parts.patience;
        for _ in 0..ROUNDS {
            if let Err(error) = self.take(wants, &mut promise) {
                self.cancel(promise, &holder.handle);
                return Err(Failure::new(code::NO_ADDRESS, error));
            }
            let missing: Vec<&Want> = wants.iter().filter(|want| !promise.has(want.family)).collect();
            if missing.is_empty() {
                return Ok(promise);
            }
            // The reserve is not filled from pools that must be asked for.
            if missing.iter().any(|want| !want.pools.is_empty()) {
                break;
            }
            let ticket = self.tickets.fetch_add(1, Ordering::SeqCst) + 1;
            let mut served = self.served.subscribe();
            self.work.notify_one();
            let _ = timeout_at(deadline, served.wait_for(|served| *served >= ticket)).await;
        }
        let missing: Vec<&Want> = wants.iter().filter(|want| !promise.has(want.family)).collect();
        match self.ask_for_any(holder, &missing).await {
            Ok(addresses) => {
                promise.written.extend(addresses);
                Ok(promise)
            }
            Err(failure) => {
                self.cancel(promise, &holder.handle);
                Err(failure)
            }
        }
    }

    /// Takes what the reserve has of what is missing.
    fn take(&self, wants: &[Want], promise: &mut Promise) -> Result<(), IpamError> {
        let pools = self.pools();
        let (reserved, labels) = (self.parts.view.reservations(), self.parts.view.node_labels());
        let is_clean = self.is_clean();
        for want in wants {
            if promise.has(want.family) {
                continue;
            }
            let wish = wish(want.family, &want.pools, &labels);
            let choice = pool::choose(pools.iter().filter_map(as_pool), &wish)
                .map_err(|(pool, refusal)| IpamError::RequestedPool { pool, refusal })?;
            let is_usable = |address: IpAddr| {
                Family::of_address(address) == want.family
                    && !reserved.contains(address)
                    && choice.usable.iter().any(|pool| pool.spec.cidr.contains(&address))
            };
            let mut reserve = locked(&self.reserve);
            let clean = reserve.take(|address| is_clean(&address) && is_usable(address));
            let taken = clean.or_else(|| reserve.take(is_usable));
            promise.reserved.extend(taken);
        }
        Ok(())
    }

    /// Has the datastore give addresses to a holder at once.
    async fn ask_for_any(&self, holder: &Holder, wants: &[&Want]) -> Result<Vec<IpAddr>, Failure> {
        let pools = |family| {
            let of_family = wants.iter().find(|want| want.family == family);
            of_family.map(|want| want.pools.clone()).unwrap_or_default()
        };
        let count = |family| wants.iter().filter(|want| want.family == family).count();
        let _turn = self.turn.lock().await;
        self.write_behind().await?;
        let request = AutoAssign {
            ipv4: count(Family::V4),
            ipv6: count(Family::V6),
            attributes: holder.attribute.secondary.clone(),
            ipv4_pools: pools(Family::V4),
            ipv6_pools: pools(Family::V6),
            node_labels: self.parts.view.node_labels(),
            takes_abandoned: self.parts.takes_abandoned,
            ..AutoAssign::new(&self.parts.node, &holder.handle)
        };
        let outcome = self.request(Request::AutoAssign(request)).await;
        for want in wants {
            match &outcome {
                Ok(_) => self.shortages.served(want.family, &want.pools),
                Err(ipam::RequestError::Refused(error)) => {
                    self.shortages.refused(want.family, &want.pools, error);
                }
                Err(ipam::RequestError::Store(_)) => {}
            }
        }
        assigned(outcome?)
    }

    /// The journal names the attachment: the blocks learn of it in the background.
    pub(crate) fn keep(&self, promise: Promise, holder: &Holder) {
        let mut reserve = locked(&self.reserve);
        for address in promise.reserved {
            reserve.give(address, holder.attribute.clone());
        }
        drop(reserve);
        self.publish_kept();
        self.local().settle(&promise.local);
        self.work.notify_one();
    }

    /// The attachment did not come to be, and the journal does not name it.
    pub(crate) fn cancel(&self, promise: Promise, handle: &str) {
        let mut reserve = locked(&self.reserve);
        promise
            .reserved
            .iter()
            .for_each(|address| reserve.put_back(*address));
        promise
            .written
            .iter()
            .for_each(|address| reserve.free(*address, handle));
        drop(reserve);
        self.publish_kept();
        self.local().settle(&promise.local);
        self.work.notify_one();
    }

    /// Addresses that a handle held are nobody's any more. Nothing of the holder may be left.
    pub(crate) fn free(&self, addresses: &[IpAddr], handle: &str) {
        // Before it is known what lived this changes nothing, and what is in no journal is then found to be nobody's.
        let mut reserve = locked(&self.reserve);
        addresses
            .iter()
            .for_each(|address| reserve.free(*address, handle));
        drop(reserve);
        self.publish_kept();
        self.work.notify_one();
    }

    /// What pods were refused for want of addresses.
    pub(crate) fn shortages(&self) -> &Shortages {
        &self.shortages
    }

    async fn request(&self, request: Request) -> Result<Outcome, ipam::RequestError> {
        ipam::run(self.parts.store.as_ref(), &self.parts.view, request).await
    }

    /// Whether an attachment has an address, or may come to have it.
    fn is_living(&self, handle: &str, address: IpAddr) -> bool {
        let has_it = |attachment: crate::journal::Attachment| attachment.addresses.contains(&address);
        locked(&self.under_way).contains(handle) || self.parts.journal.with_handle(handle).is_some_and(has_it)
    }

    pub(crate) fn pools(&self) -> Vec<Arc<Resource>> {
        self.parts.view.all(Kind::IPPool)
    }
}

/// A pool of a listing.
pub(crate) fn as_pool(resource: &Arc<Resource>) -> Option<&Object<IpPoolSpec>> {
    match resource.as_ref() {
        Resource::IPPool(pool) => Some(pool),
        _ => None,
    }
}

fn holders(resource: &Resource) -> impl Iterator<Item = policy_model_ipam::block::Holding<'_>> {
    let block = match resource {
        Resource::IPAMBlock(block) => Some(&block.spec),
        _ => None,
    };
    block.into_iter().flat_map(policy_model_ipam::block::holders)
}

/// What pools are chosen by for pods of this node.
fn wish<'a>(family: Family, requested: &'a [PoolRef], node_labels: &'a BTreeMap<String, String>) -> Wish<'a> {
    Wish {
        family,
        intended_use: Use::Workload,
        requested,
        node_labels,
        namespace_labels: None,
    }
}

fn assigned(outcome: Outcome) -> Result<Vec<IpAddr>, Failure> {
    match outcome {
        Outcome::Assigned(all) => Ok(all.into_iter().map(|one| one.address).collect()),
        other => Err(Failure::new(
            code::STORE,
            format!("address management answered {other:?}"),
        )),
    }
}

/// The pod that an attribute names.
fn pod_of(attribute: &AllocationAttribute) -> Option<PodRef> {
    let said = |name: &str| attribute.secondary.get(name).cloned().unwrap_or_default();
    let pod = PodRef {
        namespace: said(handle::ATTRIBUTE_NAMESPACE),
        name: said(handle::ATTRIBUTE_POD),
        uid: said(handle::ATTRIBUTE_UID),
    };
    (!pod.namespace.is_empty() && !pod.name.is_empty()).then_some(pod)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
mod tests;
