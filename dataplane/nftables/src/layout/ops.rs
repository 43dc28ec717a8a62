//! The smallest steps by which our table changes, and how they are written.

use super::names::{self, TABLE};
use crate::wire::{Batch, Chain, Element, Expr, Rule, Set, SetRef};

/// A set or map to be made. Its types follow from its name ([`names::shape`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetSpec {
    /// Name.
    pub name: String,
    /// Most elements, for data maps: sized maps load three times faster.
    pub size: Option<u32>,
}

/// One step. Steps of one list are one transaction, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes a set or map.
    AddSet(SetSpec),
    /// Removes a set or map that no rule uses.
    RemoveSet(String),
    /// Makes a chain, with its rules.
    AddChain(String, Vec<Vec<Expr>>),
    /// Gives a chain other rules.
    ReplaceRules(String, Vec<Vec<Expr>>),
    /// Removes a chain that nothing leads to.
    RemoveChain(String),
    /// Adds elements.
    AddElements(String, Vec<Element>),
    /// Removes elements, which are there.
    RemoveElements(String, Vec<Element>),
}

impl Op {
    /// The object that the step is about, for messages.
    pub fn object(&self) -> &str {
        match self {
            Op::AddSet(spec) => &spec.name,
            Op::RemoveSet(name)
            | Op::AddChain(name, _)
            | Op::ReplaceRules(name, _)
            | Op::RemoveChain(name)
            | Op::AddElements(name, _)
            | Op::RemoveElements(name, _) => name,
        }
    }

    /// Writes the step into a batch, for our table.
    pub fn write(&self, batch: &mut Batch) {
        match self {
            Op::AddSet(spec) => {
                if let Some(set) = set_of(spec) {
                    batch.set(&set);
                }
            }
            Op::RemoveSet(name) => batch.remove_set(TABLE, name),
            Op::AddChain(name, rules) => {
                batch.chain(&Chain::regular(TABLE, name));
                write_rules(batch, name, rules);
            }
            Op::ReplaceRules(name, rules) => {
                batch.flush_chain(TABLE, name);
                write_rules(batch, name, rules);
            }
            Op::RemoveChain(name) => {
                batch.flush_chain(TABLE, name);
                batch.remove_chain(TABLE, name);
            }
            Op::AddElements(name, elements) => batch.elements(&set_ref(name), elements),
            Op::RemoveElements(name, elements) => batch.remove_elements(&set_ref(name), elements),
        }
    }
}

fn write_rules(batch: &mut Batch, chain: &str, rules: &[Vec<Expr>]) {
    for rule in rules {
        batch.rule(&Rule::new(TABLE, chain, rule));
    }
}

fn set_of(spec: &SetSpec) -> Option<Set<'_>> {
    let (key, data, intervals) = names::shape(&spec.name)?;
    let mut set = Set::new(TABLE, &spec.name, key).to(data);
    if intervals {
        set = set.of_intervals();
    }
    if let Some(size) = spec.size {
        set = set.sized(size);
    }
    Some(set)
}

/// A reference to one of our sets, with the form that its keys have.
pub(super) fn set_ref(name: &str) -> SetRef<'_> {
    let intervals = names::parse_address_map(name).is_some_and(|(base, _)| base.starts_with("net"));
    if intervals {
        SetRef::interval(TABLE, name)
    } else {
        SetRef::exact(TABLE, name)
    }
}
