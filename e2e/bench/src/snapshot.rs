//! A large cluster on one node: from nothing, into the kernel, and by single changes.

use crate::bed::succeeded;
use crate::brain::{Brain, Change, Phases};
use crate::figure::{Figure, duration};
use crate::shape::{self, HERE, LOCAL, NAMESPACES};
use crate::timing::{Samples, from_environment};
use anyhow::Context;
use felix_calc::{CalcConfig, CalcGraph};
use policy_model::Resource;
use std::process::Command;
use std::time::{Duration, Instant};

/// Typed objects are made so many at a time, outside the time, and moved in; the agent gets them in batches alike.
const BATCH: usize = 10_000;

/// How large the cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    endpoints: usize,
    policies: usize,
}

impl Size {
    /// The size that the goals are for, unless the environment says otherwise.
    pub fn asked() -> Self {
        Size {
            endpoints: from_environment("MANX_BENCH_ENDPOINTS", 250_000),
            policies: from_environment("MANX_BENCH_POLICIES", 10_000),
        }
    }
}

/// Feeds the whole cluster to the graph. Returns the time to the last of the updates, the making of the objects
/// left out, and the updates.
///
/// # Errors
/// An object is not valid: a defect of the benchmark.
pub fn feed(
    brain: &mut Brain,
    size: Size,
    policies_first: bool,
) -> anyhow::Result<(Duration, Vec<dataplane_api::Update>)> {
    let mut spent = Duration::ZERO;
    let mut objects = shape::all(size.endpoints, size.policies, policies_first);
    loop {
        let batch: Vec<Resource> = objects.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        let begun = Instant::now();
        for resource in batch {
            brain
                .calculation
                .on_upsert(resource)
                .map_err(|fault| anyhow::anyhow!("{fault}"))?;
        }
        spent += begun.elapsed();
    }
    let mut updates = Vec::new();
    let begun = Instant::now();
    brain.calculation.on_in_sync();
    brain.calculation.flush(&mut updates);
    Ok((spent + begun.elapsed(), updates))
}

/// Time and memory of a snapshot, and its first load into the kernel.
///
/// # Errors
/// The kernel refused, or a process could not be started.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    let size = Size::asked();
    let mut brain = Brain::open(HERE)?;
    let (first, updates) = feed(&mut brain, size, false)?;
    let mut phases = Phases {
        calculation: first,
        updates: updates.len(),
        ..Phases::default()
    };
    brain.load(&updates, &mut phases)?;
    drop(updates);
    let (resident, peak) = (memory("VmRSS")?, memory("VmHWM")?);
    eprintln!("  {}", brain.size());
    drop(brain);
    dataplane_nftables::cleanup()?;

    let mut loads = vec![phases];
    let mut snapshots = [vec![first], Vec::new()];
    for round in 0..5 {
        let policies_first = round % 2 == 0;
        let mut brain = Brain::open(HERE)?;
        let (time, updates) = feed(&mut brain, size, policies_first)?;
        if let Some(list) = snapshots.get_mut(usize::from(policies_first)) {
            list.push(time);
        }
        let mut phases = Phases::default();
        brain.load(&updates, &mut phases)?;
        loads.push(phases);
        drop(brain);
        dataplane_nftables::cleanup()?;
    }
    let [endpoints_first, policies_first] = snapshots.map(|list| list.into_iter().collect::<Samples>());
    let heap: Heap = counted_heap(&["snapshot"])?;
    let of = |part: fn(&Phases) -> Duration| loads.iter().map(part).collect::<Samples>().median();
    let load = of(|p| p.driver + p.kernel);
    Ok(vec![
        Figure::time(
            "snapshot: time to complete dataplane updates",
            endpoints_first.median().max(policies_first.median()),
            Duration::from_millis(600),
            format!(
                "{LOCAL} local of {} endpoints, {} policies; median of {} in the slower of two orders (endpoints first {}, policies first {}; least {})",
                size.endpoints,
                size.policies,
                endpoints_first.len(),
                duration(endpoints_first.median()),
                duration(policies_first.median()),
                duration(endpoints_first.least().min(policies_first.least())),
            ),
        ),
        Figure::at_most(
            "snapshot: heap after",
            heap.after as f64 / 1e6,
            "MB",
            100.0,
            format!(
                "counting allocator, a run of its own; calculation {:.1} MB, tables {:.1} MB, driver {:.1} MB",
                heap.calculation as f64 / 1e6,
                heap.tables as f64 / 1e6,
                heap.driver as f64 / 1e6
            ),
        ),
        Figure::time(
            "first load of that state into the kernel",
            load,
            Duration::from_millis(150),
            format!(
                "{} addresses, encoding included; median of {}: planning and encoding {}, kernel {} (before it, not counted: decision tables {})",
                size.endpoints,
                loads.len(),
                duration(of(|p| p.driver)),
                duration(of(|p| p.kernel)),
                duration(of(|p| p.tables))
            ),
        ),
        Figure::at_most(
            "resident memory of the benchmark process, after",
            resident as f64 / 1e6,
            "MB",
            120.0,
            "VmRSS after snapshot and first load, calculation and driver in one process",
        ),
        Figure::at_most(
            "resident memory of the benchmark process, peak",
            peak as f64 / 1e6,
            "MB",
            200.0,
            format!("VmHWM; objects are made {BATCH} at a time"),
        ),
    ])
}

