//! Removals that are noted down while the node's felix is away, for felix to carry out when it comes back.
//!
//! A runtime that is told that a removal failed keeps the dead sandbox and tries for ever; and a note is enough, because
//! the addresses stay taken until felix has removed what is left. The notes lie beside the socket: after a boot of the
//! machine neither they nor what they speak of exists.

use crate::words::AttachmentKey;
use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The folder of the notes for the felix that listens at a socket.
pub fn folder(socket: &Path) -> PathBuf {
    let mut name: OsString = socket.as_os_str().to_owned();
    name.push(".deletions");
    PathBuf::from(name)
}

/// Notes a removal down; it is on the disk when this returns. A second note of the same changes nothing.
///
/// # Errors
/// The folder or the file could not be written.
pub fn leave(folder: &Path, key: &AttachmentKey) -> std::io::Result<()> {
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // A name of its own for each writer: two of them must not write into one file.
    let temporary = folder.join(format!("{}.{}.tmp", key.file_stem(), std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&serde_json::to_vec(key).map_err(std::io::Error::other)?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path(folder, key))?;
    std::fs::File::open(folder)?.sync_all()
}

/// Takes a note back. Succeeds also when there is none.
///
/// # Errors
/// The file could not be removed.
pub fn withdraw(folder: &Path, key: &AttachmentKey) -> std::io::Result<()> {
    match std::fs::remove_file(path(folder, key)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What is noted down. A note that cannot be understood is left where it is.
///
/// # Errors
/// The folder is there and cannot be read.
pub fn notes(folder: &Path) -> std::io::Result<Vec<AttachmentKey>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut keys = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        match std::fs::read(&path) {
            Ok(text) => keys.extend(serde_json::from_slice::<AttachmentKey>(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    keys.sort();
    Ok(keys)
}

fn path(folder: &Path, key: &AttachmentKey) -> PathBuf {
    folder.join(format!("{}.json", key.file_stem()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn key(id: &str) -> AttachmentKey {
        AttachmentKey {
            network: "net".into(),
            container_id: id.into(),
            interface: "eth0".into(),
        }
    }

    #[test]
    fn notes_are_kept_until_they_are_withdrawn() {
        let place = tempfile::tempdir().unwrap();
        let folder = folder(&place.path().join("run/cni.sock"));
        assert_eq!(notes(&folder).unwrap(), []);
        for id in ["b", "a/../..", "b"] {
            leave(&folder, &key(id)).unwrap();
        }
        assert_eq!(notes(&folder).unwrap(), [key("a/../.."), key("b")]);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        for entry in std::fs::read_dir(&folder).unwrap() {
            assert_eq!(mode(&entry.unwrap().path()), 0o600);
        }
        std::fs::write(folder.join("rubbish.json"), "{").unwrap();
        std::fs::write(folder.join("half.tmp"), "{").unwrap();
        withdraw(&folder, &key("b")).unwrap();
        withdraw(&folder, &key("b")).unwrap();
        assert_eq!(notes(&folder).unwrap(), [key("a/../..")]);
    }
}
