//! Which node is behind which Ethernet address: written, followed, and kept from others.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dataplane_netlink::events::Change;
use dataplane_netlink::links::Link;
use dataplane_netlink::tunnels::peers::{self, NEWS_GROUP, PeerNews, PeerTable, TunnelPeer};
use dataplane_netlink::tunnels::vxlan::{self, Family, derived_mac};
use dataplane_netlink::{MacAddress, Rtnetlink};
use netlink_sys::Socket;

use crate::bed::{ip, iproute, on_a_node};
use crate::tunnels::{bridge, vxlan as wanted};

fn peer(number: u16, family: Family) -> TunnelPeer {
    let (tunnel, node) = match family {
        Family::V4 => ("10.65", "198.18"),
        Family::V6 => ("fd00:65:", "2001:db8:"),
    };
    let [high, low] = number.to_be_bytes();
    let address = |start: &str| match family {
        Family::V4 => ip(&format!("{start}.{high}.{low}")),
        Family::V6 => ip(&format!("{start}{number:x}::1")),
    };
    TunnelPeer {
        mac: derived_mac(&format!("node-{number}"), family),
        tunnel: address(tunnel),
        node: address(node),
    }
}

fn table(peers: &[TunnelPeer]) -> PeerTable {
    let mut table = PeerTable::new();
    for peer in peers {
        table.insert(*peer).unwrap();
    }
    table
}

