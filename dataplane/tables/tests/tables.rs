//! The decision tables against the plain judge, whatever happened before.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

mod world;

use dataplane_api::{AtomId, Update};
use dataplane_tables::{ClassId, Direction, Tables, Verdict};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use world::{Dice, Kind, World, tries};

/// Every endpoint's answers are the judge's.
fn assert_judged(tables: &Tables, world: &World, dice: &mut Dice, flows: usize) {
    assert_eq!(tables.endpoints().count(), world.endpoints.len());
    let flows = world.flows(dice, flows);
    for (id, endpoint) in &world.endpoints {
        let placed = tables.endpoint(id).expect("every endpoint is placed");
        for (direction, group) in [
            (Direction::Ingress, placed.ingress),
            (Direction::Egress, placed.egress),
        ] {
            for flow in &flows {
                if !endpoint
                    .addresses
                    .iter()
                    .any(|a| a.is_ipv4() == flow.peer.is_ipv4())
                {
                    continue;
                }
                let class = tables.peers().lookup(flow.peer);
                let row = tables.row(group, class).expect("a row");
                let allowed = row.verdict(flow.protocol, flow.x, flow.y) == Verdict::Allow;
                let judged = world.allows(endpoint, direction, flow);
                assert_eq!(
                    allowed,
                    judged,
                    "{direction:?} of {id:?}: {flow:?}
{}",
                    world.describe(endpoint)
                );
            }
        }
    }
}

/// What the tables amount to, without their numbers.
fn meaning(tables: &Tables, addresses: &[IpAddr]) -> BTreeMap<String, Vec<(IpAddr, dataplane_tables::Row)>> {
    let rows = |group| {
        let row = |a: &IpAddr| {
            tables
                .row(group, tables.peers().lookup(*a))
                .expect("a row")
                .as_ref()
                .clone()
        };
        addresses.iter().map(|a| (*a, row(a))).collect()
    };
    tables
        .groups()
        .map(|(id, view)| (format!("{:?}", view.key), rows(id)))
        .collect()
}

fn counts(tables: &Tables) -> (usize, usize, usize) {
    let rows: BTreeSet<_> = tables
        .groups()
        .flat_map(|(_, v)| v.rows.values().chain([v.default]))
        .map(|r| r.as_ref().clone())
        .collect();
    (
        tables.groups().count(),
        tables.peers().classes().count(),
        rows.len(),
    )
}

/// The index of classes says what looking into each class says.
fn assert_indexed(tables: &Tables) {
    let peers = tables.peers();
    let mut looked: BTreeMap<AtomId, Vec<ClassId>> = BTreeMap::new();
    for class in peers.classes() {
        let content = peers.class(class);
        let atoms: BTreeSet<AtomId> = content.iter().map(|membership| membership.atom()).collect();
        for atom in atoms {
            looked.entry(atom).or_default().push(class);
        }
    }
    for (atom, classes) in &looked {
        assert_eq!(peers.classes_with([*atom]), *classes, "{atom:?}");
    }
    let all: BTreeSet<ClassId> = looked.values().flatten().copied().collect();
    assert_eq!(peers.classes_with(looked.keys().copied()), Vec::from_iter(all));
}

fn run(kind: Kind, seed: u64, steps: &[u64], flows: usize) {
    let mut dice = Dice::new(seed);
    let mut world = World::new(kind);
    let mut tables = Tables::new();
    let mut updates = world.begin(&mut dice);
    updates.push(Update::InSync);
    updates.iter().for_each(|u| tables.apply(u));
    tables.commit();
    assert_judged(&tables, &world, &mut dice, flows);
    for step in steps {
        let mut dice = Dice::new(*step);
        let before: BTreeMap<_, _> = snapshot(&tables);
        for update in world.happen(&mut dice) {
            tables.apply(&update);
        }
        let changes = tables.commit();
        assert_judged(&tables, &world, &mut dice, flows);
        assert_indexed(&tables);
        assert_told(&before, &tables, &changes);
    }
    let mut fresh = Tables::new();
    let mut updates = world.updates();
    updates.push(Update::InSync);
    updates.iter().for_each(|u| fresh.apply(u));
    fresh.commit();
    let addresses = world.addresses();
    assert_eq!(meaning(&tables, &addresses), meaning(&fresh, &addresses));
    assert_eq!(counts(&tables), counts(&fresh));
    // A commit of nothing changes nothing.
    let changes = tables.commit();
    assert!(changes.changed_rows.is_empty() && changes.changed_defaults.is_empty());
    assert!(changes.changed_endpoints.is_empty() && changes.addresses.moved.is_empty());
}

type Snapshot = BTreeMap<u32, (dataplane_tables::Row, BTreeMap<u32, dataplane_tables::Row>)>;

fn snapshot(tables: &Tables) -> Snapshot {
    let rows = |view: &dataplane_tables::GroupView<'_>| {
        view.rows
            .iter()
            .map(|(c, r)| (c.0, r.as_ref().clone()))
            .collect::<BTreeMap<_, _>>()
    };
    tables
        .groups()
        .map(|(id, v)| (id.0, (v.default.as_ref().clone(), rows(&v))))
        .collect()
}

/// Every row that is another one than before is named in the changes, and nothing else is.
fn assert_told(before: &Snapshot, tables: &Tables, changes: &dataplane_tables::Changes) {
    let after = snapshot(tables);
    let ids = |list: &[dataplane_tables::GroupId]| list.iter().map(|g| g.0).collect::<BTreeSet<u32>>();
    let new: BTreeSet<u32> = after
        .keys()
        .filter(|g| !before.contains_key(g))
        .copied()
        .collect();
    let gone: BTreeSet<u32> = before
        .keys()
        .filter(|g| !after.contains_key(g))
        .copied()
        .collect();
    assert_eq!((ids(&changes.new_groups), ids(&changes.gone_groups)), (new, gone));
    let (mut defaults, mut rows) = (BTreeSet::new(), BTreeSet::new());
    for (group, (default, old)) in before {
        let Some((default_after, now)) = after.get(group) else {
            continue;
        };
        if default != default_after {
            defaults.insert(*group);
            continue;
        }
        for class in old.keys().chain(now.keys()) {
            let known = |list: &[dataplane_tables::ClassId]| list.iter().any(|c| c.0 == *class);
            let passing = known(&changes.addresses.new_classes) || known(&changes.addresses.gone_classes);
            if !passing && old.get(class) != now.get(class) {
                rows.insert((*group, *class));
            }
        }
    }
    assert_eq!(ids(&changes.changed_defaults), defaults);
    assert_eq!(
        changes
            .changed_rows
            .iter()
            .map(|(g, c)| (g.0, c.0))
            .collect::<BTreeSet<_>>(),
        rows
    );
}

proptest! {
    #![proptest_config(tries(32))]

    #[test]
    fn rows_say_what_the_judge_says(seed: u64, steps in prop::collection::vec(any::<u64>(), 0..25)) {
        run(Kind::Rich, seed, &steps, 80);
    }

    #[test]
    fn rows_say_what_the_judge_says_in_a_small_world(seed: u64, steps in prop::collection::vec(any::<u64>(), 0..40)) {
        run(Kind::Dense, seed, &steps, 60);
    }
}
