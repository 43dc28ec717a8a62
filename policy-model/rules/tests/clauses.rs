//! Every clause of a rule, each matching some flows and not others.

mod world;

use serde_json::{Value, json};
use world::{assert_flows, facts, global_policy, policy};

/// A rule under test is an Allow in the only policy of the direction: what it matches is allowed, all else denied.
fn ingress(namespace: &str, rule: Value, flows: &[&str]) {
    in_force(
        namespace,
        json!({"types": ["Ingress"], "selector": "app == 'web'", "ingress": [allow(rule)]}),
        flows,
    );
}

fn egress(rule: Value, flows: &[&str]) {
    in_force(
        "",
        json!({"types": ["Egress"], "selector": "app == 'web'", "egress": [allow(rule)]}),
        flows,
    );
}

fn allow(mut rule: Value) -> Value {
    rule["action"] = json!("Allow");
    rule
}

fn in_force(namespace: &str, spec: Value, flows: &[&str]) {
    let policy = if namespace.is_empty() {
        global_policy("p", spec)
    } else {
        policy(namespace, "p", spec)
    };
    let facts = facts([policy]);
    assert_eq!(facts.faults(), []);
    assert_flows(&facts, flows);
}

#[test]
fn no_clause_matches_everything() {
    ingress(
        "",
        json!({}),
        &[
            "+ dev/tool -> shop/web TCP 80",
            "+ ip:8.8.8.8 -> shop/web ICMP",
            "+ ip:1.2.3.4 -> shop/web 47",
        ],
    );
}

#[test]
fn protocol() {
    ingress(
        "",
        json!({"protocol": "UDP"}),
        &["+ dev/tool -> shop/web UDP 80", "- dev/tool -> shop/web TCP 80"],
    );
    ingress(
        "",
        json!({"protocol": 47}),
        &["+ dev/tool -> shop/web 47", "- dev/tool -> shop/web 50"],
    );
    ingress(
        "",
        json!({"notProtocol": "TCP"}),
        &["+ dev/tool -> shop/web UDP 80", "- dev/tool -> shop/web TCP 80"],
    );
}

#[test]
fn ip_version() {
    ingress(
        "",
        json!({"ipVersion": 6}),
        &["+ dev/six -> shop/web TCP 80", "- dev/tool -> shop/web TCP 80"],
    );
    ingress(
        "",
        json!({"ipVersion": 4}),
        &["- dev/six -> shop/web TCP 80", "+ dev/tool -> shop/web TCP 80"],
    );
}

#[test]
fn icmp() {
    let echo = json!({"protocol": "ICMP", "icmp": {"type": 8}});
    let flows = [
        "+ dev/tool -> shop/web ICMP",
        "+ dev/tool -> shop/web ICMP 8/5",
        "- dev/tool -> shop/web ICMP 3/0",
        "- dev/six -> shop/web ICMPv6",
    ];
    ingress("", echo, &flows);
    let code = json!({"protocol": "ICMP", "icmp": {"type": 3, "code": 4}});
    ingress(
        "",
        code,
        &[
            "+ dev/tool -> shop/web ICMP 3/4",
            "- dev/tool -> shop/web ICMP 3/3",
            "- dev/tool -> shop/web ICMP 8/4",
        ],
    );
    let not = json!({"protocol": "ICMPv6", "notICMP": {"type": 128}});
    ingress(
        "",
        not,
        &[
            "- dev/six -> shop/web ICMPv6",
            "+ dev/six -> shop/web ICMPv6 129/0",
            "- dev/six -> shop/web TCP 1",
        ],
    );
    let not = json!({"protocol": "ICMP", "notICMP": {"type": 3, "code": 4}});
    ingress(
        "",
        not,
        &[
            "- dev/tool -> shop/web ICMP 3/4",
            "+ dev/tool -> shop/web ICMP 3/3",
        ],
    );
}

