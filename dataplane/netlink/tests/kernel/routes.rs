//! Routes of the node beside everybody else's.

use std::collections::BTreeSet;

use dataplane_netlink::Rtnetlink;
use dataplane_netlink::nodes::{RemoteNet, insert_local_blocks, insert_remote_nets};
use dataplane_netlink::routes::{self, Reach, RouteOwnership, RouteTable, RouteTarget};
use dataplane_netlink::{links, neighbours};

use crate::bed::{ip, iproute, name, on_a_node};

/// Makes an uplink with a subnet of both families, and routes of a neighbour's on it.
fn neighbours_objects() {
    iproute("link add eth0 type bridge");
    iproute("link add docker0 type bridge");
    for command in [
        "link set eth0 up",
        "link set docker0 up",
        "addr add 192.0.2.1/24 dev eth0",
        "addr add 2001:db8::1/64 dev eth0 nodad",
        "addr add 172.17.0.1/16 dev docker0",
        "route add default via 192.0.2.254",
        "route add 10.70.0.0/16 via 192.0.2.9 proto bird",
        "route add 10.71.0.0/16 via 192.0.2.9 proto static",
        "route add 10.72.0.0/16 via 192.0.2.9",
        "route add 10.73.0.0/16 nexthop via 192.0.2.9 nexthop via 192.0.2.10",
        "route add blackhole 10.74.0.0/16 proto bird",
        "route add 10.65.9.0/26 via 192.0.2.9 proto 80 table 77",
        "-6 route add fd00:70::/48 via 2001:db8::9",
    ] {
        iproute(command);
    }
}

fn remote(net: &str, node: &str, interface: Option<&str>, reach: Reach) -> RemoteNet {
    RemoteNet {
        net: net.parse().unwrap(),
        node: ip(node),
        interface: interface.map(name),
        reach,
    }
}

/// Everybody's routes as `ip` shows them, without those of ours.
///
/// What the kernel adds and marks in the background (its own IPv6 routes, missing carriers) is left out.
fn foreign() -> BTreeSet<String> {
    let ours = |line: &str| line.contains("proto 80") && !line.contains("table 77");
    let v4 = iproute("-o -4 route show table all");
    let v6 = iproute("-o -6 route show table all");
    let v6 = v6.lines().filter(|line| !line.contains("proto kernel"));
    v4.lines()
        .chain(v6)
        .filter(|line| !ours(line))
        .map(|line| line.replace(" linkdown", ""))
        .collect()
}

fn assert_untouched(before: &BTreeSet<String>) {
    let now = foreign();
    let difference: Vec<&String> = now.symmetric_difference(before).collect();
    assert!(
        difference.is_empty(),
        "foreign routes came or went: {difference:#?}"
    );
}

