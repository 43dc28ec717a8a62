//! How many connections a second two pods of one node can make, by the number of policies.

use crate::figure::Figure;
use crate::packets::{Course, manx, walk};
use crate::selected::COUNTS;
use crate::timing::{from_environment, median};
use crate::traffic::connect;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Measures.
///
/// # Errors
/// The kernel refused.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    let connections = from_environment("MANX_BENCH_CONNECTIONS", 8_000);
    let rounds = from_environment("MANX_BENCH_CONNECTION_ROUNDS", 15);
    let mut course = Course::make()?;
    let rates: RefCell<BTreeMap<String, Vec<f64>>> = RefCell::default();
    for round in 0..rounds {
        eprintln!("  round {} of {rounds}", round + 1);
        course.round(|node, lane| {
            let rate = connect(node, &lane.server, connections)?;
            rates
                .borrow_mut()
                .entry(lane.name.clone())
                .or_default()
                .push(rate);
            Ok(())
        })?;
    }
    let rates = rates.into_inner();
    let of = |name: &str| rates.get(name).map(Vec::as_slice).unwrap_or_default();
    // Ratios of the same round: what slows the machine for a while slows both.
    let paired = |a: &str, b: &str| -> f64 {
        median(&of(a).iter().zip(of(b)).map(|(a, b)| a / b).collect::<Vec<f64>>())
    };
    let none = manx(0);
    let mut figures = Vec::new();
    for count in COUNTS.into_iter().filter(|c| *c > 0) {
        let name = manx(count);
        figures.push(Figure::at_least(
            format!("new TCP connections a second to a pod that {count} policies select, against none"),
            paired(&name, &none),
            "",
            0.95,
            format!(
                "median of {rounds} paired shuffled rounds of {connections} connections, one byte each way; {:.0}/s against {:.0}/s",
                median(of(&name)),
                median(of(&none))
            ),
        ));
    }
    figures.push(Figure::at_least(
        "new TCP connections a second, Manx against a walked layout, 500 policies each",
        paired(&manx(500), &walk(500)),
        "times",
        1.6,
        format!(
            "{:.0}/s against {:.0}/s",
            median(of(&manx(500))),
            median(of(&walk(500)))
        ),
    ));
    figures.push(Figure::beside(
        "new TCP connections a second, Manx against a walked layout, 100 policies each",
        format!("{:.2} times", paired(&manx(100), &walk(100))),
        format!(
            "{:.0}/s against {:.0}/s",
            median(of(&manx(100))),
            median(of(&walk(100)))
        ),
    ));
    figures.push(Figure::beside(
        "new TCP connections a second, no policy against connection tracking with anti-spoofing alone",
        format!("{:.2}", paired(&none, crate::packets::ALONE)),
        format!(
            "{:.0}/s against {:.0}/s",
            median(of(&none)),
            median(of(crate::packets::ALONE))
        ),
    ));
    Ok(figures)
}
