//! Nodes, pools and tunnels that come and go in any order: the kernel takes every step and holds what it should.

use crate::kernel::Kernel;
use crate::world::tries;
use dataplane_api::{ClusterNode, PoolRange, Update};
use dataplane_nftables::contents::contents;
use dataplane_nftables::layout::{Exclusions, LayoutSettings, Outgoing, Planner, TunnelsInUse};
use dataplane_tables::Tables;
use policy_model::EncapsulationMode;
use proptest::prelude::*;
use std::net::IpAddr;

/// Something that is said.
#[derive(Clone, Debug)]
enum Word {
    /// A node has these addresses; without any it leaves.
    Node(u8, Vec<u8>),
    /// A pool, and whether what leaves all pools is translated; or that it is none any more.
    Pool(u8, Option<bool>),
    Tunnels(bool, bool, bool),
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        (0u8..4, prop::collection::vec(0u8..8, 0..4)).prop_map(|(name, list)| Word::Node(name, list)),
        (0u8..4, any::<Option<bool>>()).prop_map(|(pool, kind)| Word::Pool(pool, kind)),
        any::<(bool, bool, bool)>().prop_map(|(a, b, c)| Word::Tunnels(a, b, c)),
    ]
}

fn address(number: u8) -> IpAddr {
    if number.is_multiple_of(3) {
        format!("2001:db8::{number}").parse().unwrap()
    } else {
        IpAddr::from([192, 0, 2, number])
    }
}

fn say(word: &Word, tables: &mut Tables, planner: &mut Planner) {
    match word {
        Word::Node(name, list) => {
            let name = name.to_string().as_str().into();
            tables.apply(&if list.is_empty() {
                Update::NodeRemoved(name)
            } else {
                Update::Node(ClusterNode {
                    name,
                    is_here: false,
                    addresses: list.iter().map(|n| address(*n)).collect(),
                    ipip: None,
                    vxlan4: None,
                    vxlan6: None,
                    vxlan_mac: None,
                })
            });
        }
        Word::Pool(pool, kind) => {
            let ranges = ["10.0.0.0/16", "10.1.0.0/20", "fd00::/48", "0.0.0.0/0"];
            let cidr = ranges[usize::from(*pool)].parse().unwrap();
            tables.apply(&match kind {
                None => Update::PoolRemoved(cidr),
                Some(nat_outgoing) => Update::Pool(PoolRange {
                    cidr,
                    nat_outgoing: *nat_outgoing,
                    ipip: EncapsulationMode::Never,
                    vxlan: EncapsulationMode::Never,
                }),
            });
        }
        Word::Tunnels(ipip, vxlan4, vxlan6) => {
            let (ipip, vxlan4, vxlan6) = (*ipip, *vxlan4, *vxlan6);
            planner.want_tunnels(TunnelsInUse { ipip, vxlan4, vxlan6 });
        }
    }
}

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
        let mut kernel = Kernel::skeleton(&planner);
        for (n, flush) in flushes.iter().enumerate() {
            flush.iter().for_each(|word| say(word, &mut tables, &mut planner));
            let changes = tables.commit();
            let plan = if n == 0 {
                planner.plan_first(&tables, 0)
            } else {
                planner.plan(&tables, &changes, 0)
            };
            prop_assert!(plan.prepare.is_empty() || n == 0, "one transaction does");
            kernel.transact(&plan.prepare).map_err(TestCaseError::fail)?;
            kernel.transact(&plan.switch).map_err(TestCaseError::fail)?;
            kernel.difference(&contents(&planner, &tables), false).map_err(TestCaseError::fail)?;
            let again = tables.commit();
            prop_assert!(planner.plan(&tables, &again, 0).is_empty(), "a second pass changes something");
        }
        // Whoever begins with what is said now comes to the same.
        let mut fresh = Planner::new(settings);
        fresh.want_tunnels(planner.wanted_tunnels());
        fresh.begin_ways(&tables);
        let mut made = Kernel::skeleton(&fresh);
        let plan = fresh.plan_first(&tables, 0);
        made.transact(&plan.prepare).map_err(TestCaseError::fail)?;
        made.transact(&plan.switch).map_err(TestCaseError::fail)?;
        kernel.difference(&contents(&fresh, &tables), false).map_err(TestCaseError::fail)?;
        made.difference(&contents(&planner, &tables), false).map_err(TestCaseError::fail)?;
    }
}
