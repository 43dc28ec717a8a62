//! Addresses that are kept for workloads here: while nobody has one nothing is remembered of it, so that who gets it next
//! waits for nothing and inherits nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself"
)]

use dataplane::{DataplaneSettings, FlowWalks};
use dataplane_netlink::conntrack::{Conntrack, Flow, FlowFilter};
use e2e::bed::{nft, wait_for, within};
use e2e::engine::NODE;
use e2e::manifest::{egress, endpoint, ingress, open_profile, policy};
use e2e::packet::Probe;
use e2e::rules::Rules;
use e2e::talk::Talk;
use e2e::world::{NODE_ADDRESSES, OUTSIDE_ADDRESSES, Place, PodSpec, World};
use policy_model::{Protocol, Resource};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

const STAYS: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const KEPT: [&str; 2] = ["10.1.0.2", "fd00:1::2"];
const SERVICE: [&str; 2] = ["10.96.0.1", "fd00:96::1"];
/// How long something that has to happen is waited for; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(text), port)
}

fn spec(interface: &str, addresses: [&str; 2]) -> PodSpec {
    PodSpec::new(interface, &addresses.join(" "))
}

fn pod(name: &str, interface: &str, addresses: [&str; 2], labels: &str) -> Resource {
    endpoint("red", name, NODE, interface, &addresses.map(ip), labels)
}

/// Open to everybody, and free to speak to everybody.
fn first_holder() -> Resource {
    pod("old", "caliold", KEPT, "role=open")
}

/// Speaks to nobody, and nobody may speak to it.
fn next_holder() -> Resource {
    pod("new", "calinew", KEPT, "role=closed")
}

fn resources() -> Vec<Resource> {
    vec![
        open_profile("red"),
        policy("red", "in", ingress("role == 'closed'", Vec::new())),
        policy("red", "out", egress("role == 'closed'", Vec::new())),
        pod("stays", "cali1", STAYS, ""),
    ]
}

/// A world of a pod that stays and, as the last one, the first holder of the kept addresses.
fn world(rules: Rules) -> World {
    let settings = DataplaneSettings {
        owned_table: false,
        ..rules.settings()
    };
    let world = World::new(&[spec("cali1", STAYS), spec("caliold", KEPT)], settings);
    world.silence();
    within(&world.node, || {
        for n in 0..2 {
            let (family, table) = [("ip", "4"), ("ip6", "6")][n];
            nft(&format!(
                "table {family} services{table} {{ chain prerouting {{ type nat hook prerouting priority dstnat; \
                 {family} daddr {} dnat to {}; }}; }}",
                SERVICE[n], KEPT[n]
            ));
        }
    });
    world.program(&[resources(), vec![first_holder()]].concat());
    world
}

fn keep(world: &World, addresses: &[&str]) {
    world.keep(addresses.iter().map(|a| ip(a)).collect());
}

fn clean(world: &World) -> BTreeSet<IpAddr> {
    world.engine.run(|core| {
        core.apply();
        core.dataplane.clean_addresses()
    })
}

fn until_clean(world: &World, addresses: &[&str]) {
    let expected: BTreeSet<IpAddr> = addresses.iter().map(|a| ip(a)).collect();
    wait_for("the addresses to be clean", PATIENCE, || {
        (clean(world) == expected).then_some(())
    });
}

fn walks(world: &World) -> FlowWalks {
    world.engine.run(|core| core.dataplane.flow_walks())
}

/// The entries of the kept addresses.
fn entries(world: &World) -> Vec<Flow> {
    within(&world.node, || {
        let mut conntrack = Conntrack::open().unwrap();
        let mut of = |a: &str| conntrack.list(&FlowFilter::address(ip(a))).unwrap();
        KEPT.iter().flat_map(|a| of(a)).collect()
    })
}

/// Flows of both families and protocols with the kept addresses.
fn talks(world: &mut World) -> Vec<Talk> {
    let mut talks = Vec::new();
    for n in 0..2 {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            for (port, peer) in (6_000..).zip([STAYS[n], OUTSIDE_ADDRESSES[n]]) {
                talks.push(Talk::new(world, protocol, at(peer, port), at(KEPT[n], 80)));
                talks.push(Talk::new(world, protocol, at(KEPT[n], port), at(peer, 80)));
            }
        }
    }
    for talk in &mut talks {
        assert!(talk.open(world) && talk.goes_on(world), "{talk:?}");
    }
    assert_eq!(entries(world).len(), talks.len());
    talks
}

fn departs(world: &mut World) {
    world.disconnect_last();
    world.change(&[], &[first_holder().key()]);
}

