//! The node with its pods, and the real programs that serve it.

use super::manifests::{self, NAMESPACE, NODE, PODS};
use crate::bed::set;
use anyhow::Context;
use dataplane_netlink::NetworkNamespace;
use felix_cni::{AttachmentKey, Command as Ask, Request, call};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long the programs may take to connect a pod.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many of its last lines are shown of a log.
const LAST_LINES: usize = 15;

/// The namespaces of the node and its pods.
#[derive(Debug)]
pub(super) struct Bed {
    node: NetworkNamespace,
    pods: Vec<NetworkNamespace>,
}

impl Bed {
    pub(super) fn pod(&self, n: usize) -> anyhow::Result<&NetworkNamespace> {
        self.pods.get(n).context("a pod of the node")
    }
}

/// A process that ends with its owner.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Controller and felix at work.
#[derive(Debug)]
pub(super) struct Programs {
    bed: Bed,
    logs: Vec<PathBuf>,
    _running: Vec<Running>,
}

impl Programs {
    /// Starts them and connects the pods.
    pub(super) fn start(folder: &Path, manifests: &Path) -> anyhow::Result<Self> {
        let bed = Bed {
            node: NetworkNamespace::anonymous()?,
            pods: (0..PODS)
                .map(|_| NetworkNamespace::anonymous())
                .collect::<Result<_, _>>()?,
        };
        let (datastore, socket) = (folder.join("datastore"), folder.join("cni.sock"));
        let mut controller = Command::new(program("manx-controller")?);
        controller
            .arg("--manifests")
            .arg(manifests)
            .arg("--datastore")
            .arg(&datastore);
        controller.args(["--assign-nodes", "--metrics-port", "0"]);
        let mut felix = Command::new(program("felix")?);
        felix
            .arg("--config-file")
            .arg(folder.join("felix.cfg"))
            .env("FELIX_FELIXHOSTNAME", NODE)
            .env("FELIX_DATASTOREPATH", &datastore)
            .env("FELIX_STATEDIR", folder.join("state"))
            .env("FELIX_CNISOCKETPATH", &socket)
            .env("FELIX_LOGFILEPATH", "none");
        let logs: Vec<PathBuf> = ["controller.log", "felix.log"]
            .map(|name| folder.join(name))
            .into();
        std::fs::create_dir_all(folder.join("state"))?;
        let mut running = Vec::new();
        for (command, log) in [&mut controller, &mut felix].into_iter().zip(&logs) {
            let log = File::create(log)?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            let started = bed.node.run(|| -> anyhow::Result<Child> {
                set("net/ipv4/ip_forward", "1")?;
                command
                    .spawn()
                    .with_context(|| format!("starting {}", command.get_program().display()))
            })??;
            running.push(Running(started));
        }
        let programs = Programs {
            bed,
            logs,
            _running: running,
        };
        if let Err(error) = programs.connect(&socket) {
            programs.show_logs();
            return Err(error);
        }
        Ok(programs)
    }

    fn connect(&self, socket: &Path) -> anyhow::Result<()> {
        for (n, pod) in self.bed.pods.iter().enumerate() {
            let name = manifests::pod(n);
            let request = Request::new(Ask::Add {
                key: AttachmentKey {
                    network: "bench".into(),
                    container_id: name.clone(),
                    interface: "eth0".into(),
                },
                // A namespace without a name is reached through the handle that keeps it.
                netns: format!("/proc/{}/fd/{}", std::process::id(), pod.as_raw_fd()),
                namespace: NAMESPACE.into(),
                pod: name.clone(),
                uid: String::new(),
                mtu: 0,
            });
            call(socket, &request, PATIENCE).with_context(|| format!("connecting {name}"))?;
        }
        Ok(())
    }

    pub(super) fn node(&self) -> &Bed {
        &self.bed
    }

    /// Shows how the logs end.
    pub(super) fn show_logs(&self) {
        for log in &self.logs {
            eprintln!("--- {}", log.display());
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines
                .iter()
                .skip(lines.len().saturating_sub(LAST_LINES))
                .for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A program of ours, beside this one.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("finding this program")?;
    let path = here.with_file_name(name);
    anyhow::ensure!(
        path.exists(),
        "the program {name} is not beside {}: build it too",
        here.display()
    );
    Ok(path)
}
