//! A life that begins with what an earlier one left: it takes over what is as it should be, opens nothing, and leaves nothing
//! over.

use crate::kernel::{Kernel, steps};
use crate::life::{Life, judge, questions, says, settings};
use crate::world::{Dice, Kind, World, tries};
use dataplane_api::Update;
use dataplane_iptables::layout::{Found, FoundSet, Planner, Target};
use dataplane_tables::Tables;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;

fn found(kernel: &Kernel) -> Found {
    let mut found = Found::default();
    for (name, (spec, members)) in &kernel.sets {
        let set = FoundSet {
            family: spec.family,
            kind: spec.kind,
            members: members.iter().rev().cloned().collect(),
        };
        found.sets.insert(name.clone(), set);
    }
    for ((family, table), chains) in &kernel.chains {
        let names: BTreeSet<String> = chains.keys().cloned().collect();
        found.chains.insert((*family, *table), names);
        for (name, rules) in chains {
            if let Some(Target::Goto(to)) = rules.last().map(|rule| &rule.target) {
                found.leads.insert((*family, name.clone()), to.clone());
            }
        }
    }
    found
}

fn restart(kind: Kind, seed: u64, steps_before: &[u64], steps_between: &[u64], flows: usize) {
    let mut dice = Dice::new(seed);
    let mut life = Life::begin(kind, &mut dice);
    for step in steps_before {
        let mut next = life.world.clone();
        next.happen(&mut Dice::new(*step));
        life.turn(next, |_, _| {});
    }
    let vacant: BTreeSet<IpAddr> = ["10.0.0.99".parse().unwrap()].into();
    for op in life.planner.set_vacant(&vacant) {
        life.kernel.change_set(&op).unwrap();
    }
    let before = life.world.clone();
    let mut world: World = before.clone();
    for step in steps_between {
        world.happen(&mut Dice::new(*step));
    }
    let mut tables = Tables::new();
    // Said in another order, so that numbers differ.
    let mut updates = world.updates();
    updates.push(Update::InSync);
    updates.iter().for_each(|u| tables.apply(u));
    tables.commit();
    let mut planner = Planner::new(settings());
    planner.adopt(found(&life.kernel));
    let plan = planner.plan_first(&tables);
    if steps_between.is_empty() {
        assert!(
            plan.before.is_empty() && plan.after.is_empty(),
            "nothing changed: {plan:?}"
        );
        for write in &plan.writes {
            for (name, rules) in &write.chains {
                let known = life.kernel.chains[&(write.family, write.table)].get(name);
                assert_eq!(known, rules.as_ref(), "chain {name} is another one");
            }
        }
    }
    let asked: Vec<_> = questions(&[&before, &world], &mut dice, flows)
        .into_iter()
        .filter_map(|(own, q)| {
            let (old, new) = (judge(&before, &q), judge(&world, &q));
            (old == new).then_some((own, q, old))
        })
        .collect();
    for step in steps(&plan) {
        life.kernel.step(&step);
        for (own, question, answer) in &asked {
            assert_eq!(
                says(&life.kernel, *own, question),
                *answer,
                "{question:?} after {step:?}"
            );
        }
    }
    life.kernel.assert_is(&planner.contents(&tables));
    assert!(
        planner.set_vacant(&vacant).is_empty(),
        "what nobody has is remembered"
    );
    let again = tables.commit();
    assert!(planner.plan(&tables, &again).is_empty());
}

proptest! {
    #![proptest_config(tries(24))]

    #[test]
    fn a_restart_takes_everything_over(seed: u64, before in prop::collection::vec(any::<u64>(), 0..8)) {
        restart(Kind::Rich, seed, &before, &[], 10);
        restart(Kind::Dense, seed, &before, &[], 10);
    }

    #[test]
    fn a_restart_into_another_world_opens_nothing(
        seed: u64,
        before in prop::collection::vec(any::<u64>(), 0..6),
        between in prop::collection::vec(any::<u64>(), 1..5),
    ) {
        restart(Kind::Rich, seed, &before, &between, 25);
        restart(Kind::Dense, seed, &before, &between, 25);
    }
}