#[test]
fn nets() {
    let rule = json!({"source": {"nets": ["10.0.1.0/24", "203.0.113.7/32", "fd00::10/124"]}});
    ingress(
        "",
        rule,
        &[
            "+ dev/tool -> shop/web TCP 80",
            "+ ip:203.0.113.7 -> shop/web TCP 80",
            "- ip:203.0.113.8 -> shop/web TCP 80",
            "- shop/db -> shop/web TCP 80",
            "+ dev/six -> shop/web TCP 80",
        ],
    );
    let rule = json!({"source": {"notNets": ["10.0.0.0/16"]}});
    ingress(
        "",
        rule,
        &[
            "- dev/tool -> shop/web TCP 80",
            "+ ip:8.8.8.8 -> shop/web TCP 80",
            "+ dev/six -> shop/web TCP 80",
        ],
    );
    let both = json!({"source": {"nets": ["10.0.0.0/8"], "notNets": ["10.0.1.0/24"]}});
    ingress(
        "",
        both,
        &[
            "- dev/tool -> shop/web TCP 80",
            "+ shop/db -> shop/web TCP 80",
            "- ip:8.8.8.8 -> shop/web TCP 80",
        ],
    );
    egress(
        json!({"destination": {"nets": ["0.0.0.0/0"]}}),
        &["+ shop/web -> ip:8.8.8.8 TCP 1", "- shop/web -> dev/six TCP 1"],
    );
    let none = json!({"source": {"nets": ["10.0.0.0/8", "::/0"], "selector": "app == 'tool'"}});
    ingress(
        "",
        none,
        &[
            "+ dev/tool -> shop/web TCP 80",
            "- shop/db -> shop/web TCP 80",
            "- dev/six -> shop/web TCP 80",
        ],
    );
}

#[test]
fn selector() {
    let rule = json!({"source": {"selector": "app in {'tool', 'db'} || kind == 'ext'"}});
    let of_all = [
        "+ dev/tool -> shop/web TCP 80",
        "+ shop/db -> shop/web TCP 80",
        "- dev/six -> shop/web TCP 80",
        "+ ip:192.0.2.9 -> shop/web TCP 80",
        "- ip:198.51.100.1 -> shop/web TCP 80",
        "- ip:8.8.8.8 -> shop/web TCP 80",
    ];
    ingress("", rule.clone(), &of_all);
    let of_namespace = [
        "- dev/tool -> shop/web TCP 80",
        "+ shop/db -> shop/web TCP 80",
        "+ ip:192.0.2.9 -> shop/web TCP 80",
    ];
    ingress("shop", rule, &of_namespace);
    ingress(
        "",
        json!({"source": {"selector": "all()"}}),
        &[
            "+ ip:198.51.100.1 -> shop/web TCP 80",
            "- ip:8.8.8.8 -> shop/web TCP 80",
        ],
    );
    ingress(
        "",
        json!({"source": {"selector": "kind == 'host'"}}),
        &[
            "+ node:n2 -> shop/web TCP 80",
            "+ ip:172.16.0.2 -> shop/web TCP 80",
            "- ip:172.16.0.3 -> shop/web TCP 80",
        ],
    );
    egress(
        json!({"destination": {"selector": "app == 'db'"}}),
        &[
            "+ shop/web -> shop/db TCP 80",
            "- shop/web -> dev/tool TCP 80",
            "- shop/web -> ip:8.8.8.8 TCP 80",
        ],
    );
}

#[test]
fn not_selector() {
    let rule = json!({"source": {"notSelector": "app == 'tool'"}});
    ingress(
        "",
        rule.clone(),
        &[
            "- dev/tool -> shop/web TCP 80",
            "+ shop/db -> shop/web TCP 80",
            "+ ip:8.8.8.8 -> shop/web TCP 80",
        ],
    );
    // In a policy of a namespace it means that namespace's other endpoints, and no stranger.
    ingress(
        "shop",
        rule,
        &[
            "- dev/six -> shop/web TCP 80",
            "+ shop/db -> shop/web TCP 80",
            "- ip:8.8.8.8 -> shop/web TCP 80",
        ],
    );
    let both = json!({"source": {"selector": "has(app)", "notSelector": "app == 'tool'"}});
    ingress(
        "",
        both,
        &[
            "- dev/tool -> shop/web TCP 80",
            "+ dev/six -> shop/web TCP 80",
            "- ip:8.8.8.8 -> shop/web TCP 80",
        ],
    );
}

