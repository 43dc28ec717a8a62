//! Which way packets take: what the routes say, what is on the wire, and that pods hear each other's own address.

use crate::{fabric, fabric_with, nothing_in_clear, route_between, sent_of_pods, talk};
use e2e::bed::{tool, within};
use e2e::fabric::addresses::{self, VXLAN_ORDINAL, block, in_block, is_pods};
use e2e::fabric::shown::{self, IPIP_DEVICE, vxlan_device};
use e2e::fabric::{Fabric, Family, Load, Mode, Seen, Spot, WayOut, objects};
use e2e::rules::Rules;

/// The route through VXLAN to the block of a node.
fn through_vxlan(family: Family, node: u8) -> String {
    let (destination, gateway) = (block(family, 0, node), in_block(family, 0, node, VXLAN_ORDINAL));
    let metric = if family == Family::V6 { " metric 1024" } else { "" };
    let device = vxlan_device(family);
    format!("{destination} via {gateway} dev {device} proto 80{metric} onlink")
}

/// The plain route to the block of a node of the first subnet.
fn plain(family: Family, node: u8) -> String {
    let destination = block(family, 0, node);
    let gateway = addresses::in_subnet(family, 0, addresses::place_of_node(node));
    let metric = if family == Family::V6 { " metric 1024" } else { "" };
    format!("{destination} via {gateway} dev eth0 proto 80{metric}")
}

fn devices(fabric: &Fabric, place: usize) -> [bool; 3] {
    within(&fabric.nodes[place].namespace, || {
        let [v4, v6] = Family::BOTH.map(|family| shown::has_device(vxlan_device(family)));
        [v4, v6, shown::has_device(IPIP_DEVICE)]
    })
}

#[test]
fn plain_routes_lead_to_nodes_of_the_same_segment() {
    let fabric = fabric(&[0, 0], Mode::PLAIN);
    for family in Family::BOTH {
        assert_eq!(route_between(&fabric, 0, 1, family), plain(family, 2));
        let own = route_between(&fabric, 0, 0, family);
        assert!(
            own.starts_with("blackhole "),
            "what no pod here has is nowhere: {own}"
        );
        assert!(own.contains("proto 80"), "{own}");
        fabric.forget_captures();
        talk(&fabric, 0, 1, family);
        let sent = sent_of_pods(&fabric);
        let as_it_is = |seen: &e2e::fabric::Seen| {
            seen.load == Load::Plain && is_pods(seen.ends.0) && is_pods(seen.ends.1)
        };
        assert!(!sent.is_empty() && sent.iter().all(as_it_is), "{sent:?}");
    }
    assert_eq!(
        devices(&fabric, 0)[..2],
        [false, false],
        "nobody asked for a tunnel"
    );
}

/// The control of all that follows: what is not wrapped does not get through the router, and is counted there.
#[test]
fn the_router_between_subnets_carries_nothing_that_is_not_wrapped() {
    let mut fabric = Fabric::new(&[0, 1]);
    fabric.put(objects::pools(0, Mode::PLAIN, WayOut::Own));
    fabric.connect(0, "");
    fabric.connect(1, "");
    for node in &fabric.nodes {
        // No gateway of the other subnet is on a link of this one, and the kernel says so.
        let faults = node.engine.run(|core| core.pass().faults);
        assert_eq!(faults.len(), 2, "{faults:?}");
    }
    for family in Family::BOTH {
        let (from, to) = (&fabric.nodes[0], &fabric.nodes[1]);
        from.spot.reaches(&to.spot, family);
        let before = fabric.router.strangers();
        let kept = fabric
            .pod(0, 0)
            .spot
            .is_kept_from(&fabric.pod(1, 0).spot, family, &from.spot, &to.spot);
        assert!(kept, "{family:?}");
        assert!(fabric.router.strangers() > before, "{family:?}");
    }
}

