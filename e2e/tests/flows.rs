//! What becomes of established flows when policy changes: `FlowsOnPolicyChange`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself"
)]

use dataplane::{DataplaneSettings, FlowsOnPolicyChange};
use e2e::bed::{nft, within};
use e2e::engine::NODE;
use e2e::manifest::{allow_from, allow_to, egress, endpoint, ingress, open_profile, policy, selected};
use e2e::program::Program;
use e2e::rules::Rules;
use e2e::talk::{Side, Talk};
use e2e::world::{NODE_ADDRESSES, OUTSIDE_ADDRESSES, Place, PodSpec, World};
use policy_model::{EntityRule, PolicyRule, Port, PortRange, Protocol, Resource};
use std::net::{IpAddr, SocketAddr};

const FIRST: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const SECOND: [&str; 2] = ["10.1.0.2", "fd00:1::2"];
const SERVICE: [&str; 2] = ["10.96.0.1", "fd00:96::1"];
/// A port of the first pod that every state allows.
const ALWAYS: u16 = 81;

fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(text.parse().unwrap(), port)
}

fn pod(name: &str, addresses: [&str; 2], labels: &str) -> Resource {
    let addresses: [IpAddr; 2] = addresses.map(|a| a.parse().unwrap());
    let interface = name.replace('p', "cali");
    endpoint("red", name, NODE, &interface, &addresses, labels)
}

fn second(labels: &str) -> Resource {
    pod("p2", SECOND, labels)
}

fn world(rules: Rules, flows_on_policy_change: FlowsOnPolicyChange) -> World {
    let spec = |interface, addresses: [&str; 2]| PodSpec::new(interface, &addresses.join(" "));
    let settings = DataplaneSettings {
        flows_on_policy_change,
        ..rules.settings()
    };
    let world = World::new(&[spec("cali1", FIRST), spec("cali2", SECOND)], settings);
    world.silence();
    within(&world.node, || {
        for (family, service, first) in [("ip", SERVICE[0], "10.1.0.1"), ("ip6", SERVICE[1], "[fd00:1::1]")] {
            nft(&format!(
                "table {family} kube-proxy {{ chain prerouting {{ type nat hook prerouting priority dstnat;
                   {family} daddr {service} meta l4proto {{ tcp, udp }} th dport {{ 80, {ALWAYS} }} dnat to {first}; }}; }}"
            ));
        }
    });
    world.program(&[open_profile("red"), pod("p1", FIRST, "name=p1"), second("role=a")]);
    world
}

/// Traffic to the first pod: from some peers, and to one port from everybody.
fn to_first(from: &str) -> Resource {
    let always = || ports(allow_from(EntityRule::default()));
    let mut rules: Vec<PolicyRule> = [Protocol::TCP, Protocol::UDP]
        .map(|protocol| PolicyRule {
            protocol: Some(protocol),
            ..always()
        })
        .into();
    rules.push(allow_from(selected(from)));
    policy("red", "in", ingress("name == 'p1'", rules))
}

fn ports(mut rule: PolicyRule) -> PolicyRule {
    rule.destination.ports = vec![Port::Range(PortRange::new(ALWAYS, ALWAYS).unwrap())];
    rule
}

/// Traffic from the first pod.
fn from_first(to: &str) -> Resource {
    policy("red", "out", egress("name == 'p1'", vec![allow_to(selected(to))]))
}

/// The same flows in both families and of both protocols.
struct Talks {
    /// Flows that the second state denies, with what they are.
    denied: Vec<(String, Talk)>,
    /// Flows that both states allow.
    allowed: Vec<(String, Talk)>,
}

impl Talks {
    /// Opens flows from the second pod to the first, directly and by a service, and from the first to the second.
    fn open(world: &mut World) -> Self {
        let mut talks = Talks {
            denied: Vec::new(),
            allowed: Vec::new(),
        };
        for n in 0..2 {
            for protocol in [Protocol::TCP, Protocol::UDP] {
                let direct =
                    |port| Talk::new(world, protocol, at(SECOND[n], 5_000 + port), at(FIRST[n], port));
                let by_service = |port| {
                    let (client, service) = (at(SECOND[n], 5_200 + port), at(SERVICE[n], port));
                    Talk::to(world, protocol, client, service, Place::Pod(0))
                };
                let back = Talk::new(world, protocol, at(FIRST[n], 5_400), at(SECOND[n], 80));
                let outside = Talk::new(
                    world,
                    protocol,
                    at(OUTSIDE_ADDRESSES[n], 5_500),
                    at(SECOND[n], 80),
                );
                let denied = [
                    ("direct", direct(80)),
                    ("service", by_service(80)),
                    ("back", back),
                ];
                let allowed = [
                    ("direct", direct(ALWAYS)),
                    ("service", by_service(ALWAYS)),
                    ("unrelated", outside),
                ];
                let named = |(what, talk)| (format!("{protocol:?} to {} ({what})", FIRST[n]), talk);
                talks.denied.extend(denied.map(named));
                talks.allowed.extend(allowed.map(named));
            }
        }
        for (what, talk) in talks.denied.iter_mut().chain(&mut talks.allowed) {
            assert!(talk.open(world) && talk.goes_on(world), "{what} did not open");
        }
        talks
    }

    fn go_on(talks: &mut [(String, Talk)], world: &mut World, when: &str) {
        for (what, talk) in talks {
            assert!(talk.goes_on(world), "{when}: {what} was cut");
        }
    }

