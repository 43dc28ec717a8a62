//! What becomes of blocks and claims: given back, taken over, reserved ahead, repaired.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what went wrong by panicking.

mod harness;

use harness::*;
use policy_model::{AffinityState, AllocationAttribute, Attributes, Kind, Object, Resource};
use policy_model_ipam::block::Guard;
use policy_model_ipam::engine::{
    AutoAssign, Given, Outcome, Record, Refill, ReleaseAddresses, ReleaseBlocks, Request, Target, Unreleased,
    Which,
};
use policy_model_ipam::memory::MemoryStore;
use policy_model_ipam::reservation::Reservations;
use policy_model_ipam::{affinity, block, handle, name};
use std::collections::BTreeMap;
use std::net::IpAddr;

#[test]
fn an_abandoned_empty_block_is_taken_over_but_not_at_once() {
    let mut store = one_pool("10.0.0.0/30", 30);
    store.put(config(true, 0));
    assign(&mut store, "n0", "a").unwrap();
    store.run(Request::ReleaseByHandle("a".to_owned()), NOW).unwrap();
    let ask = || Request::AutoAssign(auto("n1", "b", 1, 0));
    assert!(store.run(ask(), NOW + 59_000_000).is_err());
    assert_eq!(owners(&store)[0].1, "n0");
    let modest = Request::AutoAssign(AutoAssign {
        takes_abandoned: false,
        ..auto("n1", "b", 1, 0)
    });
    assert!(store.run(modest, NOW + 61_000_000).is_err());
    assert_eq!(owners(&store)[0].1, "n0", "who may not, does not");
    store.run(ask(), NOW + 61_000_000).unwrap();
    assert_eq!(owners(&store)[0].1, "n1");
    check_settled(&store);
    assert!(
        store
            .run(Request::AutoAssign(auto("n0", "c", 1, 0)), NOW + 999_000_000)
            .is_err(),
        "it is in use"
    );
}

#[test]
fn empty_blocks_of_pools_that_no_longer_select_the_node_are_given_back() {
    let rack = |value: &str| BTreeMap::from([("rack".to_owned(), value.to_owned())]);
    let mut store = MemoryStore::with([
        pool("a", "10.0.0.0/28", 30, |p| p.node_selector = "rack == 'a'".into()),
        pool("b", "10.0.1.0/28", 30, |p| p.node_selector = "rack == 'b'".into()),
    ]);
    let ask = |handle: &str, at: &str| {
        Request::AutoAssign(AutoAssign {
            node_labels: rack(at),
            ..auto("n0", handle, 1, 0)
        })
    };
    let old = run(&mut store, ask("old", "a")).unwrap();
    let new = run(&mut store, ask("new", "b")).unwrap();
    assert!(net("10.0.1.0/28").contains(&new[0]));
    assert_eq!(owners(&store).len(), 2, "a block in use stays");
    run(&mut store, Request::ReleaseByHandle("old".to_owned())).unwrap();
    run(&mut store, ask("new-2", "b")).unwrap();
    assert_eq!(owners(&store).len(), 1);
    assert!(!store.blocks().any(|b| b.cidr.contains(&old[0])));
    check_settled(&store);
}

#[test]
fn what_a_crash_or_a_person_left_is_finished_by_the_next_request() {
    let claim = |node: &str, cidr: &str, state| Resource::from(affinity::new(node, net(cidr), state));
    for state in [
        AffinityState::Pending,
        AffinityState::Confirmed,
        AffinityState::PendingDeletion,
    ] {
        // A claim without a block.
        let mut store = one_pool("10.0.0.0/30", 30);
        store.put(claim("n0", "10.0.0.0/30", state));
        assign(&mut store, "n0", "h").unwrap();
        check_settled(&store);
        // A claim beside another node's block.
        let mut store = one_pool("10.0.0.0/30", 30);
        assign(&mut store, "n1", "h").unwrap();
        store.put(claim("n0", "10.0.0.0/30", state));
        assign(&mut store, "n0", "h2").unwrap();
        check_settled(&store);
        assert_eq!(owners(&store)[0].1, "n1");
        // A claim that stayed behind the block, of this node.
        let mut store = one_pool("10.0.0.0/30", 30);
        store.put(
            block::new(net("10.0.0.0/30"), Some("n0"), false, 1)
                .unwrap()
                .into(),
        );
        store.put(claim("n0", "10.0.0.0/30", state));
        assign(&mut store, "n0", "h").unwrap();
        check_settled(&store);
        // Another node's leftover.
        let mut store = one_pool("10.0.0.0/30", 30);
        store.put(claim("n9", "10.0.0.0/30", state));
        assign(&mut store, "n0", "h").unwrap();
        store.run(Request::Repair, NOW).unwrap();
        check_settled(&store);
    }
    // A block without a claim.
    let mut store = one_pool("10.0.0.0/30", 30);
    store.put(
        block::new(net("10.0.0.0/30"), Some("n0"), false, 1)
            .unwrap()
            .into(),
    );
    assign(&mut store, "n0", "h").unwrap();
    check_settled(&store);
    // A block that nobody owns is in the way.
    let mut store = one_pool("10.0.0.0/30", 30);
    store.put(config(true, 0));
    store.put(block::new(net("10.0.0.0/30"), None, false, 1).unwrap().into());
    assign(&mut store, "n0", "h").unwrap();
    check_settled(&store);
}

