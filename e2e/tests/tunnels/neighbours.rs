//! Other networks on the same machine: flannel's device, Docker's bridge, an administrator's routes. They survive all
//! that is done to ours.

use crate::{fabric, talk};
use e2e::bed::{ip, tool, wait_for, within};
use e2e::fabric::shown::{IPIP_DEVICE, device, has_device, vxlan_device};
use e2e::fabric::{Family, Mode, WayOut, objects};
use e2e::wire::PATIENCE;

fn make_neighbours() {
    for command in [
        "link add flannel.1 type vxlan id 1 dev eth0 local 172.30.0.11 dstport 8472 nolearning",
        "link set flannel.1 address 02:00:00:00:00:f1 mtu 1450 up",
        "addr add 10.244.1.0/32 dev flannel.1",
        "route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
        "neigh add 10.244.2.0 lladdr 02:00:00:00:00:f2 dev flannel.1 nud permanent",
        "link add docker0 type bridge",
        "link set docker0 up",
        "addr add 172.17.0.1/16 dev docker0",
        "link add vxlan.other type vxlan id 77 dev eth0 dstport 4790 nolearning",
        "route add 10.99.0.0/16 via 172.30.0.1",
        "route add 10.98.0.0/16 via 172.30.0.1 proto static metric 50",
        "route add blackhole 10.97.0.0/26 proto bird",
        "route add 10.64.0.0/16 via 172.30.0.1 table 100 proto 80",
        "-6 route add fd99::/64 via fd00:30:0::1 metric 77",
        "rule add fwmark 0x40/0x40 lookup 100 priority 500",
    ] {
        ip(command);
    }
    tool(
        "bridge",
        &"fdb add 02:00:00:00:00:f2 dev flannel.1 dst 172.30.1.250"
            .split(' ')
            .collect::<Vec<_>>(),
    );
}

/// Everything that is not ours, as the distribution's tools show it.
fn neighbours() -> Vec<String> {
    let ours = [
        vxlan_device(Family::V4),
        vxlan_device(Family::V6),
        IPIP_DEVICE,
        "cali",
        "fe80:",
        "ff00:",
    ];
    let foreign = |line: &str| !ours.iter().any(|own| line.contains(own)) && !line.contains("proto 80 ");
    let mut seen: Vec<String> = ["flannel.1", "docker0", "vxlan.other"]
        .into_iter()
        .flat_map(device)
        .collect();
    for show in [
        "-4 route show table main",
        "-4 route show table 100",
        "-6 route show table main",
        "rule show",
    ] {
        let text = ip(show).replace(" linkdown", "").replace(" dead", "");
        // Our own of the main table apart; the other table's are all its owner's.
        let is_foreign = |line: &&str| show.ends_with("100") || foreign(line);
        seen.extend(
            text.lines()
                .filter(is_foreign)
                .map(|line| line.trim().to_string()),
        );
    }
    // A bridge without a port and a device that came up a moment ago say so a little later.
    let passing = ["NO-CARRIER", "LOWER_UP", "state"];
    let lasting = |line: &String| {
        // And what a bridge says of its clocks is another thing each time.
        let line = line.split(" vlan_filtering ").next().unwrap();
        let words = line
            .split_whitespace()
            .filter(|word| !passing.iter().any(|p| word.contains(p)));
        words
            .filter(|word| !["UP", "DOWN", "UNKNOWN"].contains(word))
            .collect::<Vec<_>>()
            .join(" ")
    };
    seen.iter().map(lasting).collect()
}

#[test]
fn devices_and_routes_of_others_survive_every_mode() {
    let mut fabric = fabric(&[0, 0], Mode::PLAIN);
    let before = within(&fabric.nodes[0].namespace, || {
        make_neighbours();
        neighbours()
    });
    assert!(before.len() > 12, "{before:#?}");
    for mode in [Mode::VXLAN, Mode::PLAIN, Mode::VXLAN_ACROSS, Mode::VXLAN] {
        fabric.program(objects::pools(0, mode, WayOut::Nat));
        for family in Family::BOTH {
            talk(&fabric, 0, 1, family);
        }
        assert_eq!(within(&fabric.nodes[0].namespace, neighbours), before, "{mode}");
        fabric.settle();
        assert_eq!(fabric.nodes[0].engine.run(|core| core.differences()), 0, "{mode}");
        assert_eq!(
            within(&fabric.nodes[0].namespace, neighbours),
            before,
            "{mode}, settled"
        );
    }
    fabric.nodes[0].engine.restart(fabric.resources());
    assert_eq!(
        within(&fabric.nodes[0].namespace, neighbours),
        before,
        "a new life"
    );
    talk(&fabric, 0, 1, Family::V4);
    fabric.nodes[0].engine.close();
    within(&fabric.nodes[0].namespace, || {
        // The last life's sockets may still be open for a moment, in a process that another test has just forked.
        wait_for("the clean-up", PATIENCE, || felix::cleanup::everything().ok());
        assert_eq!(neighbours(), before, "the clean-up touched what is not ours");
        for own in [vxlan_device(Family::V4), vxlan_device(Family::V6)] {
            assert!(!has_device(own), "the clean-up left {own}");
        }
        for family in ["-4", "-6"] {
            let left = ip(&format!("{family} route show table main proto 80"));
            assert_eq!(left, "", "the clean-up left routes");
        }
    });
}

#[test]
fn another_s_device_of_our_name_is_left_alone_and_nothing_goes_in_clear() {
    let mut fabric = fabric(&[0, 0], Mode::PLAIN);
    let name = vxlan_device(Family::V4);
    let before = within(&fabric.nodes[0].namespace, || {
        ip(&format!(
            "link add {name} type vxlan id 9 dev eth0 dstport 8472 learning"
        ));
        ip(&format!("link set {name} address 02:00:00:00:00:09"));
        device(name)
    });
    fabric.put(objects::pools(0, Mode::VXLAN, WayOut::Own));
    let faults = fabric.nodes[0].engine.run(|core| core.pass().faults).join("\n");
    assert!(faults.contains(name) && faults.contains("not ours"), "{faults}");
    fabric.nodes[1].engine.run(|core| core.apply());
    assert_eq!(within(&fabric.nodes[0].namespace, || device(name)), before);
    let route = crate::route_between(&fabric, 0, 1, Family::V4);
    assert!(route.starts_with("blackhole "), "{route}");
    // The other family is none the worse for it.
    talk(&fabric, 0, 1, Family::V6);
    // Once the name is free the tunnel comes by itself.
    within(&fabric.nodes[0].namespace, || ip(&format!("link del {name}")));
    fabric.until_on(0, "our device in its place", || has_device(name));
    talk(&fabric, 0, 1, Family::V4);
}
