//! Pods: connected, repaired, taken back and removed.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use dataplane_netlink::events::{Event, Group, Monitor};
use dataplane_netlink::links::{self, VethEnd};
use dataplane_netlink::workload::{
    Disconnected, FaultSide, Pair, RouteSources, WorkloadError, WorkloadSettings, Workloads,
};
use dataplane_netlink::{MacAddress, Rtnetlink, addresses, neighbours, routes};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::bed::{
    exchange, ip, iproute, name, node_address, on_a_node, pod, request, socket, socket_in, workloads,
};

const ALL_GROUPS: [Group; 4] = [Group::Links, Group::Addresses, Group::Routes, Group::Neighbours];

fn nets(pod: &dataplane_netlink::NetworkNamespace) -> Vec<String> {
    let mut inside = Rtnetlink::open_in(pod).unwrap();
    let eth0 = links::find(&mut inside, &name("eth0")).unwrap().unwrap();
    let mut nets: Vec<String> = addresses::list_of(&mut inside, &eth0)
        .unwrap()
        .iter()
        .map(|address| address.net.to_string())
        .collect();
    nets.sort();
    nets
}

/// Leaves the calling thread the two capabilities that an agent in a container has.
fn keep_net_admin_and_net_raw() {
    let few = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
    let sets = CapabilitySets {
        effective: few,
        permitted: few,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).expect("give up capabilities");
}

#[test]
fn a_socket_from_inside_takes_the_place_of_the_right_to_enter() {
    on_a_node(|| {
        let node = [
            socket(node_address("10.99.0.1")),
            socket(node_address("fd00:99::1")),
        ];
        let pod = pod();
        let inside: OwnedFd = pod
            .run(|| {
                let socket = netlink_sys::Socket::new(0).unwrap();
                nix::unistd::dup(socket.as_fd()).unwrap()
            })
            .unwrap();
        let handed = pod.try_clone().unwrap().with_netlink(inside);
        let addresses = ["10.65.0.5", "fd00:65::5"];
        std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                keep_net_admin_and_net_raw();
                let mut driver = workloads();
                let barred = driver.connect(&request(&pod, "cali1", &addresses));
                assert!(
                    matches!(barred, Err(WorkloadError::Namespace { .. })),
                    "{barred:?}"
                );
                let request = request(&handed, "cali1", &addresses);
                assert_eq!(driver.connect(&request).unwrap().pair, Pair::Made);
                assert_eq!(driver.connect(&request).unwrap().pair, Pair::Kept);
                assert_eq!(driver.check(&request).unwrap(), []);
            });
            work.join().unwrap();
        });
        for (address, node) in addresses.iter().zip(&node) {
            exchange(&socket_in(&pod, ip(address)), node);
        }
    });
}

#[test]
fn an_ipv4_pod_speaks_with_its_first_packet_and_has_no_ipv6_at_all() {
    on_a_node(|| {
        let node = socket(node_address("10.99.0.1"));
        let mut driver = workloads();
        let pod = pod();
        let request = request(&pod, "cali1", &["10.65.0.5"]);
        let connected = driver.connect(&request).unwrap();
        // Nothing was sent before: this packet may not wait for anything, nor be lost.
        exchange(&socket_in(&pod, ip("10.65.0.5")), &node);
        assert_eq!(connected.pair, Pair::Made);
        assert_eq!(nets(&pod), ["10.65.0.5/32"]);

        let mut netlink = Rtnetlink::open().unwrap();
        let host = links::find(&mut netlink, &name("cali1")).unwrap().unwrap();
        assert_eq!(host.index, connected.host_index);
        assert_eq!(
            (host.mac, host.mtu, host.up),
            (Some(MacAddress::HOST_SIDE), 1450, true)
        );
        assert_eq!(
            addresses::list_of(&mut netlink, &host).unwrap(),
            [],
            "the host side has no address"
        );
        let entries = neighbours::list_of(&mut netlink, &host).unwrap();
        let entry = entries
            .iter()
            .find(|entry| entry.address == ip("10.65.0.5"))
            .unwrap();
        assert_eq!(entry.mac, Some(connected.container_mac));
        assert_eq!(entry.origin, neighbours::Origin::Permanent);
        let route = iproute("-o route show 10.65.0.5");
        assert!(
            route.contains("dev cali1") && route.contains("scope link"),
            "{route}"
        );
        assert!(
            !route.contains("proto"),
            "boot is the protocol that ip does not show: {route}"
        );
        for (file, value) in [
            ("ipv4/conf/cali1/forwarding", "1"),
            ("ipv4/conf/cali1/proxy_arp", "1"),
            ("ipv4/conf/cali1/route_localnet", "1"),
            ("ipv4/conf/cali1/rp_filter", "1"),
            ("ipv4/neigh/cali1/proxy_delay", "0"),
            ("ipv6/conf/cali1/disable_ipv6", "1"),
        ] {
            let read = std::fs::read_to_string(format!("/proc/sys/net/{file}")).unwrap();
            assert_eq!(read.trim(), value, "{file}");
        }
        assert_eq!(driver.check(&request).unwrap(), []);
    });
}