/// Connects the next holder, and expects nothing of the old flows.
fn inherits_nothing(world: &mut World, talks: &mut [Talk]) {
    world.connect(&spec("calinew", KEPT));
    world.silence();
    world.program(&[next_holder()]);
    for talk in talks {
        assert!(talk.is_cut(world), "the next holder inherits {talk:?}");
    }
}

#[test]
fn who_comes_to_a_clean_address_waits_for_no_walk_and_inherits_nothing() {
    Rules::each(|rules| {
        let mut world = world(rules);
        keep(&world, &KEPT);
        let mut talks = talks(&mut world);
        let before = walks(&world);
        departs(&mut world);
        until_clean(&world, &KEPT);
        assert_eq!(entries(&world), []);
        let ahead = before.ahead + 1;
        assert_eq!(
            walks(&world),
            FlowWalks { ahead, ..before },
            "one for both addresses"
        );
        inherits_nothing(&mut world, &mut talks);
        assert_eq!(
            walks(&world),
            FlowWalks { ahead, ..before },
            "and none for the next holder"
        );
        assert_eq!(clean(&world), BTreeSet::new());
        // Its addresses are its own: what policy lets pass passes.
        world.program(&[pod("new", "calinew", KEPT, "role=open")]);
        for talk in &talks {
            assert!(talk.anew().open(&mut world), "{talk:?}");
        }
    });
}

#[test]
fn who_comes_at_once_waits_for_a_walk_and_inherits_nothing() {
    Rules::each(|rules| {
        let mut world = world(rules);
        keep(&world, &KEPT);
        let mut talks = talks(&mut world);
        let before = walks(&world);
        world.disconnect_last();
        world.connect(&spec("calinew", KEPT));
        world.silence();
        world.change(&[next_holder()], &[first_holder().key()]);
        for talk in &mut talks {
            assert!(talk.is_cut(&mut world), "the next holder inherits {talk:?}");
        }
        assert_eq!(walks(&world).in_passes, before.in_passes + 1);
    });
}

/// The walk that was ordered when the addresses became vacant comes when they have a holder again.
#[test]
fn who_comes_before_an_ordered_walk_keeps_its_flows() {
    Rules::each(|rules| {
        let mut world = world(rules);
        keep(&world, &KEPT);
        for _ in 0..4 {
            let before = walks(&world);
            world.change(&[], &[first_holder().key()]);
            world.program(&[first_holder()]);
            let mut talks = talks(&mut world);
            wait_for("the walk to end", PATIENCE, || {
                clean(&world);
                (walks(&world).ahead > before.ahead).then_some(())
            });
            assert_eq!(entries(&world).len(), talks.len());
            for talk in &mut talks {
                assert!(talk.goes_on(&mut world), "{talk:?}");
            }
            world.forget_flows();
        }
    });
}

/// The agent dies after the departure and before anything was forgotten; its next life knows nothing of it.
#[test]
fn a_life_that_ends_before_the_walk_leaves_nothing_to_the_next_holder() {
    Rules::each(|rules| {
        for waits in [false, true] {
            let mut world = world(rules);
            keep(&world, &KEPT);
            let mut talks = talks(&mut world);
            world.engine.close();
            world.disconnect_last();
            assert_eq!(entries(&world).len(), talks.len());
            world.engine.restart(resources());
            keep(&world, &KEPT);
            assert!(clean(&world).is_empty() || entries(&world).is_empty());
            if waits {
                until_clean(&world, &KEPT);
                assert_eq!(entries(&world), []);
            }
            inherits_nothing(&mut world, &mut talks);
        }
    });
}

/// Sends every kind of packet that could leave an entry of an address that nobody has, and says how many each left.
fn provoke(world: &mut World) -> BTreeMap<String, usize> {
    let mut left = BTreeMap::new();
    for n in 0..2 {
        let (kept, service, node) = (KEPT[n], SERVICE[n], NODE_ADDRESSES[n]);
        let (stays, outside) = (STAYS[n], OUTSIDE_ADDRESSES[n]);
        for protocol in [Protocol::UDP, Protocol::TCP] {
            for (from, source, destination) in [
                (Place::Outside, outside, kept),
                (Place::Outside, outside, service),
                (Place::Pod(0), stays, kept),
                (Place::Pod(0), stays, service),
                // In its name, to a pod and to the node.
                (Place::Outside, kept, stays),
                (Place::Outside, kept, node),
            ] {
                if protocol == Protocol::TCP && destination == node {
                    // Nobody listens there, and the refusal ends the connection.
                    continue;
                }
                let probe = Probe {
                    number: world.number(),
                    source: ip(source),
                    destination: ip(destination),
                    protocol,
                    x: 7_000,
                    y: 7_001,
                };
                world.send_from(&[(from, probe)]);
                let what = format!("{protocol:?} from {from:?} {source} to {destination}");
                left.insert(what, entries(world).len());
                world.forget_flows();
            }
        }
        within(&world.node, || {
            let socket = UdpSocket::bind(at(node, 0)).unwrap();
            // What is dropped on its way out is refused at once.
            let _refused = socket.send_to(b"hello", at(kept, 7_000));
        });
        left.insert(format!("from the node to {kept}"), entries(world).len());
        world.forget_flows();
    }
    left
}

