//! Pools and the addresses of nodes: what decides how packets between nodes and out of the cluster are treated.
//!
//! Two nodes may claim one address for a while (one took over another's, and the news of that comes in parts), so that
//! each address counts its claims. What a commit reports is what differs from the commit before, however often it went
//! back and forth in between; the work for one node does not grow with the number of nodes.

use dataplane_api::{ClusterNode, PoolRange};
use ipnet::IpNet;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Pools, nodes and what changed about them since the last commit.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    pools: BTreeMap<IpNet, PoolRange>,
    pools_changed: bool,
    /// The addresses of each node, by its name.
    nodes: FxHashMap<Arc<str>, Arc<[IpAddr]>>,
    /// How many claims each address has.
    claims: BTreeMap<IpAddr, usize>,
    /// Addresses that had no claim at the last commit and have one now, or the other way round.
    turned: BTreeSet<IpAddr>,
}

impl Ways {
    /// Takes a pool in.
    pub(crate) fn set_pool(&mut self, pool: &PoolRange) {
        self.pools_changed |= self.pools.insert(pool.cidr, pool.clone()).as_ref() != Some(pool);
    }

    /// Forgets a pool.
    pub(crate) fn remove_pool(&mut self, cidr: &IpNet) {
        self.pools_changed |= self.pools.remove(cidr).is_some();
    }

    /// Takes a node in, or what it has become.
    pub(crate) fn set_node(&mut self, node: &ClusterNode) {
        for address in node.addresses.iter() {
            self.claim(*address);
        }
        if let Some(before) = self.nodes.insert(node.name.clone(), node.addresses.clone()) {
            self.release(&before);
        }
    }

    /// Forgets a node.
    pub(crate) fn remove_node(&mut self, name: &str) {
        if let Some(before) = self.nodes.remove(name) {
            self.release(&before);
        }
    }

    fn claim(&mut self, address: IpAddr) {
        let claims = self.claims.entry(address).or_default();
        *claims += 1;
        if *claims == 1 {
            self.turn(address);
        }
    }

