//! What the kernel's news means, and what of it is doubt.

#![allow(clippy::unwrap_used, reason = "a panic is the failure itself")]

use super::*;
use dataplane_netlink::InterfaceName;
use dataplane_netlink::links::OperState;
use dataplane_netlink::routes::ObservedTarget;

fn link(index: u32, name: &str, up: bool) -> Link {
    Link {
        index,
        name: InterfaceName::new(name).unwrap(),
        kind: Some("veth".into()),
        mac: None,
        mtu: 1500,
        up,
        oper_state: OperState::Down,
        peer: None,
        peer_namespace: None,
        master: None,
        group: 0,
    }
}

fn route(destination: &str, link: u32, protocol: u8) -> ObservedRoute {
    ObservedRoute {
        destination: destination.parse().unwrap(),
        target: ObservedTarget::Device { link, source: None },
        protocol,
        metric: 0,
        tos: 0,
    }
}

fn came(link: Link) -> Event {
    Event::Link(Change::Present, link)
}

fn gone(net: &str, link: u32, scope: Scope) -> Event {
    let address = Address {
        link,
        net: net.parse().unwrap(),
        scope,
        usable: true,
    };
    Event::Address(Change::Gone, address)
}

/// What a piece of news means, in words.
fn told(seen: &mut Seen, event: Event) -> String {
    let mut changed = Changed::default();
    seen.take(event, &mut changed);
    words(&changed)
}

fn words(changed: &Changed) -> String {
    let Changed {
        interfaces,
        destinations,
        down,
        doubt,
        outside: _,
    } = changed;
    let mut words: Vec<String> = interfaces
        .iter()
        .map(|name| format!("interface {name}"))
        .collect();
    words.extend(destinations.iter().map(|d| format!("to {d}")));
    words.extend(down.iter().map(|index| format!("down {index}")));
    words.extend(doubt.then(|| "doubt".to_owned()));
    words.join(", ")
}

fn seen() -> Seen {
    Seen::new(&RouteOwnership::default())
}

#[test]
fn a_workloads_interface_matters_from_when_it_is_up_until_it_is_gone() {
    let mut seen = seen();
    let carries = Link {
        oper_state: OperState::Up,
        ..link(7, "cali1", true)
    };
    let here = Event::Route(Change::Present, route("10.0.0.1/32", 7, 3));
    for (event, meaning) in [
        (came(link(7, "cali1", false)), "down 7"),
        (came(link(7, "cali1", true)), "interface cali1"),
        (came(carries), ""),
        (here.clone(), "to 10.0.0.1/32"),
        (here.clone(), ""),
        (
            came(link(7, "cali1", false)),
            "interface cali1, to 10.0.0.1/32, down 7",
        ),
        // The kernel tells of IPv6 routes that go then; of IPv4 routes it does not.
        (
            Event::Route(Change::Gone, route("fe80::/64", 7, 2)),
            "to fe80::/64",
        ),
        (gone("10.0.0.9/24", 7, Scope::Global), ""),
        (came(link(7, "cali1", true)), "interface cali1"),
        (here, "to 10.0.0.1/32"),
        (
            Event::Link(Change::Gone, link(7, "cali1", false)),
            "interface cali1, to 10.0.0.1/32, down 7",
        ),
        // Another of the same name, and one that goes without ever having been up.
        (came(link(8, "cali1", false)), "down 8"),
        (
            Event::Link(Change::Gone, link(8, "cali1", false)),
            "interface cali1, down 8",
        ),
    ] {
        assert_eq!(told(&mut seen, event.clone()), meaning, "{event:?}");
    }
    assert!(seen.ours("cali1").is_none());
}

#[test]
fn what_the_kernel_does_in_silence_is_doubt() {
    let mut seen = seen();
    for event in [
        came(link(2, "eth0", true)),
        came(link(3, "eth1", false)),
        came(link(7, "cali1", true)),
    ] {
        told(&mut seen, event);
    }
    told(
        &mut seen,
        Event::Route(Change::Present, route("10.9.0.0/24", 2, 80)),
    );
    let narrow = Link {
        mtu: 60,
        ..link(2, "eth0", true)
    };
    for (event, meaning) in [
        (gone("192.0.2.1/24", 2, Scope::Global), "doubt"),
        // Its address may be the source of routes out of others.
        (gone("192.0.2.2/32", 3, Scope::Global), "doubt"),
        (gone("2001:db8::1/64", 2, Scope::Global), "doubt"),
        (gone("fe80::1/64", 2, Scope::Local), ""),
        (
            Event::Route(Change::Gone, route("192.0.2.0/24", 2, 2)),
            "to 192.0.2.0/24, doubt",
        ),
        (
            Event::Route(Change::Gone, route("10.8.0.0/24", 2, 12)),
            "to 10.8.0.0/24",
        ),
        (Event::Route(Change::Present, route("10.8.0.0/24", 2, 12)), ""),
        // It takes the place of one with our mark, or stands beside it.
        (
            Event::Route(Change::Present, route("10.9.0.0/24", 3, 12)),
            "doubt",
        ),
        (came(narrow), "doubt"),
        (came(link(7, "cali2", true)), "interface cali1, interface cali2"),
    ] {
        assert_eq!(told(&mut seen, event.clone()), meaning, "{event:?}");
    }
}

#[test]
fn a_list_means_what_the_news_of_its_differences_would() {
    let mut seen = seen();
    let list = |seen: &mut Seen, links: Vec<Link>| {
        let mut changed = Changed::default();
        seen.replace_links(links, &mut changed);
        words(&changed)
    };
    let first = vec![
        link(1, "lo", true),
        link(7, "cali1", true),
        link(8, "cali2", false),
    ];
    assert_eq!(list(&mut seen, first.clone()), "interface cali1");
    assert_eq!(list(&mut seen, first), "down 8");
    let second = vec![
        link(1, "lo", true),
        link(9, "cali1", true),
        link(8, "cali2", true),
    ];
    assert_eq!(
        list(&mut seen, second),
        "interface cali1, interface cali2, down 7"
    );
    assert_eq!(
        list(&mut seen, vec![link(1, "lo", true)]),
        "interface cali1, interface cali2, down 8, down 9"
    );
}
