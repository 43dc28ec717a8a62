//! The driver against the real kernel, in a network namespace of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

mod support;

use dataplane_api::{
    AtomId, AtomScope, EndpointId, HostPort, Member, Policy, TierPolicies, Update, WorkloadEndpoint,
};
use dataplane_nftables::contents::{contents, difference};
use dataplane_nftables::layout::names::ALLOW;
use dataplane_nftables::layout::{LayoutSettings, Packet, TableSize, Way, simulate};
use dataplane_nftables::observe::observe;
use dataplane_nftables::socket::Link;
use dataplane_nftables::wire::SetData;
use dataplane_nftables::{Driver, DriverSettings, cleanup};
use dataplane_tables::{Changes, Tables};
use policy_model::{Action, DefaultAction, PortRange, Protocol};
use policy_model_rules::{PolicyId, PortMatch, Rule, Side};
use policy_model_selector::Selector;
use std::process::Command;
use std::sync::Arc;
use support::end;

/// Runs a test in a thread with a network namespace of its own, which goes with the thread.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("a network namespace; these tests need root");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn nft(args: &[&str]) -> (bool, String) {
    let output = Command::new("nft").args(args).output().expect("the nft program");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// The ruleset without the lines that say who owns the table at the moment.
fn ruleset() -> String {
    let (fine, text) = nft(&["list", "ruleset"]);
    assert!(fine, "{text}");
    text.lines()
        .filter(|l| !l.starts_with("table inet manx") && !l.starts_with("\tflags "))
        .collect::<Vec<_>>()
        .join("\n")
}

fn settings(owned: bool) -> DriverSettings {
    DriverSettings {
        layout: LayoutSettings::default(),
        owned,
    }
}

fn policy(name: &str, from: u32, ports: &[(u16, u16)]) -> Update {
    let ranges = ports
        .iter()
        .map(|(a, b)| PortRange::new(*a, *b).unwrap())
        .collect();
    let rule = Rule {
        action: Action::Allow,
        index: 0,
        ip_version: None,
        protocol: Some(Protocol::TCP),
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Side {
            sets: vec![AtomId(from)],
            ..Side::default()
        },
        destination: Side {
            ports: Some(Box::new(PortMatch {
                ranges,
                named: Vec::new(),
            })),
            ..Side::default()
        },
    };
    Update::Policy(Arc::new(Policy {
        id: PolicyId::namespaced("ns", name),
        tier: "default".into(),
        order: None,
        selector: Selector::all(),
        applies_ingress: true,
        applies_egress: false,
        ingress: vec![rule],
        egress: Vec::new(),
    }))
}

fn endpoint(n: u8, policies: &[&str]) -> Update {
    let tier = |p: &[&str]| {
        let policies: Vec<PolicyId> = p.iter().map(|p| PolicyId::namespaced("ns", p)).collect();
        vec![TierPolicies {
            tier: "default".into(),
            default_action: DefaultAction::Deny,
            policies,
        }]
    };
    Update::Workload(Arc::new(WorkloadEndpoint {
        id: EndpointId {
            namespace: "ns".into(),
            name: format!("pod{n}").as_str().into(),
        },
        interface: format!("cali{n}"),
        mac: None,
        addresses: vec![
            format!("10.0.0.{n}").parse().unwrap(),
            format!("fd00::{n}").parse().unwrap(),
        ],
        spoofable: Vec::new(),
        ingress: if policies.is_empty() {
            Vec::new()
        } else {
            tier(policies)
        },
        egress: Vec::new(),
        profiles: Vec::new(),
    }))
}

fn atom(n: u32, nets: &[&str]) -> Vec<Update> {
    let added = nets.iter().map(|n| Member::Net(n.parse().unwrap())).collect();
    vec![
        Update::AtomCreated {
            atom: AtomId(n),
            scope: AtomScope::Peer,
        },
        Update::Members {
            atom: AtomId(n),
            added,
            removed: Vec::new(),
        },
    ]
}

