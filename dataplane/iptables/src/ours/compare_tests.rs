//! States in, plans out.

use super::super::render::render;
use super::super::save::parse;
use super::*;
use crate::ops::{Family, Insert, Place, Table, TableWrite};

/// Two chains, and a rule at each end of FORWARD.
fn wanted() -> DesiredTable {
    let rules = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let insert = |rule: &str, place| Insert {
        chain: "FORWARD",
        rule: rule.to_owned(),
        place,
    };
    let mut desired = DesiredTable::default();
    desired.take(&TableWrite {
        family: Family::Inet,
        table: Table::Filter,
        chains: vec![
            (
                "cali-b".into(),
                Some(rules(&["-p tcp -m tcp --dport 80 -j ACCEPT", "-j DROP"])),
            ),
            ("cali-a".into(), Some(rules(&["-i eth0 -j cali-b"]))),
        ],
        inserts: vec![
            insert("-j cali-a", Place::First),
            insert("-m mark --mark 0x10000/0x10000 -j ACCEPT", Place::Last),
            insert("-j cali-b", Place::First),
        ],
    });
    desired
}

/// The table as the program would print it, with a rule of somebody else's.
fn printed() -> String {
    let desired = wanted();
    let mut output =
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:cali-a - [0:0]\n:cali-b - [0:0]\n".to_owned();
    let inserts = &desired.inserts()["FORWARD"];
    let mut line = |chain: &str, rule: &HashedRule| {
        output += &format!(
            "-A {chain} -m comment --comment \"cali:{}\" {}\n",
            rule.hash, rule.text
        );
    };
    inserts.first.iter().for_each(|rule| line("FORWARD", rule));
    let foreign = HashedRule {
        hash: "no".into(),
        text: "-j DOCKER".into(),
    };
    line("FORWARD", &foreign);
    inserts.last.iter().for_each(|rule| line("FORWARD", rule));
    for (name, rules) in desired.chains() {
        rules.iter().for_each(|rule| line(name, rule));
    }
    output + "COMMIT\n"
}

fn plan_of(output: &str) -> TablePlan {
    let tables = parse(output.as_bytes()).unwrap();
    compare(&wanted(), &tables[0], &Learned::default())
}

fn names(set: &BTreeSet<String>) -> Vec<&str> {
    set.iter().map(String::as_str).collect()
}

#[test]
fn what_is_right_is_left_alone() {
    let plan = plan_of(&printed());
    assert_eq!(plan, TablePlan::default());
    assert_eq!(render(Table::Filter, &plan, &wanted()), None);
}

#[test]
fn an_empty_table_gets_everything() {
    let plan = plan_of("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n");
    let lines = render(Table::Filter, &plan, &wanted()).unwrap();
    let commands: Vec<_> = lines
        .lines()
        .map(|line| {
            let tail = line.split("\" ").nth(1);
            match tail {
                Some(tail) => format!("{} | {tail}", &line[..line.find(" -m comment").unwrap()]),
                None => line.to_owned(),
            }
        })
        .collect();
    let expected = [
        "*filter",
        ":cali-a - [0:0]",
        ":cali-b - [0:0]",
        "-A cali-a | -i eth0 -j cali-b",
        "-A cali-b | -p tcp -m tcp --dport 80 -j ACCEPT",
        "-A cali-b | -j DROP",
        "-I FORWARD | -j cali-b",
        "-I FORWARD | -j cali-a",
        "-A FORWARD | -m mark --mark 0x10000/0x10000 -j ACCEPT",
        "COMMIT",
    ];
    assert_eq!(commands, expected);
}

#[test]
fn each_change_of_others_is_seen() {
    let output = printed();
    let lines: Vec<&str> = output.lines().collect();
    let is_rule = |line: &&str| line.starts_with("-A ") && line.contains("cali:") && !line.contains("DOCKER");
    for at in (0..lines.len()).filter(|&at| is_rule(&lines[at])) {
        let chain = lines[at].split(' ').nth(1).unwrap();
        let mut changes = Vec::new();
        let mut gone = lines.clone();
        gone.remove(at);
        changes.push(gone);
        let mut doubled = lines.clone();
        doubled.insert(at, lines[at]);
        changes.push(doubled);
        let changed = format!("{} -m mark --mark 0x1", lines[at]);
        let mut tampered = lines.clone();
        tampered[at] = &changed;
        changes.push(tampered);
        for change in changes {
            let plan = plan_of(&(change.join("\n") + "\n"));
            let named = if chain == "FORWARD" {
                &plan.insert
            } else {
                &plan.rewrite
            };
            assert_eq!(names(named), [chain], "{}", change.join("\n"));
            assert!(plan.remove.iter().all(|(_, text)| !text.contains("DOCKER")));
        }
    }
}

#[test]
fn a_foreign_rule_before_or_after_ours_is_not_touched() {
    for (from, to) in [
        ("-A FORWARD", "-A FORWARD -j EVIL\n-A FORWARD"),
        ("-A cali-a", "-A FORWARD -j EVIL\n-A cali-a"),
    ] {
        let plan = plan_of(&printed().replacen(from, to, 1));
        assert_eq!(names(&plan.insert), ["FORWARD"]);
        assert_eq!(plan.remove.len(), 3);
        let lines = render(Table::Filter, &plan, &wanted()).unwrap();
        assert!(!lines.contains("EVIL") && !lines.contains("DOCKER"), "{lines}");
    }
}

#[test]
fn what_nobody_wants_goes_unless_somebody_else_uses_it() {
    let stale =
        ":cali-old - [0:0]\n:califw-x - [0:0]\n:cali-used - [0:0]\n:MINE - [0:0]\n:felix-FORWARD - [0:0]\n";
    let rules = "-A FORWARD -j felix-FORWARD\n-A MINE -j cali-used\n-A MINE -m comment --comment \"cali:0123456789abcdef\" -j cali-old\n-A cali-used -j DROP\n";
    let output = printed().replacen(":cali-a", &format!("{stale}:cali-a"), 1);
    let plan = plan_of(&output.replacen("COMMIT", &format!("{rules}COMMIT"), 1));
    assert_eq!(names(&plan.delete), ["cali-old", "califw-x", "felix-FORWARD"]);
    assert_eq!(names(&plan.empty), ["cali-used"]);
    let gone: Vec<_> = plan
        .remove
        .iter()
        .filter(|(chain, text)| chain == "MINE" || text.contains("felix"))
        .collect();
    assert_eq!(gone.len(), 2, "{:?}", plan.remove);
}

#[test]
fn a_form_that_nobody_foresaw_is_learned_once() {
    let odd = printed().replace("-i eth0", "-i eth0 --odd 1");
    let tables = parse(odd.as_bytes()).unwrap();
    let mut learned = Learned::default();
    let plan = compare(&wanted(), &tables[0], &learned);
    assert_eq!(names(&plan.rewrite), ["cali-a"]);
    assert_eq!(plan.tampered, 1);
    learned.learn(&wanted(), &tables[0], &plan.rewrite);
    assert!(compare(&wanted(), &tables[0], &learned).is_empty());
    let changed = parse(odd.replace("--odd 1", "--odd 2").as_bytes()).unwrap();
    let plan = compare(&wanted(), &changed[0], &learned);
    assert_eq!((names(&plan.rewrite), plan.tampered), (vec!["cali-a"], 1));
}
