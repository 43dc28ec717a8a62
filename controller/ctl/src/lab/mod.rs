//! The lab: a whole cluster on one machine, with the real agent, the real controller and the kernel's own packets.
//!
//! Each node is a network namespace with its own felix process; each pod is a network namespace that the node's felix
//! connects, asked over the socket that the CNI plugin uses. Nothing of it touches the machine's own network: even the
//! wire between the nodes is in a namespace.
//!
//! | room | what it does |
//! |---|---|
//! | `names`, `state` | what everything is called, and what is remembered between commands |
//! | `up`, `down`, `lock` | makes the lab, and removes it whatever is left of it |
//! | `cluster`, `namespaces` | the network: nodes, the wire, the host outside |
//! | `start`, `processes` | controller, felixes and agent |
//! | `agent`, `servers` | what a kubelet does: pods into the network, servers into pods |
//! | `picture` | the lab as it is, and what the policies in force say |
//! | `flows`, `asked` | which flows are measured: everybody to everybody, or those of a file |
//! | `measure`, `probe`, `raw` | real packets |
//! | `matrix`, `status`, `watch`, `commands` | what people see |

mod agent;
mod asked;
mod cluster;
mod commands;
mod down;
mod flows;
mod lock;
mod matrix;
mod measure;
mod names;
mod namespaces;
mod picture;
mod probe;
mod processes;
mod raw;
mod servers;
mod start;
mod state;
mod status;
mod up;
mod watch;

use crate::policy::Output;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of the lab.
#[derive(Debug, Args)]
pub struct LabArguments {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Starts the lab and measures who reaches whom.
    Up(UpArguments),
    /// Says how the lab stands. Exit code 1: something of the lab itself is wrong, such as a process that ended.
    Status(StatusArguments),
    /// Measures who reaches whom with real packets, and compares with what the policies say. Without flows: everyone
    /// to everyone. Exit code 1: they differ, or a flow is not as expected; 2: bad input.
    Probe(ProbeArguments),
    /// Runs a command in a pod's network.
    Exec(ExecArguments),
    /// Shows the matrix anew whenever a manifest changes.
    Watch,
    /// Shows what a node's felix, the controller or the agent wrote.
    Logs(LogsArguments),
    /// Ends a node's felix, the controller or the agent, and starts it anew. None is started anew by itself.
    Restart(RestartArguments),
    /// Removes the lab, also what is left of one that crashed.
    Down,
    /// Connects pods and runs their servers; started by `up`.
    #[command(hide = true)]
    Agent,
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct UpArguments {
    /// Folder of Kubernetes manifests; a small shop without it.
    #[arg(long)]
    pub manifests: Option<PathBuf>,
    /// Number of nodes; those that manifests define or pods name count. Without it: the Nodes of the manifests, or 3
    /// where they define none.
    #[arg(long)]
    pub nodes: Option<usize>,
    /// Starts the lab without measuring.
    #[arg(long)]
    pub no_probe: bool,
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub struct ProbeArguments {
    /// File of flows, in the form of `manx simulate`; `-` is the standard input.
    #[arg(long)]
    pub flows: Option<PathBuf>,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// How the answer is written; as JSON it is one object.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Arguments of `restart`.
#[derive(Debug, Args)]
pub struct RestartArguments {
    /// The node whose felix it is, or `controller` or `agent`.
    pub what: String,
    /// Kills it in place of asking it to end.
    #[arg(long)]
    pub kill: bool,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct ExecArguments {
    /// The pod, as namespace/name; or node:NAME, or outside.
    pub pod: String,
    /// The command.
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArguments {
    /// The node, or `controller` or `agent`.
    pub node: String,
}

/// Runs a lab command. The code says whether kernel and policies agree.
pub fn run(arguments: LabArguments) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "the lab makes network namespaces and needs root: run it with sudo"
    );
    match arguments.command {
        LabCommand::Up(up) => up::run(&up),
        LabCommand::Status(status) => status::run(status.output),
        LabCommand::Probe(probe) => commands::probe(&probe),
        LabCommand::Exec(exec) => commands::exec(&exec),
        LabCommand::Watch => watch::run(),
        LabCommand::Logs(logs) => commands::logs(&logs.node),
        LabCommand::Restart(restart) => start::restart(&restart.what, restart.kill),
        LabCommand::Down => down::run(),
        LabCommand::Agent => agent::run(),
    }
}