fn world() -> Vec<Update> {
    let mut updates = atom(1, &["10.0.0.2/32", "10.0.0.3/32", "fd00::2/128"]);
    updates.extend(atom(2, &["172.16.0.0/16", "172.16.5.0/24", "10.0.0.3/32"]));
    updates.push(policy("web", 1, &[(80, 80), (8000, 9000)]));
    updates.push(policy("db", 2, &[(5432, 5432)]));
    updates.extend([
        endpoint(1, &["web"]),
        endpoint(2, &["web", "db"]),
        endpoint(3, &[]),
    ]);
    updates.extend(host_ports());
    updates.push(Update::InSync);
    updates
}

/// Ports of the node that lead to the first endpoint.
fn host_ports() -> Vec<Update> {
    let places = [
        ("0.0.0.0", "10.0.0.1:80"),
        ("::", "[fd00::1]:80"),
        ("192.0.2.1", "10.0.0.1:81"),
    ];
    let port = |address: &str| HostPort {
        protocol: Protocol::TCP,
        address: address.parse().unwrap(),
        port: 8080,
    };
    let update = |(address, to): (&str, &str)| Update::HostPort(port(address), to.parse().unwrap());
    places.map(update).into()
}

fn assert_exact(driver: &Driver, tables: &Tables) {
    let observed = observe(&mut Link::open().unwrap()).unwrap().expect("our table");
    let difference = difference(&contents(driver.planner(), tables), &observed);
    assert_eq!(difference.count(), 0, "{difference:#?}");
}

/// The world in force.
fn started(owned: bool) -> (Tables, Driver) {
    let mut tables = Tables::new();
    world().iter().for_each(|u| tables.apply(u));
    let mut driver = Driver::open(settings(owned)).unwrap();
    let changes = tables.commit();
    driver.apply(&tables, &changes, 0).unwrap();
    (tables, driver)
}

/// A group that is new finds a chain that waits for it, and another one is made when the change is in force. Of more new
/// groups than chains that wait the others get theirs in a transaction before.
#[test]
fn groups_that_are_new_take_what_waits_for_them() {
    in_namespace(|| {
        let (mut tables, mut driver) = started(true);
        let mut now = 10_000;
        driver.retire(&tables, now).unwrap();
        assert_eq!(driver.next_retirement(), None);
        let mut change = |driver: &mut Driver, updates: &[Update], transactions: usize| {
            now += 10_000;
            updates.iter().for_each(|u| tables.apply(u));
            let changes = tables.commit();
            let before = driver.planner().table_size().chains;
            let applied = driver.apply(&tables, &changes, now).unwrap();
            assert_eq!(applied.transactions, transactions, "{updates:?}");
            assert_exact(driver, &tables);
            let made = driver.planner().table_size().chains - before;
            assert_eq!(made > 0, transactions > 1);
            // What was taken is made anew at once, and what was left goes when no packet can hold it.
            driver.retire(&tables, now + 100).unwrap();
            assert_exact(driver, &tables);
            driver.retire(&tables, now + 5_000).unwrap();
            assert_exact(driver, &tables);
            assert_eq!(driver.next_retirement(), None);
        };
        // All of one group, which stays while one of them is in it.
        let of_no_policy: Vec<Update> = (3..9).map(|n| endpoint(n, &[])).collect();
        let policies = ["dns", "ntp", "ssh", "nfs"];
        let ports = |n: usize| 100 + n as u16;
        let policies = (0..)
            .zip(policies)
            .map(|(n, name)| policy(name, 2, &[(ports(n), ports(n))]));
        change(&mut driver, &[of_no_policy, policies.collect()].concat(), 1);
        change(&mut driver, &[endpoint(3, &["db"])], 1);
        change(&mut driver, &[endpoint(4, &["dns"])], 1);
        let three = [
            endpoint(5, &["ntp"]),
            endpoint(6, &["ssh"]),
            endpoint(7, &["nfs"]),
        ];
        change(&mut driver, &three, 2);
        // The next life takes over what waits, and makes none.
        let chains = driver.planner().table_size().chains;
        drop(driver);
        let mut driver = Driver::open(settings(true)).unwrap();
        assert_eq!(
            driver
                .apply(&tables, &Changes::default(), 0)
                .unwrap()
                .transactions,
            0
        );
        assert_eq!(driver.planner().table_size().chains, chains);
    });
}

