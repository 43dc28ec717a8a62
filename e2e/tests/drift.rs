//! What others change of ours is noticed from the kernel's events, mended and counted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself"
)]

use dataplane::DataplaneSettings;
use e2e::bed::{ip, nft, our_objects, our_table, tool, wait_for, within};
use e2e::engine::NODE;
use e2e::manifest::{allow_from, endpoint, ingress, nets, open_profile, policy, selected};
use e2e::packet::Probe;
use e2e::random::Dice;
use e2e::world::{NODE_ADDRESSES, PodSpec, World};
use ipnet::IpNet;
use policy_model::{EncapsulationMode, IpPoolSpec, NodeBgpSpec, NodeSpec, Object, Protocol, Resource};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// How long a repair is waited for; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(120);
const PODS: [(&str, &str, &str); 3] = [
    ("cali1", "10.1.0.1 fd00:1::1", "role=a"),
    ("cali2", "10.1.0.2 fd00:1::2", "role=b"),
    ("cali3", "10.1.0.3 fd00:1::3", "role=c"),
];

/// Nodes and pools, so that the rules for tunnels and for the way out are there to be tampered with. No pod is of them.
fn cluster() -> impl Iterator<Item = Resource> {
    let node = |(name, [v4, v6]): (&str, [&str; 2])| {
        let bgp = NodeBgpSpec {
            ipv4_address: Some(v4.parse().unwrap()),
            ipv6_address: Some(v6.parse().unwrap()),
            ..NodeBgpSpec::default()
        };
        let spec = NodeSpec {
            bgp: Some(bgp),
            ..NodeSpec::default()
        };
        Resource::from(Object::named(name, spec))
    };
    let own = NODE_ADDRESSES.map(|address| IpNet::from(address.parse::<IpAddr>().unwrap()).to_string());
    let own = own.each_ref().map(String::as_str);
    let pool = |(name, range): (&str, &str)| {
        let spec = IpPoolSpec {
            nat_outgoing: true,
            vxlan_mode: EncapsulationMode::Always,
            ..IpPoolSpec::of(range.parse().unwrap())
        };
        Resource::from(Object::named(name, spec))
    };
    let nodes = [(NODE, own), ("other", ["198.51.100.7/32", "2001:db8:7::7/128"])].map(node);
    let pools = [("pool-v4", "10.77.0.0/16"), ("pool-v6", "fd77::/64")].map(pool);
    nodes.into_iter().chain(pools)
}

/// What is in force: a policy for the second pod, and the pods with their Ethernet addresses.
fn resources(world: &World) -> Vec<Resource> {
    let rules = vec![
        allow_from(selected("role == 'a'")),
        allow_from(nets("172.16.0.0/24 2001:db8:1::/48")),
        serde_json::from_value(serde_json::json!({
            "action": "Allow", "protocol": "UDP", "destination": { "ports": [53, "8000:9000"] }
        }))
        .unwrap(),
    ];
    let pods = (1usize..).zip(PODS).map(|(n, (interface, addresses, labels))| {
        let addresses: Vec<IpAddr> = addresses.split(' ').map(|a| a.parse().unwrap()).collect();
        let mut resource = endpoint("red", &format!("p{n}"), NODE, interface, &addresses, labels);
        if let Resource::WorkloadEndpoint(endpoint) = &mut resource {
            let mac = world.pods[n - 1].wire.mac;
            endpoint.spec.mac = mac.map(|b| format!("{b:02x}")).join(":");
        }
        resource
    });
    [
        open_profile("red"),
        policy("red", "in", ingress("role == 'b'", rules)),
    ]
    .into_iter()
    .chain(cluster())
    .chain(pods)
    .collect()
}

/// A world whose table everybody may write to.
fn world() -> World {
    let settings = DataplaneSettings {
        owned_table: false,
        ..DataplaneSettings::default()
    };
    let pods = PODS.map(|(interface, addresses, _)| PodSpec::new(interface, addresses));
    let mut world = World::new(&pods, settings);
    world.silence();
    world.program(&resources(&world));
    // Addresses that nobody has, so that what guards them is there to be tampered with.
    let kept: BTreeSet<IpAddr> = ["10.1.0.9", "fd00:1::9"].map(|a| a.parse().unwrap()).into();
    world.keep(kept.clone());
    // Their flows are forgotten by another thread, whose end is a reason for a pass.
    wait_for("the end of the walk for the kept addresses", PATIENCE, || {
        let clean = world.engine.run(|core| {
            core.mend();
            core.dataplane.clean_addresses()
        });
        (clean == kept).then_some(())
    });
    policy_holds(&mut world, "at first");
    world
}

