//! Measures the graph at the size of Felix's own benchmark: 250,000 endpoints, 200 of them local, 10,000 policies.
//!
//! `cargo run --release -p felix-calc --example snapshot [ENDPOINTS] [POLICIES] [CHANGES]`

mod world;

use dataplane_api::Update;
use felix_calc::{CalcConfig, CalcGraph};
use policy_model::{Key, Kind, Resource};
use std::time::{Duration, Instant};
use world::{LOCAL, MARKERS, NAMESPACES, allow, endpoint, name, namespace, policy};

fn main() {
    let mut sizes = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse::<usize>().ok());
    let endpoints = sizes.next().unwrap_or(250_000);
    let policies = sizes.next().unwrap_or(10_000);
    let rounds = sizes.next().unwrap_or(200);
    println!(
        "{endpoints} endpoints ({LOCAL} local, six labels each), {policies} policies of five rules, one thread"
    );
    for (what, policies_first) in [("endpoints first", false), ("policies first", true)] {
        let resources = world::all(endpoints, policies, policies_first);
        let mut graph = CalcGraph::new(CalcConfig::for_node("here"));
        let mut updates = Vec::new();
        let (start, cpu) = (Instant::now(), processor_time());
        let mut fed = Duration::ZERO;
        for resource in resources {
            if let Err(fault) = graph.on_upsert(resource) {
                println!("{fault}");
            }
        }
        fed += start.elapsed();
        graph.on_in_sync();
        graph.flush(&mut updates);
        let (whole, cpu) = (start.elapsed(), processor_time().saturating_sub(cpu));
        let members: usize = updates
            .iter()
            .map(|u| {
                if let Update::Members { added, .. } = u {
                    added.len()
                } else {
                    0
                }
            })
            .sum();
        println!(
            "snapshot, {what}: {whole:?}, processor {cpu:?}, of which the flush {:?}; {} updates, {members} members",
            whole - fed,
            updates.len()
        );
        drop(updates);
        if rounds > 0 {
            changes(&mut graph, (endpoints, policies, rounds));
        }
        println!("{:?}", graph.stats());
        drop(graph);
    }
}

fn changes(graph: &mut CalcGraph, (endpoints, policies, rounds): (usize, usize, usize)) {
    let measure = |what: &str, graph: &mut CalcGraph, change: &dyn Fn(usize) -> Vec<Resource>| {
        measure(what, graph, rounds, change);
    };
    measure("one label of one remote pod", graph, &|n| {
        vec![endpoint(LOCAL + n, (n + 1) % MARKERS)]
    });
    measure("the same, back", graph, &|n| {
        vec![endpoint(LOCAL + n, (LOCAL + n) % MARKERS)]
    });
    measure("one label of one local pod", graph, &|n| {
        vec![endpoint(n % LOCAL, (n + 1 + n / LOCAL) % MARKERS)]
    });
    measure("one policy created", graph, &|n| vec![policy(policies + n)]);
    measure("a namespace's label, inherited", graph, &|n| {
        vec![namespace(
            n % NAMESPACES,
            if (n / NAMESPACES).is_multiple_of(2) {
                "b"
            } else {
                "a"
            },
        )]
    });
    let mut resource = policy(policies);
    if let Resource::GlobalNetworkPolicy(policy) = &mut resource {
        policy.metadata.name = "by-namespace".to_string();
        policy.spec.ingress = vec![allow("pcns.team == 'b'")];
    }
    measure("a policy with a new selector of namespaces", graph, &|_| {
        vec![resource.clone()]
    });
    measure("a namespace's label, inherited and selected", graph, &|n| {
        vec![namespace(
            n % NAMESPACES,
            if (n / NAMESPACES).is_multiple_of(2) {
                "b"
            } else {
                "a"
            },
        )]
    });
    measure("one remote pod created", graph, &|n| {
        vec![endpoint(endpoints + n, n % MARKERS)]
    });
    let mut updates = Vec::new();
    let start = Instant::now();
    (0..LOCAL).for_each(|n| {
        graph.on_delete(&Key::namespaced(
            Kind::WorkloadEndpoint,
            format!("ns-{}", n % NAMESPACES),
            name(n),
        ))
    });
    graph.flush(&mut updates);
    println!(
        "all local endpoints deleted: {:?}, {} updates",
        start.elapsed(),
        updates.len()
    );
    drop(updates);
}

/// Prints median and maximum of the time from a change to its updates.
fn measure(what: &str, graph: &mut CalcGraph, rounds: usize, change: &dyn Fn(usize) -> Vec<Resource>) {
    let mut times = Vec::new();
    let mut count = 0;
    for n in 0..rounds {
        let resources = change(n);
        let mut updates = Vec::new();
        let start = Instant::now();
        for resource in resources {
            if let Err(fault) = graph.on_upsert(resource) {
                println!("{fault}");
            }
        }
        graph.flush(&mut updates);
        times.push(start.elapsed());
        count += updates
            .iter()
            .map(|u| {
                if let Update::Members { added, removed, .. } = u {
                    added.len() + removed.len()
                } else {
                    1
                }
            })
            .sum::<usize>();
    }
    times.sort();
    println!(
        "{what}: median {:?}, maximum {:?}; {} changes told on average",
        times[rounds / 2],
        times[rounds - 1],
        count / rounds
    );
}

/// Time that this thread had a processor: on a busy machine a fairer figure than the clock's.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(
        text.split(' ')
            .next()
            .and_then(|first| first.parse().ok())
            .unwrap_or_default(),
    )
}
