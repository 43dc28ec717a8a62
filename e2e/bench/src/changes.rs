//! Single changes on a full node, into the kernel.

use crate::brain::{Brain, Change, Phases};
use crate::crowd::{self, Kin, LOCAL};
use crate::figure::{Figure, duration};
use crate::shape::HERE;
use crate::snapshot::Repeated;
use crate::timing::from_environment;
use std::time::Duration;

/// Measures.
///
/// # Errors
/// The kernel refused.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    let rounds = from_environment("MANX_BENCH_ROUNDS", 200);
    let mut brain = Brain::open(HERE)?;
    brain.begin(crowd::all())?;
    let size = brain.size();
    eprintln!("  {size}");
    let mut figures = Vec::new();

    let remove = |n: usize| Change::Delete(crowd::local_key(LOCAL + n));
    for (kin, which, kernel) in [(Kin::Common, "", 100), (Kin::OwnGroup, ", with a new group", 500)] {
        let add = |n: usize| Change::from(crowd::local(LOCAL + n, kin));
        let (added, removed, retired) = there_and_back(&mut brain, rounds, add, remove)?;
        for (pod, what) in [(&added, "added"), (&removed, "removed")] {
            figures.push(Figure::time(
                format!("one pod {what}{which}: processor time of felix"),
                pod.median(Phases::agent),
                Duration::from_millis(1),
                format!(
                    "median of {rounds}; {LOCAL} pods, 500 policies; {size}; {}",
                    pod.parts()
                ),
            ));
            figures.push(Figure::time(
                format!("one pod {what}{which}: kernel transaction"),
                pod.median(|p| p.kernel),
                Duration::from_micros(kernel),
                format!("least {}", duration(pod.least(|p| p.kernel))),
            ));
        }
        if retired.median(Phases::whole) > Duration::ZERO {
            figures.push(Figure::beside(
                format!("removing a second later what one pod left{which}"),
                duration(retired.median(Phases::whole)),
                retired.parts(),
            ));
        }
    }
    let add = |n: usize| Change::from(crowd::local(LOCAL + n, Kin::NewSelector));
    let (added, removed, _) = there_and_back(&mut brain, rounds.min(20), add, remove)?;
    for (pod, what) in [(&added, "added"), (&removed, "removed")] {
        figures.push(Figure::beside(
            format!("one pod {what} whose policy alone asks for all 20,000 addresses"),
            duration(pod.median(Phases::whole)),
            pod.parts(),
        ));
    }

    let colour =
        |red: bool| move |n: usize| Change::from(crowd::namespace(1 + n % (crowd::NAMESPACES - 1), red));
    let (joined, left, _) = there_and_back(&mut brain, rounds, colour(true), colour(false))?;
    let both = Repeated {
        all: joined.all.into_iter().chain(left.all).collect(),
    };
    figures.push(Figure::time(
        "1,000 addresses change identity",
        both.median(Phases::whole),
        Duration::from_micros(1_500),
        format!(
            "a namespace's label changes; median of {}, from the change into the kernel (least {}): {}",
            2 * rounds,
            duration(both.least(Phases::whole)),
            both.parts()
        ),
    ));
    let more = |_| Change::from(crowd::networks_and(1));
    let back = |_| Change::from(crowd::networks_and(0));
    let (cut, healed, _) = there_and_back(&mut brain, rounds, more, back)?;
    let both = Repeated {
        all: cut.all.into_iter().chain(healed.all).collect(),
    };
    figures.push(Figure::time(
        "one CIDR more or less among 1,000",
        both.median(|p| p.kernel),
        Duration::from_micros(100),
        format!(
            "kernel transactions, median of {}; of the whole {}: {}",
            2 * rounds,
            duration(both.median(Phases::whole)),
            both.parts()
        ),
    ));
    Ok(figures)
}

/// Makes a change and takes it back, again and again. Returns both, and the removal of what they left.
fn there_and_back(
    brain: &mut Brain,
    rounds: usize,
    there: impl Fn(usize) -> Change,
    back: impl Fn(usize) -> Change,
) -> anyhow::Result<(Repeated, Repeated, Repeated)> {
    let (mut first, mut second, mut retired) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..rounds {
        first.push(brain.pass(vec![there(n)])?);
        brain.settle()?;
        second.push(brain.pass(vec![back(n)])?);
        retired.push(brain.settle()?);
    }
    Ok((
        Repeated { all: first },
        Repeated { all: second },
        Repeated { all: retired },
    ))
}