#[test]
fn an_ipv6_pod_speaks_with_its_first_packet() {
    on_a_node(|| {
        let node = socket(node_address("fd00:99::1"));
        let mut driver = workloads();
        let pod = pod();
        let request = request(&pod, "cali1", &["fd00:65::5"]);
        driver.connect(&request).unwrap();
        exchange(&socket_in(&pod, ip("fd00:65::5")), &node);
        let mut netlink = Rtnetlink::open().unwrap();
        let host = links::find(&mut netlink, &name("cali1")).unwrap().unwrap();
        let seen = addresses::list_of(&mut netlink, &host).unwrap();
        assert_eq!(
            seen.iter()
                .map(|address| address.net.to_string())
                .collect::<Vec<_>>(),
            ["fe80::ecee:eeff:feee:eeee/64"]
        );
        assert!(
            seen.iter().all(|address| address.usable),
            "no duplicate detection"
        );
        for (file, value) in [
            ("proxy_ndp", "1"),
            ("forwarding", "1"),
            ("accept_ra", "0"),
            ("accept_dad", "0"),
        ] {
            let read = std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/cali1/{file}")).unwrap();
            assert_eq!(read.trim(), value, "{file}");
        }
        assert_eq!(driver.check(&request).unwrap(), []);
    });
}

#[test]
fn two_dual_stack_pods_speak_through_the_node() {
    on_a_node(|| {
        let mut driver = workloads();
        let (one, other) = (pod(), pod());
        driver
            .connect(&request(&one, "cali1", &["10.65.0.5", "fd00:65::5"]))
            .unwrap();
        driver
            .connect(&request(&other, "cali2", &["10.65.0.6", "fd00:65::6"]))
            .unwrap();
        for (from, to) in [("10.65.0.5", "10.65.0.6"), ("fd00:65::5", "fd00:65::6")] {
            exchange(&socket_in(&one, ip(from)), &socket_in(&other, ip(to)));
        }
        // A program inside speaks to itself through the loopback interface.
        exchange(
            &socket_in(&one, ip("127.0.0.1")),
            &socket_in(&one, ip("127.0.0.1")),
        );
        assert_eq!(driver.list().unwrap().len(), 2);
    });
}

#[test]
fn the_first_packet_of_many_pods_is_never_lost() {
    on_a_node(|| {
        let node = node_address("10.99.0.1");
        let mut driver = workloads();
        for number in 1..=20 {
            let address = format!("10.65.0.{number}");
            let (pod, interface) = (pod(), format!("cali{number}"));
            driver.connect(&request(&pod, &interface, &[&address])).unwrap();
            exchange(&socket_in(&pod, ip(&address)), &socket(node));
        }
    });
}

