//! What the way between pods of two nodes costs: against node to node, and against the same way made by hand.

mod pair;
mod talk;

use crate::brain::Change;
use crate::figure::Figure;
use crate::hands::Hands;
use crate::realm::{self, Way};
use crate::timing::{Samples, from_environment, median};
use anyhow::Context;
use pair::{Maker, Pair, kernel_has_ipip, objects, pod_address};
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::{Duration, Instant};
use talk::Ends;

/// Which two talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// The nodes themselves.
    Nodes,
    /// Their pods.
    Pods,
}

/// What is measured in a round: by which way, made by whom, between whom.
type Lane = (Way, Maker, Who);

/// What a lane came to in each round: bytes a second, and connections a second.
#[derive(Debug, Default)]
struct Rates {
    streams: Vec<f64>,
    connections: Vec<f64>,
}

/// Measures.
///
/// # Errors
/// The kernel refused.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    let rounds = from_environment("MANX_BENCH_CONNECTION_ROUNDS", 15);
    let connections = from_environment("MANX_BENCH_CONNECTIONS", 4_000);
    let bytes = from_environment("MANX_BENCH_STREAM_MB", 512) << 20;
    let mut ways = vec![Way::Plain, Way::Vxlan];
    if kernel_has_ipip() {
        ways.push(Way::Ipip);
    } else {
        eprintln!("  this kernel has no IPIP devices: IPIP is not measured");
    }
    let mut pairs = BTreeMap::new();
    for way in &ways {
        for maker in [Maker::Manx, Maker::Hand, Maker::HandTranslating] {
            let pair = Pair::make(*way, maker).with_context(|| format!("{}, by {maker:?}", way.name()))?;
            pairs.insert((*way, maker), pair);
        }
    }
    let mut lanes: Vec<Lane> = pairs
        .keys()
        .map(|(way, maker)| (*way, *maker, Who::Pods))
        .collect();
    lanes.push((Way::Plain, Maker::Manx, Who::Nodes));
    let mut rates: BTreeMap<Lane, Rates> = BTreeMap::new();
    for round in 0..rounds {
        eprintln!("  round {} of {rounds}", round + 1);
        lanes.shuffle(&mut rand::rng());
        for lane in &lanes {
            let (way, maker, who) = *lane;
            let pair = pairs.get(&(way, maker)).context("a pair")?;
            let ends = ends(pair, who);
            let rates = rates.entry(*lane).or_default();
            rates.streams.push(ends.stream(bytes)?);
            rates.connections.push(ends.connect(connections)?);
        }
    }
    let mut figures = Vec::new();
    let pods = |way, maker| (way, maker, Who::Pods);
    let nodes = (Way::Plain, Maker::Manx, Who::Nodes);
    let how = format!("best of {rounds} shuffled rounds, both ends on one processor");
    let mut against = |way: Way, theirs, goal, name: &str| {
        let name = format!("pod to pod across nodes, {}, against {name}", way.name());
        let ours = pods(way, Maker::Manx);
        figures.extend(compare(&rates, ours, theirs, &name, goal, &how));
    };
    against(Way::Plain, nodes, Some(0.95), "node to node");
    for way in ways {
        let goal = (way != Way::Plain).then_some(0.98);
        against(way, pods(way, Maker::Hand), goal, "the same made by hand");
        let translating = "the same made by hand where addresses are translated";
        against(way, pods(way, Maker::HandTranslating), None, translating);
    }
    drop(pairs);
    for way in [Way::Plain, Way::Vxlan] {
        figures.push(first_packet(way)?);
    }
    Ok(figures)
}

fn ends(pair: &Pair, who: Who) -> Ends<'_> {
    let ([near, far], address) = match who {
        Who::Nodes => (&pair.nodes, realm::address(1)),
        Who::Pods => (&pair.pods, pod_address(1)),
    };
    Ends { near, far, address }
}

/// Compares the best rounds: whatever else the machine does only slows. The ratio of paired rounds stands beside it.
fn compare(
    rates: &BTreeMap<Lane, Rates>,
    ours: Lane,
    theirs: Lane,
    name: &str,
    goal: Option<f64>,
    how: &str,
) -> Vec<Figure> {
    let (Some(ours), Some(theirs)) = (rates.get(&ours), rates.get(&theirs)) else {
        return Vec::new();
    };
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    let figure = |what: &str, ours: &[f64], theirs: &[f64], unit: &str, scale: f64| {
        let ratio = best(ours) / best(theirs);
        let paired = median(&ours.iter().zip(theirs).map(|(a, b)| a / b).collect::<Vec<f64>>());
        let note = format!(
            "{how}; {:.0} {unit} against {:.0} {unit}; median of paired rounds {paired:.2}",
            best(ours) / scale,
            best(theirs) / scale
        );
        let what = format!("{what}, {name}");
        match goal {
            Some(goal) => Figure::at_least(what, ratio, "", goal, note),
            None => Figure::beside(what, format!("{ratio:.2}"), note),
        }
    };
    vec![
        figure("throughput", &ours.streams, &theirs.streams, "MB/s", 1e6),
        figure(
            "new TCP connections a second",
            &ours.connections,
            &theirs.connections,
            "/s",
            1.0,
        ),
    ]
}

/// From the moment when a node and its block are known to the first packet at a pod of it.
fn first_packet(way: Way) -> anyhow::Result<Figure> {
    let rounds = from_environment("MANX_BENCH_ROUNDS", 200);
    let pair = Pair::make(way, Maker::Manx)?;
    let [near, far] = &pair.pods;
    let bind = |node: u32| move || UdpSocket::bind((pod_address(node), 9_401));
    let (near, far) = (near.run(bind(0))??, far.run(bind(1))??);
    far.set_read_timeout(Some(Duration::from_millis(20)))?;
    let other = realm::node_with_blocks(1, 1);
    let samples = pair.on_first(|| {
        let mut hands = Hands::open(&realm::name(0))?;
        hands.begin(objects(way))?;
        let mut samples = Samples::default();
        for _ in 0..rounds {
            let gone = realm::keys(&other).into_iter().map(Change::Delete);
            hands.pass(gone.collect())?;
            let known = other.iter().cloned().map(Change::from).collect();
            let begun = Instant::now();
            hands.pass(known)?;
            let mut room = [0; 8];
            loop {
                near.send_to(b"first", (pod_address(1), 9_401))?;
                if far.recv(&mut room).is_ok() {
                    break;
                }
                anyhow::ensure!(begun.elapsed() < Duration::from_secs(10), "no packet arrived");
            }
            samples.add(begun.elapsed());
        }
        Ok(samples)
    })?;
    Ok(Figure::time(
        format!(
            "node and block known, to the first packet through, {}",
            way.name()
        ),
        samples.median(),
        Duration::from_millis(10),
        format!(
            "median of {rounds}, calculation and dataplane in this process, the datastore's own time left out; 99 of 100 within {}",
            crate::figure::duration(samples.quantile(0.99))
        ),
    ))
}
