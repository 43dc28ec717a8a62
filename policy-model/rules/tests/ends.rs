//! Who stands behind an end of a flow: workloads, nodes, the world; their addresses, families and labels.

#![allow(clippy::unwrap_used)] // A panic here is the failure itself.

mod world;

use policy_model::Resource;
use policy_model_rules::oracle::{EndpointToHostAction, Facts, NodeSettings, Settings, Verdict};
use serde_json::json;
use world::{
    allows, assert_flows, cluster, deny_all, facts, flow, global_policy, judge, pod, policy, resource,
};

#[test]
fn a_workload_reaches_itself_and_its_node_reaches_it_whatever_policies_say() {
    let facts = facts([deny_all("all", 1.0, "default")]);
    assert_flows(
        &facts,
        &[
            "+ shop/web -> shop/web TCP 80",
            "+ shop/web -> ip:10.0.0.1 TCP 80",
            "+ ip:fd00::1 -> shop/web TCP 80",
            "+ node:n1 -> shop/web TCP 80",
            "+ ip:172.16.0.1 -> shop/web TCP 80",
            "- node:n2 -> shop/web TCP 80",
            "- ip:172.16.0.2 -> shop/web TCP 80",
            "- shop/web -> node:n1 TCP 22",
            "+ node:n1 -> node:n2 TCP 22",
            "+ ip:8.8.8.8 -> ip:9.9.9.9 TCP 22",
            // Node n2 has no IPv6 address on record; what it generates reaches its own pods all the same.
            "+ node:n2 -> dev/six TCP 80",
        ],
    );
    let judgement = judge(&facts, "node:n1 -> shop/web TCP 80");
    assert_eq!((judgement.side, judgement.policy), (None, None));
    assert!(judgement.reason.contains("own node"), "{}", judgement.reason);
}

#[test]
fn to_its_own_node_a_workload_meets_egress_policy_then_the_setting() {
    let to_n1 = "shop/web -> node:n1 TCP 22";
    for (action, verdict) in [
        (EndpointToHostAction::Accept, Verdict::Allow),
        (EndpointToHostAction::Return, Verdict::Allow),
        (EndpointToHostAction::Drop, Verdict::Deny),
    ] {
        let own = |action| NodeSettings {
            default_endpoint_to_host_action: action,
            ..NodeSettings::default()
        };
        let settings = Settings {
            of_all: own(action),
            ..Settings::default()
        };
        let facts = Facts::new(&cluster(), settings.clone());
        assert_eq!(judge(&facts, to_n1).verdict, verdict);
        // What a node has of its own goes before what all have, and holds for its workloads alone.
        for (node, expected) in [("n1", verdict), ("n2", Verdict::Allow)] {
            let settings = Settings {
                of_nodes: [(node.to_string(), own(action))].into(),
                ..Settings::default()
            };
            let facts = Facts::new(&cluster(), settings);
            assert_eq!(judge(&facts, to_n1).verdict, expected);
        }
        let opposite = Settings {
            of_all: own(EndpointToHostAction::Drop),
            of_nodes: [("n1".to_string(), own(action))].into(),
        };
        assert_eq!(judge(&Facts::new(&cluster(), opposite), to_n1).verdict, verdict);
        assert!(
            allows(&facts, "shop/web -> node:n2 TCP 22"),
            "another node is outside"
        );
        let mut resources = cluster();
        resources.push(policy("shop", "closed", json!({"types": ["Egress"]})));
        let facts = Facts::new(&resources, settings);
        let judgement = judge(&facts, to_n1);
        assert_eq!(judgement.verdict, Verdict::Deny);
        assert_eq!(judgement.policy.unwrap().to_string(), "default/shop/closed");
    }
}

#[test]
fn families_must_be_shared() {
    let facts = facts([]);
    let cases = [
        (
            "dev/tool -> dev/six TCP 1",
            "no route: dev/tool has no IPv6 address",
        ),
        (
            "ip:10.0.1.1 -> dev/six TCP 1",
            "no route: dev/six has no IPv4 address",
        ),
        (
            "dev/tool -> ip:fd00::11 TCP 1",
            "no route: dev/tool has no IPv6 address",
        ),
        (
            "dev/six -> shop/web ICMP",
            "no route: dev/six has no IPv4 address",
        ),
        (
            "ip:8.8.8.8 -> dev/tool ICMPv6",
            "no route: ICMPv6 needs IPv6 addresses",
        ),
        (
            "ip:8.8.8.8 -> ip:fd00::1 TCP 1",
            "no route: 8.8.8.8 and shop/web are of different families",
        ),
    ];
    for (text, reason) in cases {
        let judgement = judge(&facts, text);
        assert_eq!(
            (judgement.verdict, judgement.side),
            (Verdict::Deny, None),
            "{text}"
        );
        assert_eq!(judgement.reason, reason, "{text}");
        assert_eq!(facts.judge_each(&flow(text)).unwrap(), [judgement]);
    }
    assert_flows(
        &facts,
        &[
            "+ dev/six -> shop/web TCP 1",
            "+ dev/tool -> shop/web TCP 1",
            "+ dev/six -> shop/web ICMPv6",
        ],
    );
}

