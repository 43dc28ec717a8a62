//! `manx`, the operator's command: try policies out, look at a node, and run a whole cluster on one machine.



use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Manx: a policy-enforcing network.
#[derive(Debug, Parser)]
#[command(name = "manx", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A cluster on this machine: nodes and pods as network namespaces, policy enforced by the kernel.
    Lab(controller_ctl::lab::LabArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Lab(lab) => controller_ctl::lab::run(lab),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("manx: {error:#}");
            ExitCode::from(2)
        }
    }
}
