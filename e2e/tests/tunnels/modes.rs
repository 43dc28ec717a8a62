//! Pools that change while pods talk: no restart, and few lost packets.

use crate::{fabric, nothing_in_clear, route_between};
use e2e::bed::within;
use e2e::fabric::flow::Flow;
use e2e::fabric::shown::{IPIP_DEVICE, has_device, kernel_has_ipip, vxlan_device};
use e2e::fabric::{Fabric, Family, Mode, WayOut, objects};
use policy_model::EncapsulationMode::Never;
use policy_model::Resource;
use std::net::SocketAddr;

/// So many answers say that a conversation goes on.
const ENOUGH: u64 = 200;

fn flow(fabric: &Fabric, family: Family) -> Flow {
    let (one, other) = (fabric.pod(0, 0), fabric.pod(1, 0));
    let at = |pod: &e2e::fabric::Pod| SocketAddr::new(pod.address(family), 7_200);
    Flow::start((&one.side.namespace, at(one)), (&other.side.namespace, at(other)))
}

/// Whether the route between the nodes is as a mode wants it, both in one subnet.
fn is_so(fabric: &Fabric, mode: Mode, family: Family) -> bool {
    let device = match family {
        _ if !mode.wraps(false) => "eth0",
        Family::V4 if mode.vxlan == Never => IPIP_DEVICE,
        _ => vxlan_device(family),
    };
    [(0, 1), (1, 0)]
        .into_iter()
        .all(|(from, to)| route_between(fabric, from, to, family).contains(&format!("dev {device} ")))
}

/// Goes from mode to mode under two conversations; at each change there is a moment when only one node has heard of it.
fn change_under_traffic(modes: &[Mode]) {
    let mut fabric = fabric(&[0, 0], modes[0]);
    let flows = Family::BOTH.map(|family| flow(&fabric, family));
    let go_on = |what: &str, fabric: &Fabric| {
        for flow in &flows {
            flow.goes_on(ENOUGH, what, || fabric.tend());
        }
    };
    go_on("at first", &fabric);
    for mode in &modes[1..] {
        fabric.put(objects::pools(0, *mode, WayOut::Own));
        for place in 0..2 {
            fabric.nodes[place].engine.run(|core| core.apply());
            // What is wrapped arrives only where it can be unwrapped; what is not, and what others still wrap, always.
            if place == 1 || !mode.wraps(false) {
                go_on(
                    &format!("{mode}, of which {} nodes have heard", place + 1),
                    &fabric,
                );
            }
        }
        for family in Family::BOTH {
            assert!(
                is_so(&fabric, *mode, family),
                "{mode}: {}",
                route_between(&fabric, 0, 1, family)
            );
        }
        // What only the mode before needed goes, and takes nothing with it.
        fabric.settle();
        go_on(&format!("{mode}, with the devices of others gone"), &fabric);
        let has_vxlan = within(&fabric.nodes[0].namespace, || {
            has_device(vxlan_device(Family::V4))
        });
        assert_eq!(has_vxlan, mode.vxlan != Never, "{mode}");
        if mode.wraps(false) {
            fabric.forget_captures();
            go_on(&format!("{mode}, watched"), &fabric);
            nothing_in_clear(&fabric, &format!("{mode}"));
        }
    }
    let names: Vec<String> = modes.iter().map(Mode::to_string).collect();
    for (family, flow) in Family::BOTH.into_iter().zip(flows) {
        let outcome = flow.end();
        eprintln!(
            "{family:?}, {}: {} lost: {outcome:?}",
            names.join(" -> "),
            outcome.lost()
        );
    }
}

#[test]
fn pods_talk_while_their_pool_changes_between_vxlan_and_plain() {
    change_under_traffic(&[Mode::VXLAN, Mode::PLAIN, Mode::VXLAN]);
}

#[test]
fn pods_talk_while_their_pool_changes_from_ipip_to_vxlan_to_plain_and_back() {
    if kernel_has_ipip() {
        change_under_traffic(&[Mode::IPIP, Mode::VXLAN, Mode::PLAIN, Mode::IPIP]);
    }
}

#[test]
fn a_pool_that_comes_and_goes_takes_its_tunnel_along() {
    let mut fabric = fabric(&[0, 0], Mode::VXLAN);
    crate::talk(&fabric, 0, 1, Family::V4);
    let pools: Vec<_> = objects::pools(0, Mode::VXLAN, WayOut::Own);
    let keys: Vec<_> = pools.iter().map(Resource::key).collect();
    fabric.remove(&keys);
    fabric.apply();
    fabric.settle();
    let has = |fabric: &Fabric| {
        within(&fabric.nodes[0].namespace, || {
            has_device(vxlan_device(Family::V4))
        })
    };
    assert!(!has(&fabric));
    fabric.program(pools);
    assert!(has(&fabric));
    crate::talk(&fabric, 0, 1, Family::V4);
}
