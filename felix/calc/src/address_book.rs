//! Address blocks: whose they are, and which pod has which address of them.
//!
//! An endpoint whose resource says no address has those that the blocks give to its pod. Block and endpoint come in
//! either order, so a pod is known as soon as one of them names it.

use crate::few::Few;
use crate::table::Table;
use crate::tunnel_ends::{TunnelEnd, TunnelEnds, TunnelKind};
use hashbrown::{DefaultHashBuilder, HashTable};
use ipnet::IpNet;
use policy_model::IpamBlockSpec;
use policy_model_selector::index::{Interner, ItemId, Symbol};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One block.
pub(crate) struct Block {
    name: Box<str>,
    pub(crate) cidr: IpNet,
    /// The node that owns it.
    pub(crate) node: Option<Symbol>,
    /// Ordinals of addresses with the numbers of their pods, ascending.
    allocations: Box<[(u32, u32)]>,
    /// Addresses of nodes' tunnel devices; sorted.
    ends: Box<[TunnelEnd]>,
}

struct Pod {
    namespace: Symbol,
    name: Box<str>,
    /// An address stands here once for each block that gives it.
    addresses: Few<IpAddr>,
    /// The endpoints that wait for the addresses.
    items: Few<ItemId>,
}

/// What a change of a block touches.
#[derive(Default)]
pub(crate) struct BlockChange {
    /// Endpoints whose pods have other addresses now; some repeatedly.
    pub(crate) items: Vec<ItemId>,
    /// Ranges whose block came, left or changed hands.
    pub(crate) ranges: SmallVec<[IpNet; 2]>,
    /// Nodes whose tunnel devices may have other addresses now; some repeatedly.
    pub(crate) nodes: SmallVec<[Symbol; 1]>,
}

/// Blocks and pods.
#[derive(Default)]
pub(crate) struct AddressBook {
    blocks: Table<Block>,
    by_name: HashMap<Box<str>, u32>,
    by_cidr: FxHashMap<IpNet, SmallVec<[u32; 1]>>,
    /// How many blocks there are of each family (true for IPv4) and prefix length.
    lengths: BTreeMap<(bool, u8), usize>,
    ends: TunnelEnds,
    pods: Table<Pod>,
    by_pod: HashTable<u32>,
    /// Seeded: names are the users'.
    hasher: DefaultHashBuilder,
}

impl AddressBook {
    /// Enters a block or replaces it.
    pub(crate) fn set_block(
        &mut self,
        interner: &mut Interner,
        name: &str,
        spec: &IpamBlockSpec,
    ) -> BlockChange {
        let cidr = spec.cidr.trunc();
        let owner = spec
            .affinity
            .as_deref()
            .and_then(|affinity| affinity.strip_prefix("host:"));
        let node = owner
            .filter(|node| !node.is_empty())
            .map(|node| interner.intern(node));
        let (mut allocations, mut ends) = (Vec::new(), Vec::new());
        for (ordinal, attribute) in spec.allocations.iter().enumerate() {
            let Some(attribute) = attribute.and_then(|place| spec.attributes.get(place as usize)) else {
                continue;
            };
            let secondary = |key: &str| attribute.secondary.get(key).filter(|value| !value.is_empty());
            let Ok(ordinal) = u32::try_from(ordinal) else {
                continue;
            };
            let Some(address) = nth(cidr, ordinal) else {
                continue;
            };
            if let Some((kind, node)) = TunnelKind::of_allocation(attribute) {
                if kind.fits(address) {
                    let node = interner.intern(node);
                    ends.push(TunnelEnd { node, kind, address });
                }
                continue;
            }
            let (Some(namespace), Some(pod)) = (secondary("namespace"), secondary("pod")) else {
                continue;
            };
            let namespace = interner.intern(namespace);
            allocations.push((ordinal, self.pod(namespace, pod)));
        }
        ends.sort_unstable();
        let block = Block {
            name: name.into(),
            cidr,
            node,
            allocations: allocations.into_boxed_slice(),
            ends: ends.into_boxed_slice(),
        };

        let before = self.by_name.get(name).and_then(|number| self.blocks.get(*number));
        let same_range = before.is_some_and(|before| before.cidr == block.cidr && before.node == block.node);
        // The new allocations first, so that a pod of both does not vanish in between.
        let mut change = BlockChange::default();
        self.allocate(&block, true, &mut change);
        self.end(&block.ends, true, &mut change);
        let old = self.take_out(name, &mut change);
        if same_range {
            change.ranges.clear();
        } else {
            change.ranges.push(block.cidr);
        }
        if let Some(old) = old {
            if old.cidr == block.cidr && *old.allocations == *block.allocations {
                change.items.clear();
            }
            if *old.ends == *block.ends {
                change.nodes.clear();
            }
        }
        self.put_in(block);
        change
    }

    pub(crate) fn remove_block(&mut self, name: &str) -> BlockChange {
        let mut change = BlockChange::default();
        self.take_out(name, &mut change);
        change
    }