fn ours() -> Vec<String> {
    let shown = iproute("-o route show proto 80") + &iproute("-o -6 route show proto 80");
    shown
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn wanted_routes_come_and_go_and_foreign_ones_stay() {
    on_a_node(|| {
        neighbours_objects();
        let before = foreign();
        let mut netlink = Rtnetlink::open().unwrap();
        let ownership = RouteOwnership::default();
        let mut table = RouteTable::new();
        let remotes = [
            remote("10.65.1.0/26", "192.0.2.2", None, Reach::Routed),
            remote("10.65.2.0/26", "192.0.2.3", Some("eth0"), Reach::Routed),
            remote("10.65.3.0/26", "198.51.100.3", Some("eth0"), Reach::OnLink),
            remote("10.65.1.77/32", "192.0.2.3", None, Reach::Routed),
            remote("fd00:65:1::/122", "2001:db8::2", None, Reach::Routed),
            remote("fd00:65:2::/122", "2001:db8:1::2", Some("eth0"), Reach::OnLink),
        ];
        assert_eq!(insert_remote_nets(&mut table, &remotes), []);
        insert_local_blocks(
            &mut table,
            &["10.65.0.0/26".parse().unwrap(), "fd00:65::/122".parse().unwrap()],
        );
        let done = routes::reconcile(&mut netlink, &table, &ownership).unwrap();
        assert!(done.is_complete(), "{done:?}");
        assert_eq!(done.done, 8);
        assert_eq!(ours().len(), 8, "{:?}", ours());
        assert!(iproute("route show 10.65.3.0/26").contains("onlink"));
        assert_untouched(&before);

        let again = routes::reconcile(&mut netlink, &table, &ownership).unwrap();
        assert!(again.is_complete());
        assert_eq!(again.done, 0, "the second time changes nothing");

        // A node has another address, another has gone, and somebody removed one.
        iproute("route del 10.65.1.77/32");
        insert_remote_nets(
            &mut table,
            &[remote("10.65.1.0/26", "192.0.2.22", None, Reach::Routed)],
        );
        table.remove(&"fd00:65:1::/122".parse().unwrap());
        table.remove(&"10.65.0.0/26".parse().unwrap());
        let done = routes::reconcile(&mut netlink, &table, &ownership).unwrap();
        assert!(done.is_complete(), "{done:?}");
        assert_eq!(done.done, 4, "one for the move, two removals, one addition");
        assert!(iproute("route show 10.65.1.0/26").contains("192.0.2.22"));
        assert_untouched(&before);

        let done = routes::reconcile(&mut netlink, &RouteTable::new(), &ownership).unwrap();
        assert!(done.is_complete(), "{done:?}");
        assert_eq!(ours(), Vec::<String>::new());
        assert_untouched(&before);
    });
}

#[test]
fn a_route_waits_for_its_interface_and_does_not_hold_up_the_others() {
    on_a_node(|| {
        neighbours_objects();
        let mut netlink = Rtnetlink::open().unwrap();
        let ownership = RouteOwnership::default();
        let mut table = RouteTable::new();
        let device = |interface| RouteTarget::Device {
            interface: name(interface),
            source: None,
        };
        table.insert("10.65.0.5/32".parse().unwrap(), device("cali1"));
        table.insert("10.65.0.6/32".parse().unwrap(), device("cali2"));
        // No such subnet: the kernel refuses this one.
        insert_remote_nets(
            &mut table,
            &[
                remote("10.65.8.0/26", "203.0.113.7", Some("eth0"), Reach::Routed),
                remote("10.65.9.0/26", "192.0.2.9", None, Reach::Routed),
            ],
        );
        iproute("link add cali1 type bridge");
        let done = routes::reconcile(&mut netlink, &table, &ownership).unwrap();
        let waiting: Vec<String> = done.waiting.iter().map(ToString::to_string).collect();
        assert_eq!(
            waiting,
            ["10.65.0.5/32", "10.65.0.6/32"],
            "one interface is down, one is missing"
        );
        assert_eq!(done.failures.len(), 1);
        let text = done.failures[0].error.to_string();
        assert!(
            text.starts_with("add route 10.65.8.0/26 via 203.0.113.7 dev eth0: "),
            "{text}"
        );
        assert!(iproute("route show 10.65.9.0/26").contains("192.0.2.9"));

        iproute("link set cali1 up");
        let done = routes::reconcile(&mut netlink, &table, &ownership).unwrap();
        assert_eq!(done.waiting.len(), 1);
        assert!(iproute("route show 10.65.0.5").contains("cali1"));
    });
}

#[test]
fn a_boot_route_on_our_interface_that_nobody_wants_is_an_orphan() {
    on_a_node(|| {
        neighbours_objects();
        iproute("link add cali9 type bridge");
        iproute("link set cali9 up");
        let before = foreign();
        iproute("route add 10.65.0.99/32 dev cali9");
        iproute("-6 route add fd00:65::99/128 dev cali9");
        iproute("route add 10.65.0.98/32 dev cali9 proto static");
        let mut netlink = Rtnetlink::open().unwrap();
        routes::reconcile(&mut netlink, &RouteTable::new(), &RouteOwnership::default()).unwrap();
        iproute("route del 10.65.0.98/32");
        assert_untouched(&before);
    });
}

#[test]
fn ten_thousand_routes_are_written_and_removed() {
    on_a_node(|| {
        neighbours_objects();
        let mut netlink = Rtnetlink::open().unwrap();
        let ownership = RouteOwnership::default();
        let mut table = RouteTable::new();
        let nets: Vec<RemoteNet> = (0..10_000u32)
            .map(|number| {
                let net = format!(
                    "10.{}.{}.{}/26",
                    80 + number / 1024,
                    number / 4 % 256,
                    number % 4 * 64
                );
                remote(&net, "192.0.2.2", Some("eth0"), Reach::Routed)
            })
            .collect();
        insert_remote_nets(&mut table, &nets);
        assert_eq!(table.len(), 10_000);
        let done = routes::reconcile(&mut netlink, &table, &ownership).unwrap();
        assert!(
            done.is_complete() && done.done == 10_000,
            "{:?}",
            done.failures.first()
        );
        assert_eq!(
            routes::reconcile(&mut netlink, &table, &ownership).unwrap().done,
            0
        );
        let done = routes::reconcile(&mut netlink, &RouteTable::new(), &ownership).unwrap();
        assert_eq!(done.done, 10_000);
    });
}

#[test]
fn somebody_elses_neighbour_entries_are_seen_but_not_ours_to_remove() {
    on_a_node(|| {
        neighbours_objects();
        iproute("neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0");
        let mut netlink = Rtnetlink::open().unwrap();
        let docker = links::find(&mut netlink, &name("docker0")).unwrap().unwrap();
        let eth0 = links::find(&mut netlink, &name("eth0")).unwrap().unwrap();
        assert!(
            neighbours::list_of(&mut netlink, &docker)
                .unwrap()
                .iter()
                .all(|entry| entry.address != ip("192.0.2.77"))
        );
        let seen = neighbours::list_of(&mut netlink, &eth0).unwrap();
        assert!(seen.iter().any(|entry| entry.address == ip("192.0.2.77")));
        assert_eq!(neighbours::missing(&[], &seen), []);
    });
}
