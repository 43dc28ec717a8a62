//! What inotify's events ask for: which files to read, which are gone, whether all must be read anew.
//!
//! Nothing is decided by the order of the events of one burst: what a file says is read afterwards.

use super::name::{NameClass, classify};
use super::walk;
use inotify::{EventMask, EventOwned, WatchDescriptor};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a watched folder is to us.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// A folder of manifests, by its path relative to the root.
    Folder(String),
    /// The folder in which a link's target stands.
    Target {
        /// Name of the target there.
        name: OsString,
        /// Relative path of the link.
        path: String,
    },
}

/// What events ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Files that are whole now and to be read.
    pub(super) read: BTreeSet<String>,
    /// Files that changed in some way while somebody may be writing to them.
    pub(super) touched: BTreeSet<String>,
    /// Names that are gone and were no manifests; they may have been links to folders.
    pub(super) others: BTreeSet<String>,
    /// Files that are gone, unless they come back.
    pub(super) removed: BTreeSet<String>,
    /// Files that bear another manifest's name now: nothing will come back.
    pub(super) moved: BTreeSet<String>,
    /// Files that are there again and will be whole later.
    pub(super) reappeared: BTreeSet<String>,
    /// Whether everything must be read.
    pub(super) rescan: bool,
    /// Whether a folder was moved within the folder, so that what is missing there stands elsewhere.
    pub(super) is_move: bool,
}

/// Reads the events of one burst.
pub(super) fn wishes<'a>(
    events: &[EventOwned],
    roles: impl Fn(&WatchDescriptor) -> Option<&'a BTreeSet<Role>>,
    root: &Path,
) -> Wishes {
    let mut wishes = Wishes::default();
    // Moves whose both ends are names that are read.
    let arrivals: BTreeMap<u32, bool> = events
        .iter()
        .filter(|event| event.mask.contains(EventMask::MOVED_TO) && roles(&event.wd).is_some())
        .filter_map(|event| Some((event.cookie, is_read(event.name.as_deref()?, event.mask))))
        .collect();
    for event in events {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            wishes.rescan = true;
            continue;
        }
        let Some(roles) = roles(&event.wd) else { continue };
        for role in roles {
            match role {
                Role::Folder(folder) => {
                    let is_paired = arrivals.get(&event.cookie) == Some(&true)
                        && event.mask.contains(EventMask::MOVED_FROM);
                    in_folder(event, folder, is_paired, root, &mut wishes);
                }
                Role::Target { name, path } => at_target(event, name, path, &mut wishes),
            }
        }
    }
    wishes
}

fn is_read(name: &OsStr, mask: EventMask) -> bool {
    match classify(name) {
        NameClass::Manifest => true,
        NameClass::Other => mask.contains(EventMask::ISDIR),
        NameClass::Ignored | NameClass::Swap => false,
    }
}

fn in_folder(event: &EventOwned, folder: &str, is_paired: bool, root: &Path, wishes: &mut Wishes) {
    let mask = event.mask;
    let Some(name) = event.name.as_deref() else {
        let is_own = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED | EventMask::UNMOUNT;
        // Whether it can be listed may have changed with its permissions.
        wishes.rescan |= mask.intersects(is_own | EventMask::ATTRIB);
        return;
    };
    let class = classify(name);
    if class == NameClass::Swap {
        wishes.rescan = true;
        return;
    }
    if class == NameClass::Ignored {
        return;
    }
    let Some(text) = name.to_str() else {
        wishes.rescan = true;
        return;
    };
    if mask.contains(EventMask::ISDIR) {
        wishes.rescan = true;
        wishes.is_move |= is_paired;
        return;
    }
    let path = walk::join(folder, text);
    if mask.intersects(EventMask::CREATE | EventMask::MOVED_TO) {
        // A link may lead to a folder, whatever its name is.
        let found = fs::symlink_metadata(root.join(&path));
        let is_link = found.as_ref().is_ok_and(|m| m.file_type().is_symlink());
        if is_link {
            wishes.rescan = true;
        } else if class == NameClass::Manifest {
            wishes.reappeared.insert(path.clone());
            // A file that is being created is read when it is closed; a hard link is whole at once.
            if mask.contains(EventMask::MOVED_TO) || found.is_ok_and(|m| m.nlink() > 1) {
                wishes.read.insert(path);
            }
        }
        return;
    }
    if mask.intersects(EventMask::MOVED_FROM | EventMask::DELETE) {
        if class != NameClass::Manifest {
            wishes.others.insert(path);
        } else if is_paired {
            wishes.moved.insert(path);
        } else {
            wishes.removed.insert(path);
        }
    } else if class == NameClass::Manifest && mask.contains(EventMask::CLOSE_WRITE) {
        wishes.read.insert(path);
    } else if class == NameClass::Manifest && mask.contains(EventMask::ATTRIB) {
        wishes.touched.insert(path);
    }
}

fn at_target(event: &EventOwned, target: &OsStr, path: &str, wishes: &mut Wishes) {
    match event.name.as_deref() {
        Some(name) if name == target => {
            if event
                .mask
                .intersects(EventMask::CLOSE_WRITE | EventMask::MOVED_TO)
            {
                wishes.read.insert(path.to_owned());
            } else if event.mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM) {
                wishes.removed.insert(path.to_owned());
            }
        }
        Some(_) => {}
        None => {
            wishes.rescan |= event
                .mask
                .intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF)
        }
    }
}
