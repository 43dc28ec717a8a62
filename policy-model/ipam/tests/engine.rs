//! What each request does, one situation at a time, and what its errors say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what went wrong by panicking.

mod harness;

use harness::*;
use policy_model::{AffinityState, IpamConfigSpec, Key, Kind, Object, Resource};
use policy_model_ipam::engine::{Answer, AutoAssign, Machine, Outcome, Request, Shortfall, Step};
use policy_model_ipam::memory::MemoryStore;
use policy_model_ipam::{handle, name};

#[test]
fn blocks_have_calicos_size_and_names_by_default() {
    let spec = |cidr: &str| policy_model::IpPoolSpec::of(net(cidr));
    let mut store = MemoryStore::with([
        Object::named("four", spec("10.65.0.0/16")).into(),
        Object::named("six", spec("fd00:65::/48")).into(),
    ]);
    let given = run(&mut store, Request::AutoAssign(auto("node-1", "h", 1, 1))).unwrap();
    assert!(given[0].is_ipv4() && given[1].is_ipv6(), "IPv4 stands first");
    for b in store.blocks() {
        assert_eq!(b.allocations.len(), 64);
        let dashed = b.cidr.to_string().replace(['.', ':', '/'], "-");
        assert!(store.get(&Key::global(Kind::IPAMBlock, dashed.clone())).is_some());
        let claim = store
            .get(&Key::global(Kind::BlockAffinity, format!("node-1-{dashed}")))
            .unwrap();
        let Resource::BlockAffinity(claim) = &**claim.resource() else {
            panic!()
        };
        assert_eq!(
            (claim.spec.state, claim.spec.affinity_type.as_str()),
            (AffinityState::Confirmed, "host")
        );
        assert_eq!(b.affinity.as_deref(), Some("host:node-1"));
    }
    check_settled(&store);
    assert_eq!(count(&store, Kind::IPAMHandle), 0, "no handle object for a pod");
    let derived = handle::derive("h", store.blocks());
    assert_eq!(derived.block.values().sum::<u32>(), 2);
}

#[test]
fn the_same_handle_gets_the_same_addresses_even_from_a_disabled_pool() {
    let mut store = one_pool("10.0.0.0/26", 28);
    let first = assign(&mut store, "n0", "h").unwrap();
    store.put(pool("p", "10.0.0.0/26", 28, |p| p.disabled = true));
    assert_eq!(assign(&mut store, "n0", "h").unwrap(), first);
    let error = assign(&mut store, "n0", "other").unwrap_err();
    assert_eq!(
        error,
        "no IPv4 address for node n0: no IP pool may serve it: pool p is disabled"
    );
    assert!(
        assign(&mut store, "n0", "")
            .unwrap_err()
            .contains("without a handle")
    );
}

#[test]
fn nodes_own_different_blocks_until_none_is_left_then_borrow() {
    let mut store = one_pool("10.0.0.0/29", 30);
    assign(&mut store, "n0", "a").unwrap();
    assign(&mut store, "n1", "b").unwrap();
    let Ok(Outcome::Assigned(given)) = store.run(Request::AutoAssign(auto("n2", "c", 1, 0)), NOW) else {
        panic!()
    };
    assert!(given[0].borrowed);
    assert_eq!(
        owners(&store)
            .iter()
            .map(|(_, n)| n.as_str())
            .filter(|n| *n == "n2")
            .count(),
        0
    );
    check_settled(&store);

    store.put(config(true, 0));
    let error = assign(&mut store, "n3", "d").unwrap_err();
    assert_eq!(
        error,
        "no IPv4 address for node n3: pool p (10.0.0.0/29): 2 blocks, 0 of them this node's, all full or reserved, \
         no room for another block, 5 addresses free in blocks of other nodes; strict affinity forbids borrowing"
    );
}

#[test]
fn the_limit_of_blocks_is_kept_and_said() {
    let mut store = one_pool("10.0.0.0/26", 30);
    store.put(config(true, 2));
    let error = run(&mut store, Request::AutoAssign(auto("n0", "h", 9, 0))).unwrap_err();
    assert!(
        error.contains("it owns 2 blocks and may own 2 (maxBlocksPerHost)"),
        "{error}"
    );
    assert_eq!(held(&store).len(), 0, "what was taken is given back");
    let own = AutoAssign {
        max_blocks_per_host: Some(3),
        ..auto("n0", "h", 9, 0)
    };
    assert_eq!(run(&mut store, Request::AutoAssign(own)).unwrap().len(), 9);
    assert_eq!(owners(&store).len(), 3);
}

#[test]
fn without_automatic_blocks_only_what_exists_is_used() {
    let mut store = one_pool("10.0.0.0/26", 30);
    let spec = IpamConfigSpec {
        auto_allocate_blocks: false,
        ..IpamConfigSpec::default()
    };
    store.put(Object::named(name::CONFIG_NAME, spec).into());
    let error = assign(&mut store, "n0", "h").unwrap_err();
    assert!(error.contains("autoAllocateBlocks is off"), "{error}");
    assert_eq!(owners(&store), []);
}

