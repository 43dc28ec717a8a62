//! A real API server for a test, with our definitions, and controllers that run against it under the shipped rights.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure.

use crate::rights;
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use policy_model::Resource;
use policy_model_datastore_kube::schema::{self, CUSTOM_KINDS};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long anything may take that a test waits for; only what fails takes so long.
const DEADLINE: Duration = Duration::from_secs(180);
/// The namespace of the controllers.
pub(crate) const NAMESPACE: &str = "manx-system";
/// Where our objects are.
pub(crate) const OURS: &str = "/apis/projectcalico.org/v3";

/// An API server with an etcd of its own. Both end with this value, or with the test's process.
pub(crate) struct Bed {
    script: Child,
    dir: tempfile::TempDir,
    pub(crate) client: Client,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/kube/apiserver.sh")
}

impl Bed {
    /// Starts an API server with our definitions and the controllers' rights. Builds its programs where they are missing.
    pub(crate) async fn start() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("audit.yaml");
        std::fs::write(
            &policy,
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n",
        )
        .unwrap();
        let mut script = Command::new(script())
            .arg("run")
            .arg(dir.path().join("server"))
            .arg(format!("--audit-policy-file={}", policy.display()))
            .arg(format!(
                "--audit-log-path={}",
                dir.path().join("audit.log").display()
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("e2e/kube/apiserver.sh can be started");
        let mut line = String::new();
        BufReader::new(script.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(!line.is_empty(), "the API server did not start: see above");
        let read = Kubeconfig::read_from(dir.path().join("server/kubeconfig")).unwrap();
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
            .await
            .unwrap();
        let bed = Bed {
            script,
            dir,
            client: Client::try_from(config).unwrap(),
        };
        for namespace in [NAMESPACE, "shop"] {
            bed.put("/api/v1/namespaces", json!({ "metadata": { "name": namespace } }))
                .await;
        }
        rights::grant(&bed).await;
        bed
    }

    /// Defines our kinds.
    pub(crate) async fn define(&self) {
        for kind in CUSTOM_KINDS {
            let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            self.put(path, schema::definition(kind)).await;
        }
        for kind in CUSTOM_KINDS {
            let path = format!("{OURS}/{}", kind.plural());
            until(&path, async || self.get(&path).await.is_some()).await;
        }
    }

    /// A request as the administrator; the status and the answer.
    pub(crate) async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let kind = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let bytes = body
            .map(|body| serde_json::to_vec(body).unwrap())
            .unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(bytes.into())
            .unwrap();
        let answer = self.client.send(request).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect_bytes().await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// What is there, if something is.
    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        let (status, answer) = self.request(Method::GET, path, None).await;
        (status == 200).then_some(answer)
    }

    /// Makes an object.
    pub(crate) async fn put(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.request(Method::POST, path, Some(&body)).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// Makes an object of ours.
    pub(crate) async fn store(&self, resource: impl Into<Resource>) -> Value {
        let resource = resource.into();
        let path = format!("{OURS}/{}", resource.kind().plural());
        self.put(&path, resource.to_value()).await
    }

    /// Changes an object.
    pub(crate) async fn change(&self, path: &str, body: Value) {
        let (status, answer) = self.request(Method::PATCH, path, Some(&body)).await;
        assert_eq!(status, 200, "{path}: {answer}");
    }

    /// Removes an object, at once where nothing holds it.
    pub(crate) async fn remove(&self, path: &str) {
        let now = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0 });
        let (status, answer) = self.request(Method::DELETE, path, Some(&now)).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
    }