#[test]
fn another_block_size_is_walked_around() {
    let mut store = one_pool("10.0.0.0/27", 28);
    assign(&mut store, "n0", "a").unwrap();
    let old = store.blocks().next().unwrap().cidr;
    store.put(pool("p", "10.0.0.0/27", 27, |_| ()));
    let error = {
        store.put(config(true, 0));
        assign(&mut store, "n1", "b").unwrap_err()
    };
    assert!(error.contains("no room for another block"), "{error}");
    let free = if old == net("10.0.0.0/28") {
        "10.0.0.17"
    } else {
        "10.0.0.1"
    };
    let error = run(&mut store, specific("n1", "b", &[free])).unwrap_err();
    assert!(
        error.contains(&format!(
            "block 10.0.0.0/27 cannot be made: block {old} overlaps it"
        )),
        "{error}"
    );
    check_always(&store);
}

#[test]
fn a_node_gives_blocks_back() {
    let mut store = one_pool("10.0.0.0/28", 30);
    run(&mut store, Request::AutoAssign(auto("n0", "h", 12, 0))).unwrap();
    let ranges: Vec<_> = store.blocks().map(|b| b.cidr).collect();
    let release = |which| {
        Request::ReleaseBlocks(ReleaseBlocks {
            node: "n0".to_owned(),
            which,
        })
    };
    // In use: asked to give back if empty, it stays; asked outright, it goes and its addresses stay.
    let answer = store.run(release(Which::OneIfEmpty(ranges[0])), NOW).unwrap();
    assert_eq!(
        answer,
        Outcome::BlocksReleased {
            released: vec![],
            kept: vec![ranges[0]]
        }
    );
    let answer = store.run(release(Which::One(ranges[0])), NOW).unwrap();
    assert_eq!(
        answer,
        Outcome::BlocksReleased {
            released: vec![ranges[0]],
            kept: vec![]
        }
    );
    assert_eq!((owners(&store)[0].1.as_str(), held(&store).len()), ("-", 12));
    check_settled(&store);
    // With its last address, a block without an owner is gone.
    run(&mut store, Request::ReleaseByHandle("h".to_owned())).unwrap();
    assert_eq!(owners(&store).len(), 2);
    store.run(release(Which::Empty { keep: 1 }), NOW).unwrap();
    assert_eq!(owners(&store).len(), 1);
    store.run(release(Which::All), NOW).unwrap();
    assert_eq!((owners(&store).len(), count(&store, Kind::BlockAffinity)), (0, 0));
}

#[test]
fn releases_are_guarded_and_say_what_they_did() {
    let mut store = one_pool("10.0.0.0/28", 30);
    let mine = assign(&mut store, "n0", "a").unwrap()[0];
    let theirs = assign(&mut store, "n0", "b").unwrap()[0];
    let target = |address: IpAddr, handle: &str| Target {
        address,
        guard: Guard {
            handle: Some(handle.to_owned()),
            sequence: None,
        },
    };
    let targets = vec![
        target(mine, "a"),
        target(theirs, "a"),
        target(ip("10.0.0.15"), "a"),
        target(ip("192.0.2.1"), "a"),
    ];
    let answer = store
        .run(Request::ReleaseAddresses(ReleaseAddresses { targets }), NOW)
        .unwrap();
    let Outcome::Released(released) = answer else {
        panic!()
    };
    assert_eq!(released.freed, [mine]);
    assert!(matches!(&released.unreleased[..], [
        Unreleased::HeldByAnother(a, holder), Unreleased::NotHeld(_), Unreleased::NotHeld(_)
    ] if *a == theirs && holder.handle_id.as_deref() == Some("b")));
    assert_eq!(
        run(&mut store, Request::ReleaseByHandle("a".to_owned())).unwrap(),
        Vec::<IpAddr>::new()
    );
}