/// Reads until the kernel has nothing more to say, and leaves out what it says of its own accord.
fn changes(monitor: &mut Monitor) -> Vec<Event> {
    let mut events = monitor.read().unwrap();
    events.retain(
        |event| !matches!(event, Event::Neighbour(_, entry) if entry.origin == neighbours::Origin::Learnt),
    );
    events
}

#[test]
fn the_same_request_again_changes_nothing() {
    on_a_node(|| {
        let mut driver = workloads();
        let pod = pod();
        let mut request = request(&pod, "cali1", &["10.65.0.5", "fd00:65::5"]);
        let first = driver.connect(&request).unwrap();
        let mut outside = Monitor::open(&ALL_GROUPS).unwrap();
        let mut inside = pod.run(|| Monitor::open(&ALL_GROUPS)).unwrap().unwrap();
        // The kernel tells of the first request's effects in the background for a while. If the repetition
        // itself changed anything, there would never be silence.
        let silent = (0..200).any(|_| {
            let again = driver.connect(&request).unwrap();
            assert_eq!(
                again,
                dataplane_netlink::workload::Connected {
                    pair: Pair::Kept,
                    ..first.clone()
                }
            );
            changes(&mut outside).is_empty() && changes(&mut inside).is_empty() && nets(&pod).len() == 3
        });
        assert!(silent, "each repetition changes something");

        // Other wishes change the interface and do not make it anew.
        request.mtu = 1400;
        request.container_mac = Some("02:00:00:00:00:09".parse().unwrap());
        request.addresses = vec![ip("10.65.0.7")];
        assert!(!driver.check(&request).unwrap().is_empty());
        let third = driver.connect(&request).unwrap();
        assert_eq!(
            (third.pair, third.container_index),
            (Pair::Kept, first.container_index)
        );
        assert_eq!(third.container_mac.to_string(), "02:00:00:00:00:09");
        assert_eq!(nets(&pod), ["10.65.0.7/32"], "IPv6 has gone with its address");
        assert_eq!(driver.check(&request).unwrap(), []);
        let node = socket(node_address("10.99.0.1"));
        exchange(&socket_in(&pod, ip("10.65.0.7")), &node);
    });
}

#[test]
fn what_somebody_broke_is_named_and_repaired() {
    on_a_node(|| {
        let node = socket(node_address("10.99.0.1"));
        let mut driver = workloads();
        let pod = pod();
        let request = request(&pod, "cali1", &["10.65.0.5"]);
        driver.connect(&request).unwrap();
        let damages: [(&str, FaultSide); 7] = [
            ("link set cali1 down", FaultSide::Host),
            ("route del 10.65.0.5/32", FaultSide::Host),
            ("neigh del 10.65.0.5 dev cali1", FaultSide::Host),
            ("link set eth0 down", FaultSide::Container),
            ("addr flush dev eth0", FaultSide::Container),
            ("route del default", FaultSide::Container),
            ("neigh del 169.254.1.1 dev eth0", FaultSide::Container),
        ];
        for (damage, side) in damages {
            match side {
                FaultSide::Host => drop(iproute(damage)),
                FaultSide::Container => drop(pod.run(|| iproute(damage)).unwrap()),
            }
            let faults = driver.check(&request).unwrap();
            assert!(
                faults.iter().any(|fault| fault.side == side),
                "{damage}: {faults:?}"
            );
            assert_eq!(driver.connect(&request).unwrap().pair, Pair::Kept, "{damage}");
            assert_eq!(driver.check(&request).unwrap(), [], "{damage}");
            exchange(&socket_in(&pod, ip("10.65.0.5")), &node);
        }
        std::fs::write("/proc/sys/net/ipv4/conf/cali1/rp_filter", "0").unwrap();
        assert_eq!(driver.check(&request).unwrap().len(), 1);
        driver.connect(&request).unwrap();
        assert_eq!(driver.check(&request).unwrap(), []);
    });
}

