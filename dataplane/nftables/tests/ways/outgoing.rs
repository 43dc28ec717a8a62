//! The way out: which address and port a packet has where it arrives.

use crate::bed::{
    ALSO_NODE, Agent, FIRST, NODE, PEER, SECOND, STRANGER, answered, at, connect, ip, node, on_a_node, pool,
    raw, run_ip, sender, settings, udp,
};
use crate::sctp;
use crate::sockets::bound;
use crate::undisturbed::undisturbed;
use dataplane_api::Update;
use dataplane_netlink::NetworkNamespace;
use dataplane_nftables::layout::{Exclusions, LayoutSettings, Outgoing};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};

fn with(outgoing: Outgoing) -> LayoutSettings {
    LayoutSettings {
        outgoing,
        ..settings()
    }
}

#[test]
fn what_leaves_all_pools_takes_an_address_of_the_node() {
    on_a_node(|bed| {
        let mut agent = Agent::started(settings());
        for (n, from) in FIRST.into_iter().enumerate() {
            let (server, client) = (
                udp(Some(&bed.outside), STRANGER[n], 53),
                udp(Some(&bed.first), from, 0),
            );
            client.send_to(b"hello", at(STRANGER[n], 53)).unwrap();
            assert_eq!(answered(&server, &client).ip(), ip(NODE[n]));
            // Nodes are outside too, unless a setting says otherwise.
            let server = udp(Some(&bed.outside), PEER[n], 53);
            let client = udp(Some(&bed.first), from, 0);
            client.send_to(b"hello", at(PEER[n], 53)).unwrap();
            assert_eq!(answered(&server, &client).ip(), ip(NODE[n]));
            // From pool to pool, either way.
            for (here, there, to) in [
                (&bed.first, &bed.second, SECOND),
                (&bed.second, &bed.first, FIRST),
            ] {
                let client = udp(Some(here), if to == FIRST { SECOND[n] } else { from }, 0);
                let server = udp(Some(there), to[n], 54);
                client.send_to(b"hello", at(to[n], 54)).unwrap();
                assert_eq!(answered(&server, &client), client.local_addr().unwrap());
            }
            // A pool that does not want it keeps its addresses, which nobody outside can answer.
            let server = udp(Some(&bed.outside), STRANGER[n], 55);
            let client = udp(Some(&bed.second), SECOND[n], 0);
            client.send_to(b"hello", at(STRANGER[n], 55)).unwrap();
            let (_, sender) = undisturbed(|| server.recv_from(&mut [0; 8])).unwrap();
            assert_eq!(sender, client.local_addr().unwrap());
            // And what the node itself sends to a workload.
            let (server, client) = (udp(Some(&bed.first), from, 56), udp(None, NODE[n], 0));
            client.send_to(b"hello", at(from, 56)).unwrap();
            assert_eq!(answered(&server, &client), client.local_addr().unwrap());
        }
        // TCP comes back too.
        let listener = bed
            .outside
            .run(|| bound(|| TcpListener::bind(at(STRANGER[0], 80))))
            .unwrap();
        let mut client = bed
            .first
            .run(|| TcpStream::connect(at(STRANGER[0], 80)).unwrap())
            .unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), ip(NODE[0]));
        server.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();

        // The pools change while workloads run: the next connection is treated by it.
        agent.tell(&[pool("10.66.0.0/20", true), pool("10.65.0.0/16", false)]);
        let server = udp(Some(&bed.outside), STRANGER[0], 57);
        let client = udp(Some(&bed.second), SECOND[0], 0);
        client.send_to(b"hello", at(STRANGER[0], 57)).unwrap();
        assert_eq!(answered(&server, &client).ip(), ip(NODE[0]));
        let client = udp(Some(&bed.first), FIRST[0], 0);
        client.send_to(b"hello", at(STRANGER[0], 57)).unwrap();
        assert_eq!(
            undisturbed(|| server.recv_from(&mut [0; 8])).unwrap().1.ip(),
            ip(FIRST[0])
        );
        // A pool that goes is outside.
        agent.tell(&[Update::PoolRemoved("10.65.0.0/16".parse().unwrap())]);
        let server = udp(Some(&bed.outside), STRANGER[0], 58);
        let client = udp(Some(&bed.second), SECOND[0], 0);
        client.send_to(b"hello", at(STRANGER[0], 58)).unwrap();
        assert_eq!(answered(&server, &client).ip(), ip(NODE[0]));
    });
}

#[test]
fn between_workloads_of_one_node_nothing_is_translated_whatever_their_pools() {
    on_a_node(|bed| {
        let mut agent = Agent::started(settings());
        // An address of no pool at all, on a workload's interface.
        agent.tell(&[
            Update::PoolRemoved("10.66.0.0/20".parse().unwrap()),
            Update::PoolRemoved("fd00:66::/52".parse().unwrap()),
        ]);
        for n in 0..2 {
            let server = udp(Some(&bed.second), SECOND[n], 54);
            let client = udp(Some(&bed.first), FIRST[n], 0);
            client.send_to(b"hello", at(SECOND[n], 54)).unwrap();
            assert_eq!(answered(&server, &client), client.local_addr().unwrap());
        }
    });
}

