//! The laws of a node's reserve: no address is ever two pods', none is lost for good, whatever dies at which step.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what went wrong by panicking.

mod harness;

use harness::*;
use policy_model::AllocationAttribute;
use policy_model_ipam::engine::{
    Answer, AutoAssign, Given, Machine, Outcome, Refill, Request, Shortfall, Step,
};
use policy_model_ipam::memory::MemoryStore;
use policy_model_ipam::{Family, NodeReserve, block, handle};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const NODE: &str = "n0";

/// What the node is doing with the datastore.
enum Work {
    Record(Machine<u64>, Answer<u64>),
    Fill(Machine<u64>, Answer<u64>),
}

/// A node with its memory, its disk and its kernel, among others.
struct Node {
    store: MemoryStore,
    memory: NodeReserve,
    work: Option<Work>,
    /// The journal of this boot, by handle.
    journal: BTreeMap<String, Given>,
    /// Addresses of interfaces.
    kernel: BTreeSet<IpAddr>,
    /// How many names were used.
    names: usize,
    others: Vec<String>,
    dice: Dice,
    strict: bool,
    /// Percent of writes whose answer is lost, and of those that are refused for nothing.
    mishaps: u64,
    now: u64,
}

/// Where a process dies within one of its steps.
#[derive(Clone, Copy, PartialEq)]
enum Death {
    Never,
    After(u64),
}

impl Node {
    fn new(seed: u64, strict: bool, mishaps: u64) -> Self {
        let store = MemoryStore::with([pool("p", "10.0.0.0/27", 29, |_| ()), config(strict, 3)]);
        Node {
            store,
            memory: NodeReserve::new(NODE),
            work: None,
            journal: BTreeMap::new(),
            kernel: BTreeSet::new(),
            names: 0,
            others: Vec::new(),
            dice: Dice(seed),
            strict,
            mishaps,
            now: NOW,
        }
    }

    fn attribute(handle: &str) -> AllocationAttribute {
        let named = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        AllocationAttribute {
            handle_id: Some(handle.to_owned()),
            secondary: [
                named(handle::ATTRIBUTE_NODE, NODE),
                named(handle::ATTRIBUTE_POD, handle),
            ]
            .into(),
        }
    }

    fn add(&mut self, death: Death) {
        let in_use: BTreeSet<IpAddr> = self.in_use();
        let Some(address) = self.memory.take(|_| true) else {
            return;
        };
        assert!(
            !in_use.contains(&address),
            "{address} is given while it is in use"
        );
        if death == Death::After(0) {
            return self.begin_anew();
        }
        self.names += 1;
        let handle = format!("net.c{}", self.names);
        if self.dice.roll(8) == 0 {
            return self.memory.put_back(address);
        }
        let attribute = Self::attribute(&handle);
        self.journal.insert(
            handle,
            Given {
                address,
                attribute: attribute.clone(),
            },
        );
        if death == Death::After(1) {
            return self.begin_anew();
        }
        self.memory.give(address, attribute);
        if death == Death::After(2) {
            return self.begin_anew();
        }
        self.kernel.insert(address);
    }

    fn delete(&mut self, death: Death) {
        let at = usize::try_from(self.dice.roll(self.journal.len() as u64)).unwrap();
        let Some((handle, given)) = self.journal.iter().nth(at).map(|(h, g)| (h.clone(), g.clone())) else {
            return;
        };
        self.kernel.remove(&given.address);
        if death == Death::After(0) {
            return self.begin_anew();
        }
        self.journal.remove(&handle);
        if death == Death::After(1) {
            return self.begin_anew();
        }
        self.memory.free(given.address, &handle);
        if death == Death::After(2) {
            self.begin_anew();
        }
    }

