//! The journal: which object became what at which revision.
//!
//! One record a line: `+<checksum> <JSON>`. A line that begins with `?` is written but not yet in force: readers stop
//! before it, its writer turns the mark into `+` when the document is in place, and the next holder of the lock drops
//! it if its writer died. So is a line that is torn. The first line says from which revision on nothing is missing,
//! followed by all objects as they were then (`keep`), followed by what happened since.
//!
//! Only the holder of the lock writes. Reading needs no lock.

use crate::{disk, document};
use policy_model::{Key, Kind, Resource};
use policy_model_datastore::{ChangeLog, Revision, Version};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const IN_FORCE: u8 = b'+';
const PREPARED: u8 = b'?';
/// Digits of a line's checksum.
const CHECKSUM: usize = 16;
/// A journal is written anew when it is so many times as large as when it was last written anew.
const GROWTH: u64 = 4;

/// What happened to one object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) revision: Revision,
    pub(crate) key: Key,
    pub(crate) change: Change,
}

/// How an object changed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Put(Version, Arc<Resource>),
    Delete,
}

/// What a look at the journal brought.
#[derive(Debug, PartialEq)]
pub(crate) enum News {
    /// What happened since the last look.
    Records(Vec<Record>),
    /// Another journal took the place of the one that was read, and does not continue it: all objects, and the
    /// revision from which on nothing is missing.
    Anew(Revision, Vec<Record>),
}

/// What the holder of the lock found at the journal's end.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Repair {
    /// The object whose writer died between preparing and finishing.
    pub(crate) unfinished: Option<Key>,
    /// Records may have been lost: every document must be compared.
    pub(crate) damaged: bool,
}

#[derive(Serialize, Deserialize)]
struct Header {
    journal: u32,
    start: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    Keep,
    Put,
    Delete,
}

#[derive(Serialize, Deserialize)]
struct Line {
    revision: u64,
    operation: Operation,
    kind: Kind,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object: Option<Value>,
}

/// An open journal, and how far it was read.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    inode: (u64, u64),
    /// Up to here it was read, and from here it is written.
    offset: u64,
    /// Length and revision of the line that is prepared and not yet in force.
    prepared: Option<(u64, Revision)>,
    compacted_size: u64,
    /// Revision of the last record that was read or written.
    revision: Revision,
}

