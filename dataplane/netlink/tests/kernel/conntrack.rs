//! Connection tracking with real flows between pods.

use std::net::UdpSocket;

use dataplane_netlink::NetworkNamespace;
use dataplane_netlink::conntrack::{Conntrack, Family, FlowFilter, Layer4, Outcome};

use crate::bed::{exchange, ip, nft, on_a_node, pod, request, socket_in, workloads};
use crate::undisturbed::undisturbed;

/// Switches connection tracking on, and translates a service's address to the second pod's.
const RULES: &str = "
table inet test {
  chain forward { type filter hook forward priority filter; policy accept; ct state invalid drop; }
}
table ip service {
  chain prerouting { type nat hook prerouting priority dstnat; policy accept; ip daddr 10.96.0.1 dnat to 10.65.0.6; }
}
";

struct Pods {
    namespaces: Vec<NetworkNamespace>,
    v4: Vec<UdpSocket>,
    v6: Vec<UdpSocket>,
}

/// Connects three pods, 10.65.0.5 to 10.65.0.7, and opens a socket of each family in each.
fn pods() -> Pods {
    nft(RULES);
    let mut driver = workloads();
    let mut pods = Pods {
        namespaces: Vec::new(),
        v4: Vec::new(),
        v6: Vec::new(),
    };
    for number in 5..8 {
        let (v4, v6) = (format!("10.65.0.{number}"), format!("fd00:65::{number}"));
        let pod = pod();
        driver
            .connect(&request(&pod, &format!("cali{number}"), &[&v4, &v6]))
            .unwrap();
        pods.v4.push(socket_in(&pod, ip(&v4)));
        pods.v6.push(socket_in(&pod, ip(&v6)));
        pods.namespaces.push(pod);
    }
    pods
}

#[test]
fn flows_are_listed_as_they_are() {
    on_a_node(|| {
        let pods = pods();
        exchange(&pods.v4[0], &pods.v4[1]);
        exchange(&pods.v6[0], &pods.v6[1]);
        let mut conntrack = Conntrack::open().unwrap();
        let flows = conntrack.list(&FlowFilter::default()).unwrap();
        let flow = flows
            .iter()
            .find(|flow| flow.original.source == ip("10.65.0.5"))
            .unwrap();
        assert_eq!(flow.original.destination, ip("10.65.0.6"));
        assert_eq!(flow.original.protocol, 17);
        let ports = Layer4::Ports {
            source: pods.v4[0].local_addr().unwrap().port(),
            destination: pods.v4[1].local_addr().unwrap().port(),
        };
        assert_eq!(flow.original.layer4, ports);
        assert_eq!(flow.reply.source, ip("10.65.0.6"));
        assert!(flow.status.is_answered() && !flow.status.is_destination_translated());
        assert_eq!(flow.zone, 0);
        let v6 = conntrack
            .list(&FlowFilter {
                family: Family::V6,
                ..FlowFilter::default()
            })
            .unwrap();
        assert!(v6.iter().all(|flow| flow.original.source.is_ipv6()));
        assert!(v6.iter().any(|flow| flow.original.source == ip("fd00:65::5")));
        let count = conntrack.table_use().unwrap();
        assert!(count.entries as usize >= flows.len().min(2), "{count:?}");
        assert!(count.maximum.is_some_and(|maximum| maximum > 0));
    });
}

#[test]
fn a_departed_pods_flows_are_forgotten_and_the_others_stay() {
    on_a_node(|| {
        let pods = pods();
        for sockets in [&pods.v4, &pods.v6] {
            exchange(&sockets[0], &sockets[1]);
            exchange(&sockets[1], &sockets[2]);
            exchange(&sockets[2], &sockets[0]);
        }
        let mut conntrack = Conntrack::open().unwrap();
        let departed = [ip("10.65.0.5"), ip("fd00:65::5")];
        let stays = |conntrack: &mut Conntrack| {
            let flows = conntrack
                .list(&FlowFilter {
                    protocol: Some(17),
                    ..FlowFilter::default()
                })
                .unwrap();
            flows
                .iter()
                .filter(|flow| !departed.iter().any(|address| flow.involves(*address)))
                .count()
        };
        assert_eq!(stays(&mut conntrack), 2);
        let forgotten = conntrack.forget_addresses(&departed).unwrap();
        // Each family has one flow from the pod and one to it; the kernel's own may come on top.
        assert!(forgotten.entries >= 4, "{forgotten:?}");
        assert_eq!(forgotten.outcome, Outcome::Clean);
        for address in departed {
            assert_eq!(conntrack.list(&FlowFilter::address(address)).unwrap(), []);
        }
        assert_eq!(stays(&mut conntrack), 2, "flows between the others stay");
        assert_eq!(conntrack.forget_addresses(&departed).unwrap().entries, 0);
    });
}

