//! Laws 5 and 6: applying twice changes nothing, and what is not ours survives every pass and every clean-up.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself"
)]

use dataplane::{DataplaneSettings, RulesBackend};
use e2e::bed::{ip, nft, our_table, ruleset, tool, try_nft, within};
use e2e::engine::NODE;
use e2e::manifest::{allow_from, endpoint, ingress, nets, open_profile, policy, selected};
use e2e::random::{Cluster, Dice, local_pods};
use e2e::rules::{FAMILIES, Lock, Others, Rules, name_lock, sets};
use e2e::world::{PodSpec, World};
use policy_model::Resource;

/// Objects as the neighbours of a node's agent make them: kube-proxy, Docker, a firewall, an administrator.
const FOREIGN_TABLES: &str = r#"
table ip kube-proxy {
  set services { type ipv4_addr . inet_proto . inet_service; elements = { 10.96.0.1 . tcp . 443 }; }
  chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; ip daddr 10.96.0.1 tcp dport 443 dnat to 10.1.0.1:6443; }
  chain to_masquerade { meta mark set meta mark or 0x4000; }
}
table inet firewall {
  counter seen { }
  map in_1 { type classid : verdict; }
  chain forward { type filter hook forward priority 10; policy accept; iifname "cali*" counter name seen; }
  chain wl_in { }
}
table inet manx2 { set id4 { type ipv4_addr; elements = { 10.1.0.1 }; }; }
table ip manx { chain forward { type filter hook forward priority 5; policy accept; }; }
table bridge docker { chain c { type filter hook forward priority 0; policy accept; }; }
"#;

/// Rules of iptables as kube-proxy, Docker and an administrator make them, one of them with a set.
const FOREIGN_RULES: &str = "*nat
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:DOCKER - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A POSTROUTING ! -o docker0 -m mark --mark 0x1/0x1 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
*mangle
:KUBE-KUBELET-CANARY - [0:0]
-A PREROUTING -i docker0 -j MARK --set-xmark 0x2/0x2
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-FIREWALL - [0:0]
:DOCKER-USER - [0:0]
:calico-like - [0:0]
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -j DOCKER-USER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A OUTPUT -m comment --comment \"mine, and no cali: of anybody\" -j KUBE-FIREWALL
-A DOCKER-USER -m set --match-set theirs src -j DROP
-A DOCKER-USER -j RETURN
-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A calico-like -i cali+ -j RETURN
COMMIT
";

/// The same of both variants and families: a node has the tables of all of them.
fn make_foreign_rules(others: &Others) {
    for (n, others) in [others.clone(), others.other_variant()].iter().enumerate() {
        for (family, inet) in FAMILIES.iter().zip(["inet", "inet6"]) {
            let set = format!("theirs{n}{inet}");
            others.run(&format!("ipset create {set} hash:net family {inet}"));
            let lines = FOREIGN_RULES.replace("theirs", &set);
            others.feed(&format!("{family}-restore --noflush"), &lines);
        }
    }
    others.run("ipset create calico-like hash:ip");
    others.run("ipset add calico-like 10.1.0.1");
}

/// What of iptables is not ours, each table in the order in which it stands.
fn foreign_rules(others: &Others) -> Vec<String> {
    let is_ours = |line: &String| {
        let mut words = line.trim_start_matches(':').split(' ');
        let chain = match words.next() {
            Some("-A") => words.next(),
            declared => declared,
        };
        chain.is_some_and(|chain| chain.starts_with("cali-")) || line.contains("\"cali:")
    };
    let mut seen = Vec::new();
    for others in [others.clone(), others.other_variant()] {
        for family in FAMILIES {
            // Tables stand in any order. A table that somebody asked for is there, empty, from then on.
            let tables = others.saved(family).join("\n");
            for table in tables.split("\nCOMMIT") {
                let lines = table.lines().map(str::to_owned);
                let lines: Vec<String> = lines.filter(|line| !line.is_empty() && !is_ours(line)).collect();
                if lines.iter().any(|line| line.starts_with("-A")) {
                    seen.push(format!("{family} {}", lines.join("\n")));
                }
            }
        }
    }
    let foreign = sets().filter(|set| !["cali40", "cali60"].iter().any(|own| set.name.starts_with(own)));
    seen.extend(foreign.map(|set| set.shown()));
    seen.sort();
    seen
}