    /// A node as its kubelet reports it.
    pub(crate) async fn node(&self, name: &str, address: &str, ranges: &[&str]) {
        let mut spec = json!({});
        if let Some(first) = ranges.first() {
            spec = json!({ "podCIDR": first, "podCIDRs": ranges });
        }
        let node = json!({ "metadata": { "name": name }, "spec": spec });
        self.put("/api/v1/nodes", node).await;
        let status = json!({ "status": {
            "addresses": [{ "type": "InternalIP", "address": address }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        } });
        self.change(&format!("/api/v1/nodes/{name}/status"), status).await;
    }

    /// A pod on a node, running with an address where one is given; returns its identity.
    pub(crate) async fn pod(&self, name: &str, node: &str, address: Option<&str>) -> String {
        let pod = json!({
            "metadata": { "name": name },
            "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "x" }] },
        });
        let made = self.put("/api/v1/namespaces/shop/pods", pod).await;
        if let Some(address) = address {
            let status = json!({ "status": {
                "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
            } });
            self.change(&format!("/api/v1/namespaces/shop/pods/{name}/status"), status)
                .await;
        }
        made["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Sends a signal to the API server.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = std::fs::read_to_string(self.dir.path().join("server/apiserver.pid")).unwrap();
        kill(Pid::from_raw(pid.trim().parse().unwrap()), signal).unwrap();
    }

    /// Everything that a user did to the API server: verb, path and status code.
    pub(crate) fn deeds(&self, user: &str) -> Vec<Deed> {
        let text = std::fs::read_to_string(self.dir.path().join("audit.log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event["user"]["username"] == user)
            .map(|event| Deed {
                verb: event["verb"].as_str().unwrap_or_default().to_owned(),
                path: event["requestURI"].as_str().unwrap_or_default().to_owned(),
                code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
            })
            .collect()
    }

    /// Makes a service account; says whether it was absent.
    pub(crate) async fn account(&self, name: &str) -> bool {
        let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        if self.get(&format!("{accounts}/{name}")).await.is_some() {
            return false;
        }
        self.put(&accounts, json!({ "metadata": { "name": name } })).await;
        true
    }

    /// A configuration with the token of a service account.
    pub(crate) async fn kubeconfig(&self, name: &str) -> PathBuf {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}/token");
        let asked = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
        let answer = self.put(&path, asked).await;
        let token = answer["status"]["token"].as_str().unwrap();
        let own = self.dir.path().join(format!("{name}.kubeconfig"));
        let admin = std::fs::read_to_string(self.dir.path().join("server/kubeconfig")).unwrap();
        let users = admin.lines().find(|line| line.starts_with("users:")).unwrap();
        let of_account = format!("users: [{{name: admin, user: {{token: \"{token}\"}}}}]");
        std::fs::write(&own, admin.replace(users, &of_account)).unwrap();
        own
    }

    /// Whether a service account has a right. The API server is asked, because it follows roles and bindings by watches.
    pub(crate) async fn may(&self, account: &str, right: &rights::Right) -> bool {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": format!("system:serviceaccount:{NAMESPACE}:{account}"),
                "resourceAttributes": right.attributes(),
            },
        });
        let answer = self
            .put("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
            .await;
        answer["status"]["allowed"] == true
    }

    /// Waits until what a service account was given holds: what starts too early is refused, and says so.
    async fn until_granted(&self, account: &str, of: &[rights::Right]) {
        for right in of {
            until(&format!("{account} has the right {right:?}"), async || {
                self.may(account, right).await
            })
            .await;
        }
    }

    /// An uninstall that has not started, under a service account of its own.
    pub(crate) async fn uninstall(&self, name: &str) -> Command {
        if self.account(name).await {
            rights::bind_uninstall(self, name).await;
        }
        self.until_granted(name, &rights::OF_AN_UNINSTALL).await;
        let mut command = Command::new(env!("CARGO_BIN_EXE_manx-controller"));
        command
            .env_clear()
            .env("KUBECONFIG", self.kubeconfig(name).await)
            .env("POD_NAMESPACE", NAMESPACE)
            .arg("uninstall");
        command
    }

    /// A controller that has not started, under a service account of its own.
    pub(crate) async fn controller(&self, name: &str) -> Command {
        if self.account(name).await {
            rights::bind(self, name).await;
        }
        self.until_granted(name, &rights::OF_A_CONTROLLER).await;
        let own = self.kubeconfig(name).await;
        let mut command = Command::new(env!("CARGO_BIN_EXE_manx-controller"));
        command
            .env_clear()
            .env("KUBECONFIG", own)
            .env("DATASTORE_TYPE", "kubernetes")
            .env("POD_NAMESPACE", NAMESPACE)
            .env("POD_NAME", name)
            .env("METRICS_HOST", "127.0.0.1")
            .env("RECONCILER_PERIOD", "1s")
            // Short, for the sake of the tests that wait for an end; and longer than a busy machine leaves a process out.
            .args(["--leader-elect-lease-duration", "10s"])
            .args(["--leader-elect-renew-deadline", "8s"])
            .args(["--leader-elect-retry-period", "300ms"]);
        command
    }

    /// Who holds the lease.
    pub(crate) async fn holder(&self) -> String {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/manx-controller");
        let lease = self.get(&path).await.unwrap_or_default();
        lease["spec"]["holderIdentity"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // The script ends everything when its input does.
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

/// One request, as the API server noted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    pub(crate) verb: String,
    pub(crate) path: String,
    pub(crate) code: u64,
}

impl Deed {
    /// Whether it changed something other than the lease.
    pub(crate) fn is_work(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch") && !self.path.contains("/leases")
    }
}

/// A controller that runs, and ends with this value.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    port: u16,
}

impl Running {
    /// Starts one; its log goes to a file.
    pub(crate) fn start(bed: &Bed, mut command: Command, name: &str) -> Running {
        let log = bed.dir.path().join(format!("{name}.log"));
        let port = free_port();
        let child = command
            .args(["--metrics-port", &port.to_string()])
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Running { child, log, port }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end, and tells its status.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The status and the text of one of its pages.
    pub(crate) fn page(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let code = text.split(' ').nth(1)?.parse().ok()?;
        let (_, body) = text.split_once("\r\n\r\n")?;
        Some((code, body.to_owned()))
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.page("/readiness").is_some_and(|(code, _)| code == 200)
    }

    pub(crate) fn leads(&self) -> bool {
        let page = self.page("/metrics");
        page.is_some_and(|(_, text)| text.contains("\nmanx_controller_is_leader 1\n"))
    }

    /// Whether the page of figures has all these lines.
    pub(crate) fn tells(&self, figures: &[&str]) -> bool {
        let Some((_, text)) = self.page("/metrics") else {
            return false;
        };
        figures
            .iter()
            .all(|figure| text.lines().any(|line| line == *figure))
    }

    /// What `check-status` says: its status and its words.
    pub(crate) fn check_status(&self, flag: &str) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_manx-controller"))
            .args(["check-status", flag, "--metrics-port", &self.port.to_string()])
            .env_clear()
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
            eprintln!("--- figures\n{}", self.page("/metrics").unwrap_or_default().1);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port for a program that starts in a moment. It is none of those that the kernel gives to clients: one of them may
/// be a client's again before the program has it. It is asked for and not bound: a program that another test starts begins
/// with what is open here, and would have it for a moment longer.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id() % 9_000;
    loop {
        let offset = (own + NEXT.fetch_add(1, Ordering::Relaxed)) % 9_000;
        let port = 11_000 + u16::try_from(offset).unwrap();
        if TcpStream::connect(("127.0.0.1", port)).is_err() {
            return port;
        }
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let patience = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(DEADLINE, patience).await.is_err() {
        panic!("still not so: {what}");
    }
}
