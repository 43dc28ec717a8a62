//! A node's reserve: addresses of its own blocks, taken ahead of need, that it gives to pods without asking anybody.
//!
//! One compare-and-swap marks many addresses as the node's ([`AutoAssign::reserve`]); from then on no other node can
//! take them, so the node may hand one out from memory once its own journal says so, and the block learns of it later,
//! many at once ([`Record`]). What this room keeps is the difference between what the block says and what is true.
//!
//! ```text
//!            stock              take                give               the record is written
//!  block ───────────▶ ready ──────────▶ promised ─────────▶ given ─────────────────────────▶ the block says it
//!                       ▲  ◀──────────────┘ put_back          │ free (not written yet: the reserve never lost it)
//!                       └─────────────────────────────────────┘
//!  free (the block says it)  ─────────▶ freed ── the record is written ──▶ last in the block's queue
//! ```
//!
//! To everybody else, Calico's tools included, an address of a reserve is simply taken: its attribute has the handle
//! `manx-reserve-<node>` ([`crate::handle::of_reserve`]) and names the node under `node`.
//!
//! Two rules keep this safe, and whoever drives it has to keep them: one request about the node's blocks at a time, and
//! the record of what is pending before the reserve is filled again. An address that was freed goes to the end of
//! its block's queue and an unused one to the end of [`NodeReserve`]'s, so none is given again while others can be had.
//!
//! [`AutoAssign::reserve`]: crate::engine::AutoAssign::reserve

use crate::address::Family;
use crate::block::{self, Guard};
use crate::engine::{Given, Record, Refill, Target};
use crate::handle;
use policy_model::{AllocationAttribute, IpamBlockSpec};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

/// What a node knows about its reserve, and what its blocks do not say yet.
#[derive(Clone, Debug)]
pub struct NodeReserve {
    node: String,
    handle: String,
    /// May be given, the one that is unused for the longest time first.
    ready: VecDeque<IpAddr>,
    /// Taken by an attachment that the journal does not name yet.
    promised: BTreeSet<IpAddr>,
    /// In the reserve by the block's word, in use by the kernel's.
    withheld: BTreeSet<IpAddr>,
    /// A pod's by the journal's word; the block still says that they are reserved.
    given: BTreeMap<IpAddr, AllocationAttribute>,
    /// Nobody's any more; the block still says whose they were.
    freed: BTreeMap<IpAddr, Guard>,
    /// The record that is being written.
    writing: Option<Record>,
    /// Given in a record of which nobody knows whether it was written.
    uncertain: BTreeSet<IpAddr>,
}

/// An address that the blocks say is used on the node and of which the node's journal knows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The address.
    pub address: IpAddr,
    /// Whose it is by the block's word.
    pub attribute: AllocationAttribute,
    /// The block's sequence number when it was given; 0 where the block does not say.
    pub sequence: u64,
}

impl Orphan {
    /// What to free, if it turns out to be dead; nothing is freed that was given again meanwhile.
    pub fn target(&self) -> Target {
        Target {
            address: self.address,
            guard: Guard {
                handle: self.attribute.handle_id.clone(),
                sequence: (self.sequence != 0).then_some(self.sequence),
            },
        }
    }
}

/// What a node finds when it begins: see [`NodeReserve::rebuild`].
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// The reserve.
    pub reserve: NodeReserve,
    /// Used on this node by the blocks' word alone.
    pub orphans: Vec<Orphan>,
    /// In the journal, and nobody's by the blocks' word: they must be taken again.
    pub unheld: Vec<Given>,
    /// In the journal, and somebody else's by the blocks' word: two may have them.
    pub contested: Vec<(Given, AllocationAttribute)>,
}

impl NodeReserve {
    /// A reserve without addresses.
    pub fn new(node: &str) -> Self {
        NodeReserve {
            node: node.to_owned(),
            handle: handle::of_reserve(node),
            ready: VecDeque::new(),
            promised: BTreeSet::new(),
            withheld: BTreeSet::new(),
            given: BTreeMap::new(),
            freed: BTreeMap::new(),
            writing: None,
            uncertain: BTreeSet::new(),
        }
    }