impl Journal {
    /// Opens a journal and reads it from its start. Where there is none that can be read, makes one with the objects
    /// that `found` finds. It comes into being with all of them: who still knows the old journal and follows the new
    /// one must not see objects vanish and come back. The caller holds the lock.
    pub(crate) fn open(
        path: PathBuf,
        sync: bool,
        found: impl FnOnce() -> ChangeLog,
    ) -> io::Result<(Self, News, Repair)> {
        if let Ok(file) = File::options().read(true).write(true).open(&path) {
            let mut journal = Journal::at_start(path.clone(), file)?;
            if let Some((news, repair)) = journal.read_anew(true)? {
                return Ok((journal, news, repair));
            }
            tracing::warn!(path = %path.display(), "the journal cannot be read; making a new one from the documents");
        }
        let log = found();
        write_whole(&path, &log, sync)?;
        let mut journal =
            Journal::at_start(path.clone(), File::options().read(true).write(true).open(&path)?)?;
        match journal.read_anew(true)? {
            Some((news, repair)) => Ok((journal, news, repair)),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a new journal cannot be read",
            )),
        }
    }

    fn at_start(path: PathBuf, file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let inode = (metadata.dev(), metadata.ino());
        let revision = Revision::default();
        Ok(Journal {
            path,
            file,
            inode,
            offset: 0,
            prepared: None,
            compacted_size: 0,
            revision,
        })
    }

    /// Reads what is new. With the lock held, also drops what no living writer will finish; `log` then makes good for a
    /// journal that somebody removed.
    pub(crate) fn read_new(&mut self, held: Option<(&ChangeLog, bool)>) -> io::Result<(Vec<News>, Repair)> {
        let (records, mut repair) = self.read_records(held.is_some())?;
        let mut news = vec![News::Records(records)];
        let inode = match fs::metadata(&self.path) {
            Ok(metadata) => (metadata.dev(), metadata.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some((log, sync)) = held {
                    self.compact(log, sync)?;
                }
                return Ok((news, repair));
            }
            Err(error) => return Err(error),
        };
        if inode == self.inode {
            return Ok((news, repair));
        }
        // What was written between our look and the replacement is read now; nobody writes to the old one any more.
        let (records, late) = self.read_records(held.is_some())?;
        repair.damaged |= late.damaged;
        news.push(News::Records(records));
        let mut next = Journal::at_start(
            self.path.clone(),
            File::options().read(true).write(true).open(&self.path)?,
        )?;
        let Some((anew, next_repair)) = next.read_anew(held.is_some())? else {
            if let Some((log, sync)) = held {
                self.compact(log, sync)?;
                repair.damaged = true;
            }
            return Ok((news, repair));
        };
        if let News::Anew(start, records) = anew {
            if start == self.revision {
                let seen = self.revision;
                news.push(News::Records(
                    records.into_iter().filter(|r| r.revision > seen).collect(),
                ));
            } else {
                news.push(News::Anew(start, records));
            }
        }
        *self = next;
        Ok((
            news,
            Repair {
                damaged: repair.damaged || next_repair.damaged,
                ..next_repair
            },
        ))
    }

    /// Reads the header and all records; `None` where there is no header.
    fn read_anew(&mut self, held: bool) -> io::Result<Option<(News, Repair)>> {
        let bytes = self.bytes_after_offset()?;
        let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
            return Ok(None);
        };
        let line = bytes.get(..end).unwrap_or_default();
        let header = unframe(line).and_then(|json| serde_json::from_slice::<Header>(json).ok());
        let Some(header) = header.filter(|h| h.journal == 1) else {
            return Ok(None);
        };
        self.offset = end as u64 + 1;
        self.compacted_size = bytes.len() as u64;
        self.revision = Revision::new(header.start);
        let (records, repair) = self.read_records(held)?;
        Ok(Some((News::Anew(Revision::new(header.start), records), repair)))
    }

    fn bytes_after_offset(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut buffer = vec![0u8; 16 * 1024];
        loop {
            let n = self.file.read_at(&mut buffer, self.offset + bytes.len() as u64)?;
            if n == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(buffer.get(..n).unwrap_or_default());
            if bytes.len() >= buffer.len() * 4 {
                buffer.resize(buffer.len() * 4, 0);
            }
        }
    }

    /// Reads the records that are in force. What follows them is in the making, or, if the lock is held, a ruin.
    fn read_records(&mut self, held: bool) -> io::Result<(Vec<Record>, Repair)> {
        let bytes = self.bytes_after_offset()?;
        let mut records = Vec::new();
        let mut rest = bytes.as_slice();
        while rest.first() == Some(&IN_FORCE)
            && let Some(end) = rest.iter().position(|b| *b == b'\n')
            && let Some(json) = rest.get(..end).and_then(unframe)
        {
            match serde_json::from_slice::<Line>(json).ok().and_then(record) {
                Some(record) => {
                    self.revision = self.revision.max(record.revision);
                    records.push(record);
                }
                // A later version of Manx wrote it, about something that this one does not know.
                None => {
                    tracing::warn!(path = %self.path.display(), "a record of the journal is not understood")
                }
            }
            self.offset += end as u64 + 1;
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        let mut repair = Repair::default();
        if held && !rest.is_empty() {
            let end = rest.iter().position(|b| *b == b'\n');
            let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
            let last = end.is_none_or(|end| end + 1 == rest.len());
            let prepared = line.first() == Some(&PREPARED);
            let lost = unframe(line)
                .and_then(|json| serde_json::from_slice::<Line>(json).ok())
                .and_then(record);
            repair.unfinished = lost.filter(|_| prepared).map(|r| r.key);
            // A prepared last line was never in force; anything else may have been.
            repair.damaged = !(prepared && last);
            self.file.set_len(self.offset)?;
        }
        Ok((records, repair))
    }

    /// Writes a record that is not yet in force, with the revision after all others. Takes all the room on the disk
    /// that the change will need. The caller holds the lock and has read the journal to its end.
    pub(crate) fn prepare(
        &mut self,
        revision: Revision,
        key: &Key,
        put: Option<(&Version, Value)>,
    ) -> io::Result<()> {
        let operation = if put.is_some() {
            Operation::Put
        } else {
            Operation::Delete
        };
        let bytes = line(PREPARED, revision, operation, key, put)?;
        if let Err(error) = self.file.write_all_at(&bytes, self.offset) {
            self.abandon();
            return Err(error);
        }
        self.prepared = Some((bytes.len() as u64, revision));
        Ok(())
    }

    /// Puts the prepared record in force.
    pub(crate) fn commit(&mut self) -> io::Result<()> {
        if let Some((length, revision)) = self.prepared.take() {
            self.file.write_all_at(&[IN_FORCE], self.offset)?;
            self.offset += length;
            self.revision = self.revision.max(revision);
        }
        Ok(())
    }

    /// Takes the prepared record back. If even that fails, the next holder of the lock does it.
    pub(crate) fn abandon(&mut self) {
        self.prepared = None;
        if let Err(error) = self.file.set_len(self.offset) {
            tracing::warn!(path = %self.path.display(), %error, "cannot take back a record of the journal");
        }
    }

    /// Whether the journal has grown so far that it should be written anew.
    pub(crate) fn is_large(&self, least: u64) -> bool {
        self.offset > least.max(self.compacted_size.saturating_mul(GROWTH))
    }

    /// Replaces the journal by one that begins now. Others read the old one, which they have open, to its end before
    /// they notice. The caller holds the lock and has read the journal to its end into `log`.
    pub(crate) fn compact(&mut self, log: &ChangeLog, sync: bool) -> io::Result<()> {
        write_whole(&self.path, log, sync)?;
        let mut next = Journal::at_start(
            self.path.clone(),
            File::options().read(true).write(true).open(&self.path)?,
        )?;
        next.offset = next.file.metadata()?.len();
        next.compacted_size = next.offset;
        next.revision = log.revision();
        *self = next;
        Ok(())
    }
}

