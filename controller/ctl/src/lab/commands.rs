//! The lab's commands that ask a running lab.

use super::asked;
use super::matrix;
use super::measure::{Measured, measure};
use super::names;
use super::namespaces;
use super::picture::Picture;
use super::start::known_node;
use super::state::{AgentState, LabState};
use super::{ExecArguments, ProbeArguments};
use crate::policy::print::{Output, out};
use anyhow::Context;
use std::process::ExitCode;

/// Measures and prints; the code says whether kernel and policies agree.
pub(super) fn probe(arguments: &ProbeArguments) -> anyhow::Result<ExitCode> {
    if let Some(file) = &arguments.flows {
        return asked::probe(file, arguments.output);
    }
    let measured = measure(Picture::settled()?.matrix()?)?;
    let differences = match arguments.output {
        Output::Table => matrix::print(&measured)?,
        Output::Json => {
            out(&measured.iter().map(Measured::json).collect::<String>())?;
            measured.iter().filter(|m| !m.agrees()).count()
        }
    };
    Ok(ExitCode::from(u8::from(differences > 0)))
}

/// Runs a command in a pod's network, or in a node's.
pub(super) fn exec(arguments: &ExecArguments) -> anyhow::Result<ExitCode> {
    let lab = LabState::load()?;
    let netns = match arguments.pod.strip_prefix("node:") {
        Some(node) => names::node_namespace(known_node(&lab, node)?),
        None if arguments.pod == "outside" => names::OUTSIDE.to_string(),
        None => {
            let agent = AgentState::load();
            let known: Vec<&str> = agent.pods.keys().map(String::as_str).collect();
            let pod = agent.pods.get(&arguments.pod).with_context(|| {
                format!(
                    "there is no pod {}; there are: {}; or node:NAME or outside",
                    arguments.pod,
                    known.join(", ")
                )
            })?;
            anyhow::ensure!(!pod.netns.is_empty(), "pod {} has finished", arguments.pod);
            pod.netns.clone()
        }
    };
    let (program, rest) = arguments.command.split_first().context("no command")?;
    let status = namespaces::inside(&netns, || std::process::Command::new(program).args(rest).status())?
        .with_context(|| format!("running {program}"))?;
    use std::os::unix::process::ExitStatusExt;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(255);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)))
}

/// Shows a log.
pub(super) fn logs(node: &str) -> anyhow::Result<ExitCode> {
    let lab = LabState::load()?;
    let file = match node {
        "controller" | "agent" => names::path(&format!("{node}.log")),
        node => names::node_folder(known_node(&lab, node)?).join("felix.log"),
    };
    let text = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    out(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}
