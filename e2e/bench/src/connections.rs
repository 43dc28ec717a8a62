//! How many connections a second two pods of one node can make, by the number of policies and by what holds them.

use crate::backends::Backend;
use crate::figure::Figure;
use crate::packets::{ALONE, Course, Holder, Which, manx, name, usual_lanes, walk};
use crate::selected::{COUNTS, Style};
use crate::timing::{from_environment, median};
use crate::traffic::connect;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// How many policies a server has by which the variants of iptables are measured.
const ON_IPTABLES: [usize; 4] = [0, 1, 100, 500];
/// How many ordered policies with denials a server has.
const ORDERED: usize = 500;

/// Connections a second of each lane and round.
struct Rates {
    all: BTreeMap<Which, Vec<f64>>,
    how: String,
}

impl Rates {
    fn of(&self, which: Which) -> &[f64] {
        self.all.get(&which).map(Vec::as_slice).unwrap_or_default()
    }

    /// The middle of the ratios of the same round: what slows the machine for a while slows both.
    fn paired(&self, a: Which, b: Which) -> f64 {
        let ratios = self.of(a).iter().zip(self.of(b)).map(|(a, b)| a / b);
        median(&ratios.collect::<Vec<f64>>())
    }

    fn both(&self, a: Which, b: Which) -> String {
        format!("{:.0}/s against {:.0}/s", median(self.of(a)), median(self.of(b)))
    }

    fn by_number(&self, backend: Backend, counts: &[usize]) -> Vec<Figure> {
        let lane = |count| (Holder::Manx(backend, Style::Allow), count);
        let counts = counts.iter().filter(|count| **count > 0);
        counts
            .map(|count| {
                Figure::at_least(
                    format!(
                        "{}new TCP connections a second to a pod that {count} policies select, against none",
                        prefix(backend)
                    ),
                    self.paired(lane(*count), lane(0)),
                    "",
                    0.95,
                    format!("{}; {}", self.how, self.both(lane(*count), lane(0))),
                )
            })
            .collect()
    }

    /// Manx against the walked layout, 500 policies each.
    fn against_walked(&self, backend: Backend, style: Style, goal: f64) -> Figure {
        let lanes = [Holder::Manx(backend, style), Holder::Walked(backend, style)];
        let [ours, theirs] = lanes.map(|holder| (holder, ORDERED));
        let ordered = match style {
            Style::Allow => "policies",
            Style::Ordered => "ordered policies that deny and allow",
        };
        Figure::at_least(
            format!(
                "{}new TCP connections a second, Manx against a walked layout, {ORDERED} {ordered} each",
                prefix(backend)
            ),
            self.paired(ours, theirs),
            "times",
            goal,
            self.both(ours, theirs),
        )
    }

    fn beside(&self, what: String, a: Which, b: Which, unit: &str) -> Figure {
        let value = format!("{:.2} {unit}", self.paired(a, b));
        Figure::beside(what, value.trim_end(), self.both(a, b))
    }
}

/// What stands in front of figures of another backend than nftables.
fn prefix(backend: Backend) -> String {
    match backend {
        Backend::Nftables => String::new(),
        other => format!("{}: ", other.name()),
    }
}

fn lanes() -> Vec<(Holder, Vec<usize>)> {
    let mut lanes = usual_lanes();
    for backend in Backend::ALL {
        lanes.push((Holder::Manx(backend, Style::Ordered), vec![ORDERED]));
        lanes.push((Holder::Walked(backend, Style::Ordered), vec![ORDERED]));
        if backend != Backend::Nftables {
            lanes.push((Holder::Manx(backend, Style::Allow), ON_IPTABLES.to_vec()));
            lanes.push((Holder::Walked(backend, Style::Allow), vec![ORDERED]));
        }
    }
    lanes
}

/// Measures.
///
/// # Errors
/// The kernel refused, or a program lacks.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    let connections = from_environment("MANX_BENCH_CONNECTIONS", 8_000);
    let rounds = from_environment("MANX_BENCH_CONNECTION_ROUNDS", 15);
    let mut course = Course::make(&lanes())?;
    let all: RefCell<BTreeMap<Which, Vec<f64>>> = RefCell::default();
    for round in 0..rounds {
        eprintln!("  round {} of {rounds}", round + 1);
        course.round(|node, lane| {
            let rate = connect(node, &lane.server, connections)?;
            all.borrow_mut().entry(lane.which).or_default().push(rate);
            Ok(())
        })?;
    }
    let rates = Rates {
        all: all.into_inner(),
        how: format!(
            "median of {rounds} paired shuffled rounds of {connections} connections, one byte each way"
        ),
    };
    let mut figures = rates.by_number(Backend::Nftables, &COUNTS);
    figures.push(rates.against_walked(Backend::Nftables, Style::Allow, 1.6));
    figures.push(rates.beside(
        "new TCP connections a second, Manx against a walked layout, 100 policies each".to_string(),
        manx(100),
        walk(100),
        "times",
    ));
    figures.push(rates.against_walked(Backend::Nftables, Style::Ordered, 2.0));
    for backend in Backend::ALL
        .into_iter()
        .filter(|backend| *backend != Backend::Nftables)
    {
        figures.extend(rates.by_number(backend, &ON_IPTABLES));
        figures.push(rates.against_walked(backend, Style::Allow, 2.0));
        figures.push(rates.against_walked(backend, Style::Ordered, 2.0));
        let none = (Holder::Manx(backend, Style::Allow), 0);
        figures.push(rates.beside(
            format!(
                "new TCP connections a second, no policy: {} against nftables",
                backend.name()
            ),
            none,
            manx(0),
            "",
        ));
    }
    figures.push(rates.beside(
        format!(
            "new TCP connections a second, no policy against {}",
            name(ALONE).replace(" and ", " with ")
        ),
        manx(0),
        ALONE,
        "",
    ));
    Ok(figures)
}