/// Single changes at that size.
///
/// # Errors
/// The kernel refused.
pub fn single_changes() -> anyhow::Result<Vec<Figure>> {
    let size = Size::asked();
    let rounds = from_environment("MANX_BENCH_ROUNDS", 200);
    let mut brain = Brain::open(HERE)?;
    let (_, updates) = feed(&mut brain, size, false)?;
    brain.load(&updates, &mut Phases::default())?;
    drop(updates);
    let mut figures = Vec::new();
    let micro = Duration::from_micros;
    let remote = repeat(&mut brain, rounds, |n| {
        vec![shape::endpoint(LOCAL + n, n + 1 + LOCAL).into()]
    })?;
    figures.push(remote.figure("one label of one remote pod changes: time to updates", micro(200)));
    let local = repeat(&mut brain, rounds, |n| {
        vec![shape::endpoint(n % LOCAL, n + 1 + n / LOCAL).into()]
    })?;
    figures.push(local.figure("one label of one local pod changes: time to updates", micro(200)));
    let created = repeat(&mut brain, rounds, |n| {
        vec![shape::policy(size.policies + n).into()]
    })?;
    figures.push(created.figure("one policy created: time to updates", micro(1_000)));
    let first = brain.pass(vec![shape::policy_by_namespace().into()])?;
    brain.settle()?;
    let namespaces = repeat(&mut brain, rounds.min(2 * NAMESPACES), |n| {
        let team = if (n / NAMESPACES).is_multiple_of(2) {
            "b"
        } else {
            "a"
        };
        vec![shape::namespace(n % NAMESPACES, team).into()]
    })?;
    let pods = size.endpoints / NAMESPACES;
    figures.push(namespaces.figure(
        &format!("a namespace's label that {pods} pods inherit and a policy asks for: time to updates"),
        micro(5_000),
    ));
    figures.push(Figure::beside(
        "a policy whose selector nobody used before, at that size: time to updates",
        duration(first.calculation),
        format!("one measurement; to the kernel {}", duration(first.whole())),
    ));
    let gone = brain.pass(
        (0..LOCAL)
            .map(|n| Change::Delete(shape::endpoint_key(n)))
            .collect(),
    )?;
    let note = format!(
        "one measurement; {} updates; tables {}, driver {}, kernel {}",
        gone.updates,
        duration(gone.tables),
        duration(gone.driver),
        duration(gone.kernel)
    );
    figures.push(Figure::beside(
        "all local endpoints deleted: time to updates",
        duration(gone.calculation),
        note,
    ));
    Ok(figures)
}

/// What repeating a change took.
pub struct Repeated {
    /// Each time.
    pub all: Vec<Phases>,
}

