//! The journal: what is committed is read once and in order, whatever was left at its end.

use super::*;
use policy_model::{Object, TierSpec};
use proptest::prelude::*;

fn key(name: &str) -> Key {
    Key::global(Kind::Tier, name)
}

fn tier(name: &str, order: u32) -> Arc<Resource> {
    Arc::new(
        Object::named(
            name,
            TierSpec {
                order: Some(f64::from(order)),
                default_action: None,
            },
        )
        .into(),
    )
}

fn empty(revision: u64) -> ChangeLog {
    let mut log = ChangeLog::default();
    log.advance(Revision::new(revision));
    log
}

/// A journal and the log that it leads to.
struct Reader {
    journal: Journal,
    log: ChangeLog,
}

impl Reader {
    fn open(folder: &Path) -> (Self, Repair) {
        let (journal, news, repair) = Journal::open(folder.join("journal"), false, || empty(100)).unwrap();
        let mut reader = Reader {
            journal,
            log: ChangeLog::default(),
        };
        reader.take(news);
        (reader, repair)
    }

    fn take(&mut self, news: News) {
        let records = match news {
            News::Records(records) => records,
            News::Anew(start, records) => {
                self.log = ChangeLog::default();
                self.log.compact(start);
                records
            }
        };
        for record in records {
            match record.change {
                Change::Put(version, resource) => {
                    drop(self.log.put(record.key, resource, version, record.revision))
                }
                Change::Delete => self.log.remove(&record.key, record.revision),
            }
        }
    }

    fn read(&mut self, held: bool) -> Repair {
        let log = ChangeLog::default();
        let (news, repair) = self.journal.read_new(held.then_some((&log, false))).unwrap();
        news.into_iter().for_each(|n| self.take(n));
        repair
    }

    fn prepare(&mut self, name: &str, order: u32) {
        let revision = self.log.revision().next();
        let value = tier(name, order).to_value();
        self.journal
            .prepare(
                revision,
                &key(name),
                Some((&Version::new(format!("v{order}")), value)),
            )
            .unwrap();
    }

    fn put(&mut self, name: &str, order: u32) {
        self.prepare(name, order);
        self.journal.commit().unwrap();
        let revision = self.log.revision().next();
        self.log.put(
            key(name),
            tier(name, order),
            Version::new(format!("v{order}")),
            revision,
        );
    }

    fn delete(&mut self, name: &str) {
        let revision = self.log.revision().next();
        self.journal.prepare(revision, &key(name), None).unwrap();
        self.journal.commit().unwrap();
        self.log.remove(&key(name), revision);
    }

    fn state(&self) -> Vec<(String, String, u64)> {
        let entry = |(k, v): (&Key, &policy_model_datastore::Versioned)| {
            (k.name.clone(), v.version.to_string(), v.revision.get())
        };
        self.log.iter().map(entry).collect()
    }
}

#[test]
fn a_prepared_record_is_seen_only_when_it_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, _) = Reader::open(folder.path());
    let (mut reader, _) = Reader::open(folder.path());
    writer.prepare("a", 1);
    assert_eq!(reader.read(false), Repair::default());
    assert!(reader.log.is_empty());
    writer.journal.commit().unwrap();
    reader.read(false);
    assert_eq!(reader.state(), [("a".into(), "v1".into(), 101)]);
    reader.read(false);
    assert_eq!(reader.log.revision(), Revision::new(101));
}

#[test]
fn a_dead_writers_record_is_dropped_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, _) = Reader::open(folder.path());
    writer.put("a", 1);
    writer.prepare("b", 2);
    drop(writer);
    let (mut next, repair) = Reader::open(folder.path());
    assert_eq!(
        repair,
        Repair {
            unfinished: Some(key("b")),
            damaged: false
        }
    );
    next.put("c", 3);
    let (reader, repair) = Reader::open(folder.path());
    assert_eq!(repair, Repair::default());
    assert_eq!(
        reader.state(),
        [("a".into(), "v1".into(), 101), ("c".into(), "v3".into(), 102)]
    );
}

#[test]
fn what_is_taken_back_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, _) = Reader::open(folder.path());
    writer.prepare("a", 1);
    writer.journal.abandon();
    writer.put("b", 2);
    let (reader, repair) = Reader::open(folder.path());
    assert_eq!(
        (reader.state(), repair),
        (vec![("b".into(), "v2".into(), 101)], Repair::default())
    );
}

#[test]
fn a_reader_crosses_a_compaction_without_loss_and_an_old_revision_expires() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, _) = Reader::open(folder.path());
    let (mut reader, _) = Reader::open(folder.path());
    writer.put("a", 1);
    writer.put("b", 2);
    writer.delete("a");
    writer.journal.compact(&writer.log, false).unwrap();
    writer.put("c", 3);
    reader.read(false);
    assert_eq!(reader.state(), writer.state());
    assert_eq!(
        reader.log.oldest(),
        Revision::new(100),
        "a reader that was there keeps its memory"
    );
    let (late, _) = Reader::open(folder.path());
    assert_eq!(late.state(), writer.state());
    assert_eq!(late.log.oldest(), Revision::new(103));
}

#[test]
fn a_removed_journal_is_made_anew_and_an_unreadable_one_too() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, _) = Reader::open(folder.path());
    writer.put("a", 1);
    fs::remove_file(folder.path().join("journal")).unwrap();
    let (news, _) = writer.journal.read_new(Some((&writer.log, false))).unwrap();
    assert_eq!(news, [News::Records(vec![])]);
    assert_eq!(Reader::open(folder.path()).0.state(), writer.state());

    fs::write(folder.path().join("journal"), "no journal").unwrap();
    let (reader, repair) = Reader::open(folder.path());
    assert!(reader.log.is_empty() && repair == Repair::default());
    assert_eq!(reader.log.revision(), Revision::new(100));
}

#[test]
fn a_journal_that_does_not_continue_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let (mut reader, _) = Reader::open(folder.path());
    reader.put("a", 1);
    fs::remove_file(folder.path().join("journal")).unwrap();
    let path = folder.path().join("journal");
    let (journal, ..) = Journal::open(path, false, || empty(5_000)).unwrap();
    let mut stranger = Reader {
        journal,
        log: ChangeLog::default(),
    };
    stranger.log.compact(Revision::new(5_000));
    stranger.put("b", 2);
    let (news, _) = reader.journal.read_new(None).unwrap();
    assert!(
        matches!(news.last(), Some(News::Anew(start, records)) if start.get() == 5_000 && records.len() == 1)
    );
}

proptest! {
    /// Whatever ruin stands at the end, all records before it are read, and writing goes on.
    #[test]
    fn a_ruined_end_costs_nothing_before_it(
        whole in 0usize..5,
        cut in 0usize..400,
        ruin in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, _) = Reader::open(folder.path());
        for n in 0..whole {
            writer.put(&format!("t{n}"), 1);
        }
        let path = folder.path().join("journal");
        let good = fs::read(&path).unwrap();
        writer.put("last", 2);
        let all = fs::read(&path).unwrap();
        let cut = (good.len() + cut).min(all.len() - 1);
        let mut bytes = all[..cut].to_vec();
        bytes.extend_from_slice(&ruin);
        fs::write(&path, &bytes).unwrap();
        let (mut reader, _) = Reader::open(folder.path());
        let expected = whole + usize::from(bytes.starts_with(&all));
        prop_assert_eq!(reader.log.len(), expected);
        reader.put("after", 3);
        let (again, repair) = Reader::open(folder.path());
        prop_assert_eq!(repair, Repair::default());
        prop_assert_eq!(again.state(), reader.state());
    }
}
