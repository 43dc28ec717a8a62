//! The node and its pods: what the node sends is not judged, what it forwards is, and what pods send to it is judged
//! before a setting decides. Told by the hook, never by an address.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself"
)]

use dataplane::DataplaneSettings;
use dataplane_nftables::layout::EndpointToHost;
use e2e::bed::{ip, nft, within};
use e2e::engine::NODE;
use e2e::manifest::{allow_from, allow_to, egress, endpoint, ingress, nets, open_profile, policy};
use e2e::packet::Probe;
use e2e::program::Program;
use e2e::rules::Rules;
use e2e::talk::{Side, Talk};
use e2e::world::{NODE_ADDRESSES, OUTSIDE_ADDRESSES, Place, PodSpec, World};
use policy_model::{Protocol, Resource};
use std::net::{IpAddr, SocketAddr};

/// The addresses of the first pod, which policies are about, and of the second, which is open; one of each family.
const FIRST: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const SECOND: [&str; 2] = ["10.1.0.2", "fd00:1::2"];
/// Where the node's side of every pod's interface answers; in no policy.
const LINK_LOCAL_GATEWAY: &str = "fe80::ecee:eeff:feee:eeee";
const TCP_AND_UDP: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address(text), port)
}

/// Two pods of which no policy says anything.
fn world(settings: DataplaneSettings) -> World {
    let spec = |interface, addresses: [&str; 2]| PodSpec::new(interface, &addresses.join(" "));
    let world = World::new(&[spec("cali1", FIRST), spec("cali2", SECOND)], settings);
    world.silence();
    let pod = |name, interface, addresses: [&str; 2]| {
        endpoint(
            "red",
            name,
            NODE,
            interface,
            &addresses.map(address),
            &format!("name={name}"),
        )
    };
    world.program(&[
        open_profile("red"),
        pod("p1", "cali1", FIRST),
        pod("p2", "cali2", SECOND),
    ]);
    world
}

/// Nobody may speak to the first pod.
fn closed_in() -> Resource {
    policy("red", "in", ingress("name == 'p1'", Vec::new()))
}

/// The first pod may speak to nobody.
fn closed_out() -> Resource {
    policy("red", "out", egress("name == 'p1'", Vec::new()))
}

#[test]
fn what_the_node_itself_sends_reaches_a_pod_that_allows_nobody() {
    Rules::each(|rules| {
        let mut world = world(rules.settings());
        world.program(&[closed_in(), closed_out()]);
        for n in 0..2 {
            let program = Program::at(&world.node, at(NODE_ADDRESSES[n], 4_000));
            let number = world.number();
            program.say(number, at(FIRST[n], 80));
            let arrived = world.deliver(&[]);
            assert!(
                arrived
                    .iter()
                    .any(|a| a.number == number && a.place == Place::Pod(0)),
                "{}",
                FIRST[n]
            );
            let answer = Probe {
                number: world.number(),
                source: address(FIRST[n]),
                destination: address(NODE_ADDRESSES[n]),
                protocol: Protocol::UDP,
                x: 4_000,
                y: 80,
            };
            world.send(&[answer]);
            let heard: Vec<u32> = program.heard().iter().map(|(number, _)| *number).collect();
            assert_eq!(heard, [answer.number], "the pod's answer to the node");
            // The same from elsewhere is denied, so it is not that nothing is.
            for elsewhere in [SECOND[n], OUTSIDE_ADDRESSES[n]] {
                assert!(!world.passes(elsewhere, FIRST[n], 80), "from {elsewhere}");
            }
            assert!(
                world.passes(OUTSIDE_ADDRESSES[n], SECOND[n], 80),
                "what is allowed passes"
            );
        }
    });
}

#[test]
fn what_comes_from_outside_with_the_nodes_address_is_judged() {
    Rules::each(|rules| {
        let mut world = world(rules.settings());
        world.program(&[closed_in()]);
        within(&world.node, || {
            // Otherwise the kernel's own check would drop these packets, and ours would not be seen.
            for (setting, value) in [
                ("all/accept_local", "1"),
                ("up0/accept_local", "1"),
                ("all/rp_filter", "0"),
                ("up0/rp_filter", "0"),
            ] {
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{setting}"), value).unwrap();
            }
        });
        for n in 0..2 {
            for protocol in TCP_AND_UDP {
                let mut probe = |pod: &str| Probe {
                    number: world.number(),
                    source: address(NODE_ADDRESSES[n]),
                    destination: address(pod),
                    protocol,
                    x: 80,
                    y: 4_100,
                };
                let (denied, allowed) = (probe(FIRST[n]), probe(SECOND[n]));
                let arrived = world.send_from(&[(Place::Outside, denied), (Place::Outside, allowed)]);
                assert_eq!(
                    arrived.get(&allowed.number),
                    Some(&vec![Place::Pod(1)]),
                    "such packets are forwarded to a pod that is open: {allowed:?}"
                );
                assert_eq!(
                    arrived.get(&denied.number),
                    None,
                    "the node's address is no pass: {denied:?}"
                );
            }
        }
    });
}

