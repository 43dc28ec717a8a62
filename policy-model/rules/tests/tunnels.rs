//! Packets of tunnels between nodes, which workloads may not send themselves.

#![allow(clippy::unwrap_used)] // A panic here is the failure itself.

mod world;

use policy_model_rules::oracle::{Direction, Facts, NodeSettings, RefusedTunnels, Settings, Verdict};
use world::{assert_flows, cluster, facts, judge, policy};

#[test]
fn workloads_send_no_packets_of_tunnels_whatever_policies_say() {
    let open = serde_json::json!({ "types": ["Egress"], "egress": [{ "action": "Allow" }] });
    let facts = facts([policy("shop", "open", open)]);
    assert_flows(
        &facts,
        &[
            "- shop/web -> shop/db UDP 4789",
            "- shop/web -> node:n1 UDP 4789",
            "- shop/web -> node:n2 UDP 4789",
            "- dev/six -> ip:2001:db8::1 UDP 4789",
            "- shop/web -> ip:8.8.8.8 4",
            "- dev/six -> shop/web 4",
            "+ shop/web -> shop/db UDP 4788",
            "+ shop/web -> shop/db TCP 4789",
            "+ shop/web -> shop/db UDP 4789 53",
            "+ shop/web -> shop/db 47",
            // What others send meets policy only.
            "+ ip:8.8.8.8 -> shop/web UDP 4789",
            "+ node:n2 -> shop/web 4",
            "+ node:n1 -> node:n2 UDP 4789",
            // It never leaves the workload.
            "+ shop/web -> shop/web UDP 4789",
        ],
    );
}

#[test]
fn the_answer_names_the_reason_and_the_setting() {
    for (flow, words) in [
        (
            "shop/web -> shop/db UDP 4789",
            ["VXLAN (UDP to port 4789)", "allowVXLANPacketsFromWorkloads"],
        ),
        (
            "shop/web -> shop/db 4",
            ["IPIP (protocol 4)", "allowIPIPPacketsFromWorkloads"],
        ),
    ] {
        let judgement = judge(&facts([]), flow);
        assert_eq!(
            (judgement.verdict, judgement.side, &judgement.policy),
            (Verdict::Deny, Some(Direction::Egress), &None)
        );
        let [asked] = judgement.trace.directions.as_slice() else {
            panic!("ingress is not asked any more: {judgement}");
        };
        assert_eq!(
            (asked.verdict, asked.endpoint.as_str()),
            (Verdict::Deny, "shop/web")
        );
        for word in words {
            assert!(judgement.reason.contains(word), "{judgement}");
            assert!(asked.reason.contains(word), "{judgement}");
        }
    }
}

#[test]
fn settings_allow_them_to_all_or_to_the_workloads_of_a_node() {
    let asked = |refused_tunnels, of_n1: Option<RefusedTunnels>, flows: &[&str]| {
        let refusing = |refused_tunnels| NodeSettings {
            refused_tunnels,
            ..NodeSettings::default()
        };
        let of_n1 = of_n1.map(|own| ("n1".to_string(), refusing(own)));
        let settings = Settings {
            of_all: refusing(refused_tunnels),
            of_nodes: of_n1.into_iter().collect(),
        };
        assert_flows(&Facts::new(&cluster(), settings), flows);
    };
    let none = RefusedTunnels {
        ipip: false,
        vxlan_port: None,
    };
    asked(
        none,
        None,
        &["+ shop/web -> shop/db UDP 4789", "+ shop/web -> shop/db 4"],
    );
    let elsewhere = RefusedTunnels {
        ipip: false,
        vxlan_port: Some(8472),
    };
    asked(
        elsewhere,
        None,
        &[
            "+ shop/web -> shop/db UDP 4789",
            "- shop/web -> shop/db UDP 8472",
            "+ shop/web -> shop/db 4",
        ],
    );
    // The node of the sender counts: web is on n1, db on n2.
    asked(
        RefusedTunnels::default(),
        Some(none),
        &[
            "+ shop/web -> shop/db UDP 4789",
            "- shop/db -> shop/web UDP 4789",
            "+ shop/web -> shop/db 4",
            "- shop/db -> shop/web 4",
        ],
    );
}