#[test]
fn vxlan_wraps_what_pods_say_to_any_other_node() {
    let fabric = fabric(&[0, 0, 1], Mode::VXLAN);
    fabric.forget_captures();
    for family in Family::BOTH {
        for (from, to) in [(0, 1), (0, 2), (1, 2)] {
            let number = fabric.nodes[to].number;
            assert_eq!(
                route_between(&fabric, from, to, family),
                through_vxlan(family, number)
            );
            talk(&fabric, from, to, family);
            nothing_in_clear(&fabric, &format!("{family:?} from {from} to {to}"));
        }
    }
    assert_eq!(devices(&fabric, 0)[..2], [true, true]);
}

/// Every connection would else be tracked twice on each node, once for its own sake and once for its wrapping's.
#[test]
fn connections_are_tracked_for_what_is_inside_vxlan_and_not_for_what_is_outside() {
    let fabric = fabric(&[0, 1], Mode::VXLAN);
    for family in Family::BOTH {
        talk(&fabric, 0, 1, family);
        let pod = in_block(family, 0, fabric.nodes[0].number, 0).to_string();
        // The block's address without its last figure begins the address of each pod in it.
        let of_pods = pod.trim_end_matches(|c: char| c.is_ascii_hexdigit()).to_owned();
        let name = if family == Family::V6 { "ipv6" } else { "ipv4" };
        for node in &fabric.nodes {
            let tracked = within(&node.namespace, || tool("conntrack", &["-L", "-f", name]));
            assert!(tracked.contains(&of_pods), "{of_pods}: {tracked}");
            assert!(!tracked.contains("dport=4789"), "{tracked}");
        }
    }
}

#[test]
fn a_vxlan_device_is_as_other_nodes_expect_it() {
    let fabric = fabric(&[0, 1], Mode::VXLAN);
    for node in &fabric.nodes {
        for family in Family::BOTH {
            let mut own = dataplane_netlink::tunnels::vxlan::Family::V4;
            let mut size = 1450;
            if family == Family::V6 {
                (own, size) = (dataplane_netlink::tunnels::vxlan::Family::V6, 1430);
            }
            let mac = dataplane_netlink::tunnels::vxlan::derived_mac(&node.name, own);
            let shown = within(&node.namespace, || shown::device(vxlan_device(family))).join("\n");
            let (local, address) = (
                node.address(family),
                in_block(family, 0, node.number, VXLAN_ORDINAL),
            );
            for part in [
                "vxlan id 4096".to_string(),
                format!("local {local}"),
                "dstport 4789".to_string(),
                "nolearning".to_string(),
                format!("mtu {size}"),
                format!("{mac}"),
                address.to_string(),
            ] {
                assert!(
                    shown.contains(&part),
                    "{} {family:?}: no '{part}' in {shown}",
                    node.name
                );
            }
        }
    }
}

#[test]
fn vxlan_across_subnets_leaves_what_stays_in_a_subnet_as_it_is() {
    let fabric = fabric(&[0, 0, 1], Mode::VXLAN_ACROSS);
    for family in Family::BOTH {
        assert_eq!(route_between(&fabric, 0, 1, family), plain(family, 2));
        assert_eq!(route_between(&fabric, 0, 2, family), through_vxlan(family, 3));
        fabric.forget_captures();
        talk(&fabric, 0, 1, family);
        let sent = sent_of_pods(&fabric);
        assert!(
            !sent.is_empty() && sent.iter().all(|seen| seen.load == Load::Plain),
            "{sent:?}"
        );
        for from in [0, 1] {
            talk(&fabric, from, 2, family);
            nothing_in_clear(&fabric, &format!("{family:?} from {from} across"));
        }
    }
}

