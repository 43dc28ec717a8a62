//! The kernel's news: what changed, and that some of it was lost.

use std::time::{Duration, Instant};

use dataplane_netlink::events::{Change, Event, Group, Monitor};
use dataplane_netlink::routes::{self, RouteOwnership, RouteTable, RouteTarget};
use dataplane_netlink::{Rtnetlink, links};

use crate::bed::{iproute, name, on_a_node, pod, request, workloads};

#[test]
fn a_pods_coming_and_going_is_told() {
    on_a_node(|| {
        let mut monitor =
            Monitor::open(&[Group::Links, Group::Addresses, Group::Routes, Group::Neighbours]).unwrap();
        assert_eq!(monitor.read().unwrap(), [], "reading never blocks");
        let mut driver = workloads();
        let pod = pod();
        driver
            .connect(&request(&pod, "cali1", &["10.65.0.5", "fd00:65::5"]))
            .unwrap();
        let text = |event: &Event| match event {
            Event::Link(change, link) => format!("{change:?} link {} up {}", link.name, link.up),
            Event::Address(change, address) => format!("{change:?} address {}", address.net),
            Event::Forwarding(change, entry) => format!("{change:?} forwarding {entry}"),
            Event::RouteReplaced(route) => format!("replaced route {}", route.destination),
            Event::Route(change, route) => format!("{change:?} route {}", route.destination),
            Event::Neighbour(change, entry) => format!("{change:?} neighbour {}", entry.address),
            Event::Resync => "resync".to_owned(),
        };
        // Some news comes from the kernel's background work, so it is waited for.
        let mut told: Vec<String> = Vec::new();
        for wanted in [
            "Present link cali1 up true",
            "Present route 10.65.0.5/32",
            "Present route fd00:65::5/128",
            "Present address fe80::ecee:eeff:feee:eeee/64",
            "Present neighbour 10.65.0.5",
            "Present neighbour fd00:65::5",
        ] {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !told.iter().any(|line| line == wanted) {
                assert!(Instant::now() < deadline, "not told {wanted:?}, only {told:#?}");
                told.extend(monitor.read().unwrap().iter().map(text));
            }
        }

        driver.disconnect(&name("cali1")).unwrap();
        let gone =
            |event: &Event| matches!(event, Event::Link(Change::Gone, link) if link.name == name("cali1"));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !monitor.read().unwrap().iter().any(gone) {
            assert!(Instant::now() < deadline, "the link's end is not told");
        }
    });
}

#[test]
fn leaving_a_bridge_is_not_vanishing() {
    on_a_node(|| {
        iproute("link add br0 type bridge");
        iproute("link add v0 type veth peer v1");
        iproute("link set v0 master br0");
        let mut monitor = Monitor::open(&[Group::Links]).unwrap();
        iproute("link set v0 nomaster");
        let events = monitor.read().unwrap();
        assert!(!events.is_empty());
        assert!(
            events
                .iter()
                .all(|event| matches!(event, Event::Link(Change::Present, _))),
            "{events:?}"
        );
    });
}

#[test]
fn lost_messages_are_told() {
    on_a_node(|| {
        iproute("link add br0 type bridge");
        iproute("link set br0 up");
        let mut monitor = Monitor::open(&[Group::Routes]).unwrap();
        let mut netlink = Rtnetlink::open().unwrap();
        let ownership = RouteOwnership::default();
        let table: RouteTable = (0..20_000u32)
            .map(|number| {
                let net = format!(
                    "10.{}.{}.{}/32",
                    number / 65_536,
                    number / 256 % 256,
                    number % 256
                );
                (net.parse().unwrap(), RouteTarget::Blackhole)
            })
            .collect();
        routes::reconcile(&mut netlink, &table, &ownership).unwrap();
        let mut events = Vec::new();
        loop {
            let read = monitor.read().unwrap();
            if read.is_empty() {
                break;
            }
            events.extend(read);
        }
        assert!(
            events.contains(&Event::Resync),
            "{} events and no word of the lost ones",
            events.len()
        );
        assert!(events.len() < 20_001);

        // Afterwards it goes on.
        iproute("route add 10.200.0.0/16 dev br0");
        assert!(matches!(
            monitor.read().unwrap().as_slice(),
            [Event::Route(Change::Present, _)]
        ));
        assert!(links::find(&mut netlink, &name("br0")).unwrap().is_some());
    });
}