#[test]
fn every_family_is_judged_by_itself() {
    let spec = json!({"ingress": [{"action": "Allow", "source": {"nets": ["fd00::/64"]}}]});
    let facts = facts([policy("shop", "six-only", spec)]);
    let each = facts.judge_each(&flow("shop/db -> shop/web TCP 80")).unwrap();
    let found: Vec<(String, Verdict)> = each
        .iter()
        .map(|j| (j.destination.unwrap().to_string(), j.verdict))
        .collect();
    assert_eq!(
        found,
        [
            ("10.0.0.1".to_string(), Verdict::Deny),
            ("fd00::1".to_string(), Verdict::Allow)
        ]
    );
    assert_flows(
        &facts,
        &[
            "- shop/db -> shop/web TCP 80",
            "+ shop/db -> ip:fd00::1 TCP 80",
            "+ ip:fd00::2 -> shop/web TCP 80",
        ],
    );
}

#[test]
fn addresses_come_from_blocks_where_the_endpoint_has_none() {
    let attribute = |pod: &str| json!({"handle_id": "h", "secondary": {"namespace": "dev", "pod": pod}});
    let block = |cidr: &str, size: usize, ordinal: usize| {
        let mut allocations = vec![json!(null); size];
        allocations[ordinal] = json!(1);
        allocations[0] = json!(0);
        let unallocated: Vec<usize> = (1..size).filter(|o| *o != ordinal).collect();
        let spec = json!({"cidr": cidr, "allocations": allocations, "unallocated": unallocated,
            "attributes": [attribute("other"), attribute("late")]});
        resource(
            "IPAMBlock",
            "",
            &cidr.replace(['.', '/', ':'], "-"),
            json!({}),
            spec,
        )
    };
    let facts = facts([
        pod("dev", "late", "n1", &[], json!({"app": "late"}), &[]),
        pod("dev", "never", "n1", &[], json!({"app": "never"}), &[]),
        block("10.7.0.64/29", 8, 5),
        block("fd00:7::40/125", 8, 3),
    ]);
    let found: Vec<String> = facts
        .addresses("dev", "late")
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found, ["10.7.0.69", "fd00:7::43"]);
    assert_flows(
        &facts,
        &["+ ip:10.7.0.69 -> dev/late TCP 1", "+ dev/late -> shop/web TCP 1"],
    );
    let judgement = judge(&facts, "dev/never -> shop/web TCP 1");
    assert_eq!(
        (judgement.verdict, judgement.reason.as_str()),
        (Verdict::Deny, "no route: dev/never has no address")
    );
}

#[test]
fn a_label_cannot_put_a_pod_into_another_namespace() {
    let labels = json!({"projectcalico.org/namespace": "shop", "projectcalico.org/serviceaccount": "db"});
    let spec = json!({"ingress": [{"action": "Allow", "source": {"selector": "all()"}}]});
    let facts = facts([
        pod("dev", "liar", "n1", &["10.0.1.9"], labels, &[]),
        policy("shop", "own", spec),
    ]);
    assert_flows(
        &facts,
        &["- dev/liar -> shop/web TCP 1", "+ shop/db -> shop/web TCP 1"],
    );
}

#[test]
fn own_labels_win_over_those_of_profiles_and_earlier_profiles_over_later() {
    let profile =
        |name: &str, labels| resource("Profile", "", name, json!({}), json!({"labelsToApply": labels}));
    let mut endpoint = pod("dev", "a", "n1", &["10.0.1.9"], json!({"x": "own"}), &[]);
    let Resource::WorkloadEndpoint(object) = &mut endpoint else {
        unreachable!()
    };
    object.spec.profiles = vec!["kns.dev".to_string(), "p1".to_string(), "p2".to_string()];
    let from = |selector: &str| {
        let spec = json!({"ingress": [{"action": "Allow", "source": {"selector": selector}}], "selector": "app == 'web'"});
        facts([
            endpoint.clone(),
            profile("p1", json!({"x": "p1", "y": "p1"})),
            profile("p2", json!({"x": "p2", "y": "p2", "z": "p2"})),
            global_policy("p", spec),
        ])
    };
    assert_flows(
        &from("x == 'own' && y == 'p1' && z == 'p2'"),
        &["+ dev/a -> shop/web TCP 1"],
    );
    assert_flows(&from("x == 'p1' || y == 'p2'"), &["- dev/a -> shop/web TCP 1"]);
}

#[test]
fn an_address_that_two_pods_claim_is_the_first_ones_and_matches_the_labels_of_both() {
    let twin = pod("shop", "aaa", "n1", &["10.0.1.1"], json!({"app": "twin"}), &[]);
    let spec = json!({"selector": "app == 'web'", "ingress": [{"action": "Allow", "source": {"selector": "app == 'twin'"}}]});
    let facts = facts([twin, policy("shop", "p", spec)]);
    assert_flows(
        &facts,
        &["+ dev/tool -> shop/web TCP 1", "+ ip:10.0.1.1 -> shop/web TCP 1"],
    );
}
