//! Nodes, pools and tunnels that come and go in any order: the kernel takes every step and holds what it should.

use crate::kernel::Kernel;
use crate::world::{Aside, say, tries, word};
use dataplane_api::Update;
use dataplane_nftables::contents::contents;
use dataplane_nftables::layout::{Exclusions, LayoutSettings, Outgoing, Planner};
use dataplane_tables::Tables;
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
        let mut kernel = Kernel::skeleton(&planner);
        for (n, flush) in flushes.iter().enumerate() {
            for aside in flush.iter().filter_map(|word| say(word, &mut tables)) {
                match aside {
                    Aside::Tunnels(tunnels) => planner.want_tunnels(tunnels),
                    Aside::Confined(confined) => planner.want_confined(confined),
                };
            }
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
        fresh.want_confined(planner.wanted_confined().clone());
        fresh.begin_ways(&tables);
        let mut made = Kernel::skeleton(&fresh);
        let plan = fresh.plan_first(&tables, 0);
        made.transact(&plan.prepare).map_err(TestCaseError::fail)?;
        made.transact(&plan.switch).map_err(TestCaseError::fail)?;
        kernel.difference(&contents(&fresh, &tables), false).map_err(TestCaseError::fail)?;
        made.difference(&contents(&planner, &tables), false).map_err(TestCaseError::fail)?;
    }
}