#[test]
fn what_is_observed_after_an_apply_is_what_was_wanted() {
    in_namespace(|| {
        let (mut tables, mut driver) = started(true);
        assert_exact(&driver, &tables);
        // The distribution's program goes on working, and what it prints loads again.
        let (fine, text) = nft(&["list", "ruleset"]);
        assert!(fine && text.contains("table inet manx"), "{text}");
        let (fine, text) = nft(&["-j", "list", "ruleset"]);
        assert!(fine, "{text}");

        let changes = {
            tables.apply(&policy("web", 1, &[(81, 81)]));
            tables.commit()
        };
        let applied = driver.apply(&tables, &changes, 10).unwrap();
        assert_eq!(
            applied.transactions, 1,
            "what it adds is seen with what leads to it"
        );
        assert_exact(&driver, &tables);
        // Applying again changes nothing.
        let changes = tables.commit();
        assert_eq!(driver.apply(&tables, &changes, 20).unwrap().transactions, 0);
        driver.retire(&tables, 5_000).unwrap();
        assert_exact(&driver, &tables);

        tables.apply(&Update::WorkloadRemoved(EndpointId {
            namespace: "ns".into(),
            name: "pod2".into(),
        }));
        tables.apply(&Update::AtomRemoved(AtomId(2)));
        tables.apply(&Update::PolicyRemoved(PolicyId::namespaced("ns", "db")));
        let changes = tables.commit();
        driver.apply(&tables, &changes, 6_000).unwrap();
        assert_exact(&driver, &tables);
        while let Some(due) = driver.next_retirement() {
            driver.retire(&tables, due).unwrap();
            assert_exact(&driver, &tables);
        }
        end(driver);
        assert!(cleanup().unwrap());
        assert!(!nft(&["list", "ruleset"]).1.contains("manx"));
        assert!(!cleanup().unwrap());
    });
}

#[test]
fn a_restarted_driver_takes_over_and_writes_nothing() {
    in_namespace(|| {
        let (_, driver) = started(true);
        let before = ruleset();
        end(driver);
        assert_eq!(ruleset(), before, "the table outlives its owner");

        // Another order of arrival, hence other internal numbers.
        let mut again = Tables::new();
        let mut updates = world();
        updates[..6].rotate_left(2);
        updates.iter().for_each(|u| again.apply(u));
        let changes = again.commit();
        let mut driver = Driver::open(settings(true)).unwrap();
        let applied = driver.apply(&again, &changes, 0).unwrap();
        assert_eq!(applied.messages, 0, "{}", ruleset());
        assert_eq!(ruleset(), before);
        assert_exact(&driver, &again);
        while let Some(due) = driver.next_retirement() {
            driver.retire(&again, due).unwrap();
        }
        assert_eq!(ruleset(), before);
    });
}

#[test]
fn a_restart_meets_a_changed_world() {
    in_namespace(|| {
        let mut tables = Tables::new();
        world().iter().for_each(|u| tables.apply(u));
        let changes = tables.commit();
        Driver::open(settings(false))
            .unwrap()
            .apply(&tables, &changes, 0)
            .unwrap();

        let mut after = Tables::new();
        let mut updates = atom(7, &["10.0.0.9/32", "10.0.0.2/32"]);
        updates.extend(atom(2, &["172.17.0.0/16"]));
        updates.push(policy("web", 7, &[(443, 443), (1000, 2000)]));
        updates.push(policy("new", 2, &[(53, 53)]));
        updates.extend([
            endpoint(1, &["web", "new"]),
            endpoint(9, &["new"]),
            Update::InSync,
        ]);
        updates.iter().for_each(|u| after.apply(u));
        let changes = after.commit();
        let mut driver = Driver::open(settings(false)).unwrap();
        driver.apply(&after, &changes, 0).unwrap();
        while let Some(due) = driver.next_retirement() {
            driver.retire(&after, due).unwrap();
        }
        assert_exact(&driver, &after);
        let text = nft(&["list", "ruleset"]).1;
        assert!(!text.contains("cali2") && text.contains("cali9"), "{text}");
    });
}

