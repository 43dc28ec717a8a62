//! Any table, whatever anybody did to it: one plan brings it to what is wanted, and nothing of others changes.
//!
//! A small model carries out the lines as the program does: all or nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ops::{Family, Insert, Place, Table, TableWrite};

const CHAINS: [&str; 9] = [
    "FORWARD",
    "INPUT",
    "MINE",
    "OTHER",
    "cali-a",
    "cali-b",
    "cali-old",
    "cali-older",
    "felix-x",
];
const KERNEL: [&str; 2] = ["FORWARD", "INPUT"];

type Model = BTreeMap<String, Vec<String>>;

fn wanted() -> DesiredTable {
    let insert = |chain, rule: &str, place| Insert {
        chain,
        rule: rule.to_owned(),
        place,
    };
    let chain = |name: &str, rules: &[&str]| {
        let rules = rules.iter().map(|&rule| rule.to_owned()).collect();
        (name.to_owned(), Some(rules))
    };
    let mut desired = DesiredTable::default();
    desired.take(&TableWrite {
        family: Family::Inet,
        table: Table::Filter,
        chains: vec![
            chain("cali-a", &["-i eth0 -j cali-b", "-j DROP"]),
            chain("cali-b", &["-p tcp -m tcp --dport 80 -j ACCEPT"]),
        ],
        inserts: vec![
            insert("FORWARD", "-j cali-a", Place::First),
            insert("FORWARD", "-j cali-b", Place::First),
            insert("FORWARD", "-j ACCEPT", Place::Last),
            insert("INPUT", "-j cali-b", Place::Last),
        ],
    });
    desired
}

fn with_comment(hash: &str, text: &str) -> String {
    format!("-m comment --comment \"cali:{hash}\" {text}")
}

/// Rules that may stand anywhere: right ones of ours, wrong ones, old ones, other people's.
fn pool() -> Vec<String> {
    let desired = wanted();
    let inserts = desired.inserts().values();
    let right = desired
        .chains()
        .values()
        .flatten()
        .chain(inserts.flat_map(|inserts| inserts.first.iter().chain(&inserts.last)));
    let mut rules: Vec<String> = right
        .flat_map(|rule| {
            [
                with_comment(&rule.hash, &rule.text),
                with_comment(&rule.hash, "-j EVIL"),
            ]
        })
        .collect();
    rules.push(with_comment("0123456789abcdef", "-j cali-old"));
    let plain = [
        "-j felix-x",
        "-j MINE",
        "-i evil0 -j ACCEPT",
        "-j cali-a",
        "-j cali-old",
        "-g cali-older",
    ];
    rules.extend(plain.map(str::to_owned));
    rules
}

fn any_table() -> impl Strategy<Value = Model> {
    let rules = proptest::collection::vec(proptest::sample::select(pool()), 0..6);
    let chain = proptest::option::weighted(0.8, rules);
    proptest::collection::vec(chain, CHAINS.len()).prop_map(|chains| {
        let mut model: Model = CHAINS
            .iter()
            .zip(chains)
            .filter_map(|(name, rules)| Some(((*name).to_owned(), rules?)))
            .collect();
        for name in KERNEL {
            model.entry(name.to_owned()).or_default();
        }
        model
    })
}

fn saved(model: &Model) -> save::SavedTable {
    let mut output = "*filter\n".to_owned();
    for name in model.keys() {
        let policy = if KERNEL.contains(&name.as_str()) {
            "ACCEPT"
        } else {
            "-"
        };
        output += &format!(":{name} {policy} [0:0]\n");
    }
    for (name, rules) in model {
        rules
            .iter()
            .for_each(|rule| output += &format!("-A {name} {rule}\n"));
    }
    let mut tables = save::parse((output + "COMMIT\n").as_bytes()).unwrap();
    tables.remove(0)
}

/// Carries lines out as the program does.
fn restore(model: &mut Model, lines: &str) {
    for line in lines.lines() {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
        match command {
            "-A" => model.get_mut(chain).unwrap().push(rule.to_owned()),
            "-I" => model.get_mut(chain).unwrap().insert(0, rule.to_owned()),
            "-D" => {
                let rules = model.get_mut(chain).unwrap();
                let at = rules
                    .iter()
                    .position(|found| found == rule)
                    .expect("a rule that is there");
                rules.remove(at);
            }
            "-X" => {
                assert_eq!(
                    model.remove(chain),
                    Some(Vec::new()),
                    "{chain} is there and empty"
                );
                let is_named = |rule: &String| {
                    rule.ends_with(&format!(" {chain}")) || rule.ends_with(&format!("-j {chain}"))
                };
                assert!(
                    !model.values().flatten().any(is_named),
                    "nothing leads to {chain}"
                );
            }
            _ => match command.strip_prefix(':') {
                Some(name) => drop(model.insert(name.to_owned(), Vec::new())),
                None => assert!(matches!(line, "*filter" | "COMMIT"), "{line}"),
            },
        }
    }
}

/// What others have, in their order.
fn of_others(model: &Model) -> Model {
    let table = saved(model);
    let theirs = table.chains.iter().filter(|chain| !is_our_chain(&chain.name));
    theirs
        .map(|chain| {
            let rules = model[&chain.name].iter();
            let is_theirs = |rule: &&String| {
                let rule = save::SavedRule {
                    text: (*rule).clone(),
                    hash: chain
                        .rules
                        .iter()
                        .find(|found| found.text == **rule)
                        .and_then(|found| found.hash.clone()),
                };
                !is_our_rule(&rule)
            };
            (chain.name.clone(), rules.filter(is_theirs).cloned().collect())
        })
        .collect()
}

proptest! {
    #[test]
    fn one_plan_brings_any_table_to_what_is_wanted(mut model in any_table()) {
        let (desired, learned) = (wanted(), Learned::default());
        let before = of_others(&model);
        let plan = compare(&desired, &saved(&model), &learned);
        if let Some(lines) = render::render(Table::Filter, &plan, &desired) {
            restore(&mut model, &lines);
        }
        let again = compare(&desired, &saved(&model), &learned);
        prop_assert!(again.is_empty(), "{:?}\n{:?}", again, model);
        prop_assert_eq!(of_others(&model), before);
    }

    #[test]
    fn nothing_of_ours_is_left_where_nothing_is_wanted(mut model in any_table()) {
        let (desired, learned) = (DesiredTable::default(), Learned::default());
        let before = of_others(&model);
        let plan = compare(&desired, &saved(&model), &learned);
        if let Some(lines) = render::render(Table::Filter, &plan, &desired) {
            restore(&mut model, &lines);
        }
        prop_assert_eq!(&of_others(&model), &before);
        for (name, rules) in &model {
            let is_used = before.values().flatten().any(|rule| rule.ends_with(&format!(" {name}")));
            prop_assert!(!is_our_chain(name) || (is_used && rules.is_empty()), "{} is left", name);
        }
        prop_assert!(compare(&desired, &saved(&model), &learned).is_empty());
    }
}