#[test]
fn a_failure_in_one_family_gives_the_other_back() {
    let mut store = one_pool("10.0.0.0/26", 30);
    let error = run(&mut store, Request::AutoAssign(auto("n0", "h", 3, 1))).unwrap_err();
    assert_eq!(error, "no IPv6 address for node n0: there is no IPv6 IP pool");
    assert_eq!(held(&store).len(), 0);
    // Of a handle that held something before, only the new address goes.
    let first = run(&mut store, Request::AutoAssign(auto("n0", "h", 1, 0))).unwrap();
    run(&mut store, Request::AutoAssign(auto("n0", "h", 2, 1))).unwrap_err();
    assert_eq!(held(&store).into_keys().collect::<Vec<_>>(), first);
}

#[test]
fn reserved_addresses_are_given_only_when_named() {
    let mut store = one_pool("10.0.0.0/29", 30);
    store.put(reserve_addresses(&["10.0.0.0/30", "10.0.0.5/32"]));
    let all = run(&mut store, Request::AutoAssign(auto("n0", "h", 3, 0))).unwrap();
    assert_eq!(all, ["10.0.0.4", "10.0.0.6", "10.0.0.7"].map(ip));
    assert!(
        assign(&mut store, "n0", "more")
            .unwrap_err()
            .contains("all full or reserved")
    );
    assert_eq!(
        owners(&store).len(),
        1,
        "a block that is wholly reserved is not claimed"
    );
    assert_eq!(
        run(&mut store, specific("n0", "named", &["10.0.0.5", "10.0.0.1"]))
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn an_enormous_reservation_costs_nothing() {
    let mut store = MemoryStore::with([
        pool("six", "fd00::/48", 122, |_| ()),
        reserve_addresses(&["fd00::/49"]),
    ]);
    let given = run(&mut store, Request::AutoAssign(auto("n0", "h", 0, 1))).unwrap();
    assert!(net("fd00:0:0:8000::/49").contains(&given[0]));
}

#[test]
fn named_addresses_say_why_not() {
    let mut store = MemoryStore::with([
        pool("p", "10.0.0.0/28", 30, |_| ()),
        pool("off", "10.0.1.0/28", 30, |p| p.disabled = true),
        pool("nowhere", "10.0.2.0/28", 30, |p| {
            p.node_selector = "!all()".into()
        }),
    ]);
    let mut pod = auto("n1", "cni.1", 1, 0);
    pod.attributes.insert("namespace", "shop".to_owned());
    pod.attributes.insert("pod", "cart".to_owned());
    let taken = run(&mut store, Request::AutoAssign(pod)).unwrap()[0];
    let mut say = |addresses: &[&str]| run(&mut store, specific("n0", "h", addresses)).unwrap_err();
    assert_eq!(
        say(&[&taken.to_string()]),
        format!("the address {taken} is taken by pod shop/cart on node n1")
    );
    assert_eq!(
        say(&["192.0.2.1"]),
        "the requested address 192.0.2.1 is in no IP pool"
    );
    assert_eq!(
        say(&["10.0.1.1"]),
        "the requested address 10.0.1.1 is in IP pool off, which is disabled"
    );
    assert_eq!(held(&store).len(), 1);
    assert_eq!(
        run(&mut store, specific("n0", "h", &["10.0.2.1"])).unwrap().len(),
        1,
        "selectors do not matter"
    );

    store.put(config(true, 0));
    let range = store.blocks().find(|b| b.cidr.contains(&taken)).unwrap().cidr;
    let other = range.hosts().find(|a| *a != taken).unwrap();
    let error = run(&mut store, specific("n0", "x", &[&other.to_string()])).unwrap_err();
    assert!(
        error.contains(&format!(
            "is in block {range} of node n1, and strict affinity forbids node n0"
        )),
        "{error}"
    );
}

#[test]
fn fewer_may_be_enough() {
    let mut store = one_pool("10.0.0.0/30", 30);
    assign(&mut store, "n0", "a").unwrap();
    let ask = AutoAssign {
        shortfall: Shortfall::Accept,
        ..auto("n0", "b", 9, 0)
    };
    assert_eq!(
        run(&mut store, Request::AutoAssign(ask.clone())).unwrap().len(),
        3
    );
    let none = AutoAssign {
        handle: "c".to_owned(),
        ..ask
    };
    assert!(run(&mut store, Request::AutoAssign(none)).is_err());
}

#[test]
fn a_failure_gives_back_what_writes_took_whose_answers_were_lost() {
    let mut store = one_pool("10.0.0.0/29", 30);
    let mut machine = Machine::new(Request::AutoAssign(auto("n0", "h", 9, 0)), NOW);
    let mut answer = Answer::Start;
    let mut most = 0;
    let error = loop {
        answer = match machine.next(answer) {
            Step::Failed(error) => break error,
            Step::Done(outcome) => panic!("{outcome:?}"),
            step @ Step::Write(_) => {
                store.answer(&step).unwrap();
                most = most.max(held(&store).len());
                Answer::Conflict
            }
            step => store.answer(&step).unwrap(),
        };
    };
    assert!(
        error
            .to_string()
            .starts_with("no IPv4 address for node n0: pool p"),
        "{error}"
    );
    assert_eq!((most, held(&store).len()), (8, 0));
}
