//! The law between two states: a packet reads one map after the other, and each read may meet a later state. What all
//! the states that it passed through deny is denied, and what all of them allow is allowed.

use crate::kernel::{Kernel, verdict};
use crate::life::Life;
use crate::world::{Dice, Flow, Kind, tries};
use dataplane_tables::Direction;
use policy_model::Protocol;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// No packet is on its way longer than this, in milliseconds.
pub(crate) const LONGEST_WAY: u64 = 1_000;

/// The packets that are asked for, as the bits of a word.
fn probes() -> Vec<(u8, u16, u16)> {
    let mut out = Vec::new();
    for port in [0, 79, 80, 81, 443, 8000, 8017, 9000] {
        out.push((6, port, 1));
        out.push((6, port, 443));
    }
    out.extend([(17, 80, 1), (17, 443, 1), (47, 0, 0), (1, 8, 0)]);
    out
}

fn mask(f: impl Fn(u8, u16, u16) -> bool) -> u32 {
    probes()
        .into_iter()
        .enumerate()
        .filter(|(_, (p, x, y))| f(*p, *x, *y))
        .map(|(n, _)| 1 << n)
        .sum()
}

/// What the worlds say of an interface and a peer, by state. `None`: the interface is not there.
struct Judged(BTreeMap<(usize, String, Direction, IpAddr), Option<u32>>);

impl Judged {
    fn ask(
        &mut self,
        life: &Life,
        state: usize,
        interface: &str,
        direction: Direction,
        peer: IpAddr,
    ) -> Option<u32> {
        let key = (state, interface.to_string(), direction, peer);
        *self.0.entry(key).or_insert_with(|| {
            let world = &life.states[state];
            let endpoint = world.endpoints.values().find(|e| e.interface == interface)?;
            Some(mask(|p, x, y| {
                let flow = Flow {
                    peer,
                    protocol: Protocol::from_number(p),
                    x,
                    y,
                };
                world.allows(endpoint, direction, &flow)
            }))
        })
    }
}

/// Follows packets through mixes of states.
pub(crate) fn assert_never_open(life: &Life, dice: &mut Dice, samples: usize) {
    let mut judged = Judged(BTreeMap::new());
    let mut rows: BTreeMap<u32, u32> = BTreeMap::new();
    let peers: Vec<IpAddr> = [
        "10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "9.9.9.9", "fd00::1", "fd00::5",
    ]
    .iter()
    .map(|a| a.parse().unwrap())
    .collect();
    let interfaces: BTreeSet<&str> = life
        .states
        .iter()
        .flat_map(|w| w.endpoints.values().map(|e| e.interface.as_str()))
        .collect();
    let interfaces: Vec<&str> = interfaces.into_iter().collect();
    if interfaces.is_empty() {
        return;
    }
    let snapshots = &life.snapshots;
    for _ in 0..samples {
        // Four moments: single and interval map, interface, group's map.
        let first = dice.roll(snapshots.len());
        let in_time = snapshots
            .iter()
            .skip(first)
            .take_while(|s| s.at - snapshots[first].at < LONGEST_WAY)
            .count();
        let reach = if dice.chance(50) { in_time.min(4) } else { in_time };
        let mut at: Vec<usize> = (0..8).map(|_| first + dice.roll(reach)).collect();
        at[0] = first;
        at.sort_unstable();
        let interface = *dice.pick(&interfaces);
        let direction = *dice.pick(&[Direction::Ingress, Direction::Egress]);
        let peer = *dice.pick(&peers);
        let kernel = |n: usize| -> &Kernel { &snapshots[at[n]].kernel };
        let chain = if direction == Direction::Ingress {
            "to_wl"
        } else {
            "from_wl"
        };
        let family = if peer.is_ipv4() {
            ["net4", "id4"]
        } else {
            ["net6", "id6"]
        };
        let [net, id] = family.map(|base| kernel(0).map_in_use(chain, base).unwrap());
        let by_interval = kernel(1).interval(&net, peer);
        let identity = kernel(2).single(&id, peer).or(by_interval).unwrap_or(0);
        let Some(group) = kernel(3).group(interface, direction) else {
            continue;
        };
        let code = kernel(4).code(&group, identity).unwrap_or(0);
        let states = snapshots[at[0]].state..=snapshots[at[7]].state;
        let answers: Vec<Option<u32>> = states
            .clone()
            .map(|s| judged.ask(life, s, interface, direction, peer))
            .collect();
        // An interface that appears is not held to what was before it; one that goes is.
        let Some(there) = answers.iter().position(Option::is_some) else {
            continue;
        };
        let gone = answers.iter().rposition(Option::is_some).unwrap();
        if there > 0 || answers[there..=gone].iter().any(Option::is_none) {
            continue;
        }
        let may = answers.iter().flatten().fold(0, |a, b| a | b);
        let must = answers
            .iter()
            .map(|a| a.unwrap_or(0))
            .fold(u32::MAX, |a, b| a & b);
        let says = if at[5..].windows(2).all(|w| w[0] == w[1]) {
            *rows
                .entry(code)
                .or_insert_with(|| mask(|p, x, y| kernel(5).verdict(code, &life.rows, p, x, y)))
        } else {
            mask(|p, x, y| verdict(code, &life.rows, p, x, y, [kernel(5), kernel(6), kernel(7)]))
        };
        let text = || {
            let moments: Vec<(usize, u64, usize)> = at
                .iter()
                .map(|n| (*n, snapshots[*n].at, snapshots[*n].state))
                .collect();
            format!(
                "{interface} {direction:?} {peer}: identity {identity}, {group}, code {code:x}; moments {moments:?}; \
                 says {says:b}; states say {answers:x?}"
            )
        };
        assert_eq!(says & !may, 0, "OPEN: what all states deny passes: {}", text());
        assert_eq!(
            must & !says,
            0,
            "CLOSED: what all states allow is dropped: {}",
            text()
        );
    }
}

fn live(kind: Kind, in_place: bool, seed: u64, steps: &[u64], samples: usize) {
    let mut dice = Dice::new(seed);
    let mut life = Life::begin(kind, &mut dice, in_place, true);
    for step in steps {
        let mut dice = Dice::new(*step);
        life.happen(&mut dice);
        // Sometimes the world flips back.
        if dice.chance(20) {
            let back = life.states[life.states.len() - 2].clone();
            life.turn(back);
        }
        life.wait(*dice.pick(&[0, 0, 0, 1, 10, 300, 999, 1_000, 1_500]));
    }
    assert_never_open(&life, &mut dice, samples);
}

proptest! {
    #![proptest_config(tries(24))]

    #[test]
    fn never_open_between_two_states(in_place: bool, seed: u64, steps in prop::collection::vec(any::<u64>(), 1..14)) {
        live(Kind::Dense, in_place, seed, &steps, 3_000);
    }
}

#[test]
fn a_life_that_was_open_once() {
    live(
        Kind::Dense,
        false,
        12194495262786587549,
        &[10153010687929048829],
        30_000,
    );
}
