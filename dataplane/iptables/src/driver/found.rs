//! What of ours is in the kernel before a first pass, as the planner takes it over.

use super::{Applied, DriverError, persistently, tables};
use crate::ipset::Ipsets;
use crate::layout::{Found, FoundSet};
use crate::ops::Table;
use crate::ours::{is_our_chain, is_our_set};
use crate::programs::Toolset;

/// Reads everything of ours from the tables and the IP sets, in the calling thread's network namespace.
///
/// # Errors
/// The tables or the sets cannot be read.
pub fn found(tools: &Toolset) -> Result<Found, DriverError> {
    let mut found = Found::default();
    for set in Ipsets::open()?.list_all(is_our_set)? {
        // One of a type that we never make is known to nobody: it goes, or is replaced where its name is wanted.
        if let (Some(family), Some(kind)) = (set.header.family, set.header.kind) {
            let members = set.members;
            let known = FoundSet {
                family,
                kind,
                members,
            };
            found.sets.insert(set.header.name, known);
        }
    }
    for family in tools.families() {
        for saved in persistently(|| tables::read(tools, family, &[], &mut Applied::default()))? {
            let Some(table) = Table::ALL.into_iter().find(|table| table.name() == saved.name) else {
                continue;
            };
            let chains = found.chains.entry((family, table)).or_default();
            for chain in saved.chains.iter().filter(|chain| is_our_chain(&chain.name)) {
                chains.insert(chain.name.clone());
                if let Some(target) = chain.rules.last().and_then(|rule| rule.target()) {
                    found.leads.insert((family, chain.name.clone()), target);
                }
            }
        }
    }
    Ok(found)
}
