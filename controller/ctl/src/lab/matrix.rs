//! The measured matrix as a person reads it: what the kernel did, beside what the policies say.

use super::flows::LabFlow;
use super::probe::Outcome;
use policy_model_rules::oracle::Verdict;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;

/// One flow with what the kernel did.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The flow.
    pub flow: LabFlow,
    /// What came of its probe.
    pub outcome: Outcome,
}

impl Measured {
    /// Whether the kernel let it pass to the right receiver.
    pub fn passed(&self) -> bool {
        matches!(&self.outcome, Outcome::Answered(name) if self.flow.server.is_empty() || *name == self.flow.server)
    }

    /// Whether kernel and policies agree.
    pub fn agrees(&self) -> bool {
        let wrong_receiver = matches!(&self.outcome, Outcome::Answered(_)) && !self.passed();
        let failed = matches!(self.outcome, Outcome::Failed(_));
        !wrong_receiver && !failed && self.passed() == (self.flow.judgement.verdict == Verdict::Allow)
    }

    fn said(&self) -> String {
        match &self.outcome {
            Outcome::Answered(name) if self.passed() => format!("answered by {name}"),
            Outcome::Answered(name) => format!("answered by {name} in place of {}", self.flow.server),
            Outcome::Silence => "no answer".to_string(),
            Outcome::Failed(reason) => format!("could not be tried: {reason}"),
        }
    }

    /// The flow as one JSON object.
    pub fn json(&self) -> serde_json::Value {
        let flow = &self.flow;
        json!({
            "from": flow.from,
            "to": flow.to,
            "protocol": flow.protocol,
            "port": flow.port,
            "source": flow.probe.source,
            "destination": flow.probe.to.ip(),
            "kernel": if self.passed() { "allow" } else { "deny" },
            "oracle": if flow.judgement.verdict == Verdict::Allow { "allow" } else { "deny" },
            "agrees": self.agrees(),
            "reason": flow.judgement.reason,
            "answer": self.said(),
        })
    }
}

fn paint(text: &str, colour: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_string() }
}

/// One cell: all addresses of one pair of ends and one port.
fn cell(measured: &[&Measured]) -> String {
    if measured.is_empty() {
        return " ".into();
    }
    if measured.iter().any(|m| !m.agrees()) {
        return paint("!", "1;31");
    }
    let passed = measured.iter().filter(|m| m.passed()).count();
    match passed {
        0 => paint("·", "2"),
        n if n == measured.len() => paint("✓", "32"),
        // Families that are treated differently on purpose.
        _ => paint("~", "33"),
    }
}

/// Prints the table, then every difference, then the sum. Returns the number of differences.
pub fn print(all: &[Measured]) -> usize {
    let sources: BTreeSet<&str> = all.iter().map(|m| m.flow.from.as_str()).collect();
    let mut targets: BTreeMap<(String, u16, String), usize> = BTreeMap::new();
    for m in all {
        let next = targets.len() + 1;
        targets.entry((m.flow.to.clone(), m.flow.port, m.flow.protocol.clone())).or_insert(next);
    }
    // Numbered in the order in which they are listed.
    for (n, number) in targets.values_mut().enumerate() {
        *number = n + 1;
    }
    let mut cells: BTreeMap<(&str, usize), Vec<&Measured>> = BTreeMap::new();
    for m in all {
        let number = targets[&(m.flow.to.clone(), m.flow.port, m.flow.protocol.clone())];
        cells.entry((m.flow.from.as_str(), number)).or_default().push(m);
    }
    let width = sources.iter().map(|s| s.chars().count()).max().unwrap_or(4).max(9);
    println!("who reaches what (✓ answered, · no answer, ~ by one family only, ! differs from the policies)\n");
    for ((to, port, protocol), number) in &targets {
        println!("  {number:>3}  {to} {port}/{protocol}");
    }
    println!();
    let numbers: Vec<usize> = (1..=targets.len()).collect();
    let head: String = numbers.iter().map(|n| format!("{n:>4}")).collect();
    println!("  {:width$} {head}", "from \\ to");
    for source in &sources {
        let row: String =
            numbers.iter().map(|n| format!("   {}", cell(cells.get(&(*source, *n)).map_or(&[], Vec::as_slice)))).collect();
        println!("  {source:width$} {row}");
    }
    println!();
    let differences: Vec<&Measured> = all.iter().filter(|m| !m.agrees()).collect();
    for m in &differences {
        let flow = &m.flow;
        let source = flow.probe.source.map(|s| format!(" ({s})")).unwrap_or_default();
        let text = format!(
            "DIFFERENCE: {}{source} -> {} ({}) {}/{}: the kernel: {}; the policies: {:?}: {}",
            flow.from, flow.to, flow.probe.to.ip(), flow.port, flow.protocol, m.said(),
            flow.judgement.verdict, flow.judgement.reason
        );
        println!("{}", paint(&text, "1;31"));
    }
    let passed = all.iter().filter(|m| m.passed()).count();
    let sum = format!(
        "{} flows measured with real packets: {passed} passed, {} did not; {} differ from the policies",
        all.len(),
        all.len() - passed,
        differences.len()
    );
    println!("{}", if differences.is_empty() { paint(&sum, "32") } else { paint(&sum, "1;31") });
    differences.len()
}
