//! The laws of address management: never twice, never lost for good, whoever dies when.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what went wrong by panicking.

mod harness;

use harness::*;
use policy_model::{Attributes, Kind, Resource};
use policy_model_ipam::engine::{
    Answer, AssignSpecific, AutoAssign, Machine, ReleaseBlocks, Request, Step, Which,
};
use policy_model_ipam::memory::MemoryStore;
use policy_model_ipam::pool::PoolRef;
use policy_model_ipam::{IpamError, block};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NODES: [&str; 3] = ["n0", "n1", "n2"];

#[derive(Clone, Debug)]
enum Plan {
    Assign(usize, usize, usize),
    Again(usize),
    Release(usize),
    Trim(usize),
    Repair,
}

fn plan() -> impl Strategy<Value = Plan> {
    prop_oneof![
        5 => (0usize..4, 0usize..4, 0usize..2).prop_map(|(h, a, b)| Plan::Assign(h, a, b)),
        1 => (0usize..4).prop_map(Plan::Again),
        3 => (0usize..4).prop_map(Plan::Release),
        1 => (0usize..2).prop_map(Plan::Trim),
        1 => Just(Plan::Repair),
    ]
}

fn actor(n: usize, plans: &[Plan]) -> Actor {
    let node = NODES[n % NODES.len()];
    let handle = |h: usize| format!("a{n}-h{h}");
    let mut sizes: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    let mut deeds = Vec::new();
    for plan in plans {
        match plan {
            Plan::Assign(h, four, six) if !sizes.contains_key(h) && four + six > 0 => {
                sizes.insert(*h, (*four, *six));
                deeds.push(Deed::Assign(auto(node, &handle(*h), *four, *six)));
            }
            Plan::Assign(h, ..) | Plan::Again(h) => {
                if let Some((four, six)) = sizes.get(h) {
                    deeds.push(Deed::Assign(auto(node, &handle(*h), *four, *six)));
                }
            }
            Plan::Release(h) => {
                sizes.remove(h);
                deeds.push(Deed::Release(handle(*h)));
            }
            Plan::Trim(keep) => deeds.push(Deed::Ask(Request::ReleaseBlocks(ReleaseBlocks {
                node: node.to_owned(),
                which: Which::Empty { keep: *keep },
            }))),
            Plan::Repair => deeds.push(Deed::Ask(Request::Repair)),
        }
    }
    Actor::new(node, deeds)
}

