//! The measured matrix as a person reads it: what the kernel did, beside what the policies say.

use super::measure::Measured;
use super::probe::Outcome;
use crate::policy::print::out;
use policy_model::Protocol;
use policy_model_rules::oracle::{Direction, Verdict};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::IsTerminal;
use std::net::IpAddr;

/// Columns of the screen where nothing says how wide it is.
const WIDTH: usize = 120;
/// Columns of one cell.
const CELL: usize = 4;
/// Most lines about differences.
const LISTED: usize = 40;

/// One measured flow, as programs read it.
#[derive(Serialize)]
struct Line<'a> {
    from: &'a str,
    to: &'a str,
    protocol: String,
    port: u16,
    source: IpAddr,
    destination: IpAddr,
    verdict: Verdict,
    side: Option<Direction>,
    policy: Option<String>,
    rule: Option<usize>,
    reason: &'a str,
    kernel: Option<Verdict>,
    agrees: bool,
    answer: String,
}

/// A verdict of the kernel.
pub(super) fn verdict(passed: bool) -> Verdict {
    if passed { Verdict::Allow } else { Verdict::Deny }
}

impl Measured {
    /// The flow as one line of JSON.
    pub(super) fn json(&self) -> String {
        let (flow, judgement) = (&self.flow, &self.flow.judgement);
        crate::policy::print::json_line(&Line {
            from: &flow.from,
            to: &flow.to,
            protocol: flow.probe.protocol.to_string(),
            port: flow.probe.port,
            source: flow.probe.source,
            destination: flow.probe.to,
            verdict: judgement.verdict,
            side: judgement.side,
            policy: judgement.policy.as_ref().map(ToString::to_string),
            rule: judgement.rule,
            reason: &judgement.reason,
            kernel: self.passed().map(verdict),
            agrees: self.agrees(),
            answer: self.said(),
        })
    }
}

/// A text in a colour, where a person looks.
pub(super) fn paint(text: &str, colour: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{colour}m{text}\x1b[0m")
    } else {
        text.to_string()
    }
}

/// One cell: all addresses of one pair of ends and one port.
fn cell(measured: &[&Measured]) -> String {
    if measured.is_empty() {
        return " ".into();
    }
    if measured.iter().any(|m| !m.agrees()) {
        return paint("!", "1;31");
    }
    let answers: BTreeSet<Option<bool>> = measured.iter().map(|m| m.passed()).collect();
    match answers.into_iter().collect::<Vec<_>>().as_slice() {
        [Some(true)] => paint("✓", "32"),
        [Some(false)] => paint("·", "2"),
        [None, ..] => paint("?", "33"),
        // Families that are treated differently on purpose.
        _ => paint("~", "33"),
    }
}

/// Target of a column: who, which port.
type Target<'a> = (&'a str, u16, Protocol);

/// Prints the table, then every difference, then the sum. Returns the number of differences.
pub(super) fn print(all: &[Measured]) -> anyhow::Result<usize> {
    let mut text = String::new();
    table(all, width(), &mut text)?;
    let differences: Vec<&Measured> = all.iter().filter(|m| !m.agrees()).collect();
    for m in differences.iter().take(LISTED) {
        let flow = &m.flow;
        let line = format!(
            "DIFFERENCE: {} ({}) -> {} ({}) {}: the kernel: {}; the policies: {}: {}",
            flow.from,
            flow.probe.source,
            flow.to,
            flow.probe.to,
            flow.what(),
            m.said(),
            flow.judgement.verdict,
            flow.judgement.reason
        );
        writeln!(text, "{}", paint(&line, "1;31"))?;
    }
    if differences.len() > LISTED {
        writeln!(
            text,
            "... and {} more; -o json lists all",
            differences.len() - LISTED
        )?;
    }
    sum(all, differences.len(), &mut text)?;
    out(&text)?;
    Ok(differences.len())
}

