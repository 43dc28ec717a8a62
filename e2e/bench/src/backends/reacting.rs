//! From a policy's creation and deletion to the first packet of a new flow that is treated by it, through felix's own
//! engine: calculation, decision tables, driver and kernel. The datastore's own time is left out.

use super::Backend;
use super::world::{World, on_port};
use crate::bed::{Node, set};
use crate::figure::{Figure, duration};
use crate::probe::{Door, Probe};
use crate::shape::{HERE, allow};
use crate::timing::{Samples, from_environment};
use anyhow::Context;
use felix::agent::{Engine, EngineHandle, EngineOptions, Input, RefreshIntervals, WorkloadMtu};
use felix::health::{Counts, HealthAggregator};
use felix::metrics::{Metrics, MetricsOptions};
use felix_cni::EndpointView;
use policy_model::{GlobalNetworkPolicySpec, Object, PolicyRule, PolicyType, Resource};
use policy_model_datastore::{Revision, SyncEvent, Version, Versioned};
use std::net::{IpAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Probes a second, each of a new flow.
const PER_SECOND: u32 = 5_000;
/// The port at which the server listens.
const PORT: u16 = 8080;

/// Measures, one backend after the other.
pub(super) fn figures() -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for both_families in [false, true] {
        for backend in Backend::ALL {
            eprintln!("  policies: {}, IPv6 too: {both_families}", backend.name());
            figures.extend(of_one(backend, both_families).with_context(|| backend.name().to_string())?);
        }
    }
    Ok(figures)
}

fn of_one(backend: Backend, both_families: bool) -> anyhow::Result<Vec<Figure>> {
    let rounds = from_environment("MANX_BENCH_POLICY_ROUNDS", 100);
    let world = World {
        pods: 49,
        policies: 1_000,
        members: 2,
        both_families,
    };
    let objects = world.all();
    let node = Node::make(&pods(&objects))?;
    let folder = tempfile::tempdir()?;
    let engine = start(&node, backend, folder.path())?;
    tell(
        &engine,
        objects
            .into_iter()
            .map(upsert)
            .chain([SyncEvent::InSync])
            .collect(),
    );
    // The last pod is the one that no policy selects.
    let ends = |n: usize| {
        let pod = node.pods.get(n).context("a pod of the node")?;
        match pod.addresses.first() {
            Some(IpAddr::V4(address)) => Ok((&pod.namespace, *address)),
            _ => anyhow::bail!("a pod without an IPv4 address"),
        }
    };
    let (client, server) = (ends(0)?, ends(world.pods)?);
    node.namespace.run(|| {
        // Flows that are over are forgotten before their ports come again.
        for name in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            set(&format!("net/netfilter/{name}"), "2")?;
        }
        anyhow::Ok(())
    })??;
    let mut probe = Probe::open(client, (server.0, SocketAddrV4::new(server.1, PORT)), PER_SECOND)?;
    probe.wait(Door::Open).context("before any change")?;
    let (mut created, mut deleted) = (Samples::default(), Samples::default());
    // The first ones wake everything up.
    for round in 0..rounds + 3 {
        for door in [Door::Shut, Door::Open] {
            // Changes fall anywhere in what the engine does by itself; one in ten, where it looks a second after its write.
            let pause = if round % 10 == 9 { 950 } else { 30 };
            std::thread::sleep(Duration::from_millis(pause + (round as u64 * 37) % 90));
            let policy = door_policy(&world, round);
            let event = match door {
                Door::Shut => upsert(policy),
                Door::Open => SyncEvent::Delete(policy.key()),
            };
            let time = change(&engine, &mut probe, door, event)?;
            if round >= 3 {
                let list = if door == Door::Shut {
                    &mut created
                } else {
                    &mut deleted
                };
                list.add(time);
            }
        }
    }
    engine.stop();
    Ok(lines(backend, both_families, &created, &deleted))
}

