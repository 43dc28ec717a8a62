//! Packets between two nodes through devices that were made here.

use std::net::UdpSocket;
use std::process::Command;

use dataplane_netlink::tunnels::peers::{self, PeerTable, TunnelPeer};
use dataplane_netlink::tunnels::vxlan::{self, VxlanSpec};
use dataplane_netlink::{NetworkNamespace, Rtnetlink};

use crate::bed::{exchange, ip, iproute, nft, node_address, on_a_node, socket, socket_in};
use crate::tunnels::{other_node, vxlan as wanted};

/// Drops at the cable what should have come through a tunnel.
pub(crate) const NOTHING_IN_CLEAR: &str = "
table inet clear {
    chain arrives {
        type filter hook prerouting priority raw
        iifname eth0 ip saddr 10.65.0.0/16 drop
        iifname eth0 ip6 saddr fd00:65::/32 drop
    }
}
";

/// Sends a packet of that many bytes, header included, that nobody may cut; says whether an answer came.
pub(crate) fn ping(from: &str, to: &str, size: u32) -> bool {
    let header = if to.contains(':') { 48 } else { 28 };
    let size = (size - header).to_string();
    let arguments = ["-c", "1", "-W", "20", "-M", "do", "-s", &size, "-I", from, to];
    let output = Command::new("/usr/bin/ping")
        .args(arguments)
        .output()
        .expect("the tests need /usr/bin/ping (package iputils-ping)");
    output.status.success()
}

/// Makes this node's device, tells it of the other, and leads the other's pods there.
fn configure(own: &VxlanSpec, other: &VxlanSpec, pods: &str) {
    let mut netlink = Rtnetlink::open().unwrap();
    let device = vxlan::ensure(&mut netlink, own).unwrap().link;
    let tunnel = other.address.unwrap();
    let mut table = PeerTable::new();
    table
        .insert(TunnelPeer {
            mac: other.identity.mac,
            tunnel,
            node: other.local,
        })
        .unwrap();
    let done = peers::reconcile(&mut netlink, &device, &table).unwrap();
    assert!(done.failures.is_empty(), "{:?}", done.failures);
    let family = if tunnel.is_ipv4() { "-4" } else { "-6" };
    iproute(&format!(
        "{family} route add {pods} via {tunnel} dev {} onlink",
        device.name
    ));
}

fn pod_here(address: &str) -> UdpSocket {
    node_address(address);
    socket(ip(address))
}

fn pod_at(node: &NetworkNamespace, address: &str) -> UdpSocket {
    node.run(|| {
        node_address(address);
    })
    .unwrap();
    socket_in(node, ip(address))
}

#[test]
fn pods_of_two_nodes_speak_through_the_tunnel_of_either_family() {
    on_a_node(|| {
        let other = other_node();
        nft(NOTHING_IN_CLEAR);
        other.run(|| nft(NOTHING_IN_CLEAR)).unwrap();
        for (here, there, pods, blocks) in [
            (
                wanted("node-1", "192.0.2.1", "10.65.1.1"),
                wanted("node-2", "192.0.2.2", "10.65.2.1"),
                ["10.65.1.5", "10.65.2.5"],
                ["10.65.1.0/26", "10.65.2.0/26"],
            ),
            (
                wanted("node-1", "2001:db8::1", "fd00:65:1::1"),
                wanted("node-2", "2001:db8::2", "fd00:65:2::1"),
                ["fd00:65:1::5", "fd00:65:2::5"],
                ["fd00:65:1::/122", "fd00:65:2::/122"],
            ),
        ] {
            configure(&here, &there, blocks[1]);
            other.run(|| configure(&there, &here, blocks[0])).unwrap();
            let (near, far) = (pod_here(pods[0]), pod_at(&other, pods[1]));
            exchange(&near, &far);
            exchange(&far, &near);
            // The node itself speaks to a pod there with its tunnel address, which the other node knows the way to.
            let unbound = socket(if here.local.is_ipv4() {
                ip("0.0.0.0")
            } else {
                ip("::")
            });
            unbound.connect(far.local_addr().unwrap()).unwrap();
            assert_eq!(Some(unbound.local_addr().unwrap().ip()), here.address);
            // What is said to fit does, uncut, and not a byte more.
            assert!(ping(pods[0], pods[1], here.mtu), "{} bytes", here.mtu);
            assert!(!ping(pods[0], pods[1], here.mtu + 1), "{} bytes", here.mtu + 1);
        }
    });
}
