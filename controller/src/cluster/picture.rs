//! What the datastore holds of nodes, pools and blocks, as the leader follows it. Pure.
//!
//! It says where to look, never what to do: whatever is given back is first asked for anew.

use ipnet::IpNet;
use policy_model::{BlockAffinitySpec, IpPoolSpec, IpamBlockSpec, Key, Kind, Resource};
use policy_model_datastore::{Selection, SyncEvent, SyncStatus};
use policy_model_ipam::block::{self, Holding};
use policy_model_ipam::{affinity, handle};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The label of what lies in no pool, as Calico writes it.
const NO_POOL: &str = "no_ippool";
/// The label of what is used on no known node.
const NO_NODE: &str = "unknown";

/// What is followed.
pub(crate) fn selection() -> Selection {
    Selection::kinds([Kind::Node, Kind::IPPool, Kind::IPAMBlock, Kind::BlockAffinity])
}

/// What the datastore holds.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    objects: BTreeMap<Key, Arc<Resource>>,
    /// Whether all of it was read once; before, an absence means nothing.
    pub(crate) is_listed: bool,
}

/// What some events changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Which nodes there are.
    pub(crate) nodes: bool,
    /// Addresses of nodes.
    pub(crate) node_addresses: bool,
    pub(crate) pools: bool,
    pub(crate) blocks: bool,
}

impl Changes {
    pub(crate) fn add(&mut self, other: Changes) {
        self.nodes |= other.nodes;
        self.node_addresses |= other.node_addresses;
        self.pools |= other.pools;
        self.blocks |= other.blocks;
    }
}

/// How the pools are used: pool and node, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Addresses of workloads and tunnels; what a node keeps ahead of need is not in use.
    pub(crate) in_use: BTreeMap<(String, String), i64>,
    /// Those of them that are used on a node that does not own their block.
    pub(crate) borrowed: BTreeMap<(String, String), i64>,
    /// Blocks, by their owner.
    pub(crate) blocks: BTreeMap<(String, String), i64>,
    /// Addresses in all.
    pub(crate) sizes: BTreeMap<String, i64>,
}

impl Picture {
    /// Takes events, and says what they changed.
    pub(crate) fn apply(&mut self, events: Vec<SyncEvent>) -> Changes {
        let mut changes = Changes::default();
        for event in events {
            let kind = match event {
                SyncEvent::Upsert(versioned) => {
                    let key = versioned.key();
                    let kind = key.kind;
                    let after = addresses(&versioned.resource);
                    let before = self.objects.insert(key, versioned.resource);
                    // A node reports its health every few seconds; only that it is there and where matters here.
                    if kind == Kind::Node
                        && let Some(before) = before
                    {
                        changes.node_addresses |= addresses(&before) != after;
                        continue;
                    }
                    kind
                }
                SyncEvent::Delete(key) => {
                    self.objects.remove(&key);
                    key.kind
                }
                SyncEvent::InSync => {
                    self.is_listed = true;
                    changes.add(Changes {
                        nodes: true,
                        node_addresses: true,
                        pools: true,
                        blocks: true,
                    });
                    continue;
                }
                SyncEvent::Status(
                    SyncStatus::WaitForDatastore | SyncStatus::ResyncInProgress | SyncStatus::InSync,
                ) => {
                    continue;
                }
            };
            match kind {
                Kind::Node => {
                    changes.nodes = true;
                    changes.node_addresses = true;
                }
                Kind::IPPool => changes.pools = true,
                _ => changes.blocks = true,
            }
        }
        changes
    }

    pub(crate) fn has_node(&self, name: &str) -> bool {
        self.objects.contains_key(&Key::global(Kind::Node, name))
    }

    /// The addresses of all nodes, each with the node's name.
    pub(crate) fn node_addresses(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.objects.values().flat_map(|resource| {
            let name = resource.metadata().name.as_str();
            addresses(resource)
                .into_iter()
                .map(move |address| (name, address))
        })
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = &IpamBlockSpec> {
        self.objects
            .values()
            .filter_map(|resource| match resource.as_ref() {
                Resource::IPAMBlock(block) => Some(&block.spec),
                _ => None,
            })
    }

    fn affinities(&self) -> impl Iterator<Item = &BlockAffinitySpec> {
        self.objects
            .values()
            .filter_map(|resource| match resource.as_ref() {
                Resource::BlockAffinity(claim) => Some(&claim.spec),
                _ => None,
            })
    }

    fn pools(&self) -> impl Iterator<Item = (&str, &IpPoolSpec)> {
        self.objects
            .values()
            .filter_map(|resource| match resource.as_ref() {
                Resource::IPPool(pool) => Some((pool.metadata.name.as_str(), &pool.spec)),
                _ => None,
            })
    }

    /// The name of the pool that a range or an address lies in.
    pub(crate) fn pool_of(&self, range: &IpNet) -> &str {
        let mut pools = self.pools();
        let found = pools.find(|(_, pool)| pool.cidr.contains(range));
        found.map_or(NO_POOL, |(name, _)| name)
    }

    /// Nodes that own blocks, claim them or hold addresses, and that the datastore does not have.
    pub(crate) fn missing_nodes(&self) -> BTreeSet<String> {
        let owners = self.blocks().filter_map(block::owner);
        let claimers = self
            .affinities()
            .filter(|claim| affinity::is_of_a_node(claim))
            .map(|claim| claim.node.as_str());
        let holders = self
            .blocks()
            .flat_map(block::holders)
            .filter_map(|held| node_of(&held));
        owners
            .chain(claimers)
            .chain(holders)
            .filter(|node| !node.is_empty() && !self.has_node(node))
            .map(str::to_owned)
            .collect()
    }

    /// How the pools are used.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for (name, pool) in self.pools() {
            let bits = u32::from(pool.cidr.max_prefix_len() - pool.cidr.prefix_len());
            let size = 1i64
                .checked_shl(bits)
                .filter(|size| *size > 0)
                .unwrap_or(i64::MAX);
            usage.sizes.insert(name.to_owned(), size);
        }
        for spec in self.blocks() {
            let pool = self.pool_of(&spec.cidr);
            let owner = block::owner(spec);
            let key = |node: &str| (pool.to_owned(), node.to_owned());
            *usage.blocks.entry(key(owner.unwrap_or(NO_NODE))).or_default() += 1;
            for held in block::holders(spec).filter(|held| !is_reserve(held)) {
                let node = node_of(&held);
                *usage.in_use.entry(key(node.unwrap_or(NO_NODE))).or_default() += 1;
                if let Some(node) = node.filter(|node| owner != Some(node)) {
                    *usage.borrowed.entry(key(node)).or_default() += 1;
                }
            }
        }
        usage
    }
}