fn lines(backend: Backend, both_families: bool, created: &Samples, deleted: &Samples) -> Vec<Figure> {
    let families = if both_families { "IPv4 and IPv6" } else { "IPv4" };
    let ms = Duration::from_millis;
    // What the first way reached by its own goal is what the others are measured against.
    let goals = [
        ("median", [ms(3), ms(15), ms(35)]),
        ("99th percentile", [ms(8), ms(30), ms(60)]),
    ];
    let mut figures = Vec::new();
    for (what, samples) in [
        (
            "NetworkPolicy created, to the first packet of a new flow dropped",
            created,
        ),
        (
            "NetworkPolicy deleted, to the first packet of a new flow passed",
            deleted,
        ),
    ] {
        for ((which, goal), share) in goals.iter().zip([0.5, 0.99]) {
            figures.push(Figure::time(
                format!("{}: {what}, pods with {families}, {which}", backend.name()),
                samples.quantile(share),
                backend.choose(*goal),
                format!(
                    "{} changes told to felix's engine, 1,000 policies, 50 pods, {PER_SECOND} probes a second; least {}, largest {}",
                    samples.len(),
                    duration(samples.least()),
                    duration(samples.largest())
                ),
            ));
        }
    }
    figures
}

/// Says it to the engine while probes run.
fn change(
    engine: &EngineHandle,
    probe: &mut Probe,
    door: Door,
    event: SyncEvent,
) -> anyhow::Result<Duration> {
    std::thread::scope(|scope| {
        let told = scope.spawn(|| {
            // Some probes are treated the old way first.
            std::thread::sleep(Duration::from_millis(4));
            let begun = Instant::now();
            tell(engine, vec![event]);
            begun
        });
        let treated = probe.wait(door);
        let begun = told
            .join()
            .map_err(|_| anyhow::anyhow!("the thread that tells the engine ended"))?;
        Ok(treated?.saturating_duration_since(begun))
    })
}

/// In turn: nobody is let in; pods are that some policy speaks of already; pods are by a selector that nobody used.
fn door_policy(world: &World, round: usize) -> Resource {
    let rules: Vec<PolicyRule> = match round % 3 {
        0 => Vec::new(),
        1 => vec![on_port(allow(&format!("peer == 's{round}'")), 7_000)],
        _ => vec![on_port(
            allow(&format!("peer in {{'s{round}', 's{}'}}", 2 * round)),
            7_000,
        )],
    };
    let spec = GlobalNetworkPolicySpec {
        selector: format!("pod == 'p{}'", world.pods),
        types: vec![PolicyType::Ingress],
        ingress: rules,
        ..GlobalNetworkPolicySpec::default()
    };
    Object::named("door", spec).into()
}

/// The interfaces and addresses of the node's own pods.
fn pods(objects: &[Resource]) -> Vec<(String, Vec<IpAddr>)> {
    let own = objects.iter().filter_map(|object| match object {
        Resource::WorkloadEndpoint(endpoint) if endpoint.spec.node == HERE => Some(&endpoint.spec),
        _ => None,
    });
    own.map(|spec| {
        let addresses = spec.ip_networks.iter().map(|net| net.addr()).collect();
        (spec.interface_name.clone(), addresses)
    })
    .collect()
}

fn start(node: &Node, backend: Backend, folder: &std::path::Path) -> anyhow::Result<EngineHandle> {
    let options = EngineOptions {
        node: HERE.to_string(),
        node_ranges: false,
        dataplane: backend.settings(folder),
        refresh: RefreshIntervals::default(),
        mtu: WorkloadMtu::default(),
    };
    let (view, _) = tokio::sync::watch::channel(EndpointView::default());
    let health = HealthAggregator::new(&[]);
    let reporter = health.register("engine", Counts::Both, Duration::ZERO, Instant::now());
    let metrics = Metrics::new(&MetricsOptions {
        host: HERE.to_string(),
        process: false,
    })?;
    Ok(node
        .namespace
        .run(|| Engine::start(options, view, reporter, metrics))??)
}

fn tell(engine: &EngineHandle, events: Vec<SyncEvent>) {
    engine.send(Input::Events(events));
}

fn upsert(object: Resource) -> SyncEvent {
    SyncEvent::Upsert(Versioned {
        resource: Arc::new(object),
        version: Version::new("1"),
        revision: Revision::new(1),
    })
}