#[test]
fn a_flow_that_was_translated_to_a_pod_is_forgotten_too() {
    on_a_node(|| {
        let pods = pods();
        let port = pods.v4[1].local_addr().unwrap().port();
        pods.v4[0].send_to(b"ping", (ip("10.96.0.1"), port)).unwrap();
        let mut buffer = [0; 16];
        undisturbed(|| pods.v4[1].recv_from(&mut buffer)).expect("the service's packet arrives");
        let mut conntrack = Conntrack::open().unwrap();
        let flows = conntrack.list(&FlowFilter::address(ip("10.65.0.6"))).unwrap();
        let flow = flows
            .first()
            .expect("found by the address that only the replies have");
        assert_eq!(
            (flow.original.destination, flow.reply.source),
            (ip("10.96.0.1"), ip("10.65.0.6"))
        );
        assert!(flow.status.is_destination_translated());
        assert_eq!(conntrack.forget_addresses(&[ip("10.65.0.6")]).unwrap().entries, 1);
        assert_eq!(conntrack.list(&FlowFilter::address(ip("10.96.0.1"))).unwrap(), []);
    });
}

#[test]
fn many_addresses_are_forgotten_at_once() {
    on_a_node(|| {
        let pods = pods();
        exchange(&pods.v4[0], &pods.v4[1]);
        exchange(&pods.v6[1], &pods.v6[2]);
        let mut conntrack = Conntrack::open().unwrap();
        let mut addresses = vec![ip("10.65.0.5"), ip("fd00:65::7")];
        addresses.extend((100..150).map(|number| ip(&format!("10.65.0.{number}"))));
        let forgotten = conntrack.forget_addresses(&addresses).unwrap();
        assert!(forgotten.entries >= 2, "{forgotten:?}");
        assert_eq!(
            conntrack
                .list(&FlowFilter {
                    protocol: Some(17),
                    ..FlowFilter::default()
                })
                .unwrap(),
            []
        );
    });
}

#[test]
fn only_the_flows_that_are_meant_are_forgotten_and_a_second_time_is_no_error() {
    on_a_node(|| {
        let pods = pods();
        exchange(&pods.v4[0], &pods.v4[1]);
        exchange(&pods.v4[0], &pods.v4[2]);
        let mut conntrack = Conntrack::open().unwrap();
        let port = pods.v4[1].local_addr().unwrap().port();
        let filter = FlowFilter {
            protocol: Some(17),
            destination_port: Some(port),
            ..FlowFilter::default()
        };
        let to_second = conntrack.list(&filter).unwrap();
        let removed = conntrack
            .forget_where(&filter, |flow| flow.original.destination == ip("10.65.0.6"))
            .unwrap();
        assert_eq!(removed, 1);
        assert_eq!(conntrack.forget(&to_second).unwrap(), 0, "they have gone already");
        let left = conntrack.list(&FlowFilter::address(ip("10.65.0.5"))).unwrap();
        assert!(
            left.iter()
                .any(|flow| flow.original.destination == ip("10.65.0.7"))
        );
    });
}

#[test]
fn a_table_larger_than_one_datagram_is_emptied() {
    on_a_node(|| {
        let pods = pods();
        let to = pods.v4[1].local_addr().unwrap();
        let sockets: Vec<UdpSocket> = pods.namespaces[0]
            .run(|| {
                (0..600)
                    .map(|_| UdpSocket::bind("10.65.0.5:0").unwrap())
                    .collect()
            })
            .unwrap();
        for socket in &sockets {
            socket.send_to(b"x", to).unwrap();
        }
        let mut conntrack = Conntrack::open().unwrap();
        let forgotten = conntrack.forget_addresses(&[ip("10.65.0.5")]).unwrap();
        assert!(forgotten.entries >= 600, "{forgotten:?}");
        assert_eq!(forgotten.outcome, Outcome::Clean);
    });
}

#[test]
fn a_namespace_that_tracks_nothing_is_empty() {
    on_a_node(|| {
        let mut conntrack = Conntrack::open().unwrap();
        assert_eq!(conntrack.list(&FlowFilter::default()).unwrap(), []);
        assert_eq!(conntrack.forget_addresses(&[ip("10.65.0.5")]).unwrap().entries, 0);
    });
}
