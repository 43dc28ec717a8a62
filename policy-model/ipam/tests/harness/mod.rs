//! Runs several machines against one store, in any interleaving, with lost answers, conflicts, stale lists and crashes.

// A test says what went wrong by panicking; each test binary uses a part of this room.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    unreachable_pub
)]

use ipnet::IpNet;
use policy_model::{
    AffinityState, AllocationAttribute, Attributes, IpPoolSpec, IpReservationSpec, IpamBlockSpec,
    IpamConfigSpec, Kind, Object, Resource,
};
use policy_model_ipam::collect::{self, Proof};
use policy_model_ipam::engine::{
    Answer, AssignSpecific, AutoAssign, Machine, Outcome, ReleaseAddresses, Request, Step, Stored,
};
use policy_model_ipam::memory::MemoryStore;
use policy_model_ipam::{IpamError, block, handle, name};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A clock reading long after that of anything else.
pub const NOW: u64 = 1_700_000_000_000_000;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub fn pool(name: &str, cidr: &str, block_size: u8, change: impl FnOnce(&mut IpPoolSpec)) -> Resource {
    let mut spec = IpPoolSpec::of(net(cidr));
    spec.block_size = Some(block_size);
    change(&mut spec);
    Object::named(name, spec).into()
}

pub fn config(strict: bool, max_blocks: u32) -> Resource {
    let spec = IpamConfigSpec {
        strict_affinity: strict,
        max_blocks_per_host: max_blocks,
        ..IpamConfigSpec::default()
    };
    Object::named(name::CONFIG_NAME, spec).into()
}

pub fn auto(node: &str, handle: &str, ipv4: usize, ipv6: usize) -> AutoAssign {
    AutoAssign {
        ipv4,
        ipv6,
        ..AutoAssign::new(node, handle)
    }
}

pub fn one_pool(cidr: &str, size: u8) -> MemoryStore {
    MemoryStore::with([pool("p", cidr, size, |_| ())])
}

pub fn specific(node: &str, handle: &str, addresses: &[&str]) -> Request {
    Request::AssignSpecific(AssignSpecific {
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        handle: handle.to_owned(),
        attributes: Attributes::default(),
        node: node.to_owned(),
        strict_affinity: None,
    })
}

pub fn reserve_addresses(ranges: &[&str]) -> Resource {
    Object::named(
        "r",
        IpReservationSpec {
            reserved_cidrs: ranges.iter().map(|r| net(r)).collect(),
        },
    )
    .into()
}

pub fn owners(store: &MemoryStore) -> Vec<(String, String)> {
    store
        .blocks()
        .map(|b| (b.cidr.to_string(), block::owner(b).unwrap_or("-").to_owned()))
        .collect()
}

/// The addresses that a run gave; the text of the error where it failed.
pub fn run(store: &mut MemoryStore, request: Request) -> Result<Vec<IpAddr>, String> {
    match store.run(request, NOW) {
        Ok(Outcome::Assigned(all)) => Ok(all.iter().map(|a| a.address).collect()),
        Ok(Outcome::Released(released)) => Ok(released.freed),
        Ok(Outcome::BlocksReleased { .. } | Outcome::Recorded { .. } | Outcome::Repaired { .. }) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error.to_string()),
    }
}

pub fn assign(store: &mut MemoryStore, node: &str, handle: &str) -> Result<Vec<IpAddr>, String> {
    run(store, Request::AutoAssign(auto(node, handle, 1, 0)))
}

/// Every address that is held, with its handle.
pub fn held(store: &MemoryStore) -> BTreeMap<IpAddr, String> {
    let mut all = BTreeMap::new();
    for b in store.blocks() {
        for h in block::holders(b) {
            let before = all.insert(h.address, h.attribute.handle_id.clone().unwrap_or_default());
            assert_eq!(before, None, "{} is held in two blocks", h.address);
        }
    }
    all
}

/// What must be true after every single write.
pub fn check_always(store: &MemoryStore) {
    for resource in store.resources() {
        resource
            .validate()
            .unwrap_or_else(|e| panic!("{}: {e}", resource.key()));
    }
    let mut ranges: Vec<IpNet> = store.blocks().map(|b| b.cidr).collect();
    ranges.sort();
    for pair in ranges.windows(2) {
        assert!(
            !pair[0].contains(&pair[1]) && !pair[1].contains(&pair[0]),
            "blocks overlap: {pair:?}"
        );
    }
    held(store);
}

