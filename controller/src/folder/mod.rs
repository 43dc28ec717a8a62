//! The folder of manifests: what is in it, and what happens to it.
//!
//! A change is read at once: a rename and the close of a file that was written are moments at which a file is whole.
//! Only a removal waits a little ([`FolderOptions::grace`]), because editors and version control replace a file by
//! removing it and writing it anew, and a policy must not lapse in between. A folder that is gone as a whole says
//! nothing about the files in it: everything stays in force until it is back.
//!
//! | room | what it does |
//! |---|---|
//! | `name` | which names are manifests |
//! | `read` | one file |
//! | `walk` | all files, once |
//! | `events` | what inotify's events ask for |
//! | `once` | everything, for those who do not follow |

mod events;
mod name;
mod once;
mod read;
mod walk;

pub use once::{Texts, read_once};
pub use read::{Content, LARGEST_FILE};

use events::{Role, Wishes};
use inotify::{EventOwned, Inotify, WatchDescriptor, WatchMask, Watches};
use read::Stamp;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Room for a burst of events; the kernel keeps the rest.
const EVENT_BYTES: usize = 64 * 1024;
/// A file that was written less than this ago may still be written to, if no event said that it is whole.
const UNSETTLED: Duration = Duration::from_secs(1);
/// How often a folder that is gone is looked for.
const LOOK_FOR_LOST: Duration = Duration::from_millis(500);

/// Why a folder cannot be followed. The text says what to do.
#[derive(Debug, Error)]
pub enum FolderError {
    /// The folder cannot be listed.
    #[error("the manifest folder {} cannot be read: {source}{}", path.display(), advice(source))]
    List {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Changes of the folder cannot be followed.
    #[error("changes of the manifest folder {} cannot be followed: {source}{}", path.display(), watch_advice(source))]
    Watch {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; create it, or name another with --manifests",
        io::ErrorKind::NotADirectory => "; --manifests names a folder, not a file",
        io::ErrorKind::PermissionDenied => "; let this user read and enter it",
        _ => "",
    }
}

fn watch_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(nix::errno::Errno::ENOSPC) => "; raise the sysctl fs.inotify.max_user_watches",
        Some(nix::errno::Errno::EMFILE) => "; raise the sysctl fs.inotify.max_user_instances",
        _ => "",
    }
}

/// How a folder is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderOptions {
    /// How long a file that was removed may take to come back before its objects go.
    pub grace: Duration,
}

impl Default for FolderOptions {
    fn default() -> Self {
        FolderOptions {
            grace: Duration::from_millis(150),
        }
    }
}

/// What a file says now. The path is relative to the folder; that of a folder which cannot be read ends in a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Relative path.
    pub path: String,
    /// What stands there.
    pub content: Content,
}

/// A folder that is followed.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    options: FolderOptions,
    inotify: AsyncFd<Inotify>,
    watches: Watches,
    buffer: Vec<u8>,
    /// What each watched folder is to us, by the number of its watch.
    roles: HashMap<i32, (WatchDescriptor, BTreeSet<Role>)>,
    known: BTreeMap<String, Stamp>,
    /// Files that are gone, and when that counts.
    removals: BTreeMap<String, Instant>,
    rescan_at: Option<Instant>,
    lost: Option<String>,
}

impl Folder {
    /// Begins to follow a folder. Nothing is read before [`Folder::rescan`].
    ///
    /// # Errors
    /// The folder is not there, is no folder, or cannot be watched.
    pub fn open(root: impl Into<PathBuf>, options: FolderOptions) -> Result<Folder, FolderError> {
        let root = root.into();
        std::fs::read_dir(&root).map_err(|source| FolderError::List {
            path: root.clone(),
            source,
        })?;
        let watching = Inotify::init().and_then(|inotify| {
            let watches = inotify.watches();
            watches.clone().add(&root, watched_events())?;
            Ok((readable(inotify)?, watches))
        });
        let (inotify, watches) = watching.map_err(|source| FolderError::Watch {
            path: root.clone(),
            source,
        })?;
        Ok(Folder {
            root,
            options,
            inotify,
            watches,
            buffer: vec![0; EVENT_BYTES],
            roles: HashMap::new(),
            known: BTreeMap::new(),
            removals: BTreeMap::new(),
            rescan_at: None,
            lost: None,
        })
    }