    fn put_in(&mut self, block: Block) {
        let (name, cidr) = (block.name.clone(), block.cidr);
        *self.lengths.entry(length_of(cidr)).or_default() += 1;
        let number = self.blocks.insert(block);
        self.by_name.insert(name, number);
        self.by_cidr.entry(cidr).or_default().push(number);
    }

    fn take_out(&mut self, name: &str, change: &mut BlockChange) -> Option<Block> {
        let number = self.by_name.remove(name)?;
        let block = self.blocks.remove(number)?;
        if let Some(numbers) = self.by_cidr.get_mut(&block.cidr) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_cidr.remove(&block.cidr);
            }
        }
        if let Some(count) = self.lengths.get_mut(&length_of(block.cidr)) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length_of(block.cidr));
            }
        }
        self.allocate(&block, false, change);
        self.end(&block.ends, false, change);
        change.ranges.push(block.cidr);
        Some(block)
    }

    fn allocate(&mut self, block: &Block, given: bool, change: &mut BlockChange) {
        for (ordinal, number) in &block.allocations {
            let (Some(pod), Some(address)) = (self.pods.get_mut(*number), nth(block.cidr, *ordinal)) else {
                continue;
            };
            if given {
                pod.addresses.push(address);
            } else {
                pod.addresses.take_out(address);
            }
            change.items.extend_from_slice(pod.items.as_slice());
            self.forget_if_unused(*number);
        }
    }

    fn end(&mut self, ends: &[TunnelEnd], given: bool, change: &mut BlockChange) {
        for end in ends {
            if given {
                self.ends.add(*end);
            } else {
                self.ends.remove(*end);
            }
            change.nodes.push(end.node);
        }
    }

    /// The address of a node's tunnel device.
    pub(crate) fn tunnel_end(&self, node: Symbol, kind: TunnelKind) -> Option<IpAddr> {
        self.ends.of(node, kind)
    }

    /// The block of exactly this range; the first by name where several claim it.
    pub(crate) fn block(&self, cidr: IpNet) -> Option<&Block> {
        let numbers = self.by_cidr.get(&cidr)?;
        numbers
            .iter()
            .filter_map(|number| self.blocks.get(*number))
            .min_by(|a, b| a.name.cmp(&b.name))
    }

    /// The smallest block that an address is in.
    pub(crate) fn block_around(&self, address: IpAddr) -> Option<&Block> {
        let of_family = (address.is_ipv4(), 0)..=(address.is_ipv4(), u8::MAX);
        self.lengths
            .range(of_family)
            .rev()
            .find_map(|((_, length), _)| self.block(IpNet::new(address, *length).ok()?.trunc()))
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().map(|(_, block)| block)
    }

    pub(crate) fn has_block(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(crate) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// The number of a pod, given now if it has none.
    fn pod(&mut self, namespace: Symbol, name: &str) -> u32 {
        let hash = self.hasher.hash_one((namespace, name));
        let pods = &self.pods;
        let is_it = |number: &u32| {
            pods.get(*number)
                .is_some_and(|pod| pod.namespace == namespace && *pod.name == *name)
        };
        if let Some(number) = self.by_pod.find(hash, is_it) {
            return *number;
        }
        let number = self.pods.insert(Pod {
            namespace,
            name: name.into(),
            addresses: Few::None,
            items: Few::None,
        });
        let (pods, hasher) = (&self.pods, &self.hasher);
        self.by_pod.insert_unique(hash, number, |other| {
            pods.get(*other)
                .map_or(0, |pod| hasher.hash_one((pod.namespace, &*pod.name)))
        });
        number
    }

    /// Has an endpoint wait for the addresses of a pod, whose number this returns.
    pub(crate) fn bind(&mut self, namespace: Symbol, pod: &str, item: ItemId) -> u32 {
        let number = self.pod(namespace, pod);
        if let Some(pod) = self.pods.get_mut(number)
            && !pod.items.as_slice().contains(&item)
        {
            pod.items.push(item);
        }
        number
    }

    /// Undoes [`AddressBook::bind`].
    pub(crate) fn unbind(&mut self, number: u32, item: ItemId) {
        if let Some(pod) = self.pods.get_mut(number) {
            pod.items.take_out(item);
        }
        self.forget_if_unused(number);
    }

    fn forget_if_unused(&mut self, number: u32) {
        let Some(pod) = self.pods.get(number) else { return };
        if !(pod.addresses.is_empty() && pod.items.is_empty()) {
            return;
        }
        let hash = self.hasher.hash_one((pod.namespace, &*pod.name));
        if let Ok(entry) = self.by_pod.find_entry(hash, |other| *other == number) {
            entry.remove();
        }
        self.pods.remove(number);
    }

    /// The addresses of a pod; some repeatedly where several blocks claim one.
    pub(crate) fn addresses(&self, number: u32) -> &[IpAddr] {
        self.pods
            .get(number)
            .map(|pod| pod.addresses.as_slice())
            .unwrap_or_default()
    }

    /// The addresses of the pod of a name.
    pub(crate) fn addresses_of(&self, namespace: Symbol, name: &str) -> &[IpAddr] {
        let hash = self.hasher.hash_one((namespace, name));
        let is_it = |number: &u32| {
            self.pods
                .get(*number)
                .is_some_and(|pod| pod.namespace == namespace && *pod.name == *name)
        };
        self.by_pod
            .find(hash, is_it)
            .map(|number| self.addresses(*number))
            .unwrap_or_default()
    }

    /// Calls `visit` with every symbol that is held here.
    pub(crate) fn for_each_symbol(&self, mut visit: impl FnMut(Symbol)) {
        self.blocks().filter_map(|block| block.node).for_each(&mut visit);
        self.pods.iter().for_each(|(_, pod)| visit(pod.namespace));
        self.ends.for_each_symbol(visit);
    }
}

