//! The lab's background processes: started, recognised, ended by their own identity only.
//!
//! A process is ours if the lab wrote it down, if it is in one of the lab's network namespaces, or if its environment
//! carries the lab's mark. So they are found also when the lab's folder is gone.

use super::names;
use super::namespaces;
use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end after it was asked to.
const FAREWELL: Duration = Duration::from_secs(8);
/// How long the kernel may take to end a process.
const KILL: Duration = Duration::from_secs(5);

/// A process, told from a later one with the same number by the time at which it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// What it is: `felix node1`, `controller`, `agent`.
    pub(super) role: String,
    /// Its number.
    pub(super) pid: i32,
    /// When it began, in the kernel's ticks since boot.
    pub(super) began: u64,
}

/// When a process began (field 22 of its stat file), or nothing if there is none.
fn began(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace();
    // A zombie whose other threads are gone has ended; its parent has not looked yet. While one of them lives, so do its
    // sockets, and nobody else can have its ports.
    let is_zombie = fields.next()? == "Z";
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    (!is_zombie || threads() > 1).then(|| fields.nth(18)?.parse().ok())?
}

impl Process {
    /// Starts a program in the background, its output in a file, apart from the terminal's interrupts.
    pub(super) fn start(
        role: &str,
        command: &mut Command,
        log: &Path,
        namespace: Option<&str>,
    ) -> anyhow::Result<Process> {
        use std::os::unix::process::CommandExt;
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("opening {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        command.env(names::MARK.0, names::MARK.1).process_group(0);
        // A child is born in the namespace of the thread that makes it.
        let child = match namespace {
            Some(name) => namespaces::inside(name, || command.spawn())?,
            None => command.spawn(),
        }
        .with_context(|| format!("starting {role}"))?;
        let pid = i32::try_from(child.id()).context("a process number beyond all bounds")?;
        let began = began(pid).with_context(|| format!("{role} ended at once; see {}", log.display()))?;
        Ok(Process {
            role: role.to_string(),
            pid,
            began,
        })
    }

    /// Whether it still runs.
    pub(super) fn is_alive(&self) -> bool {
        // It may be our own child that ended; otherwise this does nothing.
        let _ = nix::sys::wait::waitpid(
            Pid::from_raw(self.pid),
            Some(nix::sys::wait::WaitPidFlag::WNOHANG),
        );
        began(self.pid) == Some(self.began)
    }
}

/// Ends processes, all at once: asked first, then made to.
pub(super) fn end(processes: &[Process]) -> anyhow::Result<()> {
    for (signal, patience) in [(Signal::SIGTERM, FAREWELL), (Signal::SIGKILL, KILL)] {
        for process in processes.iter().filter(|p| p.is_alive()) {
            let _ = kill(Pid::from_raw(process.pid), signal);
            // One that was stopped could not hear the question.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGCONT);
        }
        let deadline = Instant::now() + patience;
        while processes.iter().any(Process::is_alive) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let left: Vec<String> = processes
        .iter()
        .filter(|p| p.is_alive())
        .map(|p| p.pid.to_string())
        .collect();
    anyhow::ensure!(
        left.is_empty(),
        "processes that do not end even when killed: {}",
        left.join(", ")
    );
    Ok(())
}

/// Every process that is in one of the lab's namespaces or carries its mark, but this one and those that it stems from.
pub(super) fn find_all() -> Vec<Process> {
    let ours: BTreeSet<(u64, u64)> = namespaces::list()
        .iter()
        .filter_map(|name| inode(&names::namespace_path(name)))
        .collect();
    let spared = ancestry();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let mut found = Vec::new();
    for pid in numbers.filter(|pid| !spared.contains(pid)) {
        let inside = inode(&PathBuf::from(format!("/proc/{pid}/ns/net"))).is_some_and(|n| ours.contains(&n));
        if (inside || is_marked(pid))
            && let Some(began) = began(pid)
        {
            found.push(Process {
                role: name_of(pid),
                pid,
                began,
            });
        }
    }
    found
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

fn is_marked(pid: i32) -> bool {
    let mark = format!("{}={}", names::MARK.0, names::MARK.1);
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable == mark.as_bytes())
}

fn name_of(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_string()
}

/// This process and those that it stems from.
fn ancestry() -> BTreeSet<i32> {
    let mut pids = BTreeSet::new();
    let mut pid = nix::unistd::getpid().as_raw();
    while pid > 0 && pids.insert(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        pid = parent.unwrap_or(0);
    }
    pids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_only() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process {
            role: "sleep".into(),
            pid,
            began: began(pid).unwrap(),
        };
        assert!(process.is_alive());
        let later = Process {
            began: process.began + 1,
            ..process.clone()
        };
        assert!(!later.is_alive(), "another process with the same number");
        end(std::slice::from_ref(&process)).unwrap();
        assert!(!process.is_alive());
        let _ = child.wait();
    }

    #[test]
    fn this_process_and_its_parents_are_spared() {
        let pids = ancestry();
        assert!(pids.contains(&nix::unistd::getpid().as_raw()));
        assert!(pids.contains(&nix::unistd::getppid().as_raw()));
    }
}