#[test]
fn nodes_may_be_left_out() {
    on_a_node(|bed| {
        let mut agent = Agent::started(with(Outgoing {
            exclusions: Exclusions::PoolsAndNodes,
            ..Outgoing::default()
        }));
        for (n, from) in FIRST.into_iter().enumerate() {
            for (to, expected) in [(PEER[n], from), (STRANGER[n], NODE[n])] {
                let server = udp(Some(&bed.outside), to, 53);
                let client = udp(Some(&bed.first), from, 0);
                client.send_to(b"hello", at(to, 53)).unwrap();
                assert_eq!(
                    undisturbed(|| server.recv_from(&mut [0; 8])).unwrap().1.ip(),
                    ip(expected),
                    "to {to}"
                );
            }
        }
        agent.tell(&[node("peer", &["192.0.2.77"])]);
        let server = udp(Some(&bed.outside), PEER[0], 54);
        let client = udp(Some(&bed.first), FIRST[0], 0);
        client.send_to(b"hello", at(PEER[0], 54)).unwrap();
        assert_eq!(answered(&server, &client).ip(), ip(NODE[0]));
    });
}

#[test]
fn ports_and_the_address_may_be_chosen() {
    const PORTS: (u16, u16) = (30_000, 30_009);
    const UNKNOWN: u8 = 99;
    for (address, ports) in [
        (None, Some(PORTS)),
        (Some(ALSO_NODE), None),
        (Some(ALSO_NODE), Some(PORTS)),
        (Some(ALSO_NODE), Some((30_003, 30_003))),
    ] {
        on_a_node(|bed| {
            let agent = Agent::started(with(Outgoing {
                ports,
                address: address.map(|a| a.parse().unwrap()),
                exclusions: Exclusions::Pools,
            }));
            let expected = |n: usize| ip(address.filter(|_| n == 0).unwrap_or(NODE[n]));
            let fits = |port: u16| ports.is_none_or(|(first, last)| (first..=last).contains(&port));
            for (n, from) in FIRST.into_iter().enumerate() {
                let server = udp(Some(&bed.outside), STRANGER[n], 53);
                let client = udp(Some(&bed.first), from, 0);
                client.send_to(b"hello", at(STRANGER[n], 53)).unwrap();
                let seen = answered(&server, &client);
                assert!(seen.ip() == expected(n) && fits(seen.port()), "{seen}");
                let to = at(STRANGER[n], 80);
                let listener = bed.outside.run(|| bound(|| TcpListener::bind(to))).unwrap();
                let client = bed.first.run(|| TcpStream::connect(to).unwrap()).unwrap();
                let (_server, seen) = listener.accept().unwrap();
                assert!(seen.ip() == expected(n) && fits(seen.port()), "{seen}");
                drop(client);
            }
            let (there, here) = (sctp::socket(&bed.outside), sctp::socket(&bed.first));
            sctp::begin(&here, 5_000, at(STRANGER[0], 132));
            let (seen, port, _) = sctp::next(&there);
            assert!(seen == expected(0) && fits(port), "{seen} {port}");
            // What has no ports takes the address alone.
            let (there, here) = (raw(Some(&bed.outside), UNKNOWN), raw(Some(&bed.first), UNKNOWN));
            here.send_to(b"hello", &at(STRANGER[0], 0).into()).unwrap();
            assert_eq!(sender(&there), expected(0));
            agent.is_exact();
        });
    }
}

/// What a node beyond a tunnel sees of who speaks to it.
fn beyond(tunnel: &NetworkNamespace, from: Option<&NetworkNamespace>, source: &str, to: &str) -> IpAddr {
    let (server, client) = (udp(Some(tunnel), to, 53), udp(from, source, 0));
    client.send_to(b"hello", at(to, 53)).unwrap();
    answered(&server, &client).ip()
}

#[test]
fn what_the_node_says_into_a_tunnel_can_be_answered() {
    on_a_node(|bed| {
        let _agent = Agent::started(settings());
        // A device of the tunnel's name, and a node at its other end that knows pods and the device's address alone.
        let namespaces = [(); 2].map(|()| NetworkNamespace::anonymous().unwrap());
        let v4 = (["10.65.9.1", "fd00:65:0:9::1"], ["10.65.9.2", "fd00:65:0:9::2"]);
        let v6 = (["10.65.8.1", "fd00:65:0:8::1"], ["10.65.8.2", "fd00:65:0:8::2"]);
        for ((namespace, device), (here, there)) in namespaces
            .iter()
            .zip(["vxlan.calico", "vxlan-v6.calico"])
            .zip([v4, v6])
        {
            connect(namespace, device, here, &[there]);
            let pods = || {
                run_ip(&format!("route add 10.65.0.0/24 via {}", here[0]));
                run_ip(&format!("route add fd00:65::/64 via {}", here[1]));
            };
            namespace.run(pods).unwrap();
            for n in 0..2 {
                // By the node's own address, which the other end would answer by another way, or not at all.
                assert_eq!(beyond(namespace, None, NODE[n], there[n]), ip(here[n]));
                assert_eq!(beyond(namespace, None, here[n], there[n]), ip(here[n]));
                // A workload is spoken to by its own address.
                assert_eq!(
                    beyond(namespace, Some(&bed.first), FIRST[n], there[n]),
                    ip(FIRST[n])
                );
            }
        }
        // Through other interfaces the node's addresses are what they are.
        let server = udp(Some(&bed.outside), STRANGER[0], 60);
        let client = udp(None, ALSO_NODE, 0);
        client.send_to(b"hello", at(STRANGER[0], 60)).unwrap();
        assert_eq!(answered(&server, &client).ip(), ip(ALSO_NODE));
    });
}
