//! Whatever was asked for before, in whatever steps, and whatever others did: the kernel ends with what is wanted.

use std::collections::BTreeMap;

use dataplane_iptables::driver::Driver;
use dataplane_iptables::ops::{Family, Member, Place, SetKind, SetOp};
use dataplane_iptables::programs::Variant;
use proptest::prelude::*;

use crate::bed::{Node, create, in_namespace, ipset, ipset_members, write};

const SETS: [&str; 3] = ["cali40s1", "cali40s2", "cali40s3"];
const CHAINS: [&str; 3] = ["cali-a", "cali-b", "cali-c"];

/// One thing that happens.
#[derive(Clone, Debug)]
enum Happening {
    /// A set is to have these members, or not to be there.
    Set(usize, Option<Vec<u8>>),
    /// Two sets exchange their members.
    Swap(usize, usize),
    /// A chain is to mark with these, or not to be there.
    Chain(usize, Option<Vec<u8>>),
    /// What was asked for is written.
    Apply,
    /// The agent starts anew.
    Restart,
    /// Somebody else does this.
    Foreign(&'static str),
}

fn happening() -> impl Strategy<Value = Happening> {
    let few = || proptest::option::weighted(0.8, proptest::collection::vec(1..20_u8, 0..4));
    prop_oneof![
        4 => (0..SETS.len(), few()).prop_map(|(set, members)| Happening::Set(set, members)),
        1 => (0..SETS.len(), 0..SETS.len()).prop_map(|(one, other)| Happening::Swap(one, other)),
        4 => (0..CHAINS.len(), few()).prop_map(|(chain, rules)| Happening::Chain(chain, rules)),
        4 => Just(Happening::Apply),
        1 => Just(Happening::Restart),
        2 => proptest::sample::select(vec![
            "iptables -F FORWARD", "iptables -I FORWARD -j ACCEPT", "iptables -N cali-stray",
            "ipset create cali40stray hash:ip", "ipset flush cali40s1", "ipset add cali40s2 10.9.9.9",
        ]).prop_map(Happening::Foreign),
    ]
}

/// What is wanted, as a plain model.
#[derive(Default)]
struct Wanted {
    sets: BTreeMap<usize, Vec<u8>>,
    chains: BTreeMap<usize, Vec<u8>>,
}

fn member(number: u8) -> Member {
    Member::Ip(std::net::Ipv4Addr::new(10, 0, 0, number).into())
}

fn rules(marks: &[u8]) -> Vec<String> {
    marks
        .iter()
        .map(|mark| format!("-m mark --mark {mark:#x} -j DROP"))
        .collect()
}

impl Wanted {
    fn set(&mut self, set: usize, members: Option<Vec<u8>>) -> Vec<SetOp> {
        let name = SETS[set].to_owned();
        let all = |numbers: &[u8]| numbers.iter().copied().map(member).collect::<Vec<_>>();
        let before = self.sets.remove(&set);
        let Some(members) = members else {
            return before.map(|_| SetOp::Destroy(name)).into_iter().collect();
        };
        let mut operations = Vec::new();
        match &before {
            None => operations.push(create(&name, Family::Inet, SetKind::HashIp)),
            Some(before) => operations.push(SetOp::Remove(name.clone(), all(before))),
        }
        operations.push(SetOp::Add(name, all(&members)));
        self.sets.insert(set, members);
        operations
    }

    fn take_all(&self, driver: &mut Driver) {
        let mut fresh = Wanted::default();
        for (&set, members) in &self.sets {
            driver.take(&fresh.set(set, Some(members.clone())), &[]);
        }
        for (&chain, marks) in &self.chains {
            take_chain(driver, chain, Some(marks));
        }
        take_hook(driver);
    }
}

fn take_chain(driver: &mut Driver, chain: usize, marks: Option<&[u8]>) {
    let rules = marks.map(rules);
    let rules: Option<Vec<&str>> = rules
        .as_ref()
        .map(|rules| rules.iter().map(String::as_str).collect());
    driver.take(&[], &[write(&[(CHAINS[chain], rules.as_deref())], &HOOK)]);
}

const HOOK: [(&str, Place, &[&str]); 1] = [("FORWARD", Place::First, &["-j cali-hook"])];

fn take_hook(driver: &mut Driver) {
    driver.take(
        &[],
        &[write(&[("cali-hook", Some(&["-i cali+ -j DROP"]))], &HOOK)],
    );
}

fn check(variant: Variant, happenings: Vec<Happening>) {
    let node = Node::new(variant);
    let mut wanted = Wanted::default();
    let mut driver = node.driver();
    take_hook(&mut driver);
    for happening in happenings {
        match happening {
            Happening::Set(set, members) => {
                let operations = wanted.set(set, members);
                driver.take(&operations, &[]);
            }
            Happening::Swap(one, other) => {
                if one != other && wanted.sets.contains_key(&one) && wanted.sets.contains_key(&other) {
                    let (first, second) = (wanted.sets.remove(&one), wanted.sets.remove(&other));
                    wanted.sets.extend(first.map(|members| (other, members)));
                    wanted.sets.extend(second.map(|members| (one, members)));
                    driver.take(&[SetOp::Swap(SETS[one].into(), SETS[other].into())], &[]);
                }
            }
            Happening::Chain(chain, marks) => {
                take_chain(&mut driver, chain, marks.as_deref());
                match marks {
                    Some(marks) => drop(wanted.chains.insert(chain, marks)),
                    None => drop(wanted.chains.remove(&chain)),
                }
            }
            Happening::Apply => drop(driver.apply().unwrap_or_else(|failures| panic!("{failures}"))),
            Happening::Restart => {
                driver = node.driver();
                wanted.take_all(&mut driver);
            }
            Happening::Foreign(command) => node.try_command(command),
        }
    }
    driver.look_at_everything();
    driver.apply().unwrap_or_else(|failures| panic!("{failures}"));
    // Another life finds nothing to do, and the kernel has what the model has.
    let mut other = node.driver();
    wanted.take_all(&mut other);
    let applied = other.apply().unwrap_or_else(|failures| panic!("{failures}"));
    assert_eq!((applied.restores, applied.set_operations), (0, 0), "{applied:?}");
    let mut sets: Vec<String> = ipset("list -n").lines().map(str::to_owned).collect();
    sets.sort();
    assert_eq!(
        sets,
        wanted
            .sets
            .keys()
            .map(|&set| SETS[set].to_owned())
            .collect::<Vec<_>>()
    );
    for (&set, members) in &wanted.sets {
        let mut expected: Vec<String> = members.iter().map(|&number| member(number).to_string()).collect();
        expected.sort();
        expected.dedup();
        assert_eq!(ipset_members(SETS[set]), expected);
    }
    for (index, name) in CHAINS.iter().enumerate() {
        let marks = wanted.chains.get(&index).cloned().unwrap_or_default();
        assert_eq!(node.chain("filter", name), rules(&marks));
    }
    assert_eq!(node.chain("filter", "FORWARD")[0], "-j cali-hook");
    assert!(!node.save(Family::Inet).contains("stray"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn history_does_not_matter(happenings in proptest::collection::vec(happening(), 1..25)) {
        for variant in Variant::ALL {
            let happenings = happenings.clone();
            in_namespace(move || check(variant, happenings));
        }
    }
}
