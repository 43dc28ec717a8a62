//! Tests of a block's transitions, against a plain model.

use super::*;
use policy_model::{Attributes, Resource};
use proptest::prelude::*;

fn attribute(handle: &str) -> AllocationAttribute {
    AllocationAttribute {
        handle_id: Some(handle.to_owned()),
        secondary: Attributes::default(),
    }
}

fn block(cidr: &str) -> IpamBlockSpec {
    new(cidr.parse().unwrap(), Some("n1"), false, 100).unwrap().spec
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn assert_valid(block: &IpamBlockSpec) {
    Resource::from(Object::named(name::of_cidr(&block.cidr), block.clone()))
        .validate()
        .unwrap();
    let mut same = block.clone();
    assert!(
        !normalise(&mut same),
        "a block made by transitions needs no repair: {block:?}"
    );
}

#[test]
fn every_address_of_a_block_is_given_the_first_and_the_last_included() {
    let mut b = block("10.0.0.0/30");
    let given = assign_next(&mut b, 9, &attribute("a"), &Reservations::default());
    assert_eq!(given, ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"].map(ip));
    assert_eq!((free(&b), assignable(&b, &Reservations::default())), (0, 0));
    assert_eq!(b.attributes.len(), 1, "equal attributes are kept once");
    assert_valid(&b);
}

#[test]
fn a_released_address_is_given_again_last() {
    let mut b = block("10.0.0.0/30");
    let none = Reservations::default();
    assign_next(&mut b, 1, &attribute("a"), &none);
    assert_eq!(release_handle(&mut b, "a"), [ip("10.0.0.0")]);
    let given = assign_next(&mut b, 4, &attribute("b"), &none);
    assert_eq!(given, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.0"].map(ip));
}

#[test]
fn reserved_addresses_are_given_only_by_name() {
    let mut b = block("10.0.0.0/30");
    let reserved = Reservations::new(&["10.0.0.0/31".parse().unwrap()]);
    assert_eq!(assignable(&b, &reserved), 2);
    assert_eq!(
        assign_next(&mut b, 4, &attribute("a"), &reserved),
        ["10.0.0.2", "10.0.0.3"].map(ip)
    );
    assign(&mut b, ip("10.0.0.1"), &attribute("b")).unwrap();
    let taken = assign(&mut b, ip("10.0.0.1"), &attribute("c")).unwrap_err();
    assert_eq!(taken.to_string(), "10.0.0.1 is taken by handle 'b'");
    assert!(matches!(
        assign(&mut b, ip("10.0.1.1"), &attribute("c")),
        Err(NotAssigned::Outside { .. })
    ));
    assert_valid(&b);
}

#[test]
fn a_guard_protects_whoever_got_the_address_next() {
    let mut b = block("10.0.0.0/32");
    let none = Reservations::default();
    assign_next(&mut b, 1, &attribute("a"), &none);
    let old = holder(&b, ip("10.0.0.0")).unwrap().sequence;
    release_handle(&mut b, "a");
    assign_next(&mut b, 1, &attribute("a"), &none);
    let guard = Guard {
        handle: Some("a".to_owned()),
        sequence: Some(old),
    };
    assert!(matches!(
        release(&mut b, ip("10.0.0.0"), &guard),
        Release::HeldByAnother(_)
    ));
    let other = Guard {
        handle: Some("z".to_owned()),
        sequence: None,
    };
    assert!(matches!(
        release(&mut b, ip("10.0.0.0"), &other),
        Release::HeldByAnother(_)
    ));
    assert_eq!(release(&mut b, ip("10.0.0.0"), &Guard::default()), Release::Freed);
    assert_eq!(
        release(&mut b, ip("10.0.0.0"), &Guard::default()),
        Release::NotHeld
    );
}

#[test]
fn a_reserve_becomes_a_pods_without_ever_being_free() {
    let mut b = block("10.0.0.0/30");
    let given = assign_next(&mut b, 2, &attribute("reserve"), &Reservations::default());
    assert!(hand_over(&mut b, given[0], "reserve", &attribute("pod")));
    assert!(!hand_over(&mut b, given[0], "reserve", &attribute("other")));
    assert_eq!(holder(&b, given[0]).unwrap().attribute, &attribute("pod"));
    assert!(is_held_by(&b, "reserve") && is_held_by(&b, "pod") && !is_held_by(&b, "other"));
    assert_valid(&b);
}

#[test]
fn a_broken_block_gives_nothing_until_it_is_repaired() {
    let mut b = block("10.0.0.0/30");
    b.allocations = vec![Some(7), None, None];
    b.unallocated = vec![2, 2, 0, 9];
    assert_eq!(
        assign_next(&mut b.clone(), 4, &attribute("a"), &Reservations::default()),
        Vec::<IpAddr>::new()
    );
    assert!(normalise(&mut b));
    assert_valid(&b);
    let given = assign_next(&mut b, 4, &attribute("a"), &Reservations::default());
    assert_eq!(
        given,
        ["10.0.0.2", "10.0.0.1", "10.0.0.3"].map(ip),
        "the address of an unknown holder stays taken"
    );
}

#[test]
fn a_range_too_long_for_a_block_is_none() {
    assert!(new("fd00::/64".parse().unwrap(), None, false, 0).is_none());
    assert_eq!(block("fd00::40/122").allocations.len(), 64);
}

#[derive(Clone, Debug)]
enum Change {
    Next(usize, u8),
    Specific(u8, u8),
    ReleaseAddress(u8),
    ReleaseHandle(u8),
    HandOver(u8, u8, u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0usize..4, 0u8..4).prop_map(|(n, h)| Change::Next(n, h)),
        (0u8..18, 0u8..4).prop_map(|(a, h)| Change::Specific(a, h)),
        (0u8..18).prop_map(Change::ReleaseAddress),
        (0u8..4).prop_map(Change::ReleaseHandle),
        (0u8..18, 0u8..4, 0u8..4).prop_map(|(a, f, t)| Change::HandOver(a, f, t)),
    ]
}

proptest! {
    /// A block agrees with a map of addresses and a queue, is valid after each change, and its number only grows.
    #[test]
    fn a_block_agrees_with_a_plain_model(changes in proptest::collection::vec(change(), 0..40), v6 in any::<bool>()) {
        let base = if v6 { "fd00::" } else { "10.0.0." };
        let at = |n: u8| ip(&if v6 { format!("{base}{n:x}") } else { format!("{base}{n}") });
        let name = |h: u8| format!("h{h}");
        let mut b = block(&if v6 { format!("{base}/124") } else { format!("{base}0/28") });
        let mut held: BTreeMap<IpAddr, String> = BTreeMap::new();
        let mut queue: Vec<IpAddr> = (0..16).map(at).collect();
        let none = Reservations::default();
        for change in changes {
            let before = b.sequence_number;
            match change {
                Change::Next(n, h) => {
                    let expected: Vec<_> = queue.drain(..n.min(queue.len())).collect();
                    held.extend(expected.iter().map(|a| (*a, name(h))));
                    prop_assert_eq!(assign_next(&mut b, n, &attribute(&name(h)), &none), expected);
                }
                Change::Specific(a, h) => {
                    let possible = queue.contains(&at(a));
                    prop_assert_eq!(assign(&mut b, at(a), &attribute(&name(h))).is_ok(), possible);
                    if possible {
                        queue.retain(|x| *x != at(a));
                        held.insert(at(a), name(h));
                    }
                }
                Change::ReleaseAddress(a) => {
                    let was = held.remove(&at(a));
                    let freed = release(&mut b, at(a), &Guard { handle: was.clone(), sequence: None });
                    prop_assert_eq!(freed == Release::Freed, was.is_some());
                    queue.extend(was.map(|_| at(a)));
                }
                Change::ReleaseHandle(h) => {
                    let freed: Vec<_> = held.iter().filter(|(_, n)| **n == name(h)).map(|(a, _)| *a).collect();
                    held.retain(|_, n| *n != name(h));
                    queue.extend(&freed);
                    prop_assert_eq!(release_handle(&mut b, &name(h)), freed);
                }
                Change::HandOver(a, from, to) => {
                    let possible = held.get(&at(a)) == Some(&name(from));
                    prop_assert_eq!(hand_over(&mut b, at(a), &name(from), &attribute(&name(to))), possible);
                    if possible {
                        held.insert(at(a), name(to));
                    }
                }
            }
            prop_assert!(b.sequence_number >= before);
            let seen: BTreeMap<_, _> =
                holders(&b).map(|h| (h.address, h.attribute.handle_id.clone().unwrap())).collect();
            prop_assert_eq!(&seen, &held);
            prop_assert_eq!(free(&b), queue.len());
            assert_valid(&b);
        }
    }

    /// Whatever stands in a block, repairing it makes it valid and frees nothing that was taken.
    #[test]
    fn a_repaired_block_is_valid(
        allocations in proptest::collection::vec(proptest::option::of(0u32..5), 0..20),
        unallocated in proptest::collection::vec(0u32..20, 0..20),
        attributes in 0usize..4,
    ) {
        let mut b = block("10.0.0.0/28");
        b.allocations = allocations.clone();
        b.unallocated = unallocated;
        b.attributes = (0..attributes).map(|n| attribute(&format!("h{n}"))).collect();
        // An outline answers as the block does, also one that contradicts itself.
        let (of_block, reserved) = (outline(&b), Reservations::new(&["10.0.0.4/31".parse().unwrap()]));
        let answers = |b: &IpamBlockSpec| {
            (is_usable(b), is_empty(b), free(b), assignable(b, &reserved), owner(b).map(str::to_owned))
        };
        prop_assert_eq!(answers(&of_block), answers(&b));
        prop_assert!(holders(&of_block).all(|held| *held.attribute == AllocationAttribute::default()));
        normalise(&mut b);
        assert_valid(&b);
        for (ordinal, allocation) in allocations.iter().enumerate().take(16) {
            prop_assert_eq!(b.allocations[ordinal].is_some(), allocation.is_some());
        }
    }
}
