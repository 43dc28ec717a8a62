//! What a machine knows of the datastore: what it has read, written and learnt to be out of date.

use crate::block;
use policy_model::{BlockAffinitySpec, IpPoolSpec, IpamBlockSpec, Key, Kind, Object, Resource};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::machine::{Halt, Write};

/// An object and its version.
#[derive(Clone, Debug)]
pub struct Stored<V> {
    /// The object.
    pub resource: Arc<Resource>,
    /// What a compare-and-swap compares.
    pub version: V,
}

/// An object of one kind, and its version.
pub(super) struct Seen<'a, S, V> {
    pub(super) object: &'a Object<S>,
    pub(super) version: &'a V,
}

impl<S: Clone, V: Clone> Seen<'_, S, V>
where
    Resource: From<Object<S>>,
{
    /// The write that puts `spec` in place of what was seen.
    pub(super) fn update(&self, spec: S) -> Write<V> {
        let changed = Object {
            metadata: self.object.metadata.clone(),
            spec,
        };
        Write::Update {
            resource: Arc::new(Resource::from(changed)),
            version: self.version.clone(),
        }
    }

    /// The write that deletes what was seen.
    pub(super) fn delete(&self, kind: Kind) -> Write<V> {
        let key = Key::global(kind, self.object.metadata.name.clone());
        Write::Delete {
            key,
            version: self.version.clone(),
        }
    }
}

enum Known<V> {
    Present(Stored<V>),
    Absent,
    /// A write found it otherwise.
    Stale,
}

pub(super) struct View<V> {
    objects: BTreeMap<Key, Known<V>>,
    listed: BTreeSet<Kind>,
    /// Keys of the blocks in which `handle` holds addresses; kept because looking into each block at each step is
    /// what would cost time in a large cluster.
    holding: BTreeSet<Key>,
    handle: Option<String>,
    /// Where set, the only blocks of a list that need a look for `handle`.
    candidates: Option<BTreeSet<Key>>,
}

impl<V> View<V> {
    pub(super) fn new(handle: Option<String>) -> Self {
        View {
            objects: BTreeMap::new(),
            listed: BTreeSet::new(),
            holding: BTreeSet::new(),
            handle,
            candidates: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn look_only_into(&mut self, blocks: BTreeSet<Key>) {
        self.candidates = Some(blocks);
    }

    pub(super) fn set(&mut self, key: Key, stored: Option<Stored<V>>) {
        let holds = match (&self.handle, &stored) {
            (Some(handle), Some(Stored { resource, .. })) => {
                matches!(&**resource, Resource::IPAMBlock(b) if block::is_held_by(&b.spec, handle))
            }
            _ => false,
        };
        if holds {
            self.holding.insert(key.clone());
        } else {
            self.holding.remove(&key);
        }
        self.objects
            .insert(key, stored.map_or(Known::Absent, Known::Present));
    }

    pub(super) fn set_list(&mut self, kind: Kind, all: Vec<Stored<V>>) {
        for stored in all {
            let key = stored.resource.key();
            // What was read or written singly is newer than a list, which may come from a cache.
            if key.kind != kind || self.objects.contains_key(&key) {
                continue;
            }
            if self
                .candidates
                .as_ref()
                .is_some_and(|blocks| !blocks.contains(&key))
            {
                self.objects.insert(key, Known::Present(stored));
            } else {
                self.set(key, Some(stored));
            }
        }
        self.listed.insert(kind);
    }

    pub(super) fn set_stale(&mut self, key: Key) {
        self.holding.remove(&key);
        self.objects.insert(key, Known::Stale);
    }

    fn get(&self, key: &Key) -> Result<Option<&Stored<V>>, Halt<V>> {
        match self.objects.get(key) {
            Some(Known::Present(stored)) => Ok(Some(stored)),
            Some(Known::Absent) => Ok(None),
            Some(Known::Stale) => Err(Halt::Get(key.clone())),
            None if self.listed.contains(&key.kind) => Ok(None),
            None => Err(Halt::Get(key.clone())),
        }
    }

    fn list(&self, kind: Kind) -> Result<impl Iterator<Item = Result<&Stored<V>, Halt<V>>>, Halt<V>> {
        if !self.listed.contains(&kind) {
            return Err(Halt::List(kind));
        }
        let from = Key::global(kind, "");
        let of_kind = self
            .objects
            .range(from..)
            .take_while(move |(key, _)| key.kind == kind);
        Ok(of_kind.filter_map(|(key, known)| match known {
            Known::Present(stored) => Some(Ok(stored)),
            Known::Absent => None,
            Known::Stale => Some(Err(Halt::Get(key.clone()))),
        }))
    }

    /// A block by its key.
    pub(super) fn block(&self, key: &Key) -> Result<Option<Seen<'_, IpamBlockSpec, V>>, Halt<V>> {
        Ok(self.get(key)?.and_then(as_block))
    }

    /// All blocks.
    pub(super) fn blocks(&self) -> Result<Vec<Seen<'_, IpamBlockSpec, V>>, Halt<V>> {
        self.list(Kind::IPAMBlock)?
            .map(|s| s.map(as_block))
            .filter_map(Result::transpose)
            .collect()
    }

