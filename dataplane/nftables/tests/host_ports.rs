//! Ports of the node in our table, against what the distribution's nft says of them and makes of what it said.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

mod support;

use dataplane_api::{HostPort, Update};
use dataplane_nftables::contents::{contents, difference};
use dataplane_nftables::layout::LayoutSettings;
use dataplane_nftables::observe::observe;
use dataplane_nftables::socket::Link;
use dataplane_nftables::wire::{Element, Expr};
use dataplane_nftables::{Driver, DriverSettings};
use dataplane_tables::{Changes, Tables};
use policy_model::Protocol;
use std::collections::HashSet;
use support::{end, in_namespace, nft, nft_load, nft_ruleset};

fn port(protocol: Protocol, address: &str, port: u16) -> HostPort {
    HostPort {
        protocol,
        address: address.parse().unwrap(),
        port,
    }
}

fn leads(protocol: Protocol, address: &str, number: u16, to: &str) -> Update {
    Update::HostPort(port(protocol, address, number), to.parse().unwrap())
}

fn world() -> Vec<Update> {
    vec![
        leads(Protocol::TCP, "0.0.0.0", 8080, "10.0.0.1:80"),
        leads(Protocol::TCP, "::", 8080, "[fd00::1]:80"),
        leads(Protocol::UDP, "0.0.0.0", 8080, "10.0.0.2:53"),
        leads(Protocol::SCTP, "192.0.2.1", 38412, "10.0.0.2:38412"),
        leads(Protocol::TCP, "127.0.0.1", 8080, "10.0.0.3:81"),
        leads(Protocol::TCP, "2001:db8::1", 443, "[fd00::3]:8443"),
        Update::InSync,
    ]
}

/// The decision tables that were told of all of that.
fn told() -> (Tables, Changes) {
    let mut tables = Tables::new();
    world().iter().for_each(|update| tables.apply(update));
    let changes = tables.commit();
    (tables, changes)
}

fn open() -> Driver {
    Driver::open(DriverSettings {
        layout: LayoutSettings::default(),
        owned: false,
    })
    .unwrap()
}

fn assert_exact(driver: &Driver, tables: &Tables) {
    let observed = observe(&mut Link::open().unwrap()).unwrap().expect("our table");
    let difference = difference(&contents(driver.planner(), tables), &observed);
    assert_eq!(difference.count(), 0, "{difference:#?}");
}

