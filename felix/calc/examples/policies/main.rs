//! Measures what a cluster's policies cost a node that few of them concern: time to translate and to take in, heap after.
//!
//! Policies of Kubernetes, written as people write them, five shapes in turn. Two runs in one: times first, then the heap
//! of one pass by itself.
//!
//! `cargo run --release -p felix-calc --example policies [POLICIES] [NAMESPACES]`

use cap::Cap;
use felix_calc::{CalcConfig, CalcGraph};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use policy_model_kubernetes::{Manifest, translate_taking};
use serde_json::{Value, json};
use std::alloc::System;
use std::time::{Duration, Instant};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// How many applications a namespace has.
const APPLICATIONS: usize = 20;
/// How often the time is taken; the median counts.
const ROUNDS: usize = 9;

fn main() {
    let mut sizes = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse::<usize>().ok());
    let (policies, namespaces) = (sizes.next().unwrap_or(10_000), sizes.next().unwrap_or(200));
    println!("{policies} policies in {namespaces} namespaces, none of them in force here");
    let mut written: Vec<NetworkPolicy> = (0..policies)
        .filter_map(|i| serde_json::from_value(policy(i, namespaces)).ok())
        .collect();
    // The order in which an API server lists them.
    written.sort_by_cached_key(|policy| (policy.metadata.namespace.clone(), policy.metadata.name.clone()));
    let mut times: Vec<[Duration; 3]> = (0..ROUNDS).map(|_| pass(&written).0).collect();
    for (place, what) in ["translated", "taken in", "flushed"].into_iter().enumerate() {
        times.sort_by_key(|of| of[place]);
        println!(
            "{what}: median {:?}, least {:?}",
            times[ROUNDS / 2][place],
            times[0][place]
        );
    }
    let before = HEAP.allocated();
    let (_, graph) = pass(&written);
    let after = HEAP.allocated() - before;
    println!(
        "heap of the graph: {:.2} MB, {} bytes a policy",
        after as f64 / 1e6,
        after / policies.max(1)
    );
    println!("{:?}", graph.stats());
}

/// A graph that took in all, and how long its parts took.
fn pass(written: &[NetworkPolicy]) -> ([Duration; 3], CalcGraph) {
    let mut graph = CalcGraph::new(CalcConfig::for_node("here"));
    let (mut translating, mut taking) = (Duration::ZERO, Duration::ZERO);
    // In parts, as they come from an API server.
    for part in written.chunks(256) {
        let manifests: Vec<Manifest> = part
            .iter()
            .map(|policy| Manifest::NetworkPolicy(Box::new(policy.clone())))
            .collect();
        let start = Instant::now();
        let resources: Vec<_> = manifests
            .into_iter()
            .flat_map(|mut manifest| translate_taking(&mut manifest).resources)
            .collect();
        translating += start.elapsed();
        let start = Instant::now();
        for resource in resources {
            if let Err(fault) = graph.on_upsert(resource) {
                println!("{fault}");
            }
        }
        taking += start.elapsed();
    }
    graph.on_in_sync();
    let start = Instant::now();
    graph.flush(&mut Vec::new());
    ([translating, taking, start.elapsed()], graph)
}

/// The policy of a number; the same shapes as those of the benchmark on Kubernetes.
fn policy(i: usize, namespaces: usize) -> Value {
    let (n, j) = (i % namespaces, i / namespaces);
    let application = |k: usize| json!({ "matchLabels": { "app": format!("app-{}", k % APPLICATIONS) } });
    let tcp = |port: usize| json!([{ "protocol": "TCP", "port": port }]);
    let peer = j * 7 + n + 3;
    let mut spec = match j % 5 {
        0 => {
            json!({ "ingress": [{ "from": [{ "podSelector": application(peer) }], "ports": tcp(8000 + j) }] })
        }
        1 => {
            let team = json!({ "matchLabels": { "team": format!("team-{}", peer % 10) } });
            let from = json!([{ "namespaceSelector": team, "podSelector": application(peer) }]);
            json!({ "ingress": [{ "from": from, "ports": tcp(8080) }] })
        }
        2 => {
            let from = json!([{ "podSelector": { "matchLabels": { "tier": "frontend" } } }]);
            json!({ "ingress": [{ "from": from, "ports": [{ "port": 80 }, { "port": 443 }, { "port": "http" }] }] })
        }
        3 => {
            let to = json!([{ "podSelector": application(peer) }]);
            let name = json!({ "matchLabels": { "kubernetes.io/metadata.name": "kube-system" } });
            let dns = json!([{ "protocol": "UDP", "port": 53 }]);
            json!({
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{ "from": [{ "podSelector": {} }] }],
                "egress": [{ "to": to, "ports": tcp(5432) }, { "to": [{ "namespaceSelector": name }], "ports": dns }],
            })
        }
        _ => {
            let cidr = format!("172.{}.0.0/16", 16 + j % 16);
            let block = json!({ "cidr": cidr, "except": [format!("172.{}.3.0/24", 16 + j % 16)] });
            let from = json!([{ "ipBlock": block }, { "podSelector": application(peer) }]);
            json!({ "ingress": [{ "from": from, "ports": tcp(9090) }] })
        }
    };
    spec["podSelector"] = application(j);
    json!({
        "metadata": {
            "name": format!("policy-{j:03}"), "namespace": format!("team-{n:03}"), "resourceVersion": "1",
            "uid": "7d0a7a3c-0c5b-4a54-9c6a-0d2d5a1f3b11",
        },
        "spec": spec,
    })
}
