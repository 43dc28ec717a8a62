//! A literal model of our chains and sets in the kernel: it takes steps, refuses what the kernel refuses, and answers.

use dataplane_iptables::layout::{Chains, Contents, Key, Plan, Rule, Ruleset, Write};
use dataplane_iptables::ops::{Family, Member, SetKind, SetOp, SetSpec, Table};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) sets: BTreeMap<String, (SetSpec, BTreeSet<Member>)>,
    pub(crate) chains: BTreeMap<(Family, Table), Chains>,
}

/// A step that the kernel takes at once.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Set(SetOp),
    Write(Write),
}

/// All single steps of a plan: members come and go one by one.
pub(crate) fn steps(plan: &Plan) -> Vec<Step> {
    let mut out = Vec::new();
    let single = |ops: &[SetOp], out: &mut Vec<Step>| {
        for op in ops {
            match op {
                SetOp::Add(name, members) => {
                    let one = |m: &Member| Step::Set(SetOp::Add(name.clone(), vec![m.clone()]));
                    out.extend(members.iter().map(one));
                }
                SetOp::Remove(name, members) => {
                    let one = |m: &Member| Step::Set(SetOp::Remove(name.clone(), vec![m.clone()]));
                    out.extend(members.iter().map(one));
                }
                other => out.push(Step::Set(other.clone())),
            }
        }
    };
    single(&plan.before, &mut out);
    out.extend(plan.writes.iter().cloned().map(Step::Write));
    single(&plan.after, &mut out);
    out
}

impl Kernel {
    pub(crate) fn take(&mut self, plan: &Plan) {
        for step in steps(plan) {
            self.step(&step);
        }
    }

    pub(crate) fn step(&mut self, step: &Step) {
        let done = match step {
            Step::Set(op) => self.change_set(op),
            Step::Write(write) => self.write(write),
        };
        if let Err(why) = done {
            panic!("the kernel refuses: {why}\n  in {step:?}");
        }
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        let tables = self.chains.values();
        tables.flat_map(|chains| chains.values().flat_map(|rules| rules.iter()))
    }

    pub(crate) fn change_set(&mut self, op: &SetOp) -> Result<(), String> {
        match op {
            SetOp::Create(spec) => {
                assert!(spec.name.len() <= 31, "{}", spec.name);
                match self
                    .sets
                    .insert(spec.name.clone(), (spec.clone(), BTreeSet::new()))
                {
                    Some(_) => Err("there is such a set".to_owned()),
                    None => Ok(()),
                }
            }
            SetOp::Add(name, members) => {
                let (spec, held) = self.sets.get_mut(name).ok_or("no such set")?;
                for member in members {
                    if !fits(spec, member) {
                        return Err(format!("{member:?} is not of {spec:?}"));
                    }
                    if !held.insert(member.clone()) {
                        return Err(format!("it has {member:?} already"));
                    }
                    if held.len() > spec.max_elements as usize {
                        return Err("it is full".to_owned());
                    }
                }
                Ok(())
            }
            SetOp::Remove(name, members) => {
                let (_, held) = self.sets.get_mut(name).ok_or("no such set")?;
                let absent = members.iter().find(|member| !held.remove(*member));
                absent.map_or(Ok(()), |member| Err(format!("it has no {member:?}")))
            }
            SetOp::Swap(..) => Err("the planner exchanges no names".to_owned()),
            SetOp::Destroy(name) => {
                if self.rules().any(|rule| rule.sets().any(|set| set == name)) {
                    return Err("a rule asks it".to_owned());
                }
                self.sets.remove(name).map(|_| ()).ok_or("no such set".to_owned())
            }
        }
    }

    fn write(&mut self, write: &Write) -> Result<(), String> {
        let place = (write.family, write.table);
        let chains = self.chains.entry(place).or_default();
        for (name, rules) in &write.chains {
            assert!(name.len() <= 28 && name.starts_with("cali-"), "{name}");
            match rules {
                Some(rules) => {
                    chains.insert(name.clone(), rules.clone());
                }
                None => {
                    chains.remove(name).ok_or(format!("no chain {name}"))?;
                }
            }
        }
        let chains = &self.chains[&place];
        for (name, rules) in chains {
            for rule in rules.iter() {
                if let Some(to) = rule.leads_to().filter(|to| !chains.contains_key(*to)) {
                    return Err(format!("{name} leads to {to}, which is not there"));
                }
                for set in rule.sets() {
                    match self.sets.get(set) {
                        Some((spec, _)) if spec.family == write.family => {}
                        _ => return Err(format!("{name} asks set {set}, which is not there")),
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether everything is as it should be, and nothing else is there.
    pub(crate) fn assert_is(&self, contents: &Contents<'_>) {
        let names = |sets: Vec<&String>| -> BTreeSet<String> { sets.into_iter().cloned().collect() };
        assert_eq!(
            names(self.sets.keys().collect()),
            names(contents.sets.keys().collect()),
            "sets"
        );
        for (name, (spec, members)) in &contents.sets {
            let (known, held) = &self.sets[name];
            assert_eq!(known, spec);
            assert!(
                held.iter().eq(members.iter()),
                "set {name} holds {held:?}, and not {members:?}"
            );
        }
        let full: BTreeMap<_, _> = self
            .chains
            .iter()
            .filter(|(_, chains)| !chains.is_empty())
            .collect();
        let wanted: BTreeMap<_, _> = contents.chains.iter().filter(|(_, c)| !c.is_empty()).collect();
        assert_eq!(full, wanted, "chains");
    }
}

fn fits(spec: &SetSpec, member: &Member) -> bool {
    let (kind, address) = match member {
        Member::Ip(address) => (SetKind::HashIp, *address),
        Member::Net(net) => (SetKind::HashNet, net.addr()),
        Member::IpPort { address, .. } => (SetKind::HashIpPort, *address),
        Member::NetPort { net, .. } => (SetKind::HashNetPort, net.addr()),
        Member::NetIface { net, .. } => (SetKind::HashNetIface, net.addr()),
    };
    let (net, whole) = match member {
        Member::Net(net) | Member::NetPort { net, .. } | Member::NetIface { net, .. } => {
            (Some(net), net.prefix_len() > 0 && net.trunc() == *net)
        }
        _ => (None, true),
    };
    let _ = net;
    kind == spec.kind && Family::of(address) == spec.family && whole
}

impl Ruleset for Kernel {
    fn chain(&self, family: Family, table: Table, name: &str) -> Option<&[Rule]> {
        Some(self.chains.get(&(family, table))?.get(name)?.as_ref())
    }

    fn contains(&self, set: &str, key: &Key<'_>) -> bool {
        let Some((_, members)) = self.sets.get(set) else {
            panic!("a rule asks set {set}, which is not there")
        };
        let port_is = |number: u8, n: u16| key.port == Some((number, n));
        members.iter().any(|member| match member {
            Member::Ip(address) => *address == key.address,
            Member::Net(net) => net.contains(&key.address),
            Member::IpPort {
                address,
                protocol,
                port,
            } => *address == key.address && port_is(protocol.number(), *port),
            Member::NetPort { net, protocol, port } => {
                net.contains(&key.address) && port_is(protocol.number(), *port)
            }
            Member::NetIface { net, interface } => {
                net.contains(&key.address) && key.interface == Some(interface.as_str())
            }
        })
    }
}
