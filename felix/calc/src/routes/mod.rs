//! Where the workloads of the cluster are: a route for each block, and for each address outside of its node's blocks.
//!
//! Everything is derived anew from the facts for the destinations that a change may concern, and compared with what
//! the hands know: whichever of node, pool, block and endpoint came first or left last makes no difference.
//!
//! Rooms: `nodes` (what is known of one), `pools` (how packets to an address are wrapped), and here what follows.

mod nodes;
mod pools;

use crate::address_book::{AddressBook, Block, nth};
use crate::items::{ItemKind, Items};
use crate::nets::is_address;
use crate::sequence::Sequence;
use crate::tunnel_ends::TunnelKind;
use dataplane_api::{ClusterNode, NodeRoute, Update, Way};
use ipnet::IpNet;
use nodes::Node;
use policy_model::{EncapsulationMode, IpPoolSpec, NodeSpec};
use policy_model_selector::index::{Interner, Symbol};
use pools::{Pools, Wrapping};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use std::net::IpAddr;

/// Where a destination is, as sent: the node, and the way there.
type Hop = (Symbol, Way);

/// Nodes, pools and what the hands know of both.
pub(crate) struct Routes {
    here: Symbol,
    /// Whether workloads have their addresses from the nodes' own ranges.
    node_ranges: bool,
    nodes: FxHashMap<Symbol, Node>,
    told: FxHashMap<Symbol, ClusterNode>,
    /// The nodes whose range or whose tunnel device's address this is.
    of_nodes: FxHashMap<IpNet, SmallVec<[Symbol; 1]>>,
    pools: Pools,
    sent: FxHashMap<IpNet, Hop>,
    /// Destinations to look at.
    dirty: FxHashSet<IpNet>,
    /// Nodes to look at.
    dirty_nodes: FxHashSet<Symbol>,
}

impl Routes {
    pub(crate) fn new(here: Symbol, node_ranges: bool) -> Self {
        Routes {
            here,
            node_ranges,
            nodes: FxHashMap::default(),
            told: FxHashMap::default(),
            of_nodes: FxHashMap::default(),
            pools: Pools::default(),
            sent: FxHashMap::default(),
            dirty: FxHashSet::default(),
            dirty_nodes: FxHashSet::default(),
        }
    }

    pub(crate) fn set_node(&mut self, symbol: Symbol, name: &str, spec: &NodeSpec) {
        let node = Node::of(name, spec);
        if self.nodes.get(&symbol) != Some(&node) {
            self.forget_ranges(symbol);
            if self.node_ranges {
                for range in &node.ranges {
                    self.of_nodes.entry(*range).or_default().push(symbol);
                    self.dirty.insert(*range);
                }
            }
            self.nodes.insert(symbol, node);
            self.dirty_nodes.insert(symbol);
        }
    }

    pub(crate) fn remove_node(&mut self, symbol: Symbol) {
        self.forget_ranges(symbol);
        if self.nodes.remove(&symbol).is_some() {
            self.dirty_nodes.insert(symbol);
        }
    }

    fn forget_ranges(&mut self, symbol: Symbol) {
        let ranges: SmallVec<[IpNet; 2]> = match self.nodes.get(&symbol) {
            Some(node) if self.node_ranges => node.ranges.iter().copied().collect(),
            _ => return,
        };
        for range in ranges {
            self.disown(range, symbol);
        }
    }

    /// Takes in that a destination is no longer of a node itself.
    fn disown(&mut self, destination: IpNet, symbol: Symbol) {
        if let Some(owners) = self.of_nodes.get_mut(&destination) {
            if let Some(place) = owners.iter().position(|owner| *owner == symbol) {
                owners.swap_remove(place);
            }
            if owners.is_empty() {
                self.of_nodes.remove(&destination);
            }
        }
        self.dirty.insert(destination);
    }

    pub(crate) fn set_pool(&mut self, name: &str, spec: &IpPoolSpec) {
        self.pools.set(name, spec);
    }

    pub(crate) fn remove_pool(&mut self, name: &str) {
        self.pools.remove(name);
    }

    /// Has the next flush look at a node whose tunnel devices may have other addresses.
    pub(crate) fn touch_node(&mut self, node: Symbol) {
        self.dirty_nodes.insert(node);
    }