#[test]
fn a_pair_that_was_only_just_made_is_finished() {
    on_a_node(|| {
        let node = socket(node_address("10.99.0.1"));
        let mut driver = workloads();
        let pod = pod();
        let end = |text| VethEnd {
            name: name(text),
            mac: None,
        };
        let mut netlink = Rtnetlink::open().unwrap();
        links::create_veth(&mut netlink, &end("cali1"), &end("eth0"), &pod, 1500).unwrap();
        let request = request(&pod, "cali1", &["10.65.0.5"]);
        assert_eq!(driver.connect(&request).unwrap().pair, Pair::Kept);
        exchange(&socket_in(&pod, ip("10.65.0.5")), &node);
    });
}

#[test]
fn a_leftover_of_an_earlier_sandbox_makes_way() {
    on_a_node(|| {
        let node = socket(node_address("10.99.0.1"));
        let mut driver = workloads();
        let (old, new) = (pod(), pod());
        driver.connect(&request(&old, "cali1", &["10.65.0.5"])).unwrap();
        let connected = driver.connect(&request(&new, "cali1", &["10.65.0.6"])).unwrap();
        assert_eq!(connected.pair, Pair::Remade);
        exchange(&socket_in(&new, ip("10.65.0.6")), &node);
        let mut inside = Rtnetlink::open_in(&old).unwrap();
        assert_eq!(links::find(&mut inside, &name("eth0")).unwrap(), None);
    });
}

#[test]
fn an_address_that_moves_leads_to_its_new_pod() {
    on_a_node(|| {
        let node = socket(node_address("10.99.0.1"));
        let mut driver = workloads();
        let (old, new) = (pod(), pod());
        driver.connect(&request(&old, "cali1", &["10.65.0.5"])).unwrap();
        driver.connect(&request(&new, "cali2", &["10.65.0.5"])).unwrap();
        exchange(&socket_in(&new, ip("10.65.0.5")), &node);
        let route = iproute("-o route show 10.65.0.5");
        assert!(route.contains("cali2") && !route.contains("cali1"), "{route}");
    });
}

#[test]
fn a_foreign_interface_of_the_same_name_is_left_alone() {
    on_a_node(|| {
        let mut driver = workloads();
        let pod = pod();
        iproute("link add cali1 type bridge");
        let request = request(&pod, "cali1", &["10.65.0.5"]);
        let error = driver.connect(&request).unwrap_err();
        assert!(
            matches!(error, WorkloadError::ForeignHostInterface { .. }),
            "{error}"
        );
        let error = driver.disconnect(&name("cali1")).unwrap_err();
        assert!(
            matches!(error, WorkloadError::ForeignHostInterface { .. }),
            "{error}"
        );
        assert!(driver.disconnect(&name("lo")).is_err());
        assert!(iproute("-o link show cali1").contains("cali1"));

        pod.run(|| iproute("link add eth0 type bridge")).unwrap();
        let second = crate::bed::request(&pod, "cali2", &["10.65.0.5"]);
        let error = driver.connect(&second).unwrap_err();
        assert!(
            matches!(error, WorkloadError::ForeignContainerInterface { .. }),
            "{error}"
        );
        assert_eq!(driver.list().unwrap(), [], "nothing of ours is left");
        assert!(pod.run(|| iproute("-o link show eth0")).unwrap().contains("eth0"));
    });
}

#[test]
fn a_failure_takes_the_half_made_pair_back_and_leaves_foreign_routes() {
    on_a_node(|| {
        let mut driver = workloads();
        let pod = pod();
        iproute("link add br0 type bridge");
        iproute("link set br0 up");
        iproute("route add 10.65.0.5/32 dev br0 proto static");
        let error = driver
            .connect(&request(&pod, "cali1", &["10.65.0.5"]))
            .unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "add route 10.65.0.5/32 dev cali1: file exists");
        assert_eq!(driver.list().unwrap(), []);
        let mut inside = Rtnetlink::open_in(&pod).unwrap();
        assert_eq!(links::find(&mut inside, &name("eth0")).unwrap(), None);
        assert!(iproute("-o route show 10.65.0.5").contains("br0"));
    });
}

