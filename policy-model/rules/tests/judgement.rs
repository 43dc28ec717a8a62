//! Who is asked in which order, and what the answer says.

mod world;

use policy_model::Resource;
use policy_model_rules::oracle::{Direction, Facts, Settings, UnjudgeableFlow, Verdict};
use serde_json::json;
use world::{
    allows, assert_flows, cluster, deny_all, facts, flow, global_policy, judge, node, pod, policy, resource,
    tier,
};

#[test]
fn without_policies_profiles_decide() {
    let facts = facts([]);
    let judgement = judge(&facts, "dev/tool -> shop/web TCP 80");
    assert_eq!(judgement.verdict, Verdict::Allow);
    assert_eq!(
        (judgement.side, judgement.policy, judgement.rule),
        (Some(Direction::Ingress), None, None)
    );
    assert!(
        judgement.reason.contains("profile kns.shop"),
        "{}",
        judgement.reason
    );
    assert_flows(
        &facts,
        &[
            "+ shop/web -> ip:8.8.8.8 TCP 443",
            "+ ip:8.8.8.8 -> shop/web TCP 80",
        ],
    );
}

#[test]
fn a_missing_profile_denies_where_it_is_met() {
    let mut resources = cluster();
    resources.retain(|r| r.metadata().name != "kns.dev");
    let facts = Facts::new(&resources, Settings::default());
    let judgement = judge(&facts, "dev/tool -> shop/web TCP 80");
    assert_eq!(
        (judgement.verdict, judgement.side),
        (Verdict::Deny, Some(Direction::Egress))
    );
    assert!(
        judgement.reason.contains("profile kns.dev is missing"),
        "{}",
        judgement.reason
    );
    // The second profile is missing, but the first allows.
    resources = cluster();
    resources.retain(|r| r.metadata().name != "ksa.dev.tool");
    assert_flows(
        &Facts::new(&resources, Settings::default()),
        &["+ dev/tool -> shop/web TCP 80"],
    );
}

#[test]
fn profiles_are_met_in_order_and_deny_at_their_end() {
    let profile = |name: &str, ingress| resource("Profile", "", name, json!({}), json!({"ingress": ingress}));
    let mut closed = pod("x", "a", "n1", &["10.9.0.1"], json!({}), &[]);
    let Resource::WorkloadEndpoint(endpoint) = &mut closed else {
        unreachable!()
    };
    endpoint.spec.profiles = vec!["first".to_string(), "second".to_string()];
    let first = json!([{"action": "Log"}, {"action": "Pass", "protocol": "UDP"}, {"action": "Deny", "protocol": "UDP"},
        {"action": "Deny", "protocol": "TCP"}]);
    let second = json!([{"action": "Allow", "protocol": "UDP"}, {"action": "Allow", "protocol": "TCP"}]);
    let facts = facts([closed, profile("first", first), profile("second", second)]);
    assert_flows(
        &facts,
        &[
            "+ ip:1.1.1.1 -> x/a UDP 1",
            "- ip:1.1.1.1 -> x/a TCP 1",
            "- ip:1.1.1.1 -> x/a SCTP 1",
        ],
    );
    assert!(
        !allows(&facts, "x/a -> ip:1.1.1.1 UDP 1"),
        "no profile has egress rules"
    );
}

#[test]
fn egress_is_asked_before_ingress_and_both_must_allow() {
    let closed = |direction: &str| {
        policy(
            "shop",
            "closed",
            json!({"types": [direction], "selector": "app == 'web'"}),
        )
    };
    let judgement = judge(&facts([closed("Egress")]), "shop/web -> shop/db TCP 80");
    assert_eq!(
        (judgement.verdict, judgement.side),
        (Verdict::Deny, Some(Direction::Egress))
    );
    assert_eq!(judgement.trace.directions.len(), 1);
    let judgement = judge(&facts([closed("Ingress")]), "shop/db -> shop/web TCP 80");
    assert_eq!(
        (judgement.verdict, judgement.side),
        (Verdict::Deny, Some(Direction::Ingress))
    );
    assert_eq!(judgement.policy.unwrap().to_string(), "default/shop/closed");
    assert_eq!(judgement.rule, None);
    assert_eq!(judgement.trace.directions.len(), 2);
    assert!(
        allows(&facts([closed("Ingress")]), "shop/web -> shop/db TCP 80"),
        "replies need no rule of their own"
    );
}

