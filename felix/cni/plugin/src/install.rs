//! Puts the program where the container runtime looks for it, under all of its names, and takes it away again.
//!
//! Each name changes at one moment from the old program to the whole new one: a runtime may start it at any time.

use std::ffi::OsStr;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the folder of the node is mounted.
const DEFAULT_FOLDER: &str = "/host/opt/cni/bin";
/// The names that are always ours; by the first it is known which file is ours.
const NAMES: [&str; 4] = ["manx", "manx-ipam", "calico", "calico-ipam"];
/// A name that is taken only where nobody has it: without it no runtime starts a sandbox.
const LOOPBACK: &str = "loopback";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Install,
    Uninstall,
}

/// Carries a task out as the environment says: `CNI_BIN_DIR`, and `SKIP_CNI_BINARIES` for names to leave out.
pub(crate) fn main(task: Task) -> ExitCode {
    let folder = std::env::var_os("CNI_BIN_DIR").filter(|folder| !folder.is_empty());
    let folder = PathBuf::from(folder.unwrap_or_else(|| DEFAULT_FOLDER.into()));
    let skipped = std::env::var("SKIP_CNI_BINARIES").unwrap_or_default();
    let skipped: Vec<&str> = skipped.split(',').map(str::trim).collect();
    let done = match task {
        Task::Install => std::env::current_exe().and_then(|program| install(&program, &folder, &skipped)),
        Task::Uninstall => uninstall(&folder),
    };
    match done {
        Ok(names) => {
            eprintln!("manx-cni: {task:?} in {}: {}", folder.display(), names.join(", "));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("manx-cni: {task:?} in {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

/// Installs a program in a folder and returns the names under which it stands there.
fn install(program: &Path, folder: &Path, skipped: &[&str]) -> Result<Vec<&'static str>, Error> {
    std::fs::create_dir_all(folder)?;
    let takes_loopback = is_ours(&folder.join(LOOPBACK), folder)?;
    let temporary = folder.join(format!(".manx-cni.{}", std::process::id()));
    let installed = copy(program, &temporary).and_then(|()| {
        let mut names = Vec::new();
        // The name by which ours are known comes last, so that an interrupted step is finished by the next.
        for name in NAMES
            .into_iter()
            .skip(1)
            .chain([LOOPBACK])
            .chain(NAMES.into_iter().take(1))
        {
            if skipped.contains(&name) || (name == LOOPBACK && !takes_loopback) {
                continue;
            }
            place(&temporary, &folder.join(name))?;
            names.push(name);
        }
        std::fs::File::open(folder)?.sync_all()?;
        Ok(names)
    });
    remove(&temporary)?;
    installed
}

/// Takes away what is ours in a folder and returns the names.
pub(crate) fn uninstall(folder: &Path) -> Result<Vec<&'static str>, Error> {
    let mut names = Vec::new();
    for name in NAMES.into_iter().skip(1).chain([LOOPBACK]) {
        let path = folder.join(name);
        if path.exists() && is_ours(&path, folder)? {
            remove(&path)?;
            names.push(name);
        }
    }
    if folder.join(NAMES[0]).exists() {
        remove(&folder.join(NAMES[0]))?;
        names.push(NAMES[0]);
    }
    Ok(names)
}

/// Whether nobody else has a name: it is free, or holds the program that stands under our own name.
fn is_ours(path: &Path, folder: &Path) -> Result<bool, Error> {
    let there = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        there => there?,
    };
    let own = folder.join(NAMES[0]);
    let Ok(ours) = std::fs::metadata(&own) else {
        return Ok(false);
    };
    if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) {
        return Ok(true);
    }
    Ok(there.is_file() && there.len() == ours.len() && std::fs::read(path)? == std::fs::read(own)?)
}

/// Copies a program; it is on the disk and may be started when this returns.
fn copy(program: &Path, to: &Path) -> Result<(), Error> {
    remove(to)?;
    std::fs::copy(program, to)?;
    let file = std::fs::File::open(to)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o755))?;
    file.sync_all()
}

/// Puts a program under a name in one step, as a further name of the same file where the file system can do that.
fn place(program: &Path, name: &Path) -> Result<(), Error> {
    let temporary = program.with_extension(name.file_name().unwrap_or(OsStr::new("name")));
    remove(&temporary)?;
    if std::fs::hard_link(program, &temporary).is_err() {
        copy(program, &temporary)?;
    }
    std::fs::rename(&temporary, name)
}

pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn all_names_change_to_the_new_program_and_go_again() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("bin");
        let program = place.path().join("program");
        for content in ["one", "two"] {
            std::fs::write(&program, content).unwrap();
            install(&program, &folder, &[]).unwrap();
            for name in NAMES.into_iter().chain([LOOPBACK]) {
                let path = folder.join(name);
                assert_eq!(std::fs::read_to_string(&path).unwrap(), content, "{name}");
                assert_eq!(
                    std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                    0o755
                );
            }
            assert_eq!(names(&folder).len(), 5);
        }
        std::fs::write(folder.join("bridge"), "somebody's").unwrap();
        uninstall(&folder).unwrap();
        assert_eq!(names(&folder), ["bridge"]);
    }

    #[test]
    fn somebody_elses_loopback_stays() {
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("program");
        let folder = place.path().join("bin");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&program, "ours").unwrap();
        std::fs::write(folder.join(LOOPBACK), "theirs").unwrap();
        for _ in 0..2 {
            install(&program, &folder, &["calico", "calico-ipam"]).unwrap();
            assert_eq!(std::fs::read_to_string(folder.join(LOOPBACK)).unwrap(), "theirs");
        }
        assert_eq!(names(&folder), ["loopback", "manx", "manx-ipam"]);
        uninstall(&folder).unwrap();
        assert_eq!(names(&folder), ["loopback"]);
    }
}
