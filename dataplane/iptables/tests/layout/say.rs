//! Words for saying what the brain would say.

use crate::kernel::Kernel;
use dataplane_api::{
    AtomId, AtomScope, EndpointId, Member, Policy, PolicyId, TierPolicies, Update, WorkloadEndpoint,
};
use dataplane_iptables::layout::{LayoutSettings, Planner};
use dataplane_tables::Tables;
use policy_model::{Action, DefaultAction, PortRange, Protocol};
use policy_model_rules::{PortMatch, Rule, Side};
use policy_model_selector::Selector;
use std::sync::Arc;

/// A set of networks and addresses.
pub(crate) fn atom(number: u32, members: &[&str]) -> Vec<Update> {
    let atom = AtomId(number);
    let added = members.iter().map(|m| Member::Net(net(m))).collect();
    vec![
        Update::AtomCreated {
            atom,
            scope: AtomScope::Peer,
        },
        Update::Members {
            atom,
            added,
            removed: Vec::new(),
        },
    ]
}

pub(crate) fn net(text: &str) -> ipnet::IpNet {
    text.parse()
        .unwrap_or_else(|_| ipnet::IpNet::from(text.parse::<std::net::IpAddr>().unwrap()))
}

/// A rule about peers in sets, at ports of a protocol.
pub(crate) fn rule(
    ingress: bool,
    action: Action,
    sets: &[u32],
    protocol: Option<Protocol>,
    ports: &[(u16, u16)],
) -> Rule<AtomId> {
    let mut destination = Side::default();
    if !ports.is_empty() {
        let ranges = ports
            .iter()
            .map(|(a, b)| PortRange::new(*a, *b).unwrap())
            .collect();
        let named = Vec::new();
        destination.ports = Some(Box::new(PortMatch { ranges, named }));
    }
    let peers: Vec<AtomId> = sets.iter().map(|n| AtomId(*n)).collect();
    let mut source = Side::default();
    if ingress {
        source.sets = peers;
    } else {
        destination.sets = peers;
    }
    Rule {
        action,
        index: 0,
        ip_version: None,
        protocol,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source,
        destination,
    }
}

pub(crate) fn policy(name: &str, ingress: Vec<Rule<AtomId>>, egress: Vec<Rule<AtomId>>) -> Update {
    Update::Policy(Arc::new(Policy {
        id: PolicyId::namespaced("ns", name),
        tier: "default".into(),
        order: None,
        selector: Selector::all(),
        applies_ingress: true,
        applies_egress: true,
        ingress,
        egress,
    }))
}

/// A profile that lets everything pass.
pub(crate) fn open_profile() -> Update {
    let all = |ingress| vec![rule(ingress, Action::Allow, &[], None, &[])];
    Update::Policy(Arc::new(Policy {
        id: PolicyId::profile("open"),
        tier: "default".into(),
        order: None,
        selector: Selector::all(),
        applies_ingress: true,
        applies_egress: true,
        ingress: all(true),
        egress: all(false),
    }))
}

/// A workload with policies for what comes to it and what it sends.
pub(crate) fn pod(name: &str, addresses: &[&str], ingress: &[&str], egress: &[&str]) -> WorkloadEndpoint {
    let tiers = |names: &[&str]| -> Vec<TierPolicies> {
        if names.is_empty() {
            return Vec::new();
        }
        vec![TierPolicies {
            tier: "default".into(),
            default_action: DefaultAction::Deny,
            policies: names.iter().map(|n| PolicyId::namespaced("ns", n)).collect(),
        }]
    };
    WorkloadEndpoint {
        id: EndpointId {
            namespace: "ns".into(),
            name: name.into(),
        },
        interface: format!("cali{name}"),
        mac: None,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        spoofable: Vec::new(),
        ingress: tiers(ingress),
        egress: tiers(egress),
        profiles: vec![PolicyId::profile("open")],
    }
}

pub(crate) fn workload(endpoint: WorkloadEndpoint) -> Update {
    Update::Workload(Arc::new(endpoint))
}

/// A node with all that was said.
pub(crate) struct Node {
    pub(crate) tables: Tables,
    pub(crate) planner: Planner,
    pub(crate) kernel: Kernel,
}

impl Node {
    pub(crate) fn new(settings: LayoutSettings, updates: &[Update]) -> Self {
        let mut tables = Tables::new();
        updates
            .iter()
            .chain(&[Update::InSync])
            .for_each(|u| tables.apply(u));
        tables.commit();
        let mut planner = Planner::new(settings);
        let mut kernel = Kernel::default();
        kernel.take(&planner.plan_first(&tables));
        Node {
            tables,
            planner,
            kernel,
        }
    }

    pub(crate) fn hear(&mut self, updates: &[Update]) -> dataplane_iptables::layout::Plan {
        updates.iter().for_each(|u| self.tables.apply(u));
        let changes = self.tables.commit();
        let plan = self.planner.plan(&self.tables, &changes);
        self.kernel.take(&plan);
        plan
    }
}
