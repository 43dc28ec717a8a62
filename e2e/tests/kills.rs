//! Laws 3 and 4 under SIGKILL: an agent that is killed at random moments, while policies change under traffic, lets no
//! denied packet through, cuts no flow, and leaves nothing behind that the next life does not clear away.
//!
//! The agent is this test's own program, started again in the node's namespace with a variable that says so: it goes to
//! and fro between two states until it is killed. `MANX_SEED` says which moments, and `MANX_KILLS` how many.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself"
)]

use dataplane::DataplaneSettings;
use e2e::bed::within;
use e2e::engine::{Core, NODE};
use e2e::manifest::{allow_from, allow_to, egress, endpoint, ingress, nets, open_profile, policy, selected};
use e2e::packet::{Probe, number_of};
use e2e::random::Dice;
use e2e::rules::{Rules, name_lock};
use e2e::talk::{Side, Talk};
use e2e::world::{Place, PodSpec, World};
use policy_model::{PolicyRule, Port, PortRange, Protocol, Resource};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Set in a process that is to be the agent: whether its table is owned.
const AGENT: &str = "MANX_E2E_AGENT";
/// Set there as well: how it holds policy, and its node's lock file.
const AGENT_RULES: &str = "MANX_E2E_AGENT_RULES";
const AGENT_LOCK: &str = "MANX_E2E_AGENT_LOCK";
/// Ports: what both states allow, what both deny, and what the first one allows only.
const OPEN: u16 = 7;
const DENIED: u16 = 82;
const FIRST_ONLY: u16 = 90;
/// Packets that are handed to the kernel at once.
const HAND: u16 = 32;
/// The numbers of probes that are allowed, and of those of the flow that was open before.
const ALLOWED: u32 = 1 << 20;
const ESTABLISHED: u32 = 1 << 21;
/// What an agent writes when it is about to begin.
const BEGINS: u8 = b'!';
/// What it writes when it has written to the kernel a few times.
const WROTE: u8 = b'#';
/// The longest life of an agent, in microseconds, where the machine is quick.
const LONGEST_LIFE: usize = 120_000;
/// One flood at a time: two leave the agents no processor.
static FLOOD: Mutex<()> = Mutex::new(());

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn to_port(port: u16) -> PolicyRule {
    let mut rule = PolicyRule {
        protocol: Some(Protocol::UDP),
        ..allow_from(Default::default())
    };
    rule.destination.ports = vec![Port::Range(PortRange::new(port, port).unwrap())];
    rule
}

fn pod(n: u8, labels: &str) -> Resource {
    let addresses = [format!("10.1.0.{n}"), format!("fd00:1::{n}")].map(|a| address(&a));
    endpoint(
        "red",
        &format!("p{n}"),
        NODE,
        &format!("cali{n}"),
        &addresses,
        labels,
    )
}

/// The two states: they differ in groups, rows, identities, networks and elements of every map.
fn state(first: bool) -> Vec<Resource> {
    let rules = if first {
        let list = vec![
            to_port(OPEN),
            to_port(FIRST_ONLY),
            allow_from(selected("role == 'x'")),
        ];
        [list, vec![allow_from(nets("172.16.0.0/24 172.16.2.0/23"))]].concat()
    } else {
        vec![to_port(OPEN), allow_from(selected("role == 'c' && extra == 'e'"))]
    };
    let mut resources = vec![
        open_profile("red"),
        pod(1, if first { "role=c" } else { "role=d" }),
        pod(2, "role=target"),
        pod(
            3,
            if first {
                "role=other extra=e"
            } else {
                "role=c extra=e"
            },
        ),
        policy("red", "in", ingress("role == 'target'", rules)),
    ];
    let out = allow_to(selected(if first { "role == 'target'" } else { "has(role)" }));
    resources.push(policy("red", "out", egress("role == 'other'", vec![out])));
    for n in 0..20 {
        // Policies of another pod, so that there is something to write.
        let peer = format!("role == 'peer{}'", if first { n } else { n + 10 });
        let spec = ingress(
            "has(extra)",
            vec![allow_from(selected(&peer)), to_port(1_000 + n)],
        );
        resources.push(policy("red", &format!("more{n}"), spec));
    }
    resources
}

fn settings(rules: Rules, owned_table: bool) -> DataplaneSettings {
    DataplaneSettings {
        owned_table,
        ..rules.settings()
    }
}

/// The agent: to and fro until somebody ends it, at the latest when the test is gone.
#[test]
fn agent() {
    let Ok(owned) = std::env::var(AGENT) else { return };
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let mut out = std::io::stdout();
    out.write_all(&[BEGINS]).and_then(|()| out.flush()).unwrap();
    let rules = std::env::var(AGENT_RULES).unwrap().parse().unwrap();
    let mut settings = settings(rules, owned == "owned");
    name_lock(&mut settings, Path::new(&std::env::var(AGENT_LOCK).unwrap()));
    let mut core = Core::open(settings);
    for turn in 0u64.. {
        core.upsert(&state(turn.is_multiple_of(2)));
        core.turn();
        if turn == 1 {
            // Nobody may listen any more.
            let _ = out.write_all(&[WROTE]).and_then(|()| out.flush());
        }
    }
}

