//! The folder for what the agent must remember: it must be writable, and one agent's alone.
//!
//! Both are found out at the start. A folder on a full disk would be noticed only when the first pod is attached, and
//! two agents with one folder would take each other's pods apart.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The file that says who has the folder.
const LOCK: &str = "felix.pid";
/// What is written to see that something can be written.
const TRIAL: &str = "felix.trial";
/// Bytes of that: more than a file system keeps beside its own records.
const TRIAL_SIZE: usize = 64 * 1024;
/// How long an agent that is ending is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the folder cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Nothing can be written there.
    #[error("nothing can be remembered in the folder {}: {}", path.display(), advice(source))]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another agent has it.
    #[error(
        "another felix{owner} uses the folder {}: end it, or give this one a folder of its own with StateDir (FELIX_STATEDIR)", path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Its process, where that is known.
        owner: String,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "its file system is full: free space there, or set StateDir (FELIX_STATEDIR) to a folder on another"
        }
        ErrorKind::ReadOnlyFilesystem => {
            "its file system is read-only: make it writable, or set StateDir (FELIX_STATEDIR) to a folder on another"
        }
        ErrorKind::PermissionDenied => {
            "felix may not write there: run it as root, or set StateDir (FELIX_STATEDIR) to a folder that it may write"
        }
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "something that is no folder is in its place: remove that, or set StateDir (FELIX_STATEDIR) to another folder"
        }
        _ => "make it usable, or set StateDir (FELIX_STATEDIR) to another folder",
    }
}

/// The folder, as long as this agent has it.
#[derive(Debug)]
pub(crate) struct StateFolder {
    _lock: Flock<File>,
}

impl StateFolder {
    /// Makes the folder where it is absent, tries to write there, and takes it for this agent. Waits a moment for
    /// another agent that is ending.
    ///
    /// # Errors
    /// See [`StateError`].
    pub(crate) fn take(path: &Path) -> Result<Self, StateError> {
        Self::take_within(path, PATIENCE)
    }

    fn take_within(path: &Path, patience: Duration) -> Result<Self, StateError> {
        let unwritable = |source| StateError::Unwritable {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(unwritable)?;
        let lock = lock(path, patience)?;
        try_to_write(&path.join(TRIAL)).map_err(unwritable)?;
        Ok(StateFolder { _lock: lock })
    }
}

fn lock(path: &Path, patience: Duration) -> Result<Flock<File>, StateError> {
    let unwritable = |source| StateError::Unwritable {
        path: path.to_owned(),
        source,
    };
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join(LOCK));
    let mut file = open.map_err(unwritable)?;
    let until = Instant::now() + patience;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                let name = std::process::id().to_string();
                // Only a hint for people; the lock itself needs no bytes, which a full disk may not have.
                let _ = lock.set_len(0).and_then(|()| lock.write_all(name.as_bytes()));
                return Ok(lock);
            }
            Err((mut held, Errno::EWOULDBLOCK)) if Instant::now() >= until => {
                let mut owner = String::new();
                let _ = held.rewind().and_then(|()| held.read_to_string(&mut owner));
                let owner = owner.trim().parse::<u32>();
                return Err(StateError::InUse {
                    path: path.to_owned(),
                    owner: owner.map_or(String::new(), |process| format!(" (process {process})")),
                });
            }
            Err((again, Errno::EWOULDBLOCK | Errno::EINTR)) => {
                file = again;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err((_, error)) => return Err(unwritable(error.into())),
        }
    }
}

fn try_to_write(path: &Path) -> io::Result<()> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(&[0; TRIAL_SIZE])?;
        file.sync_all()
    });
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    };
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_agents_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made").join("here");
        let first = StateFolder::take_within(&path, Duration::ZERO).unwrap();
        let refused = StateFolder::take_within(&path, Duration::ZERO).unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains(&format!("felix (process {})", std::process::id())),
            "{text}"
        );
        assert!(text.contains("FELIX_STATEDIR"), "{text}");
        // One that is ending is waited for.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| StateFolder::take_within(&path, Duration::from_secs(60)));
            drop(first);
            waiting.join().unwrap().unwrap();
        });
        let left: Vec<_> = fs::read_dir(&path)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, [LOCK], "the trial is gone");
    }

    #[test]
    fn what_is_no_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        let text = StateFolder::take_within(&path, Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("something that is no folder is in its place"),
            "{text}"
        );
    }
}