#[test]
fn the_rule_that_decides_is_named() {
    let spec =
        json!({"ingress": [{"action": "Log"}, {"action": "Deny", "protocol": "UDP"}, {"action": "Allow"}]});
    let facts = facts([policy("shop", "p", spec)]);
    let judgement = judge(&facts, "dev/tool -> shop/web TCP 80");
    assert_eq!(
        (judgement.policy.unwrap().to_string(), judgement.rule),
        ("default/shop/p".to_string(), Some(2))
    );
    let judgement = judge(&facts, "dev/tool -> shop/web UDP 80");
    assert_eq!((judgement.verdict, judgement.rule), (Verdict::Deny, Some(1)));
}

#[test]
fn policies_of_a_tier_go_by_order_then_name_and_none_is_last() {
    let allow = json!([{"action": "Allow"}]);
    let open = |order: serde_json::Value| policy("shop", "m", json!({"order": order, "ingress": allow}));
    // From outside, so that no egress policy is asked.
    let flow = "ip:1.1.1.1 -> shop/web TCP 80";
    assert!(allows(
        &facts([open(json!(1)), deny_all("x", 2.0, "default")]),
        flow
    ));
    assert!(!allows(
        &facts([open(json!(3)), deny_all("x", 2.0, "default")]),
        flow
    ));
    assert!(!allows(
        &facts([open(json!(null)), deny_all("x", 2.0, "default")]),
        flow
    ));
    assert!(allows(
        &facts([open(json!(2)), deny_all("z", 2.0, "default")]),
        flow
    ));
    assert!(!allows(
        &facts([open(json!(2)), deny_all("a", 2.0, "default")]),
        flow
    ));
}

#[test]
fn tiers_go_by_order_and_pass_leaves_them() {
    let first = |action: &str| {
        global_policy(
            "first",
            json!({"tier": "admin", "types": ["Ingress"],
                "ingress": [{"action": action, "protocol": "TCP"}, {"action": "Deny", "protocol": "TCP"}]}),
        )
    };
    let admin = || tier("admin", json!({"order": 5}));
    let closed = || policy("shop", "closed", json!({}));
    let (tcp, udp) = ("dev/tool -> shop/web TCP 80", "dev/tool -> shop/web UDP 80");
    assert!(allows(&facts([admin(), first("Allow"), closed()]), tcp));
    assert!(!allows(&facts([admin(), first("Pass"), closed()]), tcp));
    assert!(
        allows(&facts([admin(), first("Pass")]), tcp),
        "after the last tier profiles decide"
    );
    let judgement = judge(&facts([admin(), first("Pass")]), udp);
    assert_eq!(
        judgement.policy.unwrap().to_string(),
        "admin/first",
        "the end of the tier denies"
    );
    let passing = tier("admin", json!({"order": 5, "defaultAction": "Pass"}));
    assert!(allows(&facts([passing.clone(), first("Allow")]), udp));
    assert!(!allows(&facts([passing, first("Allow"), closed()]), udp));
    let late = tier("admin", json!({"order": 2_000_000}));
    assert!(
        !allows(&facts([late, first("Allow"), closed()]), tcp),
        "the default tier comes before"
    );
}

#[test]
fn a_tier_whose_policies_do_not_apply_says_nothing() {
    let elsewhere = global_policy("p", json!({"tier": "admin", "selector": "app == 'db'"}));
    let other_direction = global_policy(
        "q",
        json!({"tier": "admin", "types": ["Egress"], "selector": "app == 'web'"}),
    );
    let facts = facts([tier("admin", json!({"order": 5})), elsewhere, other_direction]);
    assert_flows(
        &facts,
        &[
            "+ dev/tool -> shop/web TCP 80",
            "- dev/tool -> shop/db TCP 80",
            "- shop/web -> dev/tool TCP 80",
        ],
    );
}

#[test]
fn a_policy_of_an_unknown_tier_is_reported_and_not_in_force() {
    let facts = facts([deny_all("lost", 1.0, "nowhere")]);
    assert!(allows(&facts, "dev/tool -> shop/web TCP 80"));
    assert_eq!(facts.faults().len(), 1);
    let text = facts.faults()[0].to_string();
    assert_eq!(
        text,
        "GlobalNetworkPolicy/lost: spec.tier: there is no tier 'nowhere'; the policy is not in force"
    );
}

#[test]
fn a_written_default_tier_keeps_its_place_and_may_pass() {
    let facts = facts([
        tier("default", json!({"defaultAction": "Pass"})),
        policy("shop", "p", json!({})),
    ]);
    assert!(allows(&facts, "dev/tool -> shop/web TCP 80"));
}

