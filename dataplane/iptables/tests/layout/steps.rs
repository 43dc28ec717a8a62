//! Whatever happens, chains and sets say what the judge says, and what happened before does not matter.

use crate::life::{Life, settings};
use crate::world::{Dice, Kind, World, tries};
use dataplane_iptables::layout::LayoutSettings;
use proptest::prelude::*;

fn live(kind: Kind, seed: u64, steps: &[u64], flows: usize, settings: LayoutSettings, numbers_matter: bool) {
    let mut dice = Dice::new(seed);
    let mut world = World::new(kind);
    world.begin(&mut dice);
    let mut life = Life::of(world, settings.clone());
    life.agree(&mut dice, flows);
    for step in steps {
        let mut dice = Dice::new(*step);
        let mut next = life.world.clone();
        next.happen(&mut dice);
        life.turn(next, |_, _| {});
        life.agree(&mut dice, flows);
    }
    if !numbers_matter {
        let fresh = Life::of(life.world.clone(), settings);
        assert_eq!(life.meaning(), fresh.meaning(), "history matters");
    }
    // There and back again.
    let first = life.world.clone();
    let meant = life.meaning();
    let mut other = first.clone();
    for step in steps {
        other.happen(&mut Dice::new(step ^ 1));
    }
    life.turn(other, |_, _| {});
    life.turn(first, |_, _| {});
    if !numbers_matter {
        assert_eq!(life.meaning(), meant, "the way back leads elsewhere");
    }
    life.agree(&mut dice, flows);
    // Everybody goes.
    life.turn(World::new(kind), |_, _| {});
    let empty = Life::of(World::new(kind), life.planner.settings().clone());
    assert_eq!(life.meaning(), empty.meaning(), "something is left over");
}

proptest! {
    #![proptest_config(tries(24))]

    #[test]
    fn any_life_agrees(seed: u64, steps in prop::collection::vec(any::<u64>(), 0..16)) {
        live(Kind::Rich, seed, &steps, 50, settings(), false);
    }

    #[test]
    fn any_life_agrees_in_a_small_world(seed: u64, steps in prop::collection::vec(any::<u64>(), 0..24)) {
        live(Kind::Dense, seed, &steps, 40, settings(), false);
    }

    /// Sets with ports in them that grow too large give way.
    #[test]
    fn any_life_agrees_with_small_sets(seed: u64, steps in prop::collection::vec(any::<u64>(), 0..16), limit in 0usize..40) {
        let settings = LayoutSettings { max_merged_elements: limit, ..settings() };
        live(Kind::Rich, seed, &steps, 40, settings, true);
    }
}
