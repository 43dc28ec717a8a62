//! How what a journal says comes into the memory of one who follows it. Pure.

use crate::journal::{Change, Record};
use policy_model::Key;
use policy_model_datastore::{ChangeLog, Revision};
use std::collections::{BTreeMap, BTreeSet};

/// Takes over the next record of a journal that was read to its end.
pub(crate) fn apply(log: &mut ChangeLog, record: Record) {
    match record.change {
        Change::Put(version, resource) => drop(log.put(record.key, resource, version, record.revision)),
        Change::Delete => log.remove(&record.key, record.revision),
    }
}

/// Takes over a journal that does not begin where what was known ends: it was written anew more than once since, or it
/// was removed and made of the documents. `stands` says of an object that the journal has not whether it stays
/// nevertheless.
///
/// What changed keeps the revision that the journal gives it, because later records go on from there and no two objects
/// may ever stand at one revision: the second would push the first out of watchers' sight. The journal does not say when
/// what is gone went; each removal gets a revision that no object stands at. There are enough of them, because every
/// removal took one, and because a journal made of documents begins far above the one before.
pub(crate) fn apply_anew(
    log: &mut ChangeLog,
    start: Revision,
    records: Vec<Record>,
    stands: impl Fn(&Key) -> bool,
) {
    if log.is_empty() && log.revision() == Revision::default() {
        log.compact(start);
        let mut records = records;
        records.sort_by_key(|record| record.revision);
        records.into_iter().for_each(|record| apply(log, record));
        return;
    }
    let known = log.revision();
    let mut last: BTreeMap<Key, Record> = BTreeMap::new();
    for record in records {
        let entry = last.entry(record.key.clone()).or_insert_with(|| record.clone());
        if record.revision >= entry.revision {
            *entry = record;
        }
    }
    let gone = log.iter().map(|(key, _)| key);
    let gone: Vec<Key> = gone
        .filter(|key| !last.contains_key(*key) && !stands(key))
        .cloned()
        .collect();
    let is_news = |record: &Record| match &record.change {
        Change::Put(version, _) => log.get(&record.key).is_none_or(|now| now.version != *version),
        Change::Delete => log.get(&record.key).is_some(),
    };
    let (placed, mut unplaced): (Vec<Record>, Vec<Record>) = last
        .into_values()
        .filter(is_news)
        .partition(|record| record.revision > known);
    let taken: BTreeSet<Revision> = placed.iter().map(|record| record.revision).collect();
    let mut free = (known.get() + 1..=start.get()).rev().map(Revision::new);
    let mut changes: BTreeMap<Revision, Record> = placed
        .into_iter()
        .map(|record| (record.revision, record))
        .collect();
    for key in gone {
        let revision = free.find(|revision| !taken.contains(revision));
        let record = Record {
            revision: revision.unwrap_or(known),
            key,
            change: Change::Delete,
        };
        match revision {
            Some(revision) => drop(changes.insert(revision, record)),
            None => unplaced.push(record),
        }
    }
    changes.into_values().for_each(|record| apply(log, record));
    log.advance(start);
    // A journal that goes back behind what was known: whoever watches hears of it all the same.
    for record in unplaced {
        let revision = log.revision().next();
        apply(log, Record { revision, ..record });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model::{Object, Resource, TierSpec};
    use policy_model_datastore::{Selection, Version, WatchEvent};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn tier(name: u8) -> Arc<Resource> {
        Arc::new(Object::named(format!("t{name}"), TierSpec::default()).into())
    }

    /// What a journal says that was just written anew: all objects, each at its last change.
    fn written_anew(log: &ChangeLog) -> (Revision, Vec<Record>) {
        let keep = |(key, now): (&Key, &policy_model_datastore::Versioned)| Record {
            revision: now.revision,
            key: key.clone(),
            change: Change::Put(now.version.clone(), now.resource.clone()),
        };
        (log.revision(), log.iter().map(keep).collect())
    }

    /// Follows a log as a watcher does.
    fn follow(log: &ChangeLog, seen: &mut BTreeMap<Key, Version>, cursor: &mut Revision) {
        let (events, next) = log.changes_after(*cursor, &Selection::all(), usize::MAX).unwrap();
        for event in events {
            match event {
                WatchEvent::Upsert(now) => drop(seen.insert(now.key(), now.version.clone())),
                WatchEvent::Delete { key, .. } => drop(seen.remove(&key)),
            }
        }
        *cursor = next;
    }

    proptest! {
        /// A writer changes objects and writes the journal anew; a reader looks now and then and misses some of that. His
        /// watcher comes to the writer's objects, and his revisions are the writer's.
        #[test]
        fn who_misses_journals_misses_no_object(
            steps in proptest::collection::vec((0u8..8, any::<bool>(), 0u8..4, any::<bool>()), 1..120),
        ) {
            let mut writer = ChangeLog::default();
            writer.advance(Revision::new(100));
            let mut reader = ChangeLog::default();
            let (start, records) = written_anew(&writer);
            apply_anew(&mut reader, start, records, |_| false);
            let (mut seen, mut cursor) = (BTreeMap::new(), reader.revision());
            // The records of the journal that the reader has open, which he has not read; none once it was replaced
            // twice.
            let mut unread = Some(Vec::new());
            let mut journals = 0;
            for (name, put, anew, looks) in steps {
                let key = tier(name).key();
                let revision = writer.revision().next();
                let record = if put {
                    let version = Version::new(revision.to_string());
                    Record { revision, key, change: Change::Put(version, tier(name)) }
                } else if writer.get(&key).is_some() {
                    Record { revision, key, change: Change::Delete }
                } else {
                    continue;
                };
                apply(&mut writer, record.clone());
                if let Some(unread) = &mut unread {
                    unread.push(record);
                }
                if anew == 0 {
                    journals += 1;
                }
                if journals > 1 {
                    unread = None;
                }
                if looks {
                    match unread.take() {
                        Some(records) => records.into_iter().for_each(|r| apply(&mut reader, r)),
                        None => {
                            let (start, records) = written_anew(&writer);
                            apply_anew(&mut reader, start, records, |_| false);
                        }
                    }
                    unread = Some(Vec::new());
                    journals = 0;
                    prop_assert_eq!(reader.revision(), writer.revision());
                    follow(&reader, &mut seen, &mut cursor);
                    let wanted: BTreeMap<Key, Version> =
                        writer.iter().map(|(key, now)| (key.clone(), now.version.clone())).collect();
                    prop_assert_eq!(&seen, &wanted);
                    for (key, now) in reader.iter() {
                        prop_assert_eq!(Some(now.revision), writer.get(key).map(|now| now.revision));
                    }
                }
            }
        }
    }

    #[test]
    fn a_journal_that_goes_back_is_told_all_the_same() {
        let put = |name: u8, revision: u64| Record {
            revision: Revision::new(revision),
            key: tier(name).key(),
            change: Change::Put(Version::new(format!("{name}-{revision}")), tier(name)),
        };
        let mut log = ChangeLog::default();
        apply_anew(&mut log, Revision::new(100), vec![put(1, 90), put(2, 91)], |_| {
            false
        });
        let (mut seen, mut cursor) = (BTreeMap::new(), Revision::new(100));
        apply_anew(&mut log, Revision::new(12), vec![put(1, 11), put(3, 12)], |_| {
            false
        });
        follow(&log, &mut seen, &mut cursor);
        let names: Vec<String> = log.iter().map(|(key, _)| key.name.clone()).collect();
        assert_eq!(names, ["t1", "t3"]);
        let told: Vec<String> = seen.keys().map(|key| key.name.clone()).collect();
        assert_eq!(told, ["t1", "t3"]);
    }
}
