//! Pools, blocks and pods as they stand in a running cluster: what is said about addresses, by everybody who says it.

use crate::cluster::{Cluster, NoAnswer, objects};
use crate::source::{self, ClusterArguments, Environment, Source};
use ipnet::IpNet;
use policy_model::{API_VERSION, IpamBlockSpec, Kind, Resource};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What is said about addresses.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The pools, by name.
    pub pools: Vec<Pool>,
    /// The blocks, in the order of their addresses.
    pub blocks: Vec<IpamBlockSpec>,
    /// The pods; empty where they were not asked for.
    pub pods: Vec<PodRecord>,
    /// Names of the nodes; none where they could not be read, or were not asked for.
    pub nodes: Option<BTreeSet<String>>,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its range.
    pub cidr: IpNet,
    /// Whether no new addresses are taken from it.
    pub disabled: bool,
}

/// A pod, as far as addresses go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRecord {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The identities that blocks may know it by; empty where nobody knows one.
    pub ids: Vec<String>,
    /// Addresses that it says it has.
    pub addresses: Vec<IpAddr>,
    /// Whether it uses its node's network: its addresses are the node's.
    pub host_network: bool,
    /// Whether it has ended: its addresses are nobody's, whatever it still says.
    pub finished: bool,
}

/// A way to read ledgers of one cluster.
pub enum Reader {
    /// A Kubernetes cluster.
    Kubernetes(Box<Cluster>),
    /// An embedded datastore.
    Folder(std::path::PathBuf),
}

impl Reader {
    /// The cluster that the arguments lead to.
    ///
    /// # Errors
    /// They lead to none.
    pub async fn open(arguments: &ClusterArguments) -> anyhow::Result<Self> {
        Ok(match arguments.resolve(&Environment::of_process())? {
            Source::Folder(folder) => Reader::Folder(folder),
            Source::Kubernetes { kubeconfig } => {
                Reader::Kubernetes(Box::new(Cluster::connect(kubeconfig.as_deref()).await?))
            }
        })
    }

    /// Reads everything; pods and nodes only where asked for.
    ///
    /// # Errors
    /// Pools, blocks or pods cannot be read.
    pub async fn read(&self, with_pods: bool) -> anyhow::Result<Ledger> {
        let mut ledger = match self {
            Reader::Kubernetes(cluster) => of_cluster(cluster, with_pods).await?,
            Reader::Folder(folder) => of_resources(source::read_folder(folder).await?.0),
        };
        ledger.pools.sort_by(|a, b| a.name.cmp(&b.name));
        ledger.blocks.sort_by_key(|block| block.cidr);
        Ok(ledger)
    }
}

async fn of_cluster(cluster: &Cluster, with_pods: bool) -> Result<Ledger, NoAnswer> {
    let kind = Kind::IPPool;
    let path = format!("/apis/{API_VERSION}/{}", kind.plural());
    let pools = cluster.list("ippools.projectcalico.org", &path, |value| {
        objects::parse(kind, value)
    });
    let mut ledger = of_resources(pools.await?.into_iter().flatten().collect());
    // Before the pods: a pod that is made meanwhile is then in the later of the two.
    ledger.blocks = objects::blocks(cluster).await?;
    if with_pods {
        ledger.pods = cluster.list("pods", "/api/v1/pods", |pod| record(&pod)).await?;
        let name = |node: Value| {
            node.pointer("/metadata/name")
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        ledger.nodes = match cluster.list("nodes", "/api/v1/nodes", name).await {
            Ok(names) => Some(names.into_iter().flatten().collect()),
            Err(NoAnswer::Forbidden { .. }) => None,
            Err(error) => return Err(error),
        };
    }
    Ok(ledger)
}

fn record(pod: &Value) -> PodRecord {
    let text = |path: &str| {
        pod.pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let listed = pod.pointer("/status/podIPs").and_then(Value::as_array);
    let mut addresses: Vec<IpAddr> = listed
        .into_iter()
        .flatten()
        .filter_map(|one| one.get("ip")?.as_str()?.parse().ok())
        .collect();
    if let (true, Ok(only)) = (addresses.is_empty(), text("/status/podIP").parse()) {
        addresses.push(only);
    }
    PodRecord {
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        ids: objects::identities(pod),
        addresses,
        host_network: pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true),
        finished: matches!(text("/status/phase").as_str(), "Succeeded" | "Failed"),
    }
}

fn of_resources(resources: Vec<Resource>) -> Ledger {
    let mut ledger = Ledger::default();
    let mut nodes = BTreeSet::new();
    for resource in resources {
        match resource {
            Resource::IPPool(pool) => ledger.pools.push(Pool {
                name: pool.metadata.name,
                cidr: pool.spec.cidr.trunc(),
                disabled: pool.spec.disabled,
            }),
            Resource::IPAMBlock(block) => ledger.blocks.push(block.spec),
            Resource::Node(node) => {
                nodes.insert(node.metadata.name);
            }
            Resource::WorkloadEndpoint(endpoint) => ledger.pods.push(PodRecord {
                namespace: endpoint.metadata.namespace,
                name: endpoint.spec.pod,
                addresses: endpoint.spec.ip_networks.iter().map(IpNet::addr).collect(),
                ..PodRecord::default()
            }),
            _ => {}
        }
    }
    ledger.nodes = Some(nodes);
    ledger
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_says_its_addresses_and_identities() {
        let pod = record(&json!({
            "metadata": {
                "namespace": "kube-system", "name": "etcd-n1", "uid": "u-1",
                "annotations": { "kubernetes.io/config.hash": "h-1", "x": "y" }
            },
            "spec": { "hostNetwork": true },
            "status": { "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }] }
        }));
        assert_eq!(pod.ids, ["u-1", "h-1"]);
        assert!(pod.host_network && !pod.finished);
        assert_eq!(pod.addresses.len(), 2);
        let old = record(&json!({ "status": { "phase": "Failed", "podIP": "10.0.0.1" } }));
        assert!(old.finished && old.addresses.len() == 1);
    }
}
