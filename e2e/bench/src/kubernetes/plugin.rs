//! The CNI plugin as a container runtime starts it: one process for each pod that comes or goes.

use super::node::{Node, place};
use anyhow::Context;
use dataplane_netlink::NetworkNamespace;
use serde_json::{Value, json};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// A pod's sandbox.
pub(super) struct Sandbox {
    /// Its network namespace.
    pub(super) namespace: NetworkNamespace,
    /// The pod's namespace and name.
    pub(super) pod: (String, String),
    uid: String,
    container: String,
}

impl Sandbox {
    /// Makes one for a pod. Each has a container of its own.
    pub(super) fn make(pod: (String, String), uid: &str, number: usize) -> anyhow::Result<Self> {
        Ok(Sandbox {
            namespace: NetworkNamespace::anonymous()?,
            pod,
            uid: uid.to_owned(),
            container: format!("{number:064x}"),
        })
    }
}

/// What the plugin is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Connect a pod.
    Add,
    /// Disconnect it.
    Delete,
}

/// One process of the plugin, from start to end.
#[derive(Debug)]
pub(super) struct Call {
    /// When it had ended.
    pub(super) ended: Instant,
    /// How long it took.
    pub(super) took: Duration,
    /// What it printed.
    answer: String,
}

impl Call {
    /// The address that the pod was given.
    pub(super) fn address(&self) -> anyhow::Result<Ipv4Addr> {
        address(&self.answer).with_context(|| format!("no address in the plugin's answer: {}", self.answer))
    }
}

/// The plugin on a node.
pub(super) struct Plugin {
    program: PathBuf,
    configuration: String,
}

impl Plugin {
    /// The plugin, with the configuration that the chart ships.
    pub(super) fn of(node: &Node, programs: &Path) -> Self {
        let configuration = json!({
            "name": "k8s-pod-network", "cniVersion": "1.0.0", "type": "manx", "log_level": "info", "mtu": 0,
            "manx_socket": node.socket(), "ipam": { "type": "calico-ipam" }, "policy": { "type": "k8s" },
        });
        Plugin {
            program: programs.join("manx-plugin/manx"),
            configuration: configuration.to_string(),
        }
    }

    /// Starts the plugin for one pod after the other.
    pub(super) fn one_by_one(&self, deed: Deed, sandboxes: &[Sandbox]) -> anyhow::Result<Vec<Call>> {
        sandboxes.iter().map(|sandbox| self.call(deed, sandbox)).collect()
    }

    /// Starts the plugin for so many pods at once, until all have had their turn.
    pub(super) fn at_once(
        &self,
        deed: Deed,
        sandboxes: &[Sandbox],
        at_once: usize,
    ) -> anyhow::Result<Vec<Call>> {
        let mut calls = Vec::new();
        for some in sandboxes.chunks(at_once) {
            calls.extend(side_by_side(some, |sandbox| self.call(deed, sandbox))?);
        }
        Ok(calls)
    }

    /// Asks the plugin for its versions, which it answers by itself, and returns how long its process took.
    pub(super) fn version(&self) -> anyhow::Result<Duration> {
        let mut command = Command::new(&self.program);
        command.env_clear().env("CNI_COMMAND", "VERSION");
        let (took, output) = run(command, r#"{"cniVersion":"1.0.0"}"#)?;
        anyhow::ensure!(output.status.success(), "the plugin does not tell its versions");
        Ok(took)
    }

    /// The same with so many processes at once.
    pub(super) fn versions_at_once(&self, at_once: usize) -> anyhow::Result<Vec<Duration>> {
        side_by_side(&vec![(); at_once], |()| self.version())
    }

    /// Starts the plugin for a pod and waits until it has ended.
    pub(super) fn call(&self, deed: Deed, sandbox: &Sandbox) -> anyhow::Result<Call> {
        let (namespace, pod) = &sandbox.pod;
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            sandbox.container, sandbox.uid
        );
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("CNI_COMMAND", if deed == Deed::Add { "ADD" } else { "DEL" })
            .env("CNI_CONTAINERID", &sandbox.container)
            .env("CNI_NETNS", place(&sandbox.namespace))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", "/opt/cni/bin");
        let (took, output) = run(command, &self.configuration)?;
        let ended = Instant::now();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(
            output.status.success(),
            "the plugin: {deed:?} of {namespace}/{pod}: {answer} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Call { ended, took, answer })
    }
}

/// Does something with each of these at once, each on a thread of its own, and returns what came of it in their order.
fn side_by_side<I: Sync, T: Send>(
    inputs: &[I],
    work: impl Fn(&I) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let together = Barrier::new(inputs.len());
    let outcomes: Vec<anyhow::Result<T>> = std::thread::scope(|scope| {
        let threads: Vec<_> = inputs
            .iter()
            .map(|input| {
                scope.spawn(|| {
                    together.wait();
                    work(input)
                })
            })
            .collect();
        let end = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("a thread ended")))
        };
        threads.into_iter().map(end).collect()
    });
    outcomes.into_iter().collect()
}

/// Runs a process with an input, and returns how long it took from start to end.
fn run(mut command: Command, input: &str) -> anyhow::Result<(Duration, Output)> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let begun = Instant::now();
    let mut child = command.spawn().context("starting the plugin")?;
    let mut pipe = child.stdin.take().context("the plugin's input")?;
    pipe.write_all(input.as_bytes())?;
    drop(pipe);
    let output = child.wait_with_output()?;
    Ok((begun.elapsed(), output))
}

/// The IPv4 address in a CNI result.
fn address(result: &str) -> Option<Ipv4Addr> {
    let result: Value = serde_json::from_str(result).ok()?;
    let ips = result["ips"].as_array()?;
    ips.iter()
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ipv4_address_counts() {
        let result =
            r#"{"cniVersion":"1.0.0","ips":[{"address":"fd00::1/128"},{"address":"10.244.0.7/32"}]}"#;
        assert_eq!(address(result), Some(Ipv4Addr::new(10, 244, 0, 7)));
        assert_eq!(address(r#"{"ips":[]}"#), None);
        assert_eq!(address(""), None);
    }
}
