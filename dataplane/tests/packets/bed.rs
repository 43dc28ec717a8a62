//! A node with two workloads and a neighbour outside, and what each of them reaches.

use crate::carrying::{introduce, until_it_carries};
use crate::sockets::bound;
use crate::support::Backend;
use crate::undisturbed::undisturbed;
use dataplane::{Dataplane, DataplaneSettings, IptablesSettings, PassReport, RulesBackend};
use dataplane_api::{
    AtomId, AtomScope, EndpointId, HostPort, Member, Policy, PolicyId, TierPolicies, Update, WorkloadEndpoint,
};
use dataplane_netlink::workload::{ConnectRequest, WorkloadSettings, Workloads};
use dataplane_netlink::{InterfaceName, NetworkNamespace, sysctl};
use dataplane_nftables::layout::{EndpointToHost, Refusal};
use policy_model::{Action, DefaultAction, Protocol};
use policy_model_rules::{Rule, Side};
use policy_model_selector::Selector;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long what has to happen is waited for; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Addresses of the node on the way outside; it has another of each family.
pub(crate) const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// Further addresses of the node.
pub(crate) const ALSO_NODE: [&str; 2] = ["198.51.100.1", "2001:db8:9::1"];
/// The neighbour that policy lets in.
pub(crate) const FRIEND: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
/// The same neighbour by other addresses, which policy does not know.
pub(crate) const STRANGER: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
/// Addresses of the workload with ports.
pub(crate) const SERVER: [&str; 2] = ["10.65.0.5", "fd00:65::5"];
/// Addresses of another workload of the node.
pub(crate) const OTHER: [&str; 2] = ["10.65.0.6", "fd00:65::6"];

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// Runs `ip`; it must succeed.
pub(crate) fn run_ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status();
    assert!(status.expect("ip (iproute2)").success(), "ip {arguments}");
}

/// The namespaces. The test itself runs in the node's.
pub(crate) struct Bed {
    /// What holds policy there.
    pub(crate) backend: Backend,
    pub(crate) outside: NetworkNamespace,
    pub(crate) server: NetworkNamespace,
    pub(crate) other: NetworkNamespace,
}

/// Makes a node for each way to hold policy, and runs a test there.
pub(crate) fn on_a_node(test: impl Fn(&Bed) + Sync) {
    Backend::all().for_each(|backend| on_one(backend, &test));
}

/// Makes one node, for tests that choose how to hold policy themselves.
pub(crate) fn on_one_node(test: impl Fn(&Bed) + Sync) {
    Backend::all().take(1).for_each(|backend| on_one(backend, &test));
}

/// The same with both variants of iptables, for what is theirs alone.
pub(crate) fn on_a_node_with_iptables(test: impl Fn(&Bed, &IptablesSettings) + Sync) {
    for backend in Backend::all() {
        if let RulesBackend::Iptables(settings) = backend.settings() {
            on_one(backend, &|bed| test(bed, &settings));
        }
    }
}

fn on_one(backend: Backend, test: &(impl Fn(&Bed) + Sync)) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and has to run as root"
    );
    let namespace = || NetworkNamespace::anonymous().unwrap();
    let node = namespace();
    let bed = Bed {
        backend,
        outside: namespace(),
        server: namespace(),
        other: namespace(),
    };
    node.run(|| {
        bed.connect();
        test(&bed);
    })
    .unwrap();
}

