//! The lines that carry a plan out, for `iptables-restore --noflush`.
//!
//! The program carries all of a table's lines out at once or none, so that no packet meets a state between. A rule that goes is
//! named by its text and not by its number: when somebody else changed the chain meanwhile, the text is still right, or no
//! longer there, and then nothing of the whole is carried out.

use std::fmt::Write;

use crate::ops::Table;

use super::COMMENT_PREFIX;
use super::compare::TablePlan;
use super::desired::{DesiredTable, HashedRule};

/// Returns the lines, or none if there is nothing to do.
#[must_use]
pub fn render(table: Table, plan: &TablePlan, desired: &DesiredTable) -> Option<String> {
    if plan.is_empty() {
        return None;
    }
    let mut lines = format!("*{table}\n");
    // Naming a chain makes it or empties it. All first: rules may jump from any to any, also from one that goes.
    for name in plan.rewrite.iter().chain(&plan.delete).chain(&plan.empty) {
        // Writing into a string does not fail.
        let _ = writeln!(lines, ":{name} - [0:0]");
    }
    for name in &plan.rewrite {
        for rule in desired.chains().get(name).into_iter().flatten() {
            add(&mut lines, "-A", name, rule);
        }
    }
    for (chain, text) in &plan.remove {
        let _ = writeln!(lines, "-D {chain} {text}");
    }
    for chain in &plan.insert {
        let Some(inserts) = desired.inserts().get(chain) else {
            continue;
        };
        // Each is put before the one that was put in last.
        for rule in inserts.first.iter().rev() {
            add(&mut lines, "-I", chain, rule);
        }
        for rule in &inserts.last {
            add(&mut lines, "-A", chain, rule);
        }
    }
    for name in &plan.delete {
        let _ = writeln!(lines, "-X {name}");
    }
    lines.push_str("COMMIT\n");
    Some(lines)
}

/// Returns the lines by which chains of ours drop everything; in the table nat, which takes no such rule, they are emptied.
#[must_use]
pub fn render_closed(table: Table, chains: &[&str]) -> String {
    let mut lines = format!("*{table}\n");
    for chain in chains {
        let _ = writeln!(lines, ":{chain} - [0:0]");
    }
    if table != Table::Nat {
        for chain in chains {
            let _ = writeln!(lines, "-A {chain} -j DROP");
        }
    }
    lines.push_str("COMMIT\n");
    lines
}

fn add(lines: &mut String, command: &str, chain: &str, rule: &HashedRule) {
    let HashedRule { hash, text } = rule;
    let _ = writeln!(
        lines,
        "{command} {chain} -m comment --comment \"{COMMENT_PREFIX}{hash}\" {text}"
    );
}
