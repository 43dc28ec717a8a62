//! What leaves the node inside a tunnel or not at all.
//!
//! Asked of every packet that leaves by a wire, also in the middle of a connection: the way may go at any moment. Ranges are
//! few and stand in the rules themselves, for the reason that [`super::outgoing`] gives.

use super::names::{IN_CLEAR, NODES4, NODES6};
use super::outgoing::within;
use super::skeleton::{out_name, rule, verdict};
use crate::wire::{CmpOp, Expr, OnHit, Source, Value, Verdict, compare, concat, drop_counted};
use dataplane_tables::Confined;
use ipnet::IpNet;

/// What leaves by a wire goes to the chain that stops what is confined. None where nothing is.
pub(super) fn jumps(confined: &Confined) -> Vec<Vec<Expr>> {
    if !confined.any() {
        return Vec::new();
    }
    let jump = |wire: &String| {
        let leaves = compare(out_name(), CmpOp::Eq, Value::interface(wire)).to_vec();
        rule([leaves, vec![Expr::jump(IN_CLEAR)]])
    };
    confined.wires.iter().map(jump).collect()
}

/// The rules of that chain.
///
/// Packets of the tunnels themselves pass here: where their destination is in no range, nothing more is asked of them.
pub(super) fn rules(confined: &Confined) -> Vec<Vec<Expr>> {
    if !confined.any() {
        return Vec::new();
    }
    let mut rules = Vec::new();
    for (range, is_confined) in confined.smallest_first() {
        if !is_confined {
            rules.push(rule([within(range, false), verdict(Verdict::Return)]));
            continue;
        }
        let dropped = |source| {
            let to_no_node = no_node(range);
            rule([
                within(range, false),
                within(source, true),
                to_no_node,
                drop_counted().to_vec(),
            ])
        };
        rules.extend(confined.sources(range).map(dropped));
    }
    rules
}

/// `ip daddr != @nodes4`: nodes are reached as they are, also where a range has their addresses.
fn no_node(range: IpNet) -> Vec<Expr> {
    let nodes = if range.addr().is_ipv4() { NODES4 } else { NODES6 };
    let mut exprs: Vec<Expr> = concat([Source::address(range.addr(), false)]).collect();
    exprs.push(Expr::lookup(nodes, OnHit::Fail));
    exprs
}