impl Bed {
    fn connect(&self) {
        sysctl::Sysctls::default().apply(&sysctl::forwarding()).unwrap();
        // Who is denied hears of it each time.
        for limit in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
            std::fs::write(format!("/proc/sys/net/{limit}"), "0").unwrap();
        }
        run_ip("link set lo up");
        let outside = format!("/proc/{}/fd/{}", std::process::id(), self.outside.as_raw_fd());
        run_ip(&format!("link add up0 type veth peer name eth0 netns {outside}"));
        give("up0", NODE);
        for (address, length) in ALSO_NODE.iter().zip([32, 128]) {
            run_ip(&format!("addr add {address}/{length} dev lo"));
        }
        run_ip("link set up0 up");
        let there = [FRIEND, STRANGER].concat();
        let beyond = || {
            run_ip("link set lo up");
            give("eth0", FRIEND);
            give("eth0", STRANGER);
            run_ip("link set eth0 up");
            for gateway in NODE {
                run_ip(&format!("route add default via {gateway}"));
            }
            until_it_carries("eth0", &there);
        };
        self.outside.run(beyond).unwrap();
        until_it_carries("up0", &NODE);
        introduce(("up0", &NODE), (&self.outside, "eth0", &there));
        let mut workloads = Workloads::open(WorkloadSettings::default()).unwrap();
        for (namespace, interface, addresses) in
            [(&self.server, "cali1", SERVER), (&self.other, "cali2", OTHER)]
        {
            workloads
                .connect(&ConnectRequest {
                    namespace,
                    container_interface: InterfaceName::new("eth0").unwrap(),
                    host_interface: InterfaceName::new(interface).unwrap(),
                    addresses: addresses.iter().map(|a| ip(a)).collect(),
                    mtu: 1450,
                    container_mac: None,
                    routes: Vec::new(),
                })
                .unwrap();
        }
    }

    /// The dataplane of the node: the server lets in one neighbour, everything else is open.
    pub(crate) fn dataplane(&self) -> Dataplane {
        self.start(self.settings()).0
    }

    /// The same with other settings, and what its first pass did.
    pub(crate) fn start(&self, settings: DataplaneSettings) -> (Dataplane, PassReport) {
        let mut dataplane = Dataplane::open(settings).unwrap();
        let is_iptables = dataplane.driver().iptables().is_some();
        assert_eq!(is_iptables, self.backend.variant.is_some());
        dataplane.take(&updates());
        let report = apply(&mut dataplane);
        (dataplane, report)
    }

    pub(crate) fn settings(&self) -> DataplaneSettings {
        DataplaneSettings {
            endpoint_to_host: EndpointToHost::Accept,
            // Who is denied hears of it at once.
            refusal: Refusal::Reject,
            owned_table: false,
            rules: self.backend.settings(),
            ..DataplaneSettings::default()
        }
    }
}

/// Gives an interface addresses of a network with neighbours, in use at once.
fn give(interface: &str, [v4, v6]: [&str; 2]) {
    run_ip(&format!("addr add {v4}/24 dev {interface}"));
    run_ip(&format!("addr add {v6}/64 dev {interface} nodad"));
}

fn allow(index: usize, from: Vec<AtomId>) -> Rule<AtomId> {
    Rule {
        action: Action::Allow,
        index,
        ip_version: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Side {
            sets: from,
            ..Side::default()
        },
        destination: Side::default(),
    }
}

fn policy(id: PolicyId, ingress: Rule<AtomId>) -> Update {
    Update::Policy(Arc::new(Policy {
        id,
        tier: "default".into(),
        order: None,
        selector: Selector::all(),
        applies_ingress: true,
        applies_egress: true,
        ingress: vec![ingress],
        egress: vec![allow(0, Vec::new())],
    }))
}

fn endpoint(interface: &str, addresses: [&str; 2], policies: Vec<PolicyId>) -> Update {
    let tier = TierPolicies {
        tier: "default".into(),
        default_action: DefaultAction::Deny,
        policies,
    };
    Update::Workload(Arc::new(WorkloadEndpoint {
        id: EndpointId {
            namespace: "ns".into(),
            name: interface.into(),
        },
        interface: interface.to_owned(),
        mac: None,
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        spoofable: Vec::new(),
        ingress: Some(tier)
            .filter(|t| !t.policies.is_empty())
            .into_iter()
            .collect(),
        egress: Vec::new(),
        profiles: vec![PolicyId::profile("open")],
    }))
}

