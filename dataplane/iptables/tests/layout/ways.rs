//! Nodes, pools, ports of the node and tunnels that come and go in any order: the kernel takes every step and holds what it
//! should.

use crate::kernel::Kernel;
use crate::say::Node;
use crate::world::{Aside, say, tries, word};
use dataplane_api::Update;
use dataplane_iptables::layout::{LayoutSettings, Packet, Planner, Way, simulate};
use dataplane_tables::{Exclusions, Outgoing, Tables};
use policy_model::Protocol;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;

proptest! {
    #![proptest_config(tries(64))]

    #[test]
    fn any_life_ends_as_a_fresh_one_begins(
        excludes_nodes: bool,
        flushes in prop::collection::vec(prop::collection::vec(word(), 0..5), 1..12),
    ) {
        let settings = LayoutSettings {
            outgoing: Outgoing {
                exclusions: if excludes_nodes { Exclusions::PoolsAndNodes } else { Exclusions::Pools },
                ..Outgoing::default()
            },
            ..LayoutSettings::default()
        };
        let mut tables = Tables::new();
        tables.apply(&Update::InSync);
        let mut planner = Planner::new(settings.clone());
        let mut kernel = Kernel::default();
        for (n, flush) in flushes.iter().enumerate() {
            for aside in flush.iter().filter_map(|word| say(word, &mut tables)) {
                match aside {
                    Aside::Tunnels(tunnels) => planner.want_tunnels(tunnels),
                    Aside::Confined(confined) => planner.want_confined(confined),
                };
            }
            let changes = tables.commit();
            let plan = if n == 0 { planner.plan_first(&tables) } else { planner.plan(&tables, &changes) };
            kernel.take(&plan);
            kernel.assert_is(&planner.contents(&tables));
            let again = tables.commit();
            prop_assert!(planner.plan(&tables, &again).is_empty(), "a second pass changes something");
        }
        // Whoever begins with what is said now comes to the same.
        let mut fresh = Planner::new(settings);
        fresh.want_tunnels(planner.wanted_tunnels());
        fresh.want_confined(planner.wanted_confined().clone());
        let mut made = Kernel::default();
        made.take(&fresh.plan_first(&tables));
        kernel.assert_is(&fresh.contents(&tables));
        made.assert_is(&planner.contents(&tables));
    }
    /// What is no workload's passes all our chains, so that nothing but its way decides.
    #[test]
    fn what_is_confined_leaves_by_no_wire(
        flushes in prop::collection::vec(prop::collection::vec(word(), 0..5), 1..6),
    ) {
        let mut node = Node::new(LayoutSettings::default(), &[]);
        let mut tables = Tables::new();
        for word in flushes.iter().flatten() {
            match say(word, &mut tables) {
                Some(Aside::Confined(confined)) => drop(node.planner.want_confined(confined)),
                Some(Aside::Tunnels(_)) | None => {}
            }
            say(word, &mut node.tables);
            node.hear(&[]);
        }
        tables.commit();
        let nodes: BTreeSet<IpAddr> = tables.node_addresses().keys().copied().collect();
        let confined = node.planner.wanted_confined();
        let ends = ["10.0.0.1", "10.0.128.1", "10.1.0.1", "10.1.16.1", "192.0.2.2", "192.0.2.7", "fd00::1", "fd00:0:0:8000::1", "2001:db8::3"];
        let ends = ends.map(|text| text.parse::<IpAddr>().unwrap());
        for source in ends {
            for destination in ends.iter().filter(|end| end.is_ipv4() == source.is_ipv4()) {
                for out in ["eth0", "eth1", "eth2", "eth3"] {
                    let packet = Packet::first(source, *destination, Protocol::TCP, 80, 40_000);
                    let refused = confined.refuses(source, *destination, out, |address| nodes.contains(&address));
                    for from in [None, Some("br0")] {
                        let way = Way { from, to: Some(out) };
                        prop_assert_eq!(
                            simulate(&node.kernel, &packet, way),
                            !refused,
                            "{} to {} by {}", source, destination, out
                        );
                    }
                }
            }
        }
    }
}
