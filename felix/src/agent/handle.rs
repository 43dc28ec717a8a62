//! What the engine is told, and by whom: its inputs, its options, and the handle that other threads hold.

use super::timers::RefreshIntervals;
use super::workload_mtu::WorkloadMtu;
use dataplane::{ApplyError, DataplaneSettings};
use felix_cni::journal::Attachments;
use policy_model_datastore::SyncEvent;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// What the engine is told.
#[derive(Debug)]
pub enum Input {
    /// What the datastore says.
    Events(Vec<SyncEvent>),
    /// What is attached to this node, all of it. Those that live before the first events come first.
    Attachments(Attachments),
    /// Addresses that nobody may have but pods of this node, all of them.
    Kept(Arc<BTreeSet<IpAddr>>),
    /// Why policy could be by-passed on this node; empty where it cannot.
    Bypasses(Vec<String>),
    /// The end.
    Stop,
}

/// Options of the engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Name of the node.
    pub node: String,
    /// Whether workloads have their addresses from the ranges that the cluster gave its nodes.
    pub node_ranges: bool,
    /// The kernel side.
    pub dataplane: DataplaneSettings,
    /// How often what is in force is compared with the kernel, whatever the events said.
    pub refresh: RefreshIntervals,
    /// Who wants to know how large the packets of pods may be.
    pub mtu: WorkloadMtu,
}

/// The engine could not begin.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A socket of the kernel could not be opened.
    #[error("opening the dataplane")]
    Dataplane(#[source] ApplyError),
    /// The thread could not be made.
    #[error("starting the engine's thread")]
    Thread(#[source] std::io::Error),
    /// The thread ended before it said how it stands.
    #[error("the engine ended at its start")]
    Ended,
}

/// Talks to the engine from any thread.
#[derive(Debug)]
pub struct EngineHandle {
    pub(super) inputs: Sender<Input>,
    pub(super) wake: UnixStream,
    pub(super) thread: Option<std::thread::JoinHandle<()>>,
}

impl EngineHandle {
    /// Hands something to the engine. Nothing happens once it has ended.
    pub fn send(&self, input: Input) {
        if self.inputs.send(input).is_ok() {
            // A full pipe means that the engine is awake already.
            let _ = (&self.wake).write(&[1]);
        }
    }

    /// Whether the engine still runs.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Ends the engine and waits for it. What is in force stays in force.
    pub fn stop(mut self) {
        self.send(Input::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine's thread ended in a panic");
        }
    }
}
