//! A pod cannot send with an address that is not its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself"
)]

use dataplane::DataplaneSettings;
use dataplane_netlink::workload::ReversePath;
use dataplane_nftables::layout::EndpointToHost;
use e2e::bed::{ip, within};
use e2e::engine::NODE;
use e2e::manifest::{endpoint, open_profile};
use e2e::packet::Probe;
use e2e::program::Program;
use e2e::rules::Rules;
use e2e::world::{NODE_ADDRESSES, OUTSIDE_ADDRESSES, Place, PodSpec, World};
use policy_model::Protocol;
use std::net::{IpAddr, SocketAddr};

/// The pods' addresses; the last one has IPv4 only.
const PODS: [&str; 3] = ["10.1.0.1 fd00:1::1", "10.1.0.2 fd00:1::2", "10.1.0.3"];
/// The link-local address of the node on every interface of a pod with IPv6.
const GATEWAY: &str = "fe80::ecee:eeff:feee:eeee";
/// Where a program on the node listens.
const PORT: u16 = 7_000;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A world of pods without policies, in which pods may speak to the node.
fn world(rules: Rules, reverse_path: ReversePath) -> (World, [Program; 2]) {
    let mut settings = DataplaneSettings {
        endpoint_to_host: EndpointToHost::Accept,
        ..rules.settings()
    };
    settings.workloads.reverse_path = reverse_path;
    let specs: Vec<PodSpec> = (1..)
        .zip(PODS)
        .map(|(n, a)| PodSpec::new(&format!("cali{n}"), a))
        .collect();
    let world = World::new(&specs, settings);
    world.silence();
    let mut resources = vec![open_profile("red")];
    for (n, spec) in (1..).zip(&specs) {
        resources.push(endpoint(
            "red",
            &format!("p{n}"),
            NODE,
            &spec.interface,
            &spec.addresses,
            "",
        ));
    }
    within(&world.node, || {
        if reverse_path == ReversePath::Off {
            // Nothing but our table stands in the way then.
            for interface in ["all", "cali1", "cali2", "cali3"] {
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "0").unwrap();
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/accept_local"), "1").unwrap();
            }
        }
    });
    world.program(&resources);
    let programs = ["0.0.0.0", "::"].map(|any| Program::at(&world.node, SocketAddr::new(address(any), PORT)));
    (world, programs)
}

/// Sends from a pod with a source and says whether it arrived anywhere at all, on the node included.
fn arrives(
    world: &mut World,
    programs: &[Program],
    from: usize,
    source: &str,
    destination: &str,
    protocol: Protocol,
) -> bool {
    let probe = Probe {
        number: world.number(),
        source: address(source),
        destination: address(destination),
        protocol,
        x: PORT,
        y: 4_000,
    };
    let arrived = world.send_from(&[(Place::Pod(from), probe)]);
    let mut heard = programs.iter().flat_map(Program::heard);
    arrived.contains_key(&probe.number) || heard.any(|(number, _)| number == probe.number)
}

