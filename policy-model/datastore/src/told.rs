//! What a syncer told: of each object the version, in as few bytes as can be.
//!
//! It lives as long as its process and has an entry for each object of the cluster, so kinds and namespaces are kept
//! once for all their objects.

use crate::Version;
use policy_model::{Key, Kind};
use std::collections::BTreeMap;

/// Names and versions of the objects of a kind in a namespace. The names stand in one text: an allocation for each of them
/// would take more than most names do.
#[derive(Debug, Default)]
struct Names {
    /// In the order of the names. A plain list, with little room beyond what it holds: a tree of the same has half of its
    /// places free once a listing has filled it in order.
    entries: Vec<Entry>,
    text: String,
    /// Bytes of the text that are the name of nothing any more.
    unused: usize,
    /// Versions that are no numbers, by name.
    others: BTreeMap<Box<str>, Version>,
}

/// One object: where its name stands in the text, and its version.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u32,
    length: u32,
    /// [`OTHER`] where the version is no number.
    version: u64,
}

/// Stands for a version that is kept apart. Such a number is kept apart itself.
const OTHER: u64 = u64::MAX;

impl Entry {
    fn name(self, text: &str) -> &str {
        let at = self.at as usize;
        text.get(at..at + self.length as usize).unwrap_or_default()
    }
}

/// The number that a version is. Nearly all of them are.
fn number(version: &Version) -> Option<u64> {
    let number = version.as_str().parse::<u64>().ok();
    number.filter(|number| *number != OTHER && Version::from(*number) == *version)
}

/// Room for one more, and for few beyond it.
fn little_room(length: usize, needed: usize) -> usize {
    needed + length / 8
}

impl Names {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name(&self.text))
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        match self.entries.last() {
            // As a listing comes.
            Some(last) if last.name(&self.text) < name => Err(self.entries.len()),
            _ => self
                .entries
                .binary_search_by(|entry| entry.name(&self.text).cmp(name)),
        }
    }

    fn has(&self, name: &str, version: &Version) -> bool {
        let entry = self.place(name).ok().and_then(|at| self.entries.get(at));
        entry.is_some_and(|entry| match number(version) {
            Some(number) => entry.version == number,
            None => self.others.get(name) == Some(version),
        })
    }

    /// Notes a version; says whether it is another than before.
    fn insert(&mut self, name: &str, version: &Version) -> bool {
        let place = self.place(name);
        let kept = number(version).unwrap_or(OTHER);
        let was_other = self.put_apart(name, version, kept);
        match place {
            Ok(at) => match self.entries.get_mut(at) {
                Some(entry) => {
                    let before = std::mem::replace(&mut entry.version, kept);
                    before != kept || was_other
                }
                None => false,
            },
            Err(place) => {
                self.add(place, name, kept);
                true
            }
        }
    }

    /// Keeps a version that is no number, and only such a one, under a name; says whether it was another before.
    fn put_apart(&mut self, name: &str, version: &Version, kept: u64) -> bool {
        if kept != OTHER {
            return self.others.remove(name).is_some();
        }
        let before = self.others.insert(name.into(), version.clone());
        before.as_ref() != Some(version)
    }

    fn add(&mut self, place: usize, name: &str, version: u64) {
        if self.unused > self.text.len() / 2 {
            self.write_anew();
        }
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(little_room(self.entries.len(), 1));
        }
        if self.text.capacity() - self.text.len() < name.len() {
            self.text.reserve_exact(little_room(self.text.len(), name.len()));
        }
        // A text of more than four gigabytes would need as many objects in one namespace.
        let entry = Entry {
            at: self.text.len() as u32,
            length: name.len() as u32,
            version,
        };
        self.text.push_str(name);
        self.entries.insert(place, entry);
    }

    /// Forgets a name; says whether it was there.
    fn remove(&mut self, name: &str) -> bool {
        let Ok(at) = self.place(name) else {
            return false;
        };
        self.others.remove(name);
        self.unused += name.len();
        self.entries.remove(at);
        true
    }

    /// Makes the text hold what are names, and nothing else.
    fn write_anew(&mut self) {
        let mut text = String::with_capacity(self.text.len() - self.unused);
        for entry in &mut self.entries {
            let at = text.len() as u32;
            text.push_str(entry.name(&self.text));
            entry.at = at;
        }
        (self.text, self.unused) = (text, 0);
    }
}

