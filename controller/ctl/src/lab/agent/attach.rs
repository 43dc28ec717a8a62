//! One pod's way into the network and out of it, over the socket that the CNI plugin uses.

use super::super::names;
use super::super::namespaces;
use anyhow::Context;
use felix_cni::{AttachmentKey, Command, Request, Success, call};
use std::net::IpAddr;
use std::time::Duration;

/// Name of the network in attachment keys.
const NETWORK: &str = "lab";
/// How long a node's felix may take to answer. A request that it has taken goes on without its caller, and the next
/// call waits for it: so this only bounds how soon trouble is seen.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a pod is connected as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    /// Namespace.
    pub(super) namespace: String,
    /// Name of the pod.
    pub(super) pod: String,
    /// Node.
    pub(super) node: String,
    /// Identity of the pod, where its manifest has one.
    pub(super) uid: String,
    /// Addresses that its endpoint states.
    pub(super) asked: Vec<IpAddr>,
}

impl Attachment {
    /// Its network namespace.
    pub(super) fn netns(&self) -> String {
        names::pod_namespace(&self.namespace, &self.pod)
    }

    fn key(&self) -> AttachmentKey {
        AttachmentKey {
            network: NETWORK.into(),
            container_id: format!("{}.{}", self.namespace, self.pod),
            interface: "eth0".into(),
        }
    }
}

/// Makes the sandbox, if it is not there, and has it connected.
pub(super) fn connect(pod: &Attachment) -> anyhow::Result<Success> {
    namespaces::ensure(&pod.netns())?;
    let request = Request::new(Command::Add {
        key: pod.key(),
        netns: names::namespace_path(&pod.netns()).display().to_string(),
        namespace: pod.namespace.clone(),
        pod: pod.pod.clone(),
        uid: pod.uid.clone(),
        mtu: 0,
    });
    call(&names::cni_socket(&pod.node), &request, PATIENCE)
        .with_context(|| format!("connecting on {}", pod.node))
}

/// Has the pod disconnected, then removes its sandbox.
pub(super) fn disconnect(pod: &Attachment) -> anyhow::Result<()> {
    let request = Request::new(Command::Del { key: pod.key() });
    call(&names::cni_socket(&pod.node), &request, PATIENCE)
        .with_context(|| format!("disconnecting on {}", pod.node))?;
    namespaces::remove(&pod.netns())
}
