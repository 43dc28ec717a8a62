//! Much at once, through calculation and the whole dataplane: the first load, every set, one large set.

use super::Backend;
use super::world::World;
use crate::brain::Change;
use crate::figure::{Figure, duration};
use crate::hands::{Halves, Hands};
use crate::shape::HERE;
use crate::timing::Samples;
use dataplane_netlink::NetworkNamespace;
use std::time::Duration;

/// How often each is measured.
const ROUNDS: usize = 7;

/// 100 pods and 500 policies; 1,000 selectors are 2,000 sets where each has one in each family.
const FULL: World = World {
    pods: 100,
    policies: 500,
    members: 10,
    both_families: true,
};
/// Pods of other nodes by the thousand, of one family.
const WIDE: World = World {
    pods: 100,
    policies: 500,
    members: 10,
    both_families: false,
};

/// What was measured of one backend.
#[derive(Default)]
struct Measured {
    loads: Vec<Halves>,
    changes: Vec<Halves>,
    large: Vec<Halves>,
    size: String,
}

/// Measures, the backends in turn, so that what slows the machine for a while slows all.
pub(super) fn figures() -> anyhow::Result<Vec<Figure>> {
    let mut all: [Measured; 3] = Default::default();
    for round in 0..ROUNDS {
        eprintln!("  loads: round {} of {ROUNDS}", round + 1);
        for (backend, measured) in Backend::ALL.into_iter().zip(&mut all) {
            NetworkNamespace::anonymous()?.run(|| full(backend, measured))??;
            NetworkNamespace::anonymous()?.run(|| wide(backend, measured))??;
        }
    }
    let lines = Backend::ALL.into_iter().zip(&all).map(|(backend, measured)| {
        let line = |what: &str, halves: &[Halves], goal: u64, how: &str| {
            let of = |part: fn(&Halves) -> Duration| halves.iter().map(part).collect::<Samples>();
            Figure::time(
                format!("{}: {what}", backend.name()),
                of(Halves::whole).median(),
                Duration::from_millis(goal),
                format!(
                    "median of {}, {how}: calculation {}, dataplane into the kernel {} (least in all {})",
                    halves.len(),
                    duration(of(|h| h.calculation).median()),
                    duration(of(|h| h.dataplane).median()),
                    duration(of(Halves::whole).least()),
                ),
            )
        };
        [
            line(
                "first load of 100 pods, 500 policies, 1,000 selectors in both families",
                &measured.loads,
                600,
                &format!("10,000 pods elsewhere, {}", measured.size),
            ),
            line(
                "one member changed in each of these 2,000 sets",
                &measured.changes,
                150,
                "1,000 pods have other addresses",
            ),
            line(
                "a selector with 10,000 members comes into force",
                &measured.large,
                50,
                "IPv4, by a policy that is created",
            ),
        ]
    });
    Ok(lines.flatten().collect())
}

fn full(backend: Backend, measured: &mut Measured) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut hands = Hands::open_with(HERE, backend.settings(folder.path()))?;
    measured.loads.push(hands.begin(FULL.all())?);
    measured.size = hands.dataplane.driver().iptables().map_or_else(
        || "one table".to_string(),
        |driver| {
            let (chains, rules, sets) = driver.size();
            format!("{chains} chains, {rules} rules, {sets} sets")
        },
    );
    hands.settle()?;
    let other = |n: usize| Change::from(FULL.remote(n, FULL.remotes() + n));
    measured
        .changes
        .push(hands.pass((0..FULL.selectors()).map(other).collect())?);
    Ok(())
}

fn wide(backend: Backend, measured: &mut Measured) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut hands = Hands::open_with(HERE, backend.settings(folder.path()))?;
    hands.begin(WIDE.all())?;
    hands.settle()?;
    measured
        .large
        .push(hands.pass(vec![WIDE.for_everybody().into()])?);
    Ok(())
}
