//! Interfaces: which number each leads to, and which addresses it may send from.

use super::{DIRECTIONS, GRACE, Pass, Plan, Planner, slot};
use crate::layout::names;
use crate::layout::ops::Op;
use crate::layout::skeleton;
use crate::layout::state::EndpointState;
use crate::wire::{Element, Value, Verdict as Nft};
use dataplane_tables::{Direction, GroupId, Placed, Tables};
use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Interfaces that come to a group from one number, or (`None`) from nowhere.
pub(super) type Cohort = (GroupId, Option<u32>);

/// What happens to the numbers of one direction.
#[derive(Debug, Default)]
pub(super) struct DirectionPlacing {
    /// Interfaces that need a number, by where they come from.
    pub(super) cohorts: BTreeMap<Cohort, Vec<String>>,
    /// Numbers that serve another group from now on, with all their interfaces.
    pub(super) reassigned: Vec<(GroupId, u32)>,
    /// Numbers that an interface left.
    pub(super) left: FxHashSet<u32>,
    /// Groups that had no number before.
    pub(super) appeared: Vec<GroupId>,
    /// Groups that lose their last number, with a number whose entries say what they did.
    pub(super) vanished: Vec<(GroupId, u32)>,
    /// What each interface leads to from now on, where that is another number.
    pub(super) assigned: FxHashMap<String, u32>,
}

/// Where interfaces belong after this pass.
#[derive(Debug, Default)]
pub(super) struct Placing {
    /// Interfaces that something was said about.
    pub(super) interfaces: BTreeSet<String>,
    /// By direction.
    pub(super) by_direction: [DirectionPlacing; 2],
}

impl Planner {
    /// Finds out which interfaces change their group.
    pub(super) fn place(&mut self, pass: &Pass<'_>) -> Placing {
        let interfaces = self.follow_claims(pass);
        let mut placing = Placing {
            interfaces,
            ..Placing::default()
        };
        for direction in DIRECTIONS {
            let n = usize::from(slot(direction));
            let mut out = DirectionPlacing::default();
            for interface in &placing.interfaces {
                let before = self.state.endpoints.get(interface).map(|e| number(e, direction));
                let after = self.placed(pass.tables, interface).map(|p| group(p, direction));
                let group_before = before.and_then(|b| self.groups[n].get(b)).and_then(|b| b.group);
                if after.is_some() && after == group_before {
                    continue;
                }
                if let Some(before) = before {
                    out.left.insert(before);
                }
                if let Some(after) = after {
                    out.cohorts
                        .entry((after, before))
                        .or_default()
                        .push(interface.clone());
                }
            }
            if pass.compacts && self.identities.frozen().next().is_none() {
                self.unite(n, &mut out);
            }
            self.reassign(direction, pass, &mut out);
            self.leave_numbers(n, pass, &mut out);
            placing.by_direction[n] = out;
        }
        placing
    }

