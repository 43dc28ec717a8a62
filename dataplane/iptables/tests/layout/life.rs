//! One node's life: a world, its decision tables, the planner and the kernel, held together after every step.

use crate::kernel::{Kernel, Step, steps};
use crate::world::{Dice, Flow, Kind, World};
use dataplane_api::Update;
use dataplane_iptables::layout::{
    LayoutSettings, Packet, Plan, Planner, Rule, Ruleset, Target, Way, simulate,
};
use dataplane_iptables::names;
use dataplane_iptables::ops::{Family, Member, SetKind, Table};
use dataplane_tables::{Direction, Tables};
use policy_model::Protocol;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) struct Life {
    pub(crate) world: World,
    pub(crate) tables: Tables,
    pub(crate) planner: Planner,
    pub(crate) kernel: Kernel,
}

pub(crate) fn settings() -> LayoutSettings {
    LayoutSettings {
        // The worlds' interfaces are cali0 and calx0.
        interface_prefixes: vec!["cal".to_owned()],
        ..LayoutSettings::default()
    }
}

/// An interface of one of the worlds, and what may happen at it.
pub(crate) type Question = (String, Direction, Flow);

/// What a world says. Where it has no such interface, nothing passes.
pub(crate) fn judge(world: &World, (interface, direction, flow): &Question) -> bool {
    let endpoint = world.endpoints.values().find(|e| e.interface == *interface);
    endpoint.is_some_and(|e| {
        e.addresses.iter().any(|a| a.is_ipv4() == flow.peer.is_ipv4()) && world.allows(e, *direction, flow)
    })
}

/// What chains and sets say.
pub(crate) fn says(
    rules: &impl Ruleset,
    own: std::net::IpAddr,
    (interface, direction, flow): &Question,
) -> bool {
    let (source, destination, from, to) = match direction {
        Direction::Ingress => (flow.peer, own, "eth0", interface.as_str()),
        Direction::Egress => (own, flow.peer, interface.as_str(), "eth0"),
    };
    let packet = Packet::first(source, destination, flow.protocol, flow.x, flow.y);
    let way = Way {
        from: Some(from),
        to: Some(to),
    };
    simulate(rules, &packet, way)
}

/// Questions about all interfaces of some worlds, each with an address that its workload has.
pub(crate) fn questions(
    worlds: &[&World],
    dice: &mut Dice,
    flows: usize,
) -> Vec<(std::net::IpAddr, Question)> {
    let mut out = Vec::new();
    let mut interfaces: BTreeMap<String, Vec<std::net::IpAddr>> = BTreeMap::new();
    for world in worlds {
        for endpoint in world.endpoints.values() {
            interfaces.insert(endpoint.interface.clone(), endpoint.addresses.clone());
        }
    }
    for world in worlds {
        for flow in world.flows(dice, flows) {
            // No packet is of the other family's ICMP.
            let other = if flow.peer.is_ipv4() {
                Protocol::ICMPV6
            } else {
                Protocol::ICMP
            };
            if flow.protocol == other {
                continue;
            }
            for (interface, addresses) in &interfaces {
                let own = addresses.iter().find(|a| a.is_ipv4() == flow.peer.is_ipv4());
                for direction in [Direction::Ingress, Direction::Egress] {
                    out.extend(own.map(|own| (*own, (interface.clone(), direction, flow))));
                }
            }
        }
    }
    out
}

/// The lengths of networks in each set of them.
fn lengths(kernel: &Kernel) -> BTreeMap<String, BTreeSet<u8>> {
    let of_networks = |kind: SetKind| matches!(kind, SetKind::HashNet | SetKind::HashNetPort);
    let sets = kernel.sets.iter().filter(|(_, (spec, _))| of_networks(spec.kind));
    let length = |member: &Member| match member {
        Member::Net(net) | Member::NetPort { net, .. } => net.prefix_len(),
        other => panic!("{other:?} in a set of networks"),
    };
    sets.map(|(name, (_, members))| (name.clone(), members.iter().map(length).collect()))
        .collect()
}

impl Life {
    pub(crate) fn begin(kind: Kind, dice: &mut Dice) -> Self {
        let mut world = World::new(kind);
        world.begin(dice);
        Life::of(world, settings())
    }

