//! Reads one manifest file, whatever stands under its name.

use nix::fcntl::OFlag;
use std::fs::{File, Metadata, OpenOptions};
use std::hash::Hasher;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// No manifest is as large as this; what is would only fill the memory.
pub const LARGEST_FILE: u64 = 32 * 1024 * 1024;

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The text of a manifest file.
    Text(String),
    /// Nothing: the file vanished.
    Gone,
    /// Something that cannot be read, and why. What the file said before stays in force.
    Unreadable(String),
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The file itself, however it is named. Zero where it cannot be read.
    inode: (u64, u64),
    /// Hash of what it says.
    digest: u64,
}

impl Stamp {
    /// Whether both are states of one file, rather than of a file and another in its place.
    pub(super) fn is_same_file(&self, other: &Stamp) -> bool {
        self.inode == other.inode
    }

    /// Whether both say the same.
    pub(super) fn says_the_same(&self, other: &Stamp) -> bool {
        self.digest == other.digest
    }
}

/// A file's content, its stamp, and for how long it has not been written.
pub(super) struct FileRead {
    pub(super) content: Content,
    pub(super) stamp: Stamp,
    pub(super) at_rest: Option<Duration>,
}

/// Reads a file.
pub(super) fn read(path: &Path) -> FileRead {
    match open_and_read(path) {
        Ok((text, metadata)) => {
            let inode = (metadata.dev(), metadata.ino());
            let at_rest = metadata
                .modified()
                .ok()
                .and_then(|time| SystemTime::now().duration_since(time).ok());
            let content = match String::from_utf8(text) {
                Ok(text) => Content::Text(text),
                Err(error) => {
                    let valid = error.utf8_error().valid_up_to();
                    let line = 1 + error
                        .as_bytes()
                        .iter()
                        .take(valid)
                        .filter(|b| **b == b'\n')
                        .count();
                    Content::Unreadable(format!("line {line} is not UTF-8 text; save the file as UTF-8"))
                }
            };
            finished(content, inode, at_rest)
        }
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            finished(Content::Gone, (0, 0), None)
        }
        Err(error) => finished(
            Content::Unreadable(format!("it cannot be read: {error}")),
            (0, 0),
            None,
        ),
    }
}

/// Something that cannot be read for a reason that is known without reading.
pub(super) fn unreadable(reason: String) -> FileRead {
    finished(Content::Unreadable(reason), (0, 0), None)
}

fn finished(content: Content, inode: (u64, u64), at_rest: Option<Duration>) -> FileRead {
    let mut hasher = rustc_hash::FxHasher::default();
    // The kind first, so that no text can look like a reason.
    let (kind, text): (u8, &str) = match &content {
        Content::Text(text) => (1, text),
        Content::Gone => (2, ""),
        Content::Unreadable(reason) => (3, reason),
    };
    hasher.write_u8(kind);
    hasher.write(text.as_bytes());
    hasher.write_usize(text.len());
    let digest = hasher.finish();
    FileRead {
        content,
        stamp: Stamp { inode, digest },
        at_rest,
    }
}

fn open_and_read(path: &Path) -> io::Result<(Vec<u8>, Metadata)> {
    // Without O_NONBLOCK a named pipe would hold the whole controller up.
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_CLOEXEC.bits())
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = Vec::with_capacity(usize::try_from(metadata.len().min(LARGEST_FILE)).unwrap_or(0));
    file.take(LARGEST_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other(format!(
            "it is larger than {} MiB",
            LARGEST_FILE / 1024 / 1024
        )));
    }
    Ok((text, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_file_is_said_plainly() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("a"), "kind: Pod\n").unwrap();
        assert_eq!(read(&path("a")).content, Content::Text("kind: Pod\n".into()));
        assert_eq!(read(&path("none")).content, Content::Gone);
        std::fs::write(path("bytes"), b"a: b\nc: \xff\n").unwrap();
        let Content::Unreadable(reason) = read(&path("bytes")).content else {
            panic!("it was read")
        };
        assert!(reason.contains("line 2"), "{reason}");
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let Content::Unreadable(reason) = read(&path("pipe")).content else {
            panic!("it was read")
        };
        assert!(reason.contains("regular file"), "{reason}");
    }

    #[test]
    fn stamps_tell_texts_and_files_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "x").unwrap();
        std::fs::write(&b, "x").unwrap();
        let (first, second) = (read(&a).stamp, read(&b).stamp);
        assert!(first.says_the_same(&second) && !first.is_same_file(&second));
        std::fs::write(&a, "y").unwrap();
        let third = read(&a).stamp;
        assert!(!first.says_the_same(&third) && first.is_same_file(&third));
    }
}
