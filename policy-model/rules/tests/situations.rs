//! Situations that users of Kubernetes' NetworkPolicy know, in the form that its translation has here.

mod world;

use policy_model::Resource;
use serde_json::{Value, json};
use world::{assert_flows, facts, policy};

/// A policy as the translation of Kubernetes' makes it.
fn translated(name: &str, selector: &str, types: Value, ingress: Value, egress: Value) -> Resource {
    let spec =
        json!({"order": 1000, "selector": selector, "types": types, "ingress": ingress, "egress": egress});
    policy("shop", &format!("knp.default.{name}"), spec)
}

fn ingress(name: &str, selector: &str, rules: Value) -> Resource {
    translated(name, selector, json!(["Ingress"]), rules, json!([]))
}

const ALL: &str = "projectcalico.org/orchestrator == 'k8s'";

#[test]
fn default_deny_of_ingress_isolates_the_namespace_alone() {
    let facts = facts([ingress("deny", ALL, json!([]))]);
    assert_flows(
        &facts,
        &[
            "- dev/tool -> shop/web TCP 80",
            "- shop/db -> shop/web TCP 80",
            "- ip:8.8.8.8 -> shop/web TCP 80",
            "- dev/six -> shop/web TCP 80",
            "+ shop/web -> dev/tool TCP 80",
            "+ shop/web -> ip:8.8.8.8 TCP 80",
            "+ dev/tool -> ip:8.8.8.8 TCP 80",
            "+ node:n1 -> shop/web TCP 80",
        ],
    );
}

#[test]
fn default_deny_of_egress() {
    let facts = facts([translated("deny", ALL, json!(["Egress"]), json!([]), json!([]))]);
    assert_flows(
        &facts,
        &[
            "- shop/web -> shop/db TCP 80",
            "- shop/web -> ip:8.8.8.8 UDP 53",
            "+ dev/tool -> shop/web TCP 80",
        ],
    );
}

#[test]
fn an_empty_peer_list_allows_everybody_on_the_ports() {
    let rules = json!([{"action": "Allow", "protocol": "TCP", "destination": {"ports": [80]}}]);
    let facts = facts([ingress("open", ALL, rules)]);
    assert_flows(
        &facts,
        &[
            "+ ip:8.8.8.8 -> shop/web TCP 80",
            "+ dev/six -> shop/web TCP 80",
            "- dev/tool -> shop/web TCP 81",
            "- dev/tool -> shop/web UDP 80",
        ],
    );
}

#[test]
fn peers_of_pods_and_namespaces() {
    let in_namespace = json!([{"action": "Allow", "source": {"selector": "projectcalico.org/orchestrator == 'k8s' && app == 'db'"}}]);
    assert_flows(
        &facts([ingress("p", ALL, in_namespace)]),
        &["+ shop/db -> shop/web TCP 80", "- dev/tool -> shop/web TCP 80"],
    );
    let elsewhere = json!([{"action": "Allow", "source": {
        "selector": "projectcalico.org/orchestrator == 'k8s' && app == 'tool'", "namespaceSelector": "env == 'test'"}}]);
    assert_flows(
        &facts([ingress("p", ALL, elsewhere)]),
        &[
            "+ dev/tool -> shop/web TCP 80",
            "- dev/six -> shop/web TCP 80",
            "- shop/db -> shop/web TCP 80",
        ],
    );
    let all_namespaces =
        json!([{"action": "Allow", "source": {"selector": ALL, "namespaceSelector": "all()"}}]);
    assert_flows(
        &facts([ingress("p", ALL, all_namespaces)]),
        &[
            "+ dev/six -> shop/web TCP 80",
            "- ip:8.8.8.8 -> shop/web TCP 80",
            "- ip:192.0.2.1 -> shop/web TCP 80",
            "- node:n2 -> shop/web TCP 80",
        ],
    );
}

#[test]
fn blocks_of_addresses_with_exceptions() {
    let rules = json!([{"action": "Allow", "source": {"nets": ["10.0.0.0/16"], "notNets": ["10.0.1.0/24"]}}]);
    let facts = facts([ingress("p", ALL, rules)]);
    assert_flows(
        &facts,
        &[
            "+ shop/db -> shop/web TCP 80",
            "- dev/tool -> shop/web TCP 80",
            "+ ip:10.0.2.1 -> shop/web TCP 80",
            "- ip:8.8.8.8 -> shop/web TCP 80",
            "- dev/six -> shop/web TCP 80",
        ],
    );
}

#[test]
fn an_exception_of_one_policy_is_no_denial_of_another() {
    let except =
        json!([{"action": "Allow", "source": {"nets": ["10.0.0.0/16"], "notNets": ["10.0.1.0/24"]}}]);
    let tool = json!([{"action": "Allow", "source": {"nets": ["10.0.1.1/32"]}}]);
    let facts = facts([ingress("a", ALL, except), ingress("b", ALL, tool)]);
    assert_flows(
        &facts,
        &[
            "+ dev/tool -> shop/web TCP 80",
            "- ip:10.0.1.2 -> shop/web TCP 80",
        ],
    );
}

#[test]
fn a_named_port_means_each_pods_own_number() {
    let rules = json!([{"action": "Allow", "protocol": "TCP", "destination": {"ports": ["http"]}}]);
    assert_flows(
        &facts([ingress("p", ALL, rules.clone())]),
        &[
            "+ dev/tool -> shop/web TCP 80",
            "- dev/tool -> shop/web TCP 8080",
            "+ dev/tool -> shop/db TCP 8080",
            "- dev/tool -> shop/db TCP 80",
        ],
    );
    assert_flows(
        &facts([translated("p", ALL, json!(["Egress"]), json!([]), rules)]),
        &[
            "+ shop/web -> shop/db TCP 8080",
            "- shop/web -> shop/db TCP 80",
            "- shop/web -> dev/tool TCP 80",
        ],
    );
}

#[test]
fn both_families_are_policed() {
    let rules = json!([{"action": "Allow", "source": {"selector": "app == 'six' || app == 'db'", "namespaceSelector": "all()"}}]);
    let facts = facts([ingress("p", "app == 'web'", rules)]);
    assert_flows(
        &facts,
        &[
            "+ dev/six -> shop/web TCP 80",
            "+ ip:fd00::2 -> shop/web TCP 80",
            "+ ip:10.0.0.2 -> shop/web TCP 80",
            "- ip:fd00::99 -> shop/web TCP 80",
            "- dev/tool -> shop/web TCP 80",
        ],
    );
}

#[test]
fn a_policy_of_egress_rules_alone_does_not_isolate_ingress_when_written_for_the_native_api() {
    let spec = json!({"egress": [{"action": "Allow", "destination": {"nets": ["10.0.0.0/8"]}}]});
    let facts = facts([policy("shop", "native", spec)]);
    assert_flows(
        &facts,
        &[
            "+ ip:8.8.8.8 -> shop/web TCP 80",
            "- shop/web -> ip:8.8.8.8 TCP 80",
            "+ shop/web -> shop/db TCP 80",
        ],
    );
}