/// Starts an agent in the node's namespace, and returns when it begins.
fn start(world: &World, owned: bool) -> Child {
    let program = std::env::current_exe().unwrap();
    let start = || {
        Command::new(program)
            .args(["--exact", "agent", "--nocapture"])
            .env(AGENT, if owned { "owned" } else { "open" })
            .env(AGENT_RULES, world.rules.to_string())
            .env(AGENT_LOCK, world.lock.file())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start this program again")
    };
    let mut agent = within(&world.node, start);
    hear(&mut agent, BEGINS);
    agent
}

/// Waits for a word of an agent's.
fn hear(agent: &mut Child, word: u8) {
    let output = agent.stdout.as_mut().expect("a pipe");
    let mut byte = [0];
    while byte[0] != word {
        // The test runner's own words come first.
        output.read_exact(&mut byte).expect("the agent speaks");
    }
}

/// How long an agent's life should be at most, in microseconds: as long as this machine, busy as it is, takes to write
/// some times. One that lives shorter has written nothing when it is killed.
fn longest_life(world: &World, owned: bool) -> usize {
    let mut agent = start(world, owned);
    let begun = Instant::now();
    hear(&mut agent, WROTE);
    let wrote = begun.elapsed();
    agent.kill().unwrap();
    agent.wait().unwrap();
    usize::try_from(2 * wrote.as_micros()).unwrap().max(LONGEST_LIFE)
}

/// Ends everything, whichever way the thread that has it ends.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn kills(rules: Rules, owned: bool) {
    let _alone = FLOOD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let seed = number("MANX_SEED", 1);
    let lives = number("MANX_KILLS", rules.share(32, 10));
    let mut dice = Dice::new(seed);
    let pods = [1, 2, 3].map(|n| PodSpec::new(&format!("cali{n}"), &format!("10.1.0.{n} fd00:1::{n}")));
    let mut world = World::new(&pods, settings(rules, owned));
    world.silence();
    // The first life ends by itself, so that there is something in force.
    world.engine.restart(state(true));
    let end = |n: u8, port| SocketAddr::new(address(&format!("10.1.0.{n}")), port);
    let mut established: Vec<Talk> = [Protocol::UDP, Protocol::TCP]
        .into_iter()
        .map(|protocol| Talk::new(&world, protocol, end(2, 30_000), end(1, FIRST_ONLY)))
        .chain([Talk::new(
            &world,
            Protocol::UDP,
            end(1, 30_001),
            end(2, FIRST_ONLY),
        )])
        .collect();
    for talk in &mut established {
        assert!(talk.open(&mut world), "{talk:?}");
    }
    world.engine.close();

    let probe = |n: u16, source: &str, destination: &str| Probe {
        number: if n == 0 { ALLOWED } else { u32::from(n) },
        source: address(source),
        destination: address(destination),
        protocol: Protocol::UDP,
        x: if n == 0 { OPEN } else { DENIED },
        y: 20_000 + n,
    };
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for n in 0..HAND / 2 {
        frames.push(world.frame(&probe(n, "10.1.0.1", "10.1.0.2")));
        frames.push(world.frame(&probe(n, "fd00:1::1", "fd00:1::2")));
    }
    let stream = &mut established[2];
    frames.push(stream.frame(&world, Side::Client, ESTABLISHED).1);
    let (sent, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut arrived = Arrived::default();
    let (mut changed, mut seen) = (0, None);
    std::thread::scope(|scope| {
        let (world, frames, sent, ended) = (&world, &frames, &sent, &ended);
        let flood = scope.spawn(move || {
            let _ended = Ended(ended);
            world.at(Place::Pod(0)).wire.sender().flood(frames, |n| {
                sent.store(n, Ordering::Relaxed);
                !ended.load(Ordering::Relaxed)
            })
        });
        let tap = scope.spawn(move || {
            let mut arrived = Arrived::default();
            let wire = &world.at(Place::Pod(1)).wire;
            while !ended.load(Ordering::Relaxed) {
                wire.wait();
                wire.drain(|frame| arrived.see(number_of(frame)));
            }
            wire.drain(|frame| arrived.see(number_of(frame)));
            arrived
        });
        let _ended = Ended(ended);
        let longest = longest_life(world, owned);
        for _ in 0..lives {
            let mut agent = start(world, owned);
            std::thread::sleep(Duration::from_micros(dice.below(longest) as u64));
            agent.kill().unwrap();
            agent.wait().unwrap();
            let table = world.our_objects();
            changed += u64::from(seen.replace(table.clone()).is_some_and(|before| before != table));
            assert!(!flood.is_finished(), "the flood goes on");
        }
        ended.store(true, Ordering::Relaxed);
        flood.join().unwrap();
        arrived = tap.join().unwrap();
    });
    let mut rest = std::collections::HashMap::new();
    world.collect(&mut rest);
    for (number, places) in rest {
        places.iter().for_each(|_| arrived.see(Some(number)));
    }
    let sent = sent.into_inner();
    eprintln!("MANX_SEED={seed}: {lives} kills, {changed} different tables, {sent} packets, {arrived:?}");
    assert!(
        changed >= lives / 10,
        "the agents hardly wrote anything before they were killed"
    );
    assert_eq!(
        arrived.denied, 0,
        "denied packets were let through; MANX_SEED={seed}"
    );
    // Queues may overflow on a busy machine, so not every packet counts.
    let each = sent / frames.len() as u64;
    assert!(
        arrived.allowed > each,
        "of {} allowed packets too few arrived",
        2 * each
    );
    assert!(
        arrived.established > each / 2,
        "of {each} packets of an open flow too few arrived"
    );
    for talk in &mut established {
        assert!(talk.goes_on(&mut world), "cut: {talk:?}; MANX_SEED={seed}");
    }

    // The last life finds what the others left, and clears it away.
    for first in [false, true] {
        world.engine.restart(state(first));
        world.engine.run(settle_wholly);
        assert_eq!(world.engine.run(|core| core.differences()), 0, "MANX_SEED={seed}");
        let fresh = World::new(&pods, settings(rules, owned));
        fresh.engine.restart(state(first));
        fresh.engine.run(settle_wholly);
        assert_eq!(shapes(&world), shapes(&fresh), "leftovers; MANX_SEED={seed}");
        for talk in &mut established {
            assert!(talk.goes_on(&mut world), "cut: {talk:?}; MANX_SEED={seed}");
            let allowed = first || talk.client_seen().ip() == address("10.1.0.2");
            assert_eq!(
                talk.anew().open(&mut world),
                allowed,
                "{talk:?}; MANX_SEED={seed}"
            );
        }
        assert!(world.passes("10.1.0.1", "10.1.0.2", OPEN));
        assert!(world.passes("fd00:1::3", "fd00:1::2", OPEN));
        assert!(!world.passes("fd00:1::1", "fd00:1::2", DENIED));
        assert_eq!(world.passes("172.16.2.9", "10.1.0.2", DENIED), first);
        assert_eq!(world.passes("10.1.0.3", "10.1.0.2", DENIED + 1), !first);
        world.forget_flows();
        for talk in &mut established {
            let anew = talk.anew();
            *talk = anew;
            talk.open(&mut world);
        }
    }
}

