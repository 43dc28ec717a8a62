//! What a syncer told: of each object the version, in as few bytes as can be.
//!
//! It lives as long as its process and has an entry for each object of the cluster, so kinds and namespaces are kept
//! once for all their objects.

use crate::Version;
use policy_model::{Key, Kind};
use std::collections::BTreeMap;

/// Names and versions of the objects of a kind in a namespace, in the order of the names. A plain list, with little room
/// beyond what it holds: a tree of the same has half of its places free once a listing has filled it in order.
#[derive(Debug, Default)]
struct Names(Vec<(Box<str>, Kept)>);

/// A version. Nearly all of them are numbers.
#[derive(Debug, PartialEq)]
enum Kept {
    Number(u64),
    Other(Box<Version>),
}

impl Kept {
    fn of(version: &Version) -> Self {
        let number = version.as_str().parse::<u64>().ok();
        match number.filter(|number| Version::from(*number) == *version) {
            Some(number) => Kept::Number(number),
            None => Kept::Other(Box::new(version.clone())),
        }
    }
}

impl Names {
    fn place(&self, name: &str) -> Result<usize, usize> {
        match self.0.last() {
            // As a listing comes.
            Some((last, _)) if **last < *name => Err(self.0.len()),
            _ => self.0.binary_search_by(|(known, _)| (**known).cmp(name)),
        }
    }

    /// Notes a version; says whether it is another than before.
    fn insert(&mut self, name: &str, version: &Version) -> bool {
        let version = Kept::of(version);
        match self.place(name) {
            Ok(at) => match self.0.get_mut(at) {
                Some((_, known)) if *known != version => {
                    *known = version;
                    true
                }
                _ => false,
            },
            Err(at) => {
                if self.0.len() == self.0.capacity() {
                    self.0.reserve_exact(self.0.len() / 8 + 1);
                }
                self.0.insert(at, (name.into(), version));
                true
            }
        }
    }

    /// Forgets a name; says whether it was there.
    fn remove(&mut self, name: &str) -> bool {
        let place = self.place(name);
        place.map(|at| self.0.remove(at)).is_ok()
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
        if names.0.is_empty() {
            namespaces.remove(key.namespace.as_str());
        }
        if namespaces.is_empty() {
            self.kinds.remove(&key.kind);
        }
        was_there
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
            for (name, _) in &names.0 {
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
            steps in proptest::collection::vec((any::<bool>(), 0u8..3, 0u8..4, 0u8..3), 0..60),
        ) {
            let (mut told, mut plain) = (Told::default(), BTreeMap::<Key, Version>::new());
            for (kind, namespace, name, version) in steps {
                let key = key(kind, namespace, name);
                if version == 0 {
                    prop_assert_eq!(told.remove(&key), plain.remove(&key).is_some());
                } else {
                    // Texts that are no number as we write one, too.
                    let text = if version == 1 { "01".to_owned() } else { version.to_string() };
                    let version = Version::new(text);
                    let is_other = plain.get(&key) != Some(&version);
                    prop_assert_eq!(told.insert(&key, &version), is_other);
                    plain.insert(key, version);
                }
                let all: Vec<Key> = plain.keys().cloned().collect();
                prop_assert_eq!(told.without(|_| false), all);
                prop_assert_eq!(told.is_empty(), plain.is_empty());
            }
        }
    }
}
