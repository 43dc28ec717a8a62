//! A real API server for the commands, and objects in it.

use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use policy_model_datastore_kube::schema;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take that a test waits for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

/// The root of the work tree.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// An API server with an etcd of its own, and an administrator's client. Both servers end with this value, or with the
/// test's process.
pub(crate) struct Bed {
    script: Child,
    runtime: tokio::runtime::Runtime,
    client: Client,
    dir: tempfile::TempDir,
}

impl Bed {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut script = Command::new(root().join("e2e/kube/apiserver.sh"))
            .arg("run")
            .arg(dir.path().join("server"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("e2e/kube/apiserver.sh can be started");
        let mut line = String::new();
        let output = script.stdout.as_mut().expect("its output is a pipe");
        BufReader::new(output)
            .read_line(&mut line)
            .expect("its output can be read");
        assert!(!line.is_empty(), "the API server did not start: see above");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let kubeconfig = dir.path().join("server/kubeconfig");
        let client = runtime.block_on(async {
            let read = Kubeconfig::read_from(&kubeconfig).expect("the script wrote it");
            let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
            Client::try_from(config.expect("it leads to a server")).expect("its keys are good")
        });
        Bed {
            script,
            runtime,
            client,
            dir,
        }
    }

    /// A place for files of the test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The administrator's way in.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.path("server/kubeconfig")
    }

    /// The port of the API server.
    pub(crate) fn port(&self) -> String {
        let port = std::fs::read_to_string(self.path("server/port")).expect("the script wrote it");
        port.trim().to_owned()
    }

    /// The way in of somebody who may do nothing but what roles allow the user `nobody`.
    pub(crate) fn poor_kubeconfig(&self) -> PathBuf {
        let text = std::fs::read_to_string(self.kubeconfig()).expect("the script wrote it");
        let line = text
            .lines()
            .position(|line| line.starts_with("users:"))
            .expect("it has users");
        let mut lines: Vec<&str> = text.lines().collect();
        lines[line] = "users: [{name: admin, user: {token: nobody-token}}]";
        let path = self.path("poor.kubeconfig");
        std::fs::write(&path, lines.join("\n")).expect("writing a file");
        path
    }

    /// Sends a request as the administrator.
    pub(crate) fn request(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let kind = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let body = body
            .map(|body| serde_json::to_vec(body).expect("JSON"))
            .unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind);
        let request = request.body(body.into()).expect("a request");
        self.runtime.block_on(async {
            let answer = self.client.send(request).await.expect("the API server answers");
            let status = answer.status().as_u16();
            let bytes = answer.into_body().collect_bytes().await.expect("a whole answer");
            (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
        })
    }

    /// Makes an object, with its status where it has one. What is there already is what was wanted.
    pub(crate) fn make(&self, path: &str, object: &Value) {
        let (status, answer) = self.request(Method::POST, path, Some(object));
        assert!(matches!(status, 200..300 | 409), "{path}: {status} {answer}");
        if let Some(says) = object.get("status") {
            let name = object["metadata"]["name"].as_str().expect("a name");
            self.change(&format!("{path}/{name}/status"), &json!({ "status": says }));
        }
    }

    /// Changes an object.
    pub(crate) fn change(&self, path: &str, by: &Value) {
        let (status, answer) = self.request(Method::PATCH, path, Some(by));
        assert_eq!(status, 200, "{path}: {answer}");
    }

    /// Removes an object at once.
    pub(crate) fn remove(&self, path: &str) {
        let now = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0 });
        let (status, answer) = self.request(Method::DELETE, path, Some(&now));
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
    }

    /// Defines our kinds.
    pub(crate) fn define(&self) {
        for kind in schema::CUSTOM_KINDS {
            self.make(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                &schema::definition(kind),
            );
        }
        for kind in schema::CUSTOM_KINDS {
            let path = format!("/apis/projectcalico.org/v3/{}", kind.plural());
            until(&path, || self.request(Method::GET, &path, None).0 == 200);
        }
    }

    /// Runs `manx` as the administrator.
    pub(crate) fn manx(&self, arguments: &[&str]) -> Output {
        manx(Some(&self.kubeconfig()), arguments)
            .output()
            .expect("manx is built")
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // The script ends everything when its input does.
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

/// `manx` with an environment of the test's own.
pub(crate) fn manx(kubeconfig: Option<&Path>, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_manx"));
    command.env_clear().args(arguments);
    if let Some(kubeconfig) = kubeconfig {
        command.env("KUBECONFIG", kubeconfig);
    }
    command
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < DEADLINE, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