/// Rules and elements about ports of the node as the kernel has them, by chain and by map.
type Read = (
    Vec<(&'static str, Vec<Vec<Expr>>)>,
    Vec<(&'static str, HashSet<Element>)>,
);

fn read() -> Read {
    let observed = observe(&mut Link::open().unwrap()).unwrap().expect("our table");
    let chains = ["host_ports", "nat_prerouting", "nat_output", "nat_postrouting"];
    let chains = chains.map(|name| (name, observed.rules.get(name).cloned().unwrap_or_default()));
    let maps = ["host4", "host6", "host_at4", "host_at6"];
    let maps = maps.map(|name| (name, observed.sets[name].1.iter().cloned().collect()));
    (chains.into(), maps.into())
}

/// What a chain or map says, a line each, without the frame.
fn lines(kind: &str, name: &str) -> Vec<String> {
    let text = nft(&["list", kind, "inet", "manx", name]);
    let inner = text.lines().filter(|line| line.starts_with("\t\t"));
    inner.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn nft_says_what_we_meant_and_what_it_says_is_what_we_make() {
    in_namespace(|| {
        let (tables, changes) = told();
        let mut driver = open();
        driver.apply(&tables, &changes, 0).unwrap();
        assert_exact(&driver, &tables);
        let chains: [(&str, &[&str]); 4] = [
            (
                "host_ports",
                &[
                    "dnat ip to ip daddr . meta l4proto . th dport map @host_at4",
                    "dnat ip6 to ip6 daddr . meta l4proto . th dport map @host_at6",
                    "ip6 daddr ::1 return",
                    "dnat ip to meta l4proto . th dport map @host4",
                    "dnat ip6 to meta l4proto . th dport map @host6",
                ],
            ),
            (
                "nat_prerouting",
                &[
                    "type nat hook prerouting priority dstnat; policy accept;",
                    "ip daddr 127.0.0.0/8 return",
                    "fib daddr type local jump host_ports",
                ],
            ),
            (
                "nat_output",
                &[
                    "type nat hook output priority -100; policy accept;",
                    "fib daddr type local jump host_ports",
                ],
            ),
            (
                "nat_postrouting",
                &[
                    "type nat hook postrouting priority srcnat; policy accept;",
                    "oifname \"cali*\" ip saddr 127.0.0.0/8 masquerade",
                    "ct status dnat iifname . oifname @self masquerade",
                    "oifname \"tunl0\" fib saddr type local fib saddr . oif type != local masquerade",
                    "oifname \"vxlan.calico\" fib saddr type local fib saddr . oif type != local masquerade",
                    "oifname \"vxlan-v6.calico\" fib saddr type local fib saddr . oif type != local masquerade",
                    "jump outgoing",
                ],
            ),
        ];
        for (chain, expected) in chains {
            assert_eq!(lines("chain", chain), expected, "{chain}");
        }
        for (map, elements) in [
            (
                "host4",
                &["tcp . 8080 : 10.0.0.1 . 80", "udp . 8080 : 10.0.0.2 . 53"][..],
            ),
            ("host6", &["tcp . 8080 : fd00::1 . 80"]),
            (
                "host_at4",
                &[
                    "192.0.2.1 . sctp . 38412 : 10.0.0.2 . 38412",
                    "127.0.0.1 . tcp . 8080 : 10.0.0.3 . 81",
                ],
            ),
            ("host_at6", &["2001:db8::1 . tcp . 443 : fd00::3 . 8443"]),
        ] {
            let text = lines("map", map).join(" ");
            for element in elements {
                assert!(text.contains(element), "{map}: {text}");
            }
        }
        let (text, ours, written) = (nft(&["list", "ruleset"]), nft_ruleset(), read());
        assert!(written.0.iter().all(|(_, rules)| !rules.is_empty()));
        in_namespace(|| {
            nft_load(&text);
            assert_eq!(nft_ruleset(), ours);
            assert_eq!(read(), written);
        });
    });
}

#[test]
fn only_what_changes_is_written_and_a_new_life_writes_nothing() {
    in_namespace(|| {
        let mut tables = Tables::new();
        world().iter().for_each(|update| tables.apply(update));
        for n in 0..500 {
            tables.apply(&leads(Protocol::TCP, "0.0.0.0", 20_000 + n, "10.0.0.9:80"));
        }
        let changes = tables.commit();
        let mut driver = open();
        driver.apply(&tables, &changes, 0).unwrap();
        assert_exact(&driver, &tables);
        for update in [
            leads(Protocol::TCP, "0.0.0.0", 8080, "10.0.0.7:80"),
            leads(Protocol::UDP, "::", 1, "[fd00::1]:1"),
            Update::HostPortRemoved(port(Protocol::TCP, "127.0.0.1", 8080)),
        ] {
            tables.apply(&update);
            let changes = tables.commit();
            assert_eq!(changes.host_ports.len(), 1);
            let applied = driver.apply(&tables, &changes, 1).unwrap();
            assert!(
                applied.transactions == 1 && applied.messages <= 2,
                "{update:?}: {applied:?}"
            );
            assert_exact(&driver, &tables);
            // The same again is nothing.
            tables.apply(&update);
            let changes = tables.commit();
            assert_eq!(driver.apply(&tables, &changes, 2).unwrap().messages, 0);
        }
        end(driver);
        let mut again = Tables::new();
        again.apply(&Update::InSync);
        for (port, to) in tables.host_ports() {
            again.apply(&Update::HostPort(*port, *to));
        }
        let changes = again.commit();
        let mut driver = open();
        assert_eq!(driver.apply(&again, &changes, 0).unwrap().messages, 0);
        assert_exact(&driver, &again);
        end(driver);
        // One that leads nowhere, or where no packet can go, is none.
        again.apply(&leads(Protocol::ICMP, "0.0.0.0", 8, "10.0.0.1:8"));
        again.apply(&leads(Protocol::TCP, "0.0.0.0", 9, "[fd00::1]:9"));
        again.apply(&Update::HostPortRemoved(port(Protocol::UDP, "::", 1)));
        let changes = again.commit();
        let mut driver = open();
        driver.apply(&again, &changes, 0).unwrap();
        assert_exact(&driver, &again);
        assert_eq!(driver.planner().state().host_ports.len(), 505);
        while let Some(due) = driver.next_retirement() {
            driver.retire(&again, due).unwrap();
        }
        assert_exact(&driver, &again);
    });
}
