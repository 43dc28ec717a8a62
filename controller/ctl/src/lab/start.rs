//! The lab's programs and how each is started.

use super::names;
use super::processes::{self, Process};
use super::state::LabState;
use super::up::step;
use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// A program of ours, beside this one.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("finding this program")?;
    let path = here.with_file_name(name);
    anyhow::ensure!(
        path.exists(),
        "the program {name} is not beside {}; build it too",
        here.display()
    );
    Ok(path)
}

/// Starts the controller.
pub(super) fn start_controller(manifests: &Path) -> anyhow::Result<Process> {
    let mut command = Command::new(program("manx-controller")?);
    command
        .arg("--manifests")
        .arg(manifests)
        .arg("--datastore")
        .arg(names::datastore());
    command.arg("--assign-nodes").arg("--faults").arg(names::faults());
    // Port 0 is no port: the machine's own ports are none of the lab's business.
    command.args(["--metrics-port", "0"]);
    Process::start("controller", &mut command, &names::path("controller.log"), None)
}

/// Starts a node's felix. Further settings come from the environment, as `FELIX_*`.
pub(super) fn start_felix(node: &str) -> anyhow::Result<Process> {
    let folder = names::node_folder(node);
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut command = Command::new(program("felix")?);
    command
        .arg("--config-file")
        .arg(folder.join("felix.cfg"))
        .env("FELIX_FELIXHOSTNAME", node)
        .env("FELIX_DATASTOREPATH", names::datastore())
        .env("FELIX_STATEDIR", &folder)
        .env("FELIX_CNISOCKETPATH", names::cni_socket(node))
        .env("FELIX_DEFAULTENDPOINTTOHOSTACTION", "ACCEPT")
        .env("FELIX_LOGFILEPATH", "none");
    let log = folder.join("felix.log");
    Process::start(
        &felix_role(node),
        &mut command,
        &log,
        Some(&names::node_namespace(node)),
    )
}

/// Starts the agent.
pub(super) fn start_agent() -> anyhow::Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["lab", "agent"]);
    Process::start("agent", &mut command, &names::path("agent.log"), None)
}

/// The role of a node's felix.
pub(super) fn felix_role(node: &str) -> String {
    format!("felix {node}")
}

/// Starts a process of the lab anew. Nobody does that by itself: what a felix that died leaves is to be looked at.
pub(super) fn restart(what: &str, is_killed: bool) -> anyhow::Result<ExitCode> {
    let mut lab = LabState::load()?;
    let role = match what {
        "controller" | "agent" => what.to_string(),
        node => felix_role(known_node(&lab, node)?),
    };
    if let Some(process) = lab.processes.iter().find(|p| p.role == role) {
        if is_killed {
            let _ = process
                .is_alive()
                .then(|| kill(Pid::from_raw(process.pid), Signal::SIGKILL));
        }
        processes::end(std::slice::from_ref(process))?;
    }
    let process = match what {
        "controller" => start_controller(&lab.manifests)?,
        "agent" => start_agent()?,
        node => start_felix(node)?,
    };
    step(&format!("{role} runs again, pid {}", process.pid));
    lab.set_process(process);
    lab.save()?;
    Ok(ExitCode::SUCCESS)
}

/// A node of the lab by its name.
pub(super) fn known_node<'a>(lab: &LabState, node: &'a str) -> anyhow::Result<&'a str> {
    let known: Vec<&str> = lab.nodes.keys().map(String::as_str).collect();
    anyhow::ensure!(
        lab.nodes.contains_key(node),
        "there is no node {node}; there are: {}, controller, agent",
        known.join(", ")
    );
    Ok(node)
}