fn sum(all: &[Measured], differences: usize, text: &mut String) -> anyhow::Result<()> {
    let count = |wanted| all.iter().filter(|m| m.passed() == Some(wanted)).count();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for m in all {
        if let Outcome::Unmeasured(reason) = &m.outcome {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    for (reason, number) in &reasons {
        writeln!(
            text,
            "{}",
            paint(&format!("NOT MEASURED: {number} flows: {reason}"), "33")
        )?;
    }
    let late = all.iter().filter(|m| m.agrees() && m.tries > 1).count();
    if late > 0 {
        writeln!(
            text,
            "{late} flows agreed only when they were asked again: something was still changing"
        )?;
    }
    let (passed, denied) = (count(true), count(false));
    let unmeasured: usize = reasons.values().sum();
    let mut sum = format!(
        "{} flows measured with real packets: {passed} passed, {denied} did not; {differences} differ from the policies",
        all.len() - unmeasured
    );
    if unmeasured > 0 {
        write!(sum, "; {unmeasured} not measured")?;
    }
    writeln!(
        text,
        "{}",
        if differences == 0 {
            paint(&sum, "32")
        } else {
            paint(&sum, "1;31")
        }
    )?;
    Ok(())
}

/// Columns of the screen.
fn width() -> usize {
    let said = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    said.or_else(screen).unwrap_or(WIDTH).max(60)
}

/// What the terminal program says of itself; the system's own call for it is not to be had safely.
fn screen() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let output = std::process::Command::new("stty")
        .arg("size")
        .stdin(std::process::Stdio::inherit())
        .output()
        .ok()?;
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// The table, in as many parts as the width needs, each with the list of its columns.
fn table(all: &[Measured], width: usize, text: &mut String) -> anyhow::Result<()> {
    let sources: BTreeSet<&str> = all.iter().map(|m| m.flow.from.as_str()).collect();
    let mut cells: BTreeMap<(Target<'_>, &str), Vec<&Measured>> = BTreeMap::new();
    for m in all {
        let target = (m.flow.to.as_str(), m.flow.probe.port, m.flow.probe.protocol);
        cells.entry((target, m.flow.from.as_str())).or_default().push(m);
    }
    let targets: Vec<Target<'_>> = cells
        .keys()
        .map(|(target, _)| *target)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let names = sources
        .iter()
        .map(|s| s.chars().count())
        .max()
        .unwrap_or(0)
        .max("from \\ to".len());
    let columns = (width.saturating_sub(names + 4) / CELL).max(8);
    writeln!(
        text,
        "who reaches what (✓ answered, · no answer, ~ by one family only, ? not measured, ! differs from the policies)"
    )?;
    for (part, targets) in targets.chunks(columns).enumerate() {
        let number = |n: usize| part * columns + n + 1;
        writeln!(text)?;
        for (n, (to, port, protocol)) in targets.iter().enumerate() {
            writeln!(text, "  {:>3}  {to} {port}/{protocol}", number(n))?;
        }
        let head: String = (0..targets.len())
            .map(|n| format!("{:>CELL$}", number(n)))
            .collect();
        writeln!(text, "\n  {:names$} {head}", "from \\ to")?;
        for source in &sources {
            let row = targets
                .iter()
                .map(|target| cells.get(&(*target, *source)).map_or(&[][..], Vec::as_slice));
            let row: String = row
                .map(|found| format!("{}{}", " ".repeat(CELL - 1), cell(found)))
                .collect();
            writeln!(text, "  {source:names$} {}", row.trim_end())?;
        }
    }
    writeln!(text)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::flows::LabFlow;
    use super::super::probe::Probe;
    use super::*;
    use policy_model_rules::oracle::{Judgement, Trace};

    fn measured(from: &str, to: &str, port: u16, allowed: bool, outcome: Outcome) -> Measured {
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let judgement = Judgement {
            verdict: verdict(allowed),
            side: None,
            policy: None,
            rule: None,
            reason: "because".into(),
            source: Some(address),
            destination: Some(address),
            trace: Trace::default(),
        };
        let probe = Probe {
            from: String::new(),
            into: String::new(),
            source: address,
            to: address,
            protocol: Protocol::TCP,
            port,
            icmp: None,
            expected: allowed,
        };
        let flow = LabFlow {
            from: from.into(),
            to: to.into(),
            server: to.into(),
            probe,
            judgement,
            counts: true,
        };
        Measured {
            flow,
            outcome,
            tries: 1,
        }
    }

    fn answered(name: &str) -> Outcome {
        Outcome::Answered(name.into())
    }

    #[test]
    fn agreement_is_of_verdict_and_receiver() {
        for (allowed, outcome, agrees) in [
            (true, answered("b"), true),
            (true, answered(""), true),
            (true, answered("c"), false),
            (false, answered("b"), false),
            (false, answered("c"), false),
            (false, Outcome::Silence, true),
            (true, Outcome::Silence, false),
            (true, Outcome::Failed("x".into()), false),
            (false, Outcome::Failed("x".into()), false),
            (true, Outcome::Unmeasured("x".into()), true),
        ] {
            let m = measured("a", "b", 80, allowed, outcome.clone());
            assert_eq!(m.agrees(), agrees, "{allowed} {outcome:?}");
        }
    }

    #[test]
    fn a_wide_table_comes_in_parts_that_fit() {
        let all: Vec<Measured> = (1..=40)
            .flat_map(|port| {
                [
                    measured("n/a", "n/b", port, true, answered("n/b")),
                    measured("n/c", "n/b", port, false, Outcome::Silence),
                ]
            })
            .collect();
        let mut text = String::new();
        table(&all, 80, &mut text).unwrap();
        assert!(
            text.lines().skip(1).all(|line| line.chars().count() <= 80),
            "{text}"
        );
        for n in 1..=40 {
            assert!(text.contains(&format!("{n:>5}  n/b {n}/TCP")), "{n}");
        }
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("  n/a")).collect();
        assert_eq!(rows.iter().map(|row| row.matches('✓').count()).sum::<usize>(), 40);
    }
}
