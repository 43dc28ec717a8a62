//! The agent, the controller and the operator's command in one program, which is each of them by the name it is started
//! under.
//!
//! Nine tenths of each are the same code: apart, the three would make an image of 65 MB, together they need 25. The
//! CNI plugin stays a program of its own, because it is started for every pod and has to be small.

#[path = "../../../felix/src/main.rs"]
mod agent;
#[path = "../../../controller/src/main.rs"]
mod cluster_controller;
#[path = "../../../controller/ctl/src/main.rs"]
mod operator;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let started_as = std::env::args_os().next().unwrap_or_default();
    match Path::new(&started_as).file_name().and_then(OsStr::to_str) {
        Some("felix") => agent::main(),
        Some("manx-controller") => cluster_controller::main(),
        // The operator's command names itself in its help, so a stranger's name does no harm.
        _ => operator::main(),
    }
}