/// Writes a journal that begins with the objects and at the revision of `log`, in place of any other.
fn write_whole(path: &Path, log: &ChangeLog, sync: bool) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let result = (|| {
        let file = disk::open_own(&temporary, true)?;
        let mut writer = io::BufWriter::with_capacity(1 << 18, file);
        writer.write_all(&frame(
            IN_FORCE,
            &Header {
                journal: 1,
                start: log.revision().get(),
            },
        )?)?;
        for (key, versioned) in log.iter() {
            let put = Some((&versioned.version, versioned.resource.to_value()));
            writer.write_all(&line(IN_FORCE, versioned.revision, Operation::Keep, key, put)?)?;
        }
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(folder) if sync => disk::sync_folder(folder),
            _ => Ok(()),
        }
    })();
    if result.is_err() {
        disk::discard(&temporary);
    }
    result
}

fn line(
    mark: u8,
    revision: Revision,
    operation: Operation,
    key: &Key,
    put: Option<(&Version, Value)>,
) -> io::Result<Vec<u8>> {
    let (version, object) = put
        .map(|(version, object)| (version.as_str().to_owned(), object))
        .unzip();
    let Key {
        kind,
        namespace,
        name,
    } = key.clone();
    frame(
        mark,
        &Line {
            revision: revision.get(),
            operation,
            kind,
            namespace,
            name,
            version,
            object,
        },
    )
}

fn frame(mark: u8, content: &impl Serialize) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(content)?;
    let mut bytes = vec![mark];
    bytes.extend_from_slice(document::hash(&json, CHECKSUM / 2).as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(&json);
    bytes.push(b'\n');
    Ok(bytes)
}

/// The content of a line (without its end), if it is whole. The mark may be either.
fn unframe(line: &[u8]) -> Option<&[u8]> {
    let rest = line
        .strip_prefix(&[IN_FORCE])
        .or_else(|| line.strip_prefix(&[PREPARED]))?;
    let (checksum, rest) = rest.split_at_checked(CHECKSUM)?;
    let json = rest.strip_prefix(b" ")?;
    (document::hash(json, CHECKSUM / 2).as_bytes() == checksum).then_some(json)
}

fn record(line: Line) -> Option<Record> {
    let key = Key {
        kind: line.kind,
        namespace: line.namespace,
        name: line.name,
    };
    let change = match (line.operation, line.version, line.object) {
        (Operation::Delete, ..) => Change::Delete,
        (Operation::Put | Operation::Keep, Some(version), Some(object)) => {
            let resource = Resource::parse(object).ok()?.resource;
            if resource.key() != key {
                return None;
            }
            Change::Put(Version::new(version), Arc::new(resource))
        }
        _ => return None,
    };
    Some(Record {
        revision: Revision::new(line.revision),
        key,
        change,
    })
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