    /// Why nothing is known of the folder now, where it is gone as a whole.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// How many files it holds.
    pub fn len(&self) -> usize {
        self.known.keys().filter(|path| !path.ends_with('/')).count()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until files changed, and says what they say now. Dropping the future loses nothing.
    ///
    /// Nothing is returned where only the standing of the folder itself changed.
    pub async fn next(&mut self) -> Vec<Edit> {
        loop {
            let events = self.wait().await;
            let was_lost = self.lost.is_some();
            let edits = self.take(&events, Instant::now());
            if !edits.is_empty() || was_lost != self.lost.is_some() {
                return edits;
            }
        }
    }

    /// Reads everything and says what differs from what was said before.
    pub fn rescan(&mut self) -> Vec<Edit> {
        self.scan(Instant::now(), false)
    }

    /// Waits for events, or for the next moment at which there is something to do without one.
    async fn wait(&mut self) -> Vec<EventOwned> {
        let deadline = self.removals.values().copied().chain(self.rescan_at).min();
        let Folder { inotify, buffer, .. } = self;
        let until = async {
            match deadline {
                Some(moment) => tokio::time::sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ready = inotify.readable_mut() => match ready {
                Ok(mut guard) => {
                    let read = guard.try_io(|fd| {
                        let events = fd.get_mut().read_events(buffer)?;
                        Ok(events.map(|event| event.to_owned()).collect::<Vec<_>>())
                    });
                    match read {
                        Ok(Ok(events)) => events,
                        Ok(Err(error)) => {
                            tracing::warn!(%error, "events of the manifest folder could not be read");
                            self.rescan_at = Some(Instant::now() + UNSETTLED);
                            tokio::time::sleep(LOOK_FOR_LOST).await;
                            Vec::new()
                        }
                        Err(_would_block) => Vec::new(),
                    }
                }
                Err(_) => std::future::pending().await,
            },
            () = until => Vec::new(),
        }
    }

    fn take(&mut self, events: &[EventOwned], now: Instant) -> Vec<Edit> {
        let roles = |watch: &WatchDescriptor| {
            self.roles
                .get(&watch.get_watch_descriptor_id())
                .map(|(_, roles)| roles)
        };
        let Wishes {
            read,
            touched,
            others,
            removed,
            moved,
            reappeared,
            rescan,
            is_move,
        } = events::wishes(events, roles, &self.root);
        for path in reappeared {
            self.removals.remove(&path);
        }
        let mut edits = Vec::new();
        for path in moved {
            self.forget(path, &mut edits);
        }
        for path in read {
            self.read(&path, true, now, &mut edits);
        }
        for path in touched {
            self.read(&path, false, now, &mut edits);
        }
        for path in removed {
            self.expect_removal(&path, now);
        }
        let is_due = self.rescan_at.is_some_and(|moment| moment <= now);
        let was_folder = others.iter().any(|folder| {
            let from = format!("{folder}/");
            let mut below = self.known.range(from..);
            below.next().is_some_and(|(path, _)| is_below(path, folder))
        });
        if rescan || is_due || was_folder {
            edits.extend(self.scan(now, is_move));
        }
        let due: Vec<String> = self
            .removals
            .iter()
            .filter(|(_, moment)| **moment <= now)
            .map(|(path, _)| path.clone())
            .collect();
        for path in due {
            self.removals.remove(&path);
            // It may have come back in a way that no event told.
            let is_back = self.root.join(&path).exists() && self.lost.is_none();
            if is_back {
                self.read(&path, true, now, &mut edits);
            } else {
                self.forget(path, &mut edits);
            }
        }
        edits
    }

    /// Reads a file whose state may have changed. `is_whole` says that an event vouches for it.
    fn read(&mut self, path: &str, is_whole: bool, now: Instant, edits: &mut Vec<Edit>) {
        let found = read::read(&self.root.join(path));
        if found.content == Content::Gone {
            self.expect_removal(path, now);
            return;
        }
        self.removals.remove(path);
        if let Some(before) = self.known.get(path) {
            if found.stamp.says_the_same(before) {
                self.known.insert(path.to_owned(), found.stamp);
                return;
            }
            let is_fresh = found.at_rest.is_none_or(|rest| rest < UNSETTLED);
            if !is_whole && is_fresh && found.stamp.is_same_file(before) {
                // Somebody may be writing: half a manifest must not replace a whole one.
                self.rescan_at = Some(now + UNSETTLED);
                return;
            }
        }
        self.known.insert(path.to_owned(), found.stamp);
        edits.retain(|edit| edit.path != path);
        edits.push(Edit {
            path: path.to_owned(),
            content: found.content,
        });
    }

    fn expect_removal(&mut self, path: &str, now: Instant) {
        if self.known.contains_key(path) {
            let moment = now + self.options.grace;
            self.removals.entry(path.to_owned()).or_insert(moment);
        }
    }

    fn forget(&mut self, path: String, edits: &mut Vec<Edit>) {
        self.removals.remove(&path);
        if self.known.remove(&path).is_some() {
            edits.retain(|edit| edit.path != path);
            edits.push(Edit {
                path,
                content: Content::Gone,
            });
        }
    }

    /// Reads everything. `is_move` says that what is missing has moved, so that no removal needs to wait.
    fn scan(&mut self, now: Instant, is_move: bool) -> Vec<Edit> {
        self.rescan_at = None;
        let mut roles: HashMap<i32, (WatchDescriptor, BTreeSet<Role>)> = HashMap::new();
        let mut unwatched = Vec::new();
        let mut watches = self.watches.clone();
        let mut watch = |path: &Path, role: Role| match watches.add(path, watched_events()) {
            Ok(watch) => {
                let number = watch.get_watch_descriptor_id();
                let (_, found) = roles.entry(number).or_insert_with(|| (watch, BTreeSet::new()));
                found.insert(role);
                Ok(())
            }
            Err(error) => Err(format!(
                "changes of it cannot be followed: {error}{}",
                watch_advice(&error)
            )),
        };
        let walked = walk::walk(&self.root, &mut |relative, path| {
            let outcome = watch(path, Role::Folder(relative.to_owned()));
            if let Err(reason) = outcome {
                unwatched.push((relative.to_owned(), reason));
            }
        });
        let walked = match walked {
            Ok(walked) => walked,
            Err(error) => {
                self.lost = Some(format!(
                    "the manifest folder {} is gone: {error}",
                    self.root.display()
                ));
                self.removals.clear();
                self.rescan_at = Some(now + LOOK_FOR_LOST);
                return Vec::new();
            }
        };
        self.lost = None;
        for (path, target) in &walked.links {
            if let (Some(folder), Some(name)) = (target.parent(), target.file_name()) {
                let role = Role::Target {
                    name: name.to_owned(),
                    path: path.clone(),
                };
                if let Err(reason) = watch(folder, role) {
                    unwatched.push((path.clone(), reason));
                }
            }
        }
        for (number, (watch, _)) in std::mem::replace(&mut self.roles, roles) {
            if !self.roles.contains_key(&number) {
                // The kernel removed it already where its folder is gone.
                let _ = self.watches.remove(watch);
            }
        }
        self.compare(walked, unwatched, now, is_move)
    }

    fn compare(
        &mut self,
        walked: walk::Walk,
        unwatched: Vec<(String, String)>,
        now: Instant,
        is_move: bool,
    ) -> Vec<Edit> {
        let mut edits = Vec::new();
        let walk::Walk {
            files,
            links: _,
            blocked,
            nameless,
        } = walked;
        let mut troubles: BTreeMap<String, String> = BTreeMap::new();
        for (folder, reason) in blocked.iter().chain(unwatched.iter().map(|(f, r)| (f, r))) {
            troubles.insert(format!("{folder}/"), reason.clone());
        }
        for name in nameless {
            troubles.insert(
                format!("{name}/"),
                "the name is not UTF-8 text; rename it".to_owned(),
            );
        }
        let is_blocked = |path: &str| blocked.keys().any(|folder| is_below(path, folder));
        let missing: Vec<String> = self
            .known
            .keys()
            .filter(|path| !files.contains_key(*path) && !troubles.contains_key(*path) && !is_blocked(path))
            .cloned()
            .collect();
        for path in missing {
            if is_move || path.ends_with('/') {
                self.forget(path, &mut edits);
            } else {
                self.expect_removal(&path, now);
            }
        }
        for path in files.keys() {
            self.read(path, false, now, &mut edits);
        }
        for (path, reason) in troubles {
            let found = read::unreadable(reason);
            if self.known.get(&path) != Some(&found.stamp) {
                self.known.insert(path.clone(), found.stamp);
                edits.push(Edit {
                    path,
                    content: found.content,
                });
            }
        }
        edits
    }
}

#[expect(
    deprecated,
    reason = "its successor is `unsafe`; Inotify owns its descriptor as long as it lives and never replaces it"
)]
fn readable(inotify: Inotify) -> io::Result<AsyncFd<Inotify>> {
    AsyncFd::with_interest(inotify, Interest::READABLE)
}

/// Whether a relative path lies below a relative folder.
pub(crate) fn is_below(path: &str, folder: &str) -> bool {
    folder.is_empty()
        || path
            .strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with('/'))
}

fn watched_events() -> WatchMask {
    WatchMask::CREATE
        | WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ATTRIB
}