/// What must be true once nothing runs and a repair has run.
pub fn check_settled(store: &MemoryStore) {
    let owned: BTreeSet<(IpNet, String)> = store
        .blocks()
        .filter_map(|b| Some((b.cidr, block::owner(b)?.to_owned())))
        .collect();
    let mut claimed = BTreeSet::new();
    for resource in store.resources() {
        if let Resource::BlockAffinity(a) = resource {
            assert_eq!(a.spec.state, AffinityState::Confirmed, "{}", resource.key());
            claimed.insert((a.spec.cidr, a.spec.node.clone()));
        }
    }
    assert_eq!(owned, claimed, "blocks and affinities agree");
    for b in store.blocks() {
        assert!(
            !block::is_empty(b) || b.affinity.is_some(),
            "block {} is of no use",
            b.cidr
        );
    }
}

/// What goes wrong on the way, in percent of the steps.
#[derive(Clone, Copy, Debug)]
pub struct Mishaps {
    pub crash: u64,
    /// A write is refused although it was right.
    pub conflict: u64,
    /// A write is made, and its answer lost.
    pub lost: u64,
    /// A list shows the store as it was some writes ago.
    pub stale: u64,
}

/// What an actor does, one after another.
#[derive(Clone, Debug)]
pub enum Deed {
    Ask(Request),
    /// Asks for addresses under a handle; after a crash, asks again.
    Assign(AutoAssign),
    Release(String),
}

pub struct Actor {
    pub node: String,
    pub deeds: Vec<Deed>,
    at: usize,
    machine: Option<(Machine<u64>, Answer<u64>, usize)>,
    /// The version of the store after this actor's last write: its lists show at least that.
    seen: usize,
    /// Whether its lists show outlines of blocks in which its node has nothing.
    outlines: bool,
}

impl Actor {
    pub fn new(node: &str, deeds: Vec<Deed>) -> Self {
        Actor {
            node: node.to_owned(),
            deeds,
            at: 0,
            machine: None,
            seen: 0,
            outlines: false,
        }
    }

    /// The same, whose lists show outlines of blocks in which its node has nothing.
    #[must_use]
    pub fn knowing_outlines(mut self, outlines: bool) -> Self {
        self.outlines = outlines;
        self
    }
}

/// What a list shows a node that holds only outlines of blocks in which it has nothing.
fn outlined(node: &str, answer: Answer<u64>) -> Answer<u64> {
    let is_own = |block: &IpamBlockSpec| {
        let is_here =
            |a: &AllocationAttribute| a.secondary.get(handle::ATTRIBUTE_NODE).is_some_and(|n| n == node);
        block::owner(block) == Some(node) || block.attributes.iter().any(is_here)
    };
    let Answer::Objects(all) = answer else {
        return answer;
    };
    let shown = all.into_iter().map(|stored| match &**stored.resource() {
        Resource::IPAMBlock(block) if !is_own(&block.spec) => {
            let outline = Object::named(&block.metadata.name, block::outline(&block.spec));
            Stored::outline(Arc::new(outline.into()), *stored.version())
        }
        _ => stored,
    });
    Answer::Objects(shown.collect())
}

/// A number from a seed, evenly spread (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides.max(1)
    }
}

/// The world after a run: what is held by whom, as the callers know it.
pub struct World {
    pub store: MemoryStore,
    /// Addresses that a caller was told are its own and has not begun to release.
    pub live: BTreeMap<String, Vec<IpAddr>>,
    pub borrowed: usize,
    pub failures: Vec<IpamError>,
}

