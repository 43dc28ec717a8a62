//! Shows the matrix anew whenever something changes.

use super::commands::measure;
use super::flows::picture;
use super::matrix;
use super::state::LabState;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// How often the manifests are looked at.
const LOOK: Duration = Duration::from_millis(300);
/// How long the controller and the agents get to take a change in before it is measured.
const SETTLE: Duration = Duration::from_millis(700);

fn times(folder: &Path, out: &mut BTreeMap<PathBuf, SystemTime>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => times(&path, out),
            Ok(meta) => {
                out.insert(path, meta.modified().unwrap_or(SystemTime::UNIX_EPOCH));
            }
            Err(_) => {}
        }
    }
}

/// Runs until it is interrupted.
pub fn run() -> anyhow::Result<ExitCode> {
    let lab = LabState::load()?;
    let mut seen = BTreeMap::new();
    let mut before: BTreeMap<String, bool> = BTreeMap::new();
    loop {
        let mut now = BTreeMap::new();
        times(&lab.manifests, &mut now);
        if now == seen {
            std::thread::sleep(LOOK);
            continue;
        }
        if !seen.is_empty() {
            std::thread::sleep(SETTLE);
        }
        seen = now;
        let measured = measure(picture()?.matrix()?);
        matrix::print(&measured);
        let after: BTreeMap<String, bool> = measured
            .iter()
            .map(|m| {
                let f = &m.flow;
                (format!("{} -> {} ({}) {}/{}", f.from, f.to, f.probe.to.ip(), f.port, f.protocol), m.passed())
            })
            .collect();
        if !before.is_empty() {
            for (flow, passed) in &after {
                match before.get(flow) {
                    Some(was) if was != passed => println!("{}: {flow}", if *passed { "opened" } else { "closed" }),
                    _ => {}
                }
            }
        }
        before = after;
        println!("\nwatching {} (interrupt to end)", lab.manifests.display());
    }
}