#[test]
fn tampering_is_noticed_and_mended() {
    in_namespace(|| {
        let (tables, mut driver) = started(false);
        assert!(
            !driver.touched_by_others().unwrap(),
            "own events are nobody's drift"
        );
        nft(&["add", "table", "inet", "foreign"]);
        assert!(
            !driver.touched_by_others().unwrap(),
            "what others do to their own tables is theirs"
        );
        for tampering in [
            &["flush", "chain", "inet", "manx", "forward"][..],
            &["flush", "chain", "inet", "manx", "to_wl"],
            &["flush", "map", "inet", "manx", "id4"],
            &["flush", "map", "inet", "manx", "wl_in"],
            &["flush", "map", "inet", "manx", "host4"],
            &["flush", "chain", "inet", "manx", "nat_prerouting"],
            &[
                "add",
                "element",
                "inet",
                "manx",
                "own4",
                "{ \"cali3\" . 10.0.0.77 }",
            ],
            &["add", "chain", "inet", "manx", "stranger"],
            &["delete", "table", "inet", "manx"],
            &["flush", "ruleset"],
        ] {
            let (fine, text) = nft(tampering);
            assert!(fine, "{tampering:?}: {text}");
            assert!(driver.touched_by_others().unwrap(), "{tampering:?}");
            let applied = driver.resync(&tables).unwrap();
            assert!(applied.mended > 0, "{tampering:?}");
            assert_exact(&driver, &tables);
            assert!(
                !driver.touched_by_others().unwrap(),
                "{tampering:?}: mending is not tampering"
            );
        }
        assert!(driver.resync(&tables).unwrap().mended == 0);
    });
}

#[test]
fn an_owned_table_refuses_others() {
    in_namespace(|| {
        let mut tables = Tables::new();
        world().iter().for_each(|u| tables.apply(u));
        let changes = tables.commit();
        let mut driver = Driver::open(settings(true)).unwrap();
        driver.apply(&tables, &changes, 0).unwrap();
        if !driver.is_owned() {
            // Linux before 6.9: there is nothing to refuse; the test above covers what then holds.
            assert!(nft(&["list", "ruleset"]).1.contains("table inet manx"));
            return;
        }
        assert!(!nft(&["flush", "chain", "inet", "manx", "forward"]).0);
        assert!(!nft(&["delete", "table", "inet", "manx"]).0);
        assert!(nft(&["flush", "ruleset"]).0, "others may empty what is theirs");
        assert_exact(&driver, &tables);
        let second = Driver::open(settings(true)).unwrap().apply(&tables, &changes, 0);
        assert!(
            second
                .unwrap_err()
                .to_string()
                .contains("another running process")
        );
    });
}

/// Applies the world in a new life and says whether its table is owned.
fn life(owned: bool) -> bool {
    let mut tables = Tables::new();
    world().iter().for_each(|u| tables.apply(u));
    let mut driver = Driver::open(settings(owned)).unwrap();
    let changes = tables.commit();
    driver.apply(&tables, &changes, 0).unwrap();
    assert_exact(&driver, &tables);
    let is_owned = driver.is_owned();
    end(driver);
    is_owned
}

#[test]
fn every_life_owns_the_table_if_it_wants_to() {
    in_namespace(|| {
        if !life(true) {
            eprintln!("this kernel (older than Linux 6.9) has no owned tables: only open ones are seen here");
            assert!(!life(true), "a kernel does not learn it");
            return;
        }
        assert!(life(true), "what an owner left is claimed");
        assert!(!life(false), "what an owner left is used without owning it");
        assert!(life(true));
        cleanup().unwrap();
        assert!(!life(false));
        assert!(life(true), "an open table gives way to an owned one");
        let (fine, text) = nft(&["list", "tables"]);
        assert!(
            fine && text.trim() == "table inet manx",
            "nothing else is left: {text}"
        );
    });
}

