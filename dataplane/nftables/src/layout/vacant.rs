//! Addresses of this node's that nobody has now: the chain that guards them, and its sets.
//!
//! What is sent to such an address, or in its name, would go elsewhere and leave an entry in connection tracking, by which
//! the address's next holder could speak and be spoken to without policy being asked. An entry is made when the first
//! packet of a connection has passed every hook. So these packets are asked for the address in front of the node's
//! programs, on their way through the node (behind the change of destinations, in front of that of sources) and on their
//! way out of it: while an address is here, no entry with it comes to be. Workloads' interfaces are no exception.

use super::address_sets::VACANT_ADDRESSES;
use super::names::VACANT;
use super::ops::Op;
use super::planner::Planner;
use crate::wire::{Expr, OnHit, Source, concat, drop_counted, only_family};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The rules of the chain: of a family without such addresses no packet is asked.
pub(super) fn rules(vacant: &BTreeSet<IpAddr>) -> Vec<Vec<Expr>> {
    let mut rules = Vec::new();
    for (family, set) in families(vacant) {
        for is_source in [true, false] {
            let mut exprs = only_family(family).to_vec();
            exprs.extend(concat([Source::address(family, is_source)]));
            exprs.push(Expr::lookup(set, OnHit::Match));
            exprs.extend(drop_counted());
            rules.push(exprs);
        }
    }
    rules
}

/// The families that have such addresses, and their sets.
fn families(vacant: &BTreeSet<IpAddr>) -> Vec<(IpAddr, &'static str)> {
    let has = |family: &IpAddr| vacant.iter().any(|address| address.is_ipv4() == family.is_ipv4());
    let mut families = [V4, V6]
        .map(|family| (family, VACANT_ADDRESSES.of(family)))
        .to_vec();
    families.retain(|(family, _)| has(family));
    families
}

impl Planner {
    /// Takes over which addresses nobody has; returns the steps to it, one transaction.
    pub(crate) fn set_vacant(&mut self, wanted: &BTreeSet<IpAddr>) -> Vec<Op> {
        let before = std::mem::replace(&mut self.state_mut().vacant, wanted.clone());
        let (gone, come) = (before.difference(wanted), wanted.difference(&before));
        let mut ops = VACANT_ADDRESSES.ops(gone.copied(), come.copied());
        if families(&before) != families(wanted) {
            ops.push(Op::ReplaceRules(VACANT.to_owned(), rules(wanted)));
        }
        ops
    }
}
