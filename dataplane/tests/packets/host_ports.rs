//! Ports of the node that lead to workloads, with real packets from everywhere.

use crate::bed::{
    ALSO_NODE, FRIEND, NODE, OTHER, SERVER, STRANGER, apply, at, host_port, ip, lead, listen, next,
    on_a_node, open_the_server, run_ip, seen, udp,
};
use crate::sctp;
use crate::sockets::bound;
use crate::support::Backend;
use dataplane_api::Update;
use policy_model::Protocol;
use std::net::UdpSocket;

#[test]
fn a_port_is_reached_from_everywhere_and_policy_sees_who_asks() {
    on_a_node(|bed| {
        let mut dataplane = bed.dataplane();
        let listener = listen(&bed.server, 80);
        let outside = Some(&bed.outside);
        for address in NODE {
            assert_eq!(
                seen(outside, None, at(address, 8080), &listener),
                None,
                "no port yet"
            );
        }
        lead(&mut dataplane, Protocol::TCP, ("", 8080), (SERVER, 80));
        for family in 0..2 {
            for address in [NODE[family], ALSO_NODE[family]] {
                let to = at(address, 8080);
                // From outside, by its own address, which decides.
                assert_eq!(
                    seen(outside, Some(FRIEND[family]), to, &listener),
                    Some(ip(FRIEND[family]))
                );
                assert_eq!(
                    seen(outside, Some(STRANGER[family]), to, &listener),
                    None,
                    "denied"
                );
                assert_eq!(seen(Some(&bed.other), None, to, &listener), None, "denied");
                // From the node itself, which policy does not ask.
                assert_eq!(seen(None, None, to, &listener), Some(ip(address)));
                // From the workload itself, which policy does not ask either.
                assert!(seen(Some(&bed.server), None, to, &listener).is_some());
                assert_eq!(
                    seen(outside, Some(FRIEND[family]), at(address, 8081), &listener),
                    None
                );
            }
        }
        // At the node's loopback addresses the workload sees the node.
        for address in ["127.0.0.1", "127.8.9.10"] {
            let caller = seen(None, None, at(address, 8080), &listener).unwrap();
            assert!(!caller.is_loopback(), "{caller}");
        }
        open_the_server(&mut dataplane);
        for family in 0..2 {
            let to = at(NODE[family], 8080);
            assert_eq!(
                seen(Some(&bed.other), None, to, &listener),
                Some(ip(OTHER[family]))
            );
            assert_eq!(
                seen(outside, Some(STRANGER[family]), to, &listener),
                Some(ip(STRANGER[family]))
            );
        }
        dataplane
            .take(&["0.0.0.0", "::"].map(|a| Update::HostPortRemoved(host_port(Protocol::TCP, a, 8080))));
        apply(&mut dataplane);
        for address in NODE.into_iter().chain(["127.0.0.1"]) {
            assert_eq!(seen(None, None, at(address, 8080), &listener), None);
        }
    });
}

#[test]
fn a_port_of_one_address_goes_before_that_of_all() {
    on_a_node(|bed| {
        let mut dataplane = bed.dataplane();
        open_the_server(&mut dataplane);
        let (server, other) = (listen(&bed.server, 80), listen(&bed.other, 80));
        for address in ["127.0.0.1", "::1", NODE[0], NODE[1]] {
            lead(&mut dataplane, Protocol::TCP, (address, 8080), (SERVER, 80));
            // Of its own address alone.
            for elsewhere in ALSO_NODE {
                assert_eq!(seen(None, None, at(elsewhere, 8080), &server), None);
            }
        }
        assert!(seen(None, None, at("127.0.0.1", 8080), &server).is_some());
        assert_eq!(seen(None, None, at("127.0.0.2", 8080), &server), None);
        // An answer finds ::1 only where it is not the source as well.
        let caller = seen(None, Some(NODE[1]), at("::1", 8080), &server);
        assert_eq!(caller, Some(ip(NODE[1])));
        lead(&mut dataplane, Protocol::TCP, ("", 8080), (OTHER, 80));
        for family in 0..2 {
            let outside = Some(&bed.outside);
            assert!(seen(outside, None, at(NODE[family], 8080), &server).is_some());
            assert!(seen(outside, None, at(ALSO_NODE[family], 8080), &other).is_some());
        }
        assert!(seen(None, None, at("127.0.0.1", 8080), &server).is_some());
        // What listens at ::1 of the node is left to it.
        let own = std::net::TcpListener::bind(at("::1", 9090)).unwrap();
        own.set_nonblocking(true).unwrap();
        lead(&mut dataplane, Protocol::TCP, ("", 9090), (OTHER, 80));
        assert_eq!(seen(None, None, at("::1", 9090), &own), Some(ip("::1")));
    });
}