/// Objects and their versions, in the order of their keys.
#[derive(Debug, Default)]
pub(crate) struct Told {
    kinds: BTreeMap<Kind, BTreeMap<Box<str>, Names>>,
}

impl Told {
    pub(crate) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Notes an object's version; says whether it is another than before.
    pub(crate) fn insert(&mut self, key: &Key, version: &Version) -> bool {
        let namespaces = self.kinds.entry(key.kind).or_default();
        let names = match namespaces.get_mut(key.namespace.as_str()) {
            Some(names) => names,
            None => namespaces.entry(key.namespace.as_str().into()).or_default(),
        };
        names.insert(&key.name, version)
    }

    /// Forgets an object; says whether it was there.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let Some(namespaces) = self.kinds.get_mut(&key.kind) else {
            return false;
        };
        let Some(names) = namespaces.get_mut(key.namespace.as_str()) else {
            return false;
        };
        let was_there = names.remove(&key.name);
        if names.entries.is_empty() {
            namespaces.remove(key.namespace.as_str());
        }
        if namespaces.is_empty() {
            self.kinds.remove(&key.kind);
        }
        was_there
    }

    /// Whether an object is there, with whatever version.
    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.names(key)
            .is_some_and(|names| names.place(&key.name).is_ok())
    }

    /// Whether an object is there with this version.
    pub(crate) fn has(&self, key: &Key, version: &Version) -> bool {
        self.names(key).is_some_and(|names| names.has(&key.name, version))
    }

    fn names(&self, key: &Key) -> Option<&Names> {
        self.kinds.get(&key.kind)?.get(key.namespace.as_str())
    }

    /// The objects of which `stays` says no, in the order of their keys.
    pub(crate) fn without(&self, mut stays: impl FnMut(&Key) -> bool) -> Vec<Key> {
        let mut gone = Vec::new();
        let all = self.kinds.iter().flat_map(|(kind, namespaces)| {
            namespaces
                .iter()
                .map(move |(namespace, names)| (kind, namespace, names))
        });
        for (kind, namespace, names) in all {
            let mut key = Key {
                kind: *kind,
                namespace: namespace.to_string(),
                name: String::new(),
            };
            for name in names.names() {
                key.name.clear();
                key.name.push_str(name);
                if !stays(&key) {
                    gone.push(key.clone());
                }
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(kind: bool, namespace: u8, name: u8) -> Key {
        let kind = if kind {
            Kind::NetworkPolicy
        } else {
            Kind::NetworkSet
        };
        Key::namespaced(kind, format!("n{namespace}"), format!("o{name}"))
    }

    proptest! {
        /// It is a map of keys to versions, whatever happens to it.
        #[test]
        fn it_keeps_what_a_plain_map_keeps(
            steps in proptest::collection::vec((any::<bool>(), 0u8..3, 0u8..4, 0u8..5), 0..90),
        ) {
            let (mut told, mut plain) = (Told::default(), BTreeMap::<Key, Version>::new());
            for (kind, namespace, name, version) in steps {
                let key = key(kind, namespace, name);
                if version == 0 {
                    prop_assert_eq!(told.remove(&key), plain.remove(&key).is_some());
                    prop_assert!(!told.contains(&key));
                } else {
                    // Texts that are no number as we write one, too.
                    let text = match version {
                        1 => "01".to_owned(),
                        2 => u64::MAX.to_string(),
                        _ => version.to_string(),
                    };
                    let version = Version::new(text);
                    let is_other = plain.get(&key) != Some(&version);
                    prop_assert_eq!(told.insert(&key, &version), is_other);
                    plain.insert(key, version);
                }
                let all: Vec<Key> = plain.keys().cloned().collect();
                prop_assert_eq!(told.without(|_| false), all);
                for (key, version) in &plain {
                    prop_assert!(told.contains(key) && told.has(key, version));
                    prop_assert!(!told.has(key, &Version::new("another")));
                }
                prop_assert_eq!(told.is_empty(), plain.is_empty());
            }
        }
    }
}