impl Repeated {
    /// The median of one part.
    pub fn median(&self, part: fn(&Phases) -> Duration) -> Duration {
        self.all.iter().map(part).collect::<Samples>().median()
    }

    /// The least of one part.
    pub fn least(&self, part: fn(&Phases) -> Duration) -> Duration {
        self.all.iter().map(part).collect::<Samples>().least()
    }

    /// The parts, in words.
    pub fn parts(&self) -> String {
        format!(
            "calculation {}, tables {}, driver {}, kernel {} in {} transactions",
            duration(self.median(|p| p.calculation)),
            duration(self.median(|p| p.tables)),
            duration(self.median(|p| p.driver)),
            duration(self.median(|p| p.kernel)),
            self.all.first().map_or(0, |p| p.transactions)
        )
    }

    fn figure(&self, what: &str, goal: Duration) -> Figure {
        let times: Samples = self.all.iter().map(|p| p.calculation).collect();
        let note = format!(
            "median of {} (99 of 100 within {}); on to the kernel: {}",
            times.len(),
            duration(times.quantile(0.99)),
            self.parts()
        );
        Figure::time(what, times.median(), goal, note)
    }
}

/// Makes a change again and again; what it leaves to be removed later is removed between, outside the time.
///
/// # Errors
/// The kernel refused.
pub fn repeat(
    brain: &mut Brain,
    rounds: usize,
    change: impl Fn(usize) -> Vec<Change>,
) -> anyhow::Result<Repeated> {
    let mut all = Vec::new();
    for n in 0..rounds {
        all.push(brain.pass(change(n))?);
        brain.settle()?;
    }
    Ok(Repeated { all })
}

/// A line of this process's status, in bytes.
fn memory(line: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("reading this process's status")?;
    let value = status
        .lines()
        .find_map(|l| l.strip_prefix(line)?.strip_prefix(':'));
    let number = value.map(|v| v.trim().trim_end_matches(" kB").parse::<u64>());
    number
        .and_then(Result::ok)
        .map(|kb| kb * 1024)
        .with_context(|| format!("{line} in this process's status"))
}

/// Live heap in bytes.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Heap {
    /// All of it.
    pub after: usize,
    /// What the calculation graph holds.
    pub calculation: usize,
    /// What the decision tables hold.
    pub tables: usize,
    /// What the driver holds.
    pub driver: usize,
}

/// Asks the program that counts every allocation, which is slower and hence another one.
///
/// # Errors
/// It is not there, or failed.
pub fn counted_heap<T: serde::de::DeserializeOwned>(of_what: &[&str]) -> anyhow::Result<T> {
    let program = std::env::current_exe()?.with_file_name("manx-bench-heap");
    let output = Command::new(&program)
        .args(of_what)
        .output()
        .with_context(|| format!("running {}", program.display()))?;
    succeeded(&program.display().to_string(), &output)?;
    serde_json::from_slice(&output.stdout).context("reading the heap's figures")
}

/// The counting program: the same snapshot and load, asking after each step how much is allocated.
///
/// # Errors
/// The kernel refused.
pub fn count_heap(allocated: impl Fn() -> usize) -> anyhow::Result<Heap> {
    let before = allocated();
    let mut brain = Brain::open(HERE)?;
    let (_, updates) = feed(&mut brain, Size::asked(), false)?;
    for update in &updates {
        brain.tables.apply(update);
    }
    let changes = brain.tables.commit();
    drop(updates);
    let with_tables = allocated();
    brain.program(&changes, &mut Phases::default())?;
    drop(changes);
    let after = allocated();
    // Objects that tables and graph share count as the tables'.
    drop(std::mem::replace(
        &mut brain.calculation,
        CalcGraph::new(CalcConfig::for_node(HERE)),
    ));
    let calculation = after.saturating_sub(allocated());
    Ok(Heap {
        after: after.saturating_sub(before),
        calculation,
        tables: with_tables.saturating_sub(before).saturating_sub(calculation),
        driver: after.saturating_sub(with_tables),
    })
}