/// Settings with which workloads may send from what their endpoints name beside their addresses.
fn spoofing() -> DriverSettings {
    DriverSettings {
        layout: LayoutSettings {
            source_spoofing: true,
            ..LayoutSettings::default()
        },
        owned: false,
    }
}

/// An endpoint that names networks beside its addresses.
fn spoofer(n: u8, nets: &[&str]) -> Update {
    let Update::Workload(endpoint) = endpoint(n, &[]) else {
        unreachable!("an endpoint is a workload")
    };
    Update::Workload(Arc::new(WorkloadEndpoint {
        spoofable: nets.iter().map(|n| n.parse().unwrap()).collect(),
        ..endpoint.as_ref().clone()
    }))
}

/// Where the simulator lets an endpoint's interface send from, to an address of nobody.
fn may_send(driver: &Driver, interface: &str, source: &str) -> bool {
    let source: std::net::IpAddr = source.parse().unwrap();
    let destination = if source.is_ipv4() {
        "198.51.100.1"
    } else {
        "2001:db8::1"
    };
    let packet = Packet {
        source,
        destination: destination.parse().unwrap(),
        protocol: Protocol::UDP,
        x: 53,
        y: 40_000,
    };
    let mut open = driver.planner().state().clone();
    // Only the check of sources is asked here.
    for group in open.egress.values_mut() {
        group.default = ALLOW;
        group.entries.clear();
    }
    let way = Way {
        from: Some(interface),
        to: None,
    };
    simulate(&open, |_| None, |_| true, &packet, way)
}

