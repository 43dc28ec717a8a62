//! Reads a folder of manifests once, for those who ask and do not follow: the same files count, and read the same way.

use super::FolderError;
use super::read::{Content, read};
use super::walk::walk;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// The text of each manifest file by its path, or why it cannot be read.
pub type Texts = BTreeMap<String, Result<String, String>>;

/// Reads every manifest of a folder and of the folders below it, or the one file that is named.
///
/// # Errors
/// The folder itself cannot be listed. A file or folder below it that cannot be read is part of the result.
pub fn read_once(path: &Path) -> Result<Texts, FolderError> {
    let unreadable = |source: io::Error| FolderError::List {
        path: path.to_owned(),
        source,
    };
    let mut texts = Texts::new();
    let mut enter = |at: &Path| {
        let name = at.display().to_string();
        match read(at).content {
            Content::Text(text) => texts.insert(name, Ok(text)),
            Content::Unreadable(reason) => texts.insert(name, Err(reason)),
            Content::Gone => None,
        };
    };
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        // Whatever its name is, it was named.
        enter(path);
        return Ok(texts);
    }
    let found = walk(path, &mut |_, _| {}).map_err(unreadable)?;
    found.files.values().for_each(|at| enter(at));
    let below = |relative: &str| path.join(relative).display().to_string();
    for (folder, reason) in found.blocked {
        texts.insert(below(&folder), Err(reason));
    }
    for name in found.nameless {
        texts.insert(
            below(&name),
            Err("its name is no UTF-8 text; rename it".to_string()),
        );
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
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
        let texts = read_once(root).unwrap();
        let names: Vec<&str> = texts
            .keys()
            .map(|path| path.rsplit('/').next().unwrap())
            .collect();
        assert_eq!(names, ["b.yaml", "bytes.yaml", "c.yml", "d.json"]);
        let wrong: Vec<bool> = texts.values().map(Result::is_err).collect();
        assert_eq!(wrong, [false, true, false, false]);
    }

    #[test]
    fn one_file_may_be_named_and_a_missing_folder_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anything");
        fs::write(&path, "x").unwrap();
        assert_eq!(
            read_once(&path).unwrap()[&path.display().to_string()],
            Ok("x".to_string())
        );
        let error = read_once(&dir.path().join("none")).unwrap_err().to_string();
        assert!(
            error.contains("none") && error.contains("No such file"),
            "{error}"
        );
    }
}
