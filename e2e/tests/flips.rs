//! Law 3: between two policies that both deny, nothing is let through, whatever of them differs.
//!
//! A flood of packets that both states deny, with a few among them that both allow, runs while the engine goes to and
//! fro between the states as fast as it can. `MANX_FLOOD` says how many packets there are over all tests with the first way
//! to hold policy; a twentieth of it is sent with each of the others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself"
)]

use dataplane::DataplaneSettings;
use e2e::engine::NODE;
use e2e::manifest::{allow_from, allow_to, egress, endpoint, ingress, nets, open_profile, policy, selected};
use e2e::packet::{Probe, number_of};
use e2e::rules::Rules;
use e2e::world::{Place, PodSpec, World};
use policy_model::{
    Action, EntityRule, NetworkPolicySpec, Object, PolicyRule, Port, PortRange, Protocol, Resource, TierSpec,
};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Tests here, among which the flood is divided.
const TESTS: u64 = 11;
/// Packets that are handed to the kernel at once; one of them is allowed.
const HAND: u16 = 64;
/// The numbers of probes that both states allow begin here.
const ALLOWED: u32 = 1 << 20;
/// A port that both states allow, for UDP.
const OPEN: u16 = 7;
/// The flood goes on until the states have changed so often, on a machine on which that takes longer.
const LEAST_TURNS: u64 = 40;
/// The same where the flood is a part of it.
const FEWER_TURNS: u64 = 8;
/// The port that is flooded.
const FLOODED: u16 = 82;

