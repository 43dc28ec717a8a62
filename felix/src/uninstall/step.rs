//! What the agent's container does not see, and a step beside it removes: the plugin's programs, and the folders that
//! are mounts here.
//!
//! An agent that could write the plugin's folder for all its life could put programs there that the node starts as
//! root; so it cannot. Whoever uninstalls starts a short-lived step on every node instead (`manx-cni uninstall --when
//! FILE`), which sees these folders and nothing of the network. It waits for a file, which is written when the agent
//! has taken off everything else, and answers by removing it.

use super::files::remove_empty;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Name of the file, beside the socket.
const MARKER: &str = "uninstall";
/// Name of the file in which the step says what it could not do.
const TROUBLE: &str = "uninstall.trouble";

/// How far the step has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has not answered, and this is what is known of the reason.
    Waiting(String),
    /// It has done its work.
    Done,
}

/// The step's files.
#[derive(Clone, Debug)]
pub(super) struct Step {
    marker: PathBuf,
    trouble: PathBuf,
}

impl Step {
    /// The step beside the agent that listens at a socket.
    pub(super) fn beside(socket: &Path) -> Self {
        Step {
            marker: socket.with_file_name(MARKER),
            trouble: socket.with_file_name(TROUBLE),
        }
    }

    /// Tells the step to begin.
    ///
    /// # Errors
    /// The file could not be written. Where its folder is gone the step has been here already.
    pub(super) fn begin(&self) -> io::Result<()> {
        match fs::write(&self.marker, "everything else is gone\n") {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            written => written,
        }
    }

    /// Looks how far it has come.
    pub(super) fn progress(&self) -> Progress {
        if !self.marker.exists() {
            return Progress::Done;
        }
        let trouble = fs::read_to_string(&self.trouble).unwrap_or_default();
        Progress::Waiting(match trouble.trim() {
            "" => "the step that removes the plugin's programs has not run on this node yet; its pod is one of the \
                   DaemonSet manx-uninstall"
                .to_owned(),
            trouble => format!("the step that removes the plugin's programs: {trouble}"),
        })
    }

    /// Takes the files away, where no step is to come, and their folder where nothing else is in it.
    pub(super) fn forget(&self) {
        // Nobody will read them, and a folder that is a mount cannot go.
        for path in [&self.marker, &self.trouble] {
            let _ = fs::remove_file(path);
        }
        let _ = self.marker.parent().map(remove_empty);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_answers_by_removing_the_file() {
        let place = tempfile::tempdir().unwrap();
        let step = Step::beside(&place.path().join("cni.sock"));
        step.begin().unwrap();
        assert!(place.path().join("uninstall").exists());
        assert!(matches!(step.progress(), Progress::Waiting(text) if text.contains("manx-uninstall")));
        fs::write(place.path().join("uninstall.trouble"), "read-only\n").unwrap();
        assert!(matches!(step.progress(), Progress::Waiting(text) if text.ends_with("programs: read-only")));
        fs::remove_file(place.path().join("uninstall")).unwrap();
        assert_eq!(step.progress(), Progress::Done);
        step.forget();
        assert!(!place.path().exists());
        // Where it has removed the whole folder, there is nothing left to tell it.
        let gone = Step::beside(&place.path().join("gone/cni.sock"));
        gone.begin().unwrap();
        assert_eq!(gone.progress(), Progress::Done);
    }
}
