//! What the chains that are always there let pass, whatever policies say.

use crate::say::{Node, atom, open_profile, pod, policy, rule, workload};
use dataplane_api::{ClusterNode, Update};
use dataplane_iptables::layout::{AllowAction, Connection, LayoutSettings, Packet, Way, simulate};
use dataplane_iptables::ops::{Family, Table};
use dataplane_tables::{EndpointToHost, TunnelsInUse};
use policy_model::{Action, Protocol};
use std::collections::BTreeSet;
use std::net::IpAddr;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn packet(source: &str, destination: &str) -> Packet {
    Packet::first(ip(source), ip(destination), Protocol::TCP, 80, 40_000)
}

fn way<'a>(from: &'a str, to: &'a str) -> Way<'a> {
    let name = |text: &'a str| (!text.is_empty()).then_some(text);
    Way {
        from: name(from),
        to: name(to),
    }
}

/// `one` takes from 10.0.1.1 only and may send everywhere; `open` has no policy.
fn updates() -> Vec<Update> {
    let allowed = vec![rule(true, Action::Allow, &[1], None, &[])];
    let mut out = atom(1, &["10.0.1.1", "fd00:1::1"]);
    out.extend([
        open_profile(),
        policy("in", allowed, vec![]),
        policy("out", vec![], vec![]),
        workload(pod("one", &["10.0.0.1", "fd00::1"], &["in"], &[])),
        workload(pod("open", &["10.0.0.2", "fd00::2"], &[], &[])),
        workload(pod("silent", &["10.0.0.3"], &[], &["out"])),
    ]);
    out
}

fn node(settings: LayoutSettings) -> Node {
    Node::new(settings, &updates())
}

#[track_caller]
fn check(node: &Node, packet: &Packet, way: Way<'_>, passes: bool) {
    assert_eq!(
        simulate(&node.kernel, packet, way),
        passes,
        "kernel: {packet:?} {way:?}"
    );
    let layout = node.planner.layout(&node.tables);
    assert_eq!(
        simulate(&layout, packet, way),
        passes,
        "layout: {packet:?} {way:?}"
    );
}

#[test]
fn only_an_interfaces_own_sources_pass() {
    let node = node(LayoutSettings::default());
    check(
        &node,
        &packet("10.0.0.2", "8.8.8.8"),
        way("caliopen", "eth0"),
        true,
    );
    check(
        &node,
        &packet("10.0.0.1", "8.8.8.8"),
        way("caliopen", "eth0"),
        false,
    );
    check(
        &node,
        &packet("0.0.0.0", "8.8.8.8"),
        way("caliopen", "eth0"),
        false,
    );
    check(
        &node,
        &packet("fd00::2", "2001:db8::9"),
        way("caliopen", "eth0"),
        true,
    );
    check(
        &node,
        &packet("fd00::1", "2001:db8::9"),
        way("caliopen", "eth0"),
        false,
    );
    let mut known = packet("10.0.0.1", "8.8.8.8");
    known.connection = Connection::Established;
    check(&node, &known, way("caliopen", "eth0"), false);
    check(&node, &known, way("eth1", "eth0"), true);
}

#[test]
fn sources_beside_addresses_pass_where_settings_have_it() {
    let mut spoofing = pod("gate", &["10.0.0.9"], &[], &[]);
    spoofing.spoofable = vec!["172.16.0.0/12".parse().unwrap(), "fd01::/64".parse().unwrap()];
    for allowed in [false, true] {
        let mut node = node(LayoutSettings {
            source_spoofing: allowed,
            ..LayoutSettings::default()
        });
        node.hear(&[workload(spoofing.clone())]);
        check(
            &node,
            &packet("10.0.0.9", "8.8.8.8"),
            way("caligate", "eth0"),
            true,
        );
        check(
            &node,
            &packet("172.16.1.1", "8.8.8.8"),
            way("caligate", "eth0"),
            allowed,
        );
        check(
            &node,
            &packet("172.16.1.1", "8.8.8.8"),
            way("caliopen", "eth0"),
            false,
        );
        check(
            &node,
            &packet("fd01::5", "2001:db8::9"),
            way("caligate", "eth0"),
            allowed,
        );
        node.hear(&[Update::WorkloadRemoved(spoofing.id.clone())]);
        check(
            &node,
            &packet("172.16.1.1", "8.8.8.8"),
            way("caligate", "eth0"),
            false,
        );
    }
}

#[test]
fn unknown_workload_interfaces_are_shut() {
    let node = node(LayoutSettings::default());
    for way in [way("cali9", "eth0"), way("eth0", "cali9"), way("cali9", "")] {
        check(&node, &packet("10.0.0.2", "10.0.1.1"), way, false);
    }
    // What is no workload's is left alone.
    check(
        &node,
        &packet("10.9.9.9", "8.8.8.8"),
        way("docker0", "eth0"),
        true,
    );
    let mut invalid = packet("10.9.9.9", "8.8.8.8");
    invalid.connection = Connection::Invalid;
    check(&node, &invalid, way("docker0", "eth0"), true);
    check(&node, &invalid, way("eth0", "caliopen"), false);
}

