//! Interfaces: which chain each leads to, and which addresses it may send from.

use super::{EndpointState, Pass, Plan, Planner, slot};
use crate::layout::dispatch;
use crate::layout::rule::{Match, Names, Rule, Target};
use crate::layout::sets::host;
use crate::layout::side::{Side, SideId};
use crate::layout::skeleton;
use crate::names::{self, Toward};
use crate::ops::{Family, Member, SetOp, Table};
use dataplane_tables::Placed;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// Where interfaces belong after this pass.
#[derive(Debug, Default)]
pub(super) struct Placing {
    /// Interfaces that something was said about, as they were.
    before: BTreeMap<String, Option<EndpointState>>,
    /// Sides that no interface led to before.
    pub(super) appeared: BTreeSet<SideId>,
    /// Sides that an interface left.
    pub(super) left: BTreeSet<SideId>,
    /// Sides that an interface left or came to.
    pub(super) stirred: BTreeSet<SideId>,
    /// Sides that no interface leads to any more.
    pub(super) gone: BTreeMap<SideId, Side>,
    /// Interfaces whose side has a chain of another name.
    pub(super) led_anew: BTreeSet<String>,
}

impl EndpointState {
    fn has(&self, family: Family) -> bool {
        let nets = self.spoofable.iter().map(IpNet::addr);
        self.addresses
            .iter()
            .copied()
            .chain(nets)
            .any(|address| Family::of(address) == family)
    }

    fn sides(&self) -> Vec<(Toward, SideId)> {
        let mut out = Vec::new();
        for family in Family::BOTH.into_iter().filter(|f| self.has(*f)) {
            out.extend(self.groups.map(|(toward, group)| (toward, (group, family))));
        }
        out
    }

    pub(super) fn members(&self, interface: &str, family: Family) -> BTreeSet<Member> {
        let own = self.addresses.iter().filter(|a| Family::of(**a) == family);
        own.map(|address| Member::NetIface {
            net: host(*address),
            interface: interface.to_owned(),
        })
        .collect()
    }
}

impl Planner {
    /// Finds out which interfaces change their groups.
    pub(super) fn place(&mut self, pass: &Pass<'_>) -> Placing {
        let mut out = Placing::default();
        for interface in self.follow_claims(pass) {
            let after = self.placed(pass, &interface).map(|p| self.endpoint_state(p));
            let before = match after.clone() {
                Some(after) => self.endpoints.insert(interface.clone(), after),
                None => self.endpoints.remove(&interface),
            };
            let of =
                |state: &Option<EndpointState>| state.as_ref().map(EndpointState::sides).unwrap_or_default();
            let (sides_before, sides_after) = (of(&before), of(&after));
            for (_, id) in sides_before.iter().filter(|s| !sides_after.contains(s)) {
                out.left.insert(*id);
                out.stirred.insert(*id);
                if let Some(side) = self.sides.get_mut(id) {
                    side.interfaces.remove(&interface);
                }
            }
            for (toward, id) in sides_after.iter().filter(|s| !sides_before.contains(s)) {
                out.stirred.insert(*id);
                if !self.sides.contains_key(id) {
                    let known = self.known_group(id.1, *toward, &interface);
                    let number = match known {
                        Some(number) => number,
                        None => self.fresh_group(),
                    };
                    self.sides.insert(*id, Side::new(*toward, number));
                    out.appeared.insert(*id);
                }
                if let Some(side) = self.sides.get_mut(id) {
                    side.interfaces.insert(interface.clone());
                }
            }
            out.before.insert(interface, before);
        }
        for id in &out.left {
            if self.sides.get(id).is_some_and(|side| side.interfaces.is_empty())
                && let Some(side) = self.sides.remove(id)
                && !out.appeared.remove(id)
            {
                out.gone.insert(*id, side);
            }
        }
        out
    }

