//! Random lives: the kernel takes every step, says what the judge says, and keeps nothing that is unused.

use crate::life::Life;
use crate::world::{Dice, Kind, tries};
use proptest::prelude::*;

fn live(kind: Kind, in_place: bool, seed: u64, steps: &[u64]) {
    let mut dice = Dice::new(seed);
    let mut life = Life::begin(kind, &mut dice, in_place, false);
    life.agree(&mut dice, 40);
    for step in steps {
        let mut dice = Dice::new(*step);
        life.happen(&mut dice);
        life.agree(&mut dice, 40);
        life.wait(*dice.pick(&[0, 0, 1, 10, 400, 999, 1_000, 2_500]));
    }
    life.calm();
    life.agree(&mut dice, 40);
    let fresh = Life::of(life.world.clone(), in_place, false);
    assert_eq!(life.amounts(), fresh.amounts(), "history matters");
}

proptest! {
    #![proptest_config(tries(16))]

    #[test]
    fn a_rich_life(in_place: bool, seed: u64, steps in prop::collection::vec(any::<u64>(), 0..25)) {
        live(Kind::Rich, in_place, seed, &steps);
    }

    /// Changes come all the time, and never is there a second without one.
    #[test]
    fn a_restless_life(in_place: bool, seed: u64, steps in prop::collection::vec(any::<u64>(), 25..60)) {
        let mut dice = Dice::new(seed);
        let mut life = Life::begin(Kind::Dense, &mut dice, in_place, false);
        for step in steps {
            life.happen(&mut Dice::new(step));
            life.wait(90);
        }
    }

    #[test]
    fn a_dense_life(in_place: bool, seed: u64, steps in prop::collection::vec(any::<u64>(), 0..40)) {
        live(Kind::Dense, in_place, seed, &steps);
    }
}

/// Lives that once went wrong, so that they are lived each time.
#[test]
fn a_life_whose_history_mattered() {
    live(
        Kind::Rich,
        false,
        14105102852648314747,
        &[
            11082188593676725404,
            9417079798974784858,
            807059692192191,
            3603938413738473,
        ],
    );
}
