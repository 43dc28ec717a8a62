//! A node: a network namespace on the cluster's segment, and its felix as a process of its own.

use super::process;
use super::server::ADDRESS;
use crate::bed::succeeded;
use anyhow::Context;
use dataplane_netlink::{NetworkNamespace, Rtnetlink, links};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The cluster's segment, on which all nodes have their addresses.
const SWITCH: &str = "bench-nodes";
/// Length of its network.
const LENGTH: u8 = 16;
/// How often felix is asked whether it is ready.
const STEP: Duration = Duration::from_millis(10);
/// How long felix may take to become ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// What follows the end of pods' interfaces is over by then.
const REST: Duration = Duration::from_millis(500);
/// How long felix may take to end.
const FAREWELL: Duration = Duration::from_secs(15);
/// Where felix answers.
const HEALTH: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9099);
/// How many of its last lines are shown of a log.
const LAST_LINES: usize = 25;

/// Makes the segment, with the API server on it, in the calling thread's namespace.
pub(super) fn make_segment() -> anyhow::Result<()> {
    ip("link set lo up")?;
    ip(&format!("link add {SWITCH} type bridge"))?;
    ip(&format!("addr add {ADDRESS}/{LENGTH} dev {SWITCH}"))?;
    ip(&format!("link set {SWITCH} up"))
}

/// Removes the segment.
pub(super) fn remove_segment() {
    // What is left goes with this process's namespace.
    let _ = ip(&format!("link del {SWITCH}"));
}

/// How a felix started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// From the process to its word that it is ready.
    pub(super) took: Duration,
    /// Processor time until then.
    pub(super) processor: Duration,
}

/// A node. Its felix ends with it.
pub(super) struct Node {
    /// Its network namespace.
    pub(super) namespace: NetworkNamespace,
    name: String,
    folder: PathBuf,
    programs: PathBuf,
    kubeconfig: PathBuf,
    felix: Option<Child>,
}

impl Node {
    /// Makes one; `programs` has the programs under their names.
    pub(super) fn make(
        name: &str,
        address: Ipv4Addr,
        below: &Path,
        programs: &Path,
        kubeconfig: PathBuf,
    ) -> anyhow::Result<Self> {
        let namespace = NetworkNamespace::anonymous()?;
        let link = link_of(name);
        let place = place(&namespace);
        ip(&format!("link add {link} type veth peer name eth0 netns {place}"))?;
        ip(&format!("link set {link} master {SWITCH} up"))?;
        namespace.run(|| -> anyhow::Result<()> {
            ip("link set lo up")?;
            ip(&format!("addr add {address}/{LENGTH} dev eth0"))?;
            ip("link set eth0 up")
        })??;
        let folder = below.join(name);
        for part in ["state", "run", "net.d"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        Ok(Node {
            namespace,
            name: name.to_owned(),
            folder,
            programs: programs.to_owned(),
            kubeconfig,
            felix: None,
        })
    }

    /// The socket on which the plugin finds felix.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("run/cni.sock")
    }

