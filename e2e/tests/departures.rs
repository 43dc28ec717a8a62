//! When a workload departs, its flows are forgotten before its addresses are given to another.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself"
)]

use dataplane_netlink::conntrack::{Conntrack, Flow, FlowFilter};
use e2e::bed::within;
use e2e::engine::NODE;
use e2e::manifest::{allow_to, egress, endpoint, ingress, nets, open_profile, policy};
use e2e::rules::Rules;
use e2e::talk::{Side, Talk};
use e2e::world::{OUTSIDE_ADDRESSES, Place, PodSpec, World};
use policy_model::{Protocol, Resource};
use std::net::{IpAddr, SocketAddr};

const STAYS: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const DEPARTS: [&str; 2] = ["10.1.0.2", "fd00:1::2"];
const OTHERS: [&str; 2] = ["10.1.0.3", "fd00:1::3"];

fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(text.parse().unwrap(), port)
}

fn spec(interface: &str, addresses: [&str; 2]) -> PodSpec {
    PodSpec::new(interface, &addresses.join(" "))
}

fn pod(name: &str, interface: &str, addresses: [&str; 2], labels: &str) -> Resource {
    let addresses: [IpAddr; 2] = addresses.map(|a| a.parse().unwrap());
    endpoint("red", name, NODE, interface, &addresses, labels)
}

/// What the departing pod is: open to everybody, and free to speak to everybody.
fn departing() -> Resource {
    pod("old", "caliold", DEPARTS, "role=open")
}

/// The next holder of its addresses, which speaks to nobody and to which nobody may speak.
fn next_holder(interface: &str) -> Resource {
    pod("new", interface, DEPARTS, "role=closed")
}

/// A world of a pod that stays and, as the last one, a pod that is about to depart.
fn world(rules: Rules) -> World {
    let world = World::new(
        &[spec("cali1", STAYS), spec("caliold", DEPARTS)],
        rules.settings(),
    );
    world.silence();
    world.program(&[
        open_profile("red"),
        policy("red", "in", ingress("role == 'closed'", Vec::new())),
        policy("red", "out", egress("role == 'closed'", Vec::new())),
        pod("stays", "cali1", STAYS, ""),
        departing(),
    ]);
    world
}

/// Flows of both families and protocols with these addresses: from and to the pod that stays, and outside.
fn talks(world: &mut World, addresses: [&str; 2]) -> Vec<Talk> {
    let mut talks = Vec::new();
    for n in 0..2 {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            let there = at(addresses[n], 80);
            for (port, peer) in (6_000..).zip([STAYS[n], OUTSIDE_ADDRESSES[n]]) {
                talks.push(Talk::new(world, protocol, at(peer, port), there));
                talks.push(Talk::new(world, protocol, at(addresses[n], port), at(peer, 80)));
            }
        }
    }
    for talk in &mut talks {
        assert!(talk.open(world) && talk.goes_on(world), "{talk:?}");
    }
    talks
}

/// The entries of the departing pod's addresses.
fn entries(world: &World) -> Vec<Flow> {
    within(&world.node, || {
        let mut conntrack = Conntrack::open().unwrap();
        let of = |a: &str| FlowFilter::address(a.parse().unwrap());
        DEPARTS
            .iter()
            .flat_map(|a| conntrack.list(&of(a)).unwrap())
            .collect()
    })
}

/// Connects the next holder where its predecessor was, and expects nothing of the old flows.
fn inherits_nothing(world: &mut World, talks: &mut [Talk], interface: &str) {
    world.connect(&spec(interface, DEPARTS));
    world.silence();
    world.program(&[next_holder(interface)]);
    for talk in talks {
        assert!(
            talk.is_cut(world),
            "the next holder of the address inherits {talk:?}"
        );
    }
}

