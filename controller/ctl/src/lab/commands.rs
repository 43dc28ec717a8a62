//! The lab's commands that look at a running lab.

use super::flows::{LabFlow, picture};
use super::matrix::{self, Measured};
use super::names;
use super::namespaces;
use super::probe;
use super::state::{AgentState, LabState};
use super::{ExecArguments, Output, ProbeArguments};
use anyhow::Context;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Measures flows, with progress on a terminal.
pub fn measure(flows: Vec<LabFlow>) -> Vec<Measured> {
    let probes: Vec<probe::Probe> = flows.iter().map(|f| f.probe.clone()).collect();
    let (done, total) = (AtomicUsize::new(0), probes.len());
    let show = std::io::stderr().is_terminal();
    let outcomes = probe::run(&probes, || {
        let n = done.fetch_add(1, Ordering::Relaxed) + 1;
        if show && (n.is_multiple_of(16) || n == total) {
            eprint!("\rmeasuring: {n} of {total} flows ");
            let _ = std::io::stderr().flush();
        }
    });
    if show {
        eprintln!();
    }
    flows.into_iter().zip(outcomes).map(|(flow, outcome)| Measured { flow, outcome }).collect()
}

/// Measures and prints; the code says whether kernel and policies agree.
pub fn probe(arguments: &ProbeArguments) -> anyhow::Result<ExitCode> {
    let picture = picture()?;
    let flows = match &arguments.flows {
        None => picture.matrix()?,
        Some(file) => super::flows::from_file(&picture, file)?,
    };
    let measured = measure(flows);
    let differences = match arguments.output {
        Output::Table => matrix::print(&measured),
        Output::Json => {
            measured.iter().for_each(|m| println!("{}", m.json()));
            measured.iter().filter(|m| !m.agrees()).count()
        }
    };
    Ok(if differences == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Says how the lab stands.
pub fn status() -> anyhow::Result<ExitCode> {
    let lab = LabState::load()?;
    let agent = AgentState::load();
    let mut fine = true;
    println!("manifests: {}", lab.manifests.display());
    println!("\nprocesses:");
    for process in &lab.processes {
        let alive = process.is_alive();
        fine &= alive;
        println!("  {:<16} pid {:<8} {}", process.role, process.pid, if alive { "running" } else { "ENDED" });
    }
    println!("\nnodes:");
    for (node, addresses) in &lab.nodes {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let health = namespaces::inside(&names::node_namespace(node), || ready_page()).unwrap_or_else(|e| Err(format!("{e:#}")));
        let (ready, text) = match &health {
            Ok((ready, text)) => (*ready, text.clone()),
            Err(error) => (false, error.clone()),
        };
        fine &= ready;
        println!("  {node:<12} {:<40} {}", addresses.join(" "), if ready { "ready" } else { "NOT READY" });
        if !ready {
            text.lines().for_each(|l| println!("      {l}"));
        }
    }
    println!("\npods:");
    for (name, pod) in &agent.pods {
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        let ports: Vec<String> = pod.ports.iter().map(|(p, n)| format!("{n}/{p}")).collect();
        println!("  {name:<28} {:<10} {:<44} {}", pod.node, addresses.join(" "), ports.join(" "));
        if let Some(trouble) = &pod.trouble {
            fine = false;
            println!("      {trouble}");
        }
    }
    let faults = std::fs::read_to_string(names::path("faults.json")).unwrap_or_default();
    let faults: serde_json::Value = serde_json::from_str(&faults).unwrap_or_default();
    let list = faults.get("faults").and_then(|f| f.as_array()).or(faults.as_array()).cloned().unwrap_or_default();
    if !list.is_empty() {
        println!("\nmanifests that are not in force as they are written:");
        for fault in &list {
            let text = fault.get("text").or(fault.get("message")).and_then(|t| t.as_str());
            println!("  {}", text.map_or_else(|| fault.to_string(), str::to_string));
        }
    }
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Asks a felix for its readiness, from within its node.
fn ready_page() -> Result<(bool, String), String> {
    use std::io::Read;
    let address: std::net::SocketAddr = ([127, 0, 0, 1], 9099).into();
    let limit = std::time::Duration::from_secs(3);
    let mut stream = std::net::TcpStream::connect_timeout(&address, limit).map_err(|e| format!("felix does not answer: {e}"))?;
    let _ = stream.set_read_timeout(Some(limit));
    stream
        .write_all(b"GET /readiness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .map_err(|e| e.to_string())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let code = head.split_whitespace().nth(1).unwrap_or_default();
    Ok((code.starts_with('2'), body.to_string()))
}

/// Whether every node's felix is ready.
pub fn all_ready(lab: &LabState) -> bool {
    lab.nodes.keys().all(|node| {
        matches!(namespaces::inside(&names::node_namespace(node), ready_page), Ok(Ok((true, _))))
    })
}

/// Runs a command in a pod's network.
pub fn exec(arguments: &ExecArguments) -> anyhow::Result<ExitCode> {
    LabState::load()?;
    let agent = AgentState::load();
    let pod = agent.pods.get(&arguments.pod).with_context(|| {
        let known: Vec<&str> = agent.pods.keys().map(String::as_str).collect();
        format!("there is no pod {}; there are: {}", arguments.pod, known.join(", "))
    })?;
    let (program, rest) = arguments.command.split_first().context("no command")?;
    let status = namespaces::inside(&pod.netns, || std::process::Command::new(program).args(rest).status())?
        .with_context(|| format!("running {program}"))?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(255)).unwrap_or(255)))
}

/// Shows a log.
pub fn logs(node: &str) -> anyhow::Result<ExitCode> {
    let lab = LabState::load()?;
    let file = match node {
        "controller" | "agent" => names::path(&format!("{node}.log")),
        node if lab.nodes.contains_key(node) => names::node_folder(node).join("felix.log"),
        other => {
            let known: Vec<&str> = lab.nodes.keys().map(String::as_str).collect();
            anyhow::bail!("there is no node {other}; there are: {}, controller, agent", known.join(", "))
        }
    };
    let text = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    std::io::stdout().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}
