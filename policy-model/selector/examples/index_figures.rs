//! Prints the figures of the index at the size that it is made for; run it with `--release`.
//!
//! 250,000 items in 100 parents with six labels each, against 10,000 selectors, first of the shape
//! `has(marker)` and then each different.

use std::time::{Duration, Instant};

use policy_model_selector::Selector;
use policy_model_selector::index::{Interner, ItemId, Label, MatchChange, MatchIndex, ParentId, SelectorId};

const ITEMS: u32 = 250_000;
const PARENTS: u32 = 100;
const SELECTORS: u32 = 10_000;
const MARKERS: u32 = 31;

fn main() {
    let before = resident_bytes();
    let mut interner = Interner::new();
    let labels: Vec<Vec<Label>> = (0..ITEMS).map(|item| labels_of(&mut interner, item, 0)).collect();
    let mut index = MatchIndex::new();
    let mut changes = Vec::new();
    for parent in 0..PARENTS {
        let label = (
            interner.intern("pcns.name"),
            interner.intern(&format!("ns-{parent}")),
        );
        index.set_parent_labels(&interner, ParentId(parent), &[label], &mut changes);
    }
    let inputs = resident_bytes() - before;

    let started = Instant::now();
    for (item, own) in (0..ITEMS).zip(&labels) {
        index.set_item(&interner, ItemId(item), own, &parents_of(item), &mut changes);
    }
    print("load 250,000 items, no selector", started.elapsed());
    let bytes = resident_bytes() - before - inputs;
    println!("{:<64} {:>9} bytes", "memory per item", bytes / u64::from(ITEMS));

    for marker in 0..MARKERS {
        let selector = parse(&format!("has(marker-{marker})"));
        measure(
            &format!("has(marker-{marker})"),
            marker < 3,
            &mut changes,
            |changes| {
                index.add_selector(&mut interner, SelectorId(marker), &selector, changes);
            },
        );
    }
    let joined = parse("has(marker-5) && l10 in {'v1', 'v2', 'v3'} && pcns.name != 'ns-7'");
    measure("a conjunction with has(marker)", true, &mut changes, |changes| {
        index.add_selector(&mut interner, SelectorId(100), &joined, changes);
    });
    let parent = parse("pcns.name == 'ns-3'");
    measure("pcns.name == 'ns-3'", true, &mut changes, |changes| {
        index.add_selector(&mut interner, SelectorId(101), &parent, changes);
    });
    measure("remove a has(marker) selector", true, &mut changes, |changes| {
        index.remove_selector(&interner, SelectorId(1), changes);
    });

    let started = Instant::now();
    for number in 0..SELECTORS {
        let text = match number % 4 {
            0 => format!(
                "l40 == 'v{}' && l30 == 'v{}' && l20 != 'v{}'",
                number % 40,
                number / 40 % 30,
                number % 17
            ),
            1 => format!(
                "pcns.name == 'ns-{}' && l40 == 'v{}'",
                number % PARENTS,
                number / 400
            ),
            2 => format!(
                "has(marker-{}) && l30 in {{'v{}', 'v{}'}}",
                number % MARKERS,
                number % 30,
                number % 29
            ),
            _ => format!(
                "has(marker-{}) && l40 == 'v{}' && l11 != 'w{number}'",
                number % MARKERS,
                number % 40
            ),
        };
        changes.clear();
        index.add_selector(
            &mut interner,
            SelectorId(1000 + number),
            &parse(&text),
            &mut changes,
        );
    }
    print("10,000 different selectors, each", started.elapsed() / SELECTORS);

    let mut worst = Duration::ZERO;
    let mut reported = 0;
    let rounds = 10_000;
    let started = Instant::now();
    for round in 0..rounds {
        let item = round * 7919 % ITEMS;
        let own = labels_of(&mut interner, item, 1 + round);
        let begun = Instant::now();
        changes.clear();
        index.set_item(&interner, ItemId(item), &own, &parents_of(item), &mut changes);
        worst = worst.max(begun.elapsed());
        reported += changes.len();
    }
    print(
        &format!("one label of an item changes ({reported} reports in all), mean"),
        started.elapsed() / rounds,
    );
    print("the same, worst", worst);

    for (what, value) in [("away", "other"), ("back", "ns-3")] {
        let label = (interner.intern("pcns.name"), interner.intern(value));
        measure(
            &format!("label of a parent with 2,500 children, {what}"),
            true,
            &mut changes,
            |changes| {
                index.set_parent_labels(&interner, ParentId(3), &[label], changes);
            },
        );
    }

    let started = Instant::now();
    let mut second = MatchIndex::new();
    for number in 0..SELECTORS {
        if let Some(selector) = index.selector(SelectorId(1000 + number)) {
            second.add_selector(&mut interner, SelectorId(number), selector, &mut changes);
        }
    }
    let mut reported = 0;
    for (item, own) in (0..ITEMS).zip(&labels) {
        changes.clear();
        second.set_item(&interner, ItemId(item), own, &parents_of(item), &mut changes);
        reported += changes.len();
    }
    print(
        &format!("10,000 selectors first, then 250,000 items ({reported} reports)"),
        started.elapsed(),
    );
    let started = Instant::now();
    for item in 0..ITEMS {
        changes.clear();
        second.remove_item(&interner, ItemId(item), &mut changes);
    }
    print("all items removed again", started.elapsed());
    let started = Instant::now();
    for item in 0..ITEMS {
        changes.clear();
        index.remove_item(&interner, ItemId(item), &mut changes);
    }
    print("all items of the first index removed", started.elapsed());
}

/// Five labels of 10, 11, 20, 30 and 40 values and one marker of 31; `round` changes one of them.
fn labels_of(interner: &mut Interner, item: u32, round: u32) -> Vec<Label> {
    let mut labels: Vec<Label> = [10, 11, 20, 30, 40]
        .into_iter()
        .map(|values| {
            let value = if values == 40 {
                (item + round) % values
            } else {
                item % values
            };
            (
                interner.intern(&format!("l{values}")),
                interner.intern(&format!("v{value}")),
            )
        })
        .collect();
    labels.push((
        interner.intern(&format!("marker-{}", item % MARKERS)),
        interner.intern("true"),
    ));
    labels
}

fn parents_of(item: u32) -> [ParentId; 2] {
    [ParentId(item % PARENTS), ParentId(PARENTS + item % 1000)]
}

fn parse(text: &str) -> Selector {
    Selector::parse(text).unwrap_or_default()
}

fn measure(
    what: &str,
    shown: bool,
    changes: &mut Vec<MatchChange>,
    operation: impl FnOnce(&mut Vec<MatchChange>),
) {
    changes.clear();
    let started = Instant::now();
    operation(changes);
    let elapsed = started.elapsed();
    if shown {
        print(&format!("{what} ({} reports)", changes.len()), elapsed);
    }
}

fn print(what: &str, elapsed: Duration) {
    println!("{what:<64} {:>9.3} ms", elapsed.as_secs_f64() * 1e3);
}

/// The resident memory of this process, from `/proc`; 0 where there is none.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * 4096
}