/// Lets time pass until nothing waits for its removal: what is tidied up may leave something to be removed in turn.
fn settle_wholly(core: &mut Core) {
    for _ in 0..10 {
        core.settle();
        if core.dataplane.next_retirement().is_none() {
            return;
        }
    }
    panic!("there is always something left to remove");
}

/// What arrived at the target.
#[derive(Debug, Default)]
struct Arrived {
    allowed: u64,
    established: u64,
    denied: u64,
}

impl Arrived {
    fn see(&mut self, number: Option<u32>) {
        match number {
            Some(ALLOWED) => self.allowed += 1,
            Some(ESTABLISHED) => self.established += 1,
            // Those of the harness itself.
            Some(number) if number > ESTABLISHED => {}
            Some(_) => self.denied += 1,
            None => {}
        }
    }
}

/// Our objects without the numbers, which depend on what was before: sorts, types and how many elements or rules.
fn shapes(world: &World) -> Vec<String> {
    let shape = |object: &String| {
        let elements = object
            .split_once("elements = {")
            .map_or(0, |(_, e)| e.split(',').count());
        let first = object.lines().next().unwrap_or_default();
        // Chains that groups share are named by what they say, numbers included.
        let first = first.split_inclusive("cali-ps-").next().unwrap_or_default();
        let name: String = first.chars().filter(|c| !c.is_ascii_digit()).collect();
        format!("{name}: {} lines, {elements} elements", object.lines().count())
    };
    let mut shapes: Vec<String> = world.our_objects().iter().map(shape).collect();
    shapes.sort();
    shapes
}

#[test]
fn an_agent_with_an_open_table_may_be_killed_at_any_moment() {
    Rules::each(|rules| kills(rules, false));
}

#[test]
fn an_agent_with_an_owned_table_may_be_killed_at_any_moment() {
    // Nobody owns tables of iptables.
    Rules::of_run()
        .into_iter()
        .filter(|rules| rules.ownerships().contains(&true))
        .for_each(|rules| kills(rules, true));
}
