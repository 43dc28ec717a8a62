//! The objects of the cluster: what people make, and what Manx itself is made of.

use crate::bed::{Bed, root};
use http::Method;
use policy_model::{AllocationAttribute, IpamBlockSpec};
use policy_model_ipam::block;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::SystemTime;

const PODS: &str = "/api/v1/namespaces/shop/pods";
const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies";

/// Namespace, node, pods and policies as somebody wrote them, with what a cluster decided about them.
pub(crate) fn manifests() -> String {
    documents()
        .into_iter()
        .map(|(_, document)| format!("---\n{document}\n"))
        .collect()
}

fn documents() -> Vec<(&'static str, Value)> {
    let with = |api: &str, kind: &str, mut object: Value| {
        object["apiVersion"] = api.into();
        object["kind"] = kind.into();
        object
    };
    let policies = "networking.k8s.io/v1";
    let running = |name, port: Value, address: &str| {
        let spec =
            json!({ "nodeName": "n1", "containers": [{ "name": "c", "image": "i", "ports": [port] }] });
        let status = json!({ "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] });
        written_pod(name, spec, status)
    };
    let sql = json!({ "name": "sql", "containerPort": 5432 });
    let http = json!({ "name": "http", "containerPort": 80 });
    let simple = |more: Value| {
        let mut spec = json!({ "containers": [{ "name": "c", "image": "i" }], "nodeName": "n1" });
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        spec
    };
    let ports = json!([{ "port": "sql" }]);
    vec![
        (
            "/api/v1/namespaces",
            with("v1", "Namespace", json!({ "metadata": { "name": "shop" } })),
        ),
        (
            "/api/v1/nodes",
            with(
                "v1",
                "Node",
                json!({
                    "metadata": { "name": "n1" },
                    "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }] }
                }),
            ),
        ),
        (PODS, with("v1", "Pod", running("web", http, "10.65.0.1"))),
        (PODS, with("v1", "Pod", running("db", sql.clone(), "10.65.0.2"))),
        (PODS, with("v1", "Pod", running("other", sql, "10.65.0.3"))),
        (
            PODS,
            with(
                "v1",
                "Pod",
                written_pod(
                    "host",
                    simple(json!({ "hostNetwork": true })),
                    json!({ "phase": "Running", "podIP": "192.0.2.1", "podIPs": [{ "ip": "192.0.2.1" }] }),
                ),
            ),
        ),
        (
            PODS,
            with(
                "v1",
                "Pod",
                written_pod(
                    "done",
                    simple(json!({})),
                    json!({ "phase": "Succeeded", "podIP": "10.65.0.9", "podIPs": [{ "ip": "10.65.0.9" }] }),
                ),
            ),
        ),
        (
            POLICIES,
            with(
                policies,
                "NetworkPolicy",
                json!({
                    "metadata": { "name": "db", "namespace": "shop" },
                    "spec": { "podSelector": { "matchLabels": { "app": "db" } }, "ingress": [
                        { "from": [{ "ipBlock": { "cidr": "203.0.113.0/24" } }] },
                        { "from": [{ "podSelector": { "matchLabels": { "app": "web" } } }], "ports": ports }
                    ] }
                }),
            ),
        ),
        (
            POLICIES,
            with(
                policies,
                "NetworkPolicy",
                json!({
                    "metadata": { "name": "web", "namespace": "shop" },
                    "spec": { "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress"], "ingress": [
                        { "from": [{ "ipBlock": { "cidr": "192.0.2.0/24" } }], "ports": [{ "port": 80 }] }
                    ] }
                }),
            ),
        ),
    ]
}

fn written_pod(name: &str, spec: Value, status: Value) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "shop", "labels": { "app": name } },
        "spec": spec,
        "status": status
    })
}

