//! Where pools are always wrapped, nothing of pods leaves a node as it is, whatever became of routes and devices.

use crate::{fabric_with, nothing_in_clear, sent_of_pods, talk};
use e2e::bed::{ip, within};
use e2e::fabric::addresses::{block, of_pod};
use e2e::fabric::shown::{self, IPIP_DEVICE, kernel_has_ipip, vxlan_device};
use e2e::fabric::{Fabric, Family, Mode, Spot};
use e2e::rules::Rules;

/// The first node's pod asks for somebody, in vain, and nothing of that is on the wire.
fn is_lost(fabric: &Fabric, family: Family, to: &Spot, what: &str) {
    let [here, there] = [0, 1].map(|place: usize| &fabric.nodes[place].spot);
    fabric.forget_captures();
    let kept = fabric.pod(0, 0).spot.is_kept_from(to, family, here, there);
    assert!(kept, "{what}: it was answered");
    assert_eq!(sent_of_pods(fabric), [], "{what}: on the wire");
    assert_eq!(
        fabric.router.strangers(),
        0,
        "{what}: the router saw pods' addresses"
    );
}

fn always_wrapped() -> Vec<(Mode, Vec<Family>)> {
    let mut modes = vec![(Mode::VXLAN, Family::BOTH.to_vec())];
    if kernel_has_ipip() {
        modes.push((Mode::IPIP, vec![Family::V4]));
    }
    modes
}

/// Takes a tunnel away. The kernel's own device of IPIP cannot be removed, and takes its routes along when it goes down.
fn without_tunnel(mode: Mode, family: Family) -> String {
    if mode == Mode::IPIP {
        format!("link set {IPIP_DEVICE} down")
    } else {
        format!("link del {}", vxlan_device(family))
    }
}

#[test]
fn nothing_leaves_in_clear_for_who_is_in_no_block() {
    Rules::each(|rules| {
        for (mode, families) in always_wrapped() {
            let fabric = fabric_with(rules, &[0, 1], mode);
            // Of a node that is not there: its block is in nobody's list. The second node has the address, so that it would
            // be heard if anything came.
            let absent = Family::BOTH.map(|family| of_pod(family, 0, 9, 5));
            let there = &fabric.nodes[1].namespace;
            within(there, || {
                // In use at once.
                for (address, rest) in absent.iter().zip(["/32 dev lo", "/128 dev lo nodad"]) {
                    ip(&format!("addr add {address}{rest}"));
                }
            });
            let spot = Spot::new(there, &absent, 7_300);
            for family in families {
                let what = format!("{mode:?} {family:?} to an address in no block");
                is_lost(&fabric, family, &spot, &what);
            }
        }
    });
}

#[test]
fn nothing_leaves_in_clear_while_a_tunnels_device_is_gone() {
    Rules::each(|rules| {
        for (mode, families) in always_wrapped() {
            let fabric = fabric_with(rules, &[0, 1], mode);
            for family in families {
                let what = format!("{mode:?} {family:?} without the device");
                talk(&fabric, 0, 1, family);
                fabric.settle();
                // Between what somebody does and the next pass: routes go with their device, without any of ours noticing.
                let other = block(family, 0, fabric.nodes[1].number);
                within(&fabric.nodes[0].namespace, || {
                    ip(&without_tunnel(mode, family));
                    assert_eq!(shown::route(other), "", "{what}: there is a route");
                });
                is_lost(&fabric, family, &fabric.pod(1, 0).spot, &what);
                fabric.tend();
                fabric.settle();
                fabric.forget_captures();
                talk(&fabric, 0, 1, family);
                nothing_in_clear(&fabric, &format!("{what}, mended"));
            }
        }
    });
}