fn length_of(cidr: IpNet) -> (bool, u8) {
    (cidr.addr().is_ipv4(), cidr.prefix_len())
}

/// The address of a block at an ordinal.
pub(crate) fn nth(block: IpNet, ordinal: u32) -> Option<IpAddr> {
    let address = match block.network() {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits().checked_add(ordinal)?).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits().checked_add(ordinal.into())?).into(),
    };
    block.contains(&address).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model::{AllocationAttribute, Attributes};

    fn block(cidr: &str, affinity: Option<&str>, pods: &[(usize, &str)]) -> IpamBlockSpec {
        let mut allocations = vec![None; 4];
        let mut attributes = Vec::new();
        for (ordinal, pod) in pods {
            allocations[*ordinal] = Some(attributes.len() as u32);
            let pair = |key: &str, value: &str| (key.to_string(), value.to_string());
            let secondary = Attributes::from([pair("namespace", "shop"), pair("pod", pod)]);
            attributes.push(AllocationAttribute {
                handle_id: None,
                secondary,
            });
        }
        IpamBlockSpec {
            cidr: cidr.parse().unwrap(),
            affinity: affinity.map(str::to_string),
            strict_affinity: false,
            allocations,
            unallocated: Vec::new(),
            attributes,
            sequence_number: 0,
            sequence_number_for_allocation: BTreeMap::new(),
            deleted: false,
        }
    }

    fn texts(addresses: &[IpAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn pods_and_blocks_come_in_either_order_and_leave_nothing() {
        let (mut book, mut interner) = (AddressBook::default(), Interner::new());
        let shop = interner.intern("shop");
        let web = book.bind(shop, "web", ItemId(7));
        assert!(book.addresses(web).is_empty());
        let change = book.set_block(
            &mut interner,
            "b",
            &block("10.0.0.4/30", Some("host:n1"), &[(1, "web"), (2, "db")]),
        );
        assert_eq!((change.items, change.ranges.len()), (vec![ItemId(7)], 1));
        assert_eq!(texts(book.addresses(web)), ["10.0.0.5"]);
        assert_eq!(texts(book.addresses_of(shop, "db")), ["10.0.0.6"]);
        let again = book.set_block(
            &mut interner,
            "b",
            &block("10.0.0.4/30", Some("host:n1"), &[(1, "web"), (2, "db")]),
        );
        assert!(again.items.is_empty() && again.ranges.is_empty());
        let moved = book.set_block(
            &mut interner,
            "b",
            &block("10.0.0.4/30", Some("host:n1"), &[(3, "web")]),
        );
        assert_eq!((moved.items.contains(&ItemId(7)), moved.ranges.len()), (true, 0));
        assert_eq!(texts(book.addresses(web)), ["10.0.0.7"]);
        let owned = book.set_block(&mut interner, "b", &block("10.0.0.4/30", None, &[(3, "web")]));
        assert_eq!((owned.items.len(), owned.ranges.is_empty()), (0, false));
        assert_eq!(book.remove_block("b").items, [ItemId(7)]);
        book.unbind(web, ItemId(7));
        assert_eq!(
            (
                book.pods.len(),
                book.by_pod.len(),
                book.lengths.len(),
                book.by_cidr.len()
            ),
            (0, 0, 0, 0)
        );
    }

    #[test]
    fn the_smallest_block_around_an_address_counts() {
        let (mut book, mut interner) = (AddressBook::default(), Interner::new());
        book.set_block(&mut interner, "wide", &block("10.0.0.0/24", Some("host:a"), &[]));
        book.set_block(
            &mut interner,
            "narrow",
            &block("10.0.0.4/30", Some("host:b"), &[]),
        );
        let around = |address: &str| {
            book.block_around(address.parse().unwrap())
                .map(|block| &*block.name)
        };
        assert_eq!(
            (around("10.0.0.5"), around("10.0.0.9"), around("10.0.1.1")),
            (Some("narrow"), Some("wide"), None)
        );
        assert_eq!(around("fd00::1"), None);
    }
}
