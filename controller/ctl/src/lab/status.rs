//! How the lab stands: processes, nodes, pods, and what is wrong in the manifests.

use super::names;
use super::namespaces;
use super::processes::Process;
use super::state::{AgentState, LabState, PodKind, PodState};
use crate::policy::print::{Output, json_line, out, red};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long a felix may take to say whether it is ready.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the controller says became of an object that somebody else made.
const FOREIGN: &str = "that object stays as it is";

/// How the lab stands. The field names are for programs.
#[derive(Serialize)]
struct Status {
    manifests: PathBuf,
    whole: bool,
    processes: Vec<ProcessStatus>,
    nodes: BTreeMap<String, NodeStatus>,
    pods: BTreeMap<String, PodState>,
    faults: Vec<String>,
    /// What is wrong with the lab itself.
    trouble: Vec<String>,
}

#[derive(Serialize)]
struct ProcessStatus {
    role: String,
    pid: i32,
    running: bool,
}

#[derive(Serialize)]
struct NodeStatus {
    addresses: Vec<IpAddr>,
    netns: String,
    ready: bool,
    /// Why it is not.
    answer: Option<String>,
}

/// Says how the lab stands. The code is 1 where something of the lab itself is wrong; faults of manifests are told, and
/// are the manifests' matter.
pub(super) fn run(output: Output) -> anyhow::Result<ExitCode> {
    let lab = match LabState::load() {
        Ok(lab) => lab,
        Err(error) => {
            let left = namespaces::list().len();
            anyhow::ensure!(
                left == 0,
                "the lab's folder is gone or damaged, but {left} of its network namespaces are there: it crashed; \
                 'manx lab down' removes what is left ({error:#})"
            );
            return Err(error);
        }
    };
    let status = gather(lab);
    out(&match output {
        Output::Json => json_line(&status),
        Output::Table => text(&status)?,
    })?;
    Ok(ExitCode::from(u8::from(!status.trouble.is_empty())))
}

fn gather(lab: LabState) -> Status {
    let agent = AgentState::load();
    let mut trouble = Vec::new();
    if !lab.is_whole {
        trouble.push("it was not made to its end; 'manx lab up' makes it anew".to_string());
    }
    let processes: Vec<ProcessStatus> = lab.processes.iter().map(process).collect();
    for ended in processes.iter().filter(|p| !p.running) {
        let what = ended.role.strip_prefix("felix ").unwrap_or(&ended.role);
        trouble.push(format!(
            "{} (pid {}) ended; 'manx lab logs {what}' says why, 'manx lab restart {what}' starts it anew",
            ended.role, ended.pid
        ));
    }
    let mut nodes = BTreeMap::new();
    for (node, addresses) in &lab.nodes {
        let netns = names::node_namespace(node);
        let (ready, answer) = match ready(node) {
            Ok(()) => (true, None),
            Err(answer) => (false, Some(answer)),
        };
        if !ready {
            trouble.push(format!("node {node} is not ready"));
        }
        nodes.insert(
            node.clone(),
            NodeStatus {
                addresses: addresses.clone(),
                netns,
                ready,
                answer,
            },
        );
    }
    if !lab.has_word(&agent) {
        trouble.push("the agent has not said yet how its pods stand".to_string());
    }
    for (name, pod) in &agent.pods {
        trouble.extend(pod.why_not().iter().map(|t| format!("pod {name}: {t}")));
        trouble.extend(pod.silent.iter().map(|t| format!("pod {name}: no server at {t}")));
        if pod.kind == PodKind::Endpoint && pod.addresses.is_empty() && pod.why_not().is_none() {
            trouble.push(format!("pod {name}: it is not connected yet"));
        }
    }
    Status {
        faults: faults(&lab),
        manifests: lab.manifests,
        whole: lab.is_whole,
        processes,
        nodes,
        pods: agent.pods,
        trouble,
    }
}