#[test]
fn datagrams_follow_a_port_to_where_it_leads_now() {
    on_a_node(|bed| {
        let mut dataplane = bed.dataplane();
        open_the_server(&mut dataplane);
        for family in 0..2 {
            let any = ["0.0.0.0", "::"][family];
            let (server, other) = (udp(&bed.server, any, 53), udp(&bed.other, any, 53));
            let client = udp(&bed.outside, FRIEND[family], 0);
            let node = bound(|| UdpSocket::bind(at(any, 5353)));
            let address = at(NODE[family], 5353);
            // One that does not stop, since before there was a port.
            client.send_to(b"early", address).unwrap();
            assert_eq!(next_of(&node).0, "early");
            lead(&mut dataplane, Protocol::UDP, ("", 5353), (SERVER, 53));
            client.send_to(b"led", address).unwrap();
            let (text, sender) = next(&server);
            assert_eq!((text.as_str(), sender), ("led", client.local_addr().unwrap()));
            server.send_to(b"answer", sender).unwrap();
            assert_eq!(next(&client), ("answer".to_owned(), address));
            // Those that are led rightly go on when the same is said again.
            lead(&mut dataplane, Protocol::UDP, ("", 5353), (SERVER, 53));
            lead(&mut dataplane, Protocol::UDP, ("", 5353), (OTHER, 53));
            client.send_to(b"moved", address).unwrap();
            assert_eq!(next(&other).0, "moved");
            dataplane
                .take(&["0.0.0.0", "::"].map(|a| Update::HostPortRemoved(host_port(Protocol::UDP, a, 5353))));
            apply(&mut dataplane);
            client.send_to(b"late", address).unwrap();
            assert_eq!(next_of(&node).0, "late");
        }
    });
}

#[test]
fn sctp_is_led_as_well() {
    on_a_node(|bed| {
        let mut dataplane = bed.dataplane();
        lead(&mut dataplane, Protocol::SCTP, ("", 38412), (SERVER, 2905));
        let (client, server) = (sctp::socket(&bed.outside), sctp::socket(&bed.server));
        client
            .bind(&at(STRANGER[0], 0).into())
            .expect("an address of the neighbour");
        sctp::begin(&client, 1111, at(NODE[0], 38412));
        // Nothing of the stranger's comes before what comes from the friend.
        let friend = sctp::socket(&bed.outside);
        friend
            .bind(&at(FRIEND[0], 0).into())
            .expect("an address of the neighbour");
        sctp::begin(&friend, 2222, at(NODE[0], 38412));
        assert_eq!(sctp::next(&server), (ip(FRIEND[0]), 2222, 2905));
    });
}

/// The next datagram to the node itself.
fn next_of(socket: &UdpSocket) -> (String, std::net::SocketAddr) {
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(60)))
        .unwrap();
    next(socket)
}

#[test]
fn what_is_the_nodes_alone_is_not_reached_from_a_workload() {
    on_a_node(|bed| {
        let mut dataplane = bed.dataplane();
        open_the_server(&mut dataplane);
        lead(&mut dataplane, Protocol::UDP, ("127.0.0.1", 5300), (SERVER, 53));
        lead(&mut dataplane, Protocol::UDP, (NODE[0], 5301), (SERVER, 53));
        let server = udp(&bed.server, "0.0.0.0", 53);
        let alone = UdpSocket::bind(at("127.0.0.1", 7000)).unwrap();
        let common = UdpSocket::bind(at(NODE[0], 7001)).unwrap();
        let speak = || {
            // Without a loopback of its own such addresses are as any others.
            run_ip("addr flush dev lo");
            run_ip("route replace 127.0.0.1/32 via 169.254.1.1 dev eth0 onlink");
            let client = UdpSocket::bind(at(OTHER[0], 0)).unwrap();
            for (port, to) in [
                (7000, "127.0.0.1"),
                (7001, NODE[0]),
                (5300, "127.0.0.1"),
                (5301, NODE[0]),
            ] {
                client.send_to(port.to_string().as_bytes(), at(to, port)).unwrap();
            }
        };
        bed.other.run(speak).unwrap();
        // One interface keeps the order, so that what has not come before the last does not come.
        assert_eq!(next(&server).0, "5301");
        assert_eq!(next_of(&common).0, "7001");
        alone.set_nonblocking(true).unwrap();
        assert!(alone.recv_from(&mut [0; 16]).is_err());
        // It is there for the node.
        let node = UdpSocket::bind(at("127.0.0.1", 0)).unwrap();
        node.send_to(b"own", at("127.0.0.1", 5300)).unwrap();
        assert_eq!(next(&server).0, "own");
        node.send_to(b"own", at("127.0.0.1", 7000)).unwrap();
        alone.set_nonblocking(false).unwrap();
        assert_eq!(next_of(&alone).0, "own");
        // A few rules keep it so: without them it would not be.
        unguard(&bed.backend)
            .iter()
            .for_each(|command| drop(bed.backend.run(command)));
        bed.other.run(speak).unwrap();
        assert_eq!(next(&server).0, "5300");
        assert_eq!(next_of(&alone).0, "7000");
    });
}