/// The control: with nothing but a change of policy, flows go on.
#[test]
fn flows_go_on_while_nobody_departs() {
    Rules::each(|rules| {
        let mut world = world(rules);
        let mut talks = talks(&mut world, DEPARTS);
        assert_eq!(entries(&world).len(), talks.len());
        world.program(&[pod("old", "caliold", DEPARTS, "role=closed")]);
        for talk in &mut talks {
            assert!(talk.goes_on(&mut world), "{talk:?}");
            assert!(!talk.anew().open(&mut world), "a new one is denied: {talk:?}");
        }
        assert!(entries(&world).len() >= talks.len());
    });
}

#[test]
fn the_next_holder_of_an_address_inherits_no_flow() {
    Rules::each(|rules| {
        // The interface goes before the endpoint does or after it, and the next holder has its name or another.
        for (interface_first, next) in [(true, "caliold"), (false, "calinew")] {
            let mut world = world(rules);
            let mut others = {
                // Flows of others, which are no matter here.
                let (first, outside) = (at(STAYS[0], 80), at(OUTSIDE_ADDRESSES[0], 6_500));
                Talk::new(&world, Protocol::TCP, outside, first)
            };
            assert!(others.open(&mut world));
            let mut talks = talks(&mut world, DEPARTS);
            assert_eq!(entries(&world).len(), talks.len());
            if interface_first {
                world.disconnect_last();
                world.change(&[], &[departing().key()]);
            } else {
                world.change(&[], &[departing().key()]);
                world.disconnect_last();
            }
            assert_eq!(
                entries(&world),
                [],
                "they are gone before the address is given again"
            );
            inherits_nothing(&mut world, &mut talks, next);
            assert!(others.goes_on(&mut world), "flows of others are not touched");
        }
    });
}

#[test]
fn an_address_that_moves_in_one_pass_takes_no_flow_along() {
    Rules::each(|rules| {
        let mut world = world(rules);
        let mut talks = talks(&mut world, DEPARTS);
        world.disconnect_last();
        world.connect(&spec("calinew", DEPARTS));
        world.silence();
        world.change(&[next_holder("calinew")], &[departing().key()]);
        for talk in &mut talks {
            assert!(
                talk.is_cut(&mut world),
                "the next holder of the address inherits {talk:?}"
            );
        }
    });
}

#[test]
fn an_address_that_a_pod_loses_loses_its_flows() {
    Rules::each(|rules| {
        let mut world = world(rules);
        let mut talks = talks(&mut world, DEPARTS);
        world.program(&[pod("old", "caliold", [DEPARTS[0], OTHERS[1]], "role=open")]);
        let v6: IpAddr = DEPARTS[1].parse().unwrap();
        let left = entries(&world);
        assert!(
            !left.iter().any(|f| f.involves(v6)),
            "those of the lost address are gone: {left:?}"
        );
        assert_eq!(left.len(), talks.len() / 2, "those of the other one are not");
        for talk in &mut talks[..4] {
            assert!(talk.goes_on(&mut world), "{talk:?}");
        }
    });
}

/// Somebody goes on sending to an address that nobody has; that prepares nothing for its next holder.
#[test]
fn what_is_sent_to_an_address_that_nobody_has_opens_nothing_for_its_next_holder() {
    Rules::each(|rules| {
        let mut world = world(rules);
        world.disconnect_last();
        world.change(&[], &[departing().key()]);
        let mut waiting: Vec<Talk> = Vec::new();
        for n in 0..2 {
            let (client, there) = (at(OUTSIDE_ADDRESSES[n], 6_600), at(DEPARTS[n], 80));
            let mut talk = Talk::to(&world, Protocol::UDP, client, there, Place::Pod(1));
            assert!(!talk.says(&mut world, Side::Client), "nobody is there");
            waiting.push(talk);
        }
        inherits_nothing(&mut world, &mut waiting, "calinew");
        // The control: a policy that lets the next holder speak.
        world.program(&[policy(
            "red",
            "out",
            egress("role == 'closed'", vec![allow_to(nets("0.0.0.0/0 ::/0"))]),
        )]);
        for talk in &mut waiting {
            assert!(talk.says(&mut world, Side::Server), "{talk:?}");
        }
    });
}
