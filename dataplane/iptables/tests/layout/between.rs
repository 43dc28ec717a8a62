//! The law between two states: after every single step, down to a single member of a set, a packet gets the answer of the
//! state before or of the one after. What both deny never passes, and what both allow is never dropped.

use crate::kernel::Step;
use crate::life::{Life, judge, questions, says};
use crate::world::{Dice, Kind, World, tries};
use proptest::prelude::*;

fn live(kind: Kind, seed: u64, steps: &[u64], flows: usize) {
    let mut dice = Dice::new(seed);
    let mut life = Life::begin(kind, &mut dice);
    let mut earlier: Option<World> = None;
    for step in steps {
        let mut dice = Dice::new(*step);
        let before = life.world.clone();
        let mut next = before.clone();
        match &earlier {
            // Sometimes the world flips back. Only to the one before: numbers of sets that came later may have been given
            // again in between.
            Some(world) if dice.chance(20) => next = World::clone(world),
            _ => {
                for _ in 0..1 + dice.roll(3) {
                    next.happen(&mut dice);
                }
            }
        }
        let asked: Vec<_> = questions(&[&before, &next], &mut dice, flows)
            .into_iter()
            .map(|(own, question)| {
                let answers = (judge(&before, &question), judge(&next, &question));
                (own, question, answers)
            })
            .collect();
        let mut trace: Vec<String> = Vec::new();
        let shown = life.show();
        life.turn(next, |kernel, step: &Step| {
            trace.push(format!("{step:?}"));
            for (own, question, (old, new)) in &asked {
                if old != new {
                    continue;
                }
                let now = says(kernel, *own, question);
                assert_eq!(
                    now,
                    *old,
                    "{} between two states: {question:?} after\n{}\nfrom\n{shown}",
                    if now { "OPEN" } else { "CLOSED" },
                    trace.join("\n")
                );
            }
        });
        life.agree(&mut dice, flows);
        earlier = Some(before);
    }
}

proptest! {
    #![proptest_config(tries(24))]

    #[test]
    fn never_open_between_two_states(seed: u64, steps in prop::collection::vec(any::<u64>(), 1..10)) {
        live(Kind::Dense, seed, &steps, 25);
    }

    #[test]
    fn never_open_between_two_rich_states(seed: u64, steps in prop::collection::vec(any::<u64>(), 1..6)) {
        live(Kind::Rich, seed, &steps, 25);
    }
}