#[test]
fn faults_of_rules_are_reported() {
    let mut bad = policy("shop", "p", json!({"ingress": [{"action": "Allow"}]}));
    let Resource::NetworkPolicy(object) = &mut bad else {
        unreachable!()
    };
    object.spec.ingress[0].source.selector = "(".to_string();
    let mut worse = policy("shop", "q", json!({}));
    let Resource::NetworkPolicy(object) = &mut worse else {
        unreachable!()
    };
    object.spec.selector = "(".to_string();
    let facts = facts([bad, worse]);
    assert!(!allows(&facts, "dev/tool -> shop/web TCP 80"));
    let fields: Vec<&str> = facts.faults().iter().map(|f| f.fault.field.as_str()).collect();
    assert_eq!(fields, ["spec.ingress[0].source.selector", "spec.selector"]);
}

#[test]
fn unknown_ends_and_unfitting_ports_are_errors() {
    let facts = facts([]);
    let error = |text: &str| facts.judge(&flow(text)).unwrap_err().to_string();
    assert_eq!(
        error("shop/ghost -> shop/web TCP 1"),
        "there is no workload endpoint shop/ghost"
    );
    assert_eq!(error("shop/web -> node:n9 TCP 1"), "there is no node n9");
    assert_eq!(
        error("shop/web -> shop/db TCP"),
        "a flow of protocol TCP needs a port"
    );
    assert_eq!(
        error("shop/web -> shop/db ICMP 80"),
        "a flow of protocol ICMP has no ports"
    );
    assert_eq!(
        error("shop/web -> shop/db 47 80"),
        "a flow of protocol 47 has no ports"
    );
    assert!(matches!(
        facts.judge(&flow("shop/web -> shop/db 47 8/0")),
        Err(UnjudgeableFlow::UnexpectedIcmp(_))
    ));
}

#[test]
fn endpoints_are_found_by_pod_and_by_their_own_name() {
    let facts = facts([node("n3", &[])]);
    assert!(allows(&facts, "shop/n1-k8s-web-eth0 -> shop/db TCP 1"));
    assert_eq!(
        facts.port_number("shop", "db", policy_model::Protocol::TCP, "http"),
        Some(8080)
    );
    assert_eq!(
        facts.port_number("shop", "db", policy_model::Protocol::UDP, "http"),
        None
    );
    let names: Vec<(&str, &str)> = facts.endpoints().collect();
    assert_eq!(
        names,
        [("dev", "tool"), ("dev", "six"), ("shop", "web"), ("shop", "db")]
    );
}

#[test]
fn host_only_policies_concern_no_workload() {
    let mut spec = json!({"ingress": [{"action": "Deny"}], "applyOnForward": true});
    spec["doNotTrack"] = json!(true);
    assert!(allows(
        &facts([global_policy("p", spec)]),
        "dev/tool -> shop/web TCP 1"
    ));
}

#[test]
fn the_trace_says_which_clause_failed() {
    let spec = json!({"selector": "app == 'web'", "ingress": [
        {"action": "Allow", "protocol": "TCP", "source": {"selector": "app == 'db'"}, "destination": {"ports": [443, "http"]}},
    ]});
    let other = policy("shop", "other", json!({"selector": "app == 'db'"}));
    let facts = facts([policy("shop", "p", spec), other]);
    let judgement = judge(&facts, "dev/tool -> shop/web TCP 81");
    let expected = r#"deny: ingress to shop/web: no rule of shop/p matches, and tier default denies what its policies leave
egress of dev/tool: allow, because no policy decides, and rule 0 (Allow) of profile kns.dev matches
  profiles:
    kns.dev: rule 0 (Allow) matches
      rule 0 Allow matches everything
ingress to shop/web: deny, because no rule of shop/p matches, and tier default denies what its policies leave
  tier default: no rule matches, the tier's default action is Deny
    policy shop/p: no rule matches
      rule 0 Allow does not match
        + protocol is TCP
        - source selector projectcalico.org/namespace == "shop" && app == "db" does not match dev/tool with app="tool", projectcalico.org/namespace="dev"
        - destination port 81 is not in 443, "http" (80 at shop/web)
    (shop/other does not apply: selector projectcalico.org/namespace == "shop" && app == "db" does not match shop/web with app="web", projectcalico.org/namespace="shop")
"#;
    assert_eq!(judgement.to_string(), expected);
    let value = serde_json::to_value(&judgement).unwrap();
    assert_eq!(value["verdict"], json!("deny"));
    assert_eq!(value["side"], json!("ingress"));
    assert_eq!(value["policy"], json!("default/shop/p"));
    let clauses = &value["trace"]["directions"][1]["tiers"][0]["policies"][0]["rules"][0]["clauses"];
    assert_eq!(clauses[0], json!({"matched": true, "text": "protocol is TCP"}));
    let untraced = facts
        .judge_untraced(&flow("dev/tool -> shop/web TCP 81"))
        .unwrap();
    assert_eq!(untraced.trace.directions, []);
    assert_eq!(
        (untraced.verdict, untraced.reason),
        (judgement.verdict, judgement.reason)
    );
}
