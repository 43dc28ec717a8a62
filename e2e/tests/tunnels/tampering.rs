//! What somebody else does to our routes, neighbours, forwarding entries and devices is mended, told by the kernel's
//! events.

use crate::{fabric, nothing_in_clear, talk};
use e2e::bed::{ip, tool, within};
use e2e::fabric::addresses::{VXLAN_ORDINAL, block, in_block};
use e2e::fabric::shown::{kernel_has_ipip, tunnels_and_routes, vxlan_device};
use e2e::fabric::{Fabric, Family, Mode};

/// Runs one command of `ip` or `bridge` in the calling thread's namespace.
fn run(command: &str) {
    match command.strip_prefix("bridge ") {
        Some(rest) => drop(tool("bridge", &rest.split_whitespace().collect::<Vec<_>>())),
        None => drop(ip(command)),
    }
}

/// Does each of these to the first node, sees it mended, and has the pods talk by it.
fn mended(fabric: &Fabric, family: Family, commands: &[String]) {
    let node = &fabric.nodes[0];
    fabric.settle();
    let before = within(&node.namespace, tunnels_and_routes);
    for command in commands {
        // Several commands at once are one deed.
        within(&node.namespace, || {
            command.split(" ; ").for_each(run);
            assert_ne!(tunnels_and_routes(), before, "'{command}' changed nothing");
        });
        let mut now = Vec::new();
        fabric.until_on(0, &format!("the repair of '{command}'"), || {
            now = tunnels_and_routes();
            now == before
        });
        talk(fabric, 0, 1, family);
        let again = fabric.nodes[0].engine.run(|core| core.tend());
        assert_eq!(again, Vec::<String>::new(), "after '{command}'");
        assert_eq!(
            fabric.nodes[0].engine.run(|core| core.differences()),
            0,
            "after '{command}'"
        );
    }
}

#[test]
fn routes_that_others_removed_or_changed_come_back() {
    let fabric = fabric(&[0, 0], Mode::PLAIN);
    for family in Family::BOTH {
        let (flag, own, other) = (family.flag(), block(family, 0, 1), block(family, 0, 2));
        let gateway = e2e::fabric::addresses::in_subnet(family, 0, 1);
        mended(
            &fabric,
            family,
            &[
                format!("{flag} route del {other}"),
                format!("{flag} route del blackhole {own}"),
                format!("{flag} route replace {other} via {gateway} proto 80"),
                format!("{flag} route replace blackhole {other} proto 80"),
                format!("{flag} route flush proto 80 table main"),
            ],
        );
    }
}

#[test]
fn a_vxlan_tunnel_that_others_changed_is_as_before() {
    let fabric = fabric(&[0, 1], Mode::VXLAN);
    fabric.forget_captures();
    for family in Family::BOTH {
        let (flag, device) = (family.flag(), vxlan_device(family));
        let (other, gateway) = (block(family, 0, 2), in_block(family, 0, 2, VXLAN_ORDINAL));
        let own = in_block(family, 0, 1, VXLAN_ORDINAL);
        let length = if family == Family::V4 { 32 } else { 128 };
        let [here, there] = [0, 1].map(|place: usize| fabric.nodes[place].address(family));
        let wrong = e2e::fabric::addresses::in_subnet(family, 1, 77);
        let kind = match family {
            Family::V4 => dataplane_netlink::tunnels::vxlan::Family::V4,
            Family::V6 => dataplane_netlink::tunnels::vxlan::Family::V6,
        };
        let mac = dataplane_netlink::tunnels::vxlan::derived_mac(&fabric.nodes[1].name, kind);
        mended(
            &fabric,
            family,
            &[
                format!("{flag} route del {other}"),
                format!("{flag} route flush dev {device} proto 80"),
                format!("{flag} route replace blackhole {other} proto 80"),
                format!("{flag} neigh del {gateway} dev {device}"),
                format!("{flag} neigh replace {gateway} lladdr 02:00:00:00:00:01 dev {device} nud permanent"),
                format!("bridge fdb del {mac} dev {device} dst {there}"),
                format!(
                    "bridge fdb del {mac} dev {device} dst {there} ; bridge fdb add {mac} dev {device} dst {wrong}"
                ),
                format!("link set {device} mtu 1300"),
                format!("link set {device} address 02:00:00:00:00:02"),
                format!("link set {device} down"),
                format!("{flag} addr del {own}/{length} dev {device}"),
                format!("link set {device} type vxlan learning"),
                format!("link del {device}"),
                format!("link set {device} down ; link set {device} up"),
                format!(
                    "link del {device} ; link add {device} type vxlan id 4096 local {here} dstport 4789 nolearning"
                ),
            ],
        );
    }
    nothing_in_clear(&fabric, "while others changed the tunnels");
}

#[test]
fn an_ipip_tunnel_that_others_changed_is_as_before() {
    if !kernel_has_ipip() {
        return;
    }
    let fabric = fabric(&[0, 1], Mode::IPIP);
    fabric.forget_captures();
    let other = block(Family::V4, 0, 2);
    let own = in_block(Family::V4, 0, 1, e2e::fabric::addresses::IPIP_ORDINAL);
    mended(
        &fabric,
        Family::V4,
        &[
            format!("route del {other}"),
            "route flush dev tunl0 proto 80".to_string(),
            format!("route replace blackhole {other} proto 80"),
            "link set tunl0 mtu 1300".to_string(),
            "link set tunl0 down".to_string(),
            format!("addr del {own}/32 dev tunl0"),
            "addr add 10.64.1.9/24 dev tunl0".to_string(),
        ],
    );
    nothing_in_clear(&fabric, "while others changed the tunnel");
}
