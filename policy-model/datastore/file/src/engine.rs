//! What the store does, thread by thread: reads that first look whether anything is new, writes under the lock, and
//! one thread that waits for notices so that watchers hear of changes without asking.
//!
//! Locks are taken in one order: the folder's lock, then the keeper, then the log. The keeper is never held while
//! somebody waits for the folder's lock, so a process that holds the folder up does not stop reads here.

use crate::disk::{self, Content};
use crate::document::{self, Rendered};
use crate::folders::Folders;
use crate::journal::Journal;
use crate::keeper::Keeper;
use crate::lock::{Lock, LockFile};
use crate::path::{self, CONTROL, Location};
use crate::store::Settings;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use policy_model::{InvalidResource, Key, Kind};
use policy_model_datastore::{ChangeLog, DatastoreError, Fault, Revision, SharedLog, Version, Versioned};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a read waits for the lock to settle a document in doubt before it answers with what is in force.
const READ_PATIENCE: Duration = Duration::from_millis(50);
/// Pause before a failed look is repeated.
const RETRY: Duration = Duration::from_millis(250);
/// Pause of a write that found its document vanished and perhaps coming back.
const COME_BACK: Duration = Duration::from_millis(5);

/// What a write is to do with its object.
pub(crate) enum Action {
    Create(Rendered),
    Update(Rendered, Version),
    Delete(Option<Version>),
}

/// An opened folder.
pub(crate) struct Engine {
    root: PathBuf,
    settings: Settings,
    lock: LockFile,
    pub(crate) log: Arc<SharedLog>,
    keeper: Mutex<Keeper>,
    stopping: AtomicBool,
    /// Written to, to wake the waiting thread.
    bell: UnixStream,
}

/// What the waiting thread waits on.
pub(crate) struct Ears {
    notices: OwnedFd,
    bell: UnixStream,
}

