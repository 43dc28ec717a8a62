//! Looks through connection tracking beside who is given addresses meanwhile.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is the failure itself")]

use super::*;
use dataplane_netlink::NetworkNamespace;
use dataplane_netlink::conntrack::FlowFilter;
use std::net::UdpSocket;
use std::process::Command;

/// Switches connection tracking on.
const RULES: &str =
    "table inet test { chain out { type filter hook output priority 0; ct state invalid drop; }; }";

const ADDRESSES: [&str; 3] = ["127.0.0.11", "127.0.0.12", "127.0.0.13"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn run(command: &str, arguments: &[&str]) {
    let status = Command::new(command).args(arguments).status().unwrap();
    assert!(status.success(), "{command} {arguments:?}: {status}");
}

/// A network namespace in which connection tracking has a flow of each of the addresses.
fn with_flows(test: impl FnOnce(&mut Conntrack) + Send) {
    let node = NetworkNamespace::anonymous().unwrap();
    let outcome = node.run(|| {
        run("ip", &["link", "set", "lo", "up"]);
        run("nft", &[RULES]);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for address in ADDRESSES {
            let ear = UdpSocket::bind((ip(address), 7_000)).unwrap();
            socket.send_to(b"hello", (ip(address), 7_000)).unwrap();
            ear.recv_from(&mut [0; 8]).unwrap();
        }
        let mut conntrack = Conntrack::open().unwrap();
        assert_eq!(with_a_flow(&mut conntrack), ADDRESSES);
        test(&mut conntrack);
    });
    outcome.unwrap();
}

/// Which of the addresses have a flow.
fn with_a_flow(conntrack: &mut Conntrack) -> Vec<&'static str> {
    let mut has_one = |address: &str| {
        !conntrack
            .list(&FlowFilter::address(ip(address)))
            .unwrap()
            .is_empty()
    };
    ADDRESSES.into_iter().filter(|address| has_one(address)).collect()
}

fn vacated(n: usize) -> Vacated {
    Vacated {
        address: ip(ADDRESSES[n]),
        number: n as u64,
    }
}

/// Somebody was given the address after it was ordered and before the look: what it has is its holder's.
#[test]
fn what_is_had_again_before_the_look_keeps_its_flows() {
    with_flows(|conntrack| {
        let (walker, mut work) = Walker::made(Patience::default()).unwrap();
        walker.order((0..3).map(vacated).collect());
        walker.leave_all_but(&[ip(ADDRESSES[0]), ip(ADDRESSES[2])].into());
        work.gather().unwrap();
        work.walk();
        assert_eq!(with_a_flow(conntrack), [ADDRESSES[1]]);
    });
}

/// And when it is vacant once more, and ordered, they go.
#[test]
fn what_is_ordered_again_is_looked_for_again() {
    with_flows(|conntrack| {
        let (mut walker, mut work) = Walker::made(Patience::default()).unwrap();
        walker.order(vec![vacated(1)]);
        walker.leave_all_but(&BTreeSet::new());
        work.gather().unwrap();
        work.walk();
        assert_eq!(with_a_flow(conntrack), ADDRESSES);
        let again = Vacated {
            number: 9,
            ..vacated(1)
        };
        walker.order(vec![again]);
        work.gather().unwrap();
        work.walk();
        assert_eq!(with_a_flow(conntrack), [ADDRESSES[0], ADDRESSES[2]]);
        let done: Vec<Vacated> = walker
            .ended()
            .into_iter()
            .flat_map(|walked| walked.vacated)
            .collect();
        assert_eq!(done, [vacated(1), again]);
    });
}