#[test]
fn a_pod_sends_from_its_own_addresses_only() {
    Rules::each(|rules| {
        for reverse_path in [ReversePath::Strict, ReversePath::Off] {
            let (mut world, programs) = world(rules, reverse_path);
            let families = [
                (
                    "10.1.0.1",
                    ["10.1.0.2", OUTSIDE_ADDRESSES[0], NODE_ADDRESSES[0]],
                    vec![
                        "10.1.0.2",
                        "10.1.0.3",
                        "10.1.0.9",
                        NODE_ADDRESSES[0],
                        OUTSIDE_ADDRESSES[0],
                        "8.8.8.8",
                        "169.254.1.1",
                        "169.254.7.7",
                        "127.0.0.1",
                        "0.0.0.0",
                        "224.0.0.1",
                        "255.255.255.255",
                    ],
                ),
                (
                    "fd00:1::1",
                    ["fd00:1::2", OUTSIDE_ADDRESSES[1], NODE_ADDRESSES[1]],
                    vec![
                        "fd00:1::2",
                        "fd00:1::9",
                        NODE_ADDRESSES[1],
                        OUTSIDE_ADDRESSES[1],
                        "2001:db8:7::1",
                        GATEWAY,
                        "fe80::1",
                        "::1",
                        "::",
                        "::ffff:10.1.0.1",
                        "ff02::1",
                    ],
                ),
            ];
            for (own, destinations, false_ones) in families {
                for destination in destinations
                    .into_iter()
                    .chain((own == "fd00:1::1").then_some(GATEWAY))
                {
                    let to_node = destination == GATEWAY || NODE_ADDRESSES.contains(&destination);
                    for protocol in [Protocol::UDP, Protocol::TCP] {
                        for source in &false_ones {
                            assert!(
                                !arrives(&mut world, &programs, 0, source, destination, protocol),
                                "{reverse_path:?}: {protocol:?} from {source} reached {destination}"
                            );
                        }
                        // The program on the node speaks UDP.
                        assert!(
                            to_node && protocol == Protocol::TCP
                                || arrives(&mut world, &programs, 0, own, destination, protocol),
                            "{reverse_path:?}: {protocol:?} from {own} did not reach {destination}"
                        );
                    }
                }
            }
            // The addresses belong to their own pods, at the same time.
            assert!(arrives(
                &mut world,
                &programs,
                1,
                "10.1.0.2",
                OUTSIDE_ADDRESSES[0],
                Protocol::UDP
            ));
            assert!(arrives(
                &mut world,
                &programs,
                1,
                "fd00:1::2",
                OUTSIDE_ADDRESSES[1],
                Protocol::UDP
            ));
        }
    });
}

#[test]
fn a_false_source_does_not_enter_an_open_flow() {
    Rules::each(|rules| {
        let (mut world, programs) = world(rules, ReversePath::Off);
        for (first, second, outside) in [
            ("10.1.0.1", "10.1.0.2", OUTSIDE_ADDRESSES[0]),
            ("fd00:1::1", "fd00:1::2", OUTSIDE_ADDRESSES[1]),
        ] {
            // The second pod opens a flow, which the first one then tries to continue in its name.
            assert!(arrives(&mut world, &programs, 1, second, outside, Protocol::UDP));
            assert!(!arrives(&mut world, &programs, 0, second, outside, Protocol::UDP));
            assert!(arrives(&mut world, &programs, 1, second, outside, Protocol::UDP));
            assert!(arrives(&mut world, &programs, 0, first, outside, Protocol::UDP));
        }
    });
}

#[test]
fn the_link_local_address_of_a_pod_without_ipv6_reaches_nothing() {
    Rules::each(|rules| {
        let (mut world, programs) = world(rules, ReversePath::Strict);
        let destinations = [
            GATEWAY,
            "ff02::1",
            "ff02::2",
            NODE_ADDRESSES[1],
            "fd00:1::2",
            OUTSIDE_ADDRESSES[1],
        ];
        let reaches = |world: &mut World, from: usize, source: &str| {
            let mut reached = Vec::new();
            for destination in destinations {
                if arrives(world, &programs, from, source, destination, Protocol::UDP) {
                    reached.push(destination);
                }
            }
            reached
        };
        // Its own kernel and the node's have IPv6 off on the interface; then somebody switches it on, on both sides.
        for switched_on in [false, true] {
            if switched_on {
                within(&world.node, || {
                    std::fs::write("/proc/sys/net/ipv6/conf/cali3/disable_ipv6", "0").unwrap();
                    ip("-6 route add fe80::99/128 dev cali3");
                });
            }
            for source in ["fe80::99", "fd00:1::3", "::", "fd00:1::2"] {
                assert_eq!(
                    reaches(&mut world, 2, source),
                    [""; 0],
                    "from {source}, on: {switched_on}"
                );
            }
        }
        // A pod with IPv6 reaches all of them from its own address.
        assert_eq!(reaches(&mut world, 0, "fd00:1::1"), destinations);
    });
}