impl Engine {
    /// Opens a folder, makes it where it is absent, repairs what a dead writer left, and compares all documents with
    /// the journal.
    pub(crate) fn open(root: &Path, settings: Settings) -> Result<(Self, Ears), DatastoreError> {
        prepare(root, &settings)?;
        let lock = LockFile::new(root.join(CONTROL).join("lock"));
        lock.prepare()?;
        let mut folders = Folders::new(root.to_owned())?;
        let held = lock.acquire(settings.lock_patience)?;
        let control = root.join(CONTROL);
        // Watched before they are read: nothing that changes meanwhile is missed.
        let files = folders.scan()?;
        let found = || from_documents(root, &files);
        let (journal, news, repair) = Journal::open(control.join("journal"), settings.sync, found)
            .map_err(|e| disk::failure("open the journal in", &control, e))?;
        let unsupported = |e| DatastoreError::unavailable("wait for notices of changed files", e);
        let notices = folders.descriptor().map_err(unsupported)?;
        let (bell, listener) = UnixStream::pair().map_err(unsupported)?;
        bell.set_nonblocking(true)
            .and_then(|()| listener.set_nonblocking(true))
            .map_err(unsupported)?;
        let log = Arc::new(SharedLog::new(ChangeLog::new(settings.remembered_removals)));
        let mut keeper = Keeper::new(
            root.to_owned(),
            settings.clone(),
            journal,
            folders,
            Arc::clone(&log),
        );
        keeper.take_in(news);
        keeper.after_repair(repair)?;
        compare_all(&mut keeper)?;
        drop(held);
        let engine = Engine {
            root: root.to_owned(),
            settings,
            lock,
            log,
            keeper: Mutex::new(keeper),
            stopping: AtomicBool::new(false),
            bell,
        };
        Ok((
            engine,
            Ears {
                notices,
                bell: listener,
            },
        ))
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings memory up to the journal and to what the notices say, as far as that needs little time.
    pub(crate) fn refresh(&self) -> Result<(), DatastoreError> {
        if self.look()?
            && let Err(error) = self.settle(READ_PATIENCE)
        {
            // What is in force is known; only what somebody changed from outside is not in force yet.
            tracing::debug!(%error, "documents stay in doubt");
            self.ring();
        }
        Ok(())
    }

    /// Reads notices and journal and looks at the documents in doubt. Returns whether any is left that needs the lock.
    fn look(&self) -> Result<bool, DatastoreError> {
        let mut keeper = self.keeper();
        if !keeper.broken {
            keeper.take_notices()?;
        }
        if keeper.broken {
            let operation = format!("read {}", self.root.display());
            return Err(DatastoreError::unavailable(
                operation,
                "the folder was removed or moved away",
            ));
        }
        keeper.catch_up(false)?;
        keeper.look();
        Ok(keeper.in_doubt())
    }

    /// Settles the documents in doubt under the lock, unless its holder settles them first.
    fn settle(&self, patience: Duration) -> Result<(), DatastoreError> {
        let held = self.lock.acquire_unless(patience, || {
            if self.stopping.load(Ordering::SeqCst) {
                return true;
            }
            let mut keeper = self.keeper();
            let caught_up = keeper.catch_up(false).is_ok();
            keeper.look();
            caught_up && !keeper.in_doubt()
        })?;
        if held.is_some() {
            let mut keeper = self.keeper();
            keeper.catch_up(true)?;
            keeper.settle()?;
        }
        Ok(())
    }

    /// Carries out a write. Returns the object as it stands afterwards, or `None` where it was deleted.
    pub(crate) fn write(&self, key: &Key, action: Action) -> Result<Option<Versioned>, DatastoreError> {
        let Some(relative) = path::of_key(key) else {
            return Err(match action {
                Action::Delete(_) => DatastoreError::NotFound { key: key.clone() },
                Action::Create(_) | Action::Update(..) => DatastoreError::Invalid {
                    place: key.to_string(),
                    error: InvalidResource::one("metadata.name", "is too long to be the name of a file"),
                },
            });
        };
        let held = self.lock_with_document(&relative)?;
        let current = self.log.read(|log| log.get(key).cloned());
        let expect = |expected: Option<&Version>| match &current {
            None => Err(DatastoreError::NotFound { key: key.clone() }),
            Some(now) if expected.is_some_and(|version| *version != now.version) => {
                Err(DatastoreError::Conflict {
                    key: key.clone(),
                    current: Box::new(now.clone()),
                })
            }
            Some(_) => Ok(()),
        };
        let written = match action {
            Action::Create(_) if current.is_some() => {
                return Err(DatastoreError::AlreadyExists { key: key.clone() });
            }
            Action::Create(rendered) => self.put(key, &relative, rendered, None)?,
            Action::Update(rendered, expected) => {
                expect(Some(&expected))?;
                self.put(key, &relative, rendered, current)?
            }
            Action::Delete(expected) => {
                expect(expected.as_ref())?;
                self.remove(key, &relative)?;
                None
            }
        };
        drop(held);
        if self.keeper().in_doubt() {
            self.ring();
        }
        Ok(written)
    }

    /// Takes the lock, and makes sure that memory says what the journal and this document say.
    fn lock_with_document(&self, relative: &Path) -> Result<Lock, DatastoreError> {
        loop {
            let held = self.lock.acquire(self.settings.lock_patience)?;
            let mut keeper = self.keeper();
            keeper.catch_up(true)?;
            if !keeper.settle_one(relative)? {
                return Ok(held);
            }
            // Somebody may be replacing the document this very moment: neither removed nor there.
            drop(keeper);
            drop(held);
            std::thread::sleep(COME_BACK);
        }
    }

    /// Writes a document. The caller holds the lock.
    fn put(
        &self,
        key: &Key,
        relative: &Path,
        rendered: Rendered,
        current: Option<Versioned>,
    ) -> Result<Option<Versioned>, DatastoreError> {
        let Rendered {
            resource,
            value,
            bytes,
            version,
        } = rendered;
        let unchanged = current.filter(|now| now.version == version);
        if unchanged.is_some() && !self.keeper().is_faulty(relative) {
            return Ok(unchanged);
        }
        let target = self.root.join(relative);
        let failed = |e| disk::failure("write", &target, e);
        let folder = target.parent().unwrap_or(&self.root);
        disk::make_folders(folder, self.settings.sync).map_err(failed)?;
        let staged = disk::stage(folder, &bytes, self.settings.sync).map_err(failed)?;
        let mut keeper = self.keeper();
        let revision = self.log.read(ChangeLog::revision).next();
        if unchanged.is_none()
            && let Err(error) = keeper.journal.prepare(revision, key, Some((&version, value)))
        {
            disk::discard(&staged);
            return Err(disk::failure("write the journal of", &self.root, error));
        }
        if let Err(error) = std::fs::rename(&staged, &target) {
            keeper.journal.abandon();
            disk::discard(&staged);
            return Err(failed(error));
        }
        let written = match unchanged {
            Some(now) => now,
            None => {
                keeper
                    .journal
                    .commit()
                    .map_err(|e| disk::failure("write the journal of", &self.root, e))?;
                self.log
                    .write(|log| log.put(key.clone(), Arc::new(resource), version, revision))
            }
        };
        keeper.clear(relative);
        keeper.compact_if_large();
        drop(keeper);
        self.sync(folder)?;
        Ok(Some(written))
    }

    /// Removes a document. The caller holds the lock.
    fn remove(&self, key: &Key, relative: &Path) -> Result<(), DatastoreError> {
        let target = self.root.join(relative);
        let mut keeper = self.keeper();
        let revision = self.log.read(ChangeLog::revision).next();
        let of_journal = |e| disk::failure("write the journal of", &self.root, e);
        keeper.journal.prepare(revision, key, None).map_err(of_journal)?;
        match std::fs::remove_file(&target) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                keeper.journal.abandon();
                return Err(disk::failure("remove", &target, error));
            }
        }
        keeper.journal.commit().map_err(of_journal)?;
        self.log.write(|log| log.remove(key, revision));
        keeper.clear(relative);
        keeper.compact_if_large();
        drop(keeper);
        self.sync(target.parent().unwrap_or(&self.root))
    }

    fn sync(&self, folder: &Path) -> Result<(), DatastoreError> {
        if !self.settings.sync {
            return Ok(());
        }
        disk::sync_folder(folder).map_err(|e| disk::failure("sync the folder", folder, e))
    }

    /// Writes the journal anew, now.
    pub(crate) fn compact(&self) -> Result<(), DatastoreError> {
        let _held = self.lock.acquire(self.settings.lock_patience)?;
        let mut keeper = self.keeper();
        keeper.catch_up(true)?;
        keeper.compact()
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        self.keeper().faults()
    }

    /// Waits for notices and takes them in, until [`Engine::stop`].
    pub(crate) fn run(&self, ears: &Ears) {
        let mut complained = false;
        let mut retry = false;
        while !self.stopping.load(Ordering::SeqCst) {
            let deadline = self
                .keeper()
                .next_deadline()
                .map(|at| at.saturating_duration_since(Instant::now()));
            let patience = if retry {
                Some(deadline.map_or(RETRY, |d| d.max(RETRY)))
            } else {
                deadline
            };
            wait(ears, patience, retry);
            if self.stopping.load(Ordering::SeqCst) {
                break;
            }
            let result = self.rearm().and_then(|()| self.look()).and_then(|in_doubt| {
                if in_doubt {
                    self.settle(self.settings.lock_patience)
                } else {
                    Ok(())
                }
            });
            retry = result.is_err();
            match result {
                // Said once, until it is well again.
                Err(error) if !complained => {
                    tracing::warn!(root = %self.root.display(), %error, "cannot follow the folder; trying again");
                }
                Ok(()) if complained => {
                    tracing::info!(root = %self.root.display(), "the folder is followed again")
                }
                _ => {}
            }
            complained = retry;
        }
        self.log.close();
    }

    /// Takes up a folder that was removed or moved away and is there again. Its absence is no removal of its objects:
    /// what was in force stays so until the folder is back.
    fn rearm(&self) -> Result<(), DatastoreError> {
        if !self.keeper().broken || !self.root.is_dir() {
            return Ok(());
        }
        prepare(&self.root, &self.settings)?;
        self.lock.prepare()?;
        let _held = self.lock.acquire(self.settings.lock_patience)?;
        let mut keeper = self.keeper();
        keeper.folders.leave_all();
        // What is still in the queue tells of the old folder.
        keeper.folders.notices()?;
        keeper.catch_up(true)?;
        compare_all(&mut keeper)?;
        keeper.broken = false;
        Ok(())
    }

    /// Ends [`Engine::run`].
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.ring();
    }

    fn ring(&self) {
        // A full buffer will wake the thread as well as one more byte.
        let _ = (&self.bell).write(&[1]);
    }
}