    /// Process number of felix.
    pub(super) fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.felix.as_ref().context("felix does not run")?.id())
    }

    /// Starts felix as the chart does, with no capabilities but its own two, and waits until it is ready.
    pub(super) fn start(&mut self) -> anyhow::Result<Start> {
        self.stop()?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("felix.log"))?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", place(&self.namespace)))
            // It ends with the thread that starts it, whatever ends that.
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg("--bounding-set=-all,+net_admin,+net_raw")
            .arg(self.programs.join("felix"))
            .arg("--config-file")
            .arg(self.folder.join("felix.cfg"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("DATASTORE_TYPE", "kubernetes")
            .env("WAIT_FOR_DATASTORE", "true")
            .env("NODENAME", &self.name)
            .env("NAMESPACE", super::server::NAMESPACE)
            .env("CALICO_NETWORKING_BACKEND", "vxlan")
            .env("CNI_CONF_DIR", self.folder.join("net.d"))
            .env("CNI_CONF_NAME", "10-calico.conflist")
            .env("CNI_MTU", "0")
            .env("IP", "autodetect")
            .env("IP_AUTODETECTION_METHOD", "kubernetes-internal-ip")
            .env("IP6", "none")
            .env("FELIX_STATEDIR", self.folder.join("state"))
            .env("FELIX_CNISOCKETPATH", self.socket())
            .env("FELIX_LOGFILEPATH", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let begun = Instant::now();
        let pid = {
            let child = command.spawn().context("starting felix by nsenter and setpriv")?;
            self.felix.insert(child).id()
        };
        let took = self.wait_until_ready(begun)?;
        Ok(Start {
            took,
            processor: process::processor_time(pid)?,
        })
    }

    fn wait_until_ready(&mut self, begun: Instant) -> anyhow::Result<Duration> {
        let asked = self.namespace.run(|| {
            while begun.elapsed() < PATIENCE {
                if is_ready() {
                    return Some(begun.elapsed());
                }
                std::thread::sleep(STEP);
            }
            None
        })?;
        asked.with_context(|| format!("the felix of {} is not ready in {PATIENCE:?}", self.name))
    }

    /// Ends felix as a kubelet does. What is in force stays.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut felix) = self.felix.take() else {
            return Ok(());
        };
        kill(pid_of(&felix), Signal::SIGTERM).context("telling felix to end")?;
        let begun = Instant::now();
        while felix.try_wait()?.is_none() {
            if begun.elapsed() > FAREWELL {
                let _ = felix.kill();
                felix.wait()?;
                anyhow::bail!("felix did not end in {FAREWELL:?}");
            }
            std::thread::sleep(STEP);
        }
        Ok(())
    }

    /// Waits until the interfaces of pods that went are gone, and a little longer, for what follows them.
    pub(super) fn rest(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.namespace.run(|| {
            let mut netlink = Rtnetlink::open()?;
            while links::list(&mut netlink)?
                .iter()
                .any(|link| link.is_veth() && link.name.as_str().starts_with("cali"))
            {
                anyhow::ensure!(
                    begun.elapsed() < PATIENCE,
                    "interfaces of pods that went are still there"
                );
                std::thread::sleep(STEP);
            }
            anyhow::Ok(())
        })??;
        std::thread::sleep(REST);
        Ok(())
    }

    /// Removes what felix put into force, as a reboot would, but not the pods.
    pub(super) fn forget_table(&self) -> anyhow::Result<()> {
        self.namespace.run(|| {
            let output = Command::new("nft")
                .args(["delete", "table", "inet", "manx"])
                .output()
                .context("running the program 'nft' (package nftables)")?;
            succeeded("nft", &output)
        })?
    }

    /// Shows how felix's log ends.
    pub(super) fn show_log(&self) {
        let path = self.folder.join("felix.log");
        eprintln!("--- {}", path.display());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(LAST_LINES)) {
            eprintln!("{line}");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut felix) = self.felix.take() {
            // It may have ended by itself, which is as good.
            let _ = felix.kill();
            let _ = felix.wait();
        }
        // The namespace goes a little later than its last handle, and its link with it; the name may be wanted before.
        let _ = ip(&format!("link del {}", link_of(&self.name)));
    }
}

/// Name of the node's link to the segment.
fn link_of(node: &str) -> String {
    format!("b-{node}")
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// The path by which other processes find a namespace.
pub(super) fn place(namespace: &NetworkNamespace) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

/// Asks felix, in the calling thread's namespace, whether it is ready.
fn is_ready() -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&HEALTH, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /readiness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| is_good(&answer))
}

/// Whether an answer's status says that all is well.
fn is_good(answer: &str) -> bool {
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    status.len() == 3 && status.starts_with('2')
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .context("running the program 'ip' (package iproute2)")?;
    succeeded(&format!("ip {arguments}"), &output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_is_good() {
        assert!(is_good("HTTP/1.1 200 OK\r\n\r\n"));
        assert!(is_good("HTTP/1.1 204 No Content\r\n\r\n"));
        for answer in ["", "HTTP/1.1 503 Service Unavailable\r\n", "HTTP/1.1 2\r\n"] {
            assert!(!is_good(answer), "{answer:?}");
        }
    }
}
