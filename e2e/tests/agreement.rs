//! Law 1: oracle, simulator and kernel agree, and law 2: whatever the history was, restarts included.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself"
)]

use dataplane::DataplaneSettings;
use e2e::agreement::{Case, Disagreement, Enforced, Step, explain, reduce};
use e2e::random::{Change, Cluster, Dice, flows, local_pods};
use e2e::rules::Rules;
use e2e::world::World;

/// Worlds, as many of even as of odd number, with the first way to hold policy.
const WORLDS: u64 = 40;
/// The same with each of the others.
const FEWER_WORLDS: u64 = 4;
/// States of one cluster, the first one included.
const STATES: usize = 6;
/// Flows that are asked in each state.
const FLOWS: usize = 350;
/// How often a failing case is tried again to make it smaller.
const TRIES: usize = 400;

/// A number that an environment variable may set.
fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|e| panic!("{variable}: {e}"))
    })
}

fn world(rules: Rules, seed: u64) -> Enforced {
    let settings = DataplaneSettings {
        // Every combination has its turn: whose table, and whether intervals are changed in place.
        owned_table: seed.is_multiple_of(2),
        intervals_in_place: seed % 4 < 2,
        ..rules.settings()
    };
    Enforced::new(World::new(&local_pods(), settings))
}

/// Whether the case still ends in a disagreement or in a wrong table.
fn fails(case: &Case, rules: Rules, seed: u64) -> bool {
    let mut enforced = world(rules, seed);
    case.steps.iter().for_each(|step| enforced.take(step));
    if !case.flows.iter().all(|f| enforced.concerns(f)) {
        return false;
    }
    enforced.check_table().is_err() || !enforced.disagreements(&case.flows).is_empty()
}

fn fail(rules: Rules, seed: u64, state: usize, case: Case, what: &str, found: &[Disagreement]) -> ! {
    let shown: Vec<String> = found.iter().take(5).map(ToString::to_string).collect();
    let count = found.len();
    eprintln!(
        "{rules}, seed {seed}, state {state}: {what} {count} flows\n{}",
        shown.join("\n")
    );
    let flows = found.iter().map(|d| d.probe).take(5).collect();
    let small = reduce(Case { flows, ..case }, TRIES, |case| fails(case, rules, seed));
    let path = small.keep(&format!("seed-{seed}-state-{state}"));
    let mut cluster = Cluster::default();
    small.steps.iter().for_each(|s| cluster.apply(&s.change));
    let why = small
        .flows
        .first()
        .map_or_else(String::new, |p| explain(&cluster.resources(), p));
    panic!(
        "{}\nkept as {}\n{}\nthe oracle says:\n{why}",
        shown.join("\n"),
        path.display(),
        small.to_yaml()
    );
}

fn check(rules: Rules, seed: u64) -> usize {
    let mut dice = Dice::new(seed);
    let mut cluster = Cluster::new(&mut dice);
    let mut enforced = world(rules, seed);
    let mut case = Case::default();
    let mut asked = 0;
    for state in 0..STATES {
        let change = match state {
            0 => Change {
                upsert: cluster.resources(),
                delete: Vec::new(),
            },
            _ => cluster.mutate(&mut dice),
        };
        let step = Step {
            change,
            restart: state == STATES - 2,
        };
        enforced.take(&step);
        case.steps.push(step);
        let probes = flows(&mut dice, &cluster, FLOWS);
        let found = enforced.disagreements(&probes);
        if !found.is_empty() {
            fail(rules, seed, state, case, "they disagree about", &found);
        }
        if let Err(wrong) = enforced.check_table() {
            fail(rules, seed, state, case, &wrong, &[]);
        }
        // What is unused goes in some histories and waits for long in others.
        if dice.chance(40) {
            enforced.settle();
        }
        asked += probes.len();
    }
    asked
}

fn check_all(first: u64) {
    let seed = number("MANX_SEED", 1);
    Rules::each(|rules| {
        let worlds = number("MANX_WORLDS", rules.share(WORLDS, FEWER_WORLDS));
        let asked: usize = (first..worlds).step_by(2).map(|n| check(rules, seed + n)).sum();
        eprintln!("{asked} flows in {} worlds", worlds / 2);
        assert!(asked > 0, "nothing was asked");
    });
}

#[test]
fn kept_cases_agree() {
    for (path, case) in Case::kept() {
        Rules::each(|rules| {
            // The combinations of settings are of nftables alone.
            let seeds = if rules == Rules::Nftables { 4 } else { 1 };
            for seed in 0..seeds {
                assert!(
                    !fails(&case, rules, seed),
                    "{rules}: {} fails again",
                    path.display()
                );
            }
        });
    }
}

#[test]
fn even_worlds_agree() {
    check_all(0);
}

#[test]
fn odd_worlds_agree() {
    check_all(1);
}
