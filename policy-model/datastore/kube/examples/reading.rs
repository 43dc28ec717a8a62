//! How long it takes to read a large cluster, by each way: `cargo run --release -p policy-model-datastore-kube --example
//! reading [--fill PODS]`, against the API server that `KUBECONFIG` names. `--fill` makes that many pods first.

use http::Request;
use policy_model::Kind;
use policy_model_datastore::{Datastore, Selection};
use policy_model_datastore_kube::{KubeStore, Settings};
use serde_json::{Value, json};
use std::error::Error;
use std::time::Instant;

const TASKS: usize = 16;
const NAMESPACES: usize = 200;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--fill") {
        fill(arguments.next().unwrap_or_default().parse()?).await?;
    }
    for (name, binary, streaming) in [
        ("binary, streaming list", true, true),
        ("binary, plain list", true, false),
        ("JSON, streaming list", false, true),
        ("JSON, plain list", false, false),
    ] {
        let mut times = Vec::new();
        let mut count = 0;
        for _ in 0..5 {
            let settings = Settings {
                binary,
                streaming,
                ..Settings::default()
            };
            let store = KubeStore::connect(settings).await?;
            let start = Instant::now();
            count = store
                .list(Selection::kinds([Kind::WorkloadEndpoint]))
                .await?
                .items
                .len();
            times.push(start.elapsed());
        }
        times.sort();
        let (least, median) = (
            times.first().copied().unwrap_or_default(),
            times.get(2).copied().unwrap_or_default(),
        );
        println!("{name}: {count} endpoints, median {median:.0?}, least {least:.0?}");
    }
    Ok(())
}

/// Makes pods with what pods usually have, some 1,800 bytes each.
async fn fill(pods: usize) -> Result<(), Box<dyn Error>> {
    let client = kube::Client::try_default().await?;
    for n in 0..NAMESPACES {
        // One that is there already is fine.
        let _ = post(
            &client,
            "/api/v1/namespaces",
            json!({ "metadata": { "name": format!("ns-{n}") } }),
        )
        .await;
    }
    let tasks = (0..TASKS).map(|task| {
        let client = client.clone();
        tokio::spawn(async move {
            for n in (task..pods).step_by(TASKS) {
                let path = format!("/api/v1/namespaces/ns-{}/pods", n % NAMESPACES);
                let _ = post(&client, &path, pod(n)).await;
                let status = json!({ "status": { "phase": "Running", "podIP": address(n), "podIPs": [{ "ip": address(n) }],
                    "conditions": [{ "type": "Ready", "status": "True" }, { "type": "PodScheduled", "status": "True" }] } });
                let request = Request::patch(format!("{path}/pod-{n}/status"))
                    .header("content-type", "application/merge-patch+json")
                    .body(status.to_string().into_bytes());
                if let Ok(request) = request {
                    let _ = client.request::<Value>(request).await;
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await?;
    }
    Ok(())
}

async fn post(client: &kube::Client, path: &str, body: Value) -> Result<Value, Box<dyn Error>> {
    let request = Request::post(path).header("content-type", "application/json");
    Ok(client
        .request(request.body(body.to_string().into_bytes())?)
        .await?)
}

fn address(n: usize) -> String {
    format!("10.{}.{}.{}", n / 65536, n / 256 % 256, n % 256)
}

fn pod(n: usize) -> Value {
    let container = |name: &str, port: usize| {
        json!({ "name": name, "image": "registry.test/some/application:1.2.3", "ports": [{ "name": name, "containerPort": port }],
            "env": [{ "name": "ONE", "value": "of several" }, { "name": "TWO", "value": "and another" }],
            "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } } })
    };
    json!({
        "metadata": { "name": format!("pod-{n}"), "labels": { "app": format!("app-{}", n % 50), "pod-template-hash": "abcdef" } },
        "spec": { "nodeName": format!("node-{}", n % 200), "containers": [container("http", 8080), container("metrics", 9090)] }
    })
}
