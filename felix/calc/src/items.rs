//! Everything that has labels and addresses: endpoints and network sets, in as few bytes as can be.
//!
//! With 250,000 endpoints each byte of one is a quarter of a megabyte. So names of namespaces and nodes are symbols,
//! lists that many endpoints share are kept once, and the two tables that find things (by key, by address) hold
//! nothing but numbers.

use crate::nets::Nets;
use crate::shared_lists::{ListId, SharedLists};
use crate::table::Table;
use hashbrown::{DefaultHashBuilder, HashTable};
use ipnet::IpNet;
use policy_model::{EndpointPort, Protocol};
use policy_model_selector::index::{ItemId, Symbol};
use std::hash::{BuildHasher, Hasher};

/// Which kind of resource a thing comes from. Names are unique within a kind (and namespace).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ItemKind {
    Workload,
    HostEndpoint,
    NetworkSet,
    GlobalNetworkSet,
}

/// A port that rules may name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NamedPort {
    pub(crate) name: Box<str>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// Who a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ItemKey<'a> {
    pub(crate) kind: ItemKind,
    pub(crate) namespace: Symbol,
    pub(crate) name: &'a str,
}

/// One thing with labels and addresses. The labels themselves are in the index.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) name: Box<str>,
    pub(crate) nets: Nets,
    pub(crate) namespace: Symbol,
    /// Node that it is on; the symbol of the empty name for network sets.
    pub(crate) node: Symbol,
    /// Named ports, in [`Items::ports`].
    pub(crate) ports: ListId,
    /// Profiles, in the graph's lists of profiles.
    pub(crate) profiles: ListId,
    /// The pod whose allocations are its addresses, in the address book; [`NO_POD`] where the resource says them.
    pub(crate) pod: u32,
    pub(crate) kind: ItemKind,
    /// Whether it counts in sets of the own side of rules: endpoints of this node, and network sets.
    pub(crate) own: bool,
}

/// No pod.
pub(crate) const NO_POD: u32 = u32::MAX;

impl Item {
    pub(crate) fn key(&self) -> ItemKey<'_> {
        ItemKey {
            kind: self.kind,
            namespace: self.namespace,
            name: &self.name,
        }
    }
}

/// An item and the hash of one of its networks.
#[derive(Clone, Copy)]
struct Holder {
    item: u32,
    hash: KeptHash,
}

/// What is kept of a hash in a table, so that a table that grows need not visit every item again.
#[derive(Clone, Copy, PartialEq, Eq)]
struct KeptHash(u32);

impl KeptHash {
    fn of(hash: u64) -> Self {
        KeptHash((hash >> 32) as u32)
    }

