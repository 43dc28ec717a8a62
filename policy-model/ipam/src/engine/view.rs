//! What a machine knows of the datastore: what it has read, written and learnt to be out of date.

use crate::block;
use policy_model::{BlockAffinitySpec, IpPoolSpec, IpamBlockSpec, Key, Kind, Object, Resource};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::known::{Known, OfKind};
use super::machine::{Halt, Write};

/// An object and its version.
#[derive(Clone, Debug)]
pub struct Stored<V> {
    /// The object, or the outline of a block.
    pub(super) resource: Arc<Resource>,
    /// What a compare-and-swap compares.
    pub(super) version: V,
    /// Whether nothing of it is left out.
    pub(super) is_whole: bool,
}

impl<V> Stored<V> {
    /// An object as it is in the datastore.
    pub fn whole(resource: Arc<Resource>, version: V) -> Self {
        Stored {
            resource,
            version,
            is_whole: true,
        }
    }

    /// A block of which only the [outline](block::outline) is known. It may stand in a list, for a block in which neither
    /// the handle nor the node of the request has an address. A machine that wants to write it, or to know who holds an
    /// address of it, reads it first.
    pub fn outline(outline: Arc<Resource>, version: V) -> Self {
        Stored {
            resource: outline,
            version,
            is_whole: false,
        }
    }

    /// The object.
    pub fn resource(&self) -> &Arc<Resource> {
        &self.resource
    }

    /// The version that a compare-and-swap compares.
    pub fn version(&self) -> &V {
        &self.version
    }
}

/// An object of one kind, and its version.
pub(super) struct Seen<'a, S, V> {
    pub(super) object: &'a Object<S>,
    pub(super) version: &'a V,
    is_whole: bool,
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

impl<V> Seen<'_, IpamBlockSpec, V> {
    /// The same, once nothing of it is left out.
    fn whole(self) -> Result<Self, Halt<V>> {
        if self.is_whole {
            return Ok(self);
        }
        Err(Halt::Get(Key::global(
            Kind::IPAMBlock,
            self.object.metadata.name.clone(),
        )))
    }
}

pub(super) struct View<V> {
    kinds: BTreeMap<Kind, OfKind<V>>,
    /// Names of the blocks in which `handle` holds addresses; kept because looking into each block at each step is
    /// what would cost time in a large cluster.
    holding: BTreeSet<String>,
    handle: Option<String>,
    /// Where set, the only blocks of a list that need a look for `handle`.
    candidates: Option<BTreeSet<Key>>,
}

