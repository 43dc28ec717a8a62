//! `manx ipam`: which addresses are given to whom, and whether blocks and pods agree about it.
//!
//! | room | what it does |
//! |---|---|
//! | [`ledger`] | pools, blocks and pods as they stand |
//! | [`show`] | how much is used, and by whom |
//! | [`check`] | where blocks and pods disagree |

pub mod check;
pub mod ledger;
pub mod show;

use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Arguments of `manx ipam`.
#[derive(Debug, Args)]
pub struct IpamArguments {
    #[command(subcommand)]
    command: IpamCommand,
}

#[derive(Debug, Subcommand)]
enum IpamCommand {
    Show(show::ShowArguments),
    Check(check::CheckArguments),
}

/// Runs the command.
///
/// # Errors
/// Pools, blocks or pods cannot be read.
pub fn run(arguments: &IpamArguments) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        IpamCommand::Show(arguments) => show::run(arguments),
        IpamCommand::Check(arguments) => check::run(arguments),
    }
}