/// An interface that is not called like a workload's is none, and what rules cannot name is unknown.
#[test]
fn only_names_of_workloads_count() {
    for interface in ["eth7", "cali+", "cali 1"] {
        let mut odd = pod("odd", &["10.0.0.9"], &[], &[]);
        odd.interface = interface.to_owned();
        let mut node = node(LayoutSettings::default());
        let plan = node.hear(&[workload(odd)]);
        assert!(plan.is_empty(), "{interface}: {plan:?}");
    }
}

#[test]
fn several_beginnings_of_names() {
    let mut tap = pod("tap", &["10.0.0.9"], &["in"], &[]);
    tap.interface = "tap1".to_owned();
    let node = Node::new(
        LayoutSettings {
            interface_prefixes: vec!["cali".to_owned(), "tap".to_owned()],
            ..LayoutSettings::default()
        },
        &[updates(), vec![workload(tap)]].concat(),
    );
    for (to, own) in [("calione", "10.0.0.1"), ("tap1", "10.0.0.9")] {
        check(&node, &packet("10.0.1.1", own), way("eth0", to), true);
        check(&node, &packet("10.0.1.2", own), way("eth0", to), false);
    }
    check(&node, &packet("10.0.1.1", "10.0.0.9"), way("eth0", "tap2"), false);
}

#[test]
fn what_is_known_passes_and_what_is_allowed_too() {
    for allow in [AllowAction::Accept, AllowAction::Return] {
        let node = node(LayoutSettings {
            allow,
            ..LayoutSettings::default()
        });
        check(
            &node,
            &packet("10.0.1.1", "10.0.0.1"),
            way("eth0", "calione"),
            true,
        );
        check(
            &node,
            &packet("10.0.1.2", "10.0.0.1"),
            way("eth0", "calione"),
            false,
        );
        check(
            &node,
            &packet("fd00:1::1", "fd00::1"),
            way("eth0", "calione"),
            true,
        );
        check(
            &node,
            &packet("fd00:1::2", "fd00::1"),
            way("eth0", "calione"),
            false,
        );
        // From one workload to another both ask.
        check(
            &node,
            &packet("10.0.0.2", "10.0.0.1"),
            way("caliopen", "calione"),
            false,
        );
        check(
            &node,
            &packet("10.0.0.1", "10.0.0.2"),
            way("calione", "caliopen"),
            true,
        );
        check(
            &node,
            &packet("10.0.0.3", "10.0.0.2"),
            way("calisilent", "caliopen"),
            false,
        );
        for state in [Connection::Established, Connection::Related] {
            let mut known = packet("10.0.1.2", "10.0.0.1");
            known.connection = state;
            check(&node, &known, way("eth0", "calione"), true);
        }
        // A workload reaches itself.
        check(
            &node,
            &packet("10.0.0.1", "10.0.0.1"),
            way("calione", "calione"),
            true,
        );
        check(
            &node,
            &packet("10.0.0.3", "10.0.0.3"),
            way("calisilent", "calisilent"),
            true,
        );
    }
}

#[test]
fn a_workload_and_its_node() {
    for (action, passes) in [
        (EndpointToHost::Drop, false),
        (EndpointToHost::Accept, true),
        (EndpointToHost::Return, true),
    ] {
        let node = node(LayoutSettings {
            endpoint_to_host: action,
            ..LayoutSettings::default()
        });
        check(
            &node,
            &packet("10.0.0.2", "192.0.2.1"),
            way("caliopen", ""),
            passes,
        );
        check(
            &node,
            &packet("10.0.0.3", "192.0.2.1"),
            way("calisilent", ""),
            false,
        );
        check(
            &node,
            &packet("10.0.0.2", "127.0.0.1"),
            way("caliopen", ""),
            false,
        );
        check(&node, &packet("192.0.2.7", "192.0.2.1"), way("eth0", ""), true);
        // A node reaches its own workloads.
        check(&node, &packet("192.0.2.1", "10.0.0.1"), way("", "calione"), true);
        let mut neighbour = packet("fe80::1", "fe80::2");
        (neighbour.protocol, neighbour.x, neighbour.y) = (Protocol::ICMPV6, 135, 0);
        check(&node, &neighbour, way("caliopen", ""), true);
        neighbour.x = 134;
        check(&node, &neighbour, way("caliopen", ""), false);
    }
}

