//! The slowest connections while policies change all the time, against a quiet node and against the same load without
//! policies.
//!
//! The API server and etcd are kept off the processor on which the connections are made, as they would be on another
//! machine; felix is not. The thread that connects has real-time priority where the system allows it: what is measured is
//! the way of the packets, not the queue for the processor.

use super::objects::{POLICIES, Size, namespace, policy_of};
use super::world::World;
use crate::bed::{pin, set, succeeded};
use crate::figure::{Figure, duration};
use crate::timing::{Samples, from_environment, median};
use anyhow::Context;
use dataplane_netlink::NetworkNamespace;
use nix::sys::prctl::set_timerslack;
use nix::unistd::gettid;
use rand::seq::SliceRandom;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Connections a second.
const PER_SECOND: u32 = 2_000;
/// Changes a second.
const CHANGES: u32 = 100;
/// How many objects change in turn.
const CHANGING: usize = 20;
/// The port at which the server listens.
const PORT: u16 = 8081;
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What happens beside the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Beside {
    /// Nothing.
    Idle,
    /// Policies change that concern pods of this node.
    Policies,
    /// Objects change that nobody watches.
    Others,
}

const ALL: [Beside; 3] = [Beside::Idle, Beside::Policies, Beside::Others];

/// What one round of a kind gave.
struct Round {
    times: Samples,
    changes: usize,
    took: Duration,
}

/// Measures on the measured node, whose pods are connected.
pub(super) fn measure(world: &mut World) -> anyhow::Result<Vec<Figure>> {
    let rounds = from_environment("MANX_BENCH_KUBERNETES_TAIL_ROUNDS", 8);
    let seconds = from_environment("MANX_BENCH_KUBERNETES_TAIL_SECONDS", 4);
    let length = Duration::from_secs(seconds as u64);
    prepare(world)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (ours, theirs) = (cores - 1, format!("0-{}", cores.saturating_sub(2)));
    for pid in world.server.processes()? {
        keep(pid, &theirs)?;
    }
    let mut all: BTreeMap<Beside, Vec<Round>> = BTreeMap::new();
    for round in 0..rounds {
        eprintln!("  tail: round {} of {rounds}", round + 1);
        let mut order = ALL;
        order.shuffle(&mut rand::rng());
        for beside in order {
            let outcome = one(world, beside, length, ours)?;
            all.entry(beside).or_default().push(outcome);
        }
    }
    for pid in world.server.processes()? {
        keep(pid, &format!("0-{}", cores - 1))?;
    }
    let quantiles = |beside: Beside, share: f64| -> Vec<f64> {
        let rounds = all.get(&beside).map(Vec::as_slice).unwrap_or_default();
        rounds
            .iter()
            .map(|round| round.times.quantile(share).as_secs_f64())
            .collect()
    };
    let ratio = |beside: Beside, share: f64| {
        let (these, idle) = (quantiles(beside, share), quantiles(Beside::Idle, share));
        median(&these.iter().zip(&idle).map(|(a, b)| a / b).collect::<Vec<f64>>())
    };
    let time =
        |beside: Beside, share: f64| duration(Duration::from_secs_f64(median(&quantiles(beside, share))));
    let rate = |beside: Beside| {
        let rounds = all.get(&beside).map(Vec::as_slice).unwrap_or_default();
        let changes: usize = rounds.iter().map(|round| round.changes).sum();
        let took: f64 = rounds.iter().map(|round| round.took.as_secs_f64()).sum();
        changes as f64 / took.max(f64::EPSILON)
    };
    let share = 0.999;
    Ok(vec![
        Figure::at_most(
            "99.9th percentile of a TCP connect under 100 policy changes a second, against idle",
            ratio(Beside::Policies, share),
            "times",
            1.2,
            format!(
                "median of {rounds} paired shuffled rounds of {seconds} s with {PER_SECOND} connects a second, between two pods \
                 of the node; {} against {}; {:.0} changes a second came through; {}; API server and etcd on other \
                 processors, felix on any",
                time(Beside::Policies, share),
                time(Beside::Idle, share),
                rate(Beside::Policies),
                world.size
            ),
        ),
        Figure::beside(
            "the same with changes of objects that nobody watches, against idle",
            format!("{:.2} times", ratio(Beside::Others, share)),
            format!(
                "{} against {}; {:.0} changes a second: what the machine itself adds",
                time(Beside::Others, share),
                time(Beside::Idle, share),
                rate(Beside::Others)
            ),
        ),
        Figure::beside(
            "median of a TCP connect under 100 policy changes a second, against idle",
            format!("{:.2} times", ratio(Beside::Policies, 0.5)),
            format!(
                "{} against {}",
                time(Beside::Policies, 0.5),
                time(Beside::Idle, 0.5)
            ),
        ),
    ])
}

/// Makes what changes later. A third of the policies select the server.
fn prepare(world: &World) -> anyhow::Result<()> {
    let administrator = &world.server.administrator;
    for n in 0..CHANGING {
        let (namespace, application) = place(world.size, n);
        let mut making = policy_of(namespace, &name(n), &application, json!({}));
        making.object["spec"]["ingress"] = ingress(n, 0);
        // Whoever connects is let in, so that the policies on the server may change.
        if n == 0 {
            making.object["spec"]["ingress"] = json!([{}]);
        }
        administrator.make(&making)?;
        let path = format!("/api/v1/namespaces/{}/configmaps", super::objects::namespace(0));
        let object = json!({ "metadata": { "name": name(n) }, "data": { "value": "0" } });
        administrator.make(&super::objects::Making {
            path,
            object,
            status: None,
        })?;
    }
    Ok(())
}