    /// One step of what is to be done with the datastore.
    fn step(&mut self) {
        self.now += 1_000_000;
        let work = match self.work.take() {
            Some(work) => work,
            None => match self.memory.begin_record() {
                Some(mut record) => {
                    record.refill = self.refill();
                    Work::Record(Machine::new(Request::Record(record), self.now), Answer::Start)
                }
                None if self.memory.ready(Family::V4) < 2 => {
                    let committed = self.memory.committed(Family::V4);
                    let ask = AutoAssign {
                        shortfall: Shortfall::AcceptFrom(committed + 1),
                        ..AutoAssign::reserve(NODE, committed + 3, 0)
                    };
                    Work::Fill(Machine::new(Request::AutoAssign(ask), self.now), Answer::Start)
                }
                None => return,
            },
        };
        match work {
            Work::Record(mut machine, answer) => match machine.next(answer) {
                Step::Done(Outcome::Recorded { reserved }) => {
                    self.memory.end_record(true);
                    self.memory.stock(reserved);
                }
                Step::Done(other) => panic!("{other:?}"),
                Step::Failed(error) => panic!("a record failed: {error}"),
                step => {
                    let answer = self.answer(&step);
                    if self.dice.roll(100) < self.mishaps {
                        // The store went away; what was said to it may have been done.
                        self.memory.end_record(false);
                    } else {
                        self.work = Some(Work::Record(machine, answer));
                    }
                }
            },
            Work::Fill(mut machine, answer) => match machine.next(answer) {
                Step::Done(Outcome::Assigned(all)) => {
                    self.memory.stock(all.iter().map(|a| a.address));
                }
                Step::Done(other) => panic!("{other:?}"),
                Step::Failed(_) => {}
                step => {
                    let answer = self.answer(&step);
                    if self.dice.roll(100) >= self.mishaps {
                        self.work = Some(Work::Fill(machine, answer));
                    }
                }
            },
        }
    }

    /// Sometimes the reserve is filled with what is written anyway.
    fn refill(&mut self) -> Refill {
        let refill = Refill {
            ipv4: 3usize.saturating_sub(self.memory.ready(Family::V4)),
            ranges: vec![net("10.0.0.0/27")],
            ..Refill::default()
        };
        if self.dice.roll(2) == 0 {
            refill
        } else {
            Refill::default()
        }
    }

    fn answer(&mut self, step: &Step<u64>) -> Answer<u64> {
        let is_write = matches!(step, Step::Write(_));
        if is_write && self.dice.roll(100) < self.mishaps {
            return Answer::Conflict;
        }
        let answer = self.store.answer(step).unwrap();
        if is_write && self.dice.roll(100) < self.mishaps {
            return Answer::Conflict;
        }
        answer
    }

    /// Another node takes or gives back an address, borrowing where it must.
    fn others(&mut self) {
        self.now += 1_000_000;
        let n = 1 + self.dice.roll(2);
        if self.dice.roll(3) > 0 || self.others.is_empty() {
            self.names += 1;
            let handle = format!("other{}", self.names);
            let ask = auto(&format!("n{n}"), &handle, 1, 0);
            if let Ok(Outcome::Assigned(all)) = self.store.run(Request::AutoAssign(ask), self.now) {
                for given in all {
                    assert!(
                        !self.in_use().contains(&given.address),
                        "{} is borrowed in use",
                        given.address
                    );
                    assert!(!(self.strict && given.borrowed));
                }
                self.others.push(handle);
            }
        } else {
            let at = usize::try_from(self.dice.roll(self.others.len() as u64)).unwrap();
            let handle = self.others.swap_remove(at);
            self.store
                .run(Request::ReleaseByHandle(handle), self.now)
                .unwrap();
        }
    }

    fn in_use(&self) -> BTreeSet<IpAddr> {
        self.journal
            .values()
            .map(|g| g.address)
            .chain(self.kernel.iter().copied())
            .collect()
    }

    /// The process died and begins anew; its disk and its kernel are as they were.
    fn begin_anew(&mut self) {
        self.rebuild(true);
    }

    fn rebuild(&mut self, journal_is_whole: bool) {
        self.work = None;
        let journal: Vec<Given> = self.journal.values().cloned().collect();
        let rebuilt = NodeReserve::rebuild(NODE, self.store.blocks(), &journal, &self.kernel);
        assert_eq!((&rebuilt.unheld[..], rebuilt.contested.len()), (&[][..], 0));
        self.memory = rebuilt.reserve;
        for orphan in rebuilt.orphans {
            if journal_is_whole || !self.kernel.contains(&orphan.address) {
                assert!(!self.kernel.contains(&orphan.address), "{} lives", orphan.address);
                self.memory.free_orphan(&orphan);
            } else {
                let handle = orphan.attribute.handle_id.clone().unwrap();
                let (address, attribute) = (orphan.address, orphan.attribute);
                self.journal.insert(handle, Given { address, attribute });
            }
        }
    }

    fn lose_the_disk(&mut self) {
        self.journal.clear();
        self.rebuild(false);
    }