fn make_neighbours(rules: Rules, others: &Others) {
    nft(FOREIGN_TABLES);
    if rules != Rules::Nftables {
        make_foreign_rules(others);
    }
    for command in [
        "link add docker0 type bridge",
        "link set docker0 up",
        "addr add 172.17.0.1/16 dev docker0",
        "link add vethabc type veth peer name vethdef",
        "link set vethabc up",
        "link add cal type veth peer name lac",
        "route add 10.99.0.0/16 via 192.0.2.2",
        "route add 10.98.0.0/16 dev docker0 proto boot",
        "route add 10.97.0.0/16 dev docker0 proto bird",
        "route add blackhole 10.96.128.0/26 proto 12",
        "route add 10.1.0.0/16 via 192.0.2.2 table 100",
        "route add 10.1.0.1/32 via 192.0.2.2 table 100 proto 80",
        "-6 route add fd99::/64 dev docker0 metric 77",
        "rule add fwmark 0x40/0x40 lookup 100 priority 500",
        "-6 rule add fwmark 0x40/0x40 lookup 100 priority 500",
        "neigh add 172.17.0.9 lladdr 02:00:00:00:00:09 dev docker0 nud permanent",
    ] {
        ip(command);
    }
}

/// Everything that is not ours, as the distribution's tools show it.
fn neighbours(rules: Rules, others: &Others) -> Vec<String> {
    let tables = [
        "ip kube-proxy",
        "inet firewall",
        "inet manx2",
        "ip manx",
        "bridge docker",
    ];
    let mut seen: Vec<String> = tables
        .iter()
        .map(|t| {
            tool(
                "nft",
                &[
                    &["-s", "-a", "list", "table"][..],
                    &t.split(' ').collect::<Vec<_>>(),
                ]
                .concat(),
            )
        })
        .collect();
    if rules != Rules::Nftables {
        seen.extend(foreign_rules(others));
    }
    // The kernel itself changes link-local things and states while links come up, whoever looks on.
    let foreign = |line: &&str| !["cali", "fe80:", "ff00:"].iter().any(|own| line.contains(own));
    let lasting = |line: &str| {
        let words = line.replace("<NO-CARRIER,", "<").replace(",LOWER_UP", "");
        let states = ["UP", "DOWN", "UNKNOWN", "state", "linkdown", "tentative"];
        let words: Vec<&str> = words.split_whitespace().filter(|w| !states.contains(w)).collect();
        words.join(" ")
    };
    let lines = |text: String| {
        let lines: Vec<String> = text.lines().filter(foreign).map(lasting).collect();
        lines.join("\n")
    };
    for show in [
        "-o link show",
        "-o addr show",
        "-4 route show table all",
        "-6 route show table all",
        "rule show",
        "-6 rule show",
        "neigh show nud permanent",
    ] {
        seen.push(lines(ip(show)));
    }
    seen
}

