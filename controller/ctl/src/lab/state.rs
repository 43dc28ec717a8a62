//! What the lab remembers between its commands.

use super::names;
use super::processes::Process;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A lab.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct LabState {
    /// Folder of the manifests.
    pub(super) manifests: PathBuf,
    /// Nodes with their addresses.
    pub(super) nodes: BTreeMap<String, Vec<IpAddr>>,
    /// Nodes whose manifests say no address: the lab stores them, as a node's own agent would.
    #[serde(default)]
    pub(super) addressed: BTreeSet<String>,
    /// Background processes.
    pub(super) processes: Vec<Process>,
    /// Whether it was made to its end.
    #[serde(default)]
    pub(super) is_whole: bool,
}

/// What a pod of the lab is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PodKind {
    /// It has a network of its own.
    #[default]
    Endpoint,
    /// It uses its node's network: neither selected nor a peer.
    Host,
    /// It has finished: it sends and receives nothing.
    Finished,
}

/// One pod as the lab's agent has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PodState {
    /// Namespace.
    pub(super) namespace: String,
    /// Name.
    pub(super) pod: String,
    /// Node; empty for a pod that has finished.
    pub(super) node: String,
    /// What it is.
    pub(super) kind: PodKind,
    /// Addresses; those of its node for a pod of its node's network.
    pub(super) addresses: Vec<IpAddr>,
    /// Name of the network namespace that it is in; a node's for a pod of its node's network.
    pub(super) netns: String,
    /// Ports that it declares, as protocol and number.
    pub(super) ports: Vec<(String, u16)>,
    /// Ports by their names: protocol, name, number.
    #[serde(default)]
    pub(super) named_ports: Vec<(String, String, u16)>,
    /// Declared ports at which nobody answers, and why.
    #[serde(default)]
    pub(super) silent: Vec<String>,
    /// Whether the datastore knows it no longer. Not a trouble: what the manifests say may have come back meanwhile,
    /// and for a pod that moves it has.
    #[serde(default)]
    pub(super) leaving: bool,
    /// Why it is not connected.
    #[serde(default)]
    pub(super) trouble: Option<String>,
}

impl PodState {
    /// `namespace/pod`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }

    /// Whether packets can be sent from it and to it.
    pub(super) fn is_there(&self) -> bool {
        self.kind != PodKind::Finished && !self.addresses.is_empty() && self.why_not().is_none()
    }

    /// Why no packets can be sent from it and to it, where that is known.
    pub(super) fn why_not(&self) -> Option<&str> {
        let leaving = self.leaving.then_some("it is being removed");
        self.trouble.as_deref().or(leaving)
    }
}

/// What the agent says of all pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AgentState {
    /// Pods by namespace/name.
    pub(super) pods: BTreeMap<String, PodState>,
    /// The process that says so. An agent says nothing before it knows every pod.
    #[serde(default)]
    pub(super) written_by: u32,
}

impl LabState {
    fn file() -> PathBuf {
        names::path("lab.json")
    }

    /// The running lab.
    pub(super) fn load() -> anyhow::Result<LabState> {
        let text =
            fs::read_to_string(Self::file()).context("there is no lab; start one with 'manx lab up'")?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "reading {}; 'manx lab down' removes what is left",
                Self::file().display()
            )
        })
    }

    /// Writes the state down.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        write(&Self::file(), &serde_json::to_vec_pretty(self)?)
    }

    /// Whether the agent that runs now has said how the pods stand. What an agent before it left behind says nothing of
    /// servers, which ended with it.
    pub(super) fn has_word(&self, state: &AgentState) -> bool {
        let agent = self.processes.iter().find(|p| p.role == "agent");
        agent.is_some_and(|p| u32::try_from(p.pid) == Ok(state.written_by))
    }

    /// Replaces the process of one role.
    pub(super) fn set_process(&mut self, process: Process) {
        match self.processes.iter_mut().find(|p| p.role == process.role) {
            Some(old) => *old = process,
            None => self.processes.push(process),
        }
    }
}

impl AgentState {
    fn file() -> PathBuf {
        names::path("agent.json")
    }

    /// What the agent said last.
    pub(super) fn load() -> AgentState {
        let text = fs::read_to_string(Self::file()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Writes the state down.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        write(&Self::file(), &serde_json::to_vec_pretty(self)?)
    }

    /// The pod that has an address of its own.
    pub(super) fn pod_of(&self, address: IpAddr) -> Option<&PodState> {
        self.pods
            .values()
            .find(|p| p.kind == PodKind::Endpoint && p.addresses.contains(&address))
    }
}

/// Replaces a file in one step, so that a reader never sees half of it.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("writing {}", path.display()))
}