#[test]
fn pools_of_different_modes_are_in_force_beside_each_other() {
    let mut fabric = fabric(&[0, 0, 1], Mode::VXLAN_ACROSS);
    // The second range stays plain although both nodes have a tunnel, and the third is always wrapped.
    fabric.put(objects::pools(1, Mode::PLAIN, WayOut::Own));
    fabric.put(objects::pools(2, Mode::VXLAN, WayOut::Own));
    for (range, nodes) in [(1, 2), (2, 3)] {
        for place in 0..nodes {
            fabric.put(objects::blocks(fabric.nodes[place].number, range));
            let pod = fabric.connect_in(place, range, "");
            assert_eq!(pod, if place == 2 { 1 } else { usize::from(range) });
        }
    }
    for node in &fabric.nodes {
        // The third node has no way to a plain range of another subnet, and says so; nobody asks for one.
        let faults = node.engine.run(|core| core.pass().faults);
        let is_third = node.number == 3;
        assert_eq!(faults.len(), if is_third { 4 } else { 0 }, "{faults:?}");
    }
    for family in Family::BOTH {
        let wrapped = |from: usize, to: usize, range: usize| {
            fabric.forget_captures();
            // The third node has no pod of the second range.
            let pod = |place: usize| fabric.pod(place, if place == 2 { range.min(1) } else { range });
            let (one, other) = (pod(from), pod(to));
            assert_eq!(one.spot.reaches(&other.spot, family), one.address(family));
            let sent = sent_of_pods(&fabric);
            assert!(!sent.is_empty());
            let first = sent[0].load != Load::Plain;
            assert!(
                sent.iter().all(|seen| (seen.load != Load::Plain) == first),
                "{sent:?}"
            );
            first
        };
        assert!(
            !wrapped(0, 1, 0),
            "{family:?}: across subnets only, and this is one"
        );
        assert!(wrapped(0, 2, 0), "{family:?}: across subnets");
        assert!(!wrapped(0, 1, 1), "{family:?}: plain");
        assert!(wrapped(0, 1, 2) && wrapped(0, 2, 2), "{family:?}: always");
        // The pool of the destination says the way: there it is plain, and back it is wrapped.
        fabric.forget_captures();
        fabric.pod(0, 2).spot.reaches(&fabric.pod(1, 1).spot, family);
        let sent = sent_of_pods(&fabric);
        let (plain, rest): (Vec<Seen>, Vec<Seen>) = sent.iter().partition(|seen| seen.load == Load::Plain);
        let there = fabric.pod(1, 1).address(family);
        assert!(
            !plain.is_empty() && plain.iter().all(|seen| seen.ends.1 == there),
            "{sent:?}"
        );
        assert!(!rest.is_empty(), "{sent:?}");
    }
    assert_eq!(fabric.router.strangers(), 0);
}

#[test]
fn what_a_node_itself_says_to_a_remote_pod_takes_its_tunnel_address() {
    Rules::each(|rules| {
        let fabric = fabric_with(rules, &[0, 1], Mode::VXLAN);
        let node = &fabric.nodes[0];
        let any = ["0.0.0.0", "::"].map(|any| any.parse().unwrap());
        // One leaves the source to the kernel; one insists on the node's own address, to which no answer would come wrapped.
        let spots = [
            Spot::new(&node.namespace, &any, 7_100),
            Spot::new(&node.namespace, &Family::BOTH.map(|f| node.address(f)), 7_101),
        ];
        fabric.forget_captures();
        for family in Family::BOTH {
            for spot in &spots {
                let heard = spot.reaches(&fabric.pod(1, 0).spot, family);
                assert_eq!(heard, in_block(family, 0, node.number, VXLAN_ORDINAL));
            }
        }
        nothing_in_clear(&fabric, "from a node to a remote pod");
    });
}

#[test]
fn to_a_node_without_a_tunnel_address_nothing_goes_in_clear() {
    let mut fabric = fabric(&[0, 0], Mode::VXLAN);
    let lonely = fabric.nodes[1].number;
    for family in Family::BOTH {
        talk(&fabric, 0, 1, family);
        fabric.program(vec![objects::block(family, lonely, 0, false)]);
        let route = route_between(&fabric, 0, 1, family);
        assert!(route.starts_with("blackhole "), "{family:?}: {route}");
        fabric.forget_captures();
        let (one, other) = (&fabric.nodes[0].spot, &fabric.nodes[1].spot);
        assert!(
            fabric
                .pod(0, 0)
                .spot
                .is_kept_from(&fabric.pod(1, 0).spot, family, one, other)
        );
        assert_eq!(sent_of_pods(&fabric), [], "{family:?}");
        fabric.program(vec![objects::block(family, lonely, 0, true)]);
        talk(&fabric, 0, 1, family);
        assert_eq!(
            route_between(&fabric, 0, 1, family),
            through_vxlan(family, lonely)
        );
    }
}
