//! The kernel's view: what we write is in force, what we read is what is there, what is refused is told.
//!
//! Each test has a network namespace of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

mod support;

use dataplane_nftables::socket::{Link, TransactError};
use dataplane_nftables::wire::{
    Batch, Chain, Datatype, Element, ElementKey, Existing, Expr, Family, KeyType, Keys, MetaKey, Operation,
    Policy, Rule, RulePlace, Set, SetData, SetRef, Table, Value, Verdict,
};
use nix::errno::Errno;
use support::{classes, commit, in_namespace, layout, nft, nft_load, nft_ruleset, refused};

const INET: Family = Family::Inet;

#[test]
fn the_layout_is_to_nft_what_its_own_is_and_loads_again() {
    let theirs = in_namespace(|| {
        nft(&[
            "-f",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/layout.nft"),
        ]);
        nft_ruleset()
    });
    let (ours, text) = in_namespace(|| {
        Link::open().unwrap().transact(&mut layout::batch()).unwrap();
        (nft_ruleset(), nft(&["list", "ruleset"]))
    });
    assert_eq!(ours, theirs);
    let again = in_namespace(|| {
        nft_load(&text);
        nft_ruleset()
    });
    assert_eq!(again, theirs);
}

#[test]
fn a_dump_of_the_layout_is_the_same_whoever_loaded_it() {
    fn dump() -> Vec<String> {
        let mut link = Link::open().unwrap();
        let mut lines = Vec::new();
        for chain in link.chains(INET, "manx").unwrap() {
            lines.push(format!("{} {:?}", chain.name, chain.base));
        }
        for rule in link.rules(INET, "manx").unwrap() {
            lines.push(format!(
                "{} {:?} {:?}",
                rule.chain, rule.expressions, rule.comment
            ));
        }
        for set in link.sets(INET, "manx").unwrap() {
            lines.push(format!(
                "{} {:?} {:?} {:?} {:x}",
                set.name, set.key, set.data, set.size, set.flags
            ));
            let elements = link.elements(INET, "manx", &set.name, set.keys()).unwrap();
            let mut elements: Vec<String> = elements
                .iter()
                .map(|element| format!("{} {element:?}", set.name))
                .collect();
            elements.sort();
            lines.append(&mut elements);
        }
        // What nft says in vain for a key of ranges; and it sizes anonymous sets by halves of intervals.
        lines.iter_mut().for_each(|line| {
            *line = line.replace(
                "Byteorder { from: Register(0), to: Register(0), op: ToNetwork, len: 1, size: 2 }, ",
                "",
            );
        });
        lines
    }
    let theirs = in_namespace(|| {
        nft(&[
            "-f",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/layout.nft"),
        ]);
        dump()
    });
    let ours = in_namespace(|| {
        Link::open().unwrap().transact(&mut layout::batch()).unwrap();
        dump()
    });
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn foreign_rules_of_many_kinds_are_read() {
    in_namespace(|| {
        nft(&[
            "-f",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/other.nft"),
        ]);
        let mut link = Link::open().unwrap();
        let rules = link.rules(INET, "probe").unwrap();
        assert!(rules.len() > 40);
        let foreign = |expression: &&Expr| matches!(expression, Expr::Foreign { .. });
        assert_eq!(
            rules.iter().flat_map(|rule| &rule.expressions).find(foreign),
            None
        );
        assert!(rules.iter().any(|rule| rule.comment.as_deref() == Some("dns")));
        let tables = link.tables(INET).unwrap();
        assert_eq!(tables[0].comment.as_deref(), Some("who owns it"));
        let chains = link.chains(INET, "probe").unwrap();
        assert_eq!(chains[0].comment.as_deref(), Some("a leaf"));
        assert_eq!(
            chains[2].base.as_ref().map(|base| (base.policy, base.priority)),
            Some((Policy::Drop, 5))
        );
        let nets = link.elements(INET, "probe", "nets", Keys::Interval).unwrap();
        let ends = |first: [u8; 4], last: [u8; 4]| Element::range(Value::bytes(&first), Value::bytes(&last));
        assert_eq!(
            nets,
            [
                ends([10, 0, 0, 0], [10, 255, 255, 255]),
                ends([224, 0, 0, 0], [255; 4])
            ]
        );
        assert_eq!(link.rules_of(INET, "probe", "leaf").unwrap().len(), 1);
    });
}

#[test]
fn rules_read_from_a_dump_can_be_written_back() {
    in_namespace(|| {
        nft(&[
            "-f",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/other.nft"),
        ]);
        let before = nft_ruleset();
        let mut link = Link::open().unwrap();
        let rules = link.rules(INET, "probe").unwrap();
        // A rule with an anonymous set cannot be said without the set.
        let anonymous =
            |expression: &Expr| matches!(expression, Expr::Lookup(lookup) if lookup.set.starts_with("__"));
        let plain: Vec<_> = rules
            .iter()
            .filter(|rule| !rule.expressions.iter().any(anonymous))
            .collect();
        assert!(plain.len() > 40);
        // First something else in place of each, so that the second writing is what mends it.
        commit(&mut link, |batch| {
            for rule in &plain {
                let place = RulePlace::Replace(rule.handle);
                batch.rule(&Rule {
                    place,
                    ..Rule::new("probe", &rule.chain, &[Expr::counter()])
                });
            }
        });
        assert_ne!(nft_ruleset(), before);
        // The handles of the rules that stand there now, in their order, are those of the same places.
        let places = link.rules(INET, "probe").unwrap();
        commit(&mut link, |batch| {
            for (rule, now) in rules.iter().zip(&places).filter(|(rule, _)| plain.contains(rule)) {
                let (place, comment) = (RulePlace::Replace(now.handle), rule.comment.as_deref());
                batch.rule(&Rule {
                    place,
                    comment,
                    ..Rule::new("probe", &rule.chain, &rule.expressions)
                });
            }
        });
        assert_eq!(nft_ruleset(), before);
    });
}

#[test]
fn a_quarter_of_a_million_elements_load_in_one_call() {
    in_namespace(|| {
        let mut link = Link::open().unwrap();
        let map = Set::new("big", "id4", Datatype::Ipv4)
            .to(SetData::value(Datatype::Classid))
            .sized(300_000);
        let mut batch = Batch::new(INET);
        batch.table(&Table::new("big"));
        batch.set(&map);
        batch.elements(&SetRef::exact("big", "id4"), classes(0..250_000));
        let committed = link.transact(&mut batch).unwrap();
        assert!(committed.messages > 100);
        let mut found = link.elements(INET, "big", "id4", Keys::Exact).unwrap();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        assert!(found.into_iter().eq(classes(0..250_000)));
        commit(&mut link, |batch| {
            batch.remove_elements(&SetRef::exact("big", "id4"), classes(1..250_000))
        });
        assert_eq!(
            link.elements(INET, "big", "id4", Keys::Exact).unwrap(),
            classes(0..1).collect::<Vec<_>>()
        );
        commit(&mut link, |batch| batch.flush_set("big", "id4"));
        assert_eq!(link.elements(INET, "big", "id4", Keys::Exact).unwrap(), []);
    });
}

#[test]
fn intervals_of_all_forms_are_read_as_written_and_cut_in_place() {
    in_namespace(|| {
        let mut link = Link::open().unwrap();
        let class = || SetData::value(Datatype::Classid);
        let net = |first: &str, last: &str, class: u32| {
            let [first, last] = [first, last].map(|text| Value::ip(text.parse().unwrap()));
            Element {
                key: if first == last {
                    ElementKey::Value(first)
                } else {
                    ElementKey::Range(first, last)
                },
                ..Element::any()
            }
            .to(Value::host32(class))
        };
        let nets = vec![
            net("0.0.0.0", "0.255.255.255", 1),
            net("1.0.0.0", "1.0.0.255", 2),
            net("1.0.1.0", "1.0.1.0", 3),
            net("255.255.255.0", "255.255.255.255", 4),
            Element::any().to(Value::host32(5)),
        ];
        let set = SetRef::interval("t", "net4");
        commit(&mut link, |batch| {
            batch.table(&Table::new("t"));
            batch.set(&Set::new("t", "net4", Datatype::Ipv4).to(class()).of_intervals());
            batch.elements(&set, &nets);
        });
        assert_eq!(link.elements(INET, "t", "net4", Keys::Interval).unwrap(), nets);
        let listed = nft(&["list", "ruleset"]);
        assert!(
            listed.contains("0.0.0.0/8 : 0:1") && listed.contains("255.255.255.0/24 : 0:4"),
            "{listed}"
        );

        let cut = [
            net("1.0.0.0", "1.0.0.15", 2),
            net("1.0.0.16", "1.0.0.16", 9),
            net("1.0.0.17", "1.0.0.255", 2),
        ];
        commit(&mut link, |batch| {
            batch.remove_elements(&set, [&nets[1], &nets[3]]);
            batch.elements(&set, &cut);
        });
        let mut expected = vec![nets[0].clone()];
        expected.extend(cut);
        expected.extend([nets[2].clone(), nets[4].clone()]);
        assert_eq!(
            link.elements(INET, "t", "net4", Keys::Interval).unwrap(),
            expected
        );

        let key = KeyType::concat([Datatype::Ipv4, Datatype::Port]);
        let pairs = Set::new("t", "pairs", key).of_intervals();
        let end = |net: [u8; 4], port| Value::bytes(&net).and(Value::port(port));
        let boxes = [
            Element::range(end([10, 0, 0, 0], 80), end([10, 255, 255, 255], 90)),
            Element::value(end([192, 168, 1, 1], 443)),
        ];
        let set = SetRef {
            table: "t",
            name: "pairs",
            id: None,
            keys: pairs.keys(),
        };
        commit(&mut link, |batch| {
            batch.set(&pairs);
            batch.elements(&set, &boxes);
        });
        let mut found = link.elements(INET, "t", "pairs", pairs.keys()).unwrap();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        let mut expected = boxes.to_vec();
        expected.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(found, expected);
        commit(&mut link, |batch| batch.remove_elements(&set, &boxes));
        assert_eq!(link.elements(INET, "t", "pairs", pairs.keys()).unwrap(), []);
    });
}

#[test]
fn a_refusal_names_the_step_and_the_element_and_leaves_nothing() {
    in_namespace(|| {
        let mut link = Link::open().unwrap();
        let mut batch = Batch::new(INET);
        batch.at(1).table(&Table::new("t"));
        batch.at(2).chain(&Chain::regular("t", "c"));
        batch.at(3).rule(&Rule::new("t", "c", &[Expr::jump("nowhere")]));
        batch.at(4).rule(&Rule::new("t", "c", &[Expr::counter()]));
        batch.at(5).remove_set("t", "nothing");
        batch.at(6).chain(&Chain::regular("t", "d"));
        let failures = refused(link.transact(&mut batch).unwrap_err());
        let told: Vec<_> = failures
            .iter()
            .map(|failure| (failure.label, failure.operation, failure.errno))
            .collect();
        assert_eq!(
            told,
            [
                (Some(3), Some(Operation::NewRule), Errno::ENOENT),
                (Some(5), Some(Operation::DeleteSet), Errno::ENOENT)
            ]
        );
        assert_eq!(link.tables(INET).unwrap(), []);
        assert!(link.sets(INET, "t").unwrap_err().is_absent());

        commit(&mut link, |batch| {
            batch.table(&Table::new("t"));
            batch.set(
                &Set::new("t", "m", Datatype::Ipv4)
                    .to(SetData::value(Datatype::Classid))
                    .sized(10_000),
            );
            batch.elements(&SetRef::exact("t", "m"), classes(4321..4322));
        });
        let mut batch = Batch::new(INET);
        batch
            .existing(Existing::Refuse)
            .at(7)
            .elements(&SetRef::exact("t", "m"), classes(0..9000));
        let failures = refused(link.transact(&mut batch).unwrap_err());
        assert_eq!((failures[0].label, failures[0].errno), (Some(7), Errno::EEXIST));
        let element = failures[0].element.clone().unwrap().into_element();
        assert_eq!(element, classes(4321..4322).next().unwrap());
        assert!(TransactError::Refused { failures }.to_string().contains("step 7"));

        let mut batch = Batch::new(INET);
        batch
            .at(8)
            .elements(&SetRef::exact("t", "m"), classes(20_000..31_000));
        let failures = refused(link.transact(&mut batch).unwrap_err());
        assert_eq!((failures[0].label, failures[0].errno), (Some(8), Errno::ENFILE));
        assert_eq!(link.elements(INET, "t", "m", Keys::Exact).unwrap().len(), 1);
    });
}

#[test]
fn rules_go_where_they_are_put_and_tell_their_handles() {
    in_namespace(|| {
        let mut link = Link::open().unwrap();
        let mark = |number: u32| {
            vec![
                Expr::immediate(Value::host32(number)),
                Expr::set_meta(MetaKey::Priority),
            ]
        };
        let [one, two, three, four, five] = [1, 2, 3, 4, 5].map(mark);
        let mut batch = Batch::new(INET);
        batch.table(&Table::new("t"));
        batch.chain(&Chain::regular("t", "c"));
        batch.tell_handles();
        batch.at(20).rule(&Rule::new("t", "c", &two));
        batch.at(40).rule(&Rule::new("t", "c", &four));
        let handles = link.transact(&mut batch).unwrap().handles;
        assert_eq!(
            handles.iter().map(|&(label, _)| label).collect::<Vec<_>>(),
            [20, 40]
        );
        commit(&mut link, |batch| {
            batch.rule(&Rule {
                place: RulePlace::First,
                ..Rule::new("t", "c", &one)
            });
            batch.rule(&Rule {
                place: RulePlace::After(handles[0].1),
                ..Rule::new("t", "c", &three)
            });
            batch.rule(&Rule {
                place: RulePlace::Before(handles[1].1),
                comment: Some("grüß"),
                ..Rule::new("t", "c", &four)
            });
            batch.rule(&Rule {
                place: RulePlace::Replace(handles[1].1),
                ..Rule::new("t", "c", &five)
            });
        });
        let rules = link.rules(INET, "t").unwrap();
        let written: Vec<_> = rules.iter().map(|rule| rule.expressions.clone()).collect();
        assert_eq!(written, [one, two, three, four, five]);
        assert_eq!(rules[3].comment.as_deref(), Some("grüß"));
        assert_eq!(rules[1].after, Some(rules[0].handle));
        commit(&mut link, |batch| batch.remove_rule("t", "c", rules[0].handle));
        assert_eq!(link.rules(INET, "t").unwrap().len(), 4);
        commit(&mut link, |batch| batch.flush_chain("t", "c"));
        assert_eq!(link.rules(INET, "t").unwrap(), []);
        commit(&mut link, |batch| batch.remove_chain("t", "c"));
        commit(&mut link, |batch| batch.remove_table("t"));
        assert_eq!(link.tables(INET).unwrap(), []);
    });
}

#[test]
fn other_families_and_verdict_maps() {
    in_namespace(|| {
        let mut link = Link::open().unwrap();
        let mut batch = Batch::new(Family::Ipv6);
        batch.table(&Table {
            comment: Some("whose it is"),
            ..Table::new("six")
        });
        batch.chain(&Chain {
            comment: Some("leaf"),
            ..Chain::regular("six", "leaf")
        });
        let map = Set {
            comment: Some("ports"),
            ..Set::new("six", "ports", Datatype::Port).to(SetData::Verdict)
        };
        batch.set(&map);
        let elements = vec![
            Element::value(Value::port(80)).verdict(Verdict::Accept),
            Element::value(Value::port(81)).verdict(Verdict::Goto("leaf".into())),
            Element::value(Value::port(82)).verdict(Verdict::Return),
            Element::any().verdict(Verdict::Drop),
        ];
        batch.elements(&SetRef::exact("six", "ports"), &elements);
        link.transact(&mut batch).unwrap();
        let mut found = link.elements(Family::Ipv6, "six", "ports", Keys::Exact).unwrap();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(found, elements);
        assert_eq!(
            link.tables(Family::Ipv6).unwrap()[0].comment.as_deref(),
            Some("whose it is")
        );
        assert_eq!(
            link.sets(Family::Ipv6, "six").unwrap()[0].comment.as_deref(),
            Some("ports")
        );
        assert_eq!(link.tables(INET).unwrap(), []);
        assert_eq!(link.tables(Family::Unspecified).unwrap().len(), 1);
        let listed = nft(&["list", "ruleset"]);
        assert!(
            listed.contains("* : drop") && listed.contains("comment \"ports\""),
            "{listed}"
        );
    });
}