#[test]
fn an_address_that_nobody_has_begins_nothing() {
    let mut node = node(LayoutSettings::default());
    let vacant: BTreeSet<IpAddr> = [ip("10.0.0.77"), ip("fd00::77")].into();
    for op in node.planner.set_vacant(&vacant) {
        node.kernel.change_set(&op).unwrap();
    }
    node.kernel.assert_is(&node.planner.contents(&node.tables));
    for way in [way("eth0", "eth1"), way("eth0", ""), way("", "eth0")] {
        check(&node, &packet("10.0.0.77", "10.0.5.5"), way, false);
        check(&node, &packet("10.0.5.5", "10.0.0.77"), way, false);
        check(&node, &packet("fd00::5", "fd00::77"), way, false);
        check(&node, &packet("10.0.5.5", "10.0.0.78"), way, true);
    }
    for op in node.planner.set_vacant(&BTreeSet::new()) {
        node.kernel.change_set(&op).unwrap();
    }
    check(&node, &packet("10.0.0.77", "10.0.5.5"), way("eth0", "eth1"), true);
}

#[test]
fn tunnels_are_for_nodes_and_not_for_workloads() {
    let mut node = node(LayoutSettings::default());
    let tunnel = |source: &str, protocol, port| {
        let to = if source.contains(':') {
            "2001:db8::1"
        } else {
            "192.0.2.1"
        };
        Packet::first(ip(source), ip(to), protocol, port, 1)
    };
    let ipip = Protocol::from_number(4);
    check(
        &node,
        &tunnel("10.0.0.2", ipip, 0),
        way("caliopen", "eth0"),
        false,
    );
    check(
        &node,
        &tunnel("10.0.0.2", Protocol::UDP, 4789),
        way("caliopen", "eth0"),
        false,
    );
    check(
        &node,
        &tunnel("10.0.0.2", Protocol::UDP, 4788),
        way("caliopen", "eth0"),
        true,
    );
    check(&node, &tunnel("192.0.2.66", ipip, 0), way("eth0", ""), true);
    let peer = Update::Node(ClusterNode {
        name: "there".into(),
        is_here: false,
        addresses: [ip("192.0.2.2"), ip("2001:db8::2")].into(),
        ipip: None,
        vxlan4: None,
        vxlan6: None,
        vxlan_mac: None,
    });
    assert!(node.planner.want_tunnels(TunnelsInUse {
        ipip: true,
        vxlan4: true,
        vxlan6: true,
    }));
    node.hear(&[peer]);
    check(&node, &tunnel("192.0.2.2", ipip, 0), way("eth0", ""), true);
    let mut stranger = tunnel("192.0.2.66", ipip, 0);
    for state in [Connection::New, Connection::Established] {
        stranger.connection = state;
        check(&node, &stranger, way("eth0", ""), false);
    }
    for (source, passes) in [
        ("192.0.2.2", true),
        ("192.0.2.66", false),
        ("2001:db8::2", true),
        ("2001:db8::66", false),
    ] {
        let mut vxlan = tunnel(source, Protocol::UDP, 4789);
        vxlan.vxlan = Some(4096);
        check(&node, &vxlan, way("eth0", ""), passes);
        // Others' networks at the same port are theirs.
        vxlan.vxlan = Some(7);
        check(&node, &vxlan, way("eth0", ""), true);
    }
}

#[test]
fn no_connection_is_picked_up_in_its_middle_where_settings_have_it() {
    let node = node(LayoutSettings {
        refuse_midstream: true,
        endpoint_to_host: EndpointToHost::Accept,
        ..LayoutSettings::default()
    });
    let mut middle = packet("10.0.1.1", "10.0.0.1");
    middle.syn = false;
    check(&node, &middle, way("eth0", "calione"), false);
    check(&node, &middle, way("eth0", "eth1"), true);
    let mut middle = packet("10.0.0.2", "192.0.2.1");
    middle.syn = false;
    check(&node, &middle, way("caliopen", ""), false);
}

/// Whichever chain of ours somebody empties: what was refused in front of it stays refused. The chains that the kernel's own
/// lead to are our words to others and can only be mended.
#[test]
fn an_emptied_chain_refuses() {
    let whole = node(LayoutSettings {
        endpoint_to_host: EndpointToHost::Accept,
        ..LayoutSettings::default()
    });
    let refused = [
        (packet("10.0.1.2", "10.0.0.1"), way("eth0", "calione")),
        (packet("10.0.0.2", "10.0.0.1"), way("caliopen", "calione")),
        (packet("10.0.0.3", "10.0.0.2"), way("calisilent", "caliopen")),
        (packet("fd00:1::2", "fd00::1"), way("eth0", "calione")),
    ];
    let mut emptied = 0;
    for family in Family::BOTH {
        let place = (family, Table::Filter);
        let names: Vec<String> = whole.kernel.chains[&place].keys().cloned().collect();
        for name in names.iter().filter(|n| *n != "cali-FORWARD") {
            let mut kernel = whole.kernel.clone();
            kernel
                .chains
                .get_mut(&place)
                .unwrap()
                .insert(name.clone(), [].into());
            for (packet, way) in &refused {
                assert!(
                    !simulate(&kernel, packet, *way),
                    "{name} is empty: {packet:?} {way:?}"
                );
            }
            emptied += 1;
        }
    }
    assert!(emptied > 20);
}