fn process(process: &Process) -> ProcessStatus {
    ProcessStatus {
        role: process.role.clone(),
        pid: process.pid,
        running: process.is_alive(),
    }
}

fn text(status: &Status) -> anyhow::Result<String> {
    let mut text = format!("manifests: {}\n\nprocesses:\n", status.manifests.display());
    for process in &status.processes {
        let state = if process.running {
            "running".to_string()
        } else {
            red("ENDED")
        };
        writeln!(text, "  {:<20} pid {:<8} {state}", process.role, process.pid)?;
    }
    writeln!(text, "\nnodes:")?;
    for (node, found) in &status.nodes {
        let state = if found.ready {
            "ready".to_string()
        } else {
            red("NOT READY")
        };
        writeln!(text, "  {node:<12} {:<44} {state}", list(&found.addresses))?;
        for line in found.answer.iter().flat_map(|answer| answer.lines()) {
            writeln!(text, "      {line}")?;
        }
    }
    writeln!(text, "\npods:")?;
    let width = status.pods.keys().map(String::len).max().unwrap_or(0);
    for (name, pod) in &status.pods {
        let ports: Vec<String> = pod.ports.iter().map(|(p, n)| format!("{n}/{p}")).collect();
        let (place, ports) = match pod.kind {
            PodKind::Endpoint => (list(&pod.addresses), ports.join(" ")),
            PodKind::Host => ("(its node's network)".to_string(), ports.join(" ")),
            PodKind::Finished => ("(has finished)".to_string(), String::new()),
        };
        writeln!(text, "  {name:<width$}  {:<12} {place:<44} {ports}", pod.node)?;
    }
    if !status.faults.is_empty() {
        writeln!(text, "\nmanifests that are not in force as they are written:")?;
        for fault in &status.faults {
            writeln!(text, "  {fault}")?;
        }
    }
    if !status.trouble.is_empty() {
        writeln!(text, "\nwhat is wrong with the lab:")?;
        for line in &status.trouble {
            writeln!(text, "  {}", red(line))?;
        }
    }
    Ok(text)
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

/// What the controller says is wrong in the manifests.
fn faults(lab: &LabState) -> Vec<String> {
    let text = std::fs::read_to_string(names::faults()).unwrap_or_default();
    let written: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let list = written
        .get("faults")
        .and_then(|f| f.as_array())
        .cloned()
        .unwrap_or_default();
    let said = |fault: &serde_json::Value, field: &str| {
        fault
            .get(field)
            .and_then(|f| f.as_str())
            .unwrap_or("")
            .to_string()
    };
    // That the lab says the addresses of nodes whose manifests do not is no fault.
    let is_ours = |fault: &&serde_json::Value| {
        let subject = said(fault, "subject");
        said(fault, "consequence") == FOREIGN
            && lab.addressed.iter().any(|node| subject.ends_with(node.as_str()))
    };
    list.iter()
        .filter(|fault| !is_ours(fault))
        .map(|fault| said(fault, "message"))
        .collect()
}

/// Whether a node's felix is ready; if not, what it says.
fn ready(node: &str) -> Result<(), String> {
    match namespaces::inside(&names::node_namespace(node), ready_page) {
        Ok(answer) => answer,
        Err(error) => Err(format!("{error:#}")),
    }
}

/// Asks a felix for its readiness, from within its node.
fn ready_page() -> Result<(), String> {
    let address: std::net::SocketAddr = ([127, 0, 0, 1], 9099).into();
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /readiness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = ask().map_err(|error| format!("felix does not answer: {error}"))?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let code = head.split_whitespace().nth(1).unwrap_or_default();
    if code.starts_with('2') {
        Ok(())
    } else {
        Err(body.trim().to_string())
    }
}

/// The nodes whose felix is not ready, each with its answer.
pub(super) fn unready(lab: &LabState) -> Vec<(String, String)> {
    let ask = |node: &String| Some((format!("node {node}"), ready(node).err()?));
    lab.nodes.keys().filter_map(ask).collect()
}