impl<V> View<V> {
    pub(super) fn new(handle: Option<String>) -> Self {
        View {
            kinds: BTreeMap::new(),
            holding: BTreeSet::new(),
            handle,
            candidates: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.values().map(|k| k.all().len()).sum()
    }

    pub(super) fn look_only_into(&mut self, blocks: BTreeSet<Key>) {
        self.candidates = Some(blocks);
    }

    pub(super) fn set(&mut self, key: Key, stored: Option<Stored<V>>) {
        self.holding.remove(&key.name);
        if stored.as_ref().is_some_and(|s| self.is_holding(&s.resource)) {
            self.holding.insert(key.name.clone());
        }
        let known = stored.map_or(Known::Absent(key.name), Known::Present);
        self.kinds.entry(key.kind).or_default().set(known);
    }

    pub(super) fn set_list(&mut self, kind: Kind, mut all: Vec<Stored<V>>) {
        all.retain(|stored| stored.resource.kind() == kind);
        self.kinds.entry(kind).or_default().set_list(all);
        if kind != Kind::IPAMBlock {
            return;
        }
        let present = |known: &Known<V>| match known {
            Known::Present(stored) if self.is_holding(&stored.resource) => Some(known.name().to_owned()),
            _ => None,
        };
        let Some(of_kind) = self.kinds.get(&kind) else {
            return;
        };
        self.holding = match &self.candidates {
            // What was read singly was looked into when it came.
            Some(blocks) => {
                let found = blocks
                    .iter()
                    .filter_map(|key| of_kind.get(&key.name))
                    .filter_map(present);
                found.chain(self.holding.iter().cloned()).collect()
            }
            None => of_kind.all().iter().filter_map(present).collect(),
        };
    }

    pub(super) fn set_stale(&mut self, key: Key) {
        self.holding.remove(&key.name);
        self.kinds
            .entry(key.kind)
            .or_default()
            .set(Known::Stale(key.name));
    }

    fn is_holding(&self, resource: &Resource) -> bool {
        match (&self.handle, resource) {
            (Some(handle), Resource::IPAMBlock(block)) => block::is_held_by(&block.spec, handle),
            _ => false,
        }
    }

    /// Whether an object has to be read before it is written.
    pub(super) fn is_outline(&self, key: &Key) -> bool {
        let known = self
            .kinds
            .get(&key.kind)
            .and_then(|of_kind| of_kind.get(&key.name));
        matches!(known, Some(Known::Present(stored)) if !stored.is_whole)
    }

    fn get(&self, key: &Key) -> Result<Option<&Stored<V>>, Halt<V>> {
        let of_kind = self.kinds.get(&key.kind);
        match of_kind.and_then(|k| k.get(&key.name)) {
            Some(known) => known.read(key.kind).map_err(Halt::Get),
            None if of_kind.is_some_and(|k| k.listed) => Ok(None),
            None => Err(Halt::Get(key.clone())),
        }
    }

    fn list(&self, kind: Kind) -> Result<impl Iterator<Item = Result<&Stored<V>, Halt<V>>>, Halt<V>> {
        let of_kind = self
            .kinds
            .get(&kind)
            .filter(|k| k.listed)
            .ok_or(Halt::List(kind))?;
        Ok(of_kind
            .all()
            .iter()
            .map(move |known| known.read(kind).map_err(Halt::Get))
            .filter_map(Result::transpose))
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

    /// The block that holds an address, with all that it says.
    pub(super) fn block_with(&self, address: IpAddr) -> Result<Option<Seen<'_, IpamBlockSpec, V>>, Halt<V>> {
        let found = self
            .blocks()?
            .into_iter()
            .find(|b| b.object.spec.cidr.contains(&address));
        found.map(Seen::whole).transpose()
    }

    /// The blocks that hold one of these addresses, with all that they say.
    pub(super) fn blocks_with<'a>(
        &'a self,
        addresses: impl Iterator<Item = &'a IpAddr> + Clone,
    ) -> Result<Vec<Seen<'a, IpamBlockSpec, V>>, Halt<V>> {
        let blocks = self.blocks()?.into_iter();
        let concerned = blocks.filter(|b| addresses.clone().any(|a| b.object.spec.cidr.contains(a)));
        concerned.map(Seen::whole).collect()
    }

    /// The blocks in which the machine's handle holds addresses.
    pub(super) fn blocks_of_handle(&self) -> Result<Vec<Seen<'_, IpamBlockSpec, V>>, Halt<V>> {
        // Reading a block again after a conflict comes first: it may hold the handle's address.
        for stored in self.list(Kind::IPAMBlock)? {
            stored?;
        }
        let blocks = self
            .holding
            .iter()
            .map(|name| self.block(&Key::global(Kind::IPAMBlock, name.clone())));
        blocks.filter_map(Result::transpose).collect()
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
            is_whole: stored.is_whole,
        }),
        _ => None,
    }
}

fn as_affinity<V>(stored: &Stored<V>) -> Option<Seen<'_, BlockAffinitySpec, V>> {
    match &*stored.resource {
        Resource::BlockAffinity(object) => Some(Seen {
            object,
            version: &stored.version,
            is_whole: stored.is_whole,
        }),
        _ => None,
    }
}