#[test]
fn a_node_reserves_ahead_and_records_behind() {
    let mut store = one_pool("10.0.0.0/28", 29);
    let attribute = |handle: &str| AllocationAttribute {
        handle_id: Some(handle.to_owned()),
        secondary: Attributes::from([("node", "n0".to_owned())]),
    };
    let reserved = run(&mut store, Request::AutoAssign(AutoAssign::reserve("n0", 6, 0))).unwrap();
    assert_eq!(reserved.len(), 6);
    let given = |n: usize, handle: &str| Given {
        address: reserved[n],
        attribute: attribute(handle),
    };
    let record = |given, freed| {
        Request::Record(Record {
            node: "n0".to_owned(),
            given,
            freed,
            refill: Refill::default(),
        })
    };
    store
        .run(record(vec![given(0, "pod-a"), given(1, "pod-b")], vec![]), NOW)
        .unwrap();
    assert_eq!(held(&store).values().filter(|h| h.starts_with("pod-")).count(), 2);
    // Freed and given to the next in one record; said again after a crash, it changes nothing.
    let freed = Target {
        address: reserved[0],
        guard: Guard {
            handle: Some("pod-a".to_owned()),
            sequence: None,
        },
    };
    let again = record(vec![given(0, "pod-c"), given(1, "pod-b")], vec![freed]);
    store.run(again.clone(), NOW).unwrap();
    let before = store.clone();
    assert_eq!(
        store.run(again, NOW).unwrap(),
        Outcome::Recorded { reserved: vec![] }
    );
    assert_eq!(held(&store), held(&before));
    assert_eq!(held(&store)[&reserved[0]], "pod-c");
    // The reserve is filled up to its size with what its blocks have; it takes less rather than another block.
    let more = run(&mut store, Request::AutoAssign(AutoAssign::reserve("n0", 7, 0))).unwrap();
    assert_eq!((more.len(), owners(&store).len()), (6, 1));
    // Others cannot have what is reserved, and the node cannot give what is not.
    store.put(pool("p", "10.0.0.0/29", 29, |_| ()));
    let only = store.blocks().next().unwrap().cidr;
    store.put(pool("p", &only.to_string(), 29, |_| ()));
    assert!(assign(&mut store, "n1", "borrower").is_err());
    run(&mut store, Request::ReleaseByHandle(handle::of_reserve("n0"))).unwrap();
    let error = run(&mut store, record(vec![given(5, "pod-x")], vec![])).unwrap_err();
    assert_eq!(
        error,
        format!("the address {} is not reserved by node n0", reserved[5])
    );
    let stolen = assign(&mut store, "n1", "borrower").unwrap()[0];
    let late = Given {
        address: stolen,
        attribute: attribute("pod-y"),
    };
    assert!(
        run(&mut store, record(vec![late], vec![]))
            .unwrap_err()
            .contains("is taken by handle 'borrower'")
    );
}

