//! What is not policy: the skeleton, ports of the node, pools, nodes, tunnels, and addresses that nobody has.

use super::{Pass, Plan, Planner};
use crate::layout::{confined, nat, skeleton, tunnels};
use crate::names;
use crate::ops::{Family, Member, SetKind, SetOp, SetSpec, Table};
use dataplane_tables::{Confined, TunnelsInUse};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

impl Planner {
    /// The sets that are always there.
    pub(super) fn fixed_sets(&self) -> Vec<SetSpec> {
        let mut out = Vec::new();
        for family in Family::BOTH {
            for (name, kind) in [
                (names::own_addresses(family), SetKind::HashNetIface),
                (names::vacant_addresses(family), SetKind::HashIp),
                (names::node_addresses(family), SetKind::HashIp),
            ] {
                out.push(SetSpec {
                    name,
                    family,
                    kind,
                    max_elements: self.settings.max_set_elements,
                    with_timeout: false,
                });
            }
        }
        out
    }

    /// Writes the chains that are always there.
    pub(super) fn write_skeleton(&mut self) {
        for family in Family::BOTH {
            let settings = &self.settings;
            for (name, rules) in skeleton::filter(family, settings) {
                self.book.put(family, Table::Filter, name, rules);
            }
            for name in [names::FROM_DISPATCH, names::TO_DISPATCH] {
                self.book.put(family, Table::Filter, name, Vec::new());
            }
            self.book
                .put(family, Table::Raw, names::PREROUTING, skeleton::raw(settings));
            for (name, rules) in nat::chains(family, settings) {
                self.book.put(family, Table::Nat, name, rules);
            }
            self.book.put(family, Table::Nat, names::HOST_PORTS, Vec::new());
            self.book.put(family, Table::Nat, names::OUTGOING, Vec::new());
            self.write_spoofable(family);
        }
        self.write_tunnels();
    }

    fn write_tunnels(&mut self) {
        for family in Family::BOTH {
            let guard = tunnels::rules(family, self.tunnels, &self.settings);
            self.book.put(family, Table::Filter, names::TUNNELS, guard);
            let stopped = confined::rules(family, &self.confined);
            self.book.put(family, Table::Filter, names::IN_CLEAR, stopped);
            let input = skeleton::input(&self.settings, self.tunnels);
            self.book.put(family, Table::Filter, names::INPUT, input);
            let forward = skeleton::forward(&self.settings, &self.confined);
            self.book.put(family, Table::Filter, names::FORWARD, forward);
            let output = skeleton::output(&self.confined);
            self.book.put(family, Table::Filter, names::OUTPUT, output);
        }
    }

    /// Says which tunnels are to be in use from the next pass on; returns whether that is news.
    pub fn want_tunnels(&mut self, tunnels: TunnelsInUse) -> bool {
        std::mem::replace(&mut self.wanted_tunnels, tunnels) != tunnels
    }

    /// The tunnels that are to be in use from the next pass on.
    pub fn wanted_tunnels(&self) -> TunnelsInUse {
        self.wanted_tunnels
    }

    /// Says what leaves the node inside a tunnel or not at all from the next pass on; returns whether that is news.
    pub fn want_confined(&mut self, confined: Confined) -> bool {
        self.wanted_confined.become_as(confined)
    }

    /// What is to be confined from the next pass on.
    pub fn wanted_confined(&self) -> &Confined {
        &self.wanted_confined
    }

    /// Ports of the node, and where each leads, as of the last pass.
    pub fn host_ports(&self) -> &BTreeMap<dataplane_api::HostPort, std::net::SocketAddr> {
        &self.host_ports
    }

    /// The addresses of this node that nobody has, as they were said last or found.
    pub fn vacant(&self) -> &BTreeSet<IpAddr> {
        &self.vacant
    }

    /// The interfaces of endpoints here, each with the addresses that it may send from, as of the last pass.
    pub fn interfaces(&self) -> impl Iterator<Item = (&str, &[IpAddr])> {
        let endpoints = self.endpoints.iter();
        endpoints.map(|(name, endpoint)| (name.as_str(), endpoint.addresses.as_slice()))
    }

    pub(super) fn write_host_ports(&mut self, pass: &Pass<'_>) {
        if !pass.all && pass.changes.host_ports.is_empty() {
            return;
        }
        let ports = pass.tables.host_ports().iter();
        self.host_ports = ports
            .filter(|(port, target)| nat::leads(port, target))
            .map(|(port, target)| (*port, *target))
            .collect();
        for family in Family::BOTH {
            let rules = nat::host_ports(family, &self.host_ports);
            self.book.put(family, Table::Nat, names::HOST_PORTS, rules);
        }
    }

