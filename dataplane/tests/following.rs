//! What the kernel has is followed by its news: a pod makes nobody read whole lists, and no change of others lasts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

#[path = "support/mod.rs"]
mod support;

use dataplane::{Dataplane, DataplaneSettings};
use dataplane_api::{EndpointId, NodeRoute, Update, Way, WorkloadEndpoint};
use dataplane_netlink::links::{self, VethEnd};
use dataplane_netlink::routes::{self, RouteOwnership, RouteTable, RouteTarget};
use dataplane_netlink::workload::{ConnectRequest, RouteSources, WorkloadSettings, Workloads};
use dataplane_netlink::{InterfaceName, InterfacePrefixes, NetworkNamespace, Rtnetlink};
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use support::Backend;

/// How many pods a node has before the one that is looked at.
const PODS: u8 = 20;
/// More passes than any change takes to come into force.
const MANY_PASSES: usize = 50;

/// A node with its dataplane, on the thread that is in its namespace.
struct Node {
    dataplane: Dataplane,
    workloads: Workloads,
    pods: Vec<NetworkNamespace>,
    now: u64,
}

/// The node's own packets take an address that no route of the main table leads to.
fn workload_settings() -> WorkloadSettings {
    WorkloadSettings {
        route_sources: RouteSources {
            v4: Some("198.51.100.1".parse().unwrap()),
            v6: None,
        },
        ..WorkloadSettings::default()
    }
}

/// Runs a test on a node of its own for each way to hold policy.
fn on_a_node(test: impl Fn(Node) + Sync) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and has to run as root"
    );
    Backend::all().for_each(|backend| on_one(&backend, &test));
}

fn on_one(backend: &Backend, test: &(impl Fn(Node) + Sync)) {
    let namespace = NetworkNamespace::anonymous().unwrap();
    let begin = || {
        let settings = DataplaneSettings {
            rules: backend.settings(),
            workloads: workload_settings(),
            ..DataplaneSettings::default()
        };
        let mut node = Node {
            dataplane: Dataplane::open(settings).unwrap(),
            workloads: Workloads::open(workload_settings()).unwrap(),
            pods: Vec::new(),
            now: 0,
        };
        for command in [
            "link set lo up",
            "addr add 198.51.100.1/32 dev lo",
            "link add eth0 type bridge",
            "link set eth0 up",
            "addr add 192.0.2.1/24 dev eth0",
            "addr add 2001:db8::1/64 dev eth0 nodad",
        ] {
            ip(command);
        }
        node.dataplane.take(&[Update::InSync]);
        node.settle();
        test(node);
    };
    namespace.run(begin).unwrap();
}

/// Runs `ip` with each of the commands, parted by semicolons, until one fails; says whether all were possible.
fn try_ip(commands: &str) -> bool {
    commands.split(';').all(|arguments| {
        let output = Command::new("ip").args(arguments.split_whitespace()).output();
        output
            .expect("the tests need ip (package iproute2)")
            .status
            .success()
    })
}

fn ip(arguments: &str) {
    assert!(try_ip(arguments), "ip {arguments}");
}

fn addresses(number: u8) -> Vec<IpAddr> {
    [format!("10.1.0.{number}"), format!("fd00:1::{number}")]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect()
}

fn endpoint(number: u8, addresses: Vec<IpAddr>) -> Update {
    Update::Workload(Arc::new(WorkloadEndpoint {
        id: id(number),
        interface: format!("cali{number}"),
        mac: None,
        addresses,
        spoofable: Vec::new(),
        ingress: Vec::new(),
        egress: Vec::new(),
        profiles: Vec::new(),
    }))
}

fn id(number: u8) -> EndpointId {
    EndpointId {
        namespace: "ns".into(),
        name: format!("pod-{number}").into(),
    }
}

fn range(number: u8) -> Update {
    Update::Route(NodeRoute {
        destination: format!("10.2.{number}.0/24").parse().unwrap(),
        node: "other".into(),
        way: Way::Plain("192.0.2.2".parse().unwrap()),
    })
}

