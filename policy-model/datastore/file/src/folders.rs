//! Which documents may have changed: the kernel's notices (inotify) about the folders of the store.
//!
//! A notice is only a reason to look; what is true is decided by reading the file. So a notice too many costs a look,
//! and only a notice too few would be an error: every folder is watched before it is read.

use crate::path::{self, CONTROL};
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use policy_model::Kind;
use policy_model_datastore::DatastoreError;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A watched folder.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Root,
    Control,
    Kind(Kind),
    Namespace(PathBuf),
}

/// What the notices amount to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Notices {
    /// Paths, relative to the root, of files to look at.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Folders, relative to the root, that went with all that was in them.
    pub(crate) gone: BTreeSet<PathBuf>,
    /// Notices were lost: everything must be looked at.
    pub(crate) lost: bool,
    /// The root, or the folder of the journal, is not where it was.
    pub(crate) root_gone: bool,
}

/// The watched folders.
pub(crate) struct Folders {
    root: PathBuf,
    inotify: Inotify,
    places: HashMap<WatchDescriptor, Place>,
    buffer: Vec<u8>,
}

impl Folders {
    /// Watches nothing yet.
    pub(crate) fn new(root: PathBuf) -> Result<Self, DatastoreError> {
        let inotify = Inotify::init().map_err(|error| {
            let full = error.raw_os_error() == Some(nix::libc::EMFILE);
            let hint = "; raise the sysctl fs.inotify.max_user_instances";
            DatastoreError::unavailable(format!("watch folders{}", if full { hint } else { "" }), error)
        })?;
        Ok(Folders {
            root,
            inotify,
            places: HashMap::new(),
            buffer: vec![0; 64 * 1024],
        })
    }

    /// A descriptor that becomes readable when there are notices.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.inotify.as_fd().try_clone_to_owned()
    }

    /// Watches all folders that there are, and names all files in them.
    pub(crate) fn scan(&mut self) -> Result<BTreeSet<PathBuf>, DatastoreError> {
        let mut files = BTreeSet::new();
        self.enter(&Place::Control, &mut files)?;
        self.enter(&Place::Root, &mut files)?;
        Ok(files)
    }

    /// Watches nothing any more, as after [`Folders::new`].
    pub(crate) fn leave_all(&mut self) {
        for (wd, _) in self.places.drain() {
            let _ = self.inotify.watches().remove(wd);
        }
    }

    /// Reads the notices that have come.
    pub(crate) fn notices(&mut self) -> Result<Notices, DatastoreError> {
        let mut notices = Notices::default();
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = loop {
            let events: Vec<_> = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events.map(|event| event.to_owned()).collect(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    break Err(DatastoreError::unavailable(
                        "read notices of changed files",
                        error,
                    ));
                }
            };
            if events.is_empty() {
                break Ok(());
            }
            if let Err(error) = events
                .into_iter()
                .try_for_each(|event| self.notice(&event.wd, event.mask, event.name.as_deref(), &mut notices))
            {
                break Err(error);
            }
        };
        self.buffer = buffer;
        result.map(|()| notices)
    }

    fn notice(
        &mut self,
        wd: &WatchDescriptor,
        mask: EventMask,
        name: Option<&OsStr>,
        notices: &mut Notices,
    ) -> Result<(), DatastoreError> {
        if mask.contains(EventMask::Q_OVERFLOW) {
            notices.lost = true;
            return Ok(());
        }
        let Some(place) = self.places.get(wd).cloned() else {
            return Ok(());
        };
        if mask.intersects(EventMask::IGNORED | EventMask::MOVE_SELF)
            && matches!(place, Place::Root | Place::Control)
        {
            notices.root_gone = true;
        }
        if mask.contains(EventMask::IGNORED) {
            self.places.remove(wd);
            return Ok(());
        }
        let Some(name) = name else {
            return Ok(());
        };
        let relative = folder(&place).join(name);
        let appeared = mask.intersects(EventMask::CREATE | EventMask::MOVED_TO);
        if mask.contains(EventMask::ISDIR) {
            let Some(inner) = inner(&place, name) else {
                return Ok(());
            };
            if appeared {
                self.enter(&inner, &mut notices.files)?;
            } else {
                self.leave(&relative);
                notices.gone.insert(relative);
            }
        } else if place != Place::Control && (!mask.contains(EventMask::CREATE) || self.is_link(&relative)) {
            notices.files.insert(relative);
        }
        Ok(())
    }

    /// Whether a file that was just created has its content already. Any other is being written, and closing it will
    /// be told; a look before that would find half a document.
    fn is_link(&self, relative: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        fs::symlink_metadata(self.root.join(relative)).is_ok_and(|m| m.is_symlink() || m.nlink() > 1)
    }

    /// Watches a folder and those in it, and then names the files in them. A folder that is not there (any more) is
    /// passed over: its appearance will be told.
    fn enter(&mut self, place: &Place, files: &mut BTreeSet<PathBuf>) -> Result<(), DatastoreError> {
        let relative = folder(place);
        let path = self.root.join(&relative);
        let of_itself = WatchMask::DELETE_SELF | WatchMask::MOVE_SELF;
        let of_documents = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE;
        let mask = match place {
            Place::Root => of_documents | of_itself,
            Place::Control => WatchMask::MODIFY | WatchMask::MOVED_TO | of_itself,
            Place::Kind(_) | Place::Namespace(_) => of_documents,
        };
        match self.inotify.watches().add(&path, mask | WatchMask::ONLYDIR) {
            Ok(wd) => drop(self.places.insert(wd, place.clone())),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(());
            }
            Err(error) => {
                // The kernel says "no space" where the number of watches is meant.
                let full = error.raw_os_error() == Some(nix::libc::ENOSPC);
                let hint = "; raise the sysctl fs.inotify.max_user_watches";
                let operation = format!("watch {}{}", path.display(), if full { hint } else { "" });
                return Err(DatastoreError::unavailable(operation, error));
            }
        }
        if *place == Place::Control {
            return Ok(());
        }
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(crate::disk::failure("read the folder", &path, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| crate::disk::failure("read the folder", &path, e))?;
            let name = entry.file_name();
            // A symbolic link to a folder is none: its files would have two paths.
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                if let Some(inner) = inner(place, &name) {
                    self.enter(&inner, files)?;
                }
            } else {
                files.insert(relative.join(name));
            }
        }
        Ok(())
    }

    /// Stops watching a folder that was moved away, and those in it; what happens there is not ours any more.
    fn leave(&mut self, relative: &Path) {
        let left: Vec<_> = self
            .places
            .iter()
            .filter(|(_, place)| {
                !matches!(place, Place::Root | Place::Control) && folder(place).starts_with(relative)
            })
            .map(|(wd, _)| wd.clone())
            .collect();
        for wd in left {
            // A folder that was deleted took its watch along.
            let _ = self.inotify.watches().remove(wd.clone());
            self.places.remove(&wd);
        }
    }
}

