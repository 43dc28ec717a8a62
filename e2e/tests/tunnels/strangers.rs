//! Who may put packets into a tunnel: nodes of the cluster. A stranger may not, and neither may a pod.

use crate::{Case, cases, talk};
use dataplane_netlink::NetworkNamespace;
use dataplane_netlink::tunnels::vxlan::{self, derived_mac};
use e2e::bed::within;
use e2e::fabric::capture::VXLAN_PORT;
use e2e::fabric::node::{NODE_PORT, POD_PORT};
use e2e::fabric::shown::IPIP_DEVICE;
use e2e::fabric::{Fabric, Family, Mode, Spot, WayOut, capture};
use e2e::packet::{ETHERNET, Probe, number_of};
use e2e::rules::Rules;
use e2e::wire::PATIENCE;
use policy_model::Protocol;
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// The number of the packets that are put into a tunnel by hand.
const SMUGGLED: u32 = 0xbad;

/// What a pod of the second node would say to one of the first.
fn inner(fabric: &Fabric, family: Family) -> Probe {
    Probe {
        number: SMUGGLED,
        source: fabric.pod(1, 0).address(family),
        destination: fabric.pod(0, 0).address(family),
        protocol: Protocol::UDP,
        x: POD_PORT,
        y: 4_800,
    }
}

/// Says it in VXLAN from an address of a namespace to the first node.
fn smuggle(fabric: &Fabric, from: &NetworkNamespace, source: IpAddr) {
    let family = Family::of(source);
    let kind = match family {
        Family::V4 => vxlan::Family::V4,
        Family::V6 => vxlan::Family::V6,
    };
    let mac = |place: usize| derived_mac(&fabric.nodes[place].name, kind).bytes();
    let frame = inner(fabric, family).frame(mac(0), mac(1));
    let socket = within(from, || UdpSocket::bind(SocketAddr::new(source, 0))).unwrap();
    let target = SocketAddr::new(fabric.nodes[0].address(family), VXLAN_PORT);
    socket.send_to(&capture::vxlan(4096, &frame), target).unwrap();
}

/// The first node's pod hears what was put into the tunnel; told by what is said after it on the same way.
fn arrives(fabric: &Fabric, family: Family, send: impl Fn()) -> bool {
    let (pod, other) = (fabric.pod(0, 0), fabric.pod(1, 0));
    pod.spot.hears_of(family, SMUGGLED, send, || {
        other.spot.reaches(&fabric.pod(0, 1).spot, family);
    })
}

fn with_pods(case: Case, way_out: WayOut) -> Fabric {
    let mut fabric = case.fabric(way_out);
    for place in [0, 0, 1] {
        fabric.connect(place, "");
    }
    fabric.apply();
    for family in Family::BOTH {
        talk(&fabric, 0, 1, family);
    }
    fabric
}

#[test]
fn only_nodes_put_packets_into_the_vxlan_of_a_node() {
    for case in cases().into_iter().filter(|case| case.mode == Mode::VXLAN) {
        let mut fabric = with_pods(case, WayOut::Own);
        let (machine, _) = fabric.stranger(case.subnets[0], 200);
        let stranger = Spot::new(
            &machine,
            &Family::BOTH.map(|family| e2e::fabric::addresses::in_subnet(family, case.subnets[0], 200)),
            NODE_PORT,
        );
        for family in Family::BOTH {
            // The way between the two is known, and the first node takes other packets of the stranger's.
            stranger.reaches(&fabric.nodes[0].spot, family);
            let node = &fabric.nodes[1];
            let from_node = || smuggle(&fabric, &node.namespace, node.address(family));
            assert!(
                arrives(&fabric, family, from_node),
                "{case:?} {family:?}: the control"
            );
            let from_stranger = || smuggle(&fabric, &machine, stranger.address(family));
            assert!(
                !arrives(&fabric, family, from_stranger),
                "{case:?} {family:?}: a stranger's"
            );
            let from_outside = || {
                smuggle(
                    &fabric,
                    &fabric.outside,
                    e2e::fabric::addresses::outside(family, 2),
                );
            };
            assert!(
                !arrives(&fabric, family, from_outside),
                "{case:?} {family:?}: from outside"
            );
        }
    }
}