/// The routes that are ours or in their places, and nothing that the kernel adds to them by itself.
fn shown() -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        let output = Command::new("ip")
            .args([family, "-o", "route", "show", "table", "main"])
            .output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let concerned = |line: &&str| !line.contains("proto kernel") && !line.starts_with("fe80");
        lines.extend(
            text.lines()
                .filter(concerned)
                .map(|line| line.replace(" linkdown", "").trim().to_owned()),
        );
    }
    lines.sort();
    lines
}

/// Makes a pod and connects it, as the node's CNI server does.
fn connect(workloads: &mut Workloads, number: u8) -> NetworkNamespace {
    let pod = NetworkNamespace::anonymous().unwrap();
    let request = ConnectRequest {
        namespace: &pod,
        container_interface: InterfaceName::new("eth0").unwrap(),
        host_interface: InterfaceName::new(format!("cali{number}")).unwrap(),
        addresses: addresses(number),
        mtu: 1450,
        container_mac: None,
        routes: Vec::new(),
    };
    workloads.connect(&request).unwrap();
    pod
}

impl Node {
    /// Reads the news and applies until there is nothing to do. Returns how many passes that took.
    fn settle(&mut self) -> usize {
        for pass in 0..MANY_PASSES {
            self.dataplane.take_events().unwrap();
            if !self.dataplane.is_dirty() {
                return pass;
            }
            self.now += 1;
            self.dataplane.apply(self.now).unwrap();
        }
        panic!("there is always something to do");
    }

    /// What the agent and its CNI server do for a pod, with the news read between.
    fn connect(&mut self, number: u8) -> usize {
        self.dataplane.take(&[endpoint(number, addresses(number))]);
        let before = self.settle();
        let pod = connect(&mut self.workloads, number);
        self.pods.push(pod);
        before + self.settle()
    }

    fn is_up(&self, number: u8) -> bool {
        let programmed = self.dataplane.programmed().get(&id(number));
        programmed.is_some_and(|p| p.interface_up)
    }

    /// What there is now is what reading everything leads to.
    fn assert_true(&mut self, what: &str) {
        let now = shown();
        self.dataplane.resync().unwrap();
        self.settle();
        assert_eq!(now, shown(), "{what}: on the left what its news led to");
    }
}

#[test]
fn a_pod_comes_and_goes_without_one_list_being_read() {
    on_a_node(|mut node| {
        for number in 1..=PODS {
            node.connect(number);
        }
        node.dataplane.take(&[range(1)]);
        node.settle();
        let lists = node.dataplane.lists_read();
        let passes = node.connect(100);
        assert!(node.is_up(100));
        assert_eq!(node.dataplane.lists_read(), lists, "a pod came");
        assert!(
            passes <= 2,
            "one for the address, one for the interface: {passes}"
        );
        let expected = 2 * usize::from(PODS + 1) + 1;
        assert_eq!(node.dataplane.route_count(), expected);
        assert_eq!(shown().len(), expected, "{:?}", shown());

        // Its policy changes, another node gets a range, and it goes again.
        node.dataplane.take(&[endpoint(100, addresses(100)), range(2)]);
        node.settle();
        ip("link set cali100 down");
        node.dataplane.take(&[Update::WorkloadRemoved(id(100))]);
        node.settle();
        node.workloads
            .disconnect(&InterfaceName::new("cali100").unwrap())
            .unwrap();
        node.settle();
        assert_eq!(node.dataplane.lists_read(), lists, "a pod went");
        assert_eq!(node.dataplane.route_count(), expected - 1);
        node.assert_true("after a pod went");
    });
}

#[test]
fn an_interface_that_is_connected_while_passes_run_makes_nobody_read_all_routes() {
    on_a_node(|mut node| {
        for number in 1..=PODS {
            node.dataplane.take(&[endpoint(number, addresses(number))]);
        }
        node.settle();
        let lists = node.dataplane.lists_read();
        // The thread that connects and this one write the same routes.
        std::thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                let mut workloads = Workloads::open(workload_settings()).unwrap();
                let connect = |number| connect(&mut workloads, number);
                (1..=PODS).map(connect).collect::<Vec<_>>()
            });
            while !connecting.is_finished() {
                node.settle();
            }
            node.pods.extend(connecting.join().unwrap());
        });
        node.settle();
        assert!((1..=PODS).all(|number| node.is_up(number)));
        assert_eq!(node.dataplane.lists_read(), lists);
        node.assert_true("after all came");
    });
}

