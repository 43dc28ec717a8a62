//! What planning costs: the first load of 100 pods with 500 policies and 2,000 sets in both families, and single changes.
//!
//! `cargo run --release -p dataplane-iptables --example planning`

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures"
)]

use dataplane_api::{
    AtomId, AtomScope, EndpointId, Member, Policy, PolicyId, TierPolicies, Update, WorkloadEndpoint,
};
use dataplane_iptables::layout::{LayoutSettings, Plan, Planner};
use dataplane_iptables::ops::SetOp;
use dataplane_tables::Tables;
use policy_model::{Action, DefaultAction, PortRange, Protocol};
use policy_model_rules::{PortMatch, Rule, Side};
use policy_model_selector::Selector;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

const SETS: u32 = 1_000;
const POLICIES: u32 = 500;
const PODS: u32 = 100;

fn address(v6: bool, number: u32) -> Member {
    let address = if v6 {
        IpAddr::V6(Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(number)))
    } else {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | number))
    };
    Member::Net(address.into())
}

/// A set of each family has its own members; both are of one selector, as a kernel's sets are.
fn members(atom: u32, from: u32, to: u32) -> Vec<Member> {
    let numbers = (from..to).map(|n| atom << 8 | n);
    numbers
        .flat_map(|n| [address(false, n), address(true, n)])
        .collect()
}

fn policy(number: u32, port: u16) -> Update {
    let rule = |atom: u32| {
        let ranges = vec![PortRange::single(port + (atom % 3) as u16)];
        let ports = Box::new(PortMatch {
            ranges,
            named: Vec::new(),
        });
        Rule {
            action: Action::Allow,
            index: 0,
            ip_version: None,
            protocol: Some(Protocol::TCP),
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Side {
                sets: vec![AtomId(atom)],
                ..Side::default()
            },
            destination: Side {
                ports: Some(ports),
                ..Side::default()
            },
        }
    };
    Update::Policy(Arc::new(Policy {
        id: PolicyId::namespaced("ns", &format!("p{number}")),
        tier: "default".into(),
        order: None,
        selector: Selector::all(),
        applies_ingress: true,
        applies_egress: false,
        ingress: vec![rule(2 * number), rule(2 * number + 1)],
        egress: Vec::new(),
    }))
}

fn pod(number: u32, per_pod: u32) -> Update {
    let first = number * per_pod;
    let policies =
        (first..first + per_pod).map(|n| PolicyId::namespaced("ns", &format!("p{}", n % POLICIES)));
    let octet = (number + 1) as u8;
    Update::Workload(Arc::new(WorkloadEndpoint {
        id: EndpointId {
            namespace: "ns".into(),
            name: format!("pod{number}").as_str().into(),
        },
        interface: format!("cali{:x}", (u64::from(number + 1) * 0x9e37_79b9) & 0xfff_ffff),
        mac: None,
        addresses: vec![
            IpAddr::from([172, 16, 0, octet]),
            format!("fd01::{octet}").parse().unwrap(),
        ],
        spoofable: Vec::new(),
        ingress: vec![TierPolicies {
            tier: "default".into(),
            default_action: DefaultAction::Deny,
            policies: policies.collect(),
        }],
        egress: Vec::new(),
        profiles: Vec::new(),
    }))
}

fn size(plan: &Plan) -> String {
    let of = |op: &SetOp| match op {
        SetOp::Add(_, members) | SetOp::Remove(_, members) => members.len(),
        _ => 0,
    };
    let members: usize = plan.before.iter().chain(&plan.after).map(of).sum();
    let made = |op: &&SetOp| matches!(op, SetOp::Create(_));
    let chains: usize = plan.writes.iter().map(|w| w.chains.len()).sum();
    format!(
        "{} sets made, {members} members, {} writes of {chains} chains",
        plan.before.iter().filter(made).count(),
        plan.writes.len()
    )
}

fn measure(what: &str, tables: &mut Tables, planner: &mut Planner, updates: &[Update]) {
    updates.iter().for_each(|u| tables.apply(u));
    let begin = Instant::now();
    let changes = tables.commit();
    let committed = begin.elapsed();
    let begin = Instant::now();
    let plan = planner.plan(tables, &changes);
    println!(
        "  {what}: tables {committed:.2?}, plan {:.2?}: {}",
        begin.elapsed(),
        size(&plan)
    );
}

fn load(per_pod: u32) {
    println!(
        "{PODS} pods, {POLICIES} policies, {per_pod} of them on each pod, {SETS} selectors in both families"
    );
    let mut tables = Tables::new();
    for atom in 0..SETS {
        tables.apply(&Update::AtomCreated {
            atom: AtomId(atom),
            scope: AtomScope::Peer,
        });
        tables.apply(&Update::Members {
            atom: AtomId(atom),
            added: members(atom, 0, 10),
            removed: Vec::new(),
        });
    }
    (0..POLICIES).for_each(|n| tables.apply(&policy(n, 1000 + n as u16)));
    (0..PODS).for_each(|n| tables.apply(&pod(n, per_pod)));
    tables.apply(&Update::InSync);
    let begin = Instant::now();
    tables.commit();
    let committed = begin.elapsed();
    let mut planner = Planner::new(LayoutSettings::default());
    let begin = Instant::now();
    let plan = planner.plan_first(&tables);
    println!(
        "  first load: tables {committed:.2?}, plan {:.2?}: {}",
        begin.elapsed(),
        size(&plan)
    );
    let one = |atom: u32| Update::Members {
        atom: AtomId(atom),
        added: members(atom, 10, 11),
        removed: members(atom, 0, 1),
    };
    measure(
        "one address for another in one set",
        &mut tables,
        &mut planner,
        &[one(7)],
    );
    let all: Vec<Update> = (0..SETS).filter(|n| *n != 7).map(one).collect();
    measure("one for another in every set", &mut tables, &mut planner, &all);
    measure("one policy", &mut tables, &mut planner, &[policy(9, 80)]);
    measure("one pod more", &mut tables, &mut planner, &[pod(PODS, per_pod)]);
}

fn main() {
    load(5);
    load(POLICIES);
}
