//! What a packet that opens a flow pays.

use crate::bed::Node;
use crate::figure::{Figure, duration};
use crate::selected::{self, COUNTS};
use crate::timing::{Samples, from_environment};
use crate::traffic::{Server, open_flows};
use crate::walked;
use anyhow::Context;
use rand::seq::SliceRandom;
use std::time::Duration;

/// A server of one of the nodes.
#[derive(Debug)]
pub struct Lane {
    /// What it is called in the table.
    pub name: String,
    /// Which of the nodes.
    pub node: usize,
    /// Its sockets.
    pub server: Server,
    /// What was measured.
    pub times: Samples,
}

/// The nodes and their servers: connection tracking alone, Manx, and the walked layout.
#[derive(Debug)]
pub struct Course {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The servers.
    pub lanes: Vec<Lane>,
}

/// Name of the lane without policies.
pub const ALONE: &str = "connection tracking and anti-spoofing alone";

/// Name of Manx's lane with so many policies.
pub fn manx(count: usize) -> String {
    format!("Manx, {count} policies")
}

/// Name of the walked layout's lane with so many policies.
pub fn walk(count: usize) -> String {
    format!("walked, {count} policies")
}

impl Course {
    /// Makes the nodes, each with all its pods and rules.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn make() -> anyhow::Result<Self> {
        let pods = selected::pods();
        let alone = Node::make(&pods)?;
        alone.load_rules(&walked::without_policies())?;
        let ours = Node::make(&pods)?;
        let size = ours.namespace.run(selected::program)??;
        eprintln!("  {size}");
        let conventional = Node::make(&pods)?;
        conventional.load_rules(&walked::rules(500))?;
        let nodes = vec![alone, ours, conventional];
        let mut lanes = Vec::new();
        let mut add = |name: String, node: usize, n: usize| -> anyhow::Result<()> {
            if let Some(on) = nodes.get(node) {
                let server = Server::open(on, n)?;
                lanes.push(Lane {
                    name,
                    node,
                    server,
                    times: Samples::default(),
                });
            }
            Ok(())
        };
        add(ALONE.to_string(), 0, 0)?;
        for (n, count) in COUNTS.iter().enumerate() {
            add(manx(*count), 1, n)?;
            if [100, 500].contains(count) {
                add(walk(*count), 2, n)?;
            }
        }
        Ok(Course { nodes, lanes })
    }

    /// Measures every lane once, in an order of chance.
    ///
    /// # Errors
    /// A measurement failed.
    pub fn round(&mut self, measure: impl Fn(&Node, &mut Lane) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut order: Vec<usize> = (0..self.lanes.len()).collect();
        order.shuffle(&mut rand::rng());
        for n in order {
            let Some(lane) = self.lanes.get_mut(n) else {
                continue;
            };
            let Some(node) = self.nodes.get(lane.node) else {
                continue;
            };
            node.forget_flows()?;
            measure(node, lane).with_context(|| lane.name.clone())?;
            node.forget_flows()?;
        }
        Ok(())
    }

    fn least(&self, name: &str) -> Duration {
        self.lanes
            .iter()
            .find(|l| l.name == name)
            .map(|l| l.times.least())
            .unwrap_or_default()
    }
}

/// Measures.
///
/// # Errors
/// The kernel refused.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    let packets = from_environment("MANX_BENCH_PACKETS", 100_000);
    let rounds = from_environment("MANX_BENCH_PACKET_ROUNDS", 9);
    let mut course = Course::make()?;
    for round in 0..rounds {
        eprintln!("  round {} of {rounds}", round + 1);
        course.round(|node, lane| {
            let time = open_flows(node, &mut lane.server, packets)?;
            lane.times.add(time);
            Ok(())
        })?;
    }
    let nanoseconds = |name: &str| course.least(name).as_nanos() as f64;
    let how = format!("UDP, pod to pod on one node, least of {rounds} shuffled runs of {packets} packets");
    let (one, most) = (manx(1), manx(5_000));
    let above = (nanoseconds(&most) - nanoseconds(ALONE)) / 1_000.0;
    let ratio = |of: &str, to: &str| nanoseconds(of) / nanoseconds(to).max(1.0);
    let mut figures = vec![
        Figure::at_most(
            "a packet that opens a flow: 5,000 policies against one",
            ratio(&most, &one),
            "times",
            1.10,
            format!(
                "{how}; {} against {}",
                duration(course.least(&most)),
                duration(course.least(&one))
            ),
        ),
        Figure::at_most(
            "a packet that opens a flow: 5,000 policies above connection tracking with anti-spoofing alone",
            above,
            "us",
            0.8,
            format!(
                "{} against {}",
                duration(course.least(&most)),
                duration(course.least(ALONE))
            ),
        ),
        Figure::at_least(
            "what the layout adds to a packet that opens a flow, walked against Manx, 500 policies each",
            (nanoseconds(&walk(500)) - nanoseconds(ALONE))
                / (nanoseconds(&manx(500)) - nanoseconds(ALONE)).max(1.0),
            "times",
            10.0,
            "one set a selector, one chain a policy, the last one matches; above connection tracking alone",
        ),
    ];
    for lane in &course.lanes {
        let note = format!(
            "median {}, largest {}",
            duration(lane.times.median()),
            duration(lane.times.largest())
        );
        figures.push(Figure::beside(
            format!("a packet that opens a flow: {}", lane.name),
            duration(lane.times.least()),
            note,
        ));
    }
    Ok(figures)
}
