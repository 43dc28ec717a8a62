//! IPIP: for real where the kernel has it (Debian's in the virtual machine suite); elsewhere it is refused with the name
//! of what lacks, and nothing goes in clear instead.

use crate::{fabric, nothing_in_clear, route_between, sent_of_pods, talk};
use e2e::bed::within;
use e2e::fabric::addresses::{self, IPIP_ORDINAL, block, in_block};
use e2e::fabric::shown::{self, IPIP_DEVICE, kernel_has_ipip};
use e2e::fabric::{Fabric, Family, Load, Mode, Spot, WayOut, objects};

/// The route through IPIP to the block of a node.
fn through_ipip(fabric: &Fabric, place: usize) -> String {
    let node = &fabric.nodes[place];
    let (destination, gateway) = (block(Family::V4, 0, node.number), node.address(Family::V4));
    format!("{destination} via {gateway} dev {IPIP_DEVICE} proto 80 onlink")
}

#[test]
fn without_its_module_ipip_is_refused_by_name_and_nothing_goes_in_clear() {
    if kernel_has_ipip() {
        eprintln!("this kernel has IPIP devices: there is nothing to refuse");
        return;
    }
    let mut fabric = fabric(&[0, 0], Mode::PLAIN);
    talk(&fabric, 0, 1, Family::V4);
    for mode in [Mode::IPIP, Mode::IPIP_ACROSS, Mode::IPIP] {
        fabric.put(objects::pools(0, mode, WayOut::Own));
        for node in &fabric.nodes {
            let faults = node.engine.run(|core| core.pass().faults).join("\n");
            assert!(
                faults.contains(IPIP_DEVICE) && faults.contains("modprobe ipip"),
                "{mode}: {faults}"
            );
        }
        let route = route_between(&fabric, 0, 1, Family::V4);
        if !mode.wraps(false) {
            assert!(
                route.contains("dev eth0"),
                "{mode}: what needs no tunnel goes on: {route}"
            );
            talk(&fabric, 0, 1, Family::V4);
            continue;
        }
        assert!(route.starts_with("blackhole "), "{mode}: {route}");
        fabric.forget_captures();
        let (one, other) = (&fabric.nodes[0].spot, &fabric.nodes[1].spot);
        let kept = fabric
            .pod(0, 0)
            .spot
            .is_kept_from(&fabric.pod(1, 0).spot, Family::V4, one, other);
        assert!(kept, "{mode}");
        assert_eq!(sent_of_pods(&fabric), [], "{mode}");
        // What does not need it is none the worse for it.
        talk(&fabric, 0, 1, Family::V6);
    }
    fabric.program(objects::pools(0, Mode::VXLAN, WayOut::Own));
    talk(&fabric, 0, 1, Family::V4);
}

#[test]
fn ipip_wraps_what_pods_say_to_any_other_node() {
    if !kernel_has_ipip() {
        return;
    }
    let fabric = fabric(&[0, 0, 1], Mode::IPIP);
    fabric.forget_captures();
    for (from, to) in [(0, 1), (0, 2), (1, 2)] {
        assert_eq!(
            route_between(&fabric, from, to, Family::V4),
            through_ipip(&fabric, to)
        );
        talk(&fabric, from, to, Family::V4);
        let sent = sent_of_pods(&fabric);
        let wrapped = |seen: &e2e::fabric::Seen| matches!(seen.load, Load::Ipip(_));
        assert!(!sent.is_empty() && sent.iter().all(wrapped), "{sent:?}");
        let ends: Vec<_> = sent.iter().map(|seen| seen.ends).collect();
        let nodes = [from, to].map(|place| fabric.nodes[place].address(Family::V4));
        assert!(
            ends.contains(&(nodes[0], nodes[1])) && ends.contains(&(nodes[1], nodes[0])),
            "{ends:?}"
        );
        talk(&fabric, from, to, Family::V4);
        nothing_in_clear(&fabric, &format!("from {from} to {to}"));
    }
    for node in &fabric.nodes {
        let shown = within(&node.namespace, || shown::device(IPIP_DEVICE)).join("\n");
        let address = in_block(Family::V4, 0, node.number, IPIP_ORDINAL).to_string();
        assert!(shown.contains("mtu 1480") && shown.contains(&address), "{shown}");
    }
}

#[test]
fn ipip_across_subnets_leaves_what_stays_in_a_subnet_as_it_is() {
    if !kernel_has_ipip() {
        return;
    }
    let fabric = fabric(&[0, 0, 1], Mode::IPIP_ACROSS);
    let plain = format!(
        "{} via {} dev eth0 proto 80",
        block(Family::V4, 0, 2),
        addresses::in_subnet(Family::V4, 0, addresses::place_of_node(2))
    );
    assert_eq!(route_between(&fabric, 0, 1, Family::V4), plain);
    assert_eq!(route_between(&fabric, 0, 2, Family::V4), through_ipip(&fabric, 2));
    fabric.forget_captures();
    talk(&fabric, 0, 1, Family::V4);
    let sent = sent_of_pods(&fabric);
    assert!(
        !sent.is_empty() && sent.iter().all(|seen| seen.load == Load::Plain),
        "{sent:?}"
    );
    for from in [0, 1] {
        talk(&fabric, from, 2, Family::V4);
        nothing_in_clear(&fabric, &format!("from {from} across"));
    }
}

#[test]
fn what_a_node_itself_says_to_a_remote_pod_takes_the_address_of_its_ipip_device() {
    if !kernel_has_ipip() {
        return;
    }
    let fabric = fabric(&[0, 1], Mode::IPIP);
    let node = &fabric.nodes[0];
    let spots = [
        Spot::new(&node.namespace, &["0.0.0.0".parse().unwrap()], 7_100),
        Spot::new(&node.namespace, &[node.address(Family::V4)], 7_101),
    ];
    fabric.forget_captures();
    for spot in &spots {
        let heard = spot.reaches(&fabric.pod(1, 0).spot, Family::V4);
        assert_eq!(heard, in_block(Family::V4, 0, node.number, IPIP_ORDINAL));
    }
    nothing_in_clear(&fabric, "from a node to a remote pod");
}
