//! Tunnelled packets: from whom they are let in, and that workloads send none.

use crate::bed::{
    Agent, Bed, FIRST, NODE, PEER, STRANGER, at, counted, ip, is_silent, node, on_a_node, raw, sender,
    settings, udp, wait_for,
};
use crate::undisturbed::undisturbed;
use dataplane_api::Update;
use dataplane_netlink::NetworkNamespace;
use dataplane_nftables::layout::{LayoutSettings, TunnelsFromWorkloads, TunnelsInUse};
use std::io::Read;
use std::net::UdpSocket;

/// The protocol that says that an IPv4 packet is inside.
const IPIP: u8 = 4;
const VXLAN: u16 = 4789;
const ALL: TunnelsInUse = TunnelsInUse {
    ipip: true,
    vxlan4: true,
    vxlan6: true,
};

/// A packet of a network of VXLAN, as far as its header goes.
fn of_network(number: u32) -> [u8; 12] {
    let [_, a, b, c] = number.to_be_bytes();
    [8, 0, 0, 0, a, b, c, 0, b'h', b'e', b'l', b'o']
}

fn send_vxlan(from: &NetworkNamespace, source: &str, to: &str, network: u32) {
    let socket = udp(Some(from), source, 0);
    socket.send_to(&of_network(network), at(to, VXLAN)).unwrap();
}

fn send_ipip(from: &NetworkNamespace, source: &str, to: &str) {
    let socket = raw(Some(from), IPIP);
    socket.bind(&at(source, 0).into()).unwrap();
    socket.send_to(b"a packet", &at(to, 0).into()).unwrap();
}

/// Waits until the first rules of a chain have counted so many packets.
fn wait_until_counted(chain: &str, expected: &[u64]) {
    wait_for(&format!("{chain} counts {expected:?}"), || {
        let found: Vec<u64> = counted(chain).into_iter().take(expected.len()).collect();
        assert!(found.iter().zip(expected).all(|(f, e)| f <= e), "{found:?}");
        (found == expected).then_some(())
    });
}

/// The next datagram's sender, which has to come.
fn next(socket: &UdpSocket) -> std::net::IpAddr {
    let (_, sender) = undisturbed(|| socket.recv_from(&mut [0; 64])).expect("a datagram comes");
    sender.ip()
}

fn nothing_came(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    is_silent(socket.recv(&mut [0; 64]));
    socket.set_nonblocking(false).unwrap();
}

#[test]
fn tunnelled_packets_are_let_in_from_nodes_only() {
    on_a_node(|bed| {
        let mut agent = Agent::new(settings());
        assert!(agent.driver.want_tunnels(ALL), "that is news");
        assert!(!agent.driver.want_tunnels(ALL), "that is none");
        // The guard is there with the first pass.
        agent.tell(&[]);
        let ipip = raw(None, IPIP);
        let vxlan = [0, 1].map(|n| udp(None, NODE[n], VXLAN));
        send_ipip(&bed.outside, STRANGER[0], NODE[0]);
        wait_until_counted("tunnels", &[1, 0, 0]);
        send_ipip(&bed.outside, PEER[0], NODE[0]);
        assert_eq!(sender(&ipip), ip(PEER[0]), "the stranger's did not come");
        for (n, [first, second]) in [[1, 0], [1, 1]].into_iter().enumerate() {
            send_vxlan(&bed.outside, STRANGER[n], NODE[n], 4096);
            wait_until_counted("tunnels", &[1, first, second]);
            nothing_came(&vxlan[n]);
            // Other networks are others' business, and so are datagrams that are none of VXLAN's.
            for network in [1, 4095, 4097, 0x1000 << 8] {
                send_vxlan(&bed.outside, STRANGER[n], NODE[n], network);
                assert_eq!(next(&vxlan[n]), ip(STRANGER[n]));
            }
            let socket = udp(Some(&bed.outside), STRANGER[n], 0);
            socket.send_to(b"short", at(NODE[n], VXLAN)).unwrap();
            assert_eq!(next(&vxlan[n]), ip(STRANGER[n]));
            send_vxlan(&bed.outside, PEER[n], NODE[n], 4096);
            assert_eq!(next(&vxlan[n]), ip(PEER[n]));
        }
        // A known connection is no way round: the stranger was spoken to by the same ports.
        let stranger = udp(Some(&bed.outside), STRANGER[0], 7000);
        vxlan[0].send_to(b"hello", at(STRANGER[0], 7000)).unwrap();
        assert_eq!(next(&stranger), ip(NODE[0]));
        stranger.send_to(&of_network(4096), at(NODE[0], VXLAN)).unwrap();
        wait_until_counted("tunnels", &[1, 2, 1]);
        nothing_came(&vxlan[0]);
        nodes_come_and_go(&mut agent, bed, &vxlan[0]);
        tunnels_come_and_go(&mut agent, bed, &vxlan[0]);
    });
}

