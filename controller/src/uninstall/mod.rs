//! Takes the network off a cluster: tells every node's agent to go, and waits for each one's word that it has.
//!
//! It runs once, as a job, before the release and with it the agents are removed. Nothing is touched while pods are
//! connected, unless they are to be cut: what an order began it cannot take back, because nodes carry it out by
//! themselves.
//!
//! | room | what it does |
//! |---|---|
//! | `judge` | who is in the way, and who has answered (pure) |
//! | `cluster` | the questions to the API server, and the order |

mod cluster;
mod judge;

use crate::chain;
use cluster::Cluster;
use judge::Progress;
use k8s_openapi::jiff::Timestamp;
use kube::config::InferConfigError;
use kube::{Client, Config};
use policy_model::{UNINSTALL_FORCE, UninstallOrder};
use policy_model_datastore::DatastoreError;
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, sleep};

/// Pause between two looks at a small cluster.
const LOOK: Duration = Duration::from_secs(1);
/// So many nodes make the pause a second longer.
const NODES_A_SECOND: usize = 200;
/// How long the agents may take to remove their reports; a report that stays does no harm.
const CLOSING: Duration = Duration::from_secs(15);
/// How many pods or nodes an error names.
const NAMED: usize = 10;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct UninstallOptions {
    /// Whether pods that are connected are cut.
    pub force: bool,
    /// How long everything may take.
    pub timeout: Duration,
    /// Whether another network connects the pods, so that none of them is in the way.
    pub policy_only: bool,
    /// Whether a step beside each agent removes what the agents cannot reach.
    pub has_steps: bool,
    /// Namespace of the agents; that of the client's configuration where nobody says.
    pub namespace: Option<String>,
}

/// Why the network is not off the cluster.
#[derive(Debug, Error)]
pub enum UninstallError {
    /// Nothing says where the API server is.
    #[error(
        "nothing says where the API server is: set KUBECONFIG, or run it in a pod with a service account"
    )]
    Nowhere(#[source] Box<InferConfigError>),
    /// What says so cannot be used.
    #[error("the way to the API server cannot be used: its certificates or keys are wrong")]
    Unusable(#[source] Box<kube::Error>),
    /// The API server did not answer, or said no, for as long as there was time.
    #[error("the cluster could not be asked; nothing was changed")]
    Away(#[source] DatastoreError),
    /// Pods would lose their network.
    #[error(
        "{number} pods have their network from Manx: {named}. Nothing was changed. Delete them (a Deployment's come \
         back: scale it to 0), or allow that they are cut off: kubectl annotate \
         clusterinformations.projectcalico.org default {UNINSTALL_FORCE}=true; then run helm uninstall again. Pods \
         that are cut off reach nothing and are not reached until they are made anew with another network"
    )]
    PodsRun {
        /// How many.
        number: usize,
        /// Some of them.
        named: String,
    },
    /// Some nodes have not said that they are done.
    #[error(
        "after {} s these nodes have not said that everything is off: {named}. The order stands, and nodes go on \
         carrying it out; run helm uninstall again to wait on (--timeout longer than the value uninstall.timeout). To \
         leave them as they are: helm uninstall --no-hooks, and felix --cleanup on each. To take the order back: \
         kubectl annotate clusterinformations.projectcalico.org default {annotation}- and kubectl rollout restart \
         daemonset/manx-node",
        after.as_secs(), annotation = policy_model::UNINSTALL_ORDER
    )]
    TimedOut {
        /// How long they were waited for.
        after: Duration,
        /// Some of them, each with the reason.
        named: String,
    },
}

/// Takes the network off the cluster that the environment names.
///
/// # Errors
/// See [`UninstallError`]; each says what was changed and what to do.
pub async fn uninstall(options: UninstallOptions) -> Result<(), UninstallError> {
    let mut config = Config::infer()
        .await
        .map_err(|error| UninstallError::Nowhere(Box::new(error)))?;
    let namespace = options
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    let client = Client::try_from(config).map_err(|error| UninstallError::Unusable(Box::new(error)))?;
    let run = Run {
        cluster: Cluster::new(client, namespace),
        deadline: Instant::now() + options.timeout,
        options,
    };
    run.carry_out().await
}

struct Run {
    cluster: Cluster,
    deadline: Instant,
    options: UninstallOptions,
}

