//! Nodes, pools, ports of the node and tunnels that come and go in any order: the kernel takes every step and holds what it
//! should.

use crate::kernel::Kernel;
use crate::world::{say, tries, word};
use dataplane_api::Update;
use dataplane_iptables::layout::{LayoutSettings, Planner};
use dataplane_tables::{Exclusions, Outgoing, Tables};
use proptest::prelude::*;

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
            for tunnels in flush.iter().filter_map(|word| say(word, &mut tables)) {
                planner.want_tunnels(tunnels);
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
        let mut made = Kernel::default();
        made.take(&fresh.plan_first(&tables));
        kernel.assert_is(&fresh.contents(&tables));
        made.assert_is(&planner.contents(&tables));
    }
}
