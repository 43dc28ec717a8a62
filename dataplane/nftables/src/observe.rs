//! What the kernel says of our table, read whole. Never another's.

use crate::layout::names::TABLE;
use crate::socket::{DumpError, Link};
use crate::wire::{Element, Expr, Family, Nat, ObservedChain, ObservedSet, ObservedTable, nat_flag};
use std::collections::BTreeMap;

/// Our table as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The table itself.
    pub table: ObservedTable,
    /// Chains by name.
    pub chains: BTreeMap<String, ObservedChain>,
    /// Rules by chain, counters set to zero and what follows from the rest left out.
    pub rules: BTreeMap<String, Vec<Vec<Expr>>>,
    /// Named sets and maps, with their elements.
    pub sets: BTreeMap<String, (ObservedSet, Vec<Element>)>,
}

/// Reads our table, or says that there is none.
///
/// # Errors
/// The kernel does not answer, or something keeps changing under the dump.
pub fn observe(link: &mut Link) -> Result<Option<Observed>, DumpError> {
    let Some(table) = link.tables(Family::Inet)?.into_iter().find(|t| t.name == TABLE) else {
        return Ok(None);
    };
    let chains = link
        .chains(Family::Inet, TABLE)?
        .into_iter()
        .map(|c| (c.name.clone(), c))
        .collect();
    let mut rules: BTreeMap<String, Vec<Vec<Expr>>> = BTreeMap::new();
    for rule in link.rules(Family::Inet, TABLE)? {
        rules
            .entry(rule.chain)
            .or_default()
            .push(rule.expressions.into_iter().map(as_written).collect());
    }
    let mut sets = BTreeMap::new();
    for set in link.sets(Family::Inet, TABLE)? {
        if !set.anonymous {
            let elements = link.elements(Family::Inet, TABLE, &set.name, set.keys())?;
            sets.insert(set.name.clone(), (set, elements));
        }
    }
    Ok(Some(Observed {
        table,
        chains,
        rules,
        sets,
    }))
}

fn as_written(expr: Expr) -> Expr {
    match expr {
        Expr::Counter { .. } => Expr::counter(),
        // The kernel says that an address and a port are given where they are.
        Expr::Nat(nat) => Expr::Nat(Nat {
            flags: nat.flags & !(nat_flag::ADDRESS | nat_flag::PORTS),
            ..nat
        }),
        other => other,
    }
}
