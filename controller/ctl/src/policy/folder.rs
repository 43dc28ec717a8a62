//! Reads a folder of manifests, once.
//!
//! The same names count as for the controller that follows a folder: `.yaml`, `.yml` and `.json` in the folder and
//! below it; what is hidden, or what editors leave beside a file, does not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A folder that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder (or single file) itself.
    #[error("the manifests {} cannot be read: {source}", path.display())]
    Unreadable {
        /// What was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What was found: the text of each manifest file by its path, or why it cannot be read.
pub type Texts = BTreeMap<String, Result<String, String>>;

/// Reads every manifest of a folder and of the folders below it, or the one file that is named.
///
/// # Errors
/// The folder itself cannot be listed. A file or folder below it that cannot be read is part of the result.
pub fn read(path: &Path) -> Result<Texts, FolderError> {
    let unreadable = |source| FolderError::Unreadable {
        path: path.to_path_buf(),
        source,
    };
    let mut texts = Texts::new();
    if fs::metadata(path).map_err(unreadable)?.is_dir() {
        // Links may lead in circles; a folder is entered once.
        let mut entered = BTreeSet::new();
        folder(path, &mut entered, &mut texts).map_err(unreadable)?;
    } else {
        file(path, &mut texts);
    }
    Ok(texts)
}

fn folder(path: &Path, entered: &mut BTreeSet<PathBuf>, texts: &mut Texts) -> io::Result<()> {
    if !entered.insert(fs::canonicalize(path)?) {
        return Ok(());
    }
    let mut entries = fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<PathBuf>>>()?;
    entries.sort();
    for entry in entries {
        let name = entry.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        if name.starts_with(['.', '#']) || name.ends_with('~') {
            continue;
        }
        if entry.is_dir() {
            if let Err(error) = folder(&entry, entered, texts) {
                texts.insert(entry.display().to_string(), Err(error.to_string()));
            }
        } else if is_manifest(&name) {
            file(&entry, texts);
        }
    }
    Ok(())
}

fn file(path: &Path, texts: &mut Texts) {
    let text = match fs::metadata(path) {
        // Reading a pipe would wait for ever.
        Ok(found) if !found.is_file() => Err("it is no regular file".to_string()),
        Ok(_) => fs::read_to_string(path).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    texts.insert(path.display().to_string(), text);
}

fn is_manifest(name: &str) -> bool {
    match name.rsplit_once('.') {
        Some((stem, ending)) => !stem.is_empty() && matches!(ending, "yaml" | "yml" | "json"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn manifests_are_found_below_the_folder_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("sub/.git")).unwrap();
        for name in [
            "b.yaml",
            "sub/c.yml",
            "sub/d.json",
            "notes.txt",
            ".e.yaml",
            "f.yaml~",
            "#g.yaml",
            "sub/.git/h.yaml",
        ] {
            fs::write(root.join(name), name).unwrap();
        }
        symlink("..", root.join("sub/up")).unwrap();
        symlink("nowhere", root.join("z.yaml")).unwrap();
        fs::write(root.join("bytes.yaml"), b"a: \xff").unwrap();
        let texts = read(root).unwrap();
        let names: Vec<&str> = texts
            .keys()
            .map(|path| path.rsplit('/').next().unwrap())
            .collect();
        assert_eq!(names, ["b.yaml", "bytes.yaml", "c.yml", "d.json", "z.yaml"]);
        let wrong: Vec<bool> = texts.values().map(Result::is_err).collect();
        assert_eq!(wrong, [false, true, false, false, true]);
    }

    #[test]
    fn one_file_may_be_named_and_a_missing_folder_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anything");
        fs::write(&path, "x").unwrap();
        assert_eq!(
            read(&path).unwrap()[&path.display().to_string()],
            Ok("x".to_string())
        );
        let error = read(&dir.path().join("none")).unwrap_err().to_string();
        assert!(
            error.contains("none") && error.contains("No such file"),
            "{error}"
        );
    }
}