/// The path of a place, relative to the root.
fn folder(place: &Place) -> PathBuf {
    match place {
        Place::Root => PathBuf::new(),
        Place::Control => PathBuf::from(CONTROL),
        Place::Kind(kind) => PathBuf::from(kind.plural()),
        Place::Namespace(path) => path.clone(),
    }
}

/// The place that a folder with this name in that place is, if documents can stand there.
fn inner(place: &Place, name: &OsStr) -> Option<Place> {
    match place {
        Place::Root => path::kind_of_folder(name).map(Place::Kind),
        Place::Kind(kind) if kind.is_namespaced() && !name.as_encoded_bytes().starts_with(b".") => {
            Some(Place::Namespace(Path::new(kind.plural()).join(name)))
        }
        Place::Kind(_) | Place::Control | Place::Namespace(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders() -> (tempfile::TempDir, Folders) {
        let root = tempfile::tempdir().unwrap();
        for folder in [".manx", "tiers", "networksets/a"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let mut folders = Folders::new(root.path().to_owned()).unwrap();
        folders.scan().unwrap();
        (root, folders)
    }

    fn files(notices: &Notices) -> Vec<&str> {
        notices.files.iter().filter_map(|p| p.to_str()).collect()
    }

    #[test]
    fn writes_renames_and_removals_are_told() {
        let (root, mut folders) = folders();
        let at = |p: &str| root.path().join(p);
        assert_eq!(folders.notices().unwrap(), Notices::default());
        fs::write(at("tiers/a.yaml"), "1").unwrap();
        fs::write(at("networksets/a/b.yaml"), "1").unwrap();
        assert_eq!(
            files(&folders.notices().unwrap()),
            ["networksets/a/b.yaml", "tiers/a.yaml"]
        );
        fs::rename(at("tiers/a.yaml"), at("tiers/c.yaml")).unwrap();
        assert_eq!(
            files(&folders.notices().unwrap()),
            ["tiers/a.yaml", "tiers/c.yaml"]
        );
        fs::remove_file(at("tiers/c.yaml")).unwrap();
        fs::hard_link(at("networksets/a/b.yaml"), at("networksets/a/d.yaml")).unwrap();
        std::os::unix::fs::symlink("b.yaml", at("networksets/a/e.yaml")).unwrap();
        assert_eq!(
            files(&folders.notices().unwrap()),
            ["networksets/a/d.yaml", "networksets/a/e.yaml", "tiers/c.yaml"]
        );
    }

    #[test]
    fn a_file_that_is_being_written_is_told_when_it_is_closed() {
        use std::io::Write;
        let (root, mut folders) = folders();
        let mut file = fs::File::create(root.path().join("tiers/a.yaml")).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(folders.notices().unwrap(), Notices::default());
        drop(file);
        assert_eq!(files(&folders.notices().unwrap()), ["tiers/a.yaml"]);
    }

    #[test]
    fn new_folders_are_watched_with_what_is_in_them() {
        let (root, mut folders) = folders();
        let at = |p: &str| root.path().join(p);
        fs::create_dir_all(at("networkpolicies/n")).unwrap();
        fs::write(at("networkpolicies/n/x.yaml"), "1").unwrap();
        assert!(files(&folders.notices().unwrap()).contains(&"networkpolicies/n/x.yaml"));
        fs::write(at("networkpolicies/n/y.yaml"), "1").unwrap();
        assert_eq!(files(&folders.notices().unwrap()), ["networkpolicies/n/y.yaml"]);
        // Moved away, the folder's files are gone, and what happens there is not told.
        let elsewhere = tempfile::tempdir().unwrap();
        fs::rename(at("networkpolicies"), elsewhere.path().join("moved")).unwrap();
        let notices = folders.notices().unwrap();
        assert!(notices.gone.contains(Path::new("networkpolicies")), "{notices:?}");
        fs::write(elsewhere.path().join("moved/n/z.yaml"), "1").unwrap();
        assert_eq!(folders.notices().unwrap(), Notices::default());
        // Moved back, they are there again.
        fs::rename(elsewhere.path().join("moved"), at("networkpolicies")).unwrap();
        assert_eq!(files(&folders.notices().unwrap()).len(), 3);
    }

    #[test]
    fn the_loss_of_the_root_is_told() {
        let (root, mut folders) = folders();
        fs::remove_dir_all(root.path()).unwrap();
        assert!(folders.notices().unwrap().root_gone);
    }
}