/// Translation as kube-proxy's nftables mode does it: ports of the node and an address of a service lead to pods, and
/// what has to look as if it came from the node is marked on its way in and translated on its way out.
fn services() {
    for (family, n, service) in [("ip", 0, "10.96.0."), ("ip6", 1, "fd00:96::")] {
        let bracketed = |address: &str| {
            if n == 1 {
                format!("[{address}]")
            } else {
                address.to_string()
            }
        };
        let (node, first, second) = (NODE_ADDRESSES[n], FIRST[n], SECOND[n]);
        let (to_first, to_second) = (bracketed(first), bracketed(second));
        nft(&format!(
            "table {family} kube-proxy {{
               chain to_masquerade {{ meta mark set meta mark or 0x4000; }}
               chain prerouting {{ type nat hook prerouting priority dstnat; policy accept;
                 {family} daddr {node} meta l4proto {{ tcp, udp }} th dport {{ 30081, 30082 }} jump to_masquerade
                 {family} daddr {node} meta l4proto {{ tcp, udp }} th dport 30081 dnat to {to_first}:80
                 {family} daddr {node} meta l4proto {{ tcp, udp }} th dport 30082 dnat to {to_second}:80
                 {family} saddr {first} {family} daddr {service}1 jump to_masquerade
                 {family} daddr {service}1 meta l4proto {{ tcp, udp }} th dport 80 dnat to {to_first}:8080
                 {family} daddr {service}2 meta l4proto {{ tcp, udp }} th dport 80 dnat to {to_second}:8080
               }}
               chain postrouting {{ type nat hook postrouting priority srcnat; policy accept;
                 meta mark & 0x4000 == 0x4000 masquerade
               }}
             }}"
        ));
    }
}

#[test]
fn a_flow_from_outside_to_a_port_of_the_node_is_judged_and_keeps_its_mark() {
    Rules::each(|rules| {
        let mut world = world(rules.settings());
        within(&world.node, services);
        let only = |from: &str| policy("red", "in", ingress("name == 'p1'", vec![allow_from(nets(from))]));
        for n in 0..2 {
            let (node, outside) = (NODE_ADDRESSES[n], OUTSIDE_ADDRESSES[n]);
            for (k, protocol) in (0..).zip(TCP_AND_UDP) {
                let opens = |world: &mut World, port: u16, node_port: u16, server: usize| {
                    let client = at(outside, 4_200 + 10 * k + port);
                    let mut talk = Talk::to(world, protocol, client, at(node, node_port), Place::Pod(server));
                    let opened = talk.open(world) && talk.goes_on(world);
                    if opened {
                        assert_eq!(
                            talk.client_seen().ip(),
                            address(node),
                            "the mark did not survive: {protocol:?}"
                        );
                    }
                    opened
                };
                world.program(&[closed_in()]);
                assert!(
                    !opens(&mut world, 0, 30_081, 0),
                    "nobody is allowed: {protocol:?}"
                );
                assert!(
                    opens(&mut world, 1, 30_082, 1),
                    "everybody is allowed: {protocol:?}"
                );
                // The node forwards, and policy sees who began.
                world.program(&[only(node)]);
                assert!(
                    !opens(&mut world, 2, 30_081, 0),
                    "only the node is allowed: {protocol:?}"
                );
                world.program(&[only(outside)]);
                assert!(
                    opens(&mut world, 3, 30_081, 0),
                    "who began is allowed: {protocol:?}"
                );
                assert!(!world.passes(SECOND[n], FIRST[n], 80), "others are not");
            }
        }
    });
}

#[test]
fn a_pod_reaches_itself_through_its_own_service_only() {
    Rules::each(|rules| {
        let mut world = world(rules.settings());
        within(&world.node, services);
        for (n, [own, others]) in [["10.96.0.1", "10.96.0.2"], ["fd00:96::1", "fd00:96::2"]]
            .into_iter()
            .enumerate()
        {
            for (k, protocol) in (0..).zip(TCP_AND_UDP) {
                let opens = |world: &mut World, round: u16, from: &str, service: &str, server: usize| {
                    let client = at(from, 4_300 + 10 * k + round);
                    let mut talk = Talk::to(world, protocol, client, at(service, 80), Place::Pod(server));
                    talk.open(world) && talk.goes_on(world)
                };
                world.program(&[closed_in(), closed_out()]);
                assert!(
                    opens(&mut world, 0, FIRST[n], own, 0),
                    "{protocol:?} to itself by {own}"
                );
                assert!(
                    !opens(&mut world, 1, FIRST[n], others, 1),
                    "it may speak to nobody else"
                );
                assert!(
                    !opens(&mut world, 2, SECOND[n], own, 0),
                    "nobody else may speak to it"
                );
                world.change(&[], &[closed_in().key(), closed_out().key()]);
                assert!(
                    opens(&mut world, 3, FIRST[n], others, 1),
                    "without policy both pass"
                );
                assert!(
                    opens(&mut world, 4, SECOND[n], own, 0),
                    "without policy both pass"
                );
            }
        }
    });
}

