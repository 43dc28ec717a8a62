//! What a packet and a change cost as policies become many, counted.

use crate::say::{Node, atom, open_profile, pod, policy, rule, workload};
use dataplane_api::{AtomId, Member, Update};
use dataplane_iptables::layout::{LayoutSettings, Packet, Plan, Way, rules_asked, simulate};
use dataplane_iptables::ops::SetOp;
use policy_model::{Action, Protocol};
use std::net::IpAddr;

/// Policies that only allow, each another peer at another port.
fn allowing(count: u32) -> Vec<Update> {
    let mut out = vec![open_profile()];
    for n in 0..count {
        let [_, _, high, low] = n.to_be_bytes();
        out.extend(atom(
            n + 1,
            &[&format!("10.1.{high}.{low}"), &format!("10.2.{high}.{low}")],
        ));
        let port = 1000 + n as u16;
        let allow = rule(
            true,
            Action::Allow,
            &[n + 1],
            Some(Protocol::TCP),
            &[(port, port)],
        );
        out.push(policy(&format!("p{n}"), vec![allow], vec![]));
    }
    out
}

fn names(count: u32) -> Vec<String> {
    (0..count).map(|n| format!("p{n}")).collect()
}

fn ask(node: &Node, source: &str, port: u16, interface: &str, own: &str) -> (bool, usize) {
    let packet = Packet::first(
        source.parse().unwrap(),
        own.parse::<IpAddr>().unwrap(),
        Protocol::TCP,
        port,
        40_000,
    );
    let way = Way {
        from: Some("eth0"),
        to: Some(interface),
    };
    (
        simulate(&node.kernel, &packet, way),
        rules_asked(&node.kernel, &packet, way),
    )
}

#[test]
fn a_packet_asks_as_many_rules_at_500_policies_as_at_few() {
    let mut costs = Vec::new();
    for count in [4, 100, 500] {
        let mut updates = allowing(count);
        let names = names(count);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        updates.push(workload(pod("one", &["10.0.0.1"], &names, &[])));
        let node = Node::new(LayoutSettings::default(), &updates);
        let (passes, cost) = ask(&node, "10.1.0.3", 1003, "calione", "10.0.0.1");
        assert!(passes);
        assert!(!ask(&node, "10.1.0.3", 1002, "calione", "10.0.0.1").0);
        costs.push(cost);
    }
    assert_eq!(costs[0], costs[2], "{costs:?}");
    assert!(costs[2] <= 20, "{costs:?}");
}

#[test]
fn ordered_rules_with_denials_cost_no_more() {
    let mut updates = vec![open_profile()];
    let count = 500;
    for n in 0..count {
        let [_, _, high, low] = u32::to_be_bytes(n);
        updates.extend(atom(
            n + 1,
            &[&format!("10.1.{high}.{low}"), &format!("10.2.{high}.0/24")],
        ));
        let port = 1000 + n as u16;
        let action = if n % 2 == 0 { Action::Deny } else { Action::Allow };
        let of = rule(true, action, &[n + 1], Some(Protocol::TCP), &[(port, port)]);
        updates.push(policy(&format!("p{n}"), vec![of], vec![]));
    }
    let rest = rule(true, Action::Allow, &[], Some(Protocol::UDP), &[(53, 53)]);
    updates.push(policy("rest", vec![rest], vec![]));
    let mut names = names(count);
    names.push("rest".to_owned());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    updates.push(workload(pod("one", &["10.0.0.1"], &names, &[])));
    let node = Node::new(LayoutSettings::default(), &updates);
    let (passes, cost) = ask(&node, "10.1.0.3", 1003, "calione", "10.0.0.1");
    assert!(passes);
    assert!(cost <= 20, "{cost}");
    let (passes, cost) = ask(&node, "10.1.0.2", 1002, "calione", "10.0.0.1");
    assert!(!passes);
    assert!(cost <= 25, "{cost}");
}

fn members(plan: &Plan) -> usize {
    let count = |op: &SetOp| match op {
        SetOp::Add(_, members) | SetOp::Remove(_, members) => members.len(),
        _ => 0,
    };
    plan.before.iter().chain(&plan.after).map(count).sum()
}

/// A hundred pods, each with five of five hundred policies.
fn crowd() -> Node {
    let mut updates = allowing(500);
    for n in 0..100 {
        let names: Vec<String> = (0..5).map(|k| format!("p{}", n * 5 + k)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let address = format!("10.0.0.{}", n + 1);
        let name = format!("{:x}", (n as u64 + 1) * 0x9e37_79b9 % 0xfff_ffff);
        updates.push(workload(pod(&name, &[&address], &names, &[])));
    }
    Node::new(LayoutSettings::default(), &updates)
}

#[test]
fn a_change_of_one_thing_writes_one_thing() {
    let mut node = crowd();
    let comes = |address: &str, comes: bool| {
        let member = vec![Member::Net(crate::say::net(address))];
        let (added, removed) = if comes { (member, vec![]) } else { (vec![], member) };
        Update::Members {
            atom: AtomId(7),
            added,
            removed,
        }
    };
    // An address more of one set.
    let plan = node.hear(&[comes("10.9.9.9", true)]);
    assert!(plan.writes.is_empty() && plan.after.is_empty(), "{plan:?}");
    assert_eq!((plan.before.len(), members(&plan)), (1, 1));
    let plan = node.hear(&[comes("10.9.9.9", false)]);
    assert_eq!((plan.before.len(), members(&plan), plan.writes.len()), (1, 1, 0));
    // One policy becomes another.
    let allow = rule(
        true,
        Action::Allow,
        &[7],
        Some(Protocol::TCP),
        &[(80, 80), (81, 81)],
    );
    let plan = node.hear(&[policy("p6", vec![allow], vec![])]);
    assert!(plan.writes.is_empty(), "its ports stand in the set: {plan:?}");
    assert!(members(&plan) <= 6);
    let deny = rule(true, Action::Deny, &[], None, &[]);
    let plan = node.hear(&[policy("p6", vec![deny], vec![])]);
    assert!(members(&plan) <= 20, "{plan:?}");
    // One pod more, with policies that others have.
    let plan = node.hear(&[workload(pod("ffff", &["10.0.1.1"], &["p1", "p2"], &[]))]);
    assert_eq!(plan.writes.len(), 1);
    assert!(plan.writes[0].chains.len() <= 10, "{plan:?}");
}
