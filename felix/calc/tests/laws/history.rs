//! Named states, expanded: reversed, split, repeated, emptied between, and each from each.

use crate::model::State;
use crate::objects::{allow, endpoint, node, policy, side};
use crate::states;
use crate::{Bench, HERE};
use policy_model::Resource;

#[test]
fn every_state_is_reached_from_nothing_in_either_order() {
    for (name, state) in states::all() {
        println!("{name}");
        for reversed in [false, true] {
            let mut resources: Vec<&Resource> = state.values().collect();
            if reversed {
                resources.reverse();
            }
            let mut bench = Bench::new();
            resources
                .iter()
                .for_each(|resource| bench.upsert((*resource).clone()));
            bench.flush();
            bench.check();
        }
    }
}

#[test]
fn every_step_on_the_way_is_right() {
    for (name, state) in states::all() {
        println!("{name}");
        let mut bench = Bench::new();
        let step = |bench: &mut Bench| {
            bench.flush();
            bench.check();
        };
        bench.go_to(&state, step);
        bench.go_to(&State::new(), step);
        assert_nothing_is_left(&mut bench);
    }
}

#[test]
fn repeats_say_nothing() {
    for (name, state) in states::all() {
        println!("{name}");
        let mut bench = Bench::new();
        bench.go_to(&state, |_| {});
        bench.flush();
        for resource in state.values() {
            bench.upsert(resource.clone());
            assert!(
                bench.flush().is_empty(),
                "repeating {} said something",
                resource.key()
            );
        }
        for resource in state.values() {
            bench.delete(&resource.key());
            bench.upsert(resource.clone());
        }
        assert!(bench.flush().is_empty(), "what came back at once was never gone");
        let absent: State = states::all().into_iter().flat_map(|(_, other)| other).collect();
        for key in absent.keys().filter(|key| !state.contains_key(*key)) {
            bench.delete(key);
        }
        assert!(bench.flush().is_empty(), "nothing is known of what never was");
        bench.check();
    }
}

#[test]
fn every_state_is_reached_from_every_other() {
    let all = states::all();
    for (from_name, from) in &all {
        for (to_name, to) in &all {
            println!("{from_name} -> {to_name}");
            let mut bench = Bench::new();
            bench.go_to(from, |_| {});
            bench.flush();
            // At once, then back in single steps, then there through nothing.
            bench.go_to(to, |_| {});
            bench.flush();
            bench.check();
            bench.go_to(from, |bench| drop(bench.flush()));
            bench.check();
            bench.go_to(&State::new(), |_| {});
            bench.go_to(to, |_| {});
            bench.flush();
            bench.check();
            bench.go_to(&State::new(), |_| {});
            bench.flush();
            bench.go_to(from, |_| {});
            bench.flush();
            bench.check();
        }
    }
}

#[test]
fn what_comes_and_goes_between_two_flushes_is_never_said() {
    for (name, state) in states::all() {
        println!("{name}");
        let mut bench = Bench::new();
        bench.go_to(&state, |_| {});
        bench.go_to(&State::new(), |_| {});
        assert!(bench.flush().is_empty());
        assert_nothing_is_left(&mut bench);
    }
}

#[test]
fn a_walk_through_all_states_ends_as_if_it_had_not_been() {
    let all = states::all();
    let mut bench = Bench::new();
    for (_, state) in all.iter().chain(all.iter().rev()) {
        bench.go_to(state, |_| {});
        bench.flush();
        bench.check();
    }
    for (_, state) in &all {
        bench.go_to(state, |_| {});
    }
    bench.flush();
    bench.check();
}

#[test]
fn strings_of_what_is_gone_are_forgotten_without_harm() {
    let all = states::all();
    let named = |name: &str| {
        all.iter()
            .find(|(other, _)| *other == name)
            .map(|(_, state)| state.clone())
            .unwrap()
    };
    let mut bench = Bench::new();
    bench.go_to(&named("labels inherited"), |_| {});
    bench.upsert(policy("late", "late == 'yes'", vec![allow(side("later == 'yes'"))]).into());
    bench.upsert(policy("late", "late == 'yes'", vec![allow(side("later == 'yes'"))]).into());
    bench.flush();
    for n in 0..60_000 {
        let mut passing: Resource = endpoint("passing", "there", &["10.0.9.9/32"], "").into();
        passing
            .metadata_mut()
            .labels
            .insert("unique".to_string(), format!("value-{n}"));
        bench.upsert(passing);
        if n % 5_000 == 0 {
            bench.flush();
        }
    }
    assert!(bench.graph.stats().strings < 40_000, "{:?}", bench.graph.stats());
    bench.upsert(node("there", "192.168.0.2/24", None));
    bench.upsert(endpoint("web", HERE, &["10.0.0.1/32"], "late=yes").into());
    bench.upsert(endpoint("far", "there", &["10.0.3.1/32"], "later=yes").into());
    bench.flush();
    bench.check();
    for name in [
        "team changed",
        "addresses from blocks",
        "labels inherited",
        "duplicate addresses",
    ] {
        bench.go_to(&named(name), |_| {});
        bench.flush();
        bench.check();
    }
}

fn assert_nothing_is_left(bench: &mut Bench) {
    assert_eq!(bench.view.plain(), crate::view::Plain::default());
    let stats = bench.graph.stats();
    let left = [
        stats.workload_endpoints,
        stats.local_endpoints,
        stats.host_endpoints,
        stats.network_sets,
        stats.policies,
        stats.active_policies,
        stats.profiles,
        stats.active_profiles,
        stats.active_selectors,
        stats.atoms,
        stats.service_slices,
        stats.nodes,
        stats.blocks,
        stats.pools,
        stats.routes,
        stats.faulty,
    ];
    assert_eq!((left.iter().sum::<usize>(), stats.tiers), (0, 1), "{stats:?}");
}