#[test]
fn nothing_is_remembered_of_an_address_that_nobody_has() {
    Rules::each(|rules| {
        let mut world = world(rules);
        departs(&mut world);
        let control = provoke(&mut world);
        assert!(
            control.values().all(|count| *count > 0),
            "each leaves an entry where the address is not kept: {control:?}"
        );
        keep(&world, &KEPT);
        let left = provoke(&mut world);
        assert_eq!(
            left.keys().collect::<Vec<_>>(),
            control.keys().collect::<Vec<_>>()
        );
        assert!(left.values().all(|count| *count == 0), "{left:?}");
        // Given up, it is as any other.
        keep(&world, &[]);
        assert_eq!(provoke(&mut world), control);
    });
}

#[test]
fn a_pod_whose_interface_is_down_for_a_while_keeps_its_flows() {
    Rules::each(|rules| {
        let mut world = world(rules);
        keep(&world, &KEPT);
        let mut talks = talks(&mut world);
        for state in ["down", "up"] {
            within(&world.node, || e2e::bed::ip(&format!("link set caliold {state}")));
            assert_eq!(clean(&world), BTreeSet::new());
        }
        assert_eq!(entries(&world).len(), talks.len());
        // IPv6 begins anew on such an interface, and is a moment later there than this test.
        for talk in talks.iter_mut().filter(|talk| talk.client_seen().is_ipv4()) {
            assert!(talk.goes_on(&mut world), "{talk:?}");
        }
    });
}

#[test]
fn what_somebody_else_did_to_the_table_casts_doubt_on_what_is_clean() {
    Rules::each(|rules| {
        let mut world = world(rules);
        keep(&world, &KEPT);
        departs(&mut world);
        until_clean(&world, &KEPT);
        let before = walks(&world);
        within(&world.node, || match rules {
            Rules::Nftables => world.others().run("nft flush set inet manx vacant4"),
            Rules::Iptables(_) => world.others().run("iptables -F cali-vacant"),
        });
        // While it is not guarded somebody speaks to it.
        let probe = Probe {
            number: world.number(),
            source: ip(STAYS[0]),
            destination: ip(KEPT[0]),
            protocol: Protocol::UDP,
            x: 7_000,
            y: 7_001,
        };
        world.send_from(&[(Place::Pod(0), probe)]);
        assert_eq!(entries(&world).len(), 1);
        assert_eq!(clean(&world), BTreeSet::new());
        until_clean(&world, &KEPT);
        assert_eq!(entries(&world), []);
        assert_eq!(walks(&world).ahead, before.ahead + 1);
    });
}

#[test]
fn twenty_that_go_and_come_at_once_share_their_walks() {
    Rules::each(|rules| {
        let addresses: Vec<String> = (0..20).map(|n| format!("10.1.1.{n}")).collect();
        let specs: Vec<PodSpec> = (0..20)
            .map(|n| PodSpec::new(&format!("cali{n}"), &addresses[n]))
            .collect();
        let pods = |life: &str| -> Vec<Resource> {
            let named = |(n, spec): (usize, &PodSpec)| {
                let name = format!("{life}{n}");
                endpoint("red", &name, NODE, &spec.interface, &spec.addresses, "")
            };
            specs.iter().enumerate().map(named).collect()
        };
        let keys = |life: &str| pods(life).iter().map(Resource::key).collect::<Vec<_>>();
        let world = World::new(&specs, rules.settings());
        world.silence();
        world.program(&[vec![open_profile("red")], pods("first")].concat());
        let kept: Vec<&str> = addresses.iter().map(String::as_str).collect();
        keep(&world, &kept);
        let begun = walks(&world);
        world.change(&[], &keys("first"));
        until_clean(&world, &kept);
        let gone = walks(&world);
        assert_eq!(
            gone,
            FlowWalks {
                ahead: begun.ahead + 1,
                ..begun
            }
        );
        world.program(&pods("second"));
        assert_eq!(walks(&world), gone, "clean ones are walked for nobody");
        // From one to the other, without a moment in between.
        world.change(&pods("third"), &keys("second"));
        let moved = walks(&world);
        assert_eq!(moved.in_passes, gone.in_passes + 1);
    });
}
