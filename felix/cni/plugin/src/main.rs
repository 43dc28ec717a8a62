//! The program that a container runtime starts for every pod (the CNI plugin); it asks the node's felix.
//!
//! It is started often and must be quick: no runtime, no datastore, no credentials. One program answers to several
//! names: `manx` and `calico` connect a pod, `manx-ipam` and `calico-ipam` give addresses to another network's plugin,
//! `loopback` brings up a pod's loopback interface, and `manx-cni install` puts it where the runtime looks.
//!
//! Rooms, in reading order: `call` (what the runtime asks), `configuration` (what the operator wrote), `run` (what is
//! done), `sandbox` (the pod's side), `result` and `failure` (what the runtime is told), `install` (where the runtime
//! looks), `step` (an uninstall's part on each node).

mod call;
mod configuration;
mod failure;
mod install;
mod result;
mod run;
mod sandbox;
mod step;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

/// Longest network configuration that is read, in bytes: a collection names every sandbox of the node.
const LONGEST_INPUT: u64 = 4 * 1024 * 1024;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().map(program_name).unwrap_or_default();
    if std::env::var_os("CNI_COMMAND").is_none() {
        match arguments.next().as_deref().and_then(|a| a.to_str()) {
            Some("install") => return install::main(install::Task::Install),
            Some("uninstall") => {
                // `--when FILE`: as the step of an uninstall beside the node's felix.
                let is_told_when = arguments.next().is_some_and(|a| a == "--when");
                return match arguments.next().filter(|_| is_told_when) {
                    Some(marker) => step::main(marker),
                    None => install::main(install::Task::Uninstall),
                };
            }
            _ => {}
        }
    }
    let mut input = Vec::new();
    let read = std::io::stdin()
        .lock()
        .take(LONGEST_INPUT)
        .read_to_end(&mut input);
    let answer = match read {
        Ok(_) => run::answer(&name, &input, &|variable| std::env::var_os(variable)),
        Err(error) => run::Answer::failed(failure::Failure::input(&error)),
    };
    if let Some(text) = &answer.text {
        // Whoever asked and does not listen any more cannot be told.
        let mut out = std::io::stdout().lock();
        let _ = out
            .write_all(text.as_bytes())
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush());
    }
    if answer.is_success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn program_name(path: OsString) -> String {
    let name = Path::new(&path).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
