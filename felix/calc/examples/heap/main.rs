//! Measures the heap that the graph holds at the size of Felix's own benchmark.
//!
//! Apart from the measurement of times, because counting every allocation takes time.
//!
//! `cargo run --release -p felix-calc --example heap [ENDPOINTS] [POLICIES]`

#[allow(dead_code)] // The other example changes single objects.
#[path = "../snapshot/world.rs"]
mod world;

use cap::Cap;
use felix_calc::{CalcConfig, CalcGraph};
use policy_model::{Key, Kind};
use std::alloc::System;
use world::{LOCAL, NAMESPACES};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

fn main() {
    let mut sizes = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse::<usize>().ok());
    let (endpoints, policies) = (sizes.next().unwrap_or(250_000), sizes.next().unwrap_or(10_000));
    println!("{endpoints} endpoints ({LOCAL} local, six labels each), {policies} policies of five rules");
    let mut graph = CalcGraph::new(CalcConfig::for_node("here"));
    for resource in world::all(endpoints, policies, false) {
        if let Err(fault) = graph.on_upsert(resource) {
            println!("{fault}");
        }
    }
    graph.on_in_sync();
    let mut updates = Vec::new();
    graph.flush(&mut updates);
    let with_updates = megabytes();
    drop(updates);
    println!(
        "after the snapshot: {:.1} MB; {with_updates:.1} MB with its updates",
        megabytes()
    );
    for n in 0..LOCAL {
        let namespace = format!("ns-{}", n % NAMESPACES);
        graph.on_delete(&Key::namespaced(
            Kind::WorkloadEndpoint,
            namespace,
            world::name(n),
        ));
    }
    graph.flush(&mut Vec::new());
    println!("without local endpoints: {:.1} MB", megabytes());
    println!("{:?}", graph.stats());
    drop(graph);
    println!("without the graph: {:.1} MB", megabytes());
}

fn megabytes() -> f64 {
    HEAP.allocated() as f64 / 1e6
}
