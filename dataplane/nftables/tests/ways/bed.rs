//! A node with two workloads of two pools, and a neighbour outside that knows no way to pods.

use crate::carrying::{introduce, until_it_carries};
use crate::sockets::bound;
use crate::undisturbed::undisturbed;
use dataplane_api::{AtomId, ClusterNode, EndpointId, Policy, PolicyId, PoolRange, Update, WorkloadEndpoint};
use dataplane_netlink::{NetworkNamespace, sysctl};
use dataplane_nftables::contents::{contents, difference};
use dataplane_nftables::layout::{EndpointToHost, LayoutSettings};
use dataplane_nftables::observe::observe;
use dataplane_nftables::socket::Link;
use dataplane_nftables::wire::{Expr, Family};
use dataplane_nftables::{Applied, Driver, DriverSettings};
use dataplane_tables::Tables;
use policy_model::{Action, EncapsulationMode};
use policy_model_rules::{Rule, Side};
use policy_model_selector::Selector;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long what has to happen is waited for; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Addresses of the node on the way outside.
pub(crate) const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// An address of the node that is on no way, for the fixed address of what goes out.
pub(crate) const ALSO_NODE: &str = "198.51.100.1";
/// Addresses of the neighbour: of another node, and of nobody that the cluster knows.
pub(crate) const PEER: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
pub(crate) const STRANGER: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
/// Addresses of the workloads, each of other pools.
pub(crate) const FIRST: [&str; 2] = ["10.65.0.5", "fd00:65::5"];
pub(crate) const SECOND: [&str; 2] = ["10.66.0.6", "fd00:66::6"];
/// The pools of the first, and of the second.
pub(crate) const POOLS: [[&str; 2]; 2] = [["10.65.0.0/16", "fd00:65::/48"], ["10.66.0.0/20", "fd00:66::/52"]];

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

/// Looks again and again until something is so.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// The namespaces. The test itself runs in the node's.
pub(crate) struct Bed {
    pub(crate) outside: NetworkNamespace,
    pub(crate) first: NetworkNamespace,
    pub(crate) second: NetworkNamespace,
}

/// Makes a node and runs a test there.
pub(crate) fn on_a_node(test: impl FnOnce(&Bed) + Send) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and has to run as root"
    );
    let namespace = || NetworkNamespace::anonymous().unwrap();
    let node = namespace();
    let bed = Bed {
        outside: namespace(),
        first: namespace(),
        second: namespace(),
    };
    let body = || {
        sysctl::Sysctls::default().apply(&sysctl::forwarding()).unwrap();
        run_ip("link set lo up");
        run_ip(&format!("addr add {ALSO_NODE}/32 dev lo"));
        connect(&bed.outside, "up0", NODE, &[PEER, STRANGER]);
        let gateways = ["10.65.0.1", "fd00:65::1"];
        connect(&bed.first, "cali1", gateways, &[FIRST]);
        leads_outside(&bed.first, gateways);
        let gateways = ["10.66.0.1", "fd00:66::1"];
        connect(&bed.second, "cali2", gateways, &[SECOND]);
        leads_outside(&bed.second, gateways);
        // What the answers to the fixed address of the node need; nothing leads to a pod.
        let back = format!("route add {ALSO_NODE}/32 via {}", NODE[0]);
        bed.outside.run(|| run_ip(&back)).unwrap();
        test(&bed);
    };
    node.run(body).unwrap();
}

/// Connects a namespace with the node; `there` are its addresses.
pub(crate) fn connect(namespace: &NetworkNamespace, interface: &str, here: [&str; 2], there: &[[&str; 2]]) {
    let place = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    run_ip(&format!(
        "link add {interface} type veth peer name eth0 netns {place}"
    ));
    give(interface, here);
    let all_there = there.concat();
    let inside = || {
        run_ip("link set lo up");
        there.iter().for_each(|addresses| give("eth0", *addresses));
        until_it_carries("eth0", &all_there);
    };
    namespace.run(inside).unwrap();
    until_it_carries(interface, &here);
    introduce((interface, &here), (namespace, "eth0", &all_there));
}

/// Gives an interface addresses of a network with neighbours, in use at once.
fn give(interface: &str, [v4, v6]: [&str; 2]) {
    run_ip(&format!("addr add {v4}/24 dev {interface}"));
    run_ip(&format!("addr add {v6}/64 dev {interface} nodad"));
    run_ip(&format!("link set {interface} up"));
}

/// Lets everything else of a namespace go by way of the node.
fn leads_outside(namespace: &NetworkNamespace, gateways: [&str; 2]) {
    let routes = || {
        gateways
            .iter()
            .for_each(|to| run_ip(&format!("route add default via {to}")))
    };
    namespace.run(routes).unwrap();
}

/// A node of the cluster.
pub(crate) fn node(name: &str, addresses: &[&str]) -> Update {
    Update::Node(ClusterNode {
        name: name.into(),
        is_here: name == "here",
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        ipip: None,
        vxlan4: None,
        vxlan6: None,
        vxlan_mac: None,
    })
}

/// A pool.
pub(crate) fn pool(cidr: &str, nat_outgoing: bool) -> Update {
    Update::Pool(PoolRange {
        cidr: cidr.parse().unwrap(),
        nat_outgoing,
        ipip: EncapsulationMode::Never,
        vxlan: EncapsulationMode::Never,
    })
}

