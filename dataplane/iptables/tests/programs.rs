//! The real programs take the golden chains and sets, and print our rules as we write them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a script in a network namespace of its own, which goes with it. Returns what it prints.
fn in_namespace(script: &str) -> String {
    let mut child = Command::new("unshare")
        .args(["--net", "sh", "-e"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("these tests make network namespaces, which needs root");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The tables of a family.
fn of_family(text: &str, family: u8) -> String {
    let begins = format!("# IPv{family}\n");
    let parts = text.split("# IPv").map(|part| format!("# IPv{part}"));
    parts.filter(|part| part.starts_with(&begins)).collect()
}

/// Rules of our chains, but those that name a protocol by a number, which the programs may have a name for.
fn rules(text: &str) -> Vec<&str> {
    let named_by_number = |line: &&str| {
        let behind = line.split(" -p ").nth(1);
        behind.is_some_and(|p| p.starts_with(|c: char| c.is_ascii_digit()))
    };
    let lines = text.lines().filter(|line| line.starts_with("-A cali-"));
    let mut lines: Vec<&str> = lines
        .filter(|l| !named_by_number(l) && !l.contains("gre") && !l.contains("ipencap"))
        .collect();
    lines.sort_unstable();
    lines
}

#[test]
fn the_programs_take_the_golden_chains_and_print_them_alike() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut seen = 0;
    for example in std::fs::read_dir(folder).unwrap() {
        let example = example.unwrap().path();
        let read = |file: &str| std::fs::read_to_string(example.join(file)).unwrap();
        let (sets, chains) = (read("sets.ipset"), read("chains.iptables"));
        for variant in ["legacy", "nft"] {
            for (program, family) in [("iptables", 4), ("ip6tables", 6)] {
                let chains = of_family(&chains, family);
                let printed = in_namespace(&format!(
                    "ipset restore <<'END'\n{sets}END\n{program}-{variant}-restore --noflush <<'END'\n{chains}END\n\
                     {program}-{variant}-save\n"
                ));
                let (theirs, ours) = (rules(&printed), rules(&chains));
                let only = |a: &[&str], b: &[&str]| -> Vec<String> {
                    let absent = a.iter().filter(|line| !b.contains(line));
                    absent.map(ToString::to_string).collect()
                };
                assert_eq!(
                    only(&theirs, &ours),
                    only(&ours, &theirs),
                    "{program}-{variant}: {}",
                    example.display()
                );
                assert_eq!(theirs.len(), ours.len());
                seen += rules(&chains).len();
            }
        }
    }
    assert!(seen > 200, "{seen}");
}