    fn boot(&mut self) {
        self.kernel.clear();
        // What another boot attached does not live, whatever the journal says; it is released entry by entry.
        let dead = std::mem::take(&mut self.journal);
        self.work = None;
        let rebuilt = NodeReserve::rebuild(NODE, self.store.blocks(), &[], &self.kernel);
        self.memory = rebuilt.reserve;
        let orphans: BTreeSet<IpAddr> = rebuilt.orphans.iter().map(|o| o.address).collect();
        for given in dead.values().filter(|g| !orphans.contains(&g.address)) {
            assert!(
                self.memory.ready_addresses().any(|a| a == given.address),
                "a pod that was never written down is part of the reserve"
            );
        }
        rebuilt
            .orphans
            .iter()
            .for_each(|orphan| self.memory.free_orphan(orphan));
    }

    /// An interface that nobody accounted for goes with its sandbox.
    fn strangers_leave(&mut self) {
        let strangers: Vec<IpAddr> = self.memory.withheld().collect();
        for address in strangers {
            if self.dice.roll(2) == 0 {
                self.kernel.remove(&address);
            }
        }
        self.memory.review(&self.kernel);
    }

    fn check(&self) {
        check_always(&self.store);
        let held = held(&self.store);
        for address in self.in_use() {
            let holder = held
                .get(&address)
                .unwrap_or_else(|| panic!("{address} is in use and free"));
            assert!(
                !holder.starts_with("other"),
                "{address} is in use and {holder} has it"
            );
        }
        for address in self.memory.ready_addresses() {
            assert_eq!(
                held.get(&address).map(String::as_str),
                Some(self.memory.handle()),
                "{address}"
            );
            assert!(!self.in_use().contains(&address), "{address} is in use and ready");
        }
        let journaled: BTreeSet<IpAddr> = self.journal.values().map(|g| g.address).collect();
        assert_eq!(journaled.len(), self.journal.len(), "one address, two entries");
    }