#[test]
fn networks_beside_its_addresses_are_a_workloads_where_the_settings_have_it() {
    in_namespace(|| {
        let chain = || nft(&["list", "chain", "inet", "manx", "spoof"]).1;
        let mut tables = Tables::new();
        world().iter().for_each(|u| tables.apply(u));
        // Host bits and repetitions mean nothing.
        tables.apply(&spoofer(
            3,
            &["10.9.1.0/24", "10.9.1.7/24", "fd09::/64", "10.8.0.1/32"],
        ));
        let changes = tables.commit();
        let mut driver = Driver::open(settings(false)).unwrap();
        driver.apply(&tables, &changes, 0).unwrap();
        assert_exact(&driver, &tables);
        let strict = chain();
        assert!(
            !strict.contains("10.9.1.0"),
            "the settings do not have it: {strict}"
        );
        assert!(!may_send(&driver, "cali3", "10.9.1.5"));
        end(driver);

        // The setting comes with a restart.
        let mut driver = Driver::open(spoofing()).unwrap();
        driver.apply(&tables, &changes, 0).unwrap();
        assert_exact(&driver, &tables);
        let text = chain();
        for rule in [
            r#"iifname "cali3" ip saddr 10.9.1.0/24 return"#,
            r#"iifname "cali3" ip saddr 10.8.0.1 return"#,
            r#"iifname "cali3" ip6 saddr fd09::/64 return"#,
        ] {
            assert_eq!(text.matches(rule).count(), 1, "{rule} in {text}");
        }
        assert!(
            text.trim_end()
                .trim_end_matches(['}', '\t', '\n'])
                .ends_with("drop"),
            "{text}"
        );
        for (interface, source, passes) in [
            ("cali3", "10.0.0.3", true),
            ("cali3", "10.9.1.5", true),
            ("cali3", "10.8.0.1", true),
            ("cali3", "fd09::77", true),
            ("cali3", "10.9.2.1", false),
            ("cali3", "10.8.0.2", false),
            ("cali3", "fd09:1::", false),
            ("cali1", "10.9.1.5", false),
        ] {
            assert_eq!(
                may_send(&driver, interface, source),
                passes,
                "{interface} {source}"
            );
        }
        // Again changes nothing, and so does another life.
        let again = tables.commit();
        assert_eq!(driver.apply(&tables, &again, 10).unwrap().messages, 0);
        end(driver);
        let mut driver = Driver::open(spoofing()).unwrap();
        assert_eq!(
            driver.apply(&tables, &again, 0).unwrap().messages,
            0,
            "{}",
            chain()
        );
        assert_exact(&driver, &tables);

        // A rule that goes is drift like any other.
        assert!(nft(&["flush", "chain", "inet", "manx", "spoof"]).0);
        assert!(driver.touched_by_others().unwrap());
        assert!(driver.resync(&tables).unwrap().mended > 0);
        assert_eq!(chain(), text);

        // Fewer networks, and none.
        for (update, left) in [
            (spoofer(3, &["10.8.0.1/32"]), 1),
            (
                Update::WorkloadRemoved(EndpointId {
                    namespace: "ns".into(),
                    name: "pod3".into(),
                }),
                0,
            ),
        ] {
            tables.apply(&update);
            let changes = tables.commit();
            driver.apply(&tables, &changes, 20).unwrap();
            assert_exact(&driver, &tables);
            assert_eq!(chain().matches(r#"iifname "cali3""#).count(), left, "{}", chain());
        }
        assert_eq!(chain(), strict);
    });
}

/// How many chains, rules, sets and maps our table has in the kernel.
fn counted() -> TableSize {
    let observed = observe(&mut Link::open().unwrap()).unwrap().expect("our table");
    let maps = observed
        .sets
        .values()
        .filter(|(set, _)| set.data != Some(SetData::None));
    let maps = maps.count();
    TableSize {
        chains: observed.chains.len(),
        rules: observed.rules.values().map(Vec::len).sum(),
        sets: observed.sets.len() - maps,
        maps,
    }
}

#[test]
fn the_planner_counts_what_the_kernel_has() {
    for in_place in [true, false] {
        in_namespace(move || {
            let settings = || {
                let mut settings = spoofing();
                settings.layout.intervals_in_place = in_place;
                settings
            };
            let mut tables = Tables::new();
            world().iter().for_each(|u| tables.apply(u));
            tables.apply(&spoofer(3, &["10.9.1.0/24"]));
            let changes = tables.commit();
            let mut driver = Driver::open(settings()).unwrap();
            driver.apply(&tables, &changes, 0).unwrap();
            assert_eq!(driver.planner().table_size(), counted(), "after the first load");
            assert!(counted().rules > 0 && counted().sets > 0 && counted().maps > 4);
            let mut now = 0;
            let steps: Vec<Vec<Update>> = vec![
                vec![policy("web", 1, &[(81, 90), (100, 110)])],
                atom(3, &["172.20.0.0/16", "172.20.7.0/24"]),
                vec![policy("more", 3, &[(1, 5)]), endpoint(4, &["more"])],
                vec![Update::WorkloadRemoved(EndpointId {
                    namespace: "ns".into(),
                    name: "pod2".into(),
                })],
                vec![policy("web", 1, &[])],
            ];
            for (step, updates) in steps.iter().enumerate() {
                updates.iter().for_each(|u| tables.apply(u));
                let changes = tables.commit();
                now += 10;
                driver.apply(&tables, &changes, now).unwrap();
                assert_eq!(driver.planner().table_size(), counted(), "step {step}");
            }
            while let Some(due) = driver.next_retirement() {
                driver.retire(&tables, due).unwrap();
                assert_eq!(driver.planner().table_size(), counted(), "retired at {due}");
            }
            end(driver);
            let mut driver = Driver::open(settings()).unwrap();
            let changes = tables.commit();
            driver.apply(&tables, &changes, 0).unwrap();
            assert_eq!(driver.planner().table_size(), counted(), "taken over");
            while let Some(due) = driver.next_retirement() {
                driver.retire(&tables, due).unwrap();
            }
            assert_eq!(driver.planner().table_size(), counted(), "taken over and calm");
        });
    }
}