    /// Writes nodes, the way out and the guards of tunnels.
    pub(super) fn write_ways(&mut self, pass: &Pass<'_>, plan: &mut Plan) {
        if pass.all {
            self.nodes = pass.tables.node_addresses().keys().copied().collect();
            self.write_fixed_sets(plan);
        }
        let wanted = pass.tables.node_addresses();
        let concerned: BTreeSet<IpAddr> = pass.changes.node_addresses.iter().copied().collect();
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for address in concerned {
            if wanted.contains_key(&address) {
                if self.nodes.insert(address) {
                    come.push(address);
                }
            } else if self.nodes.remove(&address) {
                gone.push(address);
            }
        }
        plan.before.extend(add(come, names::node_addresses));
        plan.after.extend(remove(gone, names::node_addresses));
        if pass.all || pass.changes.pools {
            let pools = pass.tables.pools().iter();
            self.pools = pools.map(|(cidr, pool)| (*cidr, pool.nat_outgoing)).collect();
            for family in Family::BOTH {
                let rules = nat::outgoing(family, &self.pools, &self.settings);
                self.book.put(family, Table::Nat, names::OUTGOING, rules);
            }
        }
        if self.tunnels != self.wanted_tunnels || self.confined != self.wanted_confined {
            self.tunnels = self.wanted_tunnels;
            self.confined.clone_from(&self.wanted_confined);
            self.write_tunnels();
        }
    }

    /// Writes the sets that are always there, in front of all that asks them; what an earlier life left becomes what it is to
    /// be.
    fn write_fixed_sets(&mut self, plan: &mut Plan) {
        let mut made = Vec::new();
        for spec in self.fixed_sets() {
            let wanted: BTreeSet<Member> = self.fixed_members(&spec).into_iter().collect();
            let known = self.known_members(&spec);
            let is_own = spec.name == names::own_addresses(spec.family);
            let name = spec.name.clone();
            let is_new = known.is_none();
            if is_new {
                made.push(SetOp::Create(spec));
            }
            let known = known.unwrap_or_default();
            let come: Vec<Member> = wanted.difference(&known).cloned().collect();
            let gone: Vec<Member> = known.difference(&wanted).cloned().collect();
            // A source comes after the chain that its interface leads to. Where no rule asks for sources yet, it comes
            // before one does: what workloads send there and then is not to be cut.
            if !come.is_empty() {
                let list = if is_own && !is_new {
                    &mut plan.after
                } else {
                    &mut made
                };
                list.push(SetOp::Add(name.clone(), come));
            }
            if !gone.is_empty() {
                let list = if is_own { &mut made } else { &mut plan.after };
                list.push(SetOp::Remove(name, gone));
            }
        }
        plan.before.splice(0..0, made);
    }

    /// The members of a set that is always there, sorted.
    pub(super) fn fixed_members(&self, spec: &SetSpec) -> Vec<Member> {
        let family = spec.family;
        let of = |addresses: &BTreeSet<IpAddr>| -> Vec<Member> {
            let addresses = addresses.iter().filter(|a| Family::of(**a) == family);
            addresses.copied().map(Member::Ip).collect()
        };
        let mut members = if spec.name == names::vacant_addresses(family) {
            of(&self.vacant)
        } else if spec.name == names::node_addresses(family) {
            of(&self.nodes)
        } else {
            self.own_members(family)
        };
        members.sort_unstable();
        members
    }

    /// Takes over which addresses of this node nobody has; returns the steps to it. Of use from the first pass on: the sets
    /// are made with it.
    pub fn set_vacant(&mut self, wanted: &BTreeSet<IpAddr>) -> Vec<SetOp> {
        let before = std::mem::replace(&mut self.vacant, wanted.clone());
        let gone = before.difference(wanted).copied().collect();
        let come = wanted.difference(&before).copied().collect();
        let mut ops = add(come, names::vacant_addresses);
        ops.extend(remove(gone, names::vacant_addresses));
        ops
    }
}

fn add(addresses: Vec<IpAddr>, name: impl Fn(Family) -> String) -> Vec<SetOp> {
    let by_set = by_set(addresses, name).into_iter();
    by_set.map(|(name, members)| SetOp::Add(name, members)).collect()
}

fn remove(addresses: Vec<IpAddr>, name: impl Fn(Family) -> String) -> Vec<SetOp> {
    let by_set = by_set(addresses, name).into_iter();
    by_set
        .map(|(name, members)| SetOp::Remove(name, members))
        .collect()
}

fn by_set(addresses: Vec<IpAddr>, name: impl Fn(Family) -> String) -> BTreeMap<String, Vec<Member>> {
    let mut out: BTreeMap<String, Vec<Member>> = BTreeMap::new();
    for address in addresses {
        out.entry(name(Family::of(address)))
            .or_default()
            .push(Member::Ip(address));
    }
    out
}