fn name(n: usize) -> String {
    format!("changing-{n}")
}

/// The namespace and the application that a policy is of: a third are the server's, the others are other pods' of the node.
fn place(size: Size, n: usize) -> (usize, String) {
    let pod = if n.is_multiple_of(3) { 0 } else { n };
    let application = size.pod(pod).object["metadata"]["labels"]["app"].clone();
    (pod, application.as_str().unwrap_or_default().to_owned())
}

fn ingress(n: usize, change: usize) -> serde_json::Value {
    let from = json!([{ "podSelector": { "matchLabels": { "app": format!("app-{}", (n + 1) % 20) } } }]);
    json!([{ "from": from, "ports": [{ "protocol": "TCP", "port": 9_000 + change % 100 }] }])
}

/// Connects for a while.
fn one(world: &World, beside: Beside, length: Duration, processor: usize) -> anyhow::Result<Round> {
    let server = world.sandboxes.first().context("the server pod")?;
    let client = world.sandboxes.get(1).context("the client pod")?;
    let address = world.addresses.first().context("the server's address")?;
    let to = SocketAddr::from((*address, PORT));
    let listener = listen(&server.namespace, to)?;
    // What a round begins with is the last one's.
    std::thread::sleep(Duration::from_millis(500));
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let (times, changes) = std::thread::scope(|scope| {
        let changes = scope.spawn(|| change(world, beside, &stop));
        let times = client.namespace.run(|| connect(&listener, to, length, processor));
        stop.store(true, Ordering::Relaxed);
        let changes = changes
            .join()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the thread of the changes ended")));
        (times, changes)
    });
    Ok(Round {
        times: times??,
        changes: changes?,
        took: begun.elapsed(),
    })
}

fn listen(namespace: &NetworkNamespace, at: SocketAddr) -> anyhow::Result<TcpListener> {
    namespace.run(|| {
        // What a closed connection leaves behind would else fill up.
        set("net/ipv4/tcp_max_tw_buckets", "0")?;
        Ok(TcpListener::bind(at)?)
    })?
}

/// Makes connections at a steady rate, both ends in one thread, and returns the time of each.
fn connect(
    listener: &TcpListener,
    to: SocketAddr,
    length: Duration,
    processor: usize,
) -> anyhow::Result<Samples> {
    pin(processor)?;
    set_timerslack(1_000).context("asking for exact sleeps")?;
    hurry();
    let pause = Duration::from_secs(1) / PER_SECOND;
    let mut samples = Samples::default();
    let begun = Instant::now();
    let mut next = begun;
    while begun.elapsed() < length {
        let before = Instant::now();
        let near = TcpStream::connect_timeout(&to, PATIENCE).context("connecting")?;
        samples.add(before.elapsed());
        let (far, _) = listener.accept().context("accepting")?;
        drop(far);
        drop(near);
        next += pause;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next = next.max(Instant::now());
    }
    Ok(samples)
}

/// Asks for real-time priority of the calling thread. Without it the figure still means something, so a refusal is none.
fn hurry() {
    let _ = Command::new("chrt")
        .args(["--fifo", "--pid", "10", &gettid().to_string()])
        .output();
}

/// Keeps all threads of a process on some processors.
fn keep(pid: u32, processors: &str) -> anyhow::Result<()> {
    let output = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", processors, &pid.to_string()])
        .output()
        .context("running the program 'taskset' (package util-linux)")?;
    succeeded("taskset", &output)
}

/// Changes objects at a steady rate until it is told to stop, and returns how many changed.
fn change(world: &World, beside: Beside, stop: &AtomicBool) -> anyhow::Result<usize> {
    let pause = Duration::from_secs(1) / CHANGES;
    let administrator = &world.server.administrator;
    let mut next = Instant::now();
    let mut changes = 0;
    while !stop.load(Ordering::Relaxed) {
        // The first one lets the connections in, and stays.
        let n = 1 + changes % (CHANGING - 1);
        match beside {
            Beside::Idle => {}
            Beside::Policies => {
                let namespace = namespace(place(world.size, n).0);
                let path = format!("{POLICIES}/{namespace}/networkpolicies/{}", name(n));
                administrator.change(&path, &json!({ "spec": { "ingress": ingress(n, changes) } }))?;
            }
            Beside::Others => {
                let path = format!("/api/v1/namespaces/{}/configmaps/{}", namespace(0), name(n));
                administrator.change(&path, &json!({ "data": { "value": changes.to_string() } }))?;
            }
        }
        changes += 1;
        next += pause;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next = next.max(Instant::now());
    }
    Ok(if beside == Beside::Idle { 0 } else { changes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_differ_and_some_concern_the_server() {
        assert_ne!(ingress(3, 1), ingress(3, 2));
        let size = super::super::SMALL;
        let on_server = (1..CHANGING)
            .filter(|n| place(size, *n).1 == "probe-server")
            .count();
        assert!(on_server > 0 && on_server < CHANGING - 1);
    }
}