/// Everything that is said to the dataplane of the node first.
pub(crate) fn updates() -> Vec<Update> {
    let friends = AtomId(1);
    let members = FRIEND.iter().map(|a| Member::Net(ip(a).into())).collect();
    let id = friends_only();
    vec![
        Update::AtomCreated {
            atom: friends,
            scope: AtomScope::Peer,
        },
        Update::Members {
            atom: friends,
            added: members,
            removed: Vec::new(),
        },
        policy(PolicyId::profile("open"), allow(0, Vec::new())),
        policy(id.clone(), allow(0, vec![friends])),
        endpoint("cali1", SERVER, vec![id]),
        endpoint("cali2", OTHER, Vec::new()),
        Update::InSync,
    ]
}

fn friends_only() -> PolicyId {
    PolicyId::namespaced("ns", "friends-only")
}

/// Lets one neighbour in and nobody else.
pub(crate) fn close_the_server(dataplane: &mut Dataplane) -> PassReport {
    dataplane.take(&[endpoint("cali1", SERVER, vec![friends_only()])]);
    apply(dataplane)
}

/// What lets everybody in.
pub(crate) fn opening() -> Update {
    endpoint("cali1", SERVER, Vec::new())
}

/// Lets everybody in.
pub(crate) fn open_the_server(dataplane: &mut Dataplane) {
    dataplane.take(&[opening()]);
    apply(dataplane);
}

pub(crate) fn apply(dataplane: &mut Dataplane) -> PassReport {
    let report = dataplane.apply(0).unwrap();
    assert_eq!(report.faults, Vec::<String>::new());
    report
}

pub(crate) fn host_port(protocol: Protocol, address: &str, port: u16) -> HostPort {
    HostPort {
        protocol,
        address: ip(address),
        port,
    }
}

/// Leads ports of the node on to a port of the workload with these addresses, of either family.
pub(crate) fn lead(dataplane: &mut Dataplane, protocol: Protocol, from: (&str, u16), to: ([&str; 2], u16)) {
    let families = if from.0.is_empty() {
        vec![("0.0.0.0", to.0[0]), ("::", to.0[1])]
    } else {
        vec![(from.0, to.0[usize::from(ip(from.0).is_ipv6())])]
    };
    let updates: Vec<Update> = families
        .into_iter()
        .map(|(address, inside)| Update::HostPort(host_port(protocol, address, from.1), at(inside, to.1)))
        .collect();
    dataplane.take(&updates);
    apply(dataplane);
}

/// Listens in a namespace, on a port of every address.
pub(crate) fn listen(namespace: &NetworkNamespace, port: u16) -> TcpListener {
    let listener = namespace
        .run(|| bound(|| TcpListener::bind(at("::", port))))
        .unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// Connects from a namespace (and an address, where one is named) and says by which address the listener knows the
/// caller; nothing where it is refused.
pub(crate) fn seen(
    namespace: Option<&NetworkNamespace>,
    source: Option<&str>,
    to: SocketAddr,
    listener: &TcpListener,
) -> Option<IpAddr> {
    let connect = || match source {
        None => TcpStream::connect_timeout(&to, PATIENCE),
        Some(source) => connect_from(ip(source), to),
    };
    let connected = match namespace {
        Some(namespace) => namespace.run(connect).unwrap(),
        None => connect(),
    };
    let mut client = match connected {
        Ok(client) => client,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "to {to}: {error}");
            return None;
        }
    };
    let until = Instant::now() + PATIENCE;
    let (mut server, peer) = loop {
        match listener.accept() {
            Ok(accepted) => break accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("connected to {to}, and not to the listener: {error}"),
        }
    };
    // Both ways, so that a translation is right on the way back too.
    server.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    server.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    Some(peer.ip().to_canonical())
}

fn connect_from(source: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let domain = if source.is_ipv4() {
        socket2::Domain::IPV4
    } else {
        socket2::Domain::IPV6
    };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

/// A UDP socket in a namespace.
pub(crate) fn udp(namespace: &NetworkNamespace, address: &str, port: u16) -> UdpSocket {
    let socket = namespace
        .run(|| bound(|| UdpSocket::bind(at(address, port))))
        .unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The next datagram and its sender, which has to come.
pub(crate) fn next(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 64];
    let (length, sender) = undisturbed(|| socket.recv_from(&mut buffer)).expect("a datagram comes");
    (String::from_utf8_lossy(&buffer[..length]).into_owned(), sender)
}