/// The addresses of a node; none of anything else. Ends of tunnels are not among them: those lie in pools.
fn addresses(resource: &Resource) -> Vec<IpAddr> {
    match resource {
        Resource::Node(node) => node.spec.all_addresses(),
        _ => Vec::new(),
    }
}

/// The node on which an address is used.
pub(crate) fn node_of<'a>(held: &Holding<'a>) -> Option<&'a str> {
    held.attribute
        .secondary
        .get(handle::ATTRIBUTE_NODE)
        .map(String::as_str)
}

/// Whether an address is one that a node keeps ahead of need.
pub(crate) fn is_reserve(held: &Holding<'_>) -> bool {
    // What is before the node's name in every such handle.
    let marker = handle::of_reserve("");
    let held = held.attribute.handle_id.as_deref();
    held.is_some_and(|found| found.starts_with(&marker))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use policy_model::{AllocationAttribute, NodeAddress, NodeSpec, Object};
    use policy_model_datastore::{Revision, Version, Versioned};
    use policy_model_ipam::reservation::Reservations;

    /// A block of a node, with addresses of these handles, namespaces, pods and nodes.
    pub(crate) fn block_with(
        cidr: &str,
        owner: Option<&str>,
        held: &[(&str, &[(&str, &str)])],
    ) -> IpamBlockSpec {
        let mut made = block::new(cidr.parse().unwrap(), owner, false, 1).unwrap().spec;
        for (handle, attributes) in held {
            let attribute = AllocationAttribute {
                handle_id: Some((*handle).to_owned()),
                secondary: attributes
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
            };
            let given = block::assign_next(&mut made, 1, &attribute, &Reservations::default());
            assert_eq!(given.len(), 1);
        }
        made
    }

    pub(crate) fn upsert(resource: impl Into<Resource>) -> SyncEvent {
        SyncEvent::Upsert(Versioned {
            resource: Arc::new(resource.into()),
            version: Version::new("1"),
            revision: Revision::new(1),
        })
    }

    #[test]
    fn usage_counts_by_pool_and_node_and_leaves_reserves_out() {
        let mut picture = Picture::default();
        let spec = block_with(
            "10.0.0.0/26",
            Some("a"),
            &[
                ("n.1", &[("node", "a"), ("pod", "p")]),
                ("n.2", &[("node", "b"), ("pod", "q")]),
                ("manx-reserve-a", &[("node", "a")]),
            ],
        );
        let changes = picture.apply(vec![
            upsert(Object::named("p", IpPoolSpec::of("10.0.0.0/16".parse().unwrap()))),
            upsert(Object::named("10-0-0-0-26", spec)),
            upsert(Object::named("a", NodeSpec::default())),
        ]);
        assert!(changes.nodes && changes.pools && changes.blocks);
        let again = picture.apply(vec![upsert(Object::named("a", NodeSpec::default()))]);
        assert_eq!(again, Changes::default(), "a node that is still there is no news");
        let address: IpAddr = "10.9.0.1".parse().unwrap();
        let mut moved = NodeSpec::default();
        moved.addresses.push(NodeAddress {
            address,
            address_type: "InternalIP".to_owned(),
        });
        let at_another_place = picture.apply(vec![upsert(Object::named("a", moved))]);
        assert!(at_another_place.node_addresses && !at_another_place.nodes);
        assert_eq!(picture.node_addresses().collect::<Vec<_>>(), [("a", address)]);
        let usage = picture.usage();
        let of = |node: &str| ("p".to_owned(), node.to_owned());
        assert_eq!(usage.in_use.get(&of("a")), Some(&1));
        assert_eq!(usage.in_use.get(&of("b")), Some(&1));
        assert_eq!(usage.borrowed.get(&of("b")), Some(&1));
        assert_eq!(usage.blocks.get(&of("a")), Some(&1));
        assert_eq!(usage.sizes.get("p"), Some(&65_536));
        assert_eq!(picture.missing_nodes(), BTreeSet::from(["b".to_owned()]));
        picture.apply(vec![SyncEvent::Delete(Key::global(Kind::Node, "a"))]);
        assert_eq!(picture.missing_nodes().len(), 2);
    }

    #[test]
    fn a_pool_larger_than_a_number_is_as_large_as_numbers_get() {
        let mut picture = Picture::default();
        picture.apply(vec![upsert(Object::named(
            "six",
            IpPoolSpec::of("fd00::/48".parse().unwrap()),
        ))]);
        assert_eq!(picture.usage().sizes.get("six"), Some(&i64::MAX));
    }
}