/// What people, daemons and the kernel do to routes, each with what is to be undone by hand afterwards. Two commands where
/// older kernels rename no interface that is up.
const DEEDS: [(&str, &str); 19] = [
    ("route del 10.1.0.1", ""),
    ("-6 route del fd00:1::1", ""),
    ("route del 10.2.1.0/24", ""),
    ("route flush dev cali1", ""),
    ("route replace 10.1.0.1 dev eth0 proto 80", ""),
    ("route replace blackhole 10.2.1.0/24 proto 80", ""),
    ("route add 10.1.0.77 dev cali2", ""),
    ("-6 route add fd00:1::77 dev cali2", ""),
    ("route add unreachable 10.3.0.0/24 proto 80", ""),
    ("route append 10.1.0.1 dev eth0 proto 80", ""),
    ("-6 route append fd00:1::1 dev cali2 proto boot metric 1024", ""),
    ("route add 10.1.0.1 dev cali2 proto boot metric 7", ""),
    (
        "route replace 10.1.0.1 dev eth0 proto static",
        "route del 10.1.0.1 proto static",
    ),
    ("link set cali1 down", "link set cali1 up"),
    ("link set eth0 down", "link set eth0 up"),
    ("addr del 192.0.2.1/24 dev eth0", "addr add 192.0.2.1/24 dev eth0"),
    (
        "addr del 198.51.100.1/32 dev lo",
        "addr add 198.51.100.1/32 dev lo",
    ),
    (
        "link set cali1 down; link set cali1 name other",
        "link set other down name cali1 up",
    ),
    ("link set cali1 mtu 1200", "link set cali1 mtu 1450"),
];

#[test]
fn what_others_do_to_routes_is_undone() {
    on_a_node(|mut node| {
        for number in 1..=2 {
            node.connect(number);
        }
        node.dataplane.take(&[range(1)]);
        node.settle();
        let before = shown();
        assert_eq!(before.len(), 5, "{before:?}");
        for (deed, undoing) in DEEDS {
            ip(deed);
            node.settle();
            if !undoing.is_empty() {
                ip(undoing);
            }
            // What failed for want of a way to a gateway is tried again by the clock.
            node.dataplane.retry_faults();
            node.settle();
            assert_eq!(shown(), before, "after '{deed}'");
        }
    });
}

/// A number below a bound, the next of a sequence.
fn next(state: &mut u64, bound: usize) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).unwrap() % bound
}

#[test]
fn whatever_others_do_in_whatever_order_the_end_is_what_reading_everything_leads_to() {
    let seed = std::env::var("MANX_SEED").map_or(1, |text| text.parse().expect("MANX_SEED: a number"));
    eprintln!("MANX_SEED={seed}");
    on_a_node(|mut node| {
        let mut dice: u64 = seed;
        for number in 1..=2 {
            node.connect(number);
        }
        node.dataplane.take(&[range(1)]);
        node.settle();
        let before = shown();
        for round in 0..40 {
            let mut done = Vec::new();
            for _ in 0..=next(&mut dice, 6) {
                let (deed, undoing) = DEEDS[next(&mut dice, DEEDS.len())];
                let command = if !undoing.is_empty() && next(&mut dice, 2) == 0 {
                    undoing
                } else {
                    deed
                };
                if try_ip(command) {
                    done.push(command);
                }
                match next(&mut dice, 4) {
                    0 => drop(node.settle()),
                    1 => node.dataplane.take_events().unwrap(),
                    2 => node.dataplane.take(&[endpoint(2, addresses(2)), range(1)]),
                    _ => {}
                }
            }
            for (_, undoing) in DEEDS {
                if !undoing.is_empty() {
                    try_ip(undoing);
                }
            }
            node.settle();
            node.dataplane.retry_faults();
            node.settle();
            let what = format!("round {round}, {done:?}");
            node.assert_true(&what);
            assert_eq!(shown(), before, "{what}");
        }
    });
}

