//! A small cluster for tests: two namespaces on two nodes, with network sets and addresses outside.
#![allow(dead_code)] // Each test binary uses a part of it.
#![allow(clippy::unwrap_used, clippy::panic)] // A panic here is the failure itself.

use policy_model::{Protocol, Resource};
use policy_model_rules::oracle::{Facts, Flow, Judgement, Peer, Settings, Verdict};
use serde_json::{Value, json};

/// A valid resource from its specification.
pub(crate) fn resource(kind: &str, namespace: &str, name: &str, labels: Value, spec: Value) -> Resource {
    let mut metadata = json!({ "name": name, "labels": labels });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    let object =
        json!({ "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec });
    let parsed = Resource::parse(object).unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
    assert_eq!(parsed.unknown_fields, Vec::<String>::new());
    parsed.resource
}

pub(crate) fn namespace(name: &str, mut labels: Value) -> Resource {
    labels["projectcalico.org/name"] = json!(name);
    let labels: serde_json::Map<String, Value> = labels
        .as_object()
        .unwrap()
        .iter()
        .map(|(k, v)| (format!("pcns.{k}"), v.clone()))
        .collect();
    let open = json!([{ "action": "Allow" }]);
    let spec = json!({ "labelsToApply": labels, "ingress": open, "egress": open });
    resource("Profile", "", &format!("kns.{name}"), json!({}), spec)
}

pub(crate) fn service_account(namespace: &str, name: &str, labels: Value) -> Resource {
    let labels: serde_json::Map<String, Value> = labels
        .as_object()
        .unwrap()
        .iter()
        .map(|(k, v)| (format!("pcsa.{k}"), v.clone()))
        .collect();
    let spec = json!({ "labelsToApply": labels });
    resource("Profile", "", &format!("ksa.{namespace}.{name}"), json!({}), spec)
}

/// A pod whose service account has its name. `ports` are (name, protocol, number).
pub(crate) fn pod(
    namespace: &str,
    name: &str,
    node: &str,
    addresses: &[&str],
    labels: Value,
    ports: &[(&str, &str, u16)],
) -> Resource {
    let nets: Vec<String> = addresses
        .iter()
        .map(|a| format!("{a}/{}", if a.contains(':') { 128 } else { 32 }))
        .collect();
    let ports: Vec<Value> = ports
        .iter()
        .map(|(n, p, number)| json!({"name": n, "protocol": p, "port": number}))
        .collect();
    let spec = json!({
        "orchestrator": "k8s", "node": node, "pod": name, "endpoint": "eth0", "serviceAccountName": name,
        "profiles": [format!("kns.{namespace}"), format!("ksa.{namespace}.{name}")],
        "ipNetworks": nets, "ports": ports,
    });
    let endpoint = format!("{node}-k8s-{name}-eth0");
    resource("WorkloadEndpoint", namespace, &endpoint, labels, spec)
}

pub(crate) fn node(name: &str, addresses: &[&str]) -> Resource {
    let addresses: Vec<Value> = addresses.iter().map(|a| json!({ "address": a })).collect();
    resource("Node", "", name, json!({}), json!({ "addresses": addresses }))
}

pub(crate) fn policy(namespace: &str, name: &str, spec: Value) -> Resource {
    resource("NetworkPolicy", namespace, name, json!({}), spec)
}

pub(crate) fn global_policy(name: &str, spec: Value) -> Resource {
    resource("GlobalNetworkPolicy", "", name, json!({}), spec)
}

pub(crate) fn tier(name: &str, spec: Value) -> Resource {
    resource("Tier", "", name, json!({}), spec)
}

/// A policy of the whole cluster that denies everything.
pub(crate) fn deny_all(name: &str, order: f64, tier: &str) -> Resource {
    let rules = json!([{"action": "Deny"}]);
    global_policy(
        name,
        json!({"order": order, "tier": tier, "ingress": rules, "egress": rules}),
    )
}

/// Two nodes, a shop with web (IPv4 and IPv6) and db (IPv4 and IPv6), dev with tool (IPv4) and six (IPv6).
pub(crate) fn cluster() -> Vec<Resource> {
    vec![
        node("n1", &["172.16.0.1", "fd01::1"]),
        node("n2", &["172.16.0.2"]),
        namespace("shop", json!({"env": "prod"})),
        namespace("dev", json!({"env": "test"})),
        service_account("shop", "web", json!({"role": "front"})),
        service_account("shop", "db", json!({"role": "back"})),
        service_account("dev", "tool", json!({"role": "front"})),
        service_account("dev", "six", json!({})),
        pod(
            "shop",
            "web",
            "n1",
            &["10.0.0.1", "fd00::1"],
            json!({"app": "web"}),
            &[("http", "TCP", 80)],
        ),
        pod(
            "shop",
            "db",
            "n2",
            &["10.0.0.2", "fd00::2"],
            json!({"app": "db"}),
            &[("http", "TCP", 8080)],
        ),
        pod(
            "dev",
            "tool",
            "n1",
            &["10.0.1.1"],
            json!({"app": "tool", "own": "yes"}),
            &[],
        ),
        pod(
            "dev",
            "six",
            "n2",
            &["fd00::11"],
            json!({"app": "six"}),
            &[("http", "UDP", 8080)],
        ),
        resource(
            "NetworkSet",
            "shop",
            "ext",
            json!({"kind": "ext"}),
            json!({"nets": ["192.0.2.0/24"]}),
        ),
        resource(
            "GlobalNetworkSet",
            "",
            "wide",
            json!({"kind": "wide"}),
            json!({"nets": ["198.51.100.0/24"]}),
        ),
        resource(
            "HostEndpoint",
            "",
            "n2-eth0",
            json!({"kind": "host"}),
            json!({"node": "n2", "interfaceName": "eth0", "expectedIPs": ["172.16.0.2"]}),
        ),
        resource(
            "ServiceEndpoints",
            "shop",
            "db-1",
            json!({}),
            json!({"service": "db", "addresses": ["10.0.0.2"], "ports": [{"protocol": "TCP", "port": 8080}]}),
        ),
        resource(
            "ServiceEndpoints",
            "shop",
            "any-1",
            json!({}),
            json!({"service": "any", "addresses": ["10.0.0.2"]}),
        ),
    ]
}

pub(crate) fn facts(more: impl IntoIterator<Item = Resource>) -> Facts {
    let resources: Vec<Resource> = cluster().into_iter().chain(more).collect();
    Facts::new(&resources, Settings::default())
}

pub(crate) fn peer(text: &str) -> Peer {
    text.parse().unwrap()
}

/// A flow such as `shop/web -> shop/db TCP 80`; ICMP has `type/code` in the place of the port.
pub(crate) fn flow(text: &str) -> Flow {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [from, "->", to, protocol, rest @ ..] = words.as_slice() else {
        panic!("no flow: {text}")
    };
    let protocol: Protocol = protocol.parse().unwrap();
    let (from, to) = (peer(from), peer(to));
    let (mut flow, last) = match rest {
        [] => (
            Flow {
                from,
                to,
                protocol,
                source_port: None,
                port: None,
                icmp: None,
            },
            None,
        ),
        [last] => (
            Flow {
                from,
                to,
                protocol,
                source_port: None,
                port: None,
                icmp: None,
            },
            Some(*last),
        ),
        [source, last] => (
            Flow {
                from,
                to,
                protocol,
                source_port: Some(source.parse().unwrap()),
                port: None,
                icmp: None,
            },
            Some(*last),
        ),
        _ => panic!("no flow: {text}"),
    };
    match last.map(|l| l.split_once('/').ok_or(l)) {
        None => {}
        Some(Ok((icmp_type, code))) => flow.icmp = Some((icmp_type.parse().unwrap(), code.parse().unwrap())),
        Some(Err(port)) => flow.port = Some(port.parse().unwrap()),
    }
    flow
}

pub(crate) fn judge(facts: &Facts, text: &str) -> Judgement {
    facts.judge(&flow(text)).unwrap()
}

pub(crate) fn allows(facts: &Facts, text: &str) -> bool {
    judge(facts, text).verdict == Verdict::Allow
}

/// Asserts verdicts: a flow with `+` before it is allowed, one with `-` is denied.
pub(crate) fn assert_flows(facts: &Facts, flows: &[&str]) {
    for line in flows {
        let judgement = judge(facts, line[1..].trim());
        let expected = if line.starts_with('+') {
            Verdict::Allow
        } else {
            Verdict::Deny
        };
        assert_eq!(judgement.verdict, expected, "{line}\n{judgement}");
    }
}
