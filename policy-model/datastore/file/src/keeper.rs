//! The part of the store that one thread at a time works on: the journal, the notices, and the documents in doubt.
//!
//! A document is in doubt when a notice named it. Most doubts are settled by a look (the document is what the journal
//! says); the others need the lock, because they end in a new record.

use crate::disk::{self, Content};
use crate::document;
use crate::folders::Folders;
use crate::journal::{Journal, News, Repair};
use crate::path::{self, Location};
use crate::store::Settings;
use crate::taking::{apply, apply_anew};
use policy_model::{InvalidResource, Key};
use policy_model_datastore::{ChangeLog, DatastoreError, Fault, SharedLog, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is known of a folder, and what is to be looked at.
pub(crate) struct Keeper {
    pub(crate) root: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) journal: Journal,
    pub(crate) folders: Folders,
    pub(crate) log: Arc<SharedLog>,
    /// Documents in doubt, relative to the root.
    doubts: BTreeSet<PathBuf>,
    /// Documents that vanished, and until when each may come back as if nothing had happened.
    vanished: BTreeMap<PathBuf, Instant>,
    faults: BTreeMap<PathBuf, KnownFault>,
    /// Whether the folder was taken away from under the store.
    pub(crate) broken: bool,
}

struct KnownFault {
    error: InvalidResource,
    /// Of the bytes that are faulty, so that the same bytes are not judged twice.
    version: Option<Version>,
}

/// What a look at a document in doubt says.
enum Look {
    /// There is nothing to do.
    Settled,
    /// It vanished, and may come back: an editor may be replacing it.
    MayComeBack,
    /// It is gone.
    Gone(Key),
    /// It is not what the journal says.
    Differs(Key, Vec<u8>),
}

impl Keeper {
    pub(crate) fn new(
        root: PathBuf,
        settings: Settings,
        journal: Journal,
        folders: Folders,
        log: Arc<SharedLog>,
    ) -> Self {
        Keeper {
            root,
            settings,
            journal,
            folders,
            log,
            doubts: BTreeSet::new(),
            vanished: BTreeMap::new(),
            faults: BTreeMap::new(),
            broken: false,
        }
    }

    /// Takes in the kernel's notices as doubts.
    pub(crate) fn take_notices(&mut self) -> Result<(), DatastoreError> {
        let notices = self.folders.notices()?;
        self.doubts.extend(notices.files);
        if !notices.gone.is_empty() {
            let below = |path: &PathBuf| notices.gone.iter().any(|gone| path.starts_with(gone));
            let known: Vec<PathBuf> = self.known_paths().into_iter().filter(below).collect();
            self.doubts.extend(known);
        }
        self.broken |= notices.root_gone;
        if notices.lost {
            tracing::warn!(root = %self.root.display(), "notices of changed files were lost; comparing all documents");
            self.doubt_all()?;
        }
        let now = Instant::now();
        self.doubts.extend(
            self.vanished
                .iter()
                .filter(|(_, until)| **until <= now)
                .map(|(path, _)| path.clone()),
        );
        Ok(())
    }

    /// Puts every document that there is, and every one that should be, in doubt.
    pub(crate) fn doubt_all(&mut self) -> Result<(), DatastoreError> {
        let files = self.folders.scan()?;
        self.doubts.extend(files);
        let known = self.known_paths();
        self.doubts.extend(known);
        Ok(())
    }

    /// The paths of all objects in force and of all faults.
    fn known_paths(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self
            .log
            .read(|log| log.iter().filter_map(|(key, _)| path::of_key(key)).collect());
        paths.extend(self.faults.keys().cloned());
        paths
    }

    /// Whether any document is in doubt.
    pub(crate) fn in_doubt(&self) -> bool {
        !self.doubts.is_empty()
    }

