//! Nodes that join, leave, take other addresses, lose their link, or get a narrower one.

use crate::{cases, fabric, nothing_in_clear, route_between, talk};
use e2e::bed::{ip, tool, within};
use e2e::fabric::addresses::block;
use e2e::fabric::shown::{self, has_device, vxlan_device};
use e2e::fabric::{Fabric, Family, Mode, WayOut, objects};

/// How often an address stands among the forwarding entries of a node's VXLAN device.
fn forwarding_entries(fabric: &Fabric, place: usize, family: Family, address: &str) -> usize {
    within(&fabric.nodes[place].namespace, || {
        if !has_device(vxlan_device(family)) {
            return 0;
        }
        let listed = tool("bridge", &["fdb", "show", "dev", vxlan_device(family)]);
        let wanted = format!("dst {address} ");
        listed
            .lines()
            .filter(|line| format!("{line} ").contains(&wanted))
            .count()
    })
}

#[test]
fn a_node_that_joins_is_reached_and_one_that_leaves_is_forgotten() {
    for case in cases() {
        let mut fabric = case.fabric(WayOut::Own);
        fabric.connect(0, "");
        fabric.apply();
        assert_eq!(fabric.nodes.len(), 2);
        let third = fabric.join(case.subnets[1]);
        fabric.connect(1, "");
        fabric.connect(third, "");
        fabric.apply();
        for family in Family::BOTH {
            for (from, to) in [(0, 1), (0, third), (1, third)] {
                talk(&fabric, from, to, family);
            }
        }
        fabric.leave(third);
        for place in [0, 1] {
            fabric.nodes[place].engine.run(|core| core.apply());
            for family in Family::BOTH {
                let (destination, address) = (block(family, 0, 3), fabric.nodes[third].address(family));
                let route = within(&fabric.nodes[place].namespace, || shown::route(destination));
                assert_eq!(route, "", "{case:?}: the route to a node that left");
                let entries = forwarding_entries(&fabric, place, family, &address.to_string());
                assert_eq!(entries, 0, "{case:?}: the forwarding entry of a node that left");
            }
        }
        for family in Family::BOTH {
            talk(&fabric, 0, 1, family);
        }
    }
}

#[test]
fn a_node_is_followed_to_its_new_address() {
    for case in cases() {
        let mut fabric = case.fabric(WayOut::Own);
        fabric.connect(0, "");
        fabric.connect(1, "");
        fabric.apply();
        for family in Family::BOTH {
            talk(&fabric, 0, 1, family);
        }
        // A node whose network changes is busy with that; the cluster hears of it afterwards.
        let old = Family::BOTH.map(|family| fabric.nodes[1].address(family).to_string());
        fabric.nodes[1].renumber(99);
        let object = fabric.nodes[1].object();
        fabric.put(vec![object]);
        fabric.tend();
        for place in [0, 1] {
            fabric.nodes[place].engine.run(|core| core.pass());
        }
        fabric.until("the nodes to have found the new addresses", || {
            let failed = fabric
                .nodes
                .iter()
                .any(|node| !node.engine.run(|core| core.pass()).faults.is_empty());
            (!failed).then_some(())
        });
        fabric.forget_captures();
        for family in Family::BOTH {
            talk(&fabric, 0, 1, family);
        }
        if case.wraps() {
            nothing_in_clear(&fabric, &format!("{case:?} at a new address"));
        }
        for (family, old) in Family::BOTH.into_iter().zip(old) {
            let route = route_between(&fabric, 0, 1, family);
            assert!(!route.contains(&format!("via {old} ")), "{case:?}: {route}");
            assert_eq!(forwarding_entries(&fabric, 0, family, &old), 0, "{case:?}");
        }
    }
}

#[test]
fn a_link_that_goes_down_and_up_leaves_nothing_broken() {
    for case in cases() {
        let mut fabric = case.fabric(WayOut::Own);
        fabric.connect(0, "");
        fabric.connect(1, "");
        fabric.apply();
        let before = within(&fabric.nodes[1].namespace, shown::tunnels_and_routes);
        for family in Family::BOTH {
            talk(&fabric, 0, 1, family);
        }
        within(&fabric.nodes[1].namespace, || ip("link set eth0 down"));
        fabric.tend();
        fabric.tend();
        within(&fabric.nodes[1].namespace, || {
            ip("link set eth0 up");
            // IPv6 addresses go with the link, and whoever manages the node's network gives them anew.
            let address = fabric.nodes[1].address(Family::V6);
            ip(&format!("-6 addr replace {address}/64 dev eth0 nodad"));
        });
        fabric.nodes[1].default_routes();
        fabric.until_on(1, &format!("{case:?}: routes and devices as before"), || {
            shown::tunnels_and_routes() == before
        });
        fabric.forget_captures();
        for family in Family::BOTH {
            talk(&fabric, 0, 1, family);
        }
        if case.wraps() {
            nothing_in_clear(&fabric, &format!("{case:?} after the link was down"));
        }
    }
}

#[test]
fn the_size_of_a_tunnels_packets_follows_the_device_that_carries_them() {
    let fabric = fabric(&[0, 1], Mode::VXLAN);
    let device = vxlan_device(Family::V4);
    for (carrier, size) in [(1_400, 1_350), (1_500, 1_450)] {
        within(&fabric.nodes[0].namespace, || {
            ip(&format!("link set eth0 mtu {carrier}"))
        });
        fabric.until_on(0, &format!("a tunnel in packets of {carrier} bytes"), || {
            ip(&format!("-o link show dev {device}")).contains(&format!(" mtu {size} "))
        });
    }
    talk(&fabric, 0, 1, Family::V4);
}

#[test]
fn a_node_that_is_told_everything_anew_changes_nothing() {
    for case in cases() {
        let mut fabric = case.fabric(WayOut::Nat);
        fabric.connect(0, "");
        fabric.connect(1, "");
        fabric.apply();
        for family in Family::BOTH {
            talk(&fabric, 0, 1, family);
        }
        let before = within(&fabric.nodes[0].namespace, shown::tunnels_and_routes);
        let numbers = || within(&fabric.nodes[0].namespace, || ip("-o link show").lines().count());
        let links = numbers();
        fabric.nodes[0].engine.restart(fabric.resources());
        assert_eq!(
            within(&fabric.nodes[0].namespace, shown::tunnels_and_routes),
            before,
            "{case:?}"
        );
        assert_eq!(numbers(), links, "{case:?}");
        assert_eq!(
            fabric.nodes[0].engine.run(|core| core.differences()),
            0,
            "{case:?}"
        );
        for family in Family::BOTH {
            talk(&fabric, 0, 1, family);
        }
    }
}

#[test]
fn a_life_that_begins_with_another_mode_removes_what_the_last_one_left() {
    let mut fabric = fabric(&[0, 0], Mode::VXLAN);
    talk(&fabric, 0, 1, Family::V4);
    // The pool changes while no agent lives.
    for node in &fabric.nodes {
        node.engine.close();
    }
    fabric.put_unheard(&objects::pools(0, Mode::PLAIN, WayOut::Own));
    for node in &fabric.nodes {
        node.engine.restart(fabric.resources());
    }
    for family in Family::BOTH {
        talk(&fabric, 0, 1, family);
        assert!(route_between(&fabric, 0, 1, family).contains("dev eth0"));
    }
    fabric.settle();
    for node in &fabric.nodes {
        assert!(!within(&node.namespace, || has_device(vxlan_device(Family::V4))));
    }
}