    fn are_cut(talks: &mut [(String, Talk)], world: &mut World, when: &str) {
        for (what, talk) in talks {
            assert!(talk.is_cut(world), "{when}: {what} goes on");
        }
    }

    /// Whether new flows with the same ends, from other ports, can begin.
    fn open_anew(talks: &[(String, Talk)], world: &mut World, expected: bool) {
        for (what, talk) in talks {
            assert_eq!(talk.anew().open(world), expected, "a new flow {what}");
        }
    }
}

#[test]
fn kept_flows_outlive_a_new_deny_and_no_new_one_begins() {
    Rules::each(|rules| {
        let mut world = world(rules, FlowsOnPolicyChange::Keep);
        let open = [to_first("role == 'a'"), from_first("role == 'a'")];
        world.program(&open);
        let mut talks = Talks::open(&mut world);
        world.program(&[to_first("role == 'b'"), from_first("role == 'b'")]);
        Talks::open_anew(&talks.denied, &mut world, false);
        Talks::open_anew(&talks.allowed, &mut world, true);
        Talks::go_on(&mut talks.denied, &mut world, "after the deny");
        Talks::go_on(&mut talks.allowed, &mut world, "after the deny");
        let endpoints = [open_profile("red"), pod("p1", FIRST, "name=p1"), second("role=a")];
        let denying = [to_first("role == 'b'"), from_first("role == 'b'")];
        world.engine.restart([&endpoints[..], &denying[..]].concat());
        Talks::go_on(&mut talks.denied, &mut world, "after a restart");
        Talks::open_anew(&talks.denied, &mut world, false);
        world.program(&open);
        Talks::open_anew(&talks.denied, &mut world, true);
    });
}

/// Opens flows, brings a change into force that denies some of them, and expects exactly these to end at once.
fn a_change_cuts(rules: Rules, change: &[Resource], back: &[Resource]) {
    let mut world = world(rules, FlowsOnPolicyChange::Recheck);
    world.program(&[to_first("role == 'a'"), from_first("role == 'a'")]);
    let mut talks = Talks::open(&mut world);
    // Something unrelated changes: nothing ends.
    let other = policy("red", "other", ingress("name == 'nobody'", Vec::new()));
    assert_eq!(world.program(&[other]).flows_removed, 0);
    Talks::go_on(&mut talks.denied, &mut world, "after an unrelated change");
    let removed = world.program(change).flows_removed;
    assert_eq!(removed, talks.denied.len(), "one entry is removed for each flow");
    Talks::are_cut(&mut talks.denied, &mut world, "after the deny");
    Talks::go_on(&mut talks.allowed, &mut world, "after the deny");
    Talks::open_anew(&talks.denied, &mut world, false);
    // Allowed again: a flow of TCP begins with its first packet or not at all.
    world.program(back);
    for (what, talk) in &mut talks.denied {
        if what.starts_with("TCP") {
            assert!(talk.is_cut(&mut world), "{what} was picked up in its middle");
        }
    }
    Talks::open_anew(&talks.denied, &mut world, true);
    Talks::go_on(&mut talks.allowed, &mut world, "when all is as before");
}

#[test]
fn rechecked_flows_that_a_changed_policy_denies_end_at_once() {
    Rules::each(|rules| {
        let state = |role: &str| {
            let role = format!("role == '{role}'");
            [to_first(&role), from_first(&role)]
        };
        a_change_cuts(rules, &state("b"), &state("a"));
    });
}

#[test]
fn rechecked_flows_whose_peer_is_another_now_end_at_once() {
    Rules::each(|rules| {
        a_change_cuts(rules, &[second("role=b")], &[second("role=a")]);
    });
}

#[test]
fn flows_of_the_node_itself_are_never_cut() {
    Rules::each(|rules| {
        let mut world = world(rules, FlowsOnPolicyChange::Recheck);
        let programs = [0, 1].map(|n| Program::at(&world.node, at(NODE_ADDRESSES[n], 5_600)));
        let answers = |world: &mut World, n: usize| {
            let number = world.number();
            programs[n].say(number, at(FIRST[n], 80));
            let arrived = world.deliver(&[]);
            let there = arrived
                .iter()
                .any(|a| a.number == number && a.place == Place::Pod(0));
            let probe = e2e::packet::Probe {
                number: world.number(),
                source: FIRST[n].parse().unwrap(),
                destination: NODE_ADDRESSES[n].parse().unwrap(),
                protocol: Protocol::UDP,
                x: 5_600,
                y: 80,
            };
            world.send(&[probe]);
            there
                && programs[n]
                    .heard()
                    .iter()
                    .any(|(number, _)| *number == probe.number)
        };
        let mut denied: Vec<Talk> = Vec::new();
        for n in 0..2 {
            assert!(answers(&mut world, n));
            denied.push(Talk::new(
                &world,
                Protocol::UDP,
                at(SECOND[n], 5_601),
                at(FIRST[n], 80),
            ));
            assert!(denied[n].open(&mut world));
        }
        let report = world.program(&[
            policy("red", "in", ingress("name == 'p1'", Vec::new())),
            policy("red", "out", egress("name == 'p1'", Vec::new())),
        ]);
        assert_eq!(report.flows_removed, denied.len());
        for (n, denied) in denied.iter_mut().enumerate() {
            assert!(denied.is_cut(&mut world), "the other pod's flow ends");
            assert!(answers(&mut world, n), "the node's own goes on");
            assert!(!denied.says(&mut world, Side::Client));
        }
    });
}