/// What `bridge` and `ip` show of a device, and what they would show of these peers.
fn shown(device: &str) -> BTreeSet<String> {
    let forwarding = bridge(&format!("fdb show dev {device}"));
    let neighbours = iproute(&format!("neigh show dev {device} nud permanent"))
        + &iproute(&format!("-6 neigh show dev {device} nud permanent"));
    forwarding
        .lines()
        .chain(neighbours.lines())
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

fn expected(peers: &[TunnelPeer]) -> BTreeSet<String> {
    peers
        .iter()
        .flat_map(|TunnelPeer { mac, tunnel, node }| {
            [
                format!("{mac} dst {node} self permanent"),
                format!("{tunnel} lladdr {mac} PERMANENT"),
            ]
        })
        .collect()
}

fn reconcile(netlink: &mut Rtnetlink, link: &Link, peers: &[TunnelPeer]) -> usize {
    let done = peers::reconcile(netlink, link, &table(peers)).unwrap();
    assert!(done.failures.is_empty(), "{:?}", done.failures);
    assert_eq!(shown(link.name.as_str()), expected(peers));
    done.done
}

#[test]
fn nodes_come_move_and_go_and_what_others_wrote_goes_too() {
    on_a_node(|| {
        let mut netlink = Rtnetlink::open().unwrap();
        // A neighbour's device with entries of its own, which nothing here may touch.
        iproute("link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 nolearning");
        iproute("link set flannel.1 up");
        bridge("fdb add aa:00:00:00:00:01 dev flannel.1 dst 192.0.2.7");
        iproute("neigh add 10.244.1.0 lladdr aa:00:00:00:00:01 dev flannel.1 nud permanent");
        let theirs = shown("flannel.1");
        assert_eq!(theirs.len(), 2);
        for (family, local, address) in [
            (Family::V4, "192.0.2.1", "10.65.0.1"),
            (Family::V6, "2001:db8::1", "fd00:65::1"),
        ] {
            let device = vxlan::ensure(&mut netlink, &wanted("node-0", local, address))
                .unwrap()
                .link;
            let name = device.name.as_str();
            let mut peers: Vec<TunnelPeer> = (2..5).map(|number| peer(number, family)).collect();
            assert_eq!(reconcile(&mut netlink, &device, &peers), 6);
            assert_eq!(reconcile(&mut netlink, &device, &peers), 0, "the second time");

            // One node has another address: one order, in place.
            peers[0].node = peer(99, family).node;
            assert_eq!(reconcile(&mut netlink, &device, &peers), 1);
            // Another has another Ethernet address, a third has gone.
            peers[1].mac = MacAddress::new([0x66, 1, 1, 1, 1, 1]);
            let gone = peers.pop().unwrap();
            assert_eq!(reconcile(&mut netlink, &device, &peers), 5);

            // Others write, on our device: beside ours, in place of ours, and of their own.
            let TunnelPeer { mac, tunnel, .. } = peers[0];
            let stranger = peer(200, family);
            for command in [
                format!("fdb replace {mac} dev {name} dst {}", stranger.node),
                format!("fdb add aa:00:00:00:00:02 dev {name} dst {}", stranger.node),
                format!("fdb append 00:00:00:00:00:00 dev {name} dst {}", stranger.node),
                format!(
                    "fdb append 00:00:00:00:00:00 dev {name} dst {} port 99 vni 5",
                    gone.node
                ),
                format!("fdb del {} dev {name}", peers[1].mac),
            ] {
                bridge(&command);
            }
            iproute(&format!(
                "neigh replace {tunnel} lladdr aa:00:00:00:00:03 dev {name} nud permanent"
            ));
            iproute(&format!(
                "neigh add {} lladdr {} dev {name} nud permanent",
                gone.tunnel, gone.mac
            ));
            assert_eq!(reconcile(&mut netlink, &device, &peers), 7);
            assert_eq!(reconcile(&mut netlink, &device, &peers), 0);

            // Down and up again: the kernel has forgotten the neighbours.
            iproute(&format!("link set {name} down"));
            let device = vxlan::ensure(&mut netlink, &wanted("node-0", local, address))
                .unwrap()
                .link;
            assert_eq!(reconcile(&mut netlink, &device, &peers), 2);

            assert_eq!(reconcile(&mut netlink, &device, &[]), 4);
            assert_eq!(shown("flannel.1"), theirs);
        }
    });
}

#[test]
fn five_thousand_nodes_are_written_in_bulk_and_read_again() {
    on_a_node(|| {
        let mut netlink = Rtnetlink::open().unwrap();
        let device = vxlan::ensure(&mut netlink, &wanted("node-0", "192.0.2.1", "10.65.255.1"))
            .unwrap()
            .link;
        let mut peers: Vec<TunnelPeer> = (1..=5_000).map(|number| peer(number, Family::V4)).collect();
        let mut timed = |peers: &[TunnelPeer], steps: usize| {
            let table = table(peers);
            let began = Instant::now();
            let done = peers::reconcile(&mut netlink, &device, &table).unwrap();
            let time = began.elapsed();
            assert!(done.failures.is_empty(), "{:?}", done.failures.first());
            assert_eq!(done.done, steps);
            assert_eq!(shown("vxlan.calico"), expected(peers));
            time
        };
        let first = timed(&peers, 10_000);
        peers[2_500].node = ip("198.19.0.1");
        let second = timed(&peers, 1);
        // The same for one node without reading the others: nothing is left to do afterwards.
        let before = peers[100];
        peers[100].node = ip("198.19.0.2");
        let began = Instant::now();
        let steps = peers::change(device.index, Some(before), Some(peers[100]));
        let failures = peers::execute(&mut netlink, &device, &steps).unwrap();
        let third = began.elapsed();
        assert!(failures.is_empty(), "{failures:?}");
        let gone = peers.pop().unwrap();
        let steps = peers::change(device.index, Some(gone), None);
        assert!(peers::execute(&mut netlink, &device, &steps).unwrap().is_empty());
        assert_eq!(reconcile(&mut netlink, &device, &peers), 0);
        eprintln!("5,000 nodes: {first:?}; one that moved: {second:?}, by its own steps {third:?}");
    });
}

#[test]
fn what_happens_to_a_device_s_entries_is_told() {
    on_a_node(|| {
        let mut netlink = Rtnetlink::open().unwrap();
        let device = vxlan::ensure(&mut netlink, &wanted("node-0", "192.0.2.1", "10.65.0.1"))
            .unwrap()
            .link;
        let mut socket = Socket::new(0).unwrap();
        socket.bind_auto().unwrap();
        socket.set_non_blocking(true).unwrap();
        socket.add_membership(NEWS_GROUP).unwrap();
        let peers = [peer(2, Family::V4)];
        reconcile(&mut netlink, &device, &peers);
        let TunnelPeer { mac, tunnel, node } = peers[0];
        bridge(&format!("fdb del {mac} dev vxlan.calico"));
        iproute(&format!("neigh del {tunnel} dev vxlan.calico"));
        let mut told: Vec<String> = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        for wanted in [
            format!("Present {mac} at {node}"),
            format!("Present {tunnel} by {mac}"),
            format!("Gone {mac} at {node}"),
            format!("Gone {tunnel}"),
        ] {
            while !told.iter().any(|line| line.starts_with(&wanted)) {
                assert!(Instant::now() < deadline, "not told {wanted:?}, only {told:#?}");
                told.extend(read(&socket, device.index));
            }
        }
    });
}

/// Reads one datagram of news, if there is one.
fn read(socket: &Socket, link: u32) -> Vec<String> {
    let mut buffer = Vec::with_capacity(64 * 1024);
    if socket.recv(&mut buffer, 0).is_err() {
        std::thread::yield_now();
        return Vec::new();
    }
    let mut rest = buffer.as_slice();
    let mut lines = Vec::new();
    while rest.len() >= 16 {
        let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
        let message_type = u16::from_ne_bytes(rest[4..6].try_into().unwrap());
        if let Some(news) = peers::news(message_type, &rest[16..length])
            && news.link() == link
        {
            lines.push(match news {
                PeerNews::Forwarding(change, entry) => {
                    let node = entry.node.map(|node| node.to_string()).unwrap_or_default();
                    format!("{change:?} {} at {node}", entry.mac)
                }
                PeerNews::Neighbour(change @ Change::Gone, entry) => format!("{change:?} {}", entry.address),
                PeerNews::Neighbour(change, entry) => {
                    let mac = entry.mac.map(|mac| mac.to_string()).unwrap_or_default();
                    format!("{change:?} {} by {mac}", entry.address)
                }
            });
        }
        rest = rest.get((length + 3) & !3..).unwrap_or_default();
    }
    lines
}