#[test]
fn disconnecting_removes_all_and_may_be_repeated() {
    on_a_node(|| {
        let mut driver = workloads();
        let pod = pod();
        driver.connect(&request(&pod, "cali1", &["10.65.0.5"])).unwrap();
        assert_eq!(driver.disconnect(&name("cali1")).unwrap(), Disconnected::Removed);
        assert_eq!(
            driver.disconnect(&name("cali1")).unwrap(),
            Disconnected::WasAbsent
        );
        assert_eq!(iproute("route show 10.65.0.5"), "");
        let mut inside = Rtnetlink::open_in(&pod).unwrap();
        assert_eq!(links::find(&mut inside, &name("eth0")).unwrap(), None);
        let faults = driver.check(&request(&pod, "cali1", &["10.65.0.5"])).unwrap();
        assert_eq!(faults.len(), 1, "{faults:?}");
    });
}

#[test]
fn several_end_together_and_nobody_else() {
    on_a_node(|| {
        let mut driver = workloads();
        let pods = [pod(), pod(), pod()];
        let names = ["cali1", "cali2", "cali3"].map(name);
        let connect = |driver: &mut Workloads| {
            for (at, pod) in pods.iter().enumerate() {
                let address = format!("10.65.0.{}", 5 + at);
                driver
                    .connect(&request(pod, names[at].as_str(), &[&address]))
                    .unwrap();
            }
        };
        connect(&mut driver);
        // Two of ours, one that has gone, and one that is not ours.
        iproute("link add eth7 type bridge");
        let asked = [names[0].clone(), name("cali9"), names[1].clone(), name("eth7")];
        let ended = driver.disconnect_all(&asked);
        assert!(ended[..3].iter().all(Result::is_ok), "{ended:?}");
        assert!(ended[3].is_err(), "{ended:?}");
        let left = driver.list().unwrap();
        let left: Vec<&str> = left.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(left, ["cali3"]);
        assert!(iproute("-o link show eth7").contains("eth7"));

        // Whoever else is in the group of those that end stays, and they end all the same.
        connect(&mut driver);
        let ending = u32::from_be_bytes(*b"manx");
        iproute(&format!("link set eth7 group {ending}"));
        iproute(&format!("link set cali3 group {ending}"));
        let ended = driver.disconnect_all(&names[..2]);
        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
        let left = driver.list().unwrap();
        let left: Vec<&str> = left.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(left, ["cali3"]);
        assert!(iproute("-o link show eth7").contains("eth7"));
        assert!(driver.disconnect_all(&[]).is_empty());
    });
}

#[test]
fn the_routes_that_were_asked_for_take_the_place_of_the_default_route() {
    on_a_node(|| {
        let mut driver = workloads();
        let pod = pod();
        let mut request = request(&pod, "cali1", &["10.65.0.5"]);
        request.routes = vec!["10.64.0.0/10".parse().unwrap()];
        driver.connect(&request).unwrap();
        let table = pod.run(|| iproute("route show")).unwrap();
        assert!(table.contains("10.64.0.0/10 via 169.254.1.1 dev eth0"), "{table}");
        assert!(!table.contains("default"), "{table}");
    });
}

