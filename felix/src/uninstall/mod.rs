//! The agent's whole life where an order may end it for good: it runs, and when it is told to go it takes everything of
//! its own off the node, says so, and does nothing any more.
//!
//! Stopped, an agent leaves everything in force, and it cannot tell that it is stopped from that it is to go. So
//! whoever uninstalls says it where every agent hears it, on `ClusterInformation default`
//! ([`policy_model::UninstallOrder`]), and waits for every node's report.
//!
//! | room | what it does |
//! |---|---|
//! | `orders` | whether there is an order, and whether this installation is meant |
//! | `door` | pods that want in are refused from then on |
//! | `leave` | waits until nothing is connected any more, unless the order is to cut what is |
//! | `belongings` | what is ours on the node, and how it goes: what could open something goes last |
//! | `files` | the part of that which lies in folders |
//! | `step` | what the agent's container does not see, and a step beside it removes |
//! | `farewell` | takes it all off, reports, and stays idle until it is stopped |

mod belongings;
mod door;
mod farewell;
mod files;
mod leave;
mod orders;
mod step;

pub(crate) use door::{Door, Guarded};
pub(crate) use leave::{Reports, until_empty};
pub use orders::Orders;

use crate::agent::{self, AgentError, Ended};
use crate::metrics::Metrics;
use crate::settings::ClusterSettings;
use belongings::Belongings;
use farewell::Farewell;
use orders::Standing;
use policy_model::{UNINSTALL_REPORT, UninstallReport};
use policy_model_datastore::Datastore;
use policy_model_datastore_kube::KubeStore;
use std::collections::BTreeMap;
use std::sync::Arc;

/// By this name the health pages say whether the network is to stay on the node.
pub(crate) const REPORTER: &str = "uninstall";

/// Runs the agent until it is told to stop, its settings change, or it has been taken off this node and then stopped.
///
/// # Errors
/// See [`agent::run`].
pub async fn run(
    cluster: ClusterSettings,
    store: Arc<dyn Datastore>,
    kubernetes: Option<KubeStore>,
    metrics: Metrics,
) -> Result<Ended, AgentError> {
    let settings = cluster.settings().clone();
    let Some(kube) = kubernetes.clone() else {
        // Without a cluster there is nobody to give the order; `felix --cleanup` is for that.
        return agent::run(cluster, store, None, metrics, Orders::none()).await;
    };
    let belongings = Belongings::of(&settings)?;
    let mut orders = Orders::follow(kube.clone());
    // An agent that is started into its own uninstall puts nothing into force, unless pods that are still connected
    // need it: the report may have been sent by its life before, and nobody would take away what this one makes.
    let ended = match orders.at_start().await {
        Standing::Ordered(order) if order.force || !belongings.has_pods() => Ended::Ordered(order),
        _ => agent::run(cluster, store, kubernetes, metrics, orders.clone()).await?,
    };
    if let Ended::Ordered(order) = &ended {
        let farewell = Farewell {
            node: settings.felix_hostname.clone(),
            store: kube,
            belongings,
        };
        farewell.take(&settings, order.clone(), orders).await;
    }
    Ok(ended)
}

/// A report as a node's annotation; none takes it away.
fn annotation(report: Option<&UninstallReport>) -> BTreeMap<String, Option<String>> {
    BTreeMap::from([(UNINSTALL_REPORT.to_owned(), report.map(UninstallReport::text))])
}
