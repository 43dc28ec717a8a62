//! The commands on an embedded datastore, as a node or a lab keeps it: the same flows get the same verdicts as from the
//! manifests that it was made of.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a panic is how a test fails"
)]

use policy_model::{IpPoolSpec, Kind, Object, Resource};
use policy_model_datastore::Datastore;
use policy_model_datastore_file::{FileStore, Settings};
use policy_model_ipam::block;
use policy_model_kubernetes::ManifestSet;
use std::path::Path;
use std::process::{Command, Output};

const MANIFESTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: n1, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: sql}]}]}
";

fn manx(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_manx"))
        .env_clear()
        .args(arguments)
        .output()
        .expect("manx is built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// A datastore with what the manifests amount to; the address of one pod is known to its block alone.
fn fill(folder: &Path) {
    let mut set = ManifestSet::new();
    set.set_file("m.yaml", MANIFESTS);
    assert_eq!(set.faults(), []);
    let mut resources: Vec<Resource> = set.resources().cloned().collect();
    for resource in &mut resources {
        if let Resource::WorkloadEndpoint(endpoint) = resource
            && endpoint.spec.pod == "web"
        {
            endpoint.spec.ip_networks = vec!["10.65.0.1/32".parse().unwrap()];
        }
    }
    resources.push(Object::named("main", IpPoolSpec::of("10.65.0.0/24".parse().unwrap())).into());
    let mut given = block::new("10.65.0.0/26".parse().unwrap(), Some("n1"), false, 1).unwrap();
    for (pod, address) in [("web", "10.65.0.1"), ("db", "10.65.0.2")] {
        let said = [("namespace", "shop"), ("pod", pod), ("node", "n1")];
        let attribute = policy_model::AllocationAttribute {
            handle_id: Some(pod.to_owned()),
            secondary: said
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        };
        block::assign(&mut given.spec, address.parse().unwrap(), &attribute).unwrap();
    }
    resources.push(given.into());
    assert!(
        resources
            .iter()
            .any(|resource| resource.kind() == Kind::WorkloadEndpoint)
    );
    let store = FileStore::open(folder, Settings::default()).expect("an empty folder");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for resource in resources {
        runtime
            .block_on(store.create(resource))
            .expect("it can be written");
    }
}

#[test]
fn a_datastore_in_a_folder_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("datastore");
    let path = folder.to_str().unwrap();
    let absent = manx(&["explain", "shop/web", "shop/db", "TCP/sql", "--datastore", path]);
    assert_eq!(absent.status.code(), Some(2));
    assert!(
        text(&absent.stderr).contains("the folder does not exist"),
        "{absent:?}"
    );
    assert!(!folder.exists(), "asking made nothing");

    fill(&folder);
    let explain = |what: &str| manx(&["explain", "shop/web", "shop/db", what, "--datastore", path]);
    let allowed = explain("TCP/sql");
    assert_eq!(
        (allowed.status.code(), text(&allowed.stderr)),
        (Some(0), String::new())
    );
    let said = text(&allowed.stdout);
    assert!(
        said.starts_with("allow: ") && said.contains("policy default/shop/db matches"),
        "{said}"
    );
    assert!(
        said.contains("10.65.0.1 -> 10.65.0.2"),
        "from the endpoint, and from the block: {said}"
    );
    assert!(text(&explain("TCP/80").stdout).starts_with("deny: "));

    let show = manx(&["ipam", "show", "--datastore-type", "file", "--datastore", path]);
    assert!(
        text(&show.stdout).contains("pool      main  10.65.0.0/24  256    2 (0%)  254 (99%)"),
        "{show:?}"
    );
    let check = manx(&["ipam", "check", "--datastore", path]);
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    let status = manx(&["status", "--datastore", path]);
    assert_eq!(status.status.code(), Some(2));
    assert!(text(&status.stderr).contains("manx lab status"), "{status:?}");
}