#[test]
fn a_request_that_cannot_be_changes_nothing() {
    on_a_node(|| {
        let mut driver = workloads();
        let pod = pod();
        let bad: Vec<(&str, Vec<&str>, u32)> = vec![
            ("eth7", vec!["10.65.0.5"], 1450),
            ("cali1", vec![], 1450),
            ("cali1", vec!["169.254.1.1"], 1450),
            ("cali1", vec!["fe80::1"], 1450),
            ("cali1", vec!["127.0.0.1"], 1450),
            ("cali1", vec!["10.65.0.5", "10.65.0.5"], 1450),
            ("cali1", vec!["fd00::5"], 1279),
            ("cali1", vec!["10.65.0.5"], 67),
        ];
        for (interface, addresses, mtu) in bad {
            let mut request = request(&pod, interface, &addresses);
            request.mtu = mtu;
            let error = driver.connect(&request).unwrap_err();
            assert!(
                matches!(error, WorkloadError::Invalid(_)),
                "{interface} {addresses:?} {mtu}: {error}"
            );
        }
        let mut request = request(&pod, "cali1", &["10.65.0.5"]);
        for mac in [MacAddress::HOST_SIDE, MacAddress::new([1, 0, 0, 0, 0, 0])] {
            request.container_mac = Some(mac);
            assert!(
                matches!(driver.connect(&request).unwrap_err(), WorkloadError::Invalid(_)),
                "{mac}"
            );
        }
        assert_eq!(driver.list().unwrap(), []);
    });
}

#[test]
fn a_workloads_wanted_routes_are_those_that_connecting_writes() {
    on_a_node(|| {
        let mut driver = workloads();
        let pod = pod();
        let addresses: Vec<IpAddr> = vec![ip("10.65.0.5"), ip("fd00:65::5")];
        driver
            .connect(&request(&pod, "cali1", &["10.65.0.5", "fd00:65::5"]))
            .unwrap();
        let table: routes::RouteTable =
            dataplane_netlink::workload::device_routes(&name("cali1"), addresses, RouteSources::default())
                .collect();
        let mut netlink = Rtnetlink::open().unwrap();
        let ownership = routes::RouteOwnership::default();
        let reconciled = routes::reconcile(&mut netlink, &table, &ownership).unwrap();
        assert_eq!(reconciled.done, 0);
        assert!(reconciled.is_complete());
    });
}

#[test]
fn the_nodes_packets_to_a_workload_take_the_address_that_the_settings_say() {
    on_a_node(|| {
        node_address("192.0.2.7");
        node_address("2001:db8::7");
        let sources = RouteSources {
            v4: Some("192.0.2.7".parse().unwrap()),
            v6: Some("2001:db8::7".parse().unwrap()),
        };
        let mut driver = Workloads::open(WorkloadSettings {
            route_sources: sources,
            ..WorkloadSettings::default()
        })
        .unwrap();
        let pod = pod();
        let request = request(&pod, "cali1", &["10.65.0.5", "fd00:65::5"]);
        driver.connect(&request).unwrap();
        assert_eq!(driver.check(&request).unwrap(), []);
        // What the kernel chooses for a packet is what counts.
        let chosen = |destination: &str, port: u16| {
            let any = if destination.contains(':') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = std::net::UdpSocket::bind(any).unwrap();
            socket.connect((ip(destination), port)).unwrap();
            socket.local_addr().unwrap().ip()
        };
        assert_eq!(chosen("10.65.0.5", 9), ip("192.0.2.7"));
        assert_eq!(chosen("fd00:65::5", 9), ip("2001:db8::7"));

        // Nothing is left to be done for these sources, and a setting that is taken back is taken back in the kernel.
        let table = |sources| -> routes::RouteTable {
            let addresses = [ip("10.65.0.5"), ip("fd00:65::5")];
            dataplane_netlink::workload::device_routes(&name("cali1"), addresses, sources).collect()
        };
        let mut netlink = Rtnetlink::open().unwrap();
        let ownership = routes::RouteOwnership::default();
        let same = routes::reconcile(&mut netlink, &table(sources), &ownership).unwrap();
        assert_eq!((same.done, same.is_complete()), (0, true), "{same:?}");
        let without = table(RouteSources::default());
        let taken_back = routes::reconcile(&mut netlink, &without, &ownership).unwrap();
        assert_eq!(
            (taken_back.done, taken_back.is_complete()),
            (4, true),
            "{taken_back:?}"
        );
        let again = routes::reconcile(&mut netlink, &without, &ownership).unwrap();
        assert_eq!(again.done, 0);
    });
}
