//! Shows the matrix anew whenever a manifest changes, and which flows that opened and closed.

use super::matrix::{self, paint};
use super::measure::{Measured, measure};
use super::picture::Picture;
use super::state::LabState;
use controller::{Texts, read_once};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

/// How often the manifests are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Runs until it is interrupted.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    let lab = LabState::load()?;
    let read = || read_once(&lab.manifests).unwrap_or_default();
    let mut seen: Texts = read();
    let mut before = passing(&show(&Picture::settled()?)?);
    loop {
        println!("\nwatching {} (interrupt to end)", lab.manifests.display());
        loop {
            std::thread::sleep(LOOK);
            let now = read();
            if now != seen {
                seen = now;
                break;
            }
            LabState::load()?;
        }
        let picture = Picture::settled()?;
        for fault in &picture.world.faults {
            println!("{}", paint(fault, "33"));
        }
        let after = passing(&show(&picture)?);
        println!();
        changes(&before, &after);
        before = after;
    }
}

fn show(picture: &Picture) -> anyhow::Result<Vec<Measured>> {
    let measured = measure(picture.matrix()?)?;
    matrix::print(&measured)?;
    Ok(measured)
}

/// Each flow by its words, and whether it passed.
fn passing(measured: &[Measured]) -> BTreeMap<String, bool> {
    let words = |m: &Measured| {
        let f = &m.flow;
        format!("{} -> {} ({}) {}", f.from, f.to, f.probe.to, f.what())
    };
    measured
        .iter()
        .filter_map(|m| Some((words(m), m.passed()?)))
        .collect()
}

fn changes(before: &BTreeMap<String, bool>, after: &BTreeMap<String, bool>) {
    let (mut opened, mut closed) = (0, 0);
    for (flow, passed) in after {
        // A flow of a pod that is new was closed before.
        match (before.get(flow).copied().unwrap_or(false), *passed) {
            (false, true) => {
                opened += 1;
                println!("{}", paint(&format!("opened: {flow}"), "32"));
            }
            (true, false) => {
                closed += 1;
                println!("{}", paint(&format!("closed: {flow}"), "31"));
            }
            _ => {}
        }
    }
    for (flow, _) in before
        .iter()
        .filter(|(flow, passed)| **passed && !after.contains_key(*flow))
    {
        closed += 1;
        println!("{}", paint(&format!("closed: {flow} (an end is gone)"), "31"));
    }
    println!("{opened} flows opened, {closed} closed");
}
