//! What the API server and the agent of this container say, gathered for a report.
//!
//! Every question is asked for itself, so that one that this account may not ask leaves the others.

use crate::cluster::agents::{self, ComponentPod, Lease, NodeState};
use crate::cluster::local::{self, LocalAgent};
use crate::cluster::{Cluster, NoAnswer};
use policy_model::{API_VERSION, Kind, Resource};
use policy_model_datastore::{Datastore, DatastoreError, Selection};
use policy_model_datastore_kube::ForeignOwner;
use policy_model_datastore_kube::schema::CUSTOM_KINDS;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The kinds whose objects a report counts, or whose faults it names.
const READ: [Kind; 14] = [
    Kind::Tier,
    Kind::NetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::HostEndpoint,
    Kind::NetworkSet,
    Kind::GlobalNetworkSet,
    Kind::IPPool,
    Kind::IPReservation,
    Kind::IPAMBlock,
    Kind::BlockAffinity,
    Kind::IPAMConfig,
    Kind::FelixConfiguration,
    Kind::BGPConfiguration,
    Kind::BGPPeer,
];

/// What was said. An answer that is missing says why.
#[derive(Debug)]
pub struct Facts {
    /// Where the API server is.
    pub server: String,
    /// Its version.
    pub version: Result<String, NoAnswer>,
    /// Whether our group is ours; else whose it is, in words.
    pub owner: Result<(), Owner>,
    /// Kinds that are not defined.
    pub undefined: Result<Vec<Kind>, NoAnswer>,
    /// The objects of each kind.
    pub objects: BTreeMap<Kind, Result<Vec<Arc<Resource>>, NoAnswer>>,
    /// Objects that cannot be taken as they are.
    pub faults: Vec<String>,
    /// The nodes.
    pub nodes: Result<Vec<NodeState>, NoAnswer>,
    /// The pods of Manx itself.
    pub pods: Result<Vec<ComponentPod>, NoAnswer>,
    /// The controllers' lease.
    pub lease: Result<Option<Lease>, NoAnswer>,
    /// The agent of this container.
    pub local: Option<LocalAgent>,
}

/// Why our group is not known to be ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It is somebody else's.
    Foreign(String),
    /// It cannot be told.
    Unknown(NoAnswer),
}

/// What need not be asked again while it is waited.
#[derive(Debug, Default)]
pub struct Asked {
    owner_is_us: bool,
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "gitVersion")]
    git_version: String,
}

#[derive(Deserialize)]
struct Discovered {
    resources: Vec<DiscoveredResource>,
}

#[derive(Deserialize)]
struct DiscoveredResource {
    name: String,
}

impl Facts {
    /// Asks for everything.
    pub async fn gather(cluster: &Cluster, asked: &mut Asked) -> Facts {
        let version = cluster
            .get::<Version>("the version of the API server", "/version")
            .await;
        // A server that does not answer at all would let every question wait for its own end.
        if let Err(error @ NoAnswer::Failed { .. }) = &version {
            return Facts::unreachable(cluster, error);
        }
        let undefined = undefined(cluster).await;
        let owner = match (asked.owner_is_us, &undefined) {
            (true, _) => Ok(()),
            _ => owner(cluster).await,
        };
        // Before everything is defined, definitions may yet come that are another's.
        asked.owner_is_us = owner.is_ok() && undefined.as_ref().is_ok_and(Vec::is_empty);
        let objects = objects(cluster).await;
        let nodes = agents::nodes(cluster).await;
        let pods = agents::component_pods(cluster).await;
        let lease = agents::lease(cluster, &namespaces(cluster, &pods)).await;
        Facts {
            server: cluster.server.clone(),
            version: version.map(|version| version.git_version),
            owner,
            undefined,
            faults: cluster.store.faults().iter().map(ToString::to_string).collect(),
            objects,
            nodes,
            pods,
            lease,
            local: local::ask(),
        }
    }

    fn unreachable(cluster: &Cluster, error: &NoAnswer) -> Facts {
        Facts {
            server: cluster.server.clone(),
            version: Err(error.clone()),
            owner: Err(Owner::Unknown(error.clone())),
            undefined: Err(error.clone()),
            objects: BTreeMap::new(),
            faults: Vec::new(),
            nodes: Err(error.clone()),
            pods: Err(error.clone()),
            lease: Err(error.clone()),
            local: local::ask(),
        }
    }
}

/// Where the controllers' lease may be: where pods of Manx are, and where this program is.
fn namespaces(cluster: &Cluster, pods: &Result<Vec<ComponentPod>, NoAnswer>) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = pods.iter().flatten().map(|pod| pod.namespace.clone()).collect();
    if found.is_empty() {
        let own = ["POD_NAMESPACE", "NAMESPACE"]
            .into_iter()
            .filter_map(|name| std::env::var(name).ok());
        found.extend(own.filter(|namespace| !namespace.is_empty()));
        found.insert(cluster.namespace.clone());
    }
    found
}

async fn undefined(cluster: &Cluster) -> Result<Vec<Kind>, NoAnswer> {
    let what = format!("the kinds of {API_VERSION}");
    match cluster
        .get::<Discovered>(&what, &format!("/apis/{API_VERSION}"))
        .await
    {
        Ok(found) => {
            let is_there = |kind: &Kind| found.resources.iter().any(|one| one.name == kind.plural());
            Ok(CUSTOM_KINDS.into_iter().filter(|kind| !is_there(kind)).collect())
        }
        Err(NoAnswer::Absent { .. }) => Ok(CUSTOM_KINDS.to_vec()),
        Err(error) => Err(error),
    }
}

async fn owner(cluster: &Cluster) -> Result<(), Owner> {
    match cluster.store.preflight().await {
        Ok(()) => Ok(()),
        Err(ForeignOwner::Unknown(error)) => {
            Err(Owner::Unknown(no_answer("who owns projectcalico.org", &error)))
        }
        Err(foreign) => Err(Owner::Foreign(foreign.to_string())),
    }
}

async fn objects(cluster: &Cluster) -> BTreeMap<Kind, Result<Vec<Arc<Resource>>, NoAnswer>> {
    let mut found = BTreeMap::new();
    for kind in READ {
        let listed = cluster.store.list(Selection::kinds([kind])).await;
        let listed = listed.map(|listing| listing.items.into_iter().map(|item| item.resource).collect());
        found.insert(kind, listed.map_err(|error| no_answer(kind.plural(), &error)));
    }
    found
}

fn no_answer(what: &str, error: &DatastoreError) -> NoAnswer {
    let what = what.to_owned();
    match error {
        DatastoreError::Permission { .. } => NoAnswer::Forbidden { what },
        other => NoAnswer::Failed {
            what,
            why: controller::chain(other),
        },
    }
}
