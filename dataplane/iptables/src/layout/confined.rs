//! What leaves the node inside a tunnel or not at all.
//!
//! Asked of every packet that leaves by a wire, also in the middle of a connection: the way may go at any moment.

use super::rule::{End, Lookup, Match, Names, Rule, Target};
use crate::names;
use crate::ops::Family;
use dataplane_tables::Confined;

/// What leaves by a wire goes to the chain that stops what is confined. None where nothing is.
pub(super) fn jumps(confined: &Confined) -> Vec<Rule> {
    if !confined.any() {
        return Vec::new();
    }
    // A rule cannot name what the programs do not take for a name; no interface that carries a node's address has one.
    let wires = confined.wires.iter().filter(|wire| names::is_interface(wire));
    wires
        .map(|wire| {
            let leaves = Match::Out(Names::Is(wire.clone()));
            Rule::new([leaves], Target::Jump(names::IN_CLEAR.to_owned()))
        })
        .collect()
}

/// The rules of that chain for a family.
///
/// Packets of the tunnels themselves pass here: where their destination is in no range, nothing more is asked of them.
pub(super) fn rules(family: Family, confined: &Confined) -> Vec<Rule> {
    if !confined.any() {
        return Vec::new();
    }
    let ranges = confined.smallest_first();
    let mut rules = Vec::new();
    for (range, is_confined) in ranges {
        if Family::of(range.addr()) != family {
            continue;
        }
        let to = Match::Net(End::Destination, range);
        if !is_confined {
            rules.push(Rule::new([to], Target::Return));
            continue;
        }
        for source in confined.sources(range) {
            // Nodes are reached as they are, also where a range has their addresses.
            let nodes = names::node_addresses(family);
            let no_node = Match::NotInSet(nodes, Lookup::Address(End::Destination));
            let is = [to.clone(), Match::Net(End::Source, source), no_node];
            rules.push(Rule::new(is, Target::Drop));
        }
    }
    rules
}
