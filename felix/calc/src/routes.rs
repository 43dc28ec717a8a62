//! Where other nodes' workloads are: a route for each of their blocks, and for each address outside of these.
//!
//! Everything is derived anew from the facts for the destinations that a change may concern, and compared with what
//! the hands know: whichever of node, block and endpoint came first or left last makes no difference.

use crate::address_book::{AddressBook, Block, nth};
use crate::items::{ItemKind, Items};
use crate::nets::is_address;
use crate::sequence::Sequence;
use dataplane_api::{NodeRoute, PoolRange, Update};
use ipnet::IpNet;
use policy_model::{IpPoolSpec, NodeSpec};
use policy_model_selector::index::Symbol;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A node and the addresses by which others reach it.
#[derive(PartialEq)]
struct Node {
    name: Arc<str>,
    ipv4: Option<IpAddr>,
    ipv6: Option<IpAddr>,
}

/// The node's own route to each destination, as sent: owner and next hop.
type Hop = (Symbol, IpAddr);

/// Nodes, pools and what the hands know of both.
pub(crate) struct Routes {
    here: Symbol,
    nodes: FxHashMap<Symbol, Node>,
    sent: FxHashMap<IpNet, Hop>,
    /// Destinations to look at.
    dirty: FxHashSet<IpNet>,
    /// Nodes whose addresses changed.
    dirty_nodes: FxHashSet<Symbol>,
    pools: BTreeMap<Box<str>, PoolRange>,
    sent_pools: BTreeMap<IpNet, PoolRange>,
    pools_changed: bool,
}

impl Routes {
    pub(crate) fn new(here: Symbol) -> Self {
        Routes {
            here,
            nodes: FxHashMap::default(),
            sent: FxHashMap::default(),
            dirty: FxHashSet::default(),
            dirty_nodes: FxHashSet::default(),
            pools: BTreeMap::new(),
            sent_pools: BTreeMap::new(),
            pools_changed: false,
        }
    }

    pub(crate) fn set_node(&mut self, symbol: Symbol, name: &str, spec: &NodeSpec) {
        let all = spec.all_addresses();
        let first = |is_ipv4: bool| all.iter().find(|address| address.is_ipv4() == is_ipv4).copied();
        let node = Node {
            name: name.into(),
            ipv4: first(true),
            ipv6: first(false),
        };
        if self.nodes.get(&symbol) != Some(&node) {
            self.nodes.insert(symbol, node);
            self.dirty_nodes.insert(symbol);
        }
    }

    pub(crate) fn remove_node(&mut self, symbol: Symbol) {
        if self.nodes.remove(&symbol).is_some() {
            self.dirty_nodes.insert(symbol);
        }
    }

    pub(crate) fn set_pool(&mut self, name: &str, spec: &IpPoolSpec) {
        let pool = PoolRange {
            cidr: spec.cidr.trunc(),
            nat_outgoing: spec.nat_outgoing,
            ipip: spec.ipip_mode,
            vxlan: spec.vxlan_mode,
        };
        if self.pools.get(name) != Some(&pool) {
            self.pools.insert(name.into(), pool);
            self.pools_changed = true;
        }
    }

    pub(crate) fn remove_pool(&mut self, name: &str) {
        self.pools_changed |= self.pools.remove(name).is_some();
    }

    /// Has the next flush look at the networks of a workload endpoint on a node.
    pub(crate) fn touch_endpoint(&mut self, node: Symbol, nets: impl Iterator<Item = IpNet>) {
        // An endpoint on a node without a known address has no route, and when the node comes all of it is looked at.
        // One that just left may still have its routes with the hands.
        if node == self.here || self.nodes.contains_key(&node) || self.dirty_nodes.contains(&node) {
            self.dirty.extend(nets);
        }
    }

    /// Has the next flush look at a block's range and the endpoints in it.
    pub(crate) fn touch_block(&mut self, range: IpNet, items: &Items) {
        self.dirty.insert(range);
        let addresses = (0..).map_while(|ordinal| nth(range, ordinal)).map(IpNet::from);
        // A valid block is small; of another one only the beginning is looked at.
        let held = addresses
            .take(1 << 16)
            .filter(|net| items.holders_of(*net).next().is_some());
        self.dirty.extend(held);
    }

