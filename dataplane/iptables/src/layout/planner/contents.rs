//! What the kernel is to hold once the steps given out so far are done: whole, for comparing, and as the simulator asks it.

use super::{Planner, slot};
use crate::layout::book::Chains;
use crate::layout::rule::Rule;
use crate::layout::simulate::{Key, Ruleset};
use crate::names;
use crate::ops::{Family, Insert, Member, SetSpec, Table};
use dataplane_tables::Tables;
use std::collections::BTreeMap;

/// Everything of ours.
#[derive(Debug)]
pub struct Contents<'a> {
    /// Sets by name, each with its members, sorted.
    pub sets: BTreeMap<String, (SetSpec, Vec<Member>)>,
    /// Chains, by family and table.
    pub chains: &'a BTreeMap<(Family, Table), Chains>,
    /// The rules that must stand in the kernel's own chains, by table; alike in both families.
    pub inserts: BTreeMap<Table, Vec<Insert>>,
}

impl Planner {
    /// Everything of ours, as of the last pass. The work grows with the number of addresses.
    pub fn contents(&self, tables: &Tables) -> Contents<'_> {
        let mut sets: BTreeMap<String, (SetSpec, Vec<Member>)> = BTreeMap::new();
        for spec in self.fixed_sets() {
            let members = self.fixed_members(&spec);
            sets.insert(spec.name.clone(), (spec, members));
        }
        for (number, set) in self.sets.iter() {
            let spec = set.spec(number, self.settings.max_set_elements);
            let members = set.members(tables.peers(), &self.intervals[slot(spec.family)]);
            sets.insert(spec.name.clone(), (spec, members));
        }
        let inserts = Table::ALL.map(|table| (table, crate::layout::inserts(table, &self.settings)));
        Contents {
            sets,
            chains: self.book.chains(),
            inserts: inserts.into_iter().filter(|(_, list)| !list.is_empty()).collect(),
        }
    }

    pub(super) fn own_members(&self, family: Family) -> Vec<Member> {
        let mut out = Vec::new();
        for (interface, endpoint) in &self.endpoints {
            out.extend(endpoint.members(interface, family));
        }
        out
    }
}

/// Chains and sets as the simulator asks them, without their members: who has which address the decision tables know.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    planner: &'a Planner,
    tables: &'a Tables,
}

impl Planner {
    /// What the chains and sets say as of the last pass. `tables` are those that it was about.
    pub fn layout<'a>(&'a self, tables: &'a Tables) -> Layout<'a> {
        let planner = self;
        Layout { planner, tables }
    }
}

impl Ruleset for Layout<'_> {
    fn chain(&self, family: Family, table: Table, name: &str) -> Option<&[Rule]> {
        self.planner.book.get(family, table, name).map(|rules| &**rules)
    }

    fn contains(&self, set: &str, key: &Key<'_>) -> bool {
        let family = Family::of(key.address);
        if set == names::own_addresses(family) {
            let endpoint = key.interface.and_then(|name| self.planner.endpoints.get(name));
            return endpoint.is_some_and(|e| e.addresses.contains(&key.address));
        }
        if set == names::vacant_addresses(family) {
            return self.planner.vacant.contains(&key.address);
        }
        if set == names::node_addresses(family) {
            return self.planner.nodes.contains(&key.address);
        }
        let set = match names::parse_peers(set) {
            Some((of, role, number)) if of == family => {
                let set = self.planner.sets.get(number);
                set.filter(|set| set.content.role == role)
            }
            _ => None,
        };
        let Some(set) = set else { return false };
        let peers = self.tables.peers();
        let class = peers.lookup(key.address);
        let class = if set.content.net {
            peers.around(class)
        } else {
            class
        };
        let suffix = if set.content.merged {
            key.port
        } else {
            Some((0, 0))
        };
        let has = set.classes.get(&class);
        suffix.is_some_and(|suffix| has.is_some_and(|list| list.contains(&suffix)))
    }
}