/// The stranger becomes a node and is none any more.
fn nodes_come_and_go(agent: &mut Agent, bed: &Bed, vxlan: &UdpSocket) {
    let applied = agent.tell(&[node("new", &[STRANGER[0]])]);
    assert_eq!((applied.transactions, applied.messages), (1, 1));
    send_vxlan(&bed.outside, STRANGER[0], NODE[0], 4096);
    assert_eq!(next(vxlan), ip(STRANGER[0]));
    agent.tell(&[Update::NodeRemoved("new".into())]);
    let before = counted("tunnels");
    send_vxlan(&bed.outside, STRANGER[0], NODE[0], 4096);
    wait_until_counted("tunnels", &[before[0], before[1] + 1, before[2]]);
    nothing_came(vxlan);
}

/// Where a tunnel is not in use nobody is asked, and nothing stands in the way of other packets.
fn tunnels_come_and_go(agent: &mut Agent, bed: &Bed, vxlan: &UdpSocket) {
    let only_ipip = TunnelsInUse {
        ipip: true,
        ..TunnelsInUse::default()
    };
    assert!(agent.driver.want_tunnels(only_ipip));
    let applied = agent.tell(&[]);
    assert_eq!(applied.transactions, 1);
    send_vxlan(&bed.outside, STRANGER[0], NODE[0], 4096);
    assert_eq!(next(vxlan), ip(STRANGER[0]));
    assert!(agent.driver.want_tunnels(TunnelsInUse::default()));
    agent.tell(&[]);
    assert_eq!(counted("tunnels"), Vec::<u64>::new());
    let ipip = raw(None, IPIP);
    send_ipip(&bed.outside, STRANGER[0], NODE[0]);
    assert_eq!(sender(&ipip), ip(STRANGER[0]));
    assert!(agent.driver.want_tunnels(ALL));
    agent.tell(&[]);
    send_ipip(&bed.outside, STRANGER[0], NODE[0]);
    wait_until_counted("tunnels", &[1, 0, 0]);
}

#[test]
fn port_and_network_are_settings() {
    on_a_node(|bed| {
        let mut agent = Agent::new(LayoutSettings {
            vxlan_port: 8472,
            vxlan_vni: 0x0001_0203,
            ..settings()
        });
        agent.driver.want_tunnels(ALL);
        agent.tell(&[]);
        let (usual, ours) = (udp(None, NODE[0], VXLAN), udp(None, NODE[0], 8472));
        send_vxlan(&bed.outside, STRANGER[0], NODE[0], 4096);
        assert_eq!(next(&usual), ip(STRANGER[0]));
        let stranger = udp(Some(&bed.outside), STRANGER[0], 0);
        stranger.send_to(&of_network(4096), at(NODE[0], 8472)).unwrap();
        assert_eq!(next(&ours), ip(STRANGER[0]));
        stranger
            .send_to(&of_network(0x0001_0203), at(NODE[0], 8472))
            .unwrap();
        wait_until_counted("tunnels", &[0, 1, 0]);
        nothing_came(&ours);
    });
}

#[test]
fn workloads_send_no_tunnelled_packets() {
    on_a_node(|bed| {
        // Whatever tunnels are in use, and to whomever.
        let _agent = Agent::started(settings());
        let mut ipip = raw(Some(&bed.outside), IPIP);
        let vxlan = [0, 1].map(|n| udp(Some(&bed.outside), STRANGER[n], VXLAN));
        send_ipip(&bed.first, FIRST[0], STRANGER[0]);
        send_ipip(&bed.first, FIRST[0], NODE[0]);
        wait_until_counted("spoof", &[2, 0]);
        send_vxlan(&bed.first, FIRST[0], STRANGER[0], 4096);
        send_vxlan(&bed.first, FIRST[1], STRANGER[1], 7);
        send_vxlan(&bed.first, FIRST[0], NODE[0], 4096);
        wait_until_counted("spoof", &[2, 3]);
        vxlan.iter().for_each(nothing_came);
        ipip.set_nonblocking(true).unwrap();
        is_silent(ipip.read(&mut [0; 64]));
        // What else they say arrives.
        let server = udp(Some(&bed.outside), STRANGER[0], VXLAN + 1);
        let client = udp(Some(&bed.first), FIRST[0], 0);
        client.send_to(b"hello", at(STRANGER[0], VXLAN + 1)).unwrap();
        assert_eq!(next(&server), ip(NODE[0]));
    });
}

#[test]
fn workloads_may_be_allowed_either() {
    for (may_ipip, may_vxlan) in [(true, false), (false, true), (true, true)] {
        on_a_node(|bed| {
            let _agent = Agent::started(LayoutSettings {
                tunnels_from_workloads: TunnelsFromWorkloads {
                    ipip: may_ipip,
                    vxlan: may_vxlan,
                },
                ..settings()
            });
            let ipip = raw(Some(&bed.outside), IPIP);
            let vxlan = udp(Some(&bed.outside), STRANGER[0], VXLAN);
            send_ipip(&bed.first, FIRST[0], STRANGER[0]);
            send_vxlan(&bed.first, FIRST[0], STRANGER[0], 4096);
            if may_ipip {
                assert_eq!(sender(&ipip), ip(NODE[0]));
            }
            if may_vxlan {
                assert_eq!(next(&vxlan), ip(NODE[0]));
            }
            let refused = usize::from(!may_ipip) + usize::from(!may_vxlan);
            wait_until_counted("spoof", &vec![1; refused]);
        });
    }
}