#[test]
fn a_record_fills_the_reserve_from_blocks_that_it_writes_anyway() {
    let mut store = MemoryStore::with([
        pool("p", "10.0.0.0/28", 29, |_| ()),
        pool("six", "fd00::/124", 125, |_| ()),
        reserve_addresses(&["10.0.0.0/30", "10.0.0.8/30"]),
    ]);
    let reserved = run(&mut store, Request::AutoAssign(AutoAssign::reserve("n0", 2, 2))).unwrap();
    let record = |address: IpAddr, refill: Refill| {
        let secondary = Attributes::default();
        let handle_id = Some("pod".to_owned());
        Request::Record(Record {
            node: "n0".to_owned(),
            given: vec![Given {
                address,
                attribute: AllocationAttribute { handle_id, secondary },
            }],
            freed: vec![],
            refill,
        })
    };
    let refill = |ranges: &[&str]| Refill {
        ipv4: 5,
        ipv6: 5,
        ranges: ranges.iter().map(|range| net(range)).collect(),
        reservations: Reservations::new(&[net("10.0.0.0/30"), net("10.0.0.8/30")]),
    };
    let got = |store: &mut MemoryStore, request| match store.run(request, NOW).unwrap() {
        Outcome::Recorded { reserved } => reserved,
        other => panic!("{other:?}"),
    };
    let versions = |store: &MemoryStore| store.blocks().map(|b| b.sequence_number).collect::<Vec<_>>();
    // Nothing of a pool that does not serve the node, nor of a family that is not written.
    let whole = refill(&["10.0.0.0/28", "fd00::/124"]);
    assert_eq!(
        got(&mut store, record(reserved[0], refill(&["10.0.1.0/24"]))),
        Vec::<IpAddr>::new()
    );
    assert_eq!(
        got(&mut store, record(reserved[0], whole.clone())),
        Vec::<IpAddr>::new()
    );
    // Of four addresses that nobody reserved for something else one is the pod's and one was the node's already.
    let more = got(&mut store, record(reserved[1], whole.clone()));
    assert_eq!(more.len(), 2, "{more:?}");
    assert!(
        more.iter()
            .all(|address| held(&store)[address] == handle::of_reserve("n0"))
    );
    let before = versions(&store);
    assert_eq!(
        got(&mut store, record(reserved[1], whole.clone())),
        Vec::<IpAddr>::new()
    );
    assert_eq!(versions(&store), before, "said again it writes nothing");
    assert_eq!(got(&mut store, record(reserved[2], whole)).len(), 5);
    // A block that is no longer the node's is not taken from.
    let block = store
        .blocks()
        .find(|b| b.cidr.contains(&reserved[3]))
        .unwrap()
        .cidr;
    let which = Which::One(block);
    let node = "n0".to_owned();
    run(&mut store, Request::ReleaseBlocks(ReleaseBlocks { node, which })).unwrap();
    let six = refill(&["fd00::/124"]);
    assert_eq!(got(&mut store, record(reserved[3], six)), Vec::<IpAddr>::new());
}

#[test]
fn a_named_address_may_come_from_the_nodes_own_reserve() {
    let mut store = one_pool("10.0.0.0/29", 29);
    let reserved = run(&mut store, Request::AutoAssign(AutoAssign::reserve("n0", 4, 0))).unwrap();
    let text = reserved[2].to_string();
    assert!(
        run(&mut store, specific("n1", "other", &[&text]))
            .unwrap_err()
            .contains("manx-reserve-n0")
    );
    run(&mut store, specific("n0", "mine", &[&text])).unwrap();
    assert_eq!(held(&store)[&reserved[2]], "mine");
}

#[test]
fn a_damaged_block_is_left_alone_and_repaired_by_the_repair() {
    let mut store = one_pool("10.0.0.0/29", 30);
    assign(&mut store, "n0", "a").unwrap();
    let mut broken = store.blocks().next().unwrap().clone();
    let range = broken.cidr;
    broken.allocations[1] = Some(44);
    broken.deleted = true;
    store.put(Object::named(name::of_cidr(&range), broken).into());
    let elsewhere = assign(&mut store, "n0", "b").unwrap()[0];
    assert!(!range.contains(&elsewhere));
    store.run(Request::Repair, NOW).unwrap();
    check_always(&store);
    let repaired = store.blocks().find(|b| b.cidr == range).unwrap();
    assert!(block::is_usable(repaired));
    assert_eq!(
        block::free(repaired),
        2,
        "the address of the holder that cannot be read stays taken"
    );
}

#[test]
fn what_belongs_to_no_node_is_not_touched() {
    let mut store = one_pool("10.0.0.0/30", 30);
    let mut balancer = block::new(net("10.0.0.0/30"), None, false, 1).unwrap();
    balancer.spec.affinity = Some("virtual:load-balancer".to_owned());
    store.put(balancer.into());
    let mut claim = affinity::new("load-balancer", net("10.0.0.0/30"), AffinityState::Confirmed);
    claim.spec.affinity_type = "virtual".to_owned();
    store.put(claim.into());
    assert!(assign(&mut store, "n0", "h").is_err());
    assert_eq!(
        store.run(Request::Repair, NOW).unwrap(),
        Outcome::Repaired { writes: 0 }
    );
    assert_eq!(count(&store, Kind::BlockAffinity), 1);
}