    /// Tells what changed since the last flush.
    pub(crate) fn settle(&mut self, items: &Items, book: &AddressBook, out: &mut Sequence) {
        self.settle_pools(out);
        let nodes = std::mem::take(&mut self.dirty_nodes);
        if !nodes.is_empty() {
            let is_theirs = |block: &&Block| block.node.is_some_and(|node| nodes.contains(&node));
            self.dirty
                .extend(book.blocks().filter(is_theirs).map(|block| block.cidr));
            // Nodes' addresses change so seldom that a table of endpoints by node would cost more than this.
            for (_, item) in items.iter().filter(|(_, item)| item.kind == ItemKind::Workload) {
                if nodes.contains(&item.node) {
                    self.dirty.extend(item.nets.iter());
                }
            }
        }
        for destination in std::mem::take(&mut self.dirty) {
            let hop = self.hop(destination, items, book);
            if self.sent.get(&destination).copied() == hop {
                continue;
            }
            match hop {
                Some((node, via)) => {
                    self.sent.insert(destination, (node, via));
                    // A hop comes from a known node only.
                    if let Some(node) = self.nodes.get(&node) {
                        let route = NodeRoute {
                            destination,
                            node: node.name.clone(),
                            via,
                        };
                        out.routes.push(Update::Route(route));
                    }
                }
                None => {
                    self.sent.remove(&destination);
                    out.gone_routes.push(Update::RouteRemoved(destination));
                }
            }
        }
    }

    fn settle_pools(&mut self, out: &mut Sequence) {
        if !std::mem::take(&mut self.pools_changed) {
            return;
        }
        let mut now: BTreeMap<IpNet, PoolRange> = BTreeMap::new();
        for pool in self.pools.values() {
            // Pools do not overlap; if two claim one range, the first by name counts.
            now.entry(pool.cidr).or_insert_with(|| pool.clone());
        }
        let differs = |(cidr, pool): &(&IpNet, &PoolRange)| self.sent_pools.get(*cidr) != Some(*pool);
        out.routes.extend(
            now.iter()
                .filter(differs)
                .map(|(_, pool)| Update::Pool(pool.clone())),
        );
        let gone = self.sent_pools.keys().filter(|cidr| !now.contains_key(*cidr));
        out.gone_routes
            .extend(gone.map(|cidr| Update::PoolRemoved(*cidr)));
        self.sent_pools = now;
    }

    /// Where a destination is now, if behind another node.
    fn hop(&self, destination: IpNet, items: &Items, book: &AddressBook) -> Option<Hop> {
        if is_address(&destination)
            && let Some(decided) = self.hop_of_endpoint(destination, items, book)
        {
            return decided;
        }
        let node = book.block(destination)?.node.filter(|node| *node != self.here)?;
        self.via(node, destination)
    }

    /// Where the endpoints with an address want it; `None` where none of them needs a route of its own.
    fn hop_of_endpoint(&self, address: IpNet, items: &Items, book: &AddressBook) -> Option<Option<Hop>> {
        let mut nearest: Option<(&Node, Hop)> = None;
        for (_, item) in items
            .holders_of(address)
            .filter(|(_, item)| item.kind == ItemKind::Workload)
        {
            if item.node == self.here {
                // Two endpoints claim the address, and one of them is here: it wins, without a detour.
                return Some(None);
            }
            let (Some(node), Some(hop)) = (self.nodes.get(&item.node), self.via(item.node, address)) else {
                continue;
            };
            // Of several claims the first node by name counts, whichever came first.
            if nearest.is_none_or(|(other, _)| node.name < other.name) {
                nearest = Some((node, hop));
            }
        }
        let (_, (node, via)) = nearest?;
        let in_own_block = book
            .block_around(address.addr())
            .is_some_and(|block| block.node == Some(node) && block.cidr != address);
        (!in_own_block).then_some(Some((node, via)))
    }

    fn via(&self, node: Symbol, destination: IpNet) -> Option<Hop> {
        let known = self.nodes.get(&node)?;
        let via = if matches!(destination, IpNet::V4(_)) {
            known.ipv4
        } else {
            known.ipv6
        };
        via.map(|via| (node, via))
    }

    pub(crate) fn has_pool(&self, name: &str) -> bool {
        self.pools.contains_key(name)
    }

    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn route_count(&self) -> usize {
        self.sent.len()
    }

    pub(crate) fn pool_count(&self) -> usize {
        self.pools.len()
    }

    /// Calls `visit` with every symbol that is held here.
    pub(crate) fn for_each_symbol(&self, mut visit: impl FnMut(Symbol)) {
        visit(self.here);
        self.nodes.keys().for_each(|node| visit(*node));
        self.sent.values().for_each(|(node, _)| visit(*node));
    }
}
