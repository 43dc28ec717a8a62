//! The law between two states: after every single step, down to a single member of a set, a packet gets the answer of the
//! state before or of the one after. What both deny never passes, and what both allow is never dropped.
//!
//! A packet that is on its way asks one set after the other, and each may be of a later moment, while it goes through the
//! table that was in force when it came. It, too, never passes where both deny.

use crate::kernel::{Kernel, Step};
use crate::life::{Life, judge, questions, says};
use crate::world::{Dice, Kind, World, tries};
use dataplane_iptables::layout::{Key, Rule, Ruleset};
use dataplane_iptables::ops::{Family, Table};
use proptest::prelude::*;
use std::cell::RefCell;

/// What a packet meets that is on its way while things change.
struct Moments<'a> {
    kernels: &'a [Kernel],
    came: usize,
    now: RefCell<(usize, Dice)>,
}

impl Ruleset for Moments<'_> {
    fn chain(&self, family: Family, table: Table, name: &str) -> Option<&[Rule]> {
        self.kernels[self.came].chain(family, table, name)
    }

    fn contains(&self, set: &str, key: &Key<'_>) -> bool {
        let mut now = self.now.borrow_mut();
        let left = self.kernels.len() - now.0;
        // Most changes are met by going on a little.
        let step = if now.1.chance(60) {
            0
        } else {
            now.1.roll(left.min(6))
        };
        now.0 += step;
        // A set that a table in use asks cannot go.
        let there = self.kernels[..=now.0]
            .iter()
            .rev()
            .find(|k| k.sets.contains_key(set));
        there.expect("a set was there before the rule").contains(set, key)
    }
}

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
        let mut kernels = vec![life.kernel.clone()];
        life.turn(next, |kernel, step: &Step| {
            kernels.push(kernel.clone());
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
        for (own, question, _) in asked.iter().filter(|(_, _, answers)| *answers == (false, false)) {
            let came = dice.roll(kernels.len());
            let moments = Moments {
                kernels: &kernels,
                came,
                now: RefCell::new((came, Dice::new(dice.roll(1 << 20) as u64))),
            };
            assert!(
                !says(&moments, *own, question),
                "OPEN to a packet on its way: {question:?} that came at {came}, while\n{}\nfrom\n{shown}",
                trace.join("\n")
            );
        }
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
