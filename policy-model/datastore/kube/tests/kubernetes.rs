//! Kubernetes' own objects, as they are in a real API server: translated alike in either form and by either kind of
//! list, followed through breaks, and written by nobody.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure itself.

mod bed;

use bed::{ApiServer, keys, next_of, quick};
use kube::Client;
use policy_model::{Key, Kind, Resource};
use policy_model_datastore::{Datastore, DatastoreError, Part, Selection, Versioned, WatchEvent};
use policy_model_datastore_kube::{KubeStore, Settings};
use serde_json::{Value, json};

/// The four ways to read: binary or JSON, streamed or not.
fn ways() -> [Settings; 4] {
    let way = |binary, streaming| Settings {
        binary,
        streaming,
        ..quick()
    };
    [
        way(true, true),
        way(true, false),
        way(false, true),
        way(false, false),
    ]
}

fn derived() -> Selection {
    let kinds = [
        Kind::Profile,
        Kind::WorkloadEndpoint,
        Kind::Node,
        Kind::ServiceEndpoints,
        Kind::NetworkPolicy,
    ];
    Selection::kinds(kinds)
}

async fn populate(client: &Client) {
    bed::namespace(client, "shop", json!({ "team": "red", "empty": "" })).await;
    let account = json!({ "metadata": { "name": "web", "labels": { "role": "front" } } });
    bed::put(client, "/api/v1/namespaces/shop/serviceaccounts", account).await;
    let node = json!({
        "metadata": {
            "name": "node-1", "labels": { "zone": "a" },
            "annotations": { "projectcalico.org/IPv4Address": "192.0.2.1/24", "other": "x" }
        }
    });
    bed::put(client, "/api/v1/nodes", node).await;
    let addresses = json!({ "status": { "addresses": [
        { "type": "InternalIP", "address": "192.0.2.1" }, { "type": "Hostname", "address": "node-1" },
        { "type": "InternalIP", "address": "2001:db8::1" }
    ] } });
    bed::change(client, "/api/v1/nodes/node-1/status", addresses).await;
    bed::put(client, "/api/v1/namespaces/shop/pods", pod("web-1", json!({}))).await;
    set_address(client, "web-1", &["10.1.0.1", "fd00::1"]).await;
    bed::put(
        client,
        "/api/v1/namespaces/shop/pods",
        pod("host", json!({ "hostNetwork": true })),
    )
    .await;
    bed::put(
        client,
        "/api/v1/namespaces/shop/pods",
        pod("waiting", json!({ "nodeName": null })),
    )
    .await;
    for (name, spec) in policies() {
        let policy = json!({ "metadata": { "name": name }, "spec": spec });
        bed::put(
            client,
            "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies",
            policy,
        )
        .await;
    }
    let slice = json!({
        "metadata": { "name": "web-x", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4",
        "endpoints": [
            { "addresses": ["10.1.0.1"], "conditions": { "ready": true } },
            { "addresses": ["10.1.0.2"], "conditions": { "ready": false } },
            { "addresses": ["10.1.0.3"] }
        ],
        "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }, { "name": "", "protocol": "UDP", "port": 53 }]
    });
    bed::put(
        client,
        "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices",
        slice,
    )
    .await;
}

fn pod(name: &str, more: Value) -> Value {
    let mut spec = json!({
        "nodeName": "node-1", "serviceAccountName": "web", "terminationGracePeriodSeconds": 0,
        "initContainers": [
            { "name": "side", "image": "i", "restartPolicy": "Always", "ports": [{ "name": "side", "containerPort": 15 }] },
            { "name": "once", "image": "i", "ports": [{ "name": "once", "containerPort": 16 }] }
        ],
        "containers": [
            { "name": "a", "image": "i", "ports": [
                { "name": "http", "containerPort": 8080, "hostPort": 80, "hostIP": "192.0.2.1" },
                { "containerPort": 53, "protocol": "UDP" }
            ] },
            { "name": "b", "image": "i", "env": [{ "name": "X", "value": "y" }] }
        ]
    });
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    if spec["hostNetwork"] == true {
        spec["containers"] = json!([{ "name": "a", "image": "i" }]);
        spec["initContainers"] = json!([]);
    }
    json!({ "metadata": {
        "name": name, "labels": { "app": "web", "none": "" }, "annotations": { "cni.projectcalico.org/x": "1", "y": "2" }
    }, "spec": spec })
}

async fn set_address(client: &Client, pod: &str, addresses: &[&str]) {
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    let status = json!({ "status": { "phase": "Running", "podIP": addresses[0], "podIPs": ips } });
    bed::change(
        client,
        &format!("/api/v1/namespaces/shop/pods/{pod}/status"),
        status,
    )
    .await;
}

fn policies() -> [(&'static str, Value); 5] {
    let everything = json!({
        "podSelector": { "matchLabels": { "app": "web" }, "matchExpressions": [
            { "key": "a", "operator": "In", "values": ["x", "y", ""] }, { "key": "b", "operator": "NotIn", "values": ["z"] },
            { "key": "c", "operator": "Exists" }, { "key": "d", "operator": "DoesNotExist" }
        ] },
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            { "from": [
                { "podSelector": {}, "namespaceSelector": { "matchLabels": { "team": "red" } } },
                { "ipBlock": { "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"] } }
            ], "ports": [
                { "port": 80 }, { "port": "http", "protocol": "TCP" }, { "port": 1000, "endPort": 2000, "protocol": "UDP" },
                { "protocol": "SCTP" }
            ] },
            {}
        ],
        "egress": [{ "to": [{ "namespaceSelector": {} }] }, { "ports": [{ "port": 53, "protocol": "UDP" }] }]
    });
    [
        ("everything", everything),
        ("nobody", json!({ "podSelector": {}, "policyTypes": ["Ingress"] })),
        ("implied", json!({ "podSelector": {}, "egress": [{}] })),
        ("empty-rule", json!({ "podSelector": {}, "ingress": [{}] })),
        (
            "empty-peers",
            json!({ "podSelector": {}, "ingress": [{ "from": [], "ports": [] }], "policyTypes": [] }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn objects_are_the_same_by_every_way_of_reading() {
    let server = ApiServer::start(&[]);
    let client = server.client().await;
    populate(&client).await;
    let mut listings = Vec::new();
    for settings in ways() {
        let store = server.store(settings.clone()).await;
        let items = store.list(derived()).await.unwrap().items;
        assert_eq!(store.faults(), vec![], "{settings:?}");
        for item in &items {
            assert_eq!(
                store.get(&item.key()).await.unwrap().as_ref(),
                Some(item),
                "{settings:?}"
            );
        }
        assert_eq!(in_parts(&store).await, items, "{settings:?}");
        listings.push(items);
    }
    let own: Vec<String> = keys(&listings[0])
        .into_iter()
        .filter(|key| !key.contains("kube-"))
        .collect();
    let expected = [
        "NetworkPolicy/shop/knp.default.empty-peers",
        "NetworkPolicy/shop/knp.default.empty-rule",
        "NetworkPolicy/shop/knp.default.everything",
        "NetworkPolicy/shop/knp.default.implied",
        "NetworkPolicy/shop/knp.default.nobody",
        "Profile/kns.default",
        "Profile/kns.shop",
        "Profile/ksa.shop.web",
        "WorkloadEndpoint/shop/node--1-k8s-web--1-eth0",
        "ServiceEndpoints/shop/web-x",
        "Node/node-1",
    ];
    assert_eq!(own, expected);
    for other in &listings[1..] {
        assert_eq!(other, &listings[0]);
    }
    for item in &listings[0] {
        match item.resource.as_ref() {
            Resource::WorkloadEndpoint(endpoint) => {
                let addresses: Vec<String> = endpoint
                    .spec
                    .ip_networks
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                assert_eq!(addresses, ["10.1.0.1/32", "fd00::1/128"]);
                let ports: Vec<u16> = endpoint.spec.ports.iter().map(|port| port.port).collect();
                assert_eq!(ports, [15, 8080, 53]);
                assert!(!endpoint.metadata.uid.is_empty());
            }
            Resource::Node(node) => assert_eq!(node.spec.addresses.len(), 2),
            Resource::ServiceEndpoints(slice) => assert_eq!(slice.spec.addresses.len(), 2),
            _ => {}
        }
    }
}

/// The same objects, told part by part.
async fn in_parts(store: &KubeStore) -> Vec<Versioned> {
    let mut parts = store.list_in_parts(derived()).await.unwrap();
    let mut told = Vec::new();
    loop {
        match parts.next().await.unwrap() {
            Part::Objects(events) => told.extend(events.into_iter().map(|event| match event {
                WatchEvent::Upsert(versioned) => versioned,
                WatchEvent::Delete { key, .. } => panic!("{key} was deleted by nobody"),
            })),
            Part::End(revision) => {
                store.watch(derived(), revision).await.unwrap();
                told.sort_by_key(Versioned::key);
                return told;
            }
        }
    }
}

fn endpoint_key(pod: &str) -> Key {
    let name = policy_model_kubernetes::workload_endpoint_name("node-1", pod);
    Key::namespaced(Kind::WorkloadEndpoint, "shop", name)
}

/// The ways of reading differ only where the server plays along; were it to answer all in one form and one kind of list,
/// the test before this one would prove nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_server_knows_the_binary_form_and_streaming_lists() {
    let server = ApiServer::start(&[]);
    let client = server.client().await;
    let binary = "application/vnd.kubernetes.protobuf";
    for (path, accept, expected) in [
        ("/api/v1/pods", format!("{binary},application/json"), binary),
        (
            "/api/v1/pods?watch=true",
            format!("{binary};stream=watch,application/json"),
            binary,
        ),
        ("/api/v1/pods", "application/json".into(), "application/json"),
    ] {
        let request = http::Request::get(path)
            .header("accept", accept)
            .body(Vec::new().into())
            .unwrap();
        let answer = client.send(request).await.unwrap();
        let form = answer.headers()["content-type"].to_str().unwrap();
        assert!(form.starts_with(expected), "{path}: {form}");
    }
    // Policies of Kubernetes, because the server itself reads none: it alone would count.
    let streamed = async || {
        let metrics = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let metrics = client.request_text(metrics).await.unwrap();
        let mut counts = metrics
            .lines()
            .filter(|line| line.starts_with("apiserver_watch_list_duration_seconds_count"));
        counts.any(|line| line.contains("resource=\"networkpolicies\""))
    };
    let policies = Selection::kinds([Kind::NetworkPolicy]);
    server
        .store(ways()[1].clone())
        .await
        .list(policies.clone())
        .await
        .unwrap();
    assert!(!streamed().await, "a plain list is none");
    server.store(quick()).await.list(policies).await.unwrap();
    bed::until("the server counts a streaming list", streamed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watch_shows_pods_come_change_finish_and_go() {
    let server = ApiServer::start(&[]);
    let client = server.client().await;
    populate(&client).await;
    let pods = "/api/v1/namespaces/shop/pods";
    for (n, settings) in ways().into_iter().enumerate() {
        let store = server.store(settings.clone()).await;
        let listing = store.list(derived()).await.unwrap();
        // Taken up from the open list; and by a store that knows only the revision.
        let stranger = server.store(settings).await;
        let mut watches = [
            store.watch(derived(), listing.revision).await.unwrap(),
            stranger.watch(derived(), listing.revision).await.unwrap(),
        ];
        let name = format!("new-{n}");
        let key = endpoint_key(&name);
        bed::put(&client, pods, pod(&name, json!({ "nodeName": null }))).await;
        let binding = json!({
            "metadata": { "name": name }, "target": { "apiVersion": "v1", "kind": "Node", "name": "node-1" }
        });
        bed::put(&client, &format!("{pods}/{name}/binding"), binding).await;
        set_address(&client, &name, &["10.1.0.9"]).await;
        let done = json!({ "status": { "phase": "Succeeded" } });
        bed::change(&client, &format!("{pods}/{name}/status"), done).await;
        bed::remove(&client, &format!("{pods}/{name}")).await;
        for watch in &mut watches {
            // Bound to a node, then with an address; while it was bound to none it was nothing.
            for expected in [0, 1] {
                let event = next_of(watch, &key).await;
                let WatchEvent::Upsert(found) = &event else {
                    panic!("{event:?}")
                };
                let Resource::WorkloadEndpoint(endpoint) = found.resource.as_ref() else {
                    panic!("{found:?}")
                };
                assert_eq!(endpoint.spec.ip_networks.len(), expected);
            }
            for _ in ["finished", "gone"] {
                let event = next_of(watch, &key).await;
                assert!(matches!(event, WatchEvent::Delete { .. }), "{event:?}");
            }
        }
        assert_eq!(store.get(&key).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_streaming_lists_plain_ones_are_read() {
    let server = ApiServer::start(&["--feature-gates=WatchList=false"]);
    let client = server.client().await;
    populate(&client).await;
    let store = server.store(quick()).await;
    let plain = server.store(ways()[1].clone()).await;
    let found = store.list(derived()).await.unwrap();
    assert_eq!(found.items, plain.list(derived()).await.unwrap().items);
    let mut watch = store.watch(derived(), found.revision).await.unwrap();
    bed::put(&client, "/api/v1/namespaces/shop/pods", pod("late", json!({}))).await;
    next_of(&mut watch, &endpoint_key("late")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_made_of_kubernetes_objects_is_not_written() {
    let server = ApiServer::start(&[]);
    let client = server.client().await;
    populate(&client).await;
    let store = server.store(quick()).await;
    let listing = store.list(derived()).await.unwrap();
    for item in &listing.items {
        let said = |error: DatastoreError| {
            assert!(matches!(error, DatastoreError::Invalid { .. }), "{error:?}");
            assert!(error.to_string().contains("change that object"), "{error}");
        };
        said(store.create(item.resource.as_ref().clone()).await.unwrap_err());
        said(
            store
                .update(item.resource.as_ref().clone(), &item.version)
                .await
                .unwrap_err(),
        );
        said(store.delete(&item.key(), None).await.unwrap_err());
    }
    assert_eq!(store.list(derived()).await.unwrap().items, listing.items);
}