/// What the policy of the second pod allows passes, and what it denies does not.
fn policy_holds(world: &mut World, when: &str) {
    let questions = [
        ("10.1.0.1", "10.1.0.2", 9, true),
        ("fd00:1::1", "fd00:1::2", 9, true),
        ("172.16.0.9", "10.1.0.2", 9, true),
        ("172.16.1.9", "10.1.0.2", 9, false),
        ("10.1.0.3", "10.1.0.2", 8_500, true),
        ("10.1.0.3", "10.1.0.2", 9, false),
        ("fd00:1::3", "fd00:1::2", 9, false),
        ("10.1.0.2", "10.1.0.3", 9, true),
    ];
    let answers = ask(
        world,
        &questions.map(|(source, destination, port, _)| (source, destination, port)),
    );
    for ((source, destination, port, expected), passes) in questions.into_iter().zip(answers) {
        assert_eq!(
            passes, expected,
            "{when}: from {source} to {destination}, port {port}"
        );
    }
}

/// Whether new flows pass: from, to, port.
fn ask(world: &mut World, questions: &[(&str, &str, u16)]) -> Vec<bool> {
    let mut probes = Vec::new();
    for (source, destination, port) in questions {
        let number = world.number();
        probes.push(Probe {
            number,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol: Protocol::UDP,
            x: *port,
            // Another one each time: an open flow would answer the next question.
            y: 10_000 + u16::try_from(number % 50_000).unwrap(),
        });
    }
    let arrived = world.send(&probes);
    probes
        .iter()
        .map(|p| arrived.get(&p.number) == Some(&vec![world.place(p.destination)]))
        .collect()
}

/// The names of our objects of one sort, as `nft` lists them.
fn names(sort: &str) -> Vec<String> {
    let listed = our_table();
    let lines = listed.lines().map(str::trim);
    let names = lines.filter_map(|l| l.strip_prefix(sort)?.strip_suffix('{'));
    names.map(|n| n.trim().to_string()).collect()
}

/// Maps and sets with their first element: sort, name, element.
fn elements() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for sort in ["set", "map"] {
        for name in names(&format!("{sort} ")) {
            let listed = tool("nft", &["list", sort, "inet", "manx", &name]);
            let Some((_, elements)) = listed.split_once("elements = {") else {
                continue;
            };
            let first = elements.split([',', '}']).next().unwrap();
            let element = first.split_whitespace().collect::<Vec<_>>().join(" ");
            found.push((sort.to_string(), name, element));
        }
    }
    found
}

/// Every kind of thing that a person, a script or another program does to a table that is not theirs.
fn tampering() -> Vec<String> {
    let mut commands: Vec<String> = [
        "delete table inet manx",
        "flush ruleset",
        "flush table inet manx",
        "insert rule inet manx forward accept",
        "add rule inet manx input counter accept",
        "insert rule inet manx to_wl meta priority set 9000:1 return",
        "insert rule inet manx spoof return",
        "add set inet manx mine { type ipv4_addr; }; add element inet manx mine { 10.1.0.3 }",
        "add chain inet manx mine { type filter hook forward priority -5; policy accept; }",
        "add chain inet manx helper; add rule inet manx helper accept; insert rule inet manx forward jump helper",
        "add element inet manx id4 { 10.1.0.77 : 0:1 }",
        "add element inet manx own4 { \"cali3\" . 10.1.0.1 }",
        "add chain inet manx forward { policy drop; }",
        "add table inet manx { flags dormant; }",
    ]
    .map(str::to_string)
    .into();
    commands.extend(
        names("chain ")
            .iter()
            .map(|chain| format!("flush chain inet manx {chain}")),
    );
    for (sort, name, element) in elements() {
        commands.push(format!("flush {sort} inet manx {name}"));
        // Where an interval map has an element for everything else, nft of Debian 12 aborts.
        if !name.starts_with("net") {
            commands.push(format!("delete element inet manx {name} {{ {element} }}"));
        }
    }
    commands
}

