//! Private network namespaces: a node, and pods that are connected to it as the product connects them.

use anyhow::Context;
use dataplane_netlink::workload::{ConnectRequest, WorkloadSettings, Workloads};
use dataplane_netlink::{InterfaceName, NetworkNamespace};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Output, Stdio};

/// Moves the calling thread, and the threads that it makes from now on, into a new network namespace, which goes
/// with them.
///
/// # Errors
/// The process lacks the privilege.
pub fn enter_new_namespace() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace; this needs root")
}

/// Keeps the calling thread on one processor, so that what it measures does not wander.
///
/// # Errors
/// The processor does not exist.
pub fn pin(processor: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor).context("choosing a processor")?;
    sched_setaffinity(Pid::from_raw(0), &set).context("staying on one processor")
}

/// A node with its pods. Everything goes when it is dropped.
#[derive(Debug)]
pub struct Node {
    /// Its network namespace.
    pub namespace: NetworkNamespace,
    /// Its pods, in the order in which they were asked for.
    pub pods: Vec<Pod>,
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Its network namespace.
    pub namespace: NetworkNamespace,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Node {
    /// Makes a node with a pod for each interface name and list of addresses.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn make(pods: &[(String, Vec<IpAddr>)]) -> anyhow::Result<Self> {
        let namespace = NetworkNamespace::anonymous()?;
        let pods = namespace.run(|| -> anyhow::Result<Vec<Pod>> {
            set("net/ipv4/ip_forward", "1")?;
            let mut workloads = Workloads::open(WorkloadSettings::default())?;
            let mut made = Vec::new();
            for (interface, addresses) in pods {
                let pod = NetworkNamespace::anonymous()?;
                workloads.connect(&ConnectRequest {
                    namespace: &pod,
                    container_interface: InterfaceName::new("eth0")?,
                    host_interface: InterfaceName::new(interface.clone())?,
                    addresses: addresses.clone(),
                    mtu: 1500,
                    container_mac: None,
                    routes: Vec::new(),
                })?;
                made.push(Pod {
                    namespace: pod,
                    addresses: addresses.clone(),
                });
            }
            Ok(made)
        })??;
        Ok(Node { namespace, pods })
    }

    /// Loads rules by the nft program.
    ///
    /// # Errors
    /// The program is not there or refuses.
    pub fn load_rules(&self, text: &str) -> anyhow::Result<()> {
        self.namespace.run(|| {
            let mut nft = Command::new("nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("running the program 'nft' (package nftables)")?;
            nft.stdin
                .take()
                .context("writing to nft")?
                .write_all(text.as_bytes())?;
            let output = nft.wait_with_output()?;
            succeeded("nft", &output)
        })?
    }

    /// Forgets all connection-tracking entries.
    ///
    /// # Errors
    /// The program is not there or refuses.
    pub fn forget_flows(&self) -> anyhow::Result<()> {
        self.namespace.run(|| {
            let output = Command::new("conntrack")
                .arg("-F")
                .output()
                .context("running the program 'conntrack' (package conntrack)")?;
            succeeded("conntrack", &output)
        })?
    }
}

/// Asserts that a program ended well, in the words that it wrote if it did not.
///
/// # Errors
/// It did not.
pub fn succeeded(what: &str, output: &Output) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{what}: {said}");
    Ok(())
}

/// Writes a kernel setting of the calling thread's network namespace.
///
/// # Errors
/// The setting does not exist or does not take the value.
pub fn set(name: &str, value: &str) -> anyhow::Result<()> {
    std::fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("setting {name} to {value}"))
}