fn address(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

/// A small cluster that uses every kind of object of ours.
fn resources() -> Vec<Resource> {
    let rules = vec![
        allow_from(selected("role == 'a'")),
        allow_from(nets("172.16.0.0/24 2001:db8:1::/48")),
        serde_json::from_value(serde_json::json!({
            "action": "Allow", "protocol": "TCP", "destination": { "ports": [80, "8000:9000"] }
        }))
        .unwrap(),
        serde_json::from_value(
            serde_json::json!({ "action": "Allow", "protocol": "ICMP", "icmp": { "type": 8 } }),
        )
        .unwrap(),
    ];
    vec![
        open_profile("red"),
        endpoint(
            "red",
            "p1",
            NODE,
            "cali1",
            &[address("10.1.0.1"), address("fd00:1::1")],
            "role=a",
        ),
        endpoint(
            "red",
            "p2",
            NODE,
            "cali2",
            &[address("10.1.0.2"), address("fd00:1::2")],
            "role=b",
        ),
        policy("red", "in", ingress("role == 'b'", rules)),
    ]
}

fn pods() -> Vec<PodSpec> {
    vec![
        PodSpec::new("cali1", "10.1.0.1 fd00:1::1"),
        PodSpec::new("cali2", "10.1.0.2 fd00:1::2"),
    ]
}

fn settings(rules: Rules, owned_table: bool) -> DataplaneSettings {
    DataplaneSettings {
        owned_table,
        ..rules.settings()
    }
}

/// Removes everything of ours, as the agent does that is told to.
fn clean_up(rules: Rules, lock: &Lock) {
    let mut settings = rules.settings();
    name_lock(&mut settings, &lock.file());
    if let RulesBackend::Iptables(own) = &settings.rules {
        let stay = dataplane::remove_iptables_rules(own).expect("clean up iptables");
        assert_eq!(stay, Vec::<String>::new());
    }
    felix::cleanup::everything().expect("clean up");
}

#[test]
fn neighbours_survive_everything() {
    Rules::each(|rules| {
        for owned in rules.ownerships() {
            let mut world = World::new(&pods(), settings(rules, *owned));
            world.silence();
            let others = world.others();
            let before = within(&world.node, || {
                make_neighbours(rules, &others);
                neighbours(rules, &others)
            });
            let same = |world: &World, when: &str| {
                assert_eq!(
                    within(&world.node, || neighbours(rules, &others)),
                    before,
                    "{when}: what is not ours changed"
                );
            };
            world.program(&resources());
            assert!(world.passes("10.1.0.1", "10.1.0.2", 9), "what is allowed passes");
            same(&world, "the first pass");
            assert_eq!(world.engine.run(|core| core.differences()), 0);
            same(&world, "a comparison");
            world.change(&[], &[resources()[3].key(), resources()[2].key()]);
            world.engine.run(e2e::engine::Core::settle);
            same(&world, "a change");
            world.program(&resources());
            world.engine.restart(resources());
            world.engine.run(e2e::engine::Core::settle);
            same(&world, "a new life");
            let World {
                engine, node, lock, ..
            } = world;
            drop(engine);
            let routes = "-4 route show table main proto boot";
            within(&node, || {
                assert!(ip(routes).contains("cali"), "our routes outlive the engine");
                let ours = others.our_objects();
                assert!(ours.len() > 1, "what holds policy outlives the engine: {ours:?}");
                clean_up(rules, &lock);
                assert_eq!(
                    neighbours(rules, &others),
                    before,
                    "the clean-up touched what is not ours"
                );
                let ours = others.our_objects().concat();
                assert_eq!(ours, "", "the clean-up left what is ours");
                for left in ["10.1.0.1", "10.1.0.2", "fd00:1::1", "fd00:1::2"] {
                    for family in ["-4", "-6"] {
                        let main = ip(&format!("{family} route show table main"));
                        assert!(
                            !main.lines().any(|l| l.starts_with(left)),
                            "the clean-up left a route: {main}"
                        );
                    }
                }
                // And once more, where nothing is left.
                clean_up(rules, &lock);
                assert_eq!(neighbours(rules, &others), before);
            });
        }
    });
}

/// All routes but what the kernel itself makes and says in the background while links come up.
fn lasting_routes(family: &str) -> Vec<String> {
    let routes = ip(&format!("{family} route show table all"));
    routes
        .lines()
        .filter(|line| !["fe80:", "ff00:"].iter().any(|own| line.contains(own)))
        .map(|line| line.replace("linkdown", "").trim().to_string())
        .collect()
}

#[test]
fn applying_twice_changes_nothing() {
    Rules::each(|rules| {
        for seed in 0..rules.share(4, 2) {
            let world = World::new(&local_pods(), settings(rules, seed % 2 == 0));
            let mut dice = Dice::new(7000 + seed);
            let mut cluster = Cluster::new(&mut dice);
            for _ in 0..3 {
                world.program(&cluster.resources());
                let listed = |world: &World| {
                    within(&world.node, || {
                        let routes = ["-4", "-6"].map(lasting_routes);
                        (ruleset(), world.our_objects(), routes)
                    })
                };
                let before = listed(&world);
                let again = world.program(&cluster.resources());
                assert_eq!(
                    (again.transactions, again.messages, again.mended),
                    (0, 0, 0),
                    "nothing was to be done"
                );
                assert_eq!(
                    world.engine.run(|core| core.differences()),
                    0,
                    "what is observed is what was wanted"
                );
                assert_eq!(listed(&world), before);
                let change = cluster.mutate(&mut dice);
                world.change(&change.upsert, &change.delete);
            }
        }
    });
}

#[test]
fn a_new_life_writes_nothing_that_is_right() {
    Rules::each(|rules| {
        let world = World::new(&local_pods(), settings(rules, true));
        let mut dice = Dice::new(8000);
        let cluster = Cluster::new(&mut dice);
        world.program(&cluster.resources());
        world.engine.run(e2e::engine::Core::settle);
        let owned = || world.engine.run(|core| core.dataplane.is_table_owned());
        let (before, was_owned) = (world.our_objects(), owned());
        world.engine.restart(cluster.resources());
        world.engine.run(e2e::engine::Core::settle);
        assert_eq!(
            world.our_objects(),
            before,
            "numbers that are right are taken over"
        );
        assert_eq!(owned(), was_owned, "so is the ownership of the table");
    });
}

#[test]
fn an_owned_table_cannot_be_written_by_others() {
    let mut world = World::new(&pods(), settings(Rules::Nftables, true));
    world.silence();
    world.program(&resources());
    if !world.engine.run(|core| core.dataplane.is_table_owned()) {
        eprintln!("this kernel (older than Linux 6.9) has no owned tables: nothing to see");
        return;
    }
    within(&world.node, || {
        let before = our_table();
        for command in [
            "delete table inet manx",
            "flush chain inet manx forward",
            "insert rule inet manx forward accept",
        ] {
            assert!(try_nft(command).is_err(), "somebody else could '{command}'");
        }
        nft("flush ruleset");
        assert_eq!(our_table(), before);
    });
    assert!(world.passes("10.1.0.1", "10.1.0.2", 9));
}