fn flood_size(rules: Rules) -> u64 {
    let all =
        std::env::var("MANX_FLOOD").map_or(10_000_000, |text| text.parse().expect("MANX_FLOOD: a number"));
    rules.share(all, all / 20) / TESTS
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A pod of the namespace `red`: the prober, the target, and one that others' policies treat otherwise.
fn pod(name: &str, labels: &str) -> Resource {
    let number = &name[1..];
    let (interface, address) = (format!("cali{number}"), format!("10.1.0.{number}"));
    endpoint("red", name, NODE, &interface, &[ip(&address)], labels)
}

fn prober(labels: &str) -> Resource {
    pod("p1", labels)
}

fn target(labels: &str) -> Resource {
    pod("p2", labels)
}

fn ports(rule: PolicyRule, first: u16, last: u16) -> PolicyRule {
    let mut rule = PolicyRule {
        protocol: Some(Protocol::UDP),
        ..rule
    };
    rule.destination.ports = vec![Port::Range(PortRange::new(first, last).unwrap())];
    rule
}

/// What both states allow: a port to which everybody may speak.
fn always() -> PolicyRule {
    ports(allow_from(EntityRule::default()), OPEN, OPEN)
}

fn to_target(rules: Vec<PolicyRule>) -> Resource {
    let rules = [always()].into_iter().chain(rules).collect();
    policy(
        "red",
        "in",
        ingress("role == 'target' || role == 'target2'", rules),
    )
}

/// What every state holds that does not say otherwise.
fn base() -> Vec<Resource> {
    vec![
        open_profile("red"),
        prober("role=c"),
        target("role=target"),
        pod("p3", "role=other"),
    ]
}

/// What happens between two states.
enum Turn {
    /// Objects are written; those of the other state that are not here are deleted.
    Write(Vec<Resource>),
    /// The engine begins a new life.
    Restart,
    /// Everything is compared with the kernel.
    Resync,
}

struct Flip {
    settings: DataplaneSettings,
    source: &'static str,
    first: Vec<Resource>,
    second: Turn,
}

impl Flip {
    fn new(rules: Rules, first: Vec<Resource>, second: Vec<Resource>) -> Self {
        let settings = rules.settings();
        Flip {
            settings,
            source: "10.1.0.1",
            first,
            second: Turn::Write(second),
        }
    }

    fn from(self, source: &'static str) -> Self {
        Flip { source, ..self }
    }

    fn with(self, change: impl FnOnce(&mut DataplaneSettings)) -> Self {
        let mut settings = self.settings;
        change(&mut settings);
        Flip { settings, ..self }
    }

    /// Floods while the states change to and fro, and looks at what arrives.
    fn run(self) {
        let pods = [1, 2, 3].map(|n| PodSpec::new(&format!("cali{n}"), &format!("10.1.0.{n}")));
        let mut world = World::new(&pods, self.settings);
        world.silence();
        let all: Vec<Resource> = base().into_iter().chain(self.first.clone()).collect();
        let start = all.clone();
        world.engine.run(move |core| {
            core.upsert(&start);
            core.turn();
        });

        let source = ip(self.source);
        let probe = |n: u16| {
            let open = n == 0;
            let (number, x) = if open {
                (ALLOWED, OPEN)
            } else {
                (u32::from(n), FLOODED)
            };
            Probe {
                number,
                source,
                destination: ip("10.1.0.2"),
                protocol: Protocol::UDP,
                x,
                y: 20_000 + n,
            }
        };
        let frames: Vec<Vec<u8>> = (0..HAND).map(|n| world.frame(&probe(n))).collect();
        let from = world.place(source);
        let size = flood_size(world.rules);
        let least = world.rules.share(LEAST_TURNS, FEWER_TURNS);
        let (sent, turns, ended) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let (mut open, mut leaked) = (0u64, Vec::new());
        std::thread::scope(|scope| {
            let (world, frames, sent, turns, ended) = (&world, &frames, &sent, &turns, &ended);
            let flood = scope.spawn(move || {
                let _ended = Ended(ended);
                world.at(from).wire.sender().flood(frames, |n| {
                    sent.store(n, Ordering::Relaxed);
                    (n < size || turns.load(Ordering::Relaxed) < least) && !ended.load(Ordering::Relaxed)
                });
            });
            let tap = scope.spawn(move || {
                let (mut open, mut leaked) = (0u64, Vec::new());
                let mut look = || {
                    world
                        .at(Place::Pod(1))
                        .wire
                        .drain(|frame| match number_of(frame) {
                            Some(ALLOWED) => open += 1,
                            Some(number) => leaked.push(number),
                            None => {}
                        });
                };
                while !ended.load(Ordering::Relaxed) {
                    world.at(Place::Pod(1)).wire.wait();
                    look();
                }
                look();
                (open, leaked)
            });
            let _ended = Ended(ended);
            while !flood.is_finished() {
                turn(world, &all, &self.first, &self.second);
                turns.fetch_add(1, Ordering::Relaxed);
            }
            flood.join().unwrap();
            (open, leaked) = tap.join().unwrap();
        });
        let mut rest: HashMap<u32, Vec<Place>> = HashMap::new();
        world.collect(&mut rest);
        open += rest.remove(&ALLOWED).map_or(0, |places| places.len() as u64);
        leaked.extend(rest.into_keys());

        let (sent, turns) = (sent.into_inner(), turns.into_inner());
        eprintln!("{sent} packets over {turns} turns: {open} of the allowed ones arrived");
        assert!(
            leaked.is_empty(),
            "{} denied packets of {sent} were let through in {turns} turns",
            leaked.len()
        );
        // The same flood reaches the target where policy allows it, or the silence would prove nothing. Queues may
        // overflow on a busy machine, so not every packet counts.
        assert!(
            open > sent / u64::from(HAND) / 2,
            "only {open} of the allowed packets among {sent} arrived"
        );
    }
}

/// Ends everything, whichever way the thread that has it ends.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Goes to the other state and back.
fn turn(world: &World, all: &[Resource], first: &[Resource], second: &Turn) {
    match second {
        Turn::Restart => drop(world.engine.restart(all.to_vec())),
        Turn::Resync => {
            let differing = world.engine.run(|core| core.differences());
            assert_eq!(differing, 0, "nobody touched the table");
        }
        Turn::Write(second) => {
            for (now, then) in [(second, first), (&first.to_vec(), second)] {
                let gone = then
                    .iter()
                    .map(Resource::key)
                    .filter(|k| !now.iter().any(|r| r.key() == *k))
                    .collect::<Vec<_>>();
                // Both kinds of objects come back to what the base says of them, if it says something.
                let back: Vec<Resource> = base().into_iter().filter(|r| gone.contains(&r.key())).collect();
                let gone: Vec<_> = gone
                    .into_iter()
                    .filter(|k| !back.iter().any(|r| r.key() == *k))
                    .collect();
                let now: Vec<Resource> = now.iter().cloned().chain(back).collect();
                world.engine.run(move |core| {
                    core.delete(&gone);
                    core.upsert(&now);
                    core.turn();
                });
            }
        }
    }
}

#[test]
fn selectors_differ() {
    Rules::each(|rules| {
        let state = |selector: &str| vec![to_target(vec![allow_from(selected(selector))])];
        Flip::new(rules, state("role == 'a'"), state("role == 'other'")).run();
    });
}

#[test]
fn ports_differ() {
    Rules::each(|rules| {
        let anybody = || allow_from(EntityRule::default());
        let one = vec![to_target(vec![
            ports(anybody(), 80, 80),
            ports(anybody(), 83, 90),
        ])];
        let two = vec![to_target(vec![
            ports(anybody(), 81, 81),
            PolicyRule {
                protocol: Some(Protocol::TCP),
                ..anybody()
            },
        ])];
        Flip::new(rules, one, two).run();
    });
}

#[test]
fn networks_differ() {
    Rules::each(|rules| {
        // Only nftables has intervals that can be changed in either way.
        let ways: &[bool] = if rules == Rules::Nftables {
            &[true, false]
        } else {
            &[false]
        };
        for in_place in ways {
            let state = |text: &str| vec![to_target(vec![allow_from(nets(text))])];
            let (one, two) = (
                state("172.16.0.0/24 172.16.2.0/23"),
                state("172.16.1.0/29 172.16.1.16/28 172.16.1.128/25"),
            );
            let flip = Flip::new(rules, one, two)
                .from("172.16.1.9")
                .with(|s| s.intervals_in_place = *in_place);
            // Before Linux 6.18 intervals that are changed in place are known to be seen half made.
            if !*in_place || DataplaneSettings::default().intervals_in_place {
                flip.run();
            }
        }
    });
}

#[test]
fn the_targets_group_changes() {
    Rules::each(|rules| {
        let own = |name: &str, role: &str, peer: &str| {
            let rules = vec![always(), allow_from(selected(peer))];
            policy("red", name, ingress(&format!("role == '{role}'"), rules))
        };
        let policies = || {
            vec![
                own("one", "target", "role == 'a'"),
                own("two", "target2", "role == 'b'"),
            ]
        };
        let state = |role: &str| {
            policies()
                .into_iter()
                .chain([target(&format!("role={role}"))])
                .collect()
        };
        Flip::new(rules, state("target"), state("target2")).run();
    });
}

#[test]
fn the_probers_identity_changes() {
    Rules::each(|rules| {
        // Another pod tells the two apart, so that the prober's identity changes; the target denies both.
        let other = policy(
            "red",
            "other",
            ingress("role == 'other'", vec![allow_from(selected("role == 'd'"))]),
        );
        let state = |role: &str| {
            vec![
                to_target(vec![allow_from(selected("role == 'a'"))]),
                other.clone(),
                prober(&format!("role={role}")),
            ]
        };
        Flip::new(rules, state("c"), state("d")).run();
    });
}

#[test]
fn identity_and_policy_change_at_once() {
    Rules::each(|rules| {
        // Each policy allows what the prober is in the other state: a mixture of the two would let it through.
        let state = |is: &str, allowed: &str| {
            vec![
                to_target(vec![allow_from(selected(&format!("role == '{allowed}'")))]),
                prober(&format!("role={is}")),
            ]
        };
        Flip::new(rules, state("c", "d"), state("d", "c")).run();
    });
}

#[test]
fn identity_and_group_change_at_once() {
    Rules::each(|rules| {
        // Each group allows what the prober is while the target is in the other one.
        let own = |name: &str, role: &str, peer: &str| {
            let rules = vec![always(), allow_from(selected(peer))];
            policy("red", name, ingress(&format!("role == '{role}'"), rules))
        };
        let policies = || {
            vec![
                own("one", "target", "role == 'd'"),
                own("two", "target2", "role == 'c'"),
            ]
        };
        let state = |is: &str, target_is: &str| {
            let pods = [
                prober(&format!("role={is}")),
                target(&format!("role={target_is}")),
            ];
            policies().into_iter().chain(pods).collect()
        };
        Flip::new(rules, state("c", "target"), state("d", "target2")).run();
    });
}

#[test]
fn the_list_of_policies_changes() {
    Rules::each(|rules| {
        let tier: Resource = Object::named(
            "early",
            TierSpec {
                order: Some(1.0),
                default_action: None,
            },
        )
        .into();
        let deny = PolicyRule {
            action: Action::Deny,
            ..PolicyRule::default()
        };
        let early = NetworkPolicySpec {
            tier: "early".into(),
            ..ingress("role == 'target'", vec![always(), deny])
        };
        let one = vec![
            tier.clone(),
            policy("red", "early", early),
            policy(
                "red",
                "late",
                ingress("role == 'target'", vec![allow_from(selected("role == 'c'"))]),
            ),
        ];
        let two = vec![tier, to_target(vec![allow_from(selected("role == 'a'"))])];
        Flip::new(rules, one, two).run();
    });
}

#[test]
fn egress_differs() {
    Rules::each(|rules| {
        let out = |rule: PolicyRule| policy("red", "out", egress("role == 'c'", vec![always(), rule]));
        let one = vec![out(allow_to(selected("role == 'other'")))];
        let two = vec![out(ports(allow_to(selected("role == 'target'")), 80, 81))];
        Flip::new(rules, one, two).run();
    });
}

#[test]
fn the_engine_restarts() {
    Rules::each(|rules| {
        for owned in rules.ownerships() {
            let denying = vec![to_target(vec![allow_from(selected("role == 'a'"))])];
            let mut flip = Flip::new(rules, denying, Vec::new()).with(|s| s.owned_table = *owned);
            flip.second = Turn::Restart;
            flip.run();
        }
    });
}

#[test]
fn everything_is_compared_with_the_kernel() {
    Rules::each(|rules| {
        let mut flip = Flip::new(
            rules,
            vec![to_target(vec![allow_from(selected("role == 'a'"))])],
            Vec::new(),
        );
        flip.second = Turn::Resync;
        flip.run();
    });
}