fn small_world(strict: bool, max_blocks: u32) -> MemoryStore {
    MemoryStore::with([
        pool("four", "10.0.0.0/28", 30, |_| ()),
        pool("four-b", "10.0.1.0/29", 30, |_| ()),
        pool("six", "fd00::/125", 127, |_| ()),
        config(strict, max_blocks),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever interleaves, conflicts, gets lost, is out of date or dies: no address is ever two handles' (checked
    /// after each write and at each answer), and afterwards exactly what lives is held. That holds as well for nodes that
    /// know only outlines of the others' blocks.
    #[test]
    fn never_twice_and_never_lost(
        plans in proptest::collection::vec(proptest::collection::vec(plan(), 1..8), 2..6),
        strict in any::<bool>(),
        max_blocks in 1u32..4,
        calm in any::<bool>(),
        outlines in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let actors = plans.iter().enumerate().map(|(n, p)| actor(n, p).knowing_outlines(outlines)).collect();
        let mishaps = if calm {
            Mishaps { crash: 0, conflict: 0, lost: 0, stale: 30 }
        } else {
            Mishaps { crash: 4, conflict: 10, lost: 5, stale: 30 }
        };
        let mut world = interleave(small_world(strict, max_blocks), actors, mishaps, seed);
        if strict {
            prop_assert_eq!(world.borrowed, 0, "strict affinity never borrows");
        }
        collect(&mut world.store, world.live.keys().cloned().collect(), &NODES);
        check_always(&world.store);
        check_settled(&world.store);
        let expected: BTreeMap<_, _> =
            world.live.iter().flat_map(|(h, all)| all.iter().map(move |a| (*a, h.clone()))).collect();
        let found = held(&world.store);
        for (address, handle) in &expected {
            prop_assert_eq!(found.get(address), Some(handle), "{} was lost", address);
        }
        // A handle that lives may hold more than its last request asked for, after a crash of a larger one; nothing else.
        for (address, handle) in &found {
            prop_assert!(world.live.contains_key(handle), "{} leaked to {}", address, handle);
        }
    }

    /// A request that dies at any step and is asked again has the same end as one that did not die.
    #[test]
    fn a_repeat_after_a_crash_at_any_step_gives_what_one_run_gives(
        four in 0usize..7, six in 0usize..4, before in 0usize..12, cut in 0usize..40,
    ) {
        let mut store = small_world(false, 3);
        for n in 0..before {
            let _ = assign(&mut store, NODES[n % 3], &format!("old{n}"));
        }
        let request = || Request::AutoAssign(auto("n0", "mine", four, six));
        let mut whole = store.clone();
        let expected = run(&mut whole, request());

        let mut machine = Machine::new(request(), NOW);
        let mut answer = Answer::Start;
        for _ in 0..cut {
            let step = machine.next(answer);
            match store.answer(&step) {
                Some(next) => answer = next,
                None => break,
            }
            check_always(&store);
        }
        drop(machine);
        let again = run(&mut store, request());
        prop_assert_eq!(again.is_ok(), expected.is_ok());
        if let (Ok(again), Ok(expected)) = (again, expected) {
            let (again, expected): (BTreeSet<_>, BTreeSet<_>) =
                (again.into_iter().collect(), expected.into_iter().collect());
            prop_assert_eq!(again, expected);
            prop_assert_eq!(held(&store), held(&whole));
        }
        prop_assert_eq!(run(&mut store, request()).is_ok(), run(&mut whole, request()).is_ok());
    }

    /// A node that vanishes in the middle of anything leaves nothing behind once it is released.
    #[test]
    fn a_vanished_node_leaves_nothing(four in 0usize..9, six in 0usize..3, cut in 0usize..60, reserve in 0usize..5) {
        let mut store = small_world(false, 3);
        assign(&mut store, "n1", "stays").unwrap();
        let stays = held(&store);
        let _ = run(&mut store, Request::AutoAssign(AutoAssign::reserve("n0", reserve, 0)));
        let mut machine = Machine::new(Request::AutoAssign(auto("n0", "mine", four, six)), NOW);
        let mut answer = Answer::Start;
        for _ in 0..cut {
            let Some(next) = store.answer(&machine.next(answer)) else { break };
            answer = next;
        }
        store.run(Request::ReleaseNode("n0".to_owned()), NOW).unwrap();
        prop_assert_eq!(held(&store), stays);
        check_settled(&store);
        prop_assert_eq!(count(&store, Kind::BlockAffinity), 1);
    }

    /// Every address of a pool can be given, each once, and not one more; freed, they come again in the order in which
    /// they were freed.
    #[test]
    fn a_pool_is_given_to_its_last_address_and_reused_in_order(prefix in 27u8..=30, size in 30u8..=32) {
        let mut store =
            MemoryStore::with([pool("p", &format!("10.9.0.0/{prefix}"), size, |_| ()), config(false, 64)]);
        let total = 1usize << (32 - prefix);
        let mut given = Vec::new();
        for n in 0..total {
            given.extend(assign(&mut store, "n0", &format!("h{n}")).unwrap());
        }
        prop_assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), total);
        let refused = assign(&mut store, "n0", "one-more").unwrap_err();
        prop_assert!(refused.contains("pool p (10.9.0.0/"), "{}", refused);
        // All of one block: the order within it is that of the releases.
        let range = store.blocks().next().unwrap().cidr;
        let mut of_block: Vec<_> = given.iter().enumerate().filter(|(_, a)| range.contains(*a)).collect();
        of_block.reverse();
        for (n, _) in &of_block {
            run(&mut store, Request::ReleaseByHandle(format!("h{n}"))).unwrap();
        }
        for (n, address) in &of_block {
            prop_assert_eq!(assign(&mut store, "n0", &format!("again{n}")).unwrap(), vec![**address]);
        }
    }

    /// Addresses that are named are given whole or not at all, wherever the request dies or fails.
    #[test]
    fn named_addresses_come_all_or_none(
        hosts in proptest::collection::btree_set(0u8..20, 1..5),
        taken in proptest::collection::btree_set(0u8..20, 0..3),
        strict in any::<bool>(),
    ) {
        let mut store = small_world(strict, 4);
        let named = |node: &str, handle: &str, addresses| Request::AssignSpecific(AssignSpecific {
            addresses,
            handle: handle.to_owned(),
            attributes: Attributes::default(),
            node: node.to_owned(),
            strict_affinity: None,
        });
        let at = |h: &u8| ip(&format!("10.0.0.{h}"));
        for h in &taken {
            let _ = run(&mut store, named("n1", &format!("old{h}"), vec![at(h)]));
        }
        let before = held(&store);
        let wanted: Vec<_> = hosts.iter().map(at).collect();
        let owner_of = |store: &MemoryStore, h: &u8| {
            store.blocks().find(|b| b.cidr.contains(&at(h))).and_then(|b| block::owner(b).map(str::to_owned))
        };
        let possible = hosts.iter().all(|h| {
            *h < 16 && !before.contains_key(&at(h)) && !(strict && owner_of(&store, h).is_some_and(|o| o != "n0"))
        });
        let answer = run(&mut store, named("n0", "mine", wanted.clone()));
        prop_assert_eq!(answer.is_ok(), possible, "{:?}", answer);
        let mut expected = before;
        if possible {
            prop_assert_eq!(answer.unwrap(), wanted.clone());
            prop_assert_eq!(run(&mut store, named("n0", "mine", wanted.clone())).unwrap(), wanted.clone());
            expected.extend(wanted.into_iter().map(|a| (a, "mine".to_owned())));
        }
        prop_assert_eq!(held(&store), expected);
    }
}