    /// Has the next flush look at the networks of a workload endpoint on a node.
    pub(crate) fn touch_endpoint(&mut self, node: Symbol, nets: impl Iterator<Item = IpNet>) {
        // An endpoint on a node without a known address has no route, and when the node comes all of it is looked at.
        // One that just left may still have its routes with the hands.
        if node == self.here || self.nodes.contains_key(&node) || self.dirty_nodes.contains(&node) {
            self.dirty.extend(nets);
        }
    }

    /// Has the next flush look at a block's range and all that is in it.
    pub(crate) fn touch_block(&mut self, range: IpNet, items: &Items) {
        self.dirty.insert(range);
        let addresses = (0..).map_while(|ordinal| nth(range, ordinal)).map(IpNet::from);
        // A valid block is small; of another one only the beginning is looked at.
        let held = addresses
            .take(1 << 16)
            .filter(|net| self.of_nodes.contains_key(net) || items.holders_of(*net).next().is_some());
        self.dirty.extend(held);
    }

    /// Tells what changed since the last flush.
    pub(crate) fn settle(
        &mut self,
        interner: &Interner,
        items: &Items,
        book: &AddressBook,
        out: &mut Sequence,
    ) {
        let other_ways = self.pools.settle(out);
        let nodes = std::mem::take(&mut self.dirty_nodes);
        for node in &nodes {
            self.settle_node(*node, interner, book, out);
        }
        if other_ways || nodes.contains(&self.here) {
            // Which subnet this node is in decides for all others what is wrapped.
            self.dirty.extend(self.sent.keys().copied());
            self.dirty.extend(self.of_nodes.keys().copied());
            self.dirty.extend(book.blocks().map(|block| block.cidr));
        }
        if other_ways {
            // What had no way because its node has no address may be one of a pool now that says nowhere.
            let lacks = |node: Symbol, net: &IpNet| {
                let known = self.nodes.get(&node);
                known.is_some_and(|known| known.address(net.addr().is_ipv4()).is_none())
            };
            for (_, item) in items.iter().filter(|(_, item)| item.kind == ItemKind::Workload) {
                let nets = item.nets.iter().filter(|net| lacks(item.node, net));
                self.dirty.extend(nets);
            }
        }
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
                Some((node, way)) => {
                    self.sent.insert(destination, (node, way));
                    let known = self.nodes.get(&node).map(|known| known.name.clone());
                    out.routes.push(Update::Route(NodeRoute {
                        destination,
                        node: known.unwrap_or_else(|| interner.resolve(node).into()),
                        way,
                    }));
                }
                None => {
                    self.sent.remove(&destination);
                    out.gone_routes.push(Update::RouteRemoved(destination));
                }
            }
        }
    }

    /// Tells of a node if something about it changed that the hands know, its tunnel devices' addresses included.
    fn settle_node(&mut self, symbol: Symbol, interner: &Interner, book: &AddressBook, out: &mut Sequence) {
        let now = self
            .nodes
            .get(&symbol)
            .map(|node| node.as_told(symbol, symbol == self.here, book, self.node_ranges));
        let before = self.told.remove(&symbol);
        if before != now {
            for end in before.iter().flat_map(ends_of) {
                self.disown(end, symbol);
            }
            for end in now.iter().flat_map(ends_of) {
                self.of_nodes.entry(end).or_default().push(symbol);
                self.dirty.insert(end);
            }
            out.routes.extend(now.clone().map(Update::Node));
            if now.is_none() {
                let name = interner.resolve(symbol).into();
                out.gone_routes.push(Update::NodeRemoved(name));
            }
        }
        self.told.extend(now.map(|node| (symbol, node)));
    }

    /// Where a destination is now, if that is not to be left to others.
    fn hop(&self, destination: IpNet, items: &Items, book: &AddressBook) -> Option<Hop> {
        if is_address(&destination)
            && let Some(decided) = self.hop_of_endpoint(destination, items, book)
        {
            return decided;
        }
        if let Some(node) = book.block(destination).and_then(|block| block.node) {
            return self.hop_to(node, destination, book);
        }
        let owners = self.of_nodes.get(&destination)?;
        let owners = owners
            .iter()
            .filter_map(|node| Some((self.nodes.get(node)?, *node)));
        let (owner, node) = owners.min_by(|(a, _), (b, _)| a.name.cmp(&b.name))?;
        if is_address(&destination) && (node == self.here || self.is_inside(owner, node, destination, book)) {
            // A tunnel's end: this node's own needs no route, and another's that is in its own range has one.
            return None;
        }
        self.hop_to(node, destination, book)
    }

    /// Whether an address lies in what leads to this node anyway.
    fn is_inside(&self, owner: &Node, node: Symbol, address: IpNet, book: &AddressBook) -> bool {
        let in_range = self.node_ranges && owner.ranges.iter().any(|range| range.contains(&address));
        in_range || is_in_block_of(node, address, book)
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
            let (Some(node), Some(hop)) = (self.nodes.get(&item.node), self.hop_to(item.node, address, book))
            else {
                continue;
            };
            // Of several claims the first node by name counts, whichever came first.
            if nearest.is_none_or(|(other, _)| node.name < other.name) {
                nearest = Some((node, hop));
            }
        }
        let (owner, (node, way)) = nearest?;
        let inside = self.is_inside(owner, node, address, book);
        (!inside).then_some(Some((node, way)))
    }

    /// The way to a destination that is a node's.
    fn hop_to(&self, node: Symbol, destination: IpNet, book: &AddressBook) -> Option<Hop> {
        if node == self.here {
            // A range of one address is its workload's, or the tunnel's.
            return (!is_address(&destination)).then_some((node, Way::Here));
        }
        let is_ipv4 = matches!(destination, IpNet::V4(_));
        let known = self.nodes.get(&node);
        let address = known.and_then(|known| known.address(is_ipv4));
        let Some(wrapping) = self.pools.wrapping(destination) else {
            return address.map(|address| (node, Way::Plain(address)));
        };
        Some((node, self.wrapped(wrapping, node, address, is_ipv4, book)))
    }

    /// The way to a node where what goes there is wrapped: what lacks something for it goes nowhere.
    fn wrapped(
        &self,
        wrapping: Wrapping,
        node: Symbol,
        address: Option<IpAddr>,
        is_ipv4: bool,
        book: &AddressBook,
    ) -> Way {
        let (Some(known), Some(address)) = (self.nodes.get(&node), address) else {
            return Way::Nowhere;
        };
        let (Wrapping::Ipip(mode) | Wrapping::Vxlan(mode)) = wrapping;
        let own = self.nodes.get(&self.here);
        let is_near = || own.is_some_and(|own| own.shares_subnet(address));
        if mode == EncapsulationMode::CrossSubnet && is_near() {
            return Way::Plain(address);
        }
        match (wrapping, address) {
            (Wrapping::Ipip(_), IpAddr::V4(address)) => Way::Ipip(address),
            // There is no such tunnel.
            (Wrapping::Ipip(_), IpAddr::V6(_)) => Way::Nowhere,
            (Wrapping::Vxlan(_), _) => {
                let kind = if is_ipv4 {
                    TunnelKind::Vxlan4
                } else {
                    TunnelKind::Vxlan6
                };
                known
                    .end(node, kind, book, self.node_ranges)
                    .map_or(Way::Nowhere, Way::Vxlan)
            }
        }
    }

    pub(crate) fn has_pool(&self, name: &str) -> bool {
        self.pools.has(name)
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
        self.told.keys().for_each(|node| visit(*node));
        self.dirty_nodes.iter().for_each(|node| visit(*node));
        self.sent.values().for_each(|(node, _)| visit(*node));
        self.of_nodes.values().flatten().for_each(|node| visit(*node));
    }
}

/// The addresses of a node's tunnel devices.
fn ends_of(node: &ClusterNode) -> SmallVec<[IpNet; 3]> {
    let v4 = [node.ipip, node.vxlan4].into_iter().flatten().map(IpAddr::V4);
    let all = v4.chain(node.vxlan6.map(IpAddr::V6));
    all.map(IpNet::from).collect()
}

fn is_in_block_of(node: Symbol, address: IpNet, book: &AddressBook) -> bool {
    book.block_around(address.addr())
        .is_some_and(|block| block.node == Some(node) && block.cidr != address)
}