    pub(crate) fn of(world: World, settings: LayoutSettings) -> Self {
        let mut tables = Tables::new();
        let updates = world.updates();
        updates
            .iter()
            .chain(&[Update::InSync])
            .for_each(|u| tables.apply(u));
        tables.commit();
        let mut planner = Planner::new(settings);
        let mut kernel = Kernel::default();
        kernel.take(&planner.plan_first(&tables));
        let life = Life {
            world,
            tables,
            planner,
            kernel,
        };
        life.hold_together();
        life
    }

    /// What is to be done when the world becomes another one.
    fn plan(&mut self, next: World) -> Plan {
        let updates = next.since(&self.world);
        self.world = next;
        updates.iter().for_each(|u| self.tables.apply(u));
        let changes = self.tables.commit();
        self.planner.plan(&self.tables, &changes)
    }

    /// The world becomes another one. `between` sees the kernel after every single step.
    pub(crate) fn turn(&mut self, next: World, mut between: impl FnMut(&Kernel, &Step)) {
        let plan = self.plan(next);
        let before = lengths(&self.kernel);
        for step in steps(&plan) {
            self.kernel.step(&step);
            between(&self.kernel, &step);
        }
        // A packet asks for one length after the other in a list of them, and the list must not move under it.
        for (name, after) in lengths(&self.kernel) {
            if let Some(before) = before.get(&name) {
                assert_eq!(
                    *before, after,
                    "{name} gets other lengths of networks while rules ask it"
                );
            }
        }
        self.hold_together();
        let again = self.tables.commit();
        let plan = self.planner.plan(&self.tables, &again);
        assert!(plan.is_empty(), "a second pass changes something: {plan:?}");
    }

    pub(crate) fn hold_together(&self) {
        self.kernel.assert_is(&self.planner.contents(&self.tables));
    }

    /// The kernel, the planner's own view and the judge say the same.
    pub(crate) fn agree(&self, dice: &mut Dice, flows: usize) {
        for (own, question) in questions(&[&self.world], dice, flows) {
            let judged = judge(&self.world, &question);
            let text = || {
                let endpoint = self.world.endpoints.values().find(|e| e.interface == question.0);
                let world = endpoint.map(|e| self.world.describe(e)).unwrap_or_default();
                format!("{question:?}\n{world}\n{}", self.show())
            };
            assert_eq!(says(&self.kernel, own, &question), judged, "kernel: {}", text());
            let layout = self.planner.layout(&self.tables);
            assert_eq!(says(&layout, own, &question), judged, "layout: {}", text());
        }
    }

    /// The chains and sets of policy, as text.
    pub(crate) fn show(&self) -> String {
        let mut text = String::new();
        for ((family, table), chains) in &self.kernel.chains {
            for (name, rules) in chains.iter().filter(|(n, _)| n.starts_with("cali-p")) {
                for rule in rules.iter() {
                    text += &format!("{family:?} {} -A {name} {}\n", table.name(), rule.text(*family));
                }
            }
        }
        for (name, (spec, members)) in &self.kernel.sets {
            text += &format!("{name} {} {members:?}\n", spec.kind.name());
        }
        text
    }

    /// Everything without the numbers that it has by chance.
    pub(crate) fn meaning(&self) -> (Vec<String>, BTreeMap<String, usize>, usize) {
        let mut texts: Vec<String> = Vec::new();
        for ((family, table), chains) in &self.kernel.chains {
            for (name, rules) in chains {
                if names::parse_group(name).is_none() {
                    let rules: Vec<String> = rules.iter().map(|r| self.expand(*family, *table, r)).collect();
                    texts.push(format!("{family:?} {} {name}: {rules:#?}", table.name()));
                }
            }
        }
        let mut sets: BTreeMap<String, usize> = BTreeMap::new();
        for (spec, members) in self.kernel.sets.values() {
            *sets
                .entry(format!("{} {members:?}", spec.kind.name()))
                .or_default() += 1;
        }
        (texts, sets, self.kernel.chains.values().map(BTreeMap::len).sum())
    }

    fn expand(&self, family: Family, table: Table, rule: &Rule) -> String {
        let mut text = rule.text(family);
        for set in rule.sets() {
            let (spec, members) = &self.kernel.sets[set];
            text = text.replace(set, &format!("[{} {members:?}]", spec.kind.name()));
        }
        if let Target::Goto(chain) | Target::Jump(chain) = &rule.target
            && names::parse_group(chain).is_some()
        {
            let rules = self.kernel.chain(family, table, chain).expect("a chain");
            let rules: Vec<String> = rules.iter().map(|r| self.expand(family, table, r)).collect();
            text = text.replace(chain.as_str(), &format!("{rules:?}"));
        }
        text
    }
}