    /// The endpoint that has an interface.
    fn placed<'a>(&self, tables: &'a Tables, interface: &str) -> Option<&'a Placed> {
        self.claims.holder(interface, tables)
    }

    /// Brings claims up to date, and names the interfaces concerned.
    fn follow_claims(&mut self, pass: &Pass<'_>) -> BTreeSet<String> {
        let changes = (!pass.all).then_some(pass.changes);
        let mut concerned = self.claims.follow(pass.tables, changes);
        if pass.all {
            concerned.extend(self.state.endpoints.keys().cloned());
        }
        concerned
    }

    /// A group that appears takes a number over if all interfaces of the number come to it.
    fn reassign(&mut self, direction: Direction, pass: &Pass<'_>, out: &mut DirectionPlacing) {
        let n = usize::from(slot(direction));
        let mut best: BTreeMap<GroupId, (usize, u32)> = BTreeMap::new();
        for ((group, from), interfaces) in &out.cohorts {
            let Some(from) = *from else { continue };
            let whole = self.groups[n]
                .get(from)
                .is_some_and(|m| m.members.len() == interfaces.len());
            let same = self.group_state(direction).get(&from).map(|s| s.default)
                == Some(self.default_of(pass.tables, *group));
            if !whole || !same || self.groups[n].is_served(*group) {
                continue;
            }
            let best = best.entry(*group).or_insert((interfaces.len(), from));
            if interfaces.len() > best.0 {
                *best = (interfaces.len(), from);
            }
        }
        out.reassigned = best
            .into_iter()
            .map(|(group, (_, number))| (group, number))
            .collect();
        for (group, number) in &out.reassigned {
            out.cohorts.remove(&(*group, Some(*number)));
            out.left.remove(number);
        }
    }

    fn leave_numbers(&mut self, n: usize, pass: &Pass<'_>, out: &mut DirectionPlacing) {
        let until = pass.now + GRACE;
        let served_before: Vec<(GroupId, u32)> = {
            let groups = &self.groups[n];
            let concerned = out
                .left
                .iter()
                .chain(out.reassigned.iter().map(|(_, number)| number));
            let mut list: Vec<(GroupId, u32)> = concerned
                .filter_map(|number| Some((groups.get(*number)?.group?, *number)))
                .collect();
            list.sort_unstable();
            list.dedup_by_key(|(group, _)| *group);
            list
        };
        let incoming: FxHashSet<GroupId> = out.cohorts.keys().map(|(group, _)| *group).collect();
        let mut appeared: Vec<GroupId> = incoming
            .iter()
            .copied()
            .chain(out.reassigned.iter().map(|(g, _)| *g))
            .collect();
        appeared.retain(|group| !self.groups[n].is_served(*group));
        appeared.sort_unstable();
        appeared.dedup();
        out.appeared = appeared;
        for ((_, from), interfaces) in &out.cohorts {
            if let Some(from) = from {
                interfaces
                    .iter()
                    .for_each(|i| self.groups[n].leave(*from, i, until));
            }
        }
        for number in &out.left {
            // Those that go for good are in no cohort.
            let gone: Vec<String> = self.groups[n].get(*number).map_or(Vec::new(), |m| {
                m.members
                    .iter()
                    .filter(|i| !self.claims.is_claimed(i))
                    .cloned()
                    .collect()
            });
            gone.iter().for_each(|i| self.groups[n].leave(*number, i, until));
        }
        for (group, number) in &out.reassigned {
            self.groups[n].lead(*number, *group);
        }
        let groups = &self.groups[n];
        let lives = |group: GroupId| {
            let inhabited = |number: &u32| groups.get(*number).is_some_and(|m| !m.members.is_empty());
            incoming.contains(&group) || groups.numbers(group).iter().any(inhabited)
        };
        // All interfaces of a group may go to another group, with its number, while others come to it: it ends with
        // what that number says, and begins with another one.
        let begins_anew = |group: GroupId| incoming.contains(&group) && !groups.is_served(group);
        let anew = served_before.iter().map(|(group, _)| *group);
        out.appeared.extend(anew.filter(|group| begins_anew(*group)));
        out.appeared.sort_unstable();
        out.appeared.dedup();
        out.vanished = served_before
            .into_iter()
            .filter(|(group, _)| !lives(*group) || begins_anew(*group))
            .collect();
    }

    /// Writes where interfaces lead.
    pub(super) fn write_endpoints(
        &mut self,
        pass: &Pass<'_>,
        placing: &super::endpoints::Placing,
        plan: &mut Plan,
    ) {
        let mut concerned: BTreeSet<&String> = placing.interfaces.iter().collect();
        for direction in &placing.by_direction {
            concerned.extend(direction.assigned.keys());
        }
        let mut ops = EndpointOps::default();
        let mut sources_change = false;
        for interface in concerned {
            sources_change |= self.allow_sources(pass.tables, interface);
            let before = self.state.endpoints.get(interface);
            let after = self.placed(pass.tables, interface).and_then(|placed| {
                let number = |direction: Direction| {
                    let assigned = placing.by_direction[usize::from(slot(direction))]
                        .assigned
                        .get(interface);
                    assigned.copied().or(before.map(|b| number(b, direction)))
                };
                let mut addresses = placed.endpoint.addresses.clone();
                addresses.sort_unstable();
                addresses.dedup();
                Some(EndpointState {
                    ingress: number(Direction::Ingress)?,
                    egress: number(Direction::Egress)?,
                    addresses,
                })
            });
            if before == after.as_ref() {
                continue;
            }
            ops.difference(interface, before, after.as_ref());
            match after {
                Some(after) => self.state.endpoints.insert(interface.clone(), after),
                None => self.state.endpoints.remove(interface),
            };
        }
        plan.switch.extend(ops.into_ops());
        if sources_change {
            let rules = skeleton::spoof_rules(&self.state);
            plan.switch
                .push(Op::ReplaceRules(names::SPOOF.to_string(), rules));
        }
    }

    /// Takes over from which networks beside its addresses an interface's workload may send; says whether that is new.
    fn allow_sources(&mut self, tables: &Tables, interface: &str) -> bool {
        let nets = self.sources_of(tables, interface);
        if nets.is_empty() {
            return self.state.spoofable.remove(interface).is_some();
        }
        let before = self.state.spoofable.insert(interface.to_string(), nets);
        before.as_ref() != self.state.spoofable.get(interface)
    }

    /// Networks beside its addresses that an interface's workload may send from: none, unless the settings have it.
    fn sources_of(&self, tables: &Tables, interface: &str) -> Vec<IpNet> {
        let placed = self.placed(tables, interface);
        let Some(placed) = placed.filter(|_| self.settings.source_spoofing) else {
            return Vec::new();
        };
        let mut nets: Vec<IpNet> = placed.endpoint.spoofable.iter().map(IpNet::trunc).collect();
        nets.sort_unstable();
        nets.dedup();
        nets
    }
}