/// A pod of namespace shop.
pub(crate) fn pod(bed: &Bed, name: &str, mut spec: Value, phase: &str, addresses: &[&str]) {
    spec["containers"] = json!([{ "name": "c", "image": "i" }]);
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    let mut status = json!({ "phase": phase });
    if let Some(first) = addresses.first() {
        status["podIP"] = (*first).into();
        status["podIPs"] = ips.into();
    }
    bed.make(PODS, &written_pod(name, spec, status));
}

/// What people make, and the addresses that an agent gave their pods.
pub(crate) fn people(bed: &Bed) {
    for (path, object) in documents() {
        bed.make(path, &object);
    }
    pod(bed, "late", json!({ "nodeName": "n1" }), "Pending", &[]);
    pod(bed, "homeless", json!({}), "Pending", &[]);
    let v3 = |kind: &str, name: &str, spec: Value| json!({ "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": { "name": name }, "spec": spec });
    let base = "/apis/projectcalico.org/v3";
    bed.make(
        &format!("{base}/ippools"),
        &v3("IPPool", "main", json!({ "cidr": "10.65.0.0/24" })),
    );
    let default = json!({ "order": 1_000_000.0, "defaultAction": "Deny" });
    bed.make(&format!("{base}/tiers"), &v3("Tier", "default", default));
    let nobody = json!({ "tier": "default", "selector": "app == 'nothing'", "types": ["Egress"] });
    bed.make(
        &format!("{base}/globalnetworkpolicies"),
        &v3("GlobalNetworkPolicy", "nobody", nobody),
    );
    let mut given = block::new("10.65.0.0/26".parse().unwrap(), Some("n1"), false, 1).unwrap();
    let pods = [
        ("web", "10.65.0.1"),
        ("db", "10.65.0.2"),
        ("other", "10.65.0.3"),
        ("late", "10.65.0.4"),
    ];
    for (name, address) in pods {
        let (_, object) = bed.request(Method::GET, &format!("{PODS}/{name}"), None);
        let uid = object["metadata"]["uid"].as_str().unwrap();
        let said = [("namespace", "shop"), ("pod", name), ("uid", uid), ("node", "n1")];
        give(&mut given.spec, address, &format!("net.{name}"), &said);
    }
    give(&mut given.spec, "10.65.0.5", "manx-reserve-n1", &[("node", "n1")]);
    let spec = serde_json::to_value(&given.spec).unwrap();
    bed.make(
        &format!("{base}/ipamblocks"),
        &v3("IPAMBlock", &given.metadata.name, spec),
    );
}

fn give(block: &mut IpamBlockSpec, address: &str, handle: &str, said: &[(&str, &str)]) {
    let attribute = AllocationAttribute {
        handle_id: Some(handle.to_owned()),
        secondary: said
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    };
    block::assign(block, address.parse().unwrap(), &attribute).unwrap();
}

/// An agent and a controller that are well, as kubelet and they themselves would say it.
pub(crate) fn components(bed: &Bed) {
    bed.make("/api/v1/namespaces", &json!({ "metadata": { "name": "manx" } }));
    for (name, restarts) in [("manx-node", 3), ("manx-controller", 0)] {
        let object = json!({
            "metadata": { "name": format!("{name}-x"), "namespace": "manx", "labels": { "app.kubernetes.io/name": name } },
            "spec": {
                "nodeName": "n1", "hostNetwork": true, "containers": [{ "name": "c", "image": "i" }],
                "volumes": [{ "name": "cni-conf", "emptyDir": {} }]
            },
            "status": {
                "phase": "Running", "podIP": "192.0.2.1", "podIPs": [{ "ip": "192.0.2.1" }],
                "conditions": [{ "type": "Ready", "status": "True" }],
                "containerStatuses": [{
                    "name": "c", "ready": true, "restartCount": restarts, "image": "i", "imageID": "i"
                }]
            }
        });
        bed.make("/api/v1/namespaces/manx/pods", &object);
    }
    bed.make(
        "/apis/coordination.k8s.io/v1/namespaces/manx/leases",
        &json!({ "metadata": { "name": "manx-controller" }, "spec": {
            "holderIdentity": "manx-controller-x", "leaseDurationSeconds": 3600, "renewTime": now()
        } }),
    );
    set_network_unavailable(bed, false);
}

