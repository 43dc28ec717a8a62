//! Walks the folder and everything below it, once.
//!
//! Every real folder and file comes before every link, so that a link never takes the place of what it points to, and
//! nothing is read twice: a link to a folder above it, or two links to one file, end the walk there.

use super::name::{NameClass, classify};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Manifest files: path relative to the folder, and where to read it.
    pub(super) files: BTreeMap<String, PathBuf>,
    /// Manifests that are links, with the file that each points to.
    pub(super) links: BTreeMap<String, PathBuf>,
    /// Folders that could not be listed, by their relative path, and why. What they held before stays.
    pub(super) blocked: BTreeMap<String, String>,
    /// Names that are no text, as far as they can be shown.
    pub(super) nameless: BTreeSet<String>,
}

struct Walker<'a> {
    found: Walk,
    folders: HashSet<(u64, u64)>,
    read: HashSet<(u64, u64)>,
    later: VecDeque<(String, PathBuf)>,
    enter: &'a mut dyn FnMut(&str, &Path),
}

/// Walks the folder. `enter` is told each folder before it is listed, so that it can be watched first: what changes
/// meanwhile is then either in the listing or in the watch.
///
/// # Errors
/// The folder itself cannot be listed.
pub(super) fn walk(root: &Path, enter: &mut dyn FnMut(&str, &Path)) -> io::Result<Walk> {
    let mut walker = Walker {
        found: Walk::default(),
        folders: HashSet::new(),
        read: HashSet::new(),
        later: VecDeque::new(),
        enter,
    };
    let metadata = fs::metadata(root)?;
    if !metadata.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    walker.folder("", root, &metadata)?;
    while let Some((relative, path)) = walker.later.pop_front() {
        walker.link(&relative, &path);
    }
    Ok(walker.found)
}

/// The path of a name below a folder, both relative.
pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Walker<'_> {
    fn folder(&mut self, relative: &str, path: &Path, metadata: &Metadata) -> io::Result<()> {
        if !self.folders.insert(identity(metadata)) {
            return Ok(());
        }
        (self.enter)(relative, path);
        let mut entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let class = classify(&name);
            if matches!(class, NameClass::Ignored | NameClass::Swap) {
                continue;
            }
            let relative = join(relative, &name.to_string_lossy());
            // A file that vanished since the listing is no fault; its event tells.
            let Ok(kind) = entry.file_type() else { continue };
            if name.to_str().is_none() {
                self.found.nameless.insert(relative);
            } else if kind.is_symlink() {
                self.later.push_back((relative, entry.path()));
            } else if kind.is_dir() {
                self.subfolder(&relative, &entry.path());
            } else if class == NameClass::Manifest {
                if let Ok(metadata) = entry.metadata() {
                    self.read.insert(identity(&metadata));
                }
                self.found.files.insert(relative, entry.path());
            }
        }
        Ok(())
    }

    fn subfolder(&mut self, relative: &str, path: &Path) {
        let outcome = fs::metadata(path).and_then(|metadata| self.folder(relative, path, &metadata));
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.found
                    .blocked
                    .insert(relative.to_owned(), format!("the folder cannot be read: {error}"));
            }
            _ => {}
        }
    }

    fn link(&mut self, relative: &str, path: &Path) {
        let is_manifest = path
            .file_name()
            .is_some_and(|n| classify(n) == NameClass::Manifest);
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => self.subfolder(relative, path),
            Ok(metadata) if is_manifest && self.read.insert(identity(&metadata)) => {
                if let Ok(target) = fs::canonicalize(path) {
                    self.found.links.insert(relative.to_owned(), target);
                }
                self.found.files.insert(relative.to_owned(), path.to_owned());
            }
            // A link that leads nowhere, or in a circle, is a manifest that is not there.
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn everything_is_found_once_and_links_end_in_no_circle() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("m");
        let outside = dir.path().join("outside");
        fs::create_dir_all(root.join("sub/deep")).unwrap();
        fs::create_dir_all(root.join(".git")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        for name in [
            "b.yaml",
            "sub/c.yml",
            "sub/deep/d.json",
            ".git/x.yaml",
            "notes.txt",
            ".hidden.yaml",
        ] {
            fs::write(root.join(name), "").unwrap();
        }
        fs::write(outside.join("e.yaml"), "").unwrap();
        fs::write(outside.join("f.yaml"), "").unwrap();
        symlink(&outside, root.join("a-link")).unwrap();
        symlink(&root, root.join("sub/up")).unwrap();
        symlink(root.join("b.yaml"), root.join("a.yaml")).unwrap();
        symlink(outside.join("f.yaml"), root.join("z.yaml")).unwrap();
        symlink("nowhere", root.join("dangling.yaml")).unwrap();
        let mut entered = Vec::new();
        let found = walk(&root, &mut |relative, _| {
            entered.push(relative.to_owned());
        })
        .unwrap();
        let files: Vec<_> = found.files.keys().map(String::as_str).collect();
        assert_eq!(
            files,
            [
                "a-link/e.yaml",
                "a-link/f.yaml",
                "b.yaml",
                "sub/c.yml",
                "sub/deep/d.json"
            ],
            "z.yaml is a-link/f.yaml"
        );
        assert_eq!(entered, ["", "sub", "sub/deep", "a-link"]);
        assert!(found.blocked.is_empty());
    }
}
