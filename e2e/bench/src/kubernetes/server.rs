//! A real API server with its etcd, and Manx's chart installed in it: definitions, roles, admission policies.

use super::objects::Making;
use super::requests::Administrator;
use crate::bed::succeeded;
use anyhow::Context;
use http::Method;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where Manx is installed.
pub(super) const NAMESPACE: &str = "manx-system";
/// The address at which nodes reach the API server.
pub(super) const ADDRESS: &str = "10.92.0.1";
/// How long a definition may take to come into force.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running API server. It and its etcd end with this value, or with this process.
pub(super) struct Server {
    script: Child,
    folder: PathBuf,
    /// Its administrator.
    pub(super) administrator: Administrator,
}

/// The root of the work tree.
pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Server {
    /// Starts one in the calling thread's network namespace, and installs the chart.
    pub(super) fn start(below: &Path) -> anyhow::Result<Self> {
        let folder = below.join("server");
        let mut script = Command::new(root().join("e2e/kube/apiserver.sh"))
            .arg("run")
            .arg(&folder)
            .arg("--bind-address=0.0.0.0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting e2e/kube/apiserver.sh")?;
        let mut line = String::new();
        let output = script.stdout.as_mut().context("the script's output")?;
        BufReader::new(output).read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "the API server did not start: see above");
        let administrator = Administrator::of(&folder.join("kubeconfig"))?;
        let server = Server {
            script,
            folder,
            administrator,
        };
        server.install(below)?;
        Ok(server)
    }

    fn install(&self, below: &Path) -> anyhow::Result<()> {
        let path = "/api/v1/namespaces";
        let body = json!({ "metadata": { "name": NAMESPACE } });
        let answer = self.administrator.ask(Method::POST, path, Some(&body))?;
        answer.success(path)?;
        let helm = tool("helm")?;
        let output = Command::new(helm)
            .args(["install", "manx"])
            .arg(root().join("charts/manx"))
            .args(["--namespace", NAMESPACE, "--timeout", "60s"])
            .env("KUBECONFIG", self.folder.join("kubeconfig"))
            .env("HOME", below)
            .output()
            .context("starting helm")?;
        succeeded("helm install", &output)?;
        let begun = Instant::now();
        let path = format!("{}/ippools", super::objects::OURS);
        while self.administrator.ask(Method::GET, &path, None)?.status != 200 {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "{path} does not come");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Writes the configuration of a node's agent, with a token that Kubernetes gives to its pod, and returns its path.
    pub(super) fn agent_of(&self, node: &str) -> anyhow::Result<PathBuf> {
        let pod = Making {
            path: format!("/api/v1/namespaces/{NAMESPACE}/pods"),
            object: json!({
                "metadata": { "name": format!("agent-{node}"), "labels": { "app.kubernetes.io/name": "manx-node" } },
                "spec": {
                    "nodeName": node, "serviceAccountName": "manx-node", "hostNetwork": true,
                    "containers": [{ "name": "felix", "image": "manx" }],
                },
            }),
            status: None,
        };
        let made = self.administrator.make(&pod)?;
        let asked = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "boundObjectRef": {
                "apiVersion": "v1", "kind": "Pod", "name": format!("agent-{node}"), "uid": made["metadata"]["uid"],
            } },
        });
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/manx-node/token");
        let answer = self.administrator.ask(Method::POST, &path, Some(&asked))?;
        let token = answer.success(&path)?["status"]["token"].clone();
        let port = std::fs::read_to_string(self.folder.join("port")).context("reading the server's port")?;
        let configuration = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "agent",
            "clusters": [{ "name": "bench", "cluster": {
                "server": format!("https://{ADDRESS}:{}", port.trim()), "tls-server-name": "localhost",
                "certificate-authority": self.folder.join("ca.crt"),
            } }],
            "users": [{ "name": "agent", "user": { "token": token } }],
            "contexts": [{ "name": "agent", "context": { "cluster": "bench", "user": "agent" } }],
        });
        let path = self.folder.join(format!("{node}.kubeconfig"));
        std::fs::write(&path, configuration.to_string())?;
        Ok(path)
    }

    /// Process numbers of the API server and of its etcd.
    pub(super) fn processes(&self) -> anyhow::Result<Vec<u32>> {
        ["apiserver.pid", "etcd.pid"]
            .iter()
            .map(|name| {
                let text = std::fs::read_to_string(self.folder.join(name))?;
                text.trim().parse().with_context(|| format!("reading {name}"))
            })
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The script ends everything when its input does.
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

/// A tool of the suites, which is built where it is missing.
fn tool(name: &str) -> anyhow::Result<PathBuf> {
    let output = Command::new(root().join("e2e/kube/build.sh"))
        .args(["--tools", name])
        .stderr(Stdio::inherit())
        .output()
        .context("starting e2e/kube/build.sh")?;
    anyhow::ensure!(output.status.success(), "{name} is not there");
    let text = String::from_utf8(output.stdout)?;
    Ok(PathBuf::from(text.trim()))
}
