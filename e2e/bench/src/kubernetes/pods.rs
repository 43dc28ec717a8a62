//! Fifty pods on one node of a real cluster, created to running, against the same on the node's own network.
//!
//! The cluster is brought up, and Manx installed in it, by whoever starts this (`e2e/bench.sh`): it has kubelets,
//! containerd and everything else that needs the machine's own network.

use super::objects::Making;
use super::requests::Administrator;
use crate::figure::{Figure, duration};
use crate::timing::{Samples, from_environment, median};
use anyhow::Context;
use http::Method;
use rand::seq::SliceRandom;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Pods of a round.
const PODS: usize = 50;
/// The node that gets them.
const NODE: &str = "node1";
/// Where they are.
const NAMESPACE: &str = "bench";
/// How long a round's pods may take to run, or to go.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between a round's end and the next one.
const REST: Duration = Duration::from_secs(3);

/// Which network the pods have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Network {
    Manx,
    Host,
}

/// Measures on the cluster that `KUBECONFIG` names.
///
/// # Errors
/// There is no such cluster, or its pods do not come up.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    let rounds = from_environment("MANX_BENCH_KUBERNETES_POD_ROUNDS", 8);
    let kubeconfig = std::env::var_os("KUBECONFIG").map(PathBuf::from);
    let kubeconfig = kubeconfig.context("KUBECONFIG names no cluster: run `./dev bench kubernetes-pods`")?;
    let administrator = Administrator::of(&kubeconfig)?;
    let namespace = Making {
        path: "/api/v1/namespaces".to_owned(),
        object: json!({ "metadata": { "name": NAMESPACE } }),
        status: None,
    };
    administrator.make(&namespace)?;
    let mut times: BTreeMap<Network, Vec<f64>> = BTreeMap::new();
    // The first pods of a node wake everything up.
    for network in [Network::Manx, Network::Host] {
        round(&administrator, network, 0)?;
    }
    for n in 1..=rounds {
        let mut order = [Network::Manx, Network::Host];
        order.shuffle(&mut rand::rng());
        for network in order {
            let took = round(&administrator, network, n)?;
            eprintln!("  round {n} of {rounds}: {network:?} {}", duration(took));
            times.entry(network).or_default().push(took.as_secs_f64());
        }
    }
    let of = |network: Network| times.get(&network).map(Vec::as_slice).unwrap_or_default();
    let (manx, host) = (of(Network::Manx), of(Network::Host));
    let paired: Vec<f64> = manx.iter().zip(host).map(|(a, b)| a / b).collect();
    let samples = |times: &[f64]| -> Samples { times.iter().map(|t| Duration::from_secs_f64(*t)).collect() };
    let (manx, host) = (samples(manx), samples(host));
    Ok(vec![Figure::at_most(
        format!("{PODS} pods on one node, created to running, against the same with hostNetwork"),
        median(&paired),
        "times",
        1.05,
        format!(
            "median of {rounds} paired shuffled rounds; {} against {} (least {} against {}); kubelet, containerd and control \
             plane of two nodes on the same processors",
            duration(manx.median()),
            duration(host.median()),
            duration(manx.least()),
            duration(host.least())
        ),
    )])
}

/// Makes a round's pods, waits until all run, and removes them. Returns the time until they ran.
fn round(administrator: &Administrator, network: Network, n: usize) -> anyhow::Result<Duration> {
    let label = format!("{}-{n}", format!("{network:?}").to_lowercase());
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let selected = format!("labelSelector=round%3D{label}");
    let makings: Vec<Making> = (0..PODS)
        .map(|i| Making {
            path: path.clone(),
            object: pod(&format!("{label}-{i:02}"), &label, network),
            status: None,
        })
        .collect();
    let begun = Instant::now();
    administrator.make_all(makings.into_iter())?;
    let mut running = Running::default();
    let watch = format!("{path}?watch=1&resourceVersion=0&{selected}");
    administrator.watch_until(&watch, PATIENCE, |event| running.takes(event))?;
    let took = begun.elapsed();
    let at_once = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0 });
    let collection = format!("{path}?{selected}");
    let answer = administrator.ask(Method::DELETE, &collection, Some(&at_once))?;
    answer.success(&collection)?;
    let deadline = Instant::now() + PATIENCE;
    while count(administrator, &collection)? > 0 {
        anyhow::ensure!(Instant::now() < deadline, "the pods of {label} do not go");
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(REST);
    Ok(took)
}

fn count(administrator: &Administrator, path: &str) -> anyhow::Result<usize> {
    let list = administrator.ask(Method::GET, path, None)?.success(path)?;
    Ok(list["items"].as_array().map_or(0, Vec::len))
}

/// Which pods of a round have been seen to run.
#[derive(Default)]
struct Running(BTreeSet<String>);

impl Running {
    /// Takes an event in, and says whether all run.
    fn takes(&mut self, event: &Value) -> bool {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
        if text("/object/status/phase") == "Running" {
            self.0.insert(text("/object/metadata/name").to_owned());
        }
        self.0.len() >= PODS
    }
}

fn pod(name: &str, label: &str, network: Network) -> Value {
    json!({
        "metadata": { "name": name, "labels": { "round": label } },
        "spec": {
            "nodeName": NODE, "hostNetwork": network == Network::Host, "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false, "enableServiceLinks": false,
            "containers": [{ "name": "c", "image": "manx.test/pause:1", "imagePullPolicy": "Never" }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_ends_with_its_last_pod() {
        let event = |n: usize, phase: &str| json!({ "type": "MODIFIED", "object": { "metadata": { "name": format!("p{n}") }, "status": { "phase": phase } } });
        let mut running = Running::default();
        assert!((0..PODS - 1).all(|n| !running.takes(&event(n, "Running"))));
        assert!(!running.takes(&event(0, "Running")));
        assert!(!running.takes(&event(PODS, "Pending")));
        assert!(running.takes(&event(PODS, "Running")));
    }
}