    /// Everything that is under way ends well.
    fn settle(&mut self) {
        self.mishaps = 0;
        for _ in 0..10_000 {
            if self.work.is_none() && !self.memory.is_pending() {
                return;
            }
            self.step();
        }
        panic!("it does not end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever comes, goes, dies, is lost or borrowed: checked after every step, and in the end the blocks say of
    /// each address exactly what is true.
    #[test]
    fn never_twice_and_never_lost(
        deeds in proptest::collection::vec((0u8..24, 0u64..8), 1..160),
        strict in any::<bool>(),
        calm in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut node = Node::new(seed, strict, if calm { 0 } else { 8 });
        for (deed, detail) in deeds {
            let death = if calm || detail > 2 { Death::Never } else { Death::After(detail) };
            match deed {
                0..=5 => node.add(death),
                6..=9 => node.delete(death),
                10..=17 => node.step(),
                18..=20 => node.others(),
                21 => node.strangers_leave(),
                22 if detail < 4 => node.begin_anew(),
                22 if detail < 6 => node.lose_the_disk(),
                22 => node.boot(),
                _ => {
                    node.memory.withdraw(|a| a.to_string().ends_with(char::from(b'0' + u8::try_from(detail).unwrap())));
                }
            }
            node.check();
        }
        node.settle();
        node.check();
        // A process that begins anew knows all of the reserve.
        node.begin_anew();
        node.settle();
        let strangers: BTreeSet<IpAddr> = node.memory.withheld().collect();
        let ready: BTreeSet<IpAddr> = node.memory.ready_addresses().collect();
        for (address, holder) in held(&node.store) {
            if holder == node.memory.handle() {
                prop_assert!(ready.contains(&address) || strangers.contains(&address), "{} is lost", address);
            } else if !holder.starts_with("other") {
                let given = node.journal.get(&holder);
                prop_assert_eq!(given.map(|g| g.address), Some(address), "{} leaked to {}", address, holder);
            }
        }
        for given in node.journal.values() {
            let block = node.store.blocks().find(|b| b.cidr.contains(&given.address)).unwrap();
            let holder = block::holder(block, given.address).unwrap();
            prop_assert_eq!(holder.attribute, &given.attribute);
        }
    }
}

fn fill(store: &mut MemoryStore, memory: &mut NodeReserve, count: usize) -> usize {
    let ask = AutoAssign::reserve(NODE, count, 0);
    match store.run(Request::AutoAssign(ask), NOW) {
        Ok(Outcome::Assigned(all)) => memory.stock(all.iter().map(|a| a.address)),
        other => panic!("{other:?}"),
    }
}

fn record(store: &mut MemoryStore, memory: &mut NodeReserve) {
    if let Some(record) = memory.begin_record() {
        store.run(Request::Record(record), NOW).unwrap();
        memory.end_record(true);
    }
}

#[test]
fn borrowers_see_what_is_not_reserved_and_a_freed_address_rests() {
    let mut store = one_pool("10.0.0.0/29", 29);
    let mut memory = NodeReserve::new(NODE);
    assert_eq!(fill(&mut store, &mut memory, 4), 4);
    let borrowed: Vec<_> = (0..4)
        .flat_map(|n| assign(&mut store, "n1", &format!("b{n}")).unwrap())
        .collect();
    assert_eq!(borrowed, ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"].map(ip));
    assert!(assign(&mut store, "n1", "more").is_err());

    let first = memory.take(|_| true).unwrap();
    memory.give(first, Node::attribute("net.a"));
    record(&mut store, &mut memory);
    assert_eq!(held(&store)[&first], "net.a");
    memory.free(first, "net.a");
    record(&mut store, &mut memory);
    assert!(!held(&store).contains_key(&first));
    run(&mut store, Request::ReleaseByHandle("b0".to_owned())).unwrap();
    assert_eq!(fill(&mut store, &mut memory, 5), 2);
    let order: Vec<_> = std::iter::from_fn(|| memory.take(|_| true)).collect();
    assert_eq!(
        order,
        ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.0", "10.0.0.4"].map(ip)
    );
}

#[test]
fn what_is_given_and_taken_back_between_two_writes_never_reaches_the_block() {
    let mut store = one_pool("10.0.0.0/29", 29);
    let mut memory = NodeReserve::new(NODE);
    fill(&mut store, &mut memory, 2);
    let before = store.clone();
    let address = memory.take(|_| true).unwrap();
    memory.give(address, Node::attribute("net.a"));
    memory.free(address, "net.a");
    assert!(!memory.is_pending());
    record(&mut store, &mut memory);
    assert_eq!(held(&store), held(&before));
    assert_eq!(memory.ready_addresses().last(), Some(address), "it is given last");
}

#[test]
fn a_removal_while_the_gift_is_written_is_written_next() {
    let mut store = one_pool("10.0.0.0/29", 29);
    let mut memory = NodeReserve::new(NODE);
    fill(&mut store, &mut memory, 2);
    let address = memory.take(|_| true).unwrap();
    memory.give(address, Node::attribute("net.a"));
    for is_known in [true, false] {
        let writing = memory.begin_record().unwrap();
        assert!(memory.begin_record().is_none(), "one at a time");
        if is_known {
            store.run(Request::Record(writing), NOW).unwrap();
        }
        memory.free(address, "net.a");
        memory.end_record(is_known);
        assert!(!memory.ready_addresses().any(|a| a == address));
        record(&mut store, &mut memory);
        if is_known {
            assert!(!held(&store).contains_key(&address));
        }
        fill(&mut store, &mut memory, 8);
        let taken = memory.take(|a| a == address).unwrap();
        memory.give(taken, Node::attribute("net.a"));
    }
}

#[test]
fn a_node_that_was_believed_to_be_gone_forgets_what_it_lost() {
    let mut store = one_pool("10.0.0.0/29", 29);
    let mut memory = NodeReserve::new(NODE);
    fill(&mut store, &mut memory, 3);
    store.run(Request::ReleaseNode(NODE.to_owned()), NOW).unwrap();
    assert_eq!(memory.clone().observe_gone(&net("10.0.0.0/29")), 3);
    assign(&mut store, "n1", "theirs").unwrap();
    for block in store.blocks() {
        assert_eq!(memory.observe(block), 3);
    }
    assert_eq!(memory.take(|_| true), None);
}

#[test]
fn a_block_that_is_full_is_followed_by_another_ahead_of_need() {
    let mut store = one_pool("10.0.0.0/28", 30);
    let mut memory = NodeReserve::new(NODE);
    let mut ask = |memory: &mut NodeReserve, least| {
        let committed = memory.committed(Family::V4);
        let ask = AutoAssign {
            shortfall: Shortfall::AcceptFrom(committed + least),
            ..AutoAssign::reserve(NODE, committed + 4, 0)
        };
        let Ok(Outcome::Assigned(all)) = store.run(Request::AutoAssign(ask), NOW) else {
            panic!()
        };
        memory.stock(all.iter().map(|a| a.address));
        owners(&store).len()
    };
    assert_eq!(ask(&mut memory, 2), 1);
    for n in 0..3 {
        let address = memory.take(|_| true).unwrap();
        memory.give(address, Node::attribute(&format!("net.{n}")));
    }
    assert_eq!(ask(&mut memory, 1), 1, "one is enough for now");
    assert_eq!(ask(&mut memory, 2), 2);
    assert_eq!(memory.ready(Family::V4), 4);
}
