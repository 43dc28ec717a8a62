//! What the lab remembers between its commands.

use super::names;
use super::processes::Process;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

/// A lab.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LabState {
    /// Folder of the manifests.
    pub manifests: PathBuf,
    /// Nodes with their addresses.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// Background processes.
    pub processes: Vec<Process>,
}

/// One pod as the lab's agent has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub pod: String,
    /// Node.
    pub node: String,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Name of the network namespace that it is in; a node's for a pod of its node's network.
    pub netns: String,
    /// Whether it uses its node's own network.
    pub host_network: bool,
    /// Ports that answer, as protocol and number.
    pub ports: Vec<(String, u16)>,
    /// Why it is not connected, or a port does not answer.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// What the agent says of all pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// Pods by namespace/name.
    pub pods: BTreeMap<String, PodState>,
    /// Whether every pod that the datastore knew at the start was treated.
    pub settled: bool,
}

impl LabState {
    fn file() -> PathBuf {
        names::path("lab.json")
    }

    /// The running lab.
    pub fn load() -> anyhow::Result<LabState> {
        let text = fs::read_to_string(Self::file()).context("there is no lab; start one with 'manx lab up'")?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", Self::file().display()))
    }

    /// Writes the state down.
    pub fn save(&self) -> anyhow::Result<()> {
        write(&Self::file(), &serde_json::to_vec_pretty(self)?)
    }
}

impl AgentState {
    fn file() -> PathBuf {
        names::path("agent.json")
    }

    /// What the agent said last.
    pub fn load() -> AgentState {
        let text = fs::read_to_string(Self::file()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Writes the state down.
    pub fn save(&self) -> anyhow::Result<()> {
        write(&Self::file(), &serde_json::to_vec_pretty(self)?)
    }
}

/// Replaces a file in one step, so that a reader never sees half of it.
fn write(path: &std::path::Path, bytes: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path)).with_context(|| format!("writing {}", path.display()))
}
