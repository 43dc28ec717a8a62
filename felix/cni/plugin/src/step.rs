//! The step of an uninstall on one node: takes away what the node's felix cannot reach, once it has taken off the rest.
//!
//! felix sees neither the plugin's folder nor the folders in which its own two lie, so that for all its life it can put
//! no program where the node would start it. This runs for the time of an uninstall only, with those folders and
//! nothing else. felix tells it to begin by a file, and it answers by removing that file; what it cannot do it writes
//! beside it.

use crate::install;
use std::ffi::OsString;
use std::fs;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How often the file is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// What the step removes, and when.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    /// The file by which felix says that it has taken off everything else.
    marker: PathBuf,
    /// Where it is said what could not be removed.
    trouble: PathBuf,
    /// The plugin's folder; none where no plugin was installed.
    programs: Option<PathBuf>,
    /// Folders of felix's own. Something else in them is somebody's, and keeps them.
    folders: Vec<PathBuf>,
}

/// Waits for the file and does its work, again and again: an agent may come back before it is removed for good.
///
/// `CNI_BIN_DIR` is the plugin's folder, `UNINSTALL_FOLDERS` names felix's own, with commas.
pub(crate) fn main(marker: OsString) -> ExitCode {
    let step = Step::new(marker.into(), &|name| std::env::var_os(name));
    loop {
        if step.marker.exists() {
            step.carry_out();
        }
        std::thread::sleep(LOOK);
    }
}

impl Step {
    fn new(marker: PathBuf, variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let folders = variable("UNINSTALL_FOLDERS").unwrap_or_default();
        let folders = folders.to_string_lossy().into_owned();
        Step {
            trouble: marker.with_extension("trouble"),
            programs: variable("CNI_BIN_DIR")
                .filter(|folder| !folder.is_empty())
                .map(PathBuf::from),
            folders: folders
                .split(',')
                .map(str::trim)
                .filter(|folder| !folder.is_empty())
                .map(PathBuf::from)
                .collect(),
            marker,
        }
    }

    fn carry_out(&self) {
        match self.remove() {
            Ok(()) => eprintln!("manx-cni: the plugin and felix's folders are off this node"),
            Err(text) => {
                eprintln!("manx-cni: {text}");
                // Written anew at each try; who reads half of it reads it again.
                if let Err(error) = fs::write(&self.trouble, &text) {
                    eprintln!("manx-cni: cannot say so in {}: {error}", self.trouble.display());
                }
            }
        }
    }

    /// The file goes last, and only when all else has: it is the answer.
    fn remove(&self) -> Result<(), String> {
        let said = |path: &Path, error: Error| format!("removing {}: {error}", path.display());
        if let Some(programs) = &self.programs {
            install::uninstall(programs).map_err(|error| said(programs, error))?;
        }
        let own = self.marker.parent();
        for folder in self.folders.iter().filter(|folder| Some(folder.as_path()) != own) {
            remove_empty(folder).map_err(|error| said(folder, error))?;
        }
        for path in [&self.trouble, &self.marker] {
            install::remove(path).map_err(|error| said(path, error))?;
        }
        // felix's answer has been given; what stays now is an empty folder.
        if let Some(folder) = own.filter(|own| self.folders.iter().any(|folder| folder == own)) {
            remove_empty(folder).map_err(|error| said(folder, error))?;
        }
        Ok(())
    }
}

/// Removes a folder where nothing is in it. One that the administrator made a mount of stays, empty.
fn remove_empty(folder: &Path) -> Result<(), Error> {
    let is_kept = |kind| {
        let kinds = [
            ErrorKind::NotFound,
            ErrorKind::DirectoryNotEmpty,
            ErrorKind::ResourceBusy,
        ];
        kinds.contains(&kind)
    };
    match fs::remove_dir(folder) {
        Err(error) if !is_kept(error.kind()) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
mod tests {
    use super::*;

    #[test]
    fn everything_goes_and_the_file_is_the_answer() {
        let node = tempfile::tempdir().unwrap();
        let path = |name: &str| node.path().join(name);
        for folder in ["bin", "run/manx", "lib/manx", "lib/kept"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        for file in ["bin/manx", "bin/calico", "bin/bridge", "lib/kept/theirs"] {
            fs::write(path(file), file.contains("bridge").to_string()).unwrap();
        }
        fs::write(path("run/manx/uninstall"), "").unwrap();
        fs::write(path("run/manx/uninstall.trouble"), "of an earlier try").unwrap();
        let step = Step::new(path("run/manx/uninstall"), &|name| match name {
            "CNI_BIN_DIR" => Some(path("bin").into()),
            "UNINSTALL_FOLDERS" => {
                let folders =
                    ["run/manx", "lib/manx", "lib/kept"].map(|name| path(name).display().to_string());
                Some(folders.join(",").into())
            }
            _ => None,
        });
        step.carry_out();
        for gone in ["bin/manx", "bin/calico", "run/manx", "lib/manx"] {
            assert!(!path(gone).exists(), "{gone}");
        }
        for kept in ["bin/bridge", "run", "lib/kept/theirs"] {
            assert!(path(kept).exists(), "{kept}");
        }
        // A second time is no error: there is nothing left.
        step.remove().unwrap();
    }

    #[test]
    fn what_cannot_be_removed_is_said_and_the_file_stays() {
        let node = tempfile::tempdir().unwrap();
        let marker = node.path().join("uninstall");
        fs::write(&marker, "").unwrap();
        fs::write(node.path().join("file"), "").unwrap();
        let step = Step::new(marker.clone(), &|name| {
            (name == "UNINSTALL_FOLDERS").then(|| node.path().join("file").into())
        });
        assert_eq!(step.programs, None);
        step.carry_out();
        assert!(marker.exists());
        let said = fs::read_to_string(node.path().join("uninstall.trouble")).unwrap();
        assert!(said.contains("file"), "{said}");
        fs::remove_file(node.path().join("file")).unwrap();
        step.carry_out();
        assert_eq!(fs::read_dir(node.path()).unwrap().count(), 0);
    }
}