    /// Tables look at the lowest and the highest bits; the golden ratio gives both something of all.
    fn spread(self) -> u64 {
        u64::from(self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// All items.
#[derive(Default)]
pub(crate) struct Items {
    table: Table<Item>,
    keys: HashTable<(u32, KeptHash)>,
    holders: HashTable<Holder>,
    /// Seeded: names are the users'.
    hasher: DefaultHashBuilder,
    pub(crate) ports: SharedLists<NamedPort>,
}

impl Items {
    pub(crate) fn find(&self, key: &ItemKey<'_>) -> Option<ItemId> {
        let is_it =
            |(number, _): &(u32, KeptHash)| self.table.get(*number).is_some_and(|item| item.key() == *key);
        self.keys
            .find(self.key_hash(key).spread(), is_it)
            .map(|(number, _)| ItemId(*number))
    }

    fn key_hash(&self, key: &ItemKey<'_>) -> KeptHash {
        let ItemKey {
            kind,
            namespace,
            name,
        } = key;
        let mut hasher = self.hasher.build_hasher();
        // One number and one text: there is one of these for each endpoint of the cluster.
        hasher.write_u64(u64::from(namespace.number()) << 8 | *kind as u64);
        hasher.write(name.as_bytes());
        KeptHash::of(hasher.finish())
    }

    fn net_hash(&self, net: &IpNet) -> KeptHash {
        KeptHash::of(self.hasher.hash_one(net))
    }

    pub(crate) fn get(&self, id: ItemId) -> Option<&Item> {
        self.table.get(id.0)
    }

    pub(crate) fn get_mut(&mut self, id: ItemId) -> Option<&mut Item> {
        self.table.get_mut(id.0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ItemId, &Item)> {
        self.table.iter().map(|(number, item)| (ItemId(number), item))
    }

    pub(crate) fn insert(&mut self, item: Item) -> ItemId {
        let hash = self.key_hash(&item.key());
        let number = self.table.insert(item);
        self.keys
            .insert_unique(hash.spread(), (number, hash), |(_, hash)| hash.spread());
        self.enter(number);
        ItemId(number)
    }

    pub(crate) fn remove(&mut self, id: ItemId) -> Option<Item> {
        self.leave(id.0);
        let hash = self.key_hash(&self.table.get(id.0)?.key());
        if let Ok(entry) = self.keys.find_entry(hash.spread(), |(number, _)| *number == id.0) {
            entry.remove();
        }
        self.table.remove(id.0)
    }

    /// Gives an item other networks.
    pub(crate) fn set_nets(&mut self, id: ItemId, nets: Nets) {
        self.leave(id.0);
        if let Some(item) = self.table.get_mut(id.0) {
            item.nets = nets;
        }
        self.enter(id.0);
    }

    /// Those that have exactly this network.
    pub(crate) fn holders_of(&self, net: IpNet) -> impl Iterator<Item = (ItemId, &Item)> {
        let hash = self.net_hash(&net);
        let holds = move |holder: &Holder| {
            let item = self.table.get(holder.item).filter(|_| holder.hash == hash)?;
            item.nets.contains(net).then_some((ItemId(holder.item), item))
        };
        self.holders.iter_hash(hash.spread()).filter_map(holds)
    }

    fn enter(&mut self, number: u32) {
        let Some(item) = self.table.get(number) else {
            return;
        };
        for net in item.nets.iter() {
            let hash = self.net_hash(&net);
            self.holders
                .insert_unique(hash.spread(), Holder { item: number, hash }, |holder| {
                    holder.hash.spread()
                });
        }
    }

    fn leave(&mut self, number: u32) {
        let Some(item) = self.table.get(number) else {
            return;
        };
        for net in item.nets.iter() {
            let hash = self.net_hash(&net);
            let is_it = |holder: &Holder| holder.item == number && holder.hash == hash;
            if let Ok(entry) = self.holders.find_entry(hash.spread(), is_it) {
                entry.remove();
            }
        }
    }
}

/// The ports of an endpoint that have names, sorted, none twice.
pub(crate) fn named_ports(ports: &[EndpointPort]) -> Vec<NamedPort> {
    let mut named: Vec<NamedPort> = ports
        .iter()
        .filter(|port| !port.name.is_empty())
        .map(|port| NamedPort {
            name: port.name.as_str().into(),
            protocol: port.protocol,
            port: port.port,
        })
        .collect();
    named.sort_unstable_by(|a, b| (&a.name, a.protocol, a.port).cmp(&(&b.name, b.protocol, b.port)));
    named.dedup();
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model_selector::index::Interner;

    #[test]
    fn items_are_found_by_key_and_by_each_of_their_networks() {
        let mut interner = Interner::new();
        let (here, there, none) = (
            interner.intern("here"),
            interner.intern("there"),
            interner.intern(""),
        );
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let item = |namespace, name: &str, nets: &[&str]| Item {
            name: name.into(),
            nets: Nets::of(nets.iter().map(|text| net(text))),
            namespace,
            node: none,
            ports: ListId::EMPTY,
            profiles: ListId::EMPTY,
            pod: NO_POD,
            kind: ItemKind::Workload,
            own: false,
        };
        let mut items = Items::default();
        let a = items.insert(item(here, "a", &["10.0.0.1/32", "fd00::/64"]));
        let b = items.insert(item(there, "a", &["10.0.0.1/32"]));
        let key = |namespace| ItemKey {
            kind: ItemKind::Workload,
            namespace,
            name: "a",
        };
        assert_eq!(
            (
                items.find(&key(here)),
                items.find(&key(there)),
                items.find(&key(none))
            ),
            (Some(a), Some(b), None)
        );
        let holders = |items: &Items, text: &str| {
            let mut ids: Vec<ItemId> = items.holders_of(net(text)).map(|(id, _)| id).collect();
            ids.sort();
            ids
        };
        assert_eq!(holders(&items, "10.0.0.1/32"), [a, b]);
        assert_eq!(holders(&items, "fd00::/64"), [a]);
        items.set_nets(a, Nets::of([net("10.0.0.2/32")]));
        assert_eq!(holders(&items, "10.0.0.1/32"), [b]);
        assert_eq!(
            (holders(&items, "10.0.0.2/32"), holders(&items, "fd00::/64")),
            (vec![a], vec![])
        );
        items.remove(b);
        assert_eq!(
            (
                holders(&items, "10.0.0.1/32"),
                items.find(&key(there)),
                items.iter().count()
            ),
            (vec![], None, 1)
        );
    }
}