/// Waits until the events of the kernel have led to a repair, and says how much was mended.
fn mended(world: &World, what: &str) -> usize {
    let mut mended = 0;
    wait_for(&format!("the repair of '{what}'"), PATIENCE, || {
        mended += world.engine.run(|core| core.mend());
        (mended > 0).then_some(mended)
    })
}

#[test]
fn a_table_that_others_changed_is_mended() {
    let mut world = world();
    let before = within(&world.node, our_objects);
    let commands = within(&world.node, tampering);
    assert!(commands.len() > 40, "{commands:#?}");
    for command in &commands {
        within(&world.node, || nft(command));
        assert_ne!(
            within(&world.node, our_objects),
            before,
            "'{command}' changed nothing"
        );
        mended(&world, command);
        assert_eq!(within(&world.node, our_objects), before, "after '{command}'");
        assert_eq!(
            world.engine.run(|core| core.differences()),
            0,
            "after '{command}'"
        );
        let again = world.engine.run(|core| core.mend());
        assert_eq!(again, 0, "the repair of '{command}' is no reason for another one");
        policy_holds(&mut world, command);
    }
}

#[test]
fn several_changes_at_once_are_mended() {
    let seed = std::env::var("MANX_SEED").map_or(1, |text| text.parse().expect("MANX_SEED: a number"));
    eprintln!("MANX_SEED={seed}");
    let mut dice = Dice::new(seed);
    let mut world = world();
    let before = within(&world.node, our_objects);
    let commands = within(&world.node, tampering);
    for _ in 0..15 {
        let mut done: Vec<String> = Vec::new();
        for _ in 0..dice.below(5) + 2 {
            let command = dice.one(&commands);
            // What an earlier one removed cannot be removed again.
            if within(&world.node, || e2e::bed::try_nft(&command)).is_ok() {
                done.push(command);
            }
            if dice.chance(33) {
                // The agent may look at any moment between.
                world.engine.run(|core| core.mend());
            }
        }
        wait_for(&format!("the repair of {done:?}"), PATIENCE, || {
            world.engine.run(|core| core.mend());
            (within(&world.node, our_objects) == before).then_some(())
        });
        assert_eq!(world.engine.run(|core| core.differences()), 0, "after {done:?}");
        policy_holds(&mut world, &format!("after {done:?}"));
    }
}

#[test]
fn a_change_of_policy_while_others_tamper_comes_into_force() {
    let mut world = world();
    let closed = policy("red", "in", ingress("role == 'b'", Vec::new()));
    for command in within(&world.node, tampering) {
        within(&world.node, || nft(&command));
        // The agent has not looked at the events when policy changes.
        world.program(std::slice::from_ref(&closed));
        wait_for("the repair", PATIENCE, || {
            world.engine.run(|core| core.mend());
            (world.engine.run(|core| core.differences()) == 0).then_some(())
        });
        let answers = ask(
            &mut world,
            &[("10.1.0.1", "10.1.0.2", 9), ("10.1.0.2", "10.1.0.3", 9)],
        );
        assert_eq!(
            answers,
            [false, true],
            "'{command}': the new policy denies, and another pod is open"
        );
        world.program(&resources(&world));
        policy_holds(&mut world, &command);
    }
}

#[test]
fn tables_of_others_are_no_reason_to_do_anything() {
    let world = world();
    within(&world.node, || {
        nft(
            "table inet firewall { set s { type ipv4_addr; elements = { 10.1.0.1 }; }; chain c { type filter hook forward priority 5; policy accept; }; }",
        );
        nft("delete table inet firewall");
    });
    let (suspect, mended) = world.engine.run(|core| {
        core.dataplane.take_events().unwrap();
        (core.dataplane.driver().is_suspect(), core.mend())
    });
    assert!(!suspect);
    assert_eq!(mended, 0);
}

/// What the routing side holds for the pods.
fn routing() -> Vec<String> {
    let mut seen = Vec::new();
    for family in ["-4", "-6"] {
        let routes = ip(&format!("{family} route show table main"));
        let mut routes: Vec<String> = routes
            .lines()
            .filter(|l| l.contains("cali") && !l.starts_with("fe80"))
            .map(|l| l.replace("linkdown", "").trim().to_string())
            .collect();
        routes.sort();
        seen.extend(routes);
    }
    seen
}