#[test]
fn namespace_selector() {
    let rule = json!({"source": {"namespaceSelector": "env == 'test'"}});
    ingress(
        "shop",
        rule,
        &[
            "+ dev/tool -> shop/web TCP 80",
            "- shop/db -> shop/web TCP 80",
            "- ip:198.51.100.1 -> shop/web TCP 80",
        ],
    );
    let rule = json!({"source": {"namespaceSelector": "projectcalico.org/name == 'dev'", "selector": "app == 'six'"}});
    ingress(
        "shop",
        rule,
        &["- dev/tool -> shop/web TCP 80", "+ dev/six -> shop/web TCP 80"],
    );
    let rule = json!({"source": {"namespaceSelector": "all()"}});
    let flows = [
        "+ dev/tool -> shop/web TCP 80",
        "+ ip:192.0.2.1 -> shop/web TCP 80",
        "- ip:198.51.100.1 -> shop/web TCP 80",
        "- node:n2 -> shop/web TCP 80",
    ];
    ingress("", rule, &flows);
    let rule = json!({"source": {"namespaceSelector": "global()"}});
    let flows = [
        "- dev/tool -> shop/web TCP 80",
        "- ip:192.0.2.1 -> shop/web TCP 80",
        "+ ip:198.51.100.1 -> shop/web TCP 80",
    ];
    ingress("", rule, &flows);
}

#[test]
fn network_sets_of_a_namespace_carry_its_labels() {
    let rule = json!({"source": {"namespaceSelector": "env == 'prod'", "selector": "kind == 'ext'"}});
    ingress(
        "",
        rule,
        &[
            "+ ip:192.0.2.1 -> shop/web TCP 80",
            "- ip:198.51.100.1 -> shop/web TCP 80",
            "- shop/db -> shop/web TCP 80",
        ],
    );
}

#[test]
fn service_accounts() {
    let names = json!({"source": {"serviceAccounts": {"names": ["tool", "db"]}}});
    ingress(
        "",
        names.clone(),
        &[
            "+ dev/tool -> shop/web TCP 80",
            "+ shop/db -> shop/web TCP 80",
            "- dev/six -> shop/web TCP 80",
        ],
    );
    ingress(
        "shop",
        names,
        &["- dev/tool -> shop/web TCP 80", "+ shop/db -> shop/web TCP 80"],
    );
    let roles = json!({"source": {"serviceAccounts": {"selector": "role == 'front'"}}});
    ingress(
        "",
        roles,
        &["+ dev/tool -> shop/web TCP 80", "- shop/db -> shop/web TCP 80"],
    );
    let both =
        json!({"source": {"serviceAccounts": {"names": ["tool", "db"], "selector": "role == 'back'"}}});
    ingress(
        "",
        both,
        &["- dev/tool -> shop/web TCP 80", "+ shop/db -> shop/web TCP 80"],
    );
}

#[test]
fn services() {
    egress(
        json!({"destination": {"services": {"name": "db", "namespace": "shop"}}}),
        &[
            "+ shop/web -> shop/db TCP 8080",
            "- shop/web -> shop/db TCP 80",
            "- shop/web -> shop/db UDP 8080",
            "- shop/web -> dev/tool TCP 8080",
        ],
    );
    egress(
        json!({"destination": {"services": {"name": "any", "namespace": "shop"}}}),
        &["+ shop/web -> shop/db UDP 5", "- shop/web -> dev/tool UDP 5"],
    );
    egress(
        json!({"destination": {"services": {"name": "db", "namespace": "dev"}}}),
        &["- shop/web -> shop/db TCP 8080"],
    );
    ingress(
        "shop",
        json!({"source": {"services": {"name": "db"}}}),
        &["+ shop/db -> shop/web UDP 9", "- dev/tool -> shop/web TCP 8080"],
    );
}

