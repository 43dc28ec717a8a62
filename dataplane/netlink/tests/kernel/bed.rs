//! A node and its pods, each a network namespace without a name.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::undisturbed::undisturbed;
use dataplane_netlink::links::{self, LinkSpec};
use dataplane_netlink::workload::{ConnectRequest, WorkloadSettings, Workloads};
use dataplane_netlink::{InterfaceName, NetworkNamespace, Rtnetlink, addresses, routes, sysctl};

/// How long a packet that has to arrive is waited for; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test inside a new namespace that stands for a node, with forwarding on and loopback up.
pub(crate) fn on_a_node(test: impl FnOnce() + Send) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and has to run as root"
    );
    let node = NetworkNamespace::anonymous().expect("make the node's namespace");
    node.run(|| {
        sysctl::Sysctls::default()
            .apply(&sysctl::forwarding())
            .expect("switch forwarding on");
        let mut netlink = Rtnetlink::open().unwrap();
        up(&mut netlink, "lo");
        test();
    })
    .expect("run inside the node's namespace");
}

pub(crate) fn name(text: &str) -> InterfaceName {
    InterfaceName::new(text).unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn up(netlink: &mut Rtnetlink, interface: &str) {
    let link = links::find(netlink, &name(interface)).unwrap().expect(interface);
    links::execute(netlink, &link, &links::plan(&LinkSpec::UP, &link)).unwrap();
}

/// Gives the node an address that pods can speak to.
pub(crate) fn node_address(address: &str) -> IpAddr {
    let mut netlink = Rtnetlink::open().unwrap();
    let loopback = links::find(&mut netlink, &name("lo")).unwrap().unwrap();
    let address = ip(address);
    addresses::execute(
        &mut netlink,
        &loopback,
        &[addresses::AddressStep::Add(address.into())],
    )
    .unwrap();
    while !routes::is_local(&mut netlink, address).unwrap() {
        std::thread::yield_now();
    }
    address
}

pub(crate) fn workloads() -> Workloads {
    Workloads::open(WorkloadSettings::default()).unwrap()
}

pub(crate) fn pod() -> NetworkNamespace {
    NetworkNamespace::anonymous().expect("make a pod's namespace")
}

pub(crate) fn request<'pod>(
    pod: &'pod NetworkNamespace,
    host: &str,
    addresses: &[&str],
) -> ConnectRequest<'pod> {
    ConnectRequest {
        namespace: pod,
        container_interface: name("eth0"),
        host_interface: name(host),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        mtu: 1450,
        container_mac: None,
        routes: Vec::new(),
    }
}

/// Opens a UDP socket that stays in the namespace.
pub(crate) fn socket_in(namespace: &NetworkNamespace, address: IpAddr) -> UdpSocket {
    namespace.run(|| socket(address)).unwrap()
}

/// Opens a UDP socket in the calling thread's namespace.
pub(crate) fn socket(address: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::new(address, 0)).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends one packet there and one back; neither may be lost.
pub(crate) fn exchange(from: &UdpSocket, to: &UdpSocket) {
    let (there, back) = (to.local_addr().unwrap(), from.local_addr().unwrap());
    let mut buffer = [0; 16];
    from.send_to(b"ping", there).expect("send");
    let (length, sender) = undisturbed(|| to.recv_from(&mut buffer))
        .unwrap_or_else(|error| panic!("{back} -> {there}: {error}"));
    assert_eq!((&buffer[..length], sender), (&b"ping"[..], back));
    to.send_to(b"pong", sender).expect("answer");
    let (length, sender) = undisturbed(|| from.recv_from(&mut buffer))
        .unwrap_or_else(|error| panic!("{there} -> {back}: {error}"));
    assert_eq!((&buffer[..length], sender), (&b"pong"[..], there));
}

/// Runs `ip` in the calling thread's namespace, for objects that are to be foreign.
pub(crate) fn iproute(arguments: &str) -> String {
    let output = Command::new("/usr/sbin/ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("the tests need /usr/sbin/ip (package iproute2)");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Loads rules into the calling thread's namespace.
pub(crate) fn nft(rules: &str) {
    let mut child = Command::new("/usr/sbin/nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the tests need /usr/sbin/nft (package nftables)");
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "nft refused\n{rules}");
}
