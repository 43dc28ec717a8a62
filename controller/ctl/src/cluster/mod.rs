//! A live Kubernetes cluster, as the commands ask it: bounded requests that change nothing.
//!
//! What an account may not read is not an error of the whole: [`NoAnswer::Forbidden`] is told beside the rest, so that
//! a person with few rights still learns what these rights show.
//!
//! | room | what it does |
//! |---|---|
//! | [`objects`] | the objects that verdicts rest on, as a world |
//! | [`agents`] | agents' and controllers' pods, the lease |
//! | [`local`] | the agent of the container that this runs in |

pub mod agents;
pub mod local;
pub mod objects;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use policy_model_datastore_kube::{KubeStore, Settings};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use thiserror::Error;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many objects are asked for at once: what is not needed of them is dropped before the next are read, because this
/// may run within an agent's own limit of memory.
const PAGE: usize = 500;
/// How often a listing begins anew that the server no longer remembers.
const RESTARTS: usize = 3;

/// A cluster that can be asked.
pub struct Cluster {
    client: Client,
    /// The same as a datastore.
    pub store: KubeStore,
    /// Where its API server is.
    pub server: String,
    /// The namespace that the way to it names.
    pub namespace: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoAnswer {
    /// This account may not read it.
    #[error("this account may not read {what}")]
    Forbidden {
        /// What was asked for.
        what: String,
    },
    /// There is no such thing.
    #[error("there is no {what}")]
    Absent {
        /// What was asked for.
        what: String,
    },
    /// The API server knows too little by now to go on with a listing.
    #[error("the listing of {what} grew too old while it was read; try again")]
    Expired {
        /// What was asked for.
        what: String,
    },
    /// The API server failed, or cannot be reached.
    #[error("cannot read {what}: {why}")]
    Failed {
        /// What was asked for.
        what: String,
        /// Why.
        why: String,
    },
}

/// A page of a listing.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(default)]
    items: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

impl Cluster {
    /// Finds the API server: by a file, else as the environment says. Nothing is asked of it yet.
    ///
    /// # Errors
    /// Nothing leads to an API server, or what does cannot be read.
    pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Self> {
        let mut config = match kubeconfig {
            Some(file) => {
                let place = || format!("reading {}", file.display());
                let read = Kubeconfig::read_from(file).with_context(place)?;
                let found = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
                found.with_context(place)?
            }
            None => Config::infer().await.context(
                "finding the API server; --kubeconfig FILE or KUBECONFIG lead to it, and so does a pod's service account",
            )?,
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(PATIENCE);
        let (server, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
        let client = Client::try_from(config).context("preparing the way to the API server")?;
        let settings = Settings {
            request_timeout: PATIENCE,
            ..Settings::default()
        };
        Ok(Cluster {
            store: KubeStore::with_client(client.clone(), settings),
            client,
            server: server.trim_end_matches('/').to_owned(),
            namespace,
        })
    }

    /// Reads one thing.
    ///
    /// # Errors
    /// See [`NoAnswer`].
    pub async fn get<T: serde::de::DeserializeOwned>(&self, what: &str, path: &str) -> Result<T, NoAnswer> {
        let failed = |why: String| NoAnswer::Failed {
            what: what.to_owned(),
            why,
        };
        let request = http::Request::get(path).body(Vec::new());
        let request = request.map_err(|error| failed(error.to_string()))?;
        match tokio::time::timeout(PATIENCE, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(no_answer(what, &error)),
            Err(_) => Err(failed(format!("no answer within {PATIENCE:?}"))),
        }
    }

    /// Reads all objects of a path, page by page, and keeps of each what `keep` makes of it.
    ///
    /// # Errors
    /// See [`NoAnswer`].
    pub async fn list<T>(
        &self,
        what: &str,
        path: &str,
        mut keep: impl FnMut(Value) -> T,
    ) -> Result<Vec<T>, NoAnswer> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut failure = None;
        for _ in 0..RESTARTS {
            match self
                .pages(what, &format!("{path}{separator}limit={PAGE}"), &mut keep)
                .await
            {
                Err(expired @ NoAnswer::Expired { .. }) => failure = Some(expired),
                other => return other,
            }
        }
        Err(failure.unwrap_or_else(|| NoAnswer::Expired {
            what: what.to_owned(),
        }))
    }

    async fn pages<T>(
        &self,
        what: &str,
        path: &str,
        keep: &mut impl FnMut(Value) -> T,
    ) -> Result<Vec<T>, NoAnswer> {
        let mut all = Vec::new();
        let mut at = path.to_owned();
        loop {
            let page: Page = self.get(what, &at).await?;
            all.extend(page.items.into_iter().flatten().map(&mut *keep));
            match page.metadata.next.filter(|token| !token.is_empty()) {
                Some(token) => at = format!("{path}&continue={}", escaped(&token)),
                None => return Ok(all),
            }
        }
    }
}

fn no_answer(what: &str, error: &kube::Error) -> NoAnswer {
    let what = what.to_owned();
    match error {
        kube::Error::Api(status) => match status.code {
            403 => NoAnswer::Forbidden { what },
            404 => NoAnswer::Absent { what },
            410 => NoAnswer::Expired { what },
            401 => NoAnswer::Failed {
                what,
                why: "the API server does not know this account; its token or certificate may have expired"
                    .to_owned(),
            },
            code => NoAnswer::Failed {
                what,
                why: format!("the API server answered {code}: {}", status.message),
            },
        },
        other => NoAnswer::Failed {
            what,
            why: controller::chain(other),
        },
    }
}

/// A text as it may stand in a query.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_a_query_is_escaped() {
        assert_eq!(escaped("eyJ2+/=&a-b_c.~"), "eyJ2%2B%2F%3D%26a-b_c.~");
        assert_eq!(escaped("ü"), "%C3%BC");
    }
}
