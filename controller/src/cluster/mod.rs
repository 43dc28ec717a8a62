//! The controller where Kubernetes' own objects are the datastore.
//!
//! Nothing is translated or stored a second time here. One of several replicas leads, by a Lease; it makes the objects
//! that every cluster has, gives back what vanished nodes and pods held, and lets no pool go while its addresses are in
//! use. Nothing is given back without a fresh answer of the API server that says so.
//!
//! | room | what it does |
//! |---|---|
//! | `settings`, `variable` | what the environment asks for (pure) |
//! | `connect` | the way to the API server, and whether the cluster is ours to work in |
//! | `leader` | who leads: the lease, the right to act, and the fence around every write |
//! | `work`, `chores` | what the leader does, and when |
//! | `defaults` | the objects that every cluster has |
//! | `nodes` | what vanished nodes held |
//! | `collection` | addresses that are nobody's |
//! | `pools` | pools that go only when nothing of them is in use, and what else has their addresses |
//! | `kubeadm` | the ranges that kubeadm was told |
//! | `picture` | what the datastore holds (pure) |
//! | `reach` | fresh answers to what the datastore's port has no words for |
//! | `vitals`, `figures` | how it stands, for people and programs |

mod chores;
mod collection;
mod connect;
mod defaults;
mod figures;
mod kubeadm;
mod leader;
mod nodes;
mod picture;
mod pools;
pub(crate) mod reach;
mod settings;
mod variable;
mod vitals;
mod work;

pub use connect::ConnectError;
pub use defaults::wanted::WantedPools;
pub use leader::lease::Timings;
pub use settings::{Enabled, Settings};
pub use variable::{InvalidVariable, Variables, parse_duration};

use crate::http::Pages;
use figures::Figures;
use leader::{Election, Elector};
use std::sync::Arc;
use std::time::Instant;
use vitals::Vitals;
use work::Work;

/// The controller of one cluster, or a replica that waits to be it.
pub struct Cluster {
    settings: Arc<Settings>,
    timings: Timings,
    lease: String,
    service_host: Option<String>,
    vitals: Vitals,
    figures: Figures,
}

struct ClusterPages {
    vitals: Vitals,
    figures: Figures,
}

impl Pages for ClusterPages {
    fn metrics(&self) -> String {
        self.figures.page()
    }

    fn liveness(&self, now: Instant) -> (bool, String) {
        self.vitals.liveness(now)
    }

    fn readiness(&self, now: Instant) -> (bool, String) {
        self.vitals.readiness(now)
    }
}

impl Cluster {
    /// A controller that has not begun. `lease` is the name of the Lease that its replicas share.
    ///
    /// # Errors
    /// The metrics cannot be made: a mistake in the program.
    pub fn new(
        settings: Settings,
        timings: Timings,
        lease: impl Into<String>,
        variables: &Variables,
    ) -> Result<Cluster, prometheus::Error> {
        Ok(Cluster {
            settings: Arc::new(settings),
            timings,
            lease: lease.into(),
            service_host: variables.get("KUBERNETES_SERVICE_HOST").map(str::to_owned),
            vitals: Vitals::default(),
            figures: Figures::new()?,
        })
    }

    /// How it stands, to be served from before it begins.
    pub fn pages(&self) -> Arc<dyn Pages> {
        Arc::new(ClusterPages {
            vitals: self.vitals.clone(),
            figures: self.figures.clone(),
        })
    }

    /// Works until `stop` is there: waits for the API server, then for the lease, then leads.
    ///
    /// # Errors
    /// What no waiting mends: see [`ConnectError`].
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ConnectError> {
        let mut stop = std::pin::pin!(stop);
        let connected = tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            connected = connect::connect(&self.settings, &self.vitals, &self.figures) => connected?,
        };
        for idle in &self.settings.enabled.idle {
            tracing::info!(
                "the controller '{idle}' has nothing to do: Kubernetes' own objects are the datastore"
            );
        }
        let election = Election {
            namespace: self
                .settings
                .namespace
                .clone()
                .unwrap_or_else(|| connected.namespace.clone()),
            name: self.lease.clone(),
            // Two lives of one pod are two candidates: the first may be stopped, not dead.
            identity: format!("{}_{:016x}", self.settings.name, rand::random::<u64>()),
            timings: self.timings,
        };
        let pulse = self
            .vitals
            .begin("leader", Some("the lease has not been read yet"));
        drop(connected.pulse);
        let elector = Elector::new(connected.reach.client(), election, pulse, self.figures.clone());
        let work = move |tenure| {
            Work {
                settings: Arc::clone(&self.settings),
                service_host: self.service_host.clone(),
                store: Arc::clone(&connected.store),
                reach: connected.reach.clone(),
                tenure,
                vitals: self.vitals.clone(),
                figures: self.figures.clone(),
            }
            .run()
        };
        elector.run(stop, work).await;
        Ok(())
    }
}