#[test]
fn a_node_that_left_puts_nothing_into_the_vxlan_any_more() {
    Rules::each(|rules| {
        let case = Case {
            subnets: [0, 1],
            mode: Mode::VXLAN,
            rules,
        };
        let mut fabric = with_pods(case, WayOut::Own);
        let third = fabric.join(0);
        fabric.apply();
        let send = |fabric: &Fabric, family| {
            smuggle(
                fabric,
                &fabric.nodes[third].namespace,
                fabric.nodes[third].address(family),
            );
        };
        for family in Family::BOTH {
            fabric.nodes[third].spot.reaches(&fabric.nodes[0].spot, family);
            assert!(
                arrives(&fabric, family, || send(&fabric, family)),
                "{family:?}: a node"
            );
        }
        fabric.leave(third);
        fabric.nodes[0].engine.run(|core| core.apply());
        for family in Family::BOTH {
            assert!(
                !arrives(&fabric, family, || send(&fabric, family)),
                "{family:?}: one that left"
            );
        }
    });
}

/// IPIP has no sockets: the packet is put on the wire as it is.
#[test]
fn only_nodes_put_packets_into_the_ipip_of_a_node() {
    for case in cases().into_iter().filter(|case| case.mode == Mode::IPIP) {
        let mut fabric = with_pods(case, WayOut::Own);
        let (machine, _) = fabric.stranger(case.subnets[0], 200);
        let family = Family::V4;
        let own = e2e::fabric::addresses::in_subnet(family, case.subnets[0], 200);
        let stranger = Spot::new(&machine, &[own], NODE_PORT);
        stranger.reaches(&fabric.nodes[0].spot, family);
        let mac = within(&fabric.nodes[0].namespace, || {
            e2e::wire::Sender::open_here("eth0").mac
        });
        let send = |source: IpAddr| {
            let outer = Probe {
                source,
                destination: fabric.nodes[0].address(family),
                protocol: Protocol::from_number(4),
                ..inner(&fabric, family)
            };
            // At the far end of the node's wire anybody may say anything.
            fabric.nodes[0]
                .capture
                .send(&outer.around(mac, [2; 6], &inner(&fabric, family).packet()));
        };
        assert!(within(&fabric.nodes[0].namespace, || {
            e2e::fabric::shown::has_device(IPIP_DEVICE)
        }));
        let node = fabric.nodes[1].address(family);
        assert!(arrives(&fabric, family, || send(node)), "{case:?}: the control");
        assert!(!arrives(&fabric, family, || send(own)), "{case:?}: a stranger's");
    }
}

#[test]
fn a_pod_cannot_send_what_looks_like_a_nodes_tunnel() {
    for case in cases() {
        for way_out in [WayOut::Own, WayOut::Nat] {
            let fabric = with_pods(case, way_out);
            for family in [Family::V4, Family::V6] {
                let (here, there) = (&fabric.nodes[0], &fabric.nodes[1]);
                here.spot.reaches(&there.spot, family);
                let probe = |number: u32, protocol: u8, port: u16, destination: IpAddr| Probe {
                    number,
                    source: fabric.pod(0, 0).address(family),
                    destination,
                    protocol: Protocol::from_number(protocol),
                    x: port,
                    y: 4_900,
                };
                let pod = &fabric.pod(0, 0).side;
                let say = |probe: &Probe| {
                    let gateway = dataplane_netlink::MacAddress::HOST_SIDE.bytes();
                    pod.wire.send(&probe.frame(gateway, pod.wire.mac));
                };
                here.capture.frames();
                let targets = [there.address(family), e2e::fabric::addresses::outside(family, 2)];
                for (n, target) in (0..).zip(targets) {
                    say(&probe(10 + n, 17, VXLAN_PORT, target));
                    say(&probe(20 + n, 4, 0, target));
                    // What comes last leaves the node: before it, all the rest has had its chance.
                    say(&probe(30 + n, 17, 9, target));
                }
                let mut left = Vec::new();
                e2e::bed::wait_for("the last packet of the pod", PATIENCE, || {
                    left.extend(
                        here.capture
                            .frames()
                            .iter()
                            .filter_map(|frame| number_of(&frame[ETHERNET..])),
                    );
                    left.contains(&31).then_some(())
                });
                left.sort_unstable();
                assert_eq!(left, [30, 31], "{case:?} {way_out:?} {family:?}");
                // To its own node's tunnel it says nothing either.
                let own = here.address(family);
                let kept = fabric.pod(0, 1).spot.hears_of(
                    family,
                    SMUGGLED,
                    || say(&probe(SMUGGLED, 17, VXLAN_PORT, own)),
                    || {
                        fabric.pod(0, 0).spot.reaches(&fabric.pod(0, 1).spot, family);
                    },
                );
                assert!(!kept);
            }
        }
    }
}
