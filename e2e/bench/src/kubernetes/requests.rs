//! Requests to an API server as its administrator, one after the other or many at once.

use super::objects::Making;
use anyhow::Context;
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// The longest that one request may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many requests are under way at once: enough to keep an API server busy, few enough not to be turned away.
const AT_ONCE: usize = 48;
const JSON: &str = "application/json";
const PATCH: &str = "application/merge-patch+json";

/// The administrator of a cluster.
pub(super) struct Administrator {
    runtime: Runtime,
    client: Client,
}

/// An answer to a request.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status code.
    pub(super) status: u16,
    /// All of its body.
    pub(super) bytes: Vec<u8>,
}

impl Answer {
    /// The body as JSON, if the request succeeded.
    pub(super) fn success(self, what: &str) -> anyhow::Result<Value> {
        anyhow::ensure!(
            (200..300).contains(&self.status),
            "{what}: the API server answers {}: {}",
            self.status,
            String::from_utf8_lossy(&self.bytes)
        );
        serde_json::from_slice(&self.bytes).with_context(|| format!("{what}: reading the answer"))
    }
}

impl Administrator {
    /// Finds the way by a configuration for kubectl.
    pub(super) fn of(kubeconfig: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let client = runtime.block_on(async {
            let read = Kubeconfig::read_from(kubeconfig)?;
            let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
            config.default_retry = false;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Administrator { runtime, client })
    }

    /// Sends a request and waits for the answer.
    pub(super) fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let accept = JSON;
        self.runtime
            .block_on(send(&self.client, method, path, body, accept))
    }

    /// Reads a path in the form that `accept` names.
    pub(super) fn read(&self, path: &str, accept: &str) -> anyhow::Result<Answer> {
        self.runtime
            .block_on(send(&self.client, Method::GET, path, None, accept))
    }

    /// Makes one object and returns it.
    pub(super) fn make(&self, making: &Making) -> anyhow::Result<Value> {
        self.runtime.block_on(make(&self.client, making))
    }

    /// Changes an object.
    pub(super) fn change(&self, path: &str, patch: &Value) -> anyhow::Result<()> {
        let answer = self.ask(Method::PATCH, path, Some(patch))?;
        answer.success(path).map(drop)
    }

    /// Makes many objects, some at once, and returns their identities in the order of the objects.
    pub(super) fn make_all(
        &self,
        makings: impl ExactSizeIterator<Item = Making>,
    ) -> anyhow::Result<Vec<String>> {
        let mut uids = vec![String::new(); makings.len()];
        self.runtime.block_on(async {
            let mut under_way = JoinSet::new();
            let mut makings = makings.enumerate();
            loop {
                while under_way.len() < AT_ONCE {
                    let Some((n, making)) = makings.next() else { break };
                    let client = self.client.clone();
                    under_way.spawn(async move { anyhow::Ok((n, make(&client, &making).await?)) });
                }
                let Some(made) = under_way.join_next().await else {
                    break;
                };
                let (n, object) = made??;
                let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
                if let (Some(place), Some(uid)) = (uids.get_mut(n), uid) {
                    uid.clone_into(place);
                }
            }
            anyhow::Ok(())
        })?;
        Ok(uids)
    }

    /// Follows a watch until `done` says that an object of it was the last that is waited for.
    pub(super) fn watch_until(
        &self,
        path: &str,
        patience: Duration,
        mut done: impl FnMut(&Value) -> bool,
    ) -> anyhow::Result<()> {
        let follow = async {
            let request = Request::get(path)
                .header("accept", JSON)
                .body(Vec::new().into())?;
            let mut body = self.client.send(request).await?.into_body();
            let mut text: Vec<u8> = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame?.into_data() else { continue };
                text.extend_from_slice(&data);
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    if done(&serde_json::from_slice(&line)?) {
                        return Ok(());
                    }
                }
            }
            anyhow::bail!("the watch of {path} ended")
        };
        let bounded = async { tokio::time::timeout(patience, follow).await };
        let outcome = self.runtime.block_on(bounded);
        outcome.with_context(|| format!("waited {patience:?} for {path}"))?
    }
}

/// Makes an object and, where somebody else would report it, its status.
async fn make(client: &Client, making: &Making) -> anyhow::Result<Value> {
    let answer = send(client, Method::POST, &making.path, Some(&making.object), JSON).await?;
    let made = answer.success(&making.path)?;
    if let (Some(status), Some(name)) = (
        &making.status,
        made.pointer("/metadata/name").and_then(Value::as_str),
    ) {
        let path = format!("{}/{name}/status", making.path);
        send(client, Method::PATCH, &path, Some(status), JSON)
            .await?
            .success(&path)?;
    }
    Ok(made)
}

async fn send(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
    accept: &str,
) -> anyhow::Result<Answer> {
    let kind = if method == Method::PATCH { PATCH } else { JSON };
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .header("accept", accept)
        .body(body.into())?;
    let exchange = async {
        let answer = client.send(request).await?;
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await?.to_bytes().to_vec();
        anyhow::Ok(Answer { status, bytes })
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .with_context(|| format!("{path}: no answer in {PATIENCE:?}"))?
}