/// What takes the guard away from addresses that are the node's alone.
fn unguard(backend: &Backend) -> &'static [&'static str] {
    match backend.variant {
        None => &[
            "nft flush chain inet manx input",
            "nft flush chain inet manx nat_prerouting",
            "nft add rule inet manx nat_prerouting fib daddr type local jump host_ports",
        ],
        Some(_) => &[
            "iptables -F cali-wl-to-host",
            "iptables -t nat -D cali-PREROUTING 1",
        ],
    }
}

/// What others may do to what leads ports on.
fn tamperings(backend: &Backend) -> &'static [&'static str] {
    match backend.variant {
        None => &[
            "nft flush map inet manx host4",
            "nft flush chain inet manx host_ports",
            "nft flush chain inet manx nat_output",
            "nft flush chain inet manx nat_postrouting",
            "nft add element inet manx host_at4 { 192.0.2.1 . tcp . 7 : 10.65.0.6 . 7 }",
            "nft delete table inet manx",
        ],
        Some(_) => &[
            "iptables -t nat -F cali-host-ports",
            "ip6tables -t nat -F cali-OUTPUT",
            "iptables -t nat -F cali-POSTROUTING",
            "iptables -t nat -F OUTPUT",
            "iptables -t nat -A cali-host-ports -p tcp --dport 7 -j DNAT --to-destination 10.65.0.6:7",
            "iptables -t nat -F",
        ],
    }
}

/// What the kernel has that leads ports of the node on, in one order.
fn said_of_ports(backend: &Backend) -> Vec<String> {
    if backend.variant.is_some() {
        let saved = ["iptables-save -t nat", "ip6tables-save -t nat"].map(|command| backend.run(command));
        let lines = saved.iter().flat_map(|text| text.lines());
        // Remarks have the time; chains have counters.
        return lines
            .filter(|line| line.starts_with("-A"))
            .map(str::to_owned)
            .collect();
    }
    let of = |kind, name| backend.run(&format!("nft list {kind} inet manx {name}"));
    let chains = ["host_ports", "nat_prerouting", "nat_output", "nat_postrouting"];
    let maps = ["host4", "host6", "host_at4", "host_at6"];
    let mut all: Vec<String> = chains.into_iter().map(|name| of("chain", name)).collect();
    for map in maps.into_iter().map(|name| of("map", name)) {
        // Elements stand in no order.
        let mut elements: Vec<&str> = map.split(['{', '}', ',']).map(str::trim).collect();
        elements.sort_unstable();
        all.push(elements.join(", "));
    }
    all
}

#[test]
fn what_others_change_is_mended_and_another_life_changes_nothing() {
    on_a_node(|bed| {
        let mut dataplane = bed.dataplane();
        lead(&mut dataplane, Protocol::TCP, ("", 8080), (SERVER, 80));
        lead(&mut dataplane, Protocol::TCP, (NODE[0], 8081), (SERVER, 80));
        let listener = listen(&bed.server, 80);
        let reached = || {
            NODE.into_iter()
                .all(|address| seen(None, None, at(address, 8080), &listener).is_some())
                && seen(None, None, at("127.0.0.1", 8080), &listener).is_some()
        };
        assert!(reached());
        let whole = said_of_ports(&bed.backend);
        for tampering in tamperings(&bed.backend) {
            bed.backend.run(tampering);
            dataplane.take_events().unwrap();
            assert!(dataplane.is_dirty(), "{tampering}");
            let report = dataplane.apply(1).unwrap();
            assert!(report.mended > 0, "{tampering}");
            assert_eq!(said_of_ports(&bed.backend), whole, "{tampering}");
            assert!(reached(), "{tampering}");
        }
        drop(dataplane);
        assert!(reached(), "what is in force stays in force");
        // The next life knows of one port that it has not, and of another that it has.
        let mut dataplane = bed.dataplane();
        assert!(
            !said_of_ports(&bed.backend)
                .iter()
                .any(|line| line.contains("8080"))
        );
        lead(&mut dataplane, Protocol::TCP, ("", 8080), (SERVER, 80));
        assert!(reached());
    });
}
