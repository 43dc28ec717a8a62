//! What the datastore holds, as far as this process knows.
//!
//! Own writes are noted as they return, so an event that tells of an older state of the same object is stale and
//! changes nothing.

use crate::overlap::Claims;
use crate::placement::PodName;
use crate::wanted::source_of;
use ipnet::IpNet;
use policy_model::{Key, Kind, Resource};
use policy_model_datastore::{Revision, Selection, Versioned};
use std::collections::BTreeMap;

/// The objects.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    objects: BTreeMap<Key, Versioned>,
    /// Whether something that has addresses changed since that was last asked.
    are_claims_new: bool,
}

/// What the controller follows: everything but the bookkeeping of addresses, which changes with every pod and is read
/// where it is needed.
pub(crate) fn selection() -> Selection {
    Selection::kinds(
        Kind::ALL
            .into_iter()
            .filter(|kind| !matches!(kind, Kind::IPAMBlock | Kind::BlockAffinity | Kind::IPAMHandle)),
    )
}

impl Observed {
    /// An object, if there is one.
    pub(crate) fn get(&self, key: &Key) -> Option<&Versioned> {
        self.objects.get(key)
    }

    /// Notes an object. Returns whether that was new.
    pub(crate) fn set(&mut self, versioned: Versioned) -> bool {
        let key = versioned.key();
        let known: Option<(Revision, bool)> = self
            .objects
            .get(&key)
            .map(|known| (known.revision, known.version == versioned.version));
        match known {
            Some((revision, is_same)) if is_same || revision > versioned.revision => false,
            _ => {
                self.put(versioned);
                true
            }
        }
    }

    /// Notes what the datastore just answered, whatever was known.
    pub(crate) fn put(&mut self, versioned: Versioned) {
        let key = versioned.key();
        self.are_claims_new |= has_addresses(key.kind);
        self.objects.insert(key, versioned);
    }

    /// Notes that an object is gone. Returns whether that was new.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let was_there = self.objects.remove(key).is_some();
        self.are_claims_new |= was_there && has_addresses(key.kind);
        was_there
    }

    /// Whether something that has addresses of its own changed since the last question.
    pub(crate) fn take_claims_news(&mut self) -> bool {
        std::mem::take(&mut self.are_claims_new)
    }

    /// Everything that has addresses of its own: pools and nodes.
    pub(crate) fn claims(&self) -> Claims {
        let nodes = self
            .of_kind(Kind::Node)
            .filter_map(|(key, found)| match &*found.resource {
                Resource::Node(node) => Some((key, node.spec.all_addresses())),
                _ => None,
            });
        Claims {
            pools: self
                .pools()
                .map(|(resource, cidr)| (resource.metadata().name.clone(), cidr))
                .collect(),
            nodes: nodes
                .flat_map(|(key, addresses)| addresses.into_iter().map(|a| (key.name.clone(), a)))
                .collect(),
            services: Vec::new(),
        }
    }

    /// All pools, each with its range.
    pub(crate) fn pools(&self) -> impl Iterator<Item = (&Resource, IpNet)> {
        self.of_kind(Kind::IPPool)
            .filter_map(|(_, found)| match &*found.resource {
                Resource::IPPool(pool) => Some((found.resource.as_ref(), pool.spec.cidr.trunc())),
                _ => None,
            })
    }

    /// The keys of all objects that are ours.
    pub(crate) fn own_keys(&self) -> impl Iterator<Item = &Key> {
        let own = self
            .objects
            .iter()
            .filter(|(_, found)| source_of(&found.resource).is_some());
        own.map(|(key, _)| key)
    }

    /// The nodes that somebody else defines.
    pub(crate) fn foreign_nodes(&self) -> impl Iterator<Item = &str> {
        let nodes = self
            .of_kind(Kind::Node)
            .filter(|(_, found)| source_of(&found.resource).is_none());
        nodes.map(|(key, _)| key.name.as_str())
    }

    /// Whether there is a node of this name.
    pub(crate) fn has_node(&self, name: &str) -> bool {
        self.objects.contains_key(&Key::global(Kind::Node, name))
    }

    /// Namespace, pod and node of every endpoint.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.of_kind(Kind::WorkloadEndpoint)
            .filter_map(|(key, found)| match &*found.resource {
                Resource::WorkloadEndpoint(endpoint) => Some((
                    key.namespace.as_str(),
                    endpoint.spec.pod.as_str(),
                    endpoint.spec.node.as_str(),
                )),
                _ => None,
            })
    }

    /// The node of each pod's endpoint of ours.
    pub(crate) fn homes(&self) -> BTreeMap<PodName, String> {
        self.endpoints()
            .map(|(namespace, pod, node)| ((namespace.to_owned(), pod.to_owned()), node.to_owned()))
            .collect()
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Versioned)> {
        let found = self.objects.range(Key::global(kind, "")..);
        found.take_while(move |(key, _)| key.kind == kind)
    }
}

/// Whether objects of a kind have addresses that a pool must not have too.
fn has_addresses(kind: Kind) -> bool {
    matches!(kind, Kind::IPPool | Kind::Node)
}
