//! The lab's background processes: started, recognised, ended by their own identity only.

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A process, told from a later one with the same number by the time at which it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// What it is: `felix node1`, `controller`, `agent`.
    pub role: String,
    /// Its number.
    pub pid: i32,
    /// When it began, in the kernel's ticks since boot.
    pub began: u64,
}

/// When a process began (field 22 of its stat file), or nothing if there is none.
fn began(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace();
    // A zombie has ended; its parent has not looked yet.
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18)?.parse().ok())?
}

impl Process {
    /// Starts a program in the background, its output in a file. In its own session, so that it outlives the terminal.
    pub fn start(role: &str, command: &mut Command, log: &Path, namespace: Option<&str>) -> anyhow::Result<Process> {
        let file = File::options().create(true).append(true).open(log).with_context(|| format!("opening {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        use std::os::unix::process::CommandExt;
        command.process_group(0);
        let spawn = |command: &mut Command| command.spawn();
        // A child is born in the namespace of the thread that makes it.
        let child = match namespace {
            Some(name) => super::namespaces::inside(name, || spawn(command))?,
            None => spawn(command),
        }
        .with_context(|| format!("starting {role}"))?;
        let pid = i32::try_from(child.id()).context("a process number beyond all bounds")?;
        let began = began(pid).with_context(|| format!("{role} ended at once"))?;
        Ok(Process { role: role.to_string(), pid, began })
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        // It may be our own child that ended; otherwise this does nothing.
        let _ = nix::sys::wait::waitpid(Pid::from_raw(self.pid), Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        began(self.pid) == Some(self.began)
    }

    /// Ends it: asked first, then made to.
    pub fn end(&self) {
        for (signal, patience) in [(Signal::SIGTERM, Duration::from_secs(8)), (Signal::SIGKILL, Duration::from_secs(5))] {
            if !self.is_alive() {
                return;
            }
            let _ = kill(Pid::from_raw(self.pid), signal);
            let deadline = Instant::now() + patience;
            while self.is_alive() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