    /// The endpoint that has an interface.
    fn placed<'a>(&self, pass: &Pass<'a>, interface: &str) -> Option<&'a Placed> {
        // What no rule can name has no chain: its packets are those of an unknown interface. What is not called like a
        // workload's interface is none.
        let prefixes = &self.settings.interface_prefixes;
        let is_workload = prefixes
            .iter()
            .any(|prefix| interface.starts_with(prefix.as_str()));
        if !is_workload || !names::is_interface(interface) {
            return None;
        }
        self.claims.holder(interface, pass.tables)
    }

    fn endpoint_state(&self, placed: &Placed) -> EndpointState {
        let mut addresses = placed.endpoint.addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        let mut spoofable: Vec<IpNet> = if self.settings.source_spoofing {
            placed.endpoint.spoofable.iter().map(IpNet::trunc).collect()
        } else {
            Vec::new()
        };
        spoofable.sort_unstable();
        spoofable.dedup();
        EndpointState {
            groups: [
                (Toward::FromWorkload, placed.egress),
                (Toward::ToWorkload, placed.ingress),
            ],
            addresses,
            spoofable,
        }
    }

    /// Brings claims up to date, and names the interfaces concerned.
    fn follow_claims(&mut self, pass: &Pass<'_>) -> BTreeSet<String> {
        let changes = (!pass.all).then_some(pass.changes);
        self.claims.follow(pass.tables, changes)
    }

    /// Writes the chains of interfaces, and the trees that lead to them.
    pub(super) fn write_endpoints(&mut self, placing: &Placing) {
        let mut stirred: BTreeSet<(Family, String)> = BTreeSet::new();
        let root = self.root();
        for interface in placing.before.keys().chain(&placing.led_anew) {
            for family in Family::BOTH {
                self.write_chains(interface, family);
                let has = self.endpoints.get(interface).is_some_and(|e| e.has(family));
                let names = &mut self.names[slot(family)];
                if names.contains(interface) == has {
                    continue;
                }
                let mut beginnings = dispatch::path(names, &root, interface);
                if has {
                    names.insert(interface.clone());
                } else {
                    names.remove(interface);
                }
                beginnings.extend(dispatch::path(names, &root, interface));
                stirred.extend(beginnings.into_iter().map(|b| (family, b)));
            }
        }
        for (family, beginning) in stirred {
            for toward in [Toward::FromWorkload, Toward::ToWorkload] {
                self.write_dispatch(family, toward, &beginning);
            }
        }
    }

    fn write_chains(&mut self, interface: &str, family: Family) {
        for toward in [Toward::FromWorkload, Toward::ToWorkload] {
            let name = names::endpoint(toward, interface);
            let endpoint = self.endpoints.get(interface).filter(|e| e.has(family));
            let group = endpoint.and_then(|e| e.groups.iter().find(|(t, _)| *t == toward));
            let side = group.and_then(|(_, group)| self.sides.get(&(*group, family)));
            let Some(side) = side else {
                self.book.remove(family, Table::Filter, &name);
                continue;
            };
            let itself = Names::Is(interface.to_owned());
            // A workload that reaches itself through its own Service goes out and comes in again at one interface.
            let itself = match toward {
                Toward::FromWorkload => Match::Out(itself),
                Toward::ToWorkload => Match::In(itself),
            };
            let rules = vec![
                Rule::new([itself], Target::Goto(names::ALLOW.to_owned())),
                Rule::always(Target::Goto(side.chain())),
            ];
            self.book.put(family, Table::Filter, &name, rules);
        }
    }

    /// What the names of all workloads' interfaces begin with.
    fn root(&self) -> String {
        match self.settings.interface_prefixes.as_slice() {
            [only] => only.clone(),
            _ => String::new(),
        }
    }

    fn write_dispatch(&mut self, family: Family, toward: Toward, beginning: &str) {
        let root = self.root();
        // The root's beginning is in all names and says nothing.
        let label = |text: &str| text.strip_prefix(root.as_str()).unwrap_or(text).to_owned();
        let name = names::dispatch(toward, &label(beginning));
        let all = &self.names[slot(family)];
        let first = all.range(beginning.to_owned()..).next();
        let is_node = beginning == root
            || first.is_some_and(|first| dispatch::path(all, &root, first).iter().any(|b| b == beginning));
        if is_node {
            let rules = dispatch::rules(all, beginning, toward, label);
            self.book.put(family, Table::Filter, &name, rules);
        } else {
            self.book.remove(family, Table::Filter, &name);
        }
    }

    /// Writes which addresses workloads may send from.
    ///
    /// An address comes after the tables were written: what its interface leads to by then is what its policies say.
    pub(super) fn write_sources(&mut self, pass: &Pass<'_>, placing: &Placing, plan: &mut Plan) {
        let mut spoofable_changes = false;
        for family in Family::BOTH {
            let (mut gone, mut come) = (Vec::new(), Vec::new());
            for (interface, before) in &placing.before {
                let after = self.endpoints.get(interface);
                let members = |state: Option<&EndpointState>| {
                    state.map(|s| s.members(interface, family)).unwrap_or_default()
                };
                let (old, new) = (members(before.as_ref()), members(after));
                gone.extend(old.difference(&new).cloned());
                come.extend(new.difference(&old).cloned());
                let nets =
                    |state: Option<&EndpointState>| state.map(|s| s.spoofable.clone()).unwrap_or_default();
                spoofable_changes |= nets(before.as_ref()) != nets(after);
            }
            let name = names::own_addresses(family);
            if pass.all {
                // The first pass writes the whole set.
                continue;
            }
            if !gone.is_empty() {
                plan.before.push(SetOp::Remove(name.clone(), gone));
            }
            if !come.is_empty() {
                plan.after.insert(0, SetOp::Add(name, come));
            }
        }
        if spoofable_changes {
            for family in Family::BOTH {
                self.write_spoofable(family);
            }
        }
    }

    pub(super) fn write_spoofable(&mut self, family: Family) {
        let nets = self.endpoints.iter().flat_map(|(interface, e)| {
            let of_family = e.spoofable.iter().filter(move |n| Family::of(n.addr()) == family);
            of_family.map(move |net| (interface.as_str(), *net))
        });
        let rules = skeleton::sources(family, &self.settings, nets);
        self.book.put(family, Table::Raw, names::SOURCES, rules);
    }
}