    fn release(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            let Some(claims) = self.claims.get_mut(address) else {
                continue;
            };
            *claims -= 1;
            if *claims == 0 {
                self.claims.remove(address);
                self.turn(*address);
            }
        }
    }

    fn turn(&mut self, address: IpAddr) {
        // What turned twice is as it was.
        if !self.turned.remove(&address) {
            self.turned.insert(address);
        }
    }

    /// The pools, by range.
    pub(crate) fn pools(&self) -> &BTreeMap<IpNet, PoolRange> {
        &self.pools
    }

    /// The addresses of all nodes, with their claims.
    pub(crate) fn node_addresses(&self) -> &BTreeMap<IpAddr, usize> {
        &self.claims
    }

    /// Whether pools changed since the last call.
    pub(crate) fn take_pools_changed(&mut self) -> bool {
        std::mem::take(&mut self.pools_changed)
    }

    /// The addresses that came to be a node's since the last call, or that are none's any more.
    pub(crate) fn take_turned(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.turned).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tables;
    use dataplane_api::Update;
    use policy_model::EncapsulationMode;
    use proptest::prelude::*;

    fn node(name: &str, addresses: &[&str]) -> Update {
        Update::Node(ClusterNode {
            name: name.into(),
            is_here: name == "here",
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ipip: None,
            vxlan4: None,
            vxlan6: None,
            vxlan_mac: None,
        })
    }

    fn pool(cidr: &str, nat_outgoing: bool) -> PoolRange {
        PoolRange {
            cidr: cidr.parse().unwrap(),
            nat_outgoing,
            ipip: EncapsulationMode::Never,
            vxlan: EncapsulationMode::Never,
        }
    }

    /// What a commit says of addresses of nodes, and which there are.
    fn commit(tables: &mut Tables, updates: &[Update]) -> (Vec<String>, Vec<String>) {
        updates.iter().for_each(|update| tables.apply(update));
        let changed = tables.commit().node_addresses;
        let text = |address: &IpAddr| address.to_string();
        (
            changed.iter().map(text).collect(),
            tables.node_addresses().keys().map(text).collect(),
        )
    }

    #[test]
    fn an_address_stays_while_any_node_claims_it() {
        let mut tables = Tables::new();
        let (changed, there) = commit(
            &mut tables,
            &[
                node("here", &["192.0.2.1", "2001:db8::1"]),
                node("b", &["192.0.2.2", "192.0.2.2"]),
            ],
        );
        assert_eq!(changed, ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        assert_eq!(there, changed);
        // A second node claims an address of the first; the first leaves it.
        let (changed, there) = commit(&mut tables, &[node("c", &["192.0.2.2"])]);
        assert_eq!((changed.len(), there.len()), (0, 3));
        assert_eq!(
            tables.node_addresses()[&"192.0.2.2".parse::<IpAddr>().unwrap()],
            3
        );
        let (changed, _) = commit(&mut tables, &[node("b", &["192.0.2.3"])]);
        assert_eq!(changed, ["192.0.2.3"]);
        let (changed, there) = commit(&mut tables, &[Update::NodeRemoved("c".into())]);
        assert_eq!(changed, ["192.0.2.2"]);
        assert_eq!(there, ["192.0.2.1", "192.0.2.3", "2001:db8::1"]);
        let (changed, _) = commit(&mut tables, &[Update::NodeRemoved("c".into())]);
        assert!(changed.is_empty(), "a node goes once");
    }

    #[test]
    fn what_is_as_it_was_is_no_change() {
        let mut tables = Tables::new();
        commit(&mut tables, &[node("a", &["192.0.2.1"])]);
        let (changed, there) = commit(
            &mut tables,
            &[
                Update::NodeRemoved("a".into()),
                node("b", &["192.0.2.9"]),
                node("a", &["192.0.2.1"]),
                Update::NodeRemoved("b".into()),
            ],
        );
        assert!(changed.is_empty(), "{changed:?}");
        assert_eq!(there, ["192.0.2.1"]);
    }

    #[test]
    fn pools_are_known_by_their_range() {
        let mut tables = Tables::new();
        assert!(!tables.commit().pools);
        tables.apply(&Update::Pool(pool("10.65.0.0/16", true)));
        tables.apply(&Update::Pool(pool("fd00:65::/48", false)));
        assert!(tables.commit().pools);
        tables.apply(&Update::Pool(pool("10.65.0.0/16", true)));
        tables.apply(&Update::PoolRemoved("10.66.0.0/16".parse().unwrap()));
        assert!(!tables.commit().pools, "nothing is otherwise");
        tables.apply(&Update::Pool(pool("10.65.0.0/16", false)));
        tables.apply(&Update::PoolRemoved("fd00:65::/48".parse().unwrap()));
        assert!(tables.commit().pools);
        let expected = pool("10.65.0.0/16", false);
        assert_eq!(tables.pools(), &BTreeMap::from([(expected.cidr, expected)]));
    }

    proptest! {
        /// Whatever nodes come and go: the addresses are those of the nodes that are there, and each commit says what
        /// became otherwise since the last.
        #[test]
        fn claims_are_those_of_the_nodes_that_are_there(
            flushes in prop::collection::vec(prop::collection::vec((0u8..5, prop::collection::vec(0u8..6, 0..4)), 0..6), 0..12)
        ) {
            let address = |n: &u8| IpAddr::from([192, 0, 2, *n]);
            let mut tables = Tables::new();
            let mut plain: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
            let mut before: BTreeSet<IpAddr> = BTreeSet::new();
            for flush in flushes {
                for (name, list) in flush {
                    let text = name.to_string();
                    if list.is_empty() {
                        plain.remove(&name);
                        tables.apply(&Update::NodeRemoved(text.as_str().into()));
                    } else {
                        let addresses: Vec<String> = list.iter().map(|n| address(n).to_string()).collect();
                        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
                        tables.apply(&node(&text, &addresses));
                        plain.insert(name, list);
                    }
                }
                let changed = tables.commit().node_addresses;
                let after: BTreeSet<IpAddr> = plain.values().flatten().map(address).collect();
                let expected: Vec<IpAddr> = before.symmetric_difference(&after).copied().collect();
                prop_assert_eq!(changed, expected);
                prop_assert!(tables.node_addresses().keys().eq(after.iter()));
                before = after;
            }
        }
    }
}