/// The time of day as Kubernetes writes it.
fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let second = i64::try_from(since.as_secs()).unwrap();
    let now = k8s_openapi::jiff::Timestamp::from_second(second).unwrap();
    now.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string()
}

/// What node n1 says of its network; kubelet says that it is ready.
pub(crate) fn set_network_unavailable(bed: &Bed, unavailable: bool) {
    let (status, reason) = if unavailable {
        ("True", "NoRouteCreated")
    } else {
        ("False", "ManxIsUp")
    };
    let conditions = json!([
        { "type": "Ready", "status": "True", "reason": "KubeletReady" },
        { "type": "NetworkUnavailable", "status": status, "reason": reason },
    ]);
    bed.change(
        "/api/v1/nodes/n1/status",
        &json!({ "status": { "conditions": conditions } }),
    );
}

/// Gives the user `nobody` the role of an agent, as the chart writes it.
pub(crate) fn let_nobody_be_an_agent(bed: &Bed) {
    let chart = std::fs::read_to_string(root().join("charts/manx/templates/node/rbac.yaml")).unwrap();
    // What Helm fills in are names and labels, which a test chooses itself.
    let plain: Vec<&str> = chart.lines().filter(|line| !line.contains("{{")).collect();
    let text = plain.join("\n");
    let rules: Vec<Value> = text
        .split("\n---")
        .map(|document| serde_norway::from_str::<Value>(document).unwrap())
        .filter(|object| object["kind"] == "ClusterRole")
        .map(|role| role["rules"].clone())
        .collect();
    let base = "/apis/rbac.authorization.k8s.io/v1";
    assert!(!rules.is_empty(), "the chart has a role of agents");
    for (n, rules) in rules.into_iter().enumerate() {
        let name = format!("agent-{n}");
        bed.make(
            &format!("{base}/clusterroles"),
            &json!({ "metadata": { "name": name }, "rules": rules }),
        );
        let binding = json!({
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
            "subjects": [
                { "kind": "User", "name": "nobody", "apiGroup": "rbac.authorization.k8s.io" },
                { "kind": "ServiceAccount", "name": "manx-node", "namespace": "manx" }
            ]
        });
        bed.make(&format!("{base}/clusterrolebindings"), &binding);
    }
}

/// What kubelet mounts for the account of an agent: a folder with its token, the authority and the namespace.
pub(crate) fn account_of_an_agent(bed: &Bed) -> PathBuf {
    let accounts = "/api/v1/namespaces/manx/serviceaccounts";
    bed.make(accounts, &json!({ "metadata": { "name": "manx-node" } }));
    let wanted = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
    let (status, made) = bed.request(
        Method::POST,
        &format!("{accounts}/manx-node/token"),
        Some(&wanted),
    );
    assert_eq!(status, 201, "{made}");
    let folder = bed.path("account");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("token"), made["status"]["token"].as_str().unwrap()).unwrap();
    std::fs::write(folder.join("namespace"), "manx").unwrap();
    std::fs::copy(bed.path("server/ca.crt"), folder.join("ca.crt")).unwrap();
    folder
}

/// A pod that only pods of friendly accounts may reach.
pub(crate) fn guarded(bed: &Bed) {
    pod(
        bed,
        "guarded",
        json!({ "nodeName": "n1" }),
        "Running",
        &["10.65.0.32"],
    );
    let policy = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
        "metadata": { "name": "guarded", "namespace": "shop" },
        "spec": { "selector": "app == 'guarded'", "types": ["Ingress"], "ingress": [
            { "action": "Allow", "source": { "serviceAccounts": { "selector": "role == 'friend'" } } }
        ] }
    });
    bed.make(
        "/apis/projectcalico.org/v3/namespaces/shop/networkpolicies",
        &policy,
    );
}
