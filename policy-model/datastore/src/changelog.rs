//! The objects of a store and the order in which they last changed.
//!
//! A watch needs no queue of its own: each object stands once in the order of revisions, at its last change, and a
//! watcher is a place in that order. So a slow watcher costs nothing and sees each object's newest state, and memory
//! is bounded by the objects themselves and a fixed number of remembered removals. Pure: no lock, no clock.

use crate::{DatastoreError, Listing, Revision, Selection, Version, Versioned, WatchEvent};
use policy_model::{Key, Resource};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// How many removals are remembered for watchers, unless the store says otherwise.
pub const DEFAULT_REMEMBERED_REMOVALS: usize = 10_000;

/// All objects, and which changed when.
#[derive(Debug)]
pub struct ChangeLog {
    live: BTreeMap<Key, Versioned>,
    /// Each live object and each remembered removal, by its revision.
    order: BTreeMap<Revision, Key>,
    removed: BTreeMap<Key, Revision>,
    /// The remembered removals again, oldest first, to forget them in that order.
    removals: BTreeMap<Revision, Key>,
    remembered_removals: usize,
    revision: Revision,
    oldest: Revision,
}

impl Default for ChangeLog {
    fn default() -> Self {
        ChangeLog::new(DEFAULT_REMEMBERED_REMOVALS)
    }
}

impl ChangeLog {
    /// An empty log that remembers so many removals.
    pub fn new(remembered_removals: usize) -> Self {
        ChangeLog {
            live: BTreeMap::new(),
            order: BTreeMap::new(),
            removed: BTreeMap::new(),
            removals: BTreeMap::new(),
            remembered_removals,
            revision: Revision::default(),
            oldest: Revision::default(),
        }
    }

    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision from which a watch can start.
    pub fn oldest(&self) -> Revision {
        self.oldest
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<&Versioned> {
        self.live.get(key)
    }

    /// All objects, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Versioned)> {
        self.live.iter()
    }

    /// The objects of a selection at this moment.
    pub fn list(&self, selection: &Selection) -> Listing {
        let items = self
            .live
            .iter()
            .filter(|(key, _)| selection.matches(key))
            .map(|(_, v)| v.clone())
            .collect();
        Listing {
            items,
            revision: self.revision,
        }
    }

    /// Notes that an object became this at a revision, which must be later than all before.
    pub fn put(
        &mut self,
        key: Key,
        resource: Arc<Resource>,
        version: Version,
        revision: Revision,
    ) -> Versioned {
        let versioned = Versioned {
            resource,
            version,
            revision,
        };
        self.forget(&key);
        self.order.insert(revision, key.clone());
        self.live.insert(key, versioned.clone());
        self.revision = self.revision.max(revision);
        versioned
    }

    /// Notes that an object went at a revision, which must be later than all before.
    pub fn remove(&mut self, key: &Key, revision: Revision) {
        self.forget(key);
        self.live.remove(key);
        self.order.insert(revision, key.clone());
        self.removed.insert(key.clone(), revision);
        self.removals.insert(revision, key.clone());
        self.revision = self.revision.max(revision);
        while self.removals.len() > self.remembered_removals
            && let Some((revision, key)) = self.removals.pop_first()
        {
            self.order.remove(&revision);
            self.removed.remove(&key);
            self.oldest = self.oldest.max(revision);
        }
    }

    /// Notes that nothing more happened up to a revision.
    pub fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// Forgets what changed before a revision: watches from earlier ones expire.
    pub fn compact(&mut self, oldest: Revision) {
        self.oldest = self.oldest.max(oldest);
        self.revision = self.revision.max(oldest);
        while let Some(entry) = self.removals.first_entry()
            && *entry.key() <= self.oldest
        {
            let (revision, key) = entry.remove_entry();
            self.order.remove(&revision);
            self.removed.remove(&key);
        }
    }

    /// Up to `max` changes of a selection after `from`, in order, and the revision up to which the log was read.
    ///
    /// # Errors
    /// [`DatastoreError::Expired`] where a change after `from` may have been forgotten, and where `from` lies in the
    /// future: such a revision belongs to another life of the store.
    pub fn changes_after(
        &self,
        from: Revision,
        selection: &Selection,
        max: usize,
    ) -> Result<(Vec<WatchEvent>, Revision), DatastoreError> {
        if from < self.oldest || from > self.revision {
            return Err(DatastoreError::Expired {
                from,
                oldest: self.oldest,
            });
        }
        let mut events = Vec::new();
        for (revision, key) in self.order.range((Bound::Excluded(from), Bound::Unbounded)) {
            if !selection.matches(key) {
                continue;
            }
            events.push(match self.live.get(key) {
                Some(versioned) => WatchEvent::Upsert(versioned.clone()),
                None => WatchEvent::Delete {
                    key: key.clone(),
                    revision: *revision,
                },
            });
            if events.len() >= max {
                return Ok((events, *revision));
            }
        }
        Ok((events, self.revision))
    }

