//! Packets between nodes: plain, in VXLAN, in IPIP where the kernel has that, and the way out.
//!
//! Each test has its own fabric of namespaces ([`e2e::fabric`]): nodes in subnets, a router between the subnets that knows
//! only nodes, and a server outside that has no route to pods.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself"
)]

mod addresses;
mod checksums;
mod confined;
mod ipip;
mod modes;
mod neighbours;
mod nodes;
mod outgoing;
mod policy;
mod strangers;
mod tampering;
mod ways;

use e2e::bed::within;
use e2e::fabric::addresses::{block, is_pods, is_tunnels};
use e2e::fabric::shown::{self, kernel_has_ipip};
use e2e::fabric::{AddressesFrom, Fabric, Family, Load, Mode, Seen, WayOut, objects};
use e2e::rules::Rules;

/// Where two nodes stand, how the pool of their pods travels, and what holds policy.
#[derive(Clone, Copy, Debug)]
struct Case {
    subnets: [u8; 2],
    mode: Mode,
    rules: Rules,
}

/// Every way that packets can take between two nodes on this kernel, and those of them that rules see otherwise with each
/// further way to hold policy.
fn cases() -> Vec<Case> {
    Rules::of_run().into_iter().flat_map(cases_with).collect()
}

/// Where `MANX_FEW_WAYS` is set, one of each sort: an emulated machine takes minutes for what shows nothing of its kernel that
/// another way has not shown.
fn cases_with(rules: Rules) -> Vec<Case> {
    let case = |subnets, mode| Case { subnets, mode, rules };
    let mut cases = vec![
        case([0, 0], Mode::PLAIN),
        case([0, 0], Mode::VXLAN),
        case([0, 1], Mode::VXLAN),
        case([0, 0], Mode::VXLAN_ACROSS),
        case([0, 1], Mode::VXLAN_ACROSS),
    ];
    if kernel_has_ipip() {
        cases.extend([
            case([0, 0], Mode::IPIP),
            case([0, 1], Mode::IPIP),
            case([0, 0], Mode::IPIP_ACROSS),
            case([0, 1], Mode::IPIP_ACROSS),
        ]);
    }
    if rules != Rules::first() {
        // The rules guard a tunnel, and let pods' packets out of one; plain packets they see everywhere else.
        cases.retain(|case| case.subnets == [0, 1] && case.mode == Mode::VXLAN);
    } else if std::env::var_os("MANX_FEW_WAYS").is_some() {
        cases.retain(|case| match case.subnets {
            [0, 0] => case.mode == Mode::PLAIN,
            _ => case.mode != Mode::VXLAN_ACROSS,
        });
    }
    cases
}

impl Case {
    fn wraps(self) -> bool {
        self.mode.wraps(self.subnets[0] != self.subnets[1])
    }

    /// The nodes with the pool in force, without pods.
    fn fabric(self, way_out: WayOut) -> Fabric {
        let mut fabric = Fabric::with(&self.subnets, AddressesFrom::Blocks, self.rules);
        fabric.program(objects::pools(0, self.mode, way_out));
        fabric
    }
}

/// Nodes in these subnets with a pod on each, in force.
fn fabric(subnets: &[u8], mode: Mode) -> Fabric {
    fabric_with(Rules::first(), subnets, mode)
}

/// The same with any way to hold policy.
fn fabric_with(rules: Rules, subnets: &[u8], mode: Mode) -> Fabric {
    let mut fabric = Fabric::with(subnets, AddressesFrom::Blocks, rules);
    fabric.put(objects::pools(0, mode, WayOut::Own));
    for place in 0..subnets.len() {
        fabric.connect(place, "role=any");
    }
    fabric.apply();
    fabric
}

/// The first pods of two nodes talk both ways, and each hears the other's own address.
fn talk(fabric: &Fabric, from: usize, to: usize, family: Family) {
    for (one, other) in [(from, to), (to, from)] {
        let (one, other) = (fabric.pod(one, 0), fabric.pod(other, 0));
        let heard = one.spot.reaches(&other.spot, family);
        assert_eq!(heard, one.address(family), "{} hears {}", other.name, one.name);
    }
}

/// What the nodes have sent since the last look that pods said: in clear, or wrapped by nodes. What nodes ask each other by
/// the addresses of their tunnels is no pod's word: they try at times of their own whether checksums arrive whole.
fn sent_of_pods(fabric: &Fabric) -> Vec<Seen> {
    let of_pods = |seen: &Seen| match seen.load {
        Load::Plain => seen.has_end(is_pods),
        Load::Vxlan(_, None) => true,
        Load::Ipip((from, to)) | Load::Vxlan(_, Some((from, to))) => !(is_tunnels(from) && is_tunnels(to)),
    };
    let all = fabric.nodes.iter().flat_map(|node| node.capture.look());
    all.filter(of_pods).collect()
}

/// Nobody outside a tunnel has seen a pod's address, neither on a node's wire nor at the router, and there was something
/// to see.
fn nothing_in_clear(fabric: &Fabric, what: &str) {
    let sent = sent_of_pods(fabric);
    assert!(!sent.is_empty(), "{what}: nothing was on the wire");
    for seen in sent {
        assert!(!seen.has_end(is_pods), "{what}: in clear: {seen:?}");
        let inner = match seen.load {
            Load::Plain => None,
            Load::Ipip(ends) => Some(ends),
            Load::Vxlan(network, ends) => {
                assert_eq!(network, 4096, "{what}: {seen:?}");
                ends
            }
        };
        let of_pods = inner.is_none_or(|(from, to)| is_pods(from) && is_pods(to));
        assert!(of_pods, "{what}: the wrapped ends are pods or tunnels: {seen:?}");
    }
    assert_eq!(
        fabric.router.strangers(),
        0,
        "{what}: the router saw pods' addresses"
    );
}

/// The route of one node to the block of another, as the kernel shows it.
fn route_between(fabric: &Fabric, from: usize, to: usize, family: Family) -> String {
    let destination = block(family, 0, fabric.nodes[to].number);
    within(&fabric.nodes[from].namespace, || shown::route(destination))
}