    /// The block that holds an address.
    pub(super) fn block_with(&self, address: IpAddr) -> Result<Option<Seen<'_, IpamBlockSpec, V>>, Halt<V>> {
        Ok(self
            .blocks()?
            .into_iter()
            .find(|b| b.object.spec.cidr.contains(&address)))
    }

    /// The blocks in which the machine's handle holds addresses.
    pub(super) fn blocks_of_handle(&self) -> Result<Vec<Seen<'_, IpamBlockSpec, V>>, Halt<V>> {
        // Reading a block again after a conflict comes first: it may hold the handle's address.
        for stored in self.list(Kind::IPAMBlock)? {
            stored?;
        }
        self.holding
            .iter()
            .map(|key| self.block(key))
            .filter_map(Result::transpose)
            .collect()
    }

    /// An affinity by its key.
    pub(super) fn affinity(&self, key: &Key) -> Result<Option<Seen<'_, BlockAffinitySpec, V>>, Halt<V>> {
        Ok(self.get(key)?.and_then(as_affinity))
    }

    /// All affinities.
    pub(super) fn affinities(&self) -> Result<Vec<Seen<'_, BlockAffinitySpec, V>>, Halt<V>> {
        self.list(Kind::BlockAffinity)?
            .map(|s| s.map(as_affinity))
            .filter_map(Result::transpose)
            .collect()
    }

    /// All pools, by name.
    pub(super) fn pools(&self) -> Result<Vec<&Object<IpPoolSpec>>, Halt<V>> {
        let mut pools = Vec::new();
        for stored in self.list(Kind::IPPool)? {
            if let Resource::IPPool(pool) = &*stored?.resource {
                pools.push(pool);
            }
        }
        Ok(pools)
    }

    /// All reservations, joined.
    pub(super) fn reservations(&self) -> Result<crate::reservation::Reservations, Halt<V>> {
        let mut ranges = Vec::new();
        for stored in self.list(Kind::IPReservation)? {
            if let Resource::IPReservation(reservation) = &*stored?.resource {
                ranges.extend(&reservation.spec.reserved_cidrs);
            }
        }
        Ok(crate::reservation::Reservations::new(ranges))
    }

    /// The settings in force for a request.
    pub(super) fn settings(
        &self,
        strict: Option<bool>,
        max_blocks: Option<u32>,
    ) -> Result<crate::config::Settings, Halt<V>> {
        let config = match self.get(&crate::name::config_key())?.map(|s| &*s.resource) {
            Some(Resource::IPAMConfig(config)) => Some(&config.spec),
            _ => None,
        };
        Ok(crate::config::resolve(config, strict, max_blocks))
    }
}

fn as_block<V>(stored: &Stored<V>) -> Option<Seen<'_, IpamBlockSpec, V>> {
    match &*stored.resource {
        Resource::IPAMBlock(object) => Some(Seen {
            object,
            version: &stored.version,
        }),
        _ => None,
    }
}

fn as_affinity<V>(stored: &Stored<V>) -> Option<Seen<'_, BlockAffinitySpec, V>> {
    match &*stored.resource {
        Resource::BlockAffinity(object) => Some(Seen {
            object,
            version: &stored.version,
        }),
        _ => None,
    }
}
