//! The lock of the folder: whoever holds it is the only one that writes documents or the journal.
//!
//! It is an `flock` of a file that is opened anew each time, so it holds apart threads as well as processes, and the
//! kernel releases it when its holder dies.

use crate::disk;
use policy_model_datastore::DatastoreError;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The held lock; dropping it releases it.
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would do, but a child process that was just forked may still have the file open.
        let _ = self.file.unlock();
    }
}

/// The file of the lock.
pub(crate) struct LockFile {
    path: PathBuf,
}

impl LockFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        LockFile { path }
    }

    /// Makes the file where it is absent.
    pub(crate) fn prepare(&self) -> Result<(), DatastoreError> {
        disk::open_own(&self.path, false)
            .map(drop)
            .map_err(|e| disk::failure("make the lock", &self.path, e))
    }

    /// Waits for the lock for at most `patience`.
    pub(crate) fn acquire(&self, patience: Duration) -> Result<Lock, DatastoreError> {
        match self.acquire_unless(patience, || false)? {
            Some(lock) => Ok(lock),
            None => Err(DatastoreError::unavailable(
                "take the lock",
                "the wait was given up",
            )),
        }
    }

    /// Waits for the lock for at most `patience`, or until it is not needed any more: then `None`.
    pub(crate) fn acquire_unless(
        &self,
        patience: Duration,
        mut needless: impl FnMut() -> bool,
    ) -> Result<Option<Lock>, DatastoreError> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(10);
        loop {
            let file = OpenOptions::new().read(true).write(true).open(&self.path);
            let file = file.map_err(|e| disk::failure("open the lock", &self.path, e))?;
            loop {
                match file.try_lock() {
                    Ok(()) if same_file(&file, &self.path) => return Ok(Some(Lock { file })),
                    // Somebody replaced the file: a lock on the old one excludes nobody.
                    Ok(()) => break,
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(e)) => return Err(disk::failure("take the lock", &self.path, e)),
                }
                if needless() {
                    return Ok(None);
                }
                if start.elapsed() >= patience {
                    // A blocking flock would wait for a stopped process for ever, and nobody would learn why.
                    let why = format!("another process has held it for {patience:?}");
                    return Err(disk::failure(
                        "take the lock",
                        &self.path,
                        io::Error::new(io::ErrorKind::TimedOut, why),
                    ));
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_micros(500));
            }
        }
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
