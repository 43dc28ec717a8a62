//! The manifests of the node, and the one that changes.

use crate::probe::Door;
use anyhow::Context;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How many pods the node has; the first is the client, the second the server.
pub(super) const PODS: usize = 50;
/// How many policies there are, all of them of pods of this node.
pub(super) const POLICIES: usize = 1_000;
/// Name of the node.
pub(super) const NODE: &str = "bench";
/// Namespace of the pods.
pub(super) const NAMESPACE: &str = "bench";
/// The port that is opened and shut.
pub(super) const PORT: u16 = 8080;

/// Name of a pod.
pub(super) fn pod(n: usize) -> String {
    format!("pod-{n}")
}

/// Address of a pod.
pub(super) fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 65, 0, 2 + u8::try_from(n).unwrap_or(0))
}

/// The folder of manifests.
#[derive(Debug)]
pub(super) struct Manifests {
    folder: PathBuf,
    /// Where the changed manifest is written before it is put into place: on the same file system, but not followed.
    beside: PathBuf,
}

impl Manifests {
    /// Writes all manifests below a folder.
    pub(super) fn write(below: &Path) -> anyhow::Result<Self> {
        let manifests = Manifests {
            folder: below.join("manifests"),
            beside: below.join("next.yaml"),
        };
        fs::create_dir(&manifests.folder).context("making the folder of manifests")?;
        let write = |name: &str, text: String| {
            fs::write(manifests.folder.join(name), text)
                .with_context(|| format!("writing the manifest {name}"))
        };
        write("cluster.yaml", cluster())?;
        for n in 0..PODS {
            write(&format!("pod-{n}.yaml"), pod_manifest(n))?;
        }
        for n in 1..POLICIES {
            write(&format!("policy-{n}.yaml"), policy(n))?;
        }
        write("door.yaml", door(Door::Open))?;
        Ok(manifests)
    }

    /// The folder that the controller follows.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the changed manifest beside the folder.
    pub(super) fn prepare(&self, state: Door) -> anyhow::Result<()> {
        fs::write(&self.beside, door(state)).context("writing the changed manifest")
    }

    /// Puts it into place and says when that was done.
    pub(super) fn put(&self) -> anyhow::Result<Instant> {
        fs::rename(&self.beside, self.folder.join("door.yaml"))
            .context("putting the changed manifest into place")?;
        Ok(Instant::now())
    }
}

fn cluster() -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {NAMESPACE} }}\n---\n\
         apiVersion: v1\nkind: Node\nmetadata: {{ name: {NODE} }}\n\
         status: {{ addresses: [{{ type: InternalIP, address: 10.98.0.1 }}] }}\n---\n\
         apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{ name: bench }}\nspec: {{ cidr: 10.65.0.0/16 }}\n"
    )
}

fn pod_manifest(n: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n  namespace: {NAMESPACE}\n  labels: {{ app: app-{n} }}\n  \
         annotations: {{ cni.projectcalico.org/ipAddrs: '[\"{}\"]' }}\n\
         spec:\n  nodeName: {NODE}\n  containers: [{{ name: main, image: main }}]\n",
        pod(n),
        address(n)
    )
}

/// A policy of one of the pods: it lets another one in at one port. None lets the client into the server.
fn policy(n: usize) -> String {
    let peer = 2 + (n * 7) % (PODS - 2);
    rule(
        &format!("policy-{n}"),
        1 + n % (PODS - 1),
        peer,
        "TCP",
        3_000 + n % 40,
    )
}

fn door(state: Door) -> String {
    // The other port keeps the policy alike in everything else.
    let port = if state == Door::Open { PORT } else { PORT + 1 };
    rule("door", 1, 0, "UDP", usize::from(port))
}

fn rule(name: &str, on: usize, from: usize, protocol: &str, port: usize) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: {NAMESPACE} }}\n\
         spec:\n  podSelector: {{ matchLabels: {{ app: app-{on} }} }}\n  policyTypes: [Ingress]\n  ingress:\n    \
         - from: [{{ podSelector: {{ matchLabels: {{ app: app-{from} }} }} }}]\n      \
         ports: [{{ protocol: {protocol}, port: {port} }}]\n"
    )
}