#[test]
fn a_pods_traffic_to_its_node_meets_its_egress_policy_and_then_the_setting() {
    Rules::each(|rules| {
        for action in [
            EndpointToHost::Accept,
            EndpointToHost::Return,
            EndpointToHost::Drop,
        ] {
            let mut world = world(DataplaneSettings {
                endpoint_to_host: action,
                ..rules.settings()
            });
            let passes = action != EndpointToHost::Drop;
            let programs = ["0.0.0.0", "::"].map(|any| Program::at(&world.node, at(any, 7_000)));
            let hears = |world: &mut World, source: &str, destination: &str| {
                let probe = Probe {
                    number: world.number(),
                    source: address(source),
                    destination: address(destination),
                    protocol: Protocol::UDP,
                    x: 7_000,
                    y: 4_400,
                };
                world.send(&[probe]);
                let mut heard = programs.iter().flat_map(Program::heard);
                heard.any(|(number, _)| number == probe.number)
            };
            let to_node = |n: usize| {
                policy(
                    "red",
                    "out",
                    egress("name == 'p1'", vec![allow_to(nets(NODE_ADDRESSES[n]))]),
                )
            };
            for n in 0..2 {
                let node = NODE_ADDRESSES[n];
                world.program(&[closed_out()]);
                assert!(
                    !hears(&mut world, FIRST[n], node),
                    "{action:?}: denied, from {}",
                    FIRST[n]
                );
                assert_eq!(
                    hears(&mut world, SECOND[n], node),
                    passes,
                    "{action:?}: from {}",
                    SECOND[n]
                );
                world.program(&[to_node(n)]);
                assert_eq!(
                    hears(&mut world, FIRST[n], node),
                    passes,
                    "{action:?}: allowed to the node"
                );
                world.program(&[to_node(1 - n)]);
                assert!(
                    !hears(&mut world, FIRST[n], node),
                    "{action:?}: allowed to another address"
                );
                // Others speak to the node as they like: that is not ours.
                assert!(
                    hears(&mut world, OUTSIDE_ADDRESSES[n], node),
                    "{action:?}: from outside"
                );
            }
            world.program(&[closed_out()]);
            assert!(
                !hears(&mut world, FIRST[1], LINK_LOCAL_GATEWAY),
                "{action:?}: to the gateway"
            );
            assert_eq!(
                hears(&mut world, SECOND[1], LINK_LOCAL_GATEWAY),
                passes,
                "{action:?}: to the gateway"
            );
            // What our table lets pass is still others' to drop.
            within(&world.node, || {
                nft(
                    "table inet firewall { chain input { type filter hook input priority 10; policy accept; udp dport 7000 drop; }; }",
                )
            });
            assert!(
                !hears(&mut world, SECOND[0], NODE_ADDRESSES[0]),
                "{action:?}: a firewall drops"
            );
        }
    });
}

#[test]
fn answers_pass_whatever_the_one_who_answers_may_begin() {
    Rules::each(|rules| {
        let mut world = world(rules.settings());
        let closed_in_second = policy("red", "in2", ingress("name == 'p2'", Vec::new()));
        world.program(&[closed_out(), closed_in_second.clone()]);
        for n in 0..2 {
            for (k, protocol) in (0..).zip(TCP_AND_UDP) {
                let port = 4_500 + 10 * k;
                let to_first = at(FIRST[n], 80);
                for from in [SECOND[n], OUTSIDE_ADDRESSES[n]] {
                    let mut talk = Talk::new(&world, protocol, at(from, port), to_first);
                    assert!(talk.open(&mut world), "{protocol:?} from {from}");
                    assert!(talk.goes_on(&mut world) && talk.says(&mut world, Side::Server));
                }
                // The other way round, with the same ports and with others, nothing begins.
                for own_port in [80, 81] {
                    let to_second = at(SECOND[n], port + 1);
                    let mut talk = Talk::new(&world, protocol, at(FIRST[n], own_port), to_second);
                    assert!(!talk.says(&mut world, Side::Client), "{protocol:?}: mid-stream");
                    assert!(!talk.open(&mut world), "{protocol:?} from {}", FIRST[n]);
                }
            }
            assert!(
                !world.passes(OUTSIDE_ADDRESSES[n], SECOND[n], 80),
                "policy is in force"
            );
        }
        world.change(&[], &[closed_out().key(), closed_in_second.key()]);
        assert!(
            world.passes(FIRST[0], SECOND[0], 4_501),
            "without policy it passes"
        );
        assert_eq!(
            within(&world.node, || ip("route show 10.1.0.1")).lines().count(),
            1
        );
    });
}