/// Runs actors against a store until all have ended.
pub fn interleave(store: MemoryStore, mut actors: Vec<Actor>, mishaps: Mishaps, seed: u64) -> World {
    let mut dice = Dice(seed);
    let mut world = World {
        store,
        live: BTreeMap::new(),
        borrowed: 0,
        failures: Vec::new(),
    };
    let mut history = vec![world.store.clone()];
    let mut clean: BTreeSet<String> = BTreeSet::new();
    let mut ticks = 0u64;
    loop {
        let going: Vec<usize> = (0..actors.len())
            .filter(|n| actors[*n].at < actors[*n].deeds.len())
            .collect();
        let Some(n) = going.get(usize::try_from(dice.roll(going.len() as u64)).unwrap()) else {
            break;
        };
        let actor = &mut actors[*n];
        let deed = actor.deeds[actor.at].clone();
        ticks += 1;
        if actor.machine.is_none() {
            let request = match &deed {
                Deed::Ask(request) => request.clone(),
                Deed::Assign(request) => {
                    if !world.live.contains_key(&request.handle)
                        && !held(&world.store).values().any(|h| *h == request.handle)
                    {
                        clean.insert(request.handle.clone());
                    } else {
                        // It was, when the handle was used before: what an earlier release did not see is still held,
                        // and no failure of this request's.
                        clean.remove(&request.handle);
                    }
                    Request::AutoAssign(request.clone())
                }
                Deed::Release(handle) => {
                    world.live.remove(handle);
                    Request::ReleaseByHandle(handle.clone())
                }
            };
            actor.machine = Some((Machine::new(request, NOW + ticks * 1_000_000), Answer::Start, 0));
        }
        if dice.roll(100) < mishaps.crash {
            actor.machine = None;
            if let Deed::Assign(request) = &deed {
                clean.remove(&request.handle);
            }
            // Half of the crashed ones ask again; the others are never heard of again.
            actor.at += usize::try_from(dice.roll(2)).unwrap();
            continue;
        }
        let Some((mut machine, answer, steps)) = actor.machine.take() else {
            continue;
        };
        assert!(steps < 20_000, "a machine does not end: {deed:?}");
        match machine.next(answer) {
            Step::Done(outcome) => {
                if let (Deed::Assign(request), Outcome::Assigned(all)) = (&deed, &outcome) {
                    let mine: Vec<IpAddr> = all.iter().map(|a| a.address).collect();
                    assert_eq!(mine.len(), request.ipv4 + request.ipv6, "{request:?}");
                    for (handle, theirs) in &world.live {
                        let twice = mine.iter().any(|a| theirs.contains(a));
                        assert!(
                            *handle == request.handle || !twice,
                            "{handle} and {} hold one address",
                            request.handle
                        );
                    }
                    world.borrowed += all.iter().filter(|a| a.borrowed).count();
                    world.live.insert(request.handle.clone(), mine);
                }
                actor.at += 1;
            }
            Step::Failed(error) => {
                let is_endless = matches!(error, IpamError::TooManySteps { .. });
                assert!(!is_endless, "{error}: {deed:?}");
                if let Deed::Assign(request) = &deed
                    && clean.contains(&request.handle)
                    && !matches!(error, IpamError::TooManyConflicts { .. })
                {
                    let left = held(&world.store).values().any(|h| *h == request.handle);
                    assert!(!left, "a request failed ({error}) and kept an address");
                }
                world.failures.push(error);
                actor.at += 1;
            }
            step => {
                let is_write = matches!(step, Step::Write(_));
                let answer = if is_write && dice.roll(100) < mishaps.conflict {
                    Answer::Conflict
                } else if matches!(step, Step::List(_)) && dice.roll(100) < mishaps.stale {
                    let back =
                        history.len() - 1 - usize::try_from(dice.roll(8)).unwrap().min(history.len() - 1);
                    history[back.max(actor.seen)].answer(&step).unwrap()
                } else {
                    world.store.answer(&step).unwrap()
                };
                let answer = if actor.outlines {
                    outlined(&actor.node, answer)
                } else {
                    answer
                };
                let answer = if is_write && !matches!(answer, Answer::Conflict) {
                    check_always(&world.store);
                    history.push(world.store.clone());
                    actor.seen = history.len() - 1;
                    if dice.roll(100) < mishaps.lost {
                        Answer::Conflict
                    } else {
                        answer
                    }
                } else {
                    answer
                };
                actor.machine = Some((machine, answer, steps + 1));
            }
        }
    }
    world
}

/// What the controller does some time later: repairs, and frees what is proven to be held by nobody.
pub fn collect(store: &mut MemoryStore, live: BTreeSet<String>, nodes: &[&str]) {
    store.run(Request::Repair, NOW).unwrap();
    let proof = Proof {
        live_handles: live,
        reporting_nodes: nodes.iter().map(|n| (*n).to_owned()).collect(),
        gone_nodes: BTreeSet::new(),
    };
    let leaks = collect::leaks(store.blocks(), &proof);
    let leaks = collect::found_again(&leaks.clone(), leaks);
    let targets = leaks.iter().map(collect::Leak::target).collect();
    store
        .run(Request::ReleaseAddresses(ReleaseAddresses { targets }), NOW)
        .unwrap();
}

/// How many objects of a kind there are.
pub fn count(store: &MemoryStore, kind: Kind) -> usize {
    store.resources().filter(|r| r.kind() == kind).count()
}

/// An object as stored, for tests that change one by hand.
pub fn stored(store: &MemoryStore, kind: Kind, name: &str) -> Option<Stored<u64>> {
    store.get(&policy_model::Key::global(kind, name))
}