#[test]
fn a_change_whose_news_was_lost_is_undone() {
    on_a_node(|mut node| {
        node.connect(1);
        let before = shown();
        // More than the queue of news has room for, with the change in its midst.
        let foreign = RouteOwnership {
            device_protocol: 99,
            plain_protocol: 99,
            prefixes: InterfacePrefixes::new(["zz"]).unwrap(),
        };
        let many: RouteTable = (0..20_000u32)
            .map(|n| {
                let net = format!("11.{}.{}.{}/32", n / 65_536, n / 256 % 256, n % 256);
                (net.parse().unwrap(), RouteTarget::Blackhole)
            })
            .collect();
        let mut netlink = Rtnetlink::open().unwrap();
        routes::reconcile(&mut netlink, &many, &foreign).unwrap();
        ip("route del 10.1.0.1");
        ip("-6 route del fd00:1::1");
        routes::reconcile(&mut netlink, &RouteTable::new(), &foreign).unwrap();
        assert_ne!(shown(), before);
        node.settle();
        assert_eq!(shown(), before);
        // Afterwards it follows again.
        let lists = node.dataplane.lists_read();
        ip("route del 10.1.0.1");
        node.settle();
        assert_eq!((shown(), node.dataplane.lists_read()), (before, lists));
    });
}

/// Makes an interface of a pod's and nothing more.
fn bare_interface() -> NetworkNamespace {
    let pod = NetworkNamespace::anonymous().unwrap();
    let end = |name| VethEnd {
        name: InterfaceName::new(name).unwrap(),
        mac: None,
    };
    let mut netlink = Rtnetlink::open().unwrap();
    links::create_veth(&mut netlink, &end("cali1"), &end("eth0"), &pod, 1450).unwrap();
    ip("link set cali1 up");
    pod
}

#[test]
fn a_route_that_whoever_connects_wrote_a_moment_before_is_no_fault() {
    on_a_node(|mut node| {
        node.dataplane.take(&[endpoint(1, addresses(1))]);
        node.settle();
        let _pod = bare_interface();
        node.dataplane.take_events().unwrap();
        assert!(node.dataplane.is_dirty());
        // Its news is not read before the pass writes the same.
        ip("route add 10.1.0.1 dev cali1 scope link src 198.51.100.1");
        let lists = node.dataplane.lists_read();
        let report = node.dataplane.apply(1_000).unwrap();
        assert_eq!(report.faults, Vec::<String>::new());
        assert_eq!(node.dataplane.lists_read(), lists);
        assert_eq!(node.settle(), 0, "nothing is left to do");
        assert_eq!(shown().len(), 2, "{:?}", shown());
    });
}

#[test]
fn a_route_that_another_holds_is_a_fault_that_keeps_nobody_busy_and_ends_with_it() {
    on_a_node(|mut node| {
        ip("route add 10.1.0.1 dev eth0 proto static");
        node.dataplane.take(&[endpoint(1, vec![addresses(1)[0]])]);
        node.settle();
        let _pod = bare_interface();
        assert!(node.settle() <= 2, "a fault is no reason for pass after pass");
        let lists = node.dataplane.lists_read();
        node.dataplane.retry_faults();
        node.dataplane.take_events().unwrap();
        let report = node.dataplane.apply(1_000).unwrap();
        assert_eq!(report.faults.len(), 1, "{report:?}");
        assert!(report.faults[0].contains("10.1.0.1/32"), "{report:?}");
        assert_eq!(
            node.dataplane.lists_read(),
            lists,
            "that it fails again is no news"
        );
        ip("route del 10.1.0.1 proto static");
        node.settle();
        assert!(shown().iter().any(|line| line.starts_with("10.1.0.1 dev cali1")));
    });
}