impl Run {
    async fn carry_out(&self) -> Result<(), UninstallError> {
        let agents = self.ask(async || self.cluster.agents().await).await?;
        let account = self.ask(async || self.cluster.agents_account().await).await?;
        let Some(installation) = account.filter(|_| !agents.is_empty()) else {
            tracing::warn!(
                "there is no agent in the namespace {}: whatever is on nodes stays there (felix --cleanup removes it)",
                self.cluster.namespace()
            );
            return Ok(());
        };
        let is_allowed = self.ask(async || self.cluster.is_force_allowed().await).await?;
        let force = self.options.force || is_allowed;
        if !force && !self.options.policy_only {
            let pods = self.ask(async || self.cluster.pods().await).await?;
            let in_the_way = judge::in_the_way(&pods, &agents);
            if !in_the_way.is_empty() {
                return Err(UninstallError::PodsRun {
                    number: in_the_way.len(),
                    named: some(&in_the_way),
                });
            }
        }
        let mut order = UninstallOrder {
            installation,
            token: format!("{:016x}", rand::random::<u64>()),
            begun: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            force,
            has_steps: self.options.has_steps,
            closing: false,
        };
        tracing::info!(force, nodes = agents.len(), "every node's agent is told to go");
        self.ask(async || self.cluster.order(&order).await).await?;
        let done = self.wait(&order.token).await?;
        order.closing = true;
        self.close(&order).await;
        tracing::info!("Manx is off {done} nodes; definitions and objects stay");
        Ok(())
    }

    /// Asks until there is an answer or no time is left.
    async fn ask<T>(
        &self,
        question: impl AsyncFn() -> Result<T, DatastoreError>,
    ) -> Result<T, UninstallError> {
        let mut said = String::new();
        loop {
            match question().await {
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() + LOOK >= self.deadline => {
                    return Err(UninstallError::Away(error));
                }
                Err(error) => {
                    let why = chain(&error);
                    if said != why {
                        tracing::warn!("{why}; it is tried again");
                        said = why;
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Waits for every node's word; returns how many gave it.
    async fn wait(&self, token: &str) -> Result<usize, UninstallError> {
        let mut said = Progress::default();
        let mut last = "the nodes could not be asked".to_owned();
        loop {
            let mut pause = LOOK;
            match self.progress(token).await {
                Ok(progress) => {
                    pause += Duration::from_secs((progress.number() / NODES_A_SECOND) as u64);
                    tell(&said, &progress);
                    if progress.waiting.is_empty() {
                        return Ok(progress.done.len());
                    }
                    last = some(&progress.reasons());
                    said = progress;
                }
                Err(error) => tracing::warn!("{}; it is tried again", chain(&error)),
            }
            if Instant::now() + pause >= self.deadline {
                return Err(UninstallError::TimedOut {
                    after: self.options.timeout,
                    named: last,
                });
            }
            sleep(pause).await;
        }
    }

    async fn progress(&self, token: &str) -> Result<Progress, DatastoreError> {
        // Nodes after agents: a node that an agent is on is then there, unless it went.
        let agents = self.cluster.agents().await?;
        let nodes = self.cluster.nodes().await?;
        Ok(judge::progress(&agents, &nodes, token))
    }

    /// Has the agents take their reports away. Nobody waits for them any more, so nothing of this fails the uninstall.
    async fn close(&self, order: &UninstallOrder) {
        if let Err(error) = self.cluster.order(order).await {
            tracing::warn!(
                "{}: the agents' reports stay on the nodes' objects",
                chain(&error)
            );
            return;
        }
        let until = (Instant::now() + CLOSING).min(self.deadline);
        while Instant::now() < until {
            match self.cluster.nodes().await {
                Ok(nodes) if !judge::has_report(&nodes, &order.token) => return,
                _ => sleep(LOOK).await,
            }
        }
        tracing::warn!("some agents' reports stay on the nodes' objects");
    }
}

/// Says what is new.
fn tell(before: &Progress, now: &Progress) {
    for node in now.done.difference(&before.done) {
        tracing::info!(
            "{node}: everything is off ({} of {})",
            now.done.len(),
            now.number()
        );
    }
    for (node, why) in &now.waiting {
        if before.waiting.get(node) != Some(why) {
            tracing::info!("{node}: {why}");
        }
    }
    for node in now.silent.difference(&before.silent) {
        tracing::warn!(
            "{node}: its kubelet is silent, so it is not waited for; what is on it stays until felix --cleanup runs \
             there"
        );
    }
}

/// Some of a list, and how many more there are.
fn some(all: &[String]) -> String {
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
