//! What a packet that opens a flow pays.

use crate::backends::Backend;
use crate::bed::Node;
use crate::figure::{Figure, duration};
use crate::selected::{self, COUNTS, Style};
use crate::timing::{Samples, from_environment};
use crate::traffic::{Server, open_flows};
use crate::{walked, walked_iptables};
use anyhow::Context;
use rand::seq::SliceRandom;
use std::time::Duration;

/// What holds a lane's policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// Nothing: connection tracking and anti-spoofing alone, by nftables.
    Nothing,
    /// Manx.
    Manx(Backend, Style),
    /// The conventional layout.
    Walked(Backend, Style),
}

/// A holder, and how many policies select the lane's server.
pub type Which = (Holder, usize);

/// The lane without policies.
pub const ALONE: Which = (Holder::Nothing, 0);

/// Manx's lane on nftables with so many policies.
pub const fn manx(count: usize) -> Which {
    (Holder::Manx(Backend::Nftables, Style::Allow), count)
}

/// The walked layout's lane on nftables with so many policies.
pub const fn walk(count: usize) -> Which {
    (Holder::Walked(Backend::Nftables, Style::Allow), count)
}

/// What a lane is called in the table.
pub fn name((holder, count): Which) -> String {
    let name = |layout: &str, backend: Backend, style: Style| {
        let on = match backend {
            Backend::Nftables => String::new(),
            other => format!(" on {}", other.name()),
        };
        let ordered = if style == Style::Ordered { " ordered" } else { "" };
        format!("{layout}{on}, {count}{ordered} policies")
    };
    match holder {
        Holder::Nothing => "connection tracking and anti-spoofing alone".to_string(),
        Holder::Manx(backend, style) => name("Manx", backend, style),
        Holder::Walked(backend, style) => name("walked", backend, style),
    }
}

/// A server of one of the nodes.
#[derive(Debug)]
pub struct Lane {
    /// Which it is.
    pub which: Which,
    /// Which of the nodes.
    pub node: usize,
    /// Its sockets.
    pub server: Server,
    /// What was measured.
    pub times: Samples,
}

/// The nodes and their servers.
#[derive(Debug)]
pub struct Course {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The servers.
    pub lanes: Vec<Lane>,
}

/// The lanes by which nftables is measured.
pub fn usual_lanes() -> Vec<(Holder, Vec<usize>)> {
    vec![
        (Holder::Nothing, vec![0]),
        (Holder::Manx(Backend::Nftables, Style::Allow), COUNTS.to_vec()),
        (Holder::Walked(Backend::Nftables, Style::Allow), vec![100, 500]),
    ]
}

impl Course {
    /// Makes a node for each of these, with all its pods and rules, and a lane to the server of each number of policies.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn make(wanted: &[(Holder, Vec<usize>)]) -> anyhow::Result<Self> {
        let pods = selected::pods();
        let (mut nodes, mut lanes) = (Vec::new(), Vec::new());
        for (holder, counts) in wanted {
            let node = Node::make(&pods)?;
            match *holder {
                Holder::Nothing => node.load_rules(&walked::without_policies())?,
                Holder::Manx(backend, style) => {
                    node.namespace.run(|| selected::program(backend, style))??
                }
                Holder::Walked(Backend::Nftables, style) => node.load_rules(&walked::rules(500, style))?,
                Holder::Walked(Backend::Iptables(variant), style) => node
                    .namespace
                    .run(|| walked_iptables::load(variant, 500, style))??,
            }
            for count in counts {
                let server = COUNTS.iter().position(|known| known == count);
                let server = server.context("no server is selected by so many policies")?;
                lanes.push(Lane {
                    which: (*holder, *count),
                    node: nodes.len(),
                    server: Server::open(&node, server)?,
                    times: Samples::default(),
                });
            }
            nodes.push(node);
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
            let which = lane.which;
            measure(node, lane).with_context(|| name(which))?;
            node.forget_flows()?;
        }
        Ok(())
    }

    fn least(&self, which: Which) -> Duration {
        self.lanes
            .iter()
            .find(|l| l.which == which)
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
    let mut course = Course::make(&usual_lanes())?;
    for round in 0..rounds {
        eprintln!("  round {} of {rounds}", round + 1);
        course.round(|node, lane| {
            let time = open_flows(node, &mut lane.server, packets)?;
            lane.times.add(time);
            Ok(())
        })?;
    }
    let nanoseconds = |which: Which| course.least(which).as_nanos() as f64;
    let how = format!("UDP, pod to pod on one node, least of {rounds} shuffled runs of {packets} packets");
    let (one, most) = (manx(1), manx(5_000));
    let above = (nanoseconds(most) - nanoseconds(ALONE)) / 1_000.0;
    let ratio = |of: Which, to: Which| nanoseconds(of) / nanoseconds(to).max(1.0);
    let mut figures = vec![
        Figure::at_most(
            "a packet that opens a flow: 5,000 policies against one",
            ratio(most, one),
            "times",
            1.10,
            format!(
                "{how}; {} against {}",
                duration(course.least(most)),
                duration(course.least(one))
            ),
        ),
        Figure::at_most(
            "a packet that opens a flow: 5,000 policies above connection tracking with anti-spoofing alone",
            above,
            "us",
            0.8,
            format!(
                "{} against {}",
                duration(course.least(most)),
                duration(course.least(ALONE))
            ),
        ),
        Figure::at_least(
            "what the layout adds to a packet that opens a flow, walked against Manx, 500 policies each",
            (nanoseconds(walk(500)) - nanoseconds(ALONE))
                / (nanoseconds(manx(500)) - nanoseconds(ALONE)).max(1.0),
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
            format!("a packet that opens a flow: {}", name(lane.which)),
            duration(lane.times.least()),
            note,
        ));
    }
    Ok(figures)
}
