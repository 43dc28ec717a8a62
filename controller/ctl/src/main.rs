//! `manx`, the operator's command: ask a cluster how it stands, try policies out, look at a node, and run a whole
//! cluster on one machine.

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
    Status(controller_ctl::status::StatusArguments),
    Explain(controller_ctl::policy::explain::ExplainArguments),
    Simulate(controller_ctl::policy::simulate::SimulateArguments),
    Diff(controller_ctl::policy::diff::DiffArguments),
    /// Which addresses are given to whom, and whether blocks and pods agree about it.
    Ipam(controller_ctl::ipam::IpamArguments),
    Check(controller_ctl::check::CheckArguments),
    /// A cluster on this machine: nodes and pods as network namespaces, policy enforced by the kernel.
    Lab(controller_ctl::lab::LabArguments),
}

pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Simulate(simulate) => controller_ctl::policy::simulate::run(&simulate),
        Command::Explain(explain) => controller_ctl::policy::explain::run(&explain),
        Command::Diff(diff) => controller_ctl::policy::diff::run(&diff),
        Command::Status(status) => controller_ctl::status::run(&status),
        Command::Ipam(ipam) => controller_ctl::ipam::run(&ipam),
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