/// A store that always says "conflict" is given up on, in few steps, and so is one whose answers make no sense.
#[test]
fn a_machine_ends_whatever_it_is_told() {
    for nonsense in [
        Answer::Conflict,
        Answer::Start,
        Answer::Deleted,
        Answer::Object(None),
    ] {
        let mut store = small_world(false, 3);
        let mut machine = Machine::new(Request::AutoAssign(auto("n0", "mine", 2, 1)), NOW);
        let mut answer = Answer::Start;
        let mut steps = 0;
        let error = loop {
            steps += 1;
            assert!(steps < 20_000);
            answer = match machine.next(answer) {
                Step::Failed(error) => break error,
                Step::Done(outcome) => panic!("{outcome:?}"),
                Step::Write(_) => nonsense.clone(),
                step => store.answer(&step).unwrap(),
            };
        };
        let is_expected = match nonsense {
            Answer::Conflict => matches!(error, IpamError::TooManyConflicts { tries: 100, .. }),
            _ => matches!(error, IpamError::TooManySteps { .. }),
        };
        assert!(is_expected, "{nonsense:?}: {error}");
    }
}

/// Two nodes that race for the last block: one has it, the other's claim is gone, and each has its addresses.
#[test]
fn a_lost_race_for_a_block_leaves_no_claim() {
    for seed in 0..300 {
        let store = MemoryStore::with([pool("p", "10.0.0.0/30", 30, |_| ()), config(false, 4)]);
        let actors = ["n0", "n1"]
            .map(|n| Actor::new(n, vec![Deed::Assign(auto(n, &format!("h-{n}"), 2, 0))]))
            .into_iter()
            .collect();
        let calm = Mishaps {
            crash: 0,
            conflict: 0,
            lost: 0,
            stale: 0,
        };
        let world = interleave(store, actors, calm, seed);
        assert_eq!(world.live.len(), 2, "{:?}", world.failures);
        assert_eq!(world.borrowed, 2);
        check_settled(&world.store);
        assert_eq!(count(&world.store, Kind::BlockAffinity), 1);
    }
}

/// Pools that are asked for are the only ones used, however full they are.
#[test]
fn requested_pools_bind() {
    let mut store = small_world(false, 9);
    let ask = |handle: &str, ipv4| {
        let ipv4_pools = vec![PoolRef::Name("four-b".to_owned())];
        Request::AutoAssign(AutoAssign {
            ipv4_pools,
            ..auto("n0", handle, ipv4, 0)
        })
    };
    let given = run(&mut store, ask("a", 8)).unwrap();
    assert!(given.iter().all(|a| net("10.0.1.0/29").contains(a)));
    let error = run(&mut store, ask("b", 1)).unwrap_err();
    assert!(
        error.contains("pool four-b (10.0.1.0/29)") && !error.contains("pool four ("),
        "{error}"
    );
    let is_pool = |r: &&Resource| matches!(r, Resource::IPPool(_));
    assert_eq!(store.resources().filter(is_pool).count(), 3);
}
