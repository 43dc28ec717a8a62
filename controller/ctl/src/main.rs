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
    Simulate(controller_ctl::policy::simulate::SimulateArguments),
    Explain(controller_ctl::policy::explain::ExplainArguments),
    Diff(controller_ctl::policy::diff::DiffArguments),
    Check(controller_ctl::check::CheckArguments),
    /// A cluster on this machine: nodes and pods as network namespaces, policy enforced by the kernel.
    Lab(controller_ctl::lab::LabArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Simulate(simulate) => controller_ctl::policy::simulate::run(&simulate),
        Command::Explain(explain) => controller_ctl::policy::explain::run(&explain),
        Command::Diff(diff) => controller_ctl::policy::diff::run(&diff),
        Command::Check(check) => controller_ctl::check::run(&check),
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
