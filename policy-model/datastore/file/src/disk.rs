//! Files and folders: read one, replace one, and say plainly why it could not be done.

use nix::libc;
use policy_model_datastore::DatastoreError;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How the names of unfinished documents begin. Hidden, so readers pass them over.
pub(crate) const TEMPORARY: &str = ".tmp-";
/// Policies are root's alone: who could write here could open every port.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The largest document that is read. The largest objects, blocks of addresses, are far below.
const LARGEST_DOCUMENT: u64 = 16 << 20;

/// What stands at a path.
pub(crate) enum Content {
    /// Nothing.
    Absent,
    /// A file with these bytes.
    Bytes(Vec<u8>),
    /// Something that cannot be a document, because of this.
    Odd(String),
}

/// Reads what stands at a path. Whatever it is, this neither blocks nor fails.
pub(crate) fn read(path: &Path) -> Content {
    // Without O_NONBLOCK, a pipe in the folder would stop the whole store.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let content = file.and_then(|file| {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(Content::Odd("is not a regular file".into()));
        }
        if metadata.len() > LARGEST_DOCUMENT {
            return Ok(Content::Odd(format!("is larger than {LARGEST_DOCUMENT} bytes")));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
        file.take(LARGEST_DOCUMENT).read_to_end(&mut bytes)?;
        Ok(Content::Bytes(bytes))
    });
    match content {
        Ok(content) => content,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Content::Absent
        }
        Err(error) => Content::Odd(format!("cannot be read: {error}")),
    }
}

/// Writes a new file with an unfinished document's name into a folder, ready to be renamed.
pub(crate) fn stage(folder: &Path, bytes: &[u8], sync: bool) -> io::Result<PathBuf> {
    // Only the holder of the lock stages, so the process's own number is enough of a name.
    let path = folder.join(format!("{TEMPORARY}{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(&path)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            if sync { file.sync_all() } else { Ok(()) }
        });
    if let Err(error) = written {
        discard(&path);
        return Err(error);
    }
    Ok(path)
}

/// Removes an unfinished file. What cannot be removed is hidden, and removed when the store is next opened.
pub(crate) fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished file");
    }
}

/// Makes a folder with all that is missing above it. With `sync`, it survives a power failure.
pub(crate) fn make_folders(path: &Path, sync: bool) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_folders(parent, sync)?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(error) => return Err(error),
    }
    match parent {
        Some(parent) if sync => sync_folder(parent),
        _ => Ok(()),
    }
}

/// Makes the names in a folder survive a power failure.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Opens a file of our own for reading and writing, and makes it where it is absent.
pub(crate) fn open_own(path: &Path, truncate: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(truncate)
        .mode(FILE_MODE)
        .open(path)
}

/// Says which of the store's errors a failure of the file system is.
pub(crate) fn failure(operation: &str, path: &Path, error: io::Error) -> DatastoreError {
    let operation = format!("{operation} {}", path.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DatastoreError::NoSpace {
            operation,
            source: error.into(),
        },
        ErrorKind::PermissionDenied => DatastoreError::Permission {
            operation,
            source: error.into(),
        },
        ErrorKind::ReadOnlyFilesystem => DatastoreError::ReadOnly {
            operation,
            source: error.into(),
        },
        _ => DatastoreError::Unavailable {
            operation,
            source: error.into(),
        },
    }
}
