//! What is known of the objects of one kind, sorted by name.
//!
//! A vector and not a tree: a list of thousands arrives sorted and is looked through many times, while single changes
//! are few. Building a tree for each request was most of a request's time.

use super::view::Stored;
use policy_model::{Key, Kind};

pub(super) enum Known<V> {
    Present(Stored<V>),
    Absent(String),
    /// A write found it otherwise.
    Stale(String),
}

impl<V> Known<V> {
    pub(super) fn name(&self) -> &str {
        match self {
            Known::Present(stored) => &stored.resource.metadata().name,
            Known::Absent(name) | Known::Stale(name) => name,
        }
    }

    /// The object, nothing where there is none, or the key to read first.
    pub(super) fn read(&self, kind: Kind) -> Result<Option<&Stored<V>>, Key> {
        match self {
            Known::Present(stored) => Ok(Some(stored)),
            Known::Absent(_) => Ok(None),
            Known::Stale(name) => Err(Key::global(kind, name.clone())),
        }
    }
}

/// The objects of one kind. All kinds of address management are cluster-scoped: the name alone tells them apart.
pub(super) struct OfKind<V> {
    pub(super) listed: bool,
    entries: Vec<Known<V>>,
}

impl<V> Default for OfKind<V> {
    fn default() -> Self {
        OfKind {
            listed: false,
            entries: Vec::new(),
        }
    }
}

impl<V> OfKind<V> {
    pub(super) fn get(&self, name: &str) -> Option<&Known<V>> {
        self.at(name).ok().and_then(|at| self.entries.get(at))
    }

    pub(super) fn set(&mut self, known: Known<V>) {
        match self.at(known.name()) {
            Ok(at) => {
                if let Some(entry) = self.entries.get_mut(at) {
                    *entry = known;
                }
            }
            Err(at) => self.entries.insert(at, known),
        }
    }

    /// Takes a list in. What was read or written singly is newer than a list, which may come from a cache.
    pub(super) fn set_list(&mut self, all: Vec<Stored<V>>) {
        let single = std::mem::replace(&mut self.entries, all.into_iter().map(Known::Present).collect());
        self.entries.sort_by(|a, b| a.name().cmp(b.name()));
        self.entries.dedup_by(|a, b| a.name() == b.name());
        for known in single {
            self.set(known);
        }
        self.listed = true;
    }

    pub(super) fn all(&self) -> &[Known<V>] {
        &self.entries
    }

    fn at(&self, name: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|known| known.name().cmp(name))
    }
}