/// Both workloads, of which everything is allowed, both nodes, and the pools; what leaves the first's is translated.
pub(crate) fn world() -> Vec<Update> {
    let open = PolicyId::profile("open");
    let allow = || Rule::<AtomId> {
        action: Action::Allow,
        index: 0,
        ip_version: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Side::default(),
        destination: Side::default(),
    };
    let endpoint = |interface: &str, addresses: [&str; 2]| {
        Update::Workload(Arc::new(WorkloadEndpoint {
            id: EndpointId {
                namespace: "ns".into(),
                name: interface.into(),
            },
            interface: interface.to_owned(),
            mac: None,
            addresses: addresses.iter().map(|a| ip(a)).collect(),
            spoofable: Vec::new(),
            ingress: Vec::new(),
            egress: Vec::new(),
            profiles: vec![open.clone()],
        }))
    };
    let mut updates = vec![
        Update::Policy(Arc::new(Policy {
            id: open.clone(),
            tier: "default".into(),
            order: None,
            selector: Selector::all(),
            applies_ingress: true,
            applies_egress: true,
            ingress: vec![allow()],
            egress: vec![allow()],
        })),
        endpoint("cali1", FIRST),
        endpoint("cali2", SECOND),
        node("here", &[NODE[0], NODE[1], ALSO_NODE]),
        node("peer", &PEER),
    ];
    for (pools, translated) in POOLS.iter().zip([true, false]) {
        updates.extend(pools.iter().map(|cidr| pool(cidr, translated)));
    }
    updates.push(Update::InSync);
    updates
}

/// Settings with which a workload may speak to its node.
pub(crate) fn settings() -> LayoutSettings {
    LayoutSettings {
        endpoint_to_host: EndpointToHost::Accept,
        ..LayoutSettings::default()
    }
}

/// Decision tables and driver of a node.
pub(crate) struct Agent {
    pub(crate) tables: Tables,
    pub(crate) driver: Driver,
}

impl Agent {
    /// One that has been told the world and has written nothing.
    pub(crate) fn new(layout: LayoutSettings) -> Self {
        let mut tables = Tables::new();
        world().iter().for_each(|update| tables.apply(update));
        let driver = Driver::open(DriverSettings { layout, owned: false }).unwrap();
        Agent { tables, driver }
    }

    /// One whose world is in force.
    pub(crate) fn started(layout: LayoutSettings) -> Self {
        let mut agent = Agent::new(layout);
        agent.tell(&[]);
        agent
    }

    /// Takes updates in and brings them into force.
    pub(crate) fn tell(&mut self, updates: &[Update]) -> Applied {
        updates.iter().for_each(|update| self.tables.apply(update));
        let changes = self.tables.commit();
        let applied = self.driver.apply(&self.tables, &changes, 0).unwrap();
        self.is_exact();
        applied
    }

    /// The table is what was wanted.
    pub(crate) fn is_exact(&self) {
        let observed = observe(&mut Link::open().unwrap()).unwrap().expect("our table");
        let difference = difference(&contents(self.driver.planner(), &self.tables), &observed);
        assert_eq!(difference.count(), 0, "{difference:#?}");
    }
}

/// How many packets the rules of a chain of ours have counted.
pub(crate) fn counted(chain: &str) -> Vec<u64> {
    let rules = Link::open().unwrap().rules(Family::Inet, "manx").unwrap();
    let of_chain = rules.into_iter().filter(|rule| rule.chain == chain);
    let counters = of_chain.flat_map(|rule| rule.expressions);
    counters
        .filter_map(|expr| match expr {
            Expr::Counter { packets, .. } => Some(packets),
            _ => None,
        })
        .collect()
}

/// A UDP socket in a namespace, which waits for what has to come.
pub(crate) fn udp(namespace: Option<&NetworkNamespace>, address: &str, port: u16) -> UdpSocket {
    let bind = || bound(|| UdpSocket::bind(at(address, port)));
    let socket = namespace.map_or_else(bind, |namespace| namespace.run(bind).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Who sent the next datagram, which has to come; it is answered, and the answer has to come back.
pub(crate) fn answered(server: &UdpSocket, client: &UdpSocket) -> SocketAddr {
    let mut buffer = [0; 64];
    let (_, sender) = undisturbed(|| server.recv_from(&mut buffer)).expect("a datagram comes");
    server.send_to(b"answer", sender).unwrap();
    undisturbed(|| client.recv(&mut buffer)).expect("the answer comes back");
    sender
}

/// A socket that sends and sees whole packets of a protocol of IPv4, other than TCP and UDP.
pub(crate) fn raw(namespace: Option<&NetworkNamespace>, protocol: u8) -> Socket {
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(protocol)))).unwrap();
    let socket = namespace.map_or_else(open, |namespace| namespace.run(open).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The sender of the next packet, which has to come.
pub(crate) fn sender(mut socket: &Socket) -> IpAddr {
    let mut buffer = [0; 256];
    let length = undisturbed(|| socket.read(&mut buffer)).expect("a packet comes");
    assert!(length > 20);
    IpAddr::from([buffer[12], buffer[13], buffer[14], buffer[15]])
}

/// Nothing has come.
pub(crate) fn is_silent(received: std::io::Result<usize>) {
    let error = received.expect_err("nothing may come");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}
