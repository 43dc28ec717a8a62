//! From the process to readiness, and what it costs.

use super::process;
use super::world::World;
use crate::figure::{Figure, duration};
use crate::timing::{Samples, from_environment};
use std::time::Duration;

/// How long a felix is left alone before its memory is read.
const SETTLED: Duration = Duration::from_secs(5);
/// What the reference agent needed.
const REFERENCE: &str = "the reference agent";

/// Starts felix for the first time, on a node whose pods are not connected yet.
pub(super) fn first(world: &mut World) -> anyhow::Result<Figure> {
    let start = world.measured.start()?;
    Ok(Figure::beside(
        "felix's very first start on the node to ready, no pod connected, no address reserved yet",
        duration(start.took),
        format!("once; processor time {}", duration(start.processor)),
    ))
}

/// Measures starts on the full node: after a stop, and with nothing in the kernel but the pods' interfaces.
pub(super) fn measure(world: &mut World) -> anyhow::Result<Vec<Figure>> {
    let rounds = from_environment("MANX_BENCH_KUBERNETES_STARTS", 7);
    let mut again = Starts::default();
    let mut anew = Starts::default();
    for round in 0..rounds {
        eprintln!("  start {} of {rounds}", round + 1);
        world.measured.stop()?;
        again.add(world)?;
        world.measured.stop()?;
        world.measured.forget_table()?;
        anew.add(world)?;
    }
    let mut figures = Vec::new();
    for (how, starts) in [
        ("its table in the kernel", &again),
        ("no table in the kernel", &anew),
    ] {
        figures.push(Figure::time(
            format!("felix start to ready, {how}"),
            starts.took.median(),
            Duration::from_millis(800),
            format!(
                "median of {rounds} from the process's start, asked every 10 ms, least {}, largest {}; {}, 100 pods connected; \
                 API server and etcd on the same processors; {REFERENCE} 5.8 s",
                duration(starts.took.least()),
                duration(starts.took.largest()),
                world.size
            ),
        ));
        figures.push(Figure::time(
            format!("felix's processor time to ready, {how}"),
            starts.processor.median(),
            Duration::from_millis(800),
            format!(
                "utime and stime; least {}, largest {}; {REFERENCE} 7.3 s",
                duration(starts.processor.least()),
                duration(starts.processor.largest())
            ),
        ));
    }
    let of = |numbers: &[f64]| crate::timing::median(numbers);
    for (what, numbers, goal, theirs) in [
        ("resident memory of felix, after", &anew.resident, 45.0, 202),
        ("resident memory of felix, peak", &anew.peak, 90.0, 340),
    ] {
        figures.push(Figure::at_most(
            what,
            of(numbers),
            "MB",
            goal,
            format!(
                "median of {rounds} starts with no table, {SETTLED:?} after ready; {REFERENCE} {theirs} MB; with its table {:.1} MB",
                of(if goal < 50.0 { &again.resident } else { &again.peak })
            ),
        ));
    }
    Ok(figures)
}

/// Some starts.
#[derive(Default)]
struct Starts {
    took: Samples,
    processor: Samples,
    resident: Vec<f64>,
    peak: Vec<f64>,
}

impl Starts {
    fn add(&mut self, world: &mut World) -> anyhow::Result<()> {
        let start = world.measured.start()?;
        self.took.add(start.took);
        self.processor.add(start.processor);
        std::thread::sleep(SETTLED);
        let memory = process::memory(world.measured.pid()?)?;
        self.resident.push(memory.resident as f64 / 1e6);
        self.peak.push(memory.peak as f64 / 1e6);
        Ok(())
    }
}