    /// When a vanished document will be taken for removed.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.vanished.values().min().copied()
    }

    /// Reads what is new in the journal. `held` says that the caller holds the lock.
    pub(crate) fn catch_up(&mut self, held: bool) -> Result<(), DatastoreError> {
        let sync = self.settings.sync;
        let journal = &mut self.journal;
        let result = if held {
            self.log.read(|log| journal.read_new(Some((log, sync))))
        } else {
            journal.read_new(None)
        };
        let (news, repair) = result.map_err(|e| disk::failure("read the journal of", &self.root, e))?;
        for news in news {
            self.take_in(news);
        }
        self.after_repair(repair)
    }

    pub(crate) fn after_repair(&mut self, repair: Repair) -> Result<(), DatastoreError> {
        if let Some(path) = repair.unfinished.as_ref().and_then(path::of_key) {
            self.doubts.insert(path);
        }
        if repair.damaged {
            self.doubt_all()?;
        }
        Ok(())
    }

    pub(crate) fn take_in(&mut self, news: News) {
        match news {
            News::Records(records) if records.is_empty() => {}
            News::Records(records) => {
                self.log
                    .write(|log| records.into_iter().for_each(|record| apply(log, record)));
            }
            News::Anew(start, records) => {
                let root = &self.root;
                // A document that is there and not in the journal is invalid: what was in force for it stays so.
                let stands =
                    |key: &Key| path::of_key(key).is_some_and(|relative| root.join(relative).exists());
                self.log.write(|log| apply_anew(log, start, records, stands));
            }
        }
    }

    /// Looks at the documents in doubt, and keeps in doubt those that need the lock.
    pub(crate) fn look(&mut self) {
        for relative in std::mem::take(&mut self.doubts) {
            if let Look::Gone(_) | Look::Differs(..) = self.look_at(&relative) {
                self.doubts.insert(relative);
            }
        }
    }

    /// Settles the documents in doubt. The caller holds the lock and has caught up with the journal.
    ///
    /// # Errors
    /// The first failure; what is not settled stays in doubt.
    pub(crate) fn settle(&mut self) -> Result<(), DatastoreError> {
        while let Some(relative) = self.doubts.pop_first() {
            if let Err(error) = self.settle_one(&relative) {
                self.doubts.insert(relative);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Settles one document. The caller holds the lock and has caught up with the journal. Returns whether the
    /// document is, for now, neither there nor gone.
    pub(crate) fn settle_one(&mut self, relative: &Path) -> Result<bool, DatastoreError> {
        match self.look_at(relative) {
            Look::Settled => Ok(false),
            Look::MayComeBack => Ok(true),
            Look::Gone(key) => {
                tracing::info!(%key, "the document was removed from outside");
                self.record(&key, None)?;
                self.clear(relative);
                Ok(false)
            }
            Look::Differs(key, bytes) => {
                let version = document::version(&bytes);
                match document::read(&bytes, &key) {
                    Ok(resource) => {
                        tracing::info!(%key, "the document was changed from outside");
                        self.record(&key, Some((version, resource)))?;
                        self.clear(relative);
                    }
                    Err(error) => self.fault(relative, Some(version), error),
                }
                Ok(false)
            }
        }
    }

    fn look_at(&mut self, relative: &Path) -> Look {
        let content = || disk::read(&self.root.join(relative));
        let key = match path::locate(relative) {
            Location::Foreign => return Look::Settled,
            Location::Misplaced(reason) => {
                match content() {
                    Content::Absent => self.clear(relative),
                    _ => self.fault(relative, None, InvalidResource::one("", reason)),
                }
                return Look::Settled;
            }
            Location::Document(key) => key,
        };
        let in_force = self.log.read(|log| log.get(&key).map(|v| v.version.clone()));
        match content() {
            Content::Absent if in_force.is_none() => {
                self.clear(relative);
                Look::Settled
            }
            Content::Absent => {
                let now = Instant::now();
                let until = *self
                    .vanished
                    .entry(relative.to_owned())
                    .or_insert(now + self.settings.grace);
                self.faults.remove(relative);
                if until > now {
                    Look::MayComeBack
                } else {
                    Look::Gone(key)
                }
            }
            Content::Bytes(bytes) => {
                let version = document::version(&bytes);
                if in_force.as_ref() == Some(&version) {
                    self.clear(relative);
                    return Look::Settled;
                }
                if self
                    .faults
                    .get(relative)
                    .is_some_and(|f| f.version.as_ref() == Some(&version))
                {
                    self.vanished.remove(relative);
                    return Look::Settled;
                }
                Look::Differs(key, bytes)
            }
            Content::Odd(reason) => {
                self.fault(relative, None, InvalidResource::one("", reason));
                Look::Settled
            }
        }
    }

    /// Writes a record about a document that is in place already, and puts it in force.
    fn record(
        &mut self,
        key: &Key,
        put: Option<(Version, policy_model::Resource)>,
    ) -> Result<(), DatastoreError> {
        let revision = self.log.read(ChangeLog::revision).next();
        let value = put
            .as_ref()
            .map(|(version, resource)| (version, resource.to_value()));
        let failed = |e| disk::failure("write the journal of", &self.root, e);
        self.journal.prepare(revision, key, value).map_err(failed)?;
        self.journal.commit().map_err(failed)?;
        self.log.write(|log| match put {
            Some((version, resource)) => drop(log.put(key.clone(), Arc::new(resource), version, revision)),
            None => log.remove(key, revision),
        });
        self.compact_if_large();
        Ok(())
    }

    /// Forgets the faults and the disappearance of a document that is settled.
    pub(crate) fn clear(&mut self, relative: &Path) {
        self.vanished.remove(relative);
        if self.faults.remove(relative).is_some() {
            tracing::info!(path = %self.root.join(relative).display(), "the document is in order again");
        }
    }

    fn fault(&mut self, relative: &Path, version: Option<Version>, error: InvalidResource) {
        self.vanished.remove(relative);
        let known = self.faults.get(relative).is_some_and(|f| f.error == error);
        if !known {
            tracing::warn!(path = %self.root.join(relative).display(), %error, "the document is not valid");
        }
        self.faults
            .insert(relative.to_owned(), KnownFault { error, version });
    }

    /// Whether the document of this path is there and faulty.
    pub(crate) fn is_faulty(&self, relative: &Path) -> bool {
        self.faults.contains_key(relative)
    }

    /// All faults, for the operator.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let fault = |(relative, known): (&PathBuf, &KnownFault)| {
            let key = match path::locate(relative) {
                Location::Document(key) => Some(key),
                Location::Misplaced(_) | Location::Foreign => None,
            };
            Fault {
                place: self.root.join(relative).display().to_string(),
                in_force: key
                    .as_ref()
                    .is_some_and(|key| self.log.read(|log| log.get(key).is_some())),
                key,
                error: known.error.clone(),
            }
        };
        self.faults.iter().map(fault).collect()
    }

    /// Removes what dead writers left half done. The caller holds the lock, so no living one is at work.
    pub(crate) fn remove_unfinished(&mut self) {
        disk::discard(&self.root.join(path::CONTROL).join("journal.new"));
        let root = &self.root;
        self.doubts.retain(|relative| {
            let name = relative.file_name().unwrap_or_default().as_encoded_bytes();
            let unfinished = name.starts_with(disk::TEMPORARY.as_bytes());
            if unfinished {
                disk::discard(&root.join(relative));
            }
            !unfinished
        });
    }

    /// Shortens the wait for documents that vanished before the store was opened.
    pub(crate) fn vanished_long_ago(&mut self) {
        let now = Instant::now();
        for (relative, until) in &mut self.vanished {
            // Taking a name out of a folder changes the folder's time.
            let folder = self.root.join(relative).parent().and_then(|f| f.metadata().ok());
            let age = folder
                .and_then(|m| m.modified().ok())
                .and_then(|t| t.elapsed().ok());
            *until = (*until).min(now + self.settings.grace.saturating_sub(age.unwrap_or(Duration::ZERO)));
        }
        let gone: Vec<PathBuf> = self
            .vanished
            .keys()
            .filter(|path| self.root.join(path).parent().is_none_or(|f| !f.exists()))
            .cloned()
            .collect();
        for path in gone {
            self.vanished.insert(path, now);
        }
        self.doubts.extend(self.vanished.keys().cloned());
    }

    pub(crate) fn compact_if_large(&mut self) {
        if self.journal.is_large(self.settings.journal_bytes)
            && let Err(error) = self.compact()
        {
            // A large journal is slower to read at the next start, and nothing else.
            tracing::warn!(%error, "cannot write the journal anew");
        }
    }

    /// Writes the journal anew. The caller holds the lock and has caught up with the journal.
    pub(crate) fn compact(&mut self) -> Result<(), DatastoreError> {
        let (journal, sync) = (&mut self.journal, self.settings.sync);
        self.log
            .read(|log| journal.compact(log, sync))
            .map_err(|e| disk::failure("write anew the journal of", &self.root, e))
    }
}
