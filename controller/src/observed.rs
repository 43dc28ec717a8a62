//! What the datastore holds, as far as this process knows.
//!
//! Own writes are noted as they return, so an event that tells of an older state of the same object is stale and
//! changes nothing.

use crate::placement::PodName;
use crate::wanted::source_of;
use policy_model::{Key, Kind, Resource};
use policy_model_datastore::{Revision, Selection, Versioned};
use std::collections::BTreeMap;

/// The objects.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    objects: BTreeMap<Key, Versioned>,
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
                self.objects.insert(key, versioned);
                true
            }
        }
    }

    /// Notes what the datastore just answered, whatever was known.
    pub(crate) fn put(&mut self, versioned: Versioned) {
        self.objects.insert(versioned.key(), versioned);
    }

    /// Notes that an object is gone. Returns whether that was new.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        self.objects.remove(key).is_some()
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
