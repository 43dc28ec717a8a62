//! The way out: what leaves all pools takes the node's address where the pool says so, and what stays in them never.

use crate::{cases, talk};
use e2e::fabric::{AddressesFrom, Fabric, Family, Mode, Spot, WayOut, addresses, objects};
use e2e::rules::Rules;

/// The server outside, which has no route to pods.
fn server(fabric: &Fabric) -> Spot {
    let own = Family::BOTH.map(|family| addresses::outside(family, 2));
    Spot::new(&fabric.outside, &own, 7_300)
}

#[test]
fn a_pod_reaches_the_outside_with_its_nodes_address_and_other_pods_with_its_own() {
    for case in cases() {
        let mut fabric = case.fabric(WayOut::Nat);
        fabric.connect(0, "");
        fabric.connect(0, "");
        fabric.connect(1, "");
        fabric.apply();
        let server = server(&fabric);
        for family in Family::BOTH {
            let (here, there) = (&fabric.nodes[0], &fabric.nodes[1]);
            let pod = fabric.pod(0, 0);
            assert_eq!(
                pod.spot.reaches(&server, family),
                here.address(family),
                "{case:?}: outside"
            );
            let remote = pod.spot.reaches(&there.spot, family);
            assert_eq!(
                remote,
                here.address(family),
                "{case:?}: another node is in no pool"
            );
            let beside = pod.spot.reaches(&fabric.pod(0, 1).spot, family);
            assert_eq!(beside, pod.address(family), "{case:?}: a pod of the same node");
        }
        for family in Family::BOTH {
            talk(&fabric, 0, 1, family);
        }
        assert_eq!(fabric.router.strangers(), 0, "{case:?}");
    }
}

#[test]
fn the_way_out_is_each_pools_own_and_changes_while_pods_run() {
    Rules::each(|rules| {
        let mut fabric = Fabric::with(&[0, 1], AddressesFrom::Blocks, rules);
        fabric.put(objects::pools(0, Mode::VXLAN, WayOut::Nat));
        fabric.put(objects::pools(1, Mode::VXLAN, WayOut::Own));
        for node in [1, 2] {
            fabric.put(objects::blocks(node, 1));
        }
        fabric.connect_in(0, 0, "");
        fabric.connect_in(0, 1, "");
        fabric.connect_in(1, 1, "");
        fabric.apply();
        let server = server(&fabric);
        for ways_out in [
            [WayOut::Nat, WayOut::Own],
            [WayOut::Own, WayOut::Nat],
            [WayOut::Nat, WayOut::Nat],
        ] {
            for (range, way_out) in (0..).zip(ways_out) {
                fabric.put(objects::pools(range, Mode::VXLAN, way_out));
            }
            fabric.apply();
            for family in Family::BOTH {
                let node = &fabric.nodes[0];
                for (pod, way_out) in ways_out.into_iter().enumerate() {
                    let spot = &fabric.pod(0, pod).spot;
                    if way_out == WayOut::Nat {
                        assert_eq!(
                            spot.reaches(&server, family),
                            node.address(family),
                            "{ways_out:?}"
                        );
                    } else {
                        let before = fabric.router.strangers();
                        // Its packets leave as they are, and the router knows no such address.
                        assert!(
                            spot.is_kept_from(&server, family, &node.spot, &server),
                            "{ways_out:?}"
                        );
                        assert!(fabric.router.strangers() > before, "{ways_out:?}");
                    }
                }
                // From pool to pool nothing is translated, whatever either says.
                let (one, other) = (fabric.pod(0, 0), fabric.pod(1, 0));
                assert_eq!(
                    one.spot.reaches(&other.spot, family),
                    one.address(family),
                    "{ways_out:?}"
                );
                assert_eq!(
                    other.spot.reaches(&one.spot, family),
                    other.address(family),
                    "{ways_out:?}"
                );
            }
        }
    });
}
