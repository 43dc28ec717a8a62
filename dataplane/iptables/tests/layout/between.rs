//! The law between two states: after every single step, down to a single member of a set, a packet gets the answer of the
//! state before or of the one after. What both deny never passes, and what both allow is never dropped.
//!
//! A packet that is on its way asks one set after the other, and each may be of a later moment, while it goes through the
//! table that was in force when it came. It, too, never passes where both deny.

use crate::kernel::{Kernel, Step, steps};
use crate::life::{Life, judge, questions, says};
use crate::say::{Node, atom, net, pod, policy, rule, workload};
use crate::world::{Dice, Kind, World, tries};
use dataplane_api::{AtomId, Member, Update};
use dataplane_iptables::layout::{Key, LayoutSettings, Packet, Rule, Ruleset, Way, simulate};
use dataplane_iptables::ops::{Family, Table};
use policy_model::{Action, Protocol};
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

fn live(kind: Kind, seed: u64, turns: &[u64], flows: usize) {
    let mut dice = Dice::new(seed);
    let mut life = Life::begin(kind, &mut dice);
    let mut earlier: Option<World> = None;
    for turn in turns {
        let mut dice = Dice::new(*turn);
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

/// One pass shuts an address out and opens the network around it: a packet must not ask for the address before and for the
/// network afterwards.
#[test]
fn an_address_is_shut_out_before_its_network_opens() {
    let mut updates = [atom(1, &["10.9.0.0/16"]), atom(2, &["10.9.0.1"])].concat();
    let deny = rule(true, Action::Deny, &[2], None, &[]);
    let allow = rule(true, Action::Allow, &[1], None, &[]);
    updates.push(policy("in", vec![deny, allow], vec![]));
    updates.push(workload(pod("one", &["10.0.0.1"], &["in"], &[])));
    let mut node = Node::new(LayoutSettings::default(), &updates);
    let more = |number, text| Update::Members {
        atom: AtomId(number),
        added: vec![Member::Net(net(text))],
        removed: Vec::new(),
    };
    let mut kernels = vec![node.kernel.clone()];
    let plan = node.hear(&[more(1, "10.7.0.0/16"), more(2, "10.7.0.1")]);
    for step in steps(&plan) {
        let mut next = kernels[kernels.len() - 1].clone();
        next.step(&step);
        kernels.push(next);
    }
    let packet = |source: &str| {
        let own = "10.0.0.1".parse().unwrap();
        Packet::first(source.parse().unwrap(), own, Protocol::TCP, 80, 40_000)
    };
    let way = Way {
        from: Some("eth0"),
        to: Some("calione"),
    };
    for came in 0..kernels.len() {
        for seed in 0..100 {
            let moments = Moments {
                kernels: &kernels,
                came,
                now: RefCell::new((came, Dice::new(seed))),
            };
            assert!(!simulate(&moments, &packet("10.7.0.1"), way), "{plan:#?}");
        }
    }
    assert!(simulate(&node.kernel, &packet("10.7.0.2"), way));
}
