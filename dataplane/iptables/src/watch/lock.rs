//! The lock file of the legacy variant: who opens it is about to write, who closes it has written.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use inotify::{EventMask, Inotify, WatchMask};

use super::WatchError;

/// How often the lock file was used since the last look. Uses that overlap may be counted as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockUse {
    /// How often it was opened.
    pub opened: usize,
    /// How often it was closed.
    pub closed: usize,
    /// Whether uses may be lost: too many, or the file was another for a while.
    pub lost: bool,
}

/// Watches a lock file.
#[derive(Debug)]
pub struct LockWatch {
    path: PathBuf,
    inotify: Inotify,
}

impl LockWatch {
    /// Watches a file, which is made as the programs make it where it is not there.
    ///
    /// # Errors
    /// It cannot be made or watched.
    pub fn open(path: &Path) -> Result<Self, WatchError> {
        let wrap = |source| WatchError::Lock {
            path: path.to_owned(),
            source,
        };
        let inotify = Inotify::init().map_err(wrap)?;
        let mut watch = Self {
            path: path.to_owned(),
            inotify,
        };
        watch.follow().map_err(wrap)?;
        Ok(watch)
    }

    fn follow(&mut self) -> io::Result<()> {
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path);
        // What cannot be written can still be watched.
        drop(made);
        let mask = WatchMask::OPEN | WatchMask::CLOSE | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF;
        self.inotify.watches().add(&self.path, mask)?;
        Ok(())
    }

    /// Reads what has come, without waiting.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn take(&mut self) -> Result<LockUse, WatchError> {
        let mut seen = LockUse::default();
        let mut buffer = [0; 4096];
        let mut is_gone = false;
        let outcome = loop {
            match self.inotify.read_events(&mut buffer) {
                Ok(events) => {
                    for event in events {
                        seen.opened += usize::from(event.mask.contains(EventMask::OPEN));
                        let closed = EventMask::CLOSE_NOWRITE | EventMask::CLOSE_WRITE;
                        seen.closed += usize::from(event.mask.intersects(closed));
                        seen.lost |= event.mask.contains(EventMask::Q_OVERFLOW);
                        let gone = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED;
                        is_gone |= event.mask.intersects(gone);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let outcome = outcome.and_then(|()| {
            if is_gone {
                seen.lost = true;
                self.follow()?;
            }
            Ok(())
        });
        outcome.map_err(|source| WatchError::Lock {
            path: self.path.clone(),
            source,
        })?;
        Ok(seen)
    }
}

impl AsFd for LockWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_use_is_seen_and_a_new_file_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut watch = LockWatch::open(&path).unwrap();
        assert_eq!(watch.take().unwrap(), LockUse::default());
        for _ in 0..3 {
            drop(std::fs::File::open(&path).unwrap());
        }
        let three = LockUse {
            opened: 3,
            closed: 3,
            lost: false,
        };
        assert_eq!(watch.take().unwrap(), three);
        std::fs::remove_file(&path).unwrap();
        assert!(watch.take().unwrap().lost);
        assert_eq!(watch.take().unwrap(), LockUse::default());
        drop(std::fs::File::open(&path).unwrap());
        assert_eq!(watch.take().unwrap().closed, 1);
    }
}
