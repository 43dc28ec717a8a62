//! A real API server for a test, and objects in it, made by requests of the test's own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)] // In a test, a panic is the failure.

use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use policy_model::{Key, Kind};
use policy_model_datastore::{Versioned, Watch, WatchEvent};
use policy_model_datastore_kube::{KubeStore, Settings, schema};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long anything may take that a test waits for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

/// An API server with an etcd of its own. Both end with this value, or with the test's process.
pub(crate) struct ApiServer {
    script: Child,
    dir: tempfile::TempDir,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../e2e/kube/apiserver.sh")
}

impl ApiServer {
    /// Starts one, with flags beside its usual ones. Builds its programs first where they are missing.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut script = Command::new(script())
            .arg("run")
            .arg(dir.path().join("server"))
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("e2e/kube/apiserver.sh can be started");
        let mut line = String::new();
        let output = script.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the API server did not start: see above");
        ApiServer { script, dir }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("server")
    }

    /// Stops the API server and starts it again with other flags, on the same data.
    pub(crate) fn restart(&self, flags: &[&str]) {
        let done = Command::new(script())
            .arg("restart")
            .arg(self.folder())
            .args(flags)
            .status()
            .unwrap();
        assert!(done.success(), "the API server starts again");
    }

    /// Sends a signal (`STOP`, `CONT`, `KILL`) to the API server.
    pub(crate) fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(self.folder().join("apiserver.pid")).unwrap();
        let done = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(pid.trim())
            .status()
            .unwrap();
        assert!(done.success(), "kill -{name}");
    }

    /// The administrator's way to it.
    pub(crate) async fn config(&self) -> Config {
        let read = Kubeconfig::read_from(self.folder().join("kubeconfig")).unwrap();
        Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
            .await
            .unwrap()
    }

    /// The administrator's client.
    pub(crate) async fn client(&self) -> Client {
        Client::try_from(self.config().await).unwrap()
    }

    /// A store on it.
    pub(crate) async fn store(&self, settings: Settings) -> KubeStore {
        KubeStore::with_config(self.config().await, settings).unwrap()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // The script ends everything when its input does.
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

/// A request as the administrator; the status and the answer.
pub(crate) async fn request(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> (u16, Value) {
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
    let answer = client.send(request).await.unwrap();
    let status = answer.status().as_u16();
    let bytes = answer.into_body().collect_bytes().await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// Makes an object, or replaces what is there under its name.
pub(crate) async fn put(client: &Client, path: &str, body: Value) -> Value {
    let (status, answer) = request(client, Method::POST, path, Some(&body)).await;
    if status == 409 {
        let at = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
        let (status, answer) = request(client, Method::PATCH, &at, Some(&body)).await;
        assert_eq!(status, 200, "{at}: {answer}");
        return answer;
    }
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
    answer
}

/// Changes an object.
pub(crate) async fn change(client: &Client, path: &str, body: Value) -> Value {
    let (status, answer) = request(client, Method::PATCH, path, Some(&body)).await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// Removes an object at once.
pub(crate) async fn remove(client: &Client, path: &str) {
    let now = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0 });
    let (status, answer) = request(client, Method::DELETE, path, Some(&now)).await;
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
}

/// Waits until a request brings this status.
pub(crate) async fn until_status(client: &Client, path: &str, wanted: u16) {
    until(&format!("{path} answers {wanted}"), async || {
        request(client, Method::GET, path, None).await.0 == wanted
    })
    .await;
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

/// Defines our kinds.
pub(crate) async fn define(client: &Client, kinds: impl IntoIterator<Item = Kind>) {
    let kinds: Vec<Kind> = kinds.into_iter().collect();
    for kind in &kinds {
        put(client, DEFINITIONS, schema::definition(*kind)).await;
    }
    for kind in kinds {
        until_status(
            client,
            &format!("/apis/projectcalico.org/v3/{}", kind.plural()),
            200,
        )
        .await;
    }
}

/// Where definitions are.
pub(crate) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Makes a namespace.
pub(crate) async fn namespace(client: &Client, name: &str, labels: Value) {
    put(
        client,
        "/api/v1/namespaces",
        json!({ "metadata": { "name": name, "labels": labels } }),
    )
    .await;
}

/// Patience for a test: what takes minutes in a cluster takes moments here. Only how long an answer may take is as long as
/// ever: it is an error where it is exceeded, and a busy machine is slow.
pub(crate) fn quick() -> Settings {
    Settings {
        request_timeout: DEADLINE,
        absence: Duration::from_millis(100),
        pauses: (Duration::from_millis(20), Duration::from_millis(200)),
        ..Settings::default()
    }
}

/// Waits for the next event of a key.
pub(crate) async fn next_of(watch: &mut Watch, key: &Key) -> WatchEvent {
    let patience = async {
        loop {
            let event = watch.next().await.unwrap();
            if event.key() == *key {
                return event;
            }
        }
    };
    tokio::time::timeout(DEADLINE, patience)
        .await
        .expect("an event comes")
}

pub(crate) fn keys(items: &[Versioned]) -> Vec<String> {
    items.iter().map(|item| item.key().to_string()).collect()
}
