//! The lab: a whole cluster on one machine, with the real agent, the real controller and the kernel's own packets.
//!
//! Each node is a network namespace with its own felix process; each pod is a network namespace that the node's felix
//! connects, asked over the socket that the CNI plugin uses. Nothing of it touches the machine's own network: even the
//! wire between the nodes is in a namespace.

mod agent;
mod cluster;
mod commands;
mod flows;
mod matrix;
mod names;
mod namespaces;
mod probe;
mod processes;
mod servers;
mod state;
mod up;
mod watch;

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
    /// Says how the lab stands.
    Status,
    /// Measures who reaches whom with real packets, and compares with what the policies say. Without flows: everyone
    /// to everyone.
    Probe(ProbeArguments),
    /// Runs a command in a pod's network.
    Exec(ExecArguments),
    /// Shows the matrix anew whenever a manifest changes.
    Watch,
    /// Shows what a node's felix wrote.
    Logs(LogsArguments),
    /// Removes the lab.
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
    /// Number of nodes. Nodes that the manifests name count.
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    /// Starts the lab without measuring.
    #[arg(long)]
    pub no_probe: bool,
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub struct ProbeArguments {
    /// File of flows: YAML, or one JSON object a line: {from, to, protocol, port, expect}.
    #[arg(long)]
    pub flows: Option<PathBuf>,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// One JSON object a line.
    Json,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct ExecArguments {
    /// The pod, as namespace/name.
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
        LabCommand::Status => commands::status(),
        LabCommand::Probe(probe) => commands::probe(&probe),
        LabCommand::Exec(exec) => commands::exec(&exec),
        LabCommand::Watch => watch::run(),
        LabCommand::Logs(logs) => commands::logs(&logs.node),
        LabCommand::Down => up::down(),
        LabCommand::Agent => agent::run(),
    }
}
