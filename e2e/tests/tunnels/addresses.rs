//! Where pods have their addresses from: another node's block, or the node's own range. And that much fits through.

use crate::{cases, nothing_in_clear, sent_of_pods, talk};
use e2e::bed::{bound, within};
use e2e::fabric::addresses::{in_block, is_pods};
use e2e::fabric::{AddressesFrom, Fabric, Family, WayOut, objects, shown};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// The place of an address in the first node's block that a pod of another node has borrowed.
const BORROWED: u8 = 40;

#[test]
fn a_borrowed_address_has_a_route_of_its_own_in_every_mode() {
    for case in cases() {
        let mut fabric = case.fabric(WayOut::Own);
        let third = fabric.join(case.subnets[0]);
        fabric.connect(0, "");
        let borrowed = Family::BOTH.map(|family| in_block(family, 0, 1, BORROWED));
        fabric.connect_at(1, borrowed, "");
        fabric.connect(third, "");
        fabric.apply();
        fabric.forget_captures();
        for family in Family::BOTH {
            // To the node whose block it is, and to one that is neither's.
            talk(&fabric, 0, 1, family);
            talk(&fabric, third, 1, family);
            talk(&fabric, 0, third, family);
        }
        if case.mode.wraps(false) {
            nothing_in_clear(&fabric, &format!("{case:?}"));
        }
        for (place, family) in [(0, Family::V4), (third, Family::V4), (0, Family::V6)] {
            let borrowed = in_block(family, 0, 1, BORROWED);
            let route = within(&fabric.nodes[place].namespace, || shown::route(borrowed));
            assert!(
                route.contains(" via ") && route.contains("proto 80"),
                "{case:?}: {route}"
            );
        }
    }
}

#[test]
fn ranges_of_the_nodes_own_are_reached_as_blocks_are() {
    for case in cases() {
        let mut fabric = Fabric::with(&case.subnets, AddressesFrom::NodeRanges, case.rules);
        fabric.put(objects::pools(0, case.mode, WayOut::Own));
        fabric.connect(0, "");
        fabric.connect(1, "");
        fabric.apply();
        fabric.forget_captures();
        for family in Family::BOTH {
            talk(&fabric, 0, 1, family);
            let own = within(&fabric.nodes[0].namespace, || {
                shown::route(e2e::fabric::addresses::block(family, 0, 1))
            });
            assert!(own.starts_with("blackhole "), "{case:?}: {own}");
        }
        if case.wraps() {
            nothing_in_clear(&fabric, &format!("{case:?}"));
        }
    }
}

/// Connections open with small packets and stand still with large ones where a size or a checksum is wrong.
#[test]
fn a_connection_carries_much_in_every_mode() {
    const MUCH: usize = 4 << 20;
    for case in cases() {
        let mut fabric = case.fabric(WayOut::Own);
        fabric.connect(0, "");
        fabric.connect(1, "");
        fabric.apply();
        for family in Family::BOTH {
            talk(&fabric, 0, 1, family);
            fabric.forget_captures();
            let (one, other) = (fabric.pod(0, 0), fabric.pod(1, 0));
            let target = SocketAddr::new(other.address(family), 7_400);
            let listener = bound(&other.side.namespace, || TcpListener::bind(target));
            let hears = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).unwrap();
                heard
            });
            let said: Vec<u8> = (0..MUCH).map(|n| n.to_le_bytes()[n % 3]).collect();
            let mut stream = within(&one.side.namespace, || TcpStream::connect(target)).unwrap();
            stream.write_all(&said).unwrap();
            drop(stream);
            assert!(
                hears.join().unwrap() == said,
                "{case:?} {family:?}: what arrived is something else"
            );
            let clear = sent_of_pods(&fabric)
                .iter()
                .filter(|seen| seen.has_end(is_pods))
                .count();
            assert_eq!(
                clear == 0,
                case.wraps(),
                "{case:?} {family:?}: {clear} packets as they are"
            );
        }
    }
}