    /// Puts the reserve together again after its node's process died.
    ///
    /// `journal` is what lives by the node's journal: entries of another boot of the machine must not be among them.
    /// `routed` are the addresses that the kernel leads to interfaces of workloads. For reserved addresses journal and
    /// kernel win over the block; for all others the block wins, and where it contradicts the journal the caller hears
    /// of it.
    pub fn rebuild<'a>(
        node: &str,
        blocks: impl IntoIterator<Item = &'a IpamBlockSpec>,
        journal: &[Given],
        routed: &BTreeSet<IpAddr>,
    ) -> Rebuilt {
        let mut rebuilt = Rebuilt {
            reserve: NodeReserve::new(node),
            orphans: Vec::new(),
            unheld: Vec::new(),
            contested: Vec::new(),
        };
        let mut unseen: BTreeMap<IpAddr, &Given> =
            journal.iter().map(|given| (given.address, given)).collect();
        for held in blocks.into_iter().flat_map(block::holders) {
            let address = held.address;
            let of = held.attribute.handle_id.as_deref();
            let is_reserved = of == Some(rebuilt.reserve.handle.as_str());
            match unseen.remove(&address) {
                Some(given) if given.attribute.handle_id.as_deref() == of => {}
                Some(given) if is_reserved => {
                    rebuilt.reserve.given.insert(address, given.attribute.clone());
                }
                Some(given) => rebuilt.contested.push((given.clone(), held.attribute.clone())),
                None if is_reserved && routed.contains(&address) => {
                    rebuilt.reserve.withheld.insert(address);
                }
                None if is_reserved => rebuilt.reserve.ready.push_back(address),
                None if is_used_on(held.attribute, node) => {
                    rebuilt.orphans.push(Orphan {
                        address,
                        attribute: held.attribute.clone(),
                        sequence: held.sequence,
                    });
                }
                None => {}
            }
        }
        rebuilt.unheld = unseen.into_values().cloned().collect();
        rebuilt
    }

    /// The handle under which the blocks keep the reserve.
    pub fn handle(&self) -> &str {
        &self.handle
    }

    /// Takes the first address for which `is_usable` holds; it is promised until [`give`](Self::give),
    /// [`put_back`](Self::put_back) or [`lose`](Self::lose).
    pub fn take(&mut self, is_usable: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let at = self.ready.iter().position(|address| is_usable(*address))?;
        let address = self.ready.remove(at)?;
        self.promised.insert(address);
        Some(address)
    }

    /// An address that was taken is a pod's: the journal says so, and the next record tells the block.
    pub fn give(&mut self, address: IpAddr, attribute: AllocationAttribute) {
        if self.promised.remove(&address) {
            self.given.insert(address, attribute);
        }
    }

    /// An address that was taken is not needed after all.
    pub fn put_back(&mut self, address: IpAddr) {
        if self.promised.remove(&address) {
            self.ready.push_back(address);
        }
    }

    /// An address that was taken is no longer the reserve's: a request wrote to the block what became of it, or may have.
    pub fn lose(&mut self, address: IpAddr) {
        self.promised.remove(&address);
    }

    /// An address is nobody's any more; `handle` held it. Call it when nothing of its holder is left.
    pub fn free(&mut self, address: IpAddr, handle: &str) {
        let is_its = |attribute: &AllocationAttribute| attribute.handle_id.as_deref() == Some(handle);
        if self.given.get(&address).is_some_and(is_its) {
            self.given.remove(&address);
            // What may stand in the block already has to leave it again.
            if !self.may_be_written(address) {
                self.ready.push_back(address);
                return;
            }
        }
        let guard = Guard {
            handle: Some(handle.to_owned()),
            sequence: None,
        };
        self.freed.insert(address, guard);
    }

    /// Frees what was found without a living holder.
    pub fn free_orphan(&mut self, orphan: &Orphan) {
        let Target { address, guard } = orphan.target();
        self.freed.insert(address, guard);
    }

    /// Gives unused addresses back to their blocks: those for which `is_unwanted` holds. Says how many.
    pub fn withdraw(&mut self, is_unwanted: impl Fn(IpAddr) -> bool) -> usize {
        let (unwanted, ready): (VecDeque<_>, VecDeque<_>) = self.ready.iter().partition(|a| is_unwanted(**a));
        self.ready = ready;
        for address in &unwanted {
            let guard = Guard {
                handle: Some(self.handle.clone()),
                sequence: None,
            };
            self.freed.insert(*address, guard);
        }
        unwanted.len()
    }

    /// Makes those that were withheld ready which the kernel no longer routes. Says how many.
    pub fn review(&mut self, routed: &BTreeSet<IpAddr>) -> usize {
        let idle: Vec<IpAddr> = self.withheld.difference(routed).copied().collect();
        for address in &idle {
            self.withheld.remove(address);
            self.ready.push_back(*address);
        }
        idle.len()
    }

    /// An address that was withheld turns out to be this holder's, and the journal says so.
    pub fn recognise(&mut self, address: IpAddr, attribute: AllocationAttribute) {
        if self.withheld.remove(&address) {
            self.given.insert(address, attribute);
        }
    }

    /// Takes in everything that the blocks say is reserved, of which some is known; says how many are new.
    ///
    /// Only for what was read after the last record was written.
    pub fn stock(&mut self, reserved: impl IntoIterator<Item = IpAddr>) -> usize {
        let before = self.ready.len();
        for address in reserved {
            let is_known = self.promised.contains(&address)
                || self.withheld.contains(&address)
                || self.given.contains_key(&address)
                || self.freed.contains_key(&address)
                || self.ready.contains(&address);
            if !is_known {
                self.ready.push_back(address);
            }
        }
        self.ready.len() - before
    }

    /// Forgets unused addresses that a block, as it is now, does not say are reserved: somebody believed the node to be
    /// gone. Says how many.
    pub fn observe(&mut self, block: &IpamBlockSpec) -> usize {
        let is_lost = |address: &IpAddr| {
            block.cidr.contains(address)
                && block::holder(block, *address)
                    .is_none_or(|h| h.attribute.handle_id.as_deref() != Some(&self.handle))
        };
        let lost: BTreeSet<IpAddr> = self
            .ready
            .iter()
            .chain(&self.withheld)
            .filter(|a| is_lost(a))
            .copied()
            .collect();
        self.ready.retain(|address| !lost.contains(address));
        self.withheld.retain(|address| !lost.contains(address));
        lost.len()
    }

    /// The same for a block that is gone.
    pub fn observe_gone(&mut self, cidr: &ipnet::IpNet) -> usize {
        let before = self.ready.len() + self.withheld.len();
        self.ready.retain(|address| !cidr.contains(address));
        self.withheld.retain(|address| !cidr.contains(address));
        before - self.ready.len() - self.withheld.len()
    }

    /// How many addresses of a family may be given at once.
    pub fn ready(&self, family: Family) -> usize {
        self.ready
            .iter()
            .filter(|a| Family::of_address(**a) == family)
            .count()
    }

    /// Those that may be given, in their order.
    pub fn ready_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ready.iter().copied()
    }

    /// Those that may be given, and those that are promised and that no journal names yet.
    pub fn unused_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ready.iter().chain(&self.promised).copied()
    }

    /// How many addresses of a family the blocks say are reserved that may not be given.
    pub fn committed(&self, family: Family) -> usize {
        let all = self
            .promised
            .iter()
            .chain(&self.withheld)
            .chain(self.given.keys());
        all.filter(|a| Family::of_address(**a) == family).count()
    }

    /// The same for the addresses of a range.
    pub fn committed_in(&self, range: &ipnet::IpNet) -> usize {
        let all = self
            .promised
            .iter()
            .chain(&self.withheld)
            .chain(self.given.keys());
        all.filter(|address| range.contains(*address)).count()
    }

    /// Those of them that the kernel routes and nobody accounts for.
    pub fn withheld(&self) -> impl Iterator<Item = IpAddr> {
        self.withheld.iter().copied()
    }

    /// Whether the blocks have something to learn.
    pub fn is_pending(&self) -> bool {
        !(self.given.is_empty() && self.freed.is_empty())
    }

    /// Whether an address waits for its block to learn that it is free.
    pub fn is_freed(&self, address: IpAddr) -> bool {
        self.freed.contains_key(&address)
    }

    /// What the blocks have to learn, to be written now; nothing where there is nothing, or while another record is
    /// written. What it takes in the same writes to fill the reserve ([`Record::refill`]) is the caller's to say, and what
    /// came of that goes to [`stock`](Self::stock) after [`end_record`](Self::end_record).
    pub fn begin_record(&mut self) -> Option<Record> {
        if self.writing.is_some() || !self.is_pending() {
            return None;
        }
        let given = self.given.iter().map(|(address, attribute)| Given {
            address: *address,
            attribute: attribute.clone(),
        });
        let freed = self.freed.iter().map(|(address, guard)| Target {
            address: *address,
            guard: guard.clone(),
        });
        let record = Record {
            node: self.node.clone(),
            given: given.collect(),
            freed: freed.collect(),
            refill: Refill::default(),
        };
        self.writing = Some(record.clone());
        Some(record)
    }

    /// The record was written wholly, or may not have been: then all of it is said again.
    pub fn end_record(&mut self, is_written: bool) {
        let Some(record) = self.writing.take() else { return };
        if !is_written {
            self.uncertain
                .extend(record.given.iter().map(|given| given.address));
            return;
        }
        for given in record.given {
            self.uncertain.remove(&given.address);
            if self.given.get(&given.address) == Some(&given.attribute) {
                self.given.remove(&given.address);
            }
        }
        for target in record.freed {
            self.uncertain.remove(&target.address);
            if self.freed.get(&target.address) == Some(&target.guard) {
                self.freed.remove(&target.address);
            }
        }
    }

    /// Gives up telling the block that an address was given: the block says that it is not reserved.
    pub fn dispute(&mut self, address: IpAddr) -> Option<AllocationAttribute> {
        self.given.remove(&address)
    }

    fn may_be_written(&self, address: IpAddr) -> bool {
        let is_in = |record: &Record| record.given.iter().any(|given| given.address == address);
        self.uncertain.contains(&address) || self.writing.as_ref().is_some_and(is_in)
    }
}

/// The addresses that blocks say are used on a node, without those of the node itself and those that are known to be a
/// handle's.
pub fn orphans<'a>(
    node: &str,
    blocks: impl IntoIterator<Item = &'a IpamBlockSpec>,
    is_known: impl Fn(&str, IpAddr) -> bool,
) -> Vec<Orphan> {
    let held = blocks.into_iter().flat_map(block::holders);
    let unknown = held.filter(|held| {
        let handle = held.attribute.handle_id.as_deref().unwrap_or_default();
        is_used_on(held.attribute, node) && !is_known(handle, held.address)
    });
    let orphan = |held: block::Holding<'_>| Orphan {
        address: held.address,
        attribute: held.attribute.clone(),
        sequence: held.sequence,
    };
    unknown.map(orphan).collect()
}

/// Whether an attribute is of something on the node other than the node itself.
fn is_used_on(attribute: &AllocationAttribute, node: &str) -> bool {
    let is_here = attribute
        .secondary
        .get(handle::ATTRIBUTE_NODE)
        .is_some_and(|n| n == node);
    let handle = attribute.handle_id.as_deref();
    is_here && handle.is_some_and(|handle| !handle::is_of_node(handle, node))
}
