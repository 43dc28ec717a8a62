//! Removes the lab, also what is left of one that crashed, and leaves the machine as it was.

use super::cluster;
use super::lock;
use super::names;
use super::namespaces;
use super::processes::{self, Process};
use super::state::LabState;
use anyhow::Context;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Says that the folder of named network namespaces was made by the lab.
fn folder_mark() -> std::path::PathBuf {
    names::path("made-netns-folder")
}

/// Says that the lab made that folder a mount point.
fn mount_mark() -> std::path::PathBuf {
    names::path("made-netns-mount")
}

/// Makes the folder of named network namespaces where the machine has none, and remembers what it did.
pub(super) fn make_netns_folder() -> anyhow::Result<()> {
    let remember = |mark| fs::write(mark, "").context("writing into the lab's folder");
    if !Path::new(names::NETNS_FOLDER).exists() {
        remember(folder_mark())?;
        fs::create_dir_all(names::NETNS_FOLDER).with_context(|| format!("making {}", names::NETNS_FOLDER))?;
    }
    if namespaces::share_folder()? {
        remember(mount_mark())?;
    }
    Ok(())
}

/// Removes the lab.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    let _lock = lock::take()?;
    let removed = remove()?;
    println!(
        "{}",
        if removed {
            "the lab is removed"
        } else {
            "there was no lab"
        }
    );
    Ok(ExitCode::SUCCESS)
}

/// Removes everything of a lab, whatever is left of it. Whether there was anything.
pub(super) fn remove() -> anyhow::Result<bool> {
    let mut all: Vec<Process> = LabState::load().map(|lab| lab.processes).unwrap_or_default();
    all.retain(Process::is_alive);
    for process in processes::find_all() {
        if !all.iter().any(|p| p.pid == process.pid) {
            all.push(process);
        }
    }
    let mut found = !all.is_empty();
    // The agent and the controller first, so that they do not ask nodes that are gone.
    let (nodes, others): (Vec<Process>, Vec<Process>) =
        all.into_iter().partition(|p| p.role.starts_with("felix"));
    let ended = processes::end(&others).and(processes::end(&nodes));
    let unmade = cluster::remove_all();
    found |= !matches!(unmade, Ok(0));
    let (made_folder, made_mount) = (folder_mark().exists(), mount_mark().exists());
    match fs::remove_dir_all(names::FOLDER) {
        Ok(()) => found = true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("removing the lab's folder"),
    }
    // Another's namespaces keep both.
    if made_mount {
        namespaces::unshare_folder();
    }
    if made_folder {
        let _ = fs::remove_dir(names::NETNS_FOLDER);
    }
    ended.and(unmade.map(|_| found))
}