/// Compares every document with the journal, and waits for those that may come back. The caller holds the lock.
fn compare_all(keeper: &mut Keeper) -> Result<(), DatastoreError> {
    keeper.doubt_all()?;
    keeper.remove_unfinished();
    keeper.settle()?;
    keeper.vanished_long_ago();
    while let Some(deadline) = keeper.next_deadline() {
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        keeper.take_notices()?;
        keeper.settle()?;
    }
    Ok(())
}

/// Makes the folders of the control files and of all kinds, so that a person sees where what belongs.
fn prepare(root: &Path, settings: &Settings) -> Result<(), DatastoreError> {
    for folder in std::iter::once(CONTROL).chain(Kind::ALL.map(Kind::plural)) {
        let path = root.join(folder);
        disk::make_folders(&path, settings.sync).map_err(|e| disk::failure("make the folder", &path, e))?;
    }
    Ok(())
}

/// The objects of all valid documents, for a journal that has to be made anew.
///
/// Its revisions begin above those of any journal that stood here before and was removed, because no journal gets a
/// record every microsecond.
fn from_documents(root: &Path, files: &BTreeSet<PathBuf>) -> ChangeLog {
    let mut log = ChangeLog::default();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    log.advance(Revision::new(u64::try_from(since.as_micros()).unwrap_or(1)));
    for relative in files {
        if let Location::Document(key) = path::locate(relative)
            && let Content::Bytes(bytes) = disk::read(&root.join(relative))
            && let Ok(resource) = document::read(&bytes, &key)
        {
            log.put(
                key,
                Arc::new(resource),
                document::version(&bytes),
                log.revision().next(),
            );
        }
    }
    log
}

/// Waits until there is a notice or a ring, or for at most `patience`. With `bell_only`, notices can wait.
fn wait(ears: &Ears, patience: Option<Duration>, bell_only: bool) {
    let timeout = match patience {
        // Rounded up: a wait that ends just before the deadline would be repeated many times.
        Some(patience) => {
            PollTimeout::try_from(patience + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        }
        None => PollTimeout::NONE,
    };
    let bell = PollFd::new(ears.bell.as_fd(), PollFlags::POLLIN);
    let notices = PollFd::new(ears.notices.as_fd(), PollFlags::POLLIN);
    let mut both = [bell, notices];
    let fds = if bell_only {
        both.get_mut(..1).unwrap_or_default()
    } else {
        &mut both[..]
    };
    if let Err(error) = poll(fds, timeout)
        && error != nix::errno::Errno::EINTR
    {
        // The caller looks anyway; without this pause it would do nothing else.
        std::thread::sleep(RETRY);
    }
    let mut rings = [0u8; 64];
    while matches!((&ears.bell).read(&mut rings), Ok(n) if n > 0) {}
}
