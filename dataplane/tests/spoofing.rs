//! Real packets with addresses that are not their workload's: what a node takes from them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

#[path = "support/mod.rs"]
mod support;
#[path = "packets/undisturbed.rs"]
mod undisturbed;

use dataplane::{Dataplane, DataplaneSettings};
use dataplane_api::{EndpointId, Policy, PolicyId, Update, WorkloadEndpoint};
use dataplane_netlink::addresses::{self, AddressStep};
use dataplane_netlink::links::{self, Link, LinkSpec};
use dataplane_netlink::routes;
use dataplane_netlink::workload::{ConnectRequest, ReversePath, WorkloadSettings, Workloads};
use dataplane_netlink::{InterfaceName, NetworkNamespace, Rtnetlink, sysctl};
use dataplane_nftables::layout::EndpointToHost;
use policy_model::Action;
use policy_model_rules::{Rule, Side};
use policy_model_selector::Selector;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use support::Backend;
use undisturbed::undisturbed;

/// How long a packet that has to arrive is waited for; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(netlink: &mut Rtnetlink, name: &str) -> Link {
    let name = InterfaceName::new(name).unwrap();
    links::find(netlink, &name).unwrap().unwrap()
}

/// Gives an interface of the calling thread's namespace an address, and waits until it is in use.
fn give(interface: &str, address: IpAddr) {
    let mut netlink = Rtnetlink::open().unwrap();
    let link = link(&mut netlink, interface);
    addresses::execute(&mut netlink, &link, &[AddressStep::Add(address.into())]).unwrap();
    while !routes::is_local(&mut netlink, address).unwrap() {
        std::thread::yield_now();
    }
}

fn endpoint(spoofable: &[&str]) -> Update {
    Update::Workload(Arc::new(WorkloadEndpoint {
        id: EndpointId {
            namespace: "ns".into(),
            name: "router".into(),
        },
        interface: "cali1".to_owned(),
        mac: None,
        addresses: vec![ip("10.65.0.5"), ip("fd00:65::5")],
        spoofable: spoofable.iter().map(|net| net.parse().unwrap()).collect(),
        ingress: Vec::new(),
        egress: Vec::new(),
        profiles: vec![PolicyId::profile("open")],
    }))
}

fn profile() -> Update {
    Update::Policy(Arc::new(Policy {
        id: PolicyId::profile("open"),
        tier: "default".into(),
        order: None,
        selector: Selector::all(),
        applies_ingress: true,
        applies_egress: true,
        ingress: Vec::new(),
        egress: vec![Rule {
            action: Action::Allow,
            index: 0,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Side::default(),
            destination: Side::default(),
        }],
    }))
}

/// The senders that the node hears, of those that the workload tries in this order. The last must be heard.
fn heard(pod: &NetworkNamespace, senders: &[&str]) -> Vec<String> {
    let last = senders.last().unwrap();
    let node = if ip(last).is_ipv4() {
        "192.0.2.1"
    } else {
        "2001:db8::1"
    };
    let receiver = UdpSocket::bind(SocketAddr::new(ip(node), 0)).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = receiver.local_addr().unwrap();
    pod.run(|| {
        for sender in senders {
            let socket = UdpSocket::bind(SocketAddr::new(ip(sender), 0)).unwrap();
            socket.send_to(b"hello", to).unwrap();
        }
    })
    .unwrap();
    let mut heard = Vec::new();
    // One interface keeps the order, so that what has not come before the last does not come.
    while heard.last().map(String::as_str) != Some(*last) {
        let (_, sender) = undisturbed(|| receiver.recv_from(&mut [0; 16])).expect("the last sender is heard");
        heard.push(sender.ip().to_string());
    }
    heard
}

#[test]
fn a_workload_sends_from_the_networks_of_its_endpoint_only_where_the_settings_have_it() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and has to run as root"
    );
    Backend::all().for_each(|backend| spoof(&backend));
}

fn spoof(backend: &Backend) {
    let node = NetworkNamespace::anonymous().unwrap();
    let pod = NetworkNamespace::anonymous().unwrap();
    node.run(|| {
        sysctl::Sysctls::default().apply(&sysctl::forwarding()).unwrap();
        let mut netlink = Rtnetlink::open().unwrap();
        let loopback = link(&mut netlink, "lo");
        links::execute(&mut netlink, &loopback, &links::plan(&LinkSpec::UP, &loopback)).unwrap();
        give("lo", ip("192.0.2.1"));
        give("lo", ip("2001:db8::1"));
        let workloads = WorkloadSettings {
            reverse_path: ReversePath::Off,
            ..WorkloadSettings::default()
        };
        Workloads::open(workloads.clone())
            .unwrap()
            .connect(&ConnectRequest {
                namespace: &pod,
                container_interface: InterfaceName::new("eth0").unwrap(),
                host_interface: InterfaceName::new("cali1").unwrap(),
                addresses: vec![ip("10.65.0.5"), ip("fd00:65::5")],
                mtu: 1450,
                container_mac: None,
                routes: Vec::new(),
            })
            .unwrap();
        let (v4, v6) = (
            ["10.9.1.5", "10.9.2.5", "10.65.0.5"],
            ["fd09:1::5", "fd09:2::5", "fd00:65::5"],
        );
        pod.run(|| {
            for address in v4[..2].iter().chain(&v6[..2]) {
                give("eth0", ip(address));
            }
        })
        .unwrap();
        for source_spoofing in [false, true] {
            let settings = DataplaneSettings {
                workloads: workloads.clone(),
                endpoint_to_host: EndpointToHost::Accept,
                source_spoofing,
                rules: backend.settings(),
                ..DataplaneSettings::default()
            };
            let mut dataplane = Dataplane::open(settings).unwrap();
            let networks = ["10.9.1.0/24", "fd09:1::/64"];
            dataplane.take(&[profile(), endpoint(&networks), Update::InSync]);
            dataplane.apply(0).unwrap();
            for senders in [v4, v6] {
                let expected = if source_spoofing {
                    vec![senders[0], senders[2]]
                } else {
                    vec![senders[2]]
                };
                assert_eq!(heard(&pod, &senders), expected, "spoofing: {source_spoofing}");
            }
            // Taken back, it is no longer heard.
            dataplane.take(&[endpoint(&[])]);
            dataplane.apply(1).unwrap();
            for senders in [v4, v6] {
                assert_eq!(heard(&pod, &senders), [senders[2]]);
            }
        }
    })
    .unwrap();
}
