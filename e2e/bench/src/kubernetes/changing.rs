//! From a policy's creation and deletion to the first packet of a new flow that is treated by it.

use super::objects::{POLICIES, namespace, policy_of};
use super::world::World;
use crate::bed::set;
use crate::figure::{Figure, duration};
use crate::probe::{Door, Probe};
use crate::timing::{Samples, from_environment};
use anyhow::Context;
use http::Method;
use serde_json::{Value, json};
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

/// Probes a second, each of a new flow.
const PER_SECOND: u32 = 2_500;
/// The port at which the server listens.
const PORT: u16 = 8080;

/// One change.
struct Change {
    /// From the beginning of the request to the first packet.
    whole: Duration,
    /// From the beginning of the request to its answer.
    request: Duration,
}

impl Change {
    /// From the answer to the first packet; nothing where that came first.
    fn after(&self) -> Duration {
        self.whole.saturating_sub(self.request)
    }
}

/// Measures on the measured node, whose pods are connected.
pub(super) fn measure(world: &mut World) -> anyhow::Result<Vec<Figure>> {
    let rounds = from_environment("MANX_BENCH_KUBERNETES_CHANGES", 200);
    let ends = |n: usize| {
        let sandbox = world.sandboxes.get(n).context("a pod of the node")?;
        let address = world.addresses.get(n).context("a connected pod")?;
        anyhow::Ok((&sandbox.namespace, *address))
    };
    let (server, client) = (ends(0)?, ends(1)?);
    // Flows that are over are forgotten before their ports come again.
    world.measured.namespace.run(|| {
        for name in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            set(&format!("net/netfilter/{name}"), "2")?;
        }
        anyhow::Ok(())
    })??;
    let to = SocketAddrV4::new(server.1, PORT);
    let mut probe = Probe::open(client, (server.0, to), PER_SECOND)?;
    probe.wait(Door::Open).context("before any change")?;
    // The first ones wake everything up.
    for _ in 0..3 {
        change(world, &mut probe, Door::Shut, 0)?;
        change(world, &mut probe, Door::Open, 0)?;
    }
    let (mut created, mut deleted) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        if round % 20 == 0 {
            let (made, gone) = (lately(&created), lately(&deleted));
            eprintln!(
                "  change {round} of {rounds}; the last ones after their answers: created {made}, deleted {gone}"
            );
        }
        for door in [Door::Shut, Door::Open] {
            // Changes fall anywhere in what everybody does by itself now and then.
            std::thread::sleep(Duration::from_millis(30 + (round as u64 * 37) % 90));
            let changed = change(world, &mut probe, door, round)?;
            let list = if door == Door::Shut {
                &mut created
            } else {
                &mut deleted
            };
            list.push(changed);
        }
    }
    let mut figures = Vec::new();
    for (what, changes) in [
        (
            "NetworkPolicy created, to the first packet of a new flow dropped",
            &created,
        ),
        (
            "NetworkPolicy deleted, to the first packet of a new flow passed",
            &deleted,
        ),
    ] {
        figures.extend(lines(what, world, changes));
    }
    Ok(figures)
}

/// How long the last changes took after the answers to their requests: whether it grows shows while it runs.
fn lately(changes: &[Change]) -> String {
    let after: Samples = changes.iter().rev().take(20).map(Change::after).collect();
    match changes.is_empty() {
        true => "-".to_owned(),
        false => duration(after.median()),
    }
}

fn lines(what: &str, world: &World, changes: &[Change]) -> [Figure; 3] {
    let whole: Samples = changes.iter().map(|change| change.whole).collect();
    let requests: Samples = changes.iter().map(|change| change.request).collect();
    let after: Samples = changes.iter().map(Change::after).collect();
    let is_large = world.size == super::LARGE;
    let (median, tail) = if is_large { (5_500, 10) } else { (5_000, 8) };
    let reference = if is_large {
        "the reference agent 14 to 26 ms, median 17"
    } else {
        "the reference agent 12 to 15 ms"
    };
    let name = |which: &str| format!("{what}, {} pods, {which}", world.size.pods);
    [
        Figure::time(
            name("median"),
            whole.median(),
            Duration::from_micros(median),
            format!(
                "{} changes from the beginning of the request, {PER_SECOND} probes a second, {}; least {}; {reference}",
                changes.len(),
                world.size,
                duration(whole.least())
            ),
        ),
        Figure::time(
            name("99th percentile"),
            whole.quantile(0.99),
            Duration::from_millis(tail),
            format!("largest {}", duration(whole.largest())),
        ),
        Figure::beside(
            name("of which after the answer to the request, median"),
            duration(after.median()),
            format!(
                "99th percentile {}; nothing where it was in force before the answer came; the request itself {} (99th percentile {})",
                duration(after.quantile(0.99)),
                duration(requests.median()),
                duration(requests.quantile(0.99))
            ),
        ),
    ]
}

/// Creates the policy, or deletes it, while probes run.
fn change(world: &World, probe: &mut Probe, door: Door, round: usize) -> anyhow::Result<Change> {
    let making = policy_of(0, "door", "probe-server", spec(round));
    let administrator = &world.server.administrator;
    let request = || -> anyhow::Result<(Instant, Instant)> {
        // Some probes are treated the old way first.
        std::thread::sleep(Duration::from_millis(4));
        let begun = Instant::now();
        if door == Door::Shut {
            administrator.make(&making)?;
        } else {
            let path = format!("{POLICIES}/{}/networkpolicies/door", namespace(0));
            administrator.ask(Method::DELETE, &path, None)?.success(&path)?;
        }
        Ok((begun, Instant::now()))
    };
    let (treated, asked) = std::thread::scope(|scope| {
        let asked = scope.spawn(request);
        let treated = probe.wait(door);
        let asked = asked
            .join()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the thread of the request ended")));
        (treated, asked)
    });
    let (begun, answered) = asked?;
    Ok(Change {
        whole: treated?.saturating_duration_since(begun),
        request: answered - begun,
    })
}

/// In turn: nobody is let in; some of the namespace are; some of others are.
fn spec(round: usize) -> Value {
    let application = json!({ "matchLabels": { "app": format!("app-{}", round % 20) } });
    let ports = json!([{ "protocol": "TCP", "port": 7_000 + round % 50 }]);
    match round % 3 {
        0 => json!({ "policyTypes": ["Ingress"] }),
        1 => json!({ "ingress": [{ "from": [{ "podSelector": application }], "ports": ports }] }),
        _ => {
            let team = json!({ "matchLabels": { "team": format!("team-{}", round % 10) } });
            let from = json!([{ "namespaceSelector": team, "podSelector": application }]);
            json!({ "ingress": [{ "from": from, "ports": ports }] })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_form_of_the_door_lets_the_probes_in() {
        for round in 0..60 {
            let text = spec(round).to_string();
            assert!(!text.contains("probe") && !text.contains("UDP"), "{text}");
            // A policy without rules denies only what its types name.
            assert!(text.contains("ingress") || text.contains("Ingress"), "{text}");
        }
    }
}