fn number(endpoint: &EndpointState, direction: Direction) -> u32 {
    if direction == Direction::Ingress {
        endpoint.ingress
    } else {
        endpoint.egress
    }
}

fn group(placed: &Placed, direction: Direction) -> GroupId {
    if direction == Direction::Ingress {
        placed.ingress
    } else {
        placed.egress
    }
}

#[derive(Default)]
struct EndpointOps {
    removed: BTreeMap<&'static str, Vec<Element>>,
    added: BTreeMap<&'static str, Vec<Element>>,
}

/// An endpoint's elements, by set.
pub(crate) fn endpoint_elements(interface: &str, state: &EndpointState) -> Vec<(&'static str, Element)> {
    let name = || Value::interface(interface);
    let jump = |direction, number| Nft::Jump(names::group(direction, number).into());
    let mut out = vec![
        (
            names::WL_IN,
            Element::value(name()).verdict(jump(Direction::Ingress, state.ingress)),
        ),
        (
            names::WL_OUT,
            Element::value(name()).verdict(jump(Direction::Egress, state.egress)),
        ),
        (
            names::SELF,
            Element::value(name().and(Value::interface(interface))),
        ),
    ];
    for address in &state.addresses {
        let set = if address.is_ipv4() {
            names::OWN4
        } else {
            names::OWN6
        };
        out.push((set, Element::value(name().and(Value::ip(*address)))));
    }
    if state.addresses.iter().any(IpAddr::is_ipv6) {
        out.push((names::WL6, Element::value(name())));
    }
    out
}

impl EndpointOps {
    fn difference(&mut self, interface: &str, before: Option<&EndpointState>, after: Option<&EndpointState>) {
        let list = |s: Option<&EndpointState>| s.map(|s| endpoint_elements(interface, s)).unwrap_or_default();
        let (before, after) = (list(before), list(after));
        for (set, element) in before.iter().filter(|e| !after.contains(e)) {
            self.removed.entry(set).or_default().push(element.clone());
        }
        for (set, element) in after.iter().filter(|e| !before.contains(e)) {
            self.added.entry(set).or_default().push(element.clone());
        }
    }

    fn into_ops(self) -> Vec<Op> {
        let removed = self
            .removed
            .into_iter()
            .map(|(set, e)| Op::RemoveElements(set.to_string(), e));
        removed
            .chain(
                self.added
                    .into_iter()
                    .map(|(set, e)| Op::AddElements(set.to_string(), e)),
            )
            .collect()
    }
}
