//! A cluster of many nodes, seen from one of them: routes to the others' blocks, and who is behind the tunnel.

use crate::bed::succeeded;
use crate::brain::Change;
use crate::figure::{Figure, duration};
use crate::hands::{Halves, Hands};
use crate::realm::{self, Way};
use crate::snapshot::counted_heap;
use crate::timing::{Samples, from_environment};
use anyhow::Context;
use policy_model::Resource;
use serde::{Deserialize, Serialize};
use std::process::Command;
use std::time::Duration;

/// Blocks of each node.
const BLOCKS: u32 = 4;
/// How often everything is programmed from nothing.
const ROUNDS: usize = 5;

fn nodes() -> u32 {
    u32::try_from(from_environment("MANX_BENCH_NODES", 5_000)).unwrap_or(u32::MAX)
}

/// Measures.
///
/// # Errors
/// The kernel refused.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for way in [Way::Plain, Way::Vxlan] {
        figures.extend(first_programming(way)?);
        figures.extend(single_changes(way)?);
        let heap: Heap = counted_heap(&["nodes", if way == Way::Plain { "plain" } else { "vxlan" }])?;
        figures.push(Figure::at_most(
            format!(
                "{} nodes of {BLOCKS} blocks, {}: heap for them",
                nodes(),
                way.name()
            ),
            heap.all as f64 / 1e6,
            "MB",
            25.0,
            format!(
                "counting allocator, a run of its own; calculation {:.1} MB, dataplane {:.1} MB",
                heap.calculation as f64 / 1e6,
                heap.all.saturating_sub(heap.calculation) as f64 / 1e6
            ),
        ));
    }
    Ok(figures)
}

/// From nothing, in a namespace of its own each time.
fn first_programming(way: Way) -> anyhow::Result<[Figure; 1]> {
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        all.push(in_namespace(|| {
            let mut hands = Hands::open(&realm::name(0))?;
            hands.begin(objects(way))
        })?);
    }
    let of = |part: fn(&Halves) -> Duration| all.iter().map(part).collect::<Samples>();
    Ok([Figure::time(
        format!(
            "{} nodes of {BLOCKS} blocks, {}: first programming",
            nodes(),
            way.name()
        ),
        of(Halves::whole).median(),
        Duration::from_secs(1),
        format!(
            "median of {ROUNDS}, the making of the objects left out: calculation {}, dataplane into the kernel {} (least in all {})",
            duration(of(|h| h.calculation).median()),
            duration(of(|h| h.dataplane).median()),
            duration(of(Halves::whole).least()),
        ),
    )])
}

/// One node's changes among so many.
fn single_changes(way: Way) -> anyhow::Result<Vec<Figure>> {
    let rounds = from_environment("MANX_BENCH_ROUNDS", 200);
    in_namespace(|| {
        let mut hands = Hands::open(&realm::name(0))?;
        hands.begin(objects(way))?;
        let count = nodes();
        let more = realm::node_with_blocks(count, BLOCKS);
        let come = |_: u32| more.iter().cloned().map(Change::from).collect();
        let go = |_: u32| realm::keys(&more).into_iter().map(Change::Delete).collect();
        let (joined, left) = there_and_back(&mut hands, rounds, come, go)?;
        // A node takes an address that nobody has, and its own again.
        let moves = |n: u32| vec![Change::from(realm::node(1 + n % (count - 1), count + 1))];
        let back = |n: u32| {
            vec![Change::from(realm::node(
                1 + n % (count - 1),
                1 + n % (count - 1),
            ))]
        };
        let (moved, returned) = there_and_back(&mut hands, rounds, moves, back)?;
        let moved: Vec<Halves> = moved.into_iter().chain(returned).collect();
        let named = [
            ("one node joins", joined),
            ("one node leaves", left),
            ("one node changes its address", moved),
        ];
        let figure = |(what, all): (&str, Vec<Halves>)| {
            let of = |part: fn(&Halves) -> Duration| all.iter().map(part).collect::<Samples>();
            Figure::time(
                format!("{count} nodes of {BLOCKS} blocks, {}: {what}", way.name()),
                of(Halves::whole).median(),
                Duration::from_millis(5),
                format!(
                    "median of {} into the kernel, its news of the change before included: calculation {}, dataplane {} (99 of 100 within {})",
                    all.len(),
                    duration(of(|h| h.calculation).median()),
                    duration(of(|h| h.dataplane).median()),
                    duration(of(Halves::whole).quantile(0.99)),
                ),
            )
        };
        Ok(named.into_iter().map(figure).collect())
    })
}

/// Makes a change and takes it back, again and again.
fn there_and_back(
    hands: &mut Hands,
    rounds: usize,
    there: impl Fn(u32) -> Vec<Change>,
    back: impl Fn(u32) -> Vec<Change>,
) -> anyhow::Result<(Vec<Halves>, Vec<Halves>)> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for n in (0u32..).take(rounds) {
        first.push(hands.pass(there(n))?);
        hands.settle()?;
        second.push(hands.pass(back(n))?);
        hands.settle()?;
    }
    Ok((first, second))
}

/// All objects, this node the first of all.
fn objects(way: Way) -> Vec<Resource> {
    let all = (0..nodes()).flat_map(|number| realm::node_with_blocks(number, BLOCKS));
    [realm::pool(way)].into_iter().chain(all).collect()
}

/// Does something in a new network namespace with a link to the other nodes, by a thread of its own.
fn in_namespace<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let namespace = dataplane_netlink::NetworkNamespace::anonymous()?;
    namespace.run(|| {
        ip("link add eth0 type veth peer name far")?;
        ip("link set far up")?;
        ip("link set eth0 up")?;
        ip(&format!(
            "addr add {}/{} dev eth0",
            realm::address(0),
            realm::prefix()
        ))?;
        work()
    })?
}

/// Runs the program `ip` in the calling thread's namespace.
///
/// # Errors
/// It is not there, or refuses.
pub fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .context("running the program 'ip' (package iproute2)")?;
    succeeded(&format!("ip {arguments}"), &output)
}

/// Live heap for the nodes, in bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Heap {
    /// All of it.
    pub all: usize,
    /// What the calculation graph holds.
    pub calculation: usize,
}

/// The counting program: how much more is allocated with all the nodes than with this one alone.
///
/// # Errors
/// The kernel refused.
pub fn count_heap(way: Way, allocated: impl Fn() -> usize + Send + Sync) -> anyhow::Result<Heap> {
    in_namespace(|| {
        let mut hands = Hands::open(&realm::name(0))?;
        hands.begin([vec![realm::pool(way)], realm::node_with_blocks(0, BLOCKS)].concat())?;
        let before = allocated();
        hands.begin(
            (1..nodes())
                .flat_map(|number| realm::node_with_blocks(number, BLOCKS))
                .collect(),
        )?;
        // What the kernel says of all that was written is read and forgotten.
        hands.pass(Vec::new())?;
        let after = allocated();
        drop(std::mem::replace(
            &mut hands.calculation,
            felix_calc::CalcGraph::new(felix_calc::CalcConfig::for_node(realm::name(0))),
        ));
        Ok(Heap {
            all: after.saturating_sub(before),
            calculation: after.saturating_sub(allocated()),
        })
    })
}