    /// Takes an object's former place out of the order.
    fn forget(&mut self, key: &Key) {
        if let Some(former) = self.live.get(key) {
            self.order.remove(&former.revision);
        }
        if let Some(revision) = self.removed.remove(key) {
            self.order.remove(&revision);
            self.removals.remove(&revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model::{Object, TierSpec};
    use proptest::prelude::*;

    fn tier(name: u8) -> (Key, Arc<Resource>) {
        let resource = Resource::from(Object::named(format!("t{name}"), TierSpec::default()));
        (resource.key(), Arc::new(resource))
    }

    proptest! {
        /// Whatever happens and wherever a watcher starts and stops, following the log leads to the listing.
        #[test]
        fn following_the_log_leads_to_the_listing(
            steps in proptest::collection::vec((any::<bool>(), 0u8..6, 1usize..4, any::<bool>()), 1..80),
            remembered in 0usize..8,
        ) {
            let mut log = ChangeLog::new(remembered);
            let mut seen: BTreeMap<Key, Version> = BTreeMap::new();
            let mut cursor = Revision::default();
            for (put, name, max, read) in steps {
                let (key, resource) = tier(name);
                let revision = log.revision().next();
                if put {
                    log.put(key, resource, Version::new(revision.to_string()), revision);
                } else if log.get(&key).is_some() {
                    log.remove(&key, revision);
                }
                if read {
                    follow(&log, &mut seen, &mut cursor, max, false);
                }
                prop_assert_eq!(log.order.len(), log.live.len() + log.removals.len());
                prop_assert!(log.removals.len() <= remembered);
            }
            follow(&log, &mut seen, &mut cursor, 3, true);
            let listed: BTreeMap<Key, Version> = log.iter().map(|(k, v)| (k.clone(), v.version.clone())).collect();
            prop_assert_eq!(seen, listed);
        }
    }

    fn follow(
        log: &ChangeLog,
        seen: &mut BTreeMap<Key, Version>,
        cursor: &mut Revision,
        max: usize,
        to_end: bool,
    ) {
        loop {
            match log.changes_after(*cursor, &Selection::all(), max) {
                Ok((events, next)) => {
                    let mut last = *cursor;
                    for event in &events {
                        assert!(event.revision() > last, "events are in order");
                        last = event.revision();
                        match event {
                            WatchEvent::Upsert(v) => drop(seen.insert(v.key(), v.version.clone())),
                            WatchEvent::Delete { key, .. } => drop(seen.remove(key)),
                        }
                    }
                    *cursor = next;
                    if events.is_empty() || !to_end {
                        return;
                    }
                }
                Err(_) => {
                    let listing = log.list(&Selection::all());
                    *seen = listing
                        .items
                        .iter()
                        .map(|v| (v.key(), v.version.clone()))
                        .collect();
                    *cursor = listing.revision;
                }
            }
        }
    }

    #[test]
    fn an_old_or_a_future_revision_expires() {
        let mut log = ChangeLog::new(1);
        for n in 0..3 {
            let (key, resource) = tier(n);
            let revision = log.revision().next();
            log.put(key, resource, Version::new("v"), revision);
        }
        assert!(log.changes_after(Revision::new(0), &Selection::all(), 9).is_ok());
        assert!(log.changes_after(Revision::new(4), &Selection::all(), 9).is_err());
        for n in 0..2 {
            let revision = log.revision().next();
            log.remove(&tier(n).0, revision);
        }
        // The removal at 4 is forgotten; who stands at 4 has seen it.
        assert!(log.changes_after(Revision::new(3), &Selection::all(), 9).is_err());
        assert!(log.changes_after(Revision::new(4), &Selection::all(), 9).is_ok());
        log.compact(Revision::new(5));
        assert!(log.changes_after(Revision::new(4), &Selection::all(), 9).is_err());
        assert_eq!(log.order.len(), 1);
    }
}
