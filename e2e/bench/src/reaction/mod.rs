//! From a changed manifest to the first packet of a new flow that is treated by it, with the real programs.
//!
//! A controller and a felix run on one node with 50 pods and 1,000 policies. One policy changes between letting the
//! client in and not; the time runs from the return of the rename that puts its manifest into place.

mod manifests;
mod programs;

use crate::figure::Figure;
use crate::probe::{Door, Probe};
use crate::timing::{Samples, from_environment};
use manifests::Manifests;
use programs::Programs;
use std::net::SocketAddrV4;
use std::time::Duration;

/// Probes a second.
const PER_SECOND: u32 = 5_000;

/// Measures.
///
/// # Errors
/// A program could not be started, or a change never came into force.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    let rounds = from_environment("MANX_BENCH_REACTION_ROUNDS", 300);
    let folder = tempfile::tempdir()?;
    let manifests = Manifests::write(folder.path())?;
    let programs = Programs::start(folder.path(), manifests.folder())?;
    let outcome = measure(&programs, &manifests, rounds);
    if outcome.is_err() {
        programs.show_logs();
    }
    outcome
}

fn measure(programs: &Programs, manifests: &Manifests, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let (node, port) = (programs.node(), manifests::PORT);
    let mut probe = Probe::open(
        (node.pod(0)?, manifests::address(0)),
        (node.pod(1)?, SocketAddrV4::new(manifests::address(1), port)),
        PER_SECOND,
    )?;
    // Everything is in force once the first change is.
    for door in [Door::Shut, Door::Open] {
        manifests.prepare(door)?;
        manifests.put()?;
        probe.wait(door)?;
    }
    let (mut opened, mut shut) = (Samples::default(), Samples::default());
    for round in 0..rounds {
        let door = if round % 2 == 0 { Door::Shut } else { Door::Open };
        // Changes fall anywhere in what the programs do by themselves every second.
        std::thread::sleep(Duration::from_millis(30 + (round as u64 * 37) % 90));
        manifests.prepare(door)?;
        let put = manifests.put()?;
        let time = probe.wait(door)?.saturating_duration_since(put);
        if door == Door::Open {
            opened.add(time)
        } else {
            shut.add(time)
        }
    }
    let how = format!(
        "{rounds} changes, {} policies, {} pods of one node, controller and felix as processes, fsync included, {} probes a second",
        manifests::POLICIES,
        manifests::PODS,
        PER_SECOND
    );
    let mut figures = Vec::new();
    for (what, samples) in [("deny", &shut), ("allow", &opened)] {
        let name = |which: &str| {
            format!("policy manifest changed to {what}, to the first packet treated by it, {which}")
        };
        figures.push(Figure::time(
            name("median"),
            samples.median(),
            Duration::from_millis(3),
            how.clone(),
        ));
        figures.push(Figure::time(
            name("99th percentile"),
            samples.quantile(0.99),
            Duration::from_millis(8),
            format!(
                "least {}, largest {}",
                crate::figure::duration(samples.least()),
                crate::figure::duration(samples.largest())
            ),
        ));
    }
    Ok(figures)
}