#[test]
fn ports() {
    let rule = json!({"protocol": "TCP", "destination": {"ports": [80, "8000:8002"]}});
    ingress(
        "",
        rule,
        &[
            "+ dev/tool -> shop/web TCP 80",
            "+ dev/tool -> shop/web TCP 8002",
            "- dev/tool -> shop/web TCP 8003",
            "- dev/tool -> shop/web UDP 80",
            "- dev/tool -> shop/web ICMP",
        ],
    );
    let rule = json!({"protocol": "SCTP", "destination": {"notPorts": [80]}});
    ingress(
        "",
        rule,
        &[
            "- dev/tool -> shop/web SCTP 80",
            "+ dev/tool -> shop/web SCTP 81",
            "- dev/tool -> shop/web TCP 81",
        ],
    );
    let rule = json!({"protocol": "TCP", "source": {"ports": [1234]}});
    ingress(
        "",
        rule,
        &[
            "+ dev/tool -> shop/web TCP 1234 80",
            "- dev/tool -> shop/web TCP 1235 80",
            "- dev/tool -> shop/web TCP 80",
        ],
    );
    let rule = json!({"protocol": "TCP", "source": {"notPorts": ["0:1023"]}});
    ingress(
        "",
        rule,
        &[
            "- dev/tool -> shop/web TCP 53 80",
            "+ dev/tool -> shop/web TCP 80",
        ],
    );
    let rule = json!({"protocol": "TCP", "destination": {"ports": ["0:65535"]}});
    ingress(
        "",
        rule,
        &["+ dev/tool -> shop/web TCP 0", "+ dev/tool -> shop/web TCP 65535"],
    );
}

#[test]
fn named_ports_differ_per_pod() {
    let rule = json!({"protocol": "TCP", "destination": {"ports": ["http"]}});
    ingress(
        "",
        rule.clone(),
        &["+ dev/tool -> shop/web TCP 80", "- dev/tool -> shop/web TCP 8080"],
    );
    egress(
        rule,
        &[
            "+ shop/web -> shop/db TCP 8080",
            "- shop/web -> shop/db TCP 80",
            "- shop/web -> dev/tool TCP 80",
            "- shop/web -> dev/six TCP 8080",
            "- shop/web -> ip:8.8.8.8 TCP 80",
        ],
    );
    egress(
        json!({"protocol": "UDP", "destination": {"ports": ["http", 53]}}),
        &[
            "+ shop/web -> dev/six UDP 8080",
            "+ shop/web -> shop/db UDP 53",
            "- shop/web -> shop/db UDP 8080",
        ],
    );
    egress(
        json!({"protocol": "TCP", "destination": {"notPorts": ["http"]}}),
        &[
            "- shop/web -> shop/db TCP 8080",
            "+ shop/web -> shop/db TCP 80",
            "+ shop/web -> ip:8.8.8.8 TCP 8080",
        ],
    );
    egress(
        json!({"protocol": "TCP", "destination": {"selector": "app == 'tool'", "ports": ["http"]}}),
        &["- shop/web -> shop/db TCP 8080"],
    );
}

#[test]
fn both_sides_must_match() {
    let rule = json!({"protocol": "TCP", "source": {"selector": "app == 'tool'"}, "destination": {"nets": ["10.0.0.1/32"], "ports": [80]}});
    ingress(
        "",
        rule,
        &[
            "+ dev/tool -> shop/web TCP 80",
            "- dev/tool -> shop/web TCP 81",
            "- shop/db -> shop/web TCP 80",
            "- dev/six -> shop/web TCP 80",
        ],
    );
}
