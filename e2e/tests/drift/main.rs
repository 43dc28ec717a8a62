//! What others change of ours is noticed from the kernel's events, mended and counted; of IP sets the kernel tells nothing,
//! and what others change of them is found by the next look at everything.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself"
)]

mod deed;
mod interfaces;
mod iptables;
mod nftables;

use dataplane::DataplaneSettings;
use deed::Deed;
use e2e::bed::{nft, wait_for, within};
use e2e::engine::NODE;
use e2e::manifest::{allow_from, endpoint, ingress, nets, open_profile, policy, selected};
use e2e::packet::Probe;
use e2e::random::Dice;
use e2e::rules::Rules;
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
fn world(rules: Rules) -> World {
    let settings = DataplaneSettings {
        owned_table: false,
        ..rules.settings()
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

/// Everything that others do on such a node: all of it with the first of the run, and less of what is alike with others.
fn deeds(world: &World) -> Vec<Deed> {
    within(&world.node, || match world.rules {
        Rules::Nftables => nftables::deeds(),
        Rules::Iptables(_) => iptables::deeds(world.rules, &world.others(), world.rules.share(1, 8)),
    })
}

/// Waits until the events of the kernel have led to a repair, or looks where it tells nothing, and says how much was mended.
fn mended(world: &World, deed: &Deed) -> usize {
    if !deed.is_told {
        return world.engine.run(|core| core.differences());
    }
    let mut mended = 0;
    wait_for(&format!("the repair of '{deed}'"), PATIENCE, || {
        mended += world.engine.run(|core| core.mend());
        (mended > 0).then_some(mended)
    })
}

#[test]
fn a_table_that_others_changed_is_mended() {
    Rules::each(|rules| {
        let mut world = world(rules);
        let (before, others) = (world.our_objects(), world.others());
        let deeds = deeds(&world);
        assert!(deeds.len() > 40, "{deeds:#?}");
        for deed in &deeds {
            within(&world.node, || deed.by(&others));
            assert_ne!(world.our_objects(), before, "'{deed}' changed nothing");
            assert!(mended(&world, deed) > 0, "'{deed}'");
            assert_eq!(world.our_objects(), before, "after '{deed}'");
            assert_eq!(world.engine.run(|core| core.differences()), 0, "after '{deed}'");
            let again = world.engine.run(|core| core.mend());
            assert_eq!(again, 0, "the repair of '{deed}' is no reason for another one");
            policy_holds(&mut world, &deed.to_string());
            within(&world.node, || deed.take_back(&others));
        }
    });
}

#[test]
fn several_changes_at_once_are_mended() {
    let seed = std::env::var("MANX_SEED").map_or(1, |text| text.parse().expect("MANX_SEED: a number"));
    eprintln!("MANX_SEED={seed}");
    Rules::each(|rules| {
        let mut dice = Dice::new(seed);
        let mut world = world(rules);
        let (before, others) = (world.our_objects(), world.others());
        let deeds = deeds(&world);
        for _ in 0..15 {
            let mut done: Vec<Deed> = Vec::new();
            for _ in 0..dice.below(5) + 2 {
                let deed = dice.one(&deeds);
                // What an earlier one removed cannot be removed again.
                if within(&world.node, || deed.try_by(&others)).is_ok() {
                    done.push(deed);
                }
                if dice.chance(33) {
                    // The agent may look at any moment between.
                    world.engine.run(|core| core.mend());
                }
            }
            let what: Vec<String> = done.iter().map(Deed::to_string).collect();
            let are_told = done.iter().all(|deed| deed.is_told);
            wait_for(&format!("the repair of {what:?}"), PATIENCE, || {
                world
                    .engine
                    .run(move |core| if are_told { core.mend() } else { core.differences() });
                (world.our_objects() == before).then_some(())
            });
            assert_eq!(world.engine.run(|core| core.differences()), 0, "after {what:?}");
            policy_holds(&mut world, &format!("after {what:?}"));
            within(&world.node, || {
                done.iter().for_each(|deed| deed.take_back(&others))
            });
        }
    });
}

#[test]
fn a_change_of_policy_while_others_tamper_comes_into_force() {
    Rules::each(|rules| {
        let mut world = world(rules);
        let others = world.others();
        let closed = policy("red", "in", ingress("role == 'b'", Vec::new()));
        let deeds = deeds(&world);
        let mut refused = 0;
        for deed in &deeds {
            // Sets of iptables have other names after each change, and a table that names one that is gone is refused whole.
            if within(&world.node, || deed.try_by(&others)).is_err() {
                refused += 1;
                continue;
            }
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
                "'{deed}': the new policy denies, and another pod is open"
            );
            world.program(&resources(&world));
            policy_holds(&mut world, &deed.to_string());
            within(&world.node, || deed.take_back(&others));
        }
        assert!(
            refused <= deeds.len() / 2,
            "{refused} of {} deeds were refused",
            deeds.len()
        );
        assert!(refused == 0 || rules != Rules::Nftables);
    });
}

#[test]
fn tables_of_others_are_no_reason_to_do_anything() {
    Rules::each(|rules| {
        let world = world(rules);
        world.engine.run(|core| core.mend());
        let before = world.our_objects();
        within(&world.node, || {
            nft(
                "table inet firewall { set s { type ipv4_addr; elements = { 10.1.0.1 }; }; chain c { type filter hook forward priority 5; policy accept; }; }",
            );
            nft("delete table inet firewall");
            if rules != Rules::Nftables {
                let others = world.others();
                others.feed("iptables-restore --noflush", "*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j RETURN\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n");
                others.run("iptables -A FORWARD -j ACCEPT");
                others.run("ip6tables -N MINE");
            }
        });
        let (suspect, mended) = world.engine.run(|core| {
            core.dataplane.take_events().unwrap();
            (core.dataplane.driver().is_suspect(), core.mend())
        });
        // Who writes to a table of iptables writes to what is ours as well, so that a look tells.
        assert_eq!(suspect, rules != Rules::Nftables);
        assert_eq!(mended, 0);
        assert_eq!(world.our_objects(), before);
    });
}
