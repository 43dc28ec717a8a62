//! Pools, nodes and tunnels: which elements and rules change.
//!
//! One lookup or one rule decides, so that nothing has to be prepared and nothing waits to be retired. Elements go in front
//! of rules within the one transaction: a guard never asks for nodes that are not there yet.

use super::{Pass, Plan, Planner};
use crate::layout::address_sets::NODE_ADDRESSES;
use crate::layout::names;
use crate::layout::ops::Op;
use crate::layout::skeleton::{self, FORWARD, INPUT, OUTPUT, PREROUTING, RAW_OUTPUT};
use crate::layout::{confined, outgoing, tunnels};
use crate::wire::Expr;
use dataplane_tables::{Confined, Tables, TunnelsInUse};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

impl Planner {
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

    /// Takes over what the chains say of pools and tunnels, before a first pass: they are made with it, or compared with
    /// those that are there already.
    pub fn begin_ways(&mut self, tables: &Tables) {
        self.state.pools = pools_of(tables);
        self.state.tunnels = self.wanted_tunnels;
        self.state.confined.clone_from(&self.wanted_confined);
    }

    /// Writes nodes, the way out and the guards of tunnels.
    pub(super) fn write_ways(&mut self, pass: &Pass<'_>, plan: &mut Plan) {
        self.write_nodes(pass, plan);
        if pass.all || pass.changes.pools {
            let before = outgoing::rules(&self.state.pools, &self.settings);
            self.state.pools = pools_of(pass.tables);
            let after = outgoing::rules(&self.state.pools, &self.settings);
            if before != after {
                plan.switch
                    .push(Op::ReplaceRules(names::OUTGOING.to_string(), after));
            }
        }
        if self.state.tunnels != self.wanted_tunnels || self.state.confined != self.wanted_confined {
            let before = self.chains_of_tunnels();
            self.state.tunnels = self.wanted_tunnels;
            self.state.confined.clone_from(&self.wanted_confined);
            let after = self.chains_of_tunnels();
            for ((chain, after), (_, before)) in after.into_iter().zip(before) {
                if before != after {
                    plan.switch.push(Op::ReplaceRules(chain.to_string(), after));
                }
            }
        }
    }

    /// The chains whose rules follow from which tunnels are in use, and what is confined to them. The guards go before what
    /// relies on them.
    fn chains_of_tunnels(&self) -> [(&'static str, Vec<Vec<Expr>>); 7] {
        let guard = tunnels::rules(self.state.tunnels, &self.settings);
        let base = |chain| (chain, skeleton::base_rules(chain, &self.state, &self.settings));
        [
            (names::TUNNELS, guard),
            (names::IN_CLEAR, confined::rules(&self.state.confined)),
            base(INPUT),
            base(PREROUTING),
            base(RAW_OUTPUT),
            base(FORWARD),
            base(OUTPUT),
        ]
    }

    fn write_nodes(&mut self, pass: &Pass<'_>, plan: &mut Plan) {
        let wanted = pass.tables.node_addresses();
        let concerned: BTreeSet<IpAddr> = if pass.all {
            wanted.keys().chain(&self.state.nodes).copied().collect()
        } else {
            pass.changes.node_addresses.iter().copied().collect()
        };
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for address in concerned {
            if wanted.contains_key(&address) {
                if self.state.nodes.insert(address) {
                    come.push(address);
                }
            } else if self.state.nodes.remove(&address) {
                gone.push(address);
            }
        }
        plan.switch
            .extend(NODE_ADDRESSES.ops(gone.into_iter(), come.into_iter()));
    }
}

/// The pools, and of each whether what leaves them all takes an address of the node.
fn pools_of(tables: &Tables) -> BTreeMap<IpNet, bool> {
    let pools = tables.pools().iter();
    pools.map(|(cidr, pool)| (*cidr, pool.nat_outgoing)).collect()
}