fn sysctls() -> Vec<String> {
    let read = |path: String| format!("{path}={}", std::fs::read_to_string(&path).unwrap().trim());
    let mut seen = Vec::new();
    for n in 1..=3 {
        for setting in ["proxy_arp", "route_localnet", "rp_filter", "forwarding"] {
            seen.push(read(format!("/proc/sys/net/ipv4/conf/cali{n}/{setting}")));
        }
        for setting in ["proxy_ndp", "accept_ra", "forwarding", "disable_ipv6"] {
            seen.push(read(format!("/proc/sys/net/ipv6/conf/cali{n}/{setting}")));
        }
    }
    seen
}

/// Looks at the events until something is so.
fn until(world: &World, what: &str, mut so: impl FnMut() -> bool + Send) {
    wait_for(what, PATIENCE, || {
        world.engine.run(|core| core.mend());
        within(&world.node, &mut so).then_some(())
    });
}

#[test]
fn routes_of_pods_that_others_removed_or_changed_come_back() {
    let mut world = world();
    let before = within(&world.node, routing);
    assert!(before.len() >= 6, "{before:?}");
    for commands in [
        vec!["route del 10.1.0.2"],
        vec!["-6 route del fd00:1::2"],
        vec!["route replace blackhole 10.1.0.2 proto 80", "route del 10.1.0.3"],
        vec!["route add 10.1.0.99 dev cali1 proto boot scope link"],
        vec!["-6 route add fd00:1::99 dev cali1 proto boot"],
        vec!["link set cali2 down", "link set cali2 up"],
        vec!["route flush dev cali2"],
        vec!["-4 neigh flush all", "-6 neigh flush all"],
    ] {
        within(&world.node, || commands.iter().for_each(|c| drop(ip(c))));
        let what = format!("the repair after {commands:?}");
        until(&world, &what, || routing() == before);
        // The kernel notices in the background that an interface came up, and drops what is sent until then.
        wait_for(&what, PATIENCE, || {
            ask(&mut world, &[("10.1.0.2", "10.1.0.3", 9)])[0].then_some(())
        });
        policy_holds(&mut world, &what);
    }
}

#[test]
fn settings_of_interfaces_are_as_before_after_everything_is_compared() {
    let mut world = world();
    let before = within(&world.node, sysctls);
    within(&world.node, || {
        for (file, value) in [
            ("ipv4/conf/cali1/proxy_arp", "0"),
            ("ipv4/conf/cali2/rp_filter", "0"),
            ("ipv4/conf/cali3/forwarding", "0"),
            ("ipv6/conf/cali1/proxy_ndp", "0"),
            ("ipv6/conf/cali2/accept_ra", "2"),
        ] {
            std::fs::write(format!("/proc/sys/net/{file}"), value).unwrap();
        }
        assert_ne!(sysctls(), before);
        ip("-4 neigh del 10.1.0.2 dev cali2");
        ip("-6 neigh del fd00:1::2 dev cali2");
    });
    world.engine.run(|core| {
        core.dataplane.resync().unwrap();
        core.apply();
    });
    assert_eq!(within(&world.node, sysctls), before);
    policy_holds(&mut world, "after the comparison");
}

#[test]
fn an_interface_that_went_down_and_up_or_was_made_anew_works_again() {
    let mut world = world();
    let (routes, settings) = (within(&world.node, routing), within(&world.node, sysctls));
    within(&world.node, || ip("link set cali3 down"));
    until(&world, "the route goes with the interface", || {
        routing().len() == routes.len() - 2
    });
    within(&world.node, || ip("link set cali3 up"));
    until(&world, "the interface is as before", || {
        routing() == routes && sysctls() == settings
    });
    wait_for("the pod speaks again", PATIENCE, || {
        ask(&mut world, &[("10.1.0.3", "10.1.0.1", 9)])[0].then_some(())
    });
    policy_holds(&mut world, "with an interface that was down");
    world.disconnect_last();
    until(&world, "the route goes with the interface", || {
        routing().len() == routes.len() - 2
    });
    world.connect(&PodSpec::new(PODS[2].0, PODS[2].1));
    world.silence();
    world.program(&resources(&world));
    until(&world, "the new interface is as the old one", || {
        routing() == routes && sysctls() == settings
    });
    policy_holds(&mut world, "with a new interface");
}
