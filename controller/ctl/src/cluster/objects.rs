//! The objects of a live cluster that verdicts rest on, each read as a document, so that it goes the way of a manifest.
//!
//! Of Kubernetes' own objects only what is needed is kept: pods are many, and a field that a newer API server has and
//! we do not know is no fault of anybody's. Policies are kept whole, for there an unknown field means something.

use super::{Cluster, NoAnswer};
use crate::policy::world::{Described, Known, Observed, PodName, World};
use controller::{FolderError, read_once};
use felix::settings::Layer;
use policy_model::{API_VERSION, IpamBlockSpec, KUBERNETES_POLICY_PREFIX, Kind, Resource};
use policy_model_ipam::assigned;
use policy_model_kubernetes::{Fault, ManifestId, ManifestSet};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

/// Annotation by which a static pod says the identity that its network knows it by.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// A resource of the API server that becomes documents.
struct Origin {
    path: String,
    /// What people call it.
    what: String,
    group: &'static str,
    api_version: &'static str,
    kind: &'static str,
    trim: fn(&mut Value),
}

/// Our kinds that decide about flows.
const CUSTOM: [Kind; 8] = [
    Kind::Tier,
    Kind::NetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::HostEndpoint,
    Kind::NetworkSet,
    Kind::GlobalNetworkSet,
    Kind::IPPool,
    Kind::FelixConfiguration,
];

/// The objects of a live cluster.
#[derive(Debug)]
pub struct Objects {
    /// What each amounts to.
    described: Vec<(ManifestId, Described)>,
    observed: Observed,
}

/// Reads them. What this account may not read becomes a fault: verdicts are then those of the rest.
///
/// # Errors
/// The API server cannot be reached, or fails.
pub async fn read(cluster: &Cluster) -> Result<Objects, NoAnswer> {
    let mut described = Vec::new();
    let mut observed = Observed {
        // In an agent's container, where this usually runs, it is the agents' own.
        environment: Some(Layer::from_environment(std::env::vars_os())),
        ..Observed::default()
    };
    let mut waiting = Waiting::default();
    for origin in origins() {
        let mut faults = Vec::new();
        let found = cluster.list(&origin.what, &origin.path, |mut value| {
            if origin.kind == "Pod" {
                waiting.note(&value);
            }
            describe(&origin, &mut value, &mut faults)
        });
        let found = found.await;
        // A listing that had to begin anew says things twice.
        faults.sort_unstable();
        faults.dedup();
        observed.faults.append(&mut faults);
        match found {
            Ok(found) => described.extend(found),
            // Where our kinds are not defined there are no policies of ours.
            Err(NoAnswer::Absent { .. }) if origin.group == GROUP => {}
            Err(error @ (NoAnswer::Forbidden { .. } | NoAnswer::Absent { .. })) => {
                observed
                    .faults
                    .push(format!("{error}; what is said here leaves it out"));
            }
            Err(error) => return Err(error),
        }
    }
    match blocks(cluster).await {
        Ok(blocks) => observed.known.pods = waiting.addresses(&blocks),
        Err(NoAnswer::Absent { .. }) => {}
        Err(error @ NoAnswer::Forbidden { .. }) if !waiting.pods.is_empty() => {
            observed.faults.push(format!(
                "{error}; pods whose status names no address yet have none here"
            ));
        }
        Err(NoAnswer::Forbidden { .. }) => {}
        Err(error) => return Err(error),
    }
    Ok(Objects { described, observed })
}

/// The blocks of addresses. What is no block is left out; `manx status` speaks of it.
///
/// # Errors
/// See [`NoAnswer`].
pub async fn blocks(cluster: &Cluster) -> Result<Vec<IpamBlockSpec>, NoAnswer> {
    let kind = Kind::IPAMBlock;
    let path = format!("/apis/{API_VERSION}/{}", kind.plural());
    let found = cluster
        .list(
            &format!("{}.{GROUP}", kind.plural()),
            &path,
            |value| match parse(kind, value) {
                Some(Resource::IPAMBlock(block)) => Some(block.spec),
                _ => None,
            },
        )
        .await?;
    Ok(found.into_iter().flatten().collect())
}

/// One of our objects.
pub(crate) fn parse(kind: Kind, mut value: Value) -> Option<Resource> {
    value["apiVersion"] = API_VERSION.into();
    value["kind"] = kind.as_str().into();
    Some(Resource::parse(value).ok()?.resource)
}

const GROUP: &str = "projectcalico.org";

impl Objects {
    /// The cluster as a world.
    pub fn into_world(self) -> World {
        World::observed(self.described.into_iter().map(|(_, one)| one), &self.observed)
    }

    /// The cluster as a world, when there will be another.
    pub fn world(&self) -> World {
        World::observed(self.described.iter().map(|(_, one)| one.clone()), &self.observed)
    }

    /// The cluster as it would be if a folder of manifests were applied to it: what the folder defines takes the place
    /// of what is there under the same name, and keeps the node and the addresses that it has.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn world_with(&self, folder: &Path, known: &Known) -> Result<World, FolderError> {
        let texts = read_once(folder)?;
        let mut observed = self.observed.clone();
        observed.known.nodes.clone_from(&known.nodes);
        observed.known.pods.extend(known.pods.clone());
        let mut set = ManifestSet::new();
        for (path, text) in &texts {
            match text {
                Ok(text) => drop(set.set_file(path, text)),
                Err(error) => observed
                    .faults
                    .push(format!("{path}: it cannot be read: {error}")),
            }
        }
        observed
            .faults
            .extend(set.faults().iter().map(ToString::to_string));
        let homeless = set.unassigned_pods().filter_map(|pod| {
            let name = (pod.namespace.clone(), pod.name.clone());
            let (node, _) = observed.known.pods.get(&name)?;
            Some((name, node.clone()))
        });
        let assignments: BTreeMap<PodName, String> = homeless.collect();
        set.set_assignments(assignments);
        let replaced: BTreeSet<&ManifestId> = set.manifests().map(|(id, _)| id).collect();
        let kept = self.described.iter().filter(|(id, _)| !replaced.contains(id));
        // The cluster's first: what the folder only implies, a namespace of a pod, is there already.
        let all = kept.map(|(_, one)| one.clone()).chain([Described::of(&set)]);
        Ok(World::observed(all, &observed))
    }
}

fn origins() -> Vec<Origin> {
    let native = |path: &str, group, api_version, kind, trim: fn(&mut Value)| {
        let plural = path.rsplit('/').next().unwrap_or(path);
        Origin {
            path: path.to_owned(),
            what: if str::is_empty(group) {
                plural.to_owned()
            } else {
                format!("{plural}.{group}")
            },
            group,
            api_version,
            kind,
            trim,
        }
    };
    let discovery = "/apis/discovery.k8s.io/v1/endpointslices";
    let policies = "/apis/networking.k8s.io/v1/networkpolicies";
    let mut all = vec![
        native("/api/v1/namespaces", "", "v1", "Namespace", keep_metadata),
        native(
            "/api/v1/serviceaccounts",
            "",
            "v1",
            "ServiceAccount",
            keep_metadata,
        ),
        native("/api/v1/nodes", "", "v1", "Node", trim_node),
        native("/api/v1/pods", "", "v1", "Pod", trim_pod),
        native(
            discovery,
            "discovery.k8s.io",
            "discovery.k8s.io/v1",
            "EndpointSlice",
            |_| {},
        ),
        native(
            policies,
            "networking.k8s.io",
            "networking.k8s.io/v1",
            "NetworkPolicy",
            |_| {},
        ),
    ];
    all.extend(CUSTOM.iter().map(|kind| Origin {
        path: format!("/apis/{API_VERSION}/{}", kind.plural()),
        what: format!("{}.{GROUP}", kind.plural()),
        group: GROUP,
        api_version: API_VERSION,
        kind: kind.as_str(),
        trim: |_| {},
    }));
    all
}

/// What an object amounts to; what is wrong with it is noted.
fn describe(origin: &Origin, value: &mut Value, faults: &mut Vec<String>) -> (ManifestId, Described) {
    if let Some(metadata) = value.get_mut("metadata") {
        trim_metadata(metadata);
    }
    (origin.trim)(value);
    // The items of a list do not say what they are.
    value["apiVersion"] = origin.api_version.into();
    value["kind"] = origin.kind.into();
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let id = ManifestId::new(
        origin.group,
        origin.kind,
        text("/metadata/namespace"),
        text("/metadata/name"),
    );
    if origin.group == GROUP && id.name.starts_with(KUBERNETES_POLICY_PREFIX) {
        faults.push(format!(
            "{id}: metadata.name: names that begin with '{KUBERNETES_POLICY_PREFIX}' are kept for Kubernetes' own policies"
        ));
        return (id, Described::default());
    }
    let mut set = ManifestSet::new();
    set.set_file("", &value.to_string());
    faults.extend(set.faults().iter().map(line));
    let described = Described::of(&set);
    let described = if origin.kind == "Pod" {
        described.without_profiles()
    } else {
        described
    };
    (id, described)
}

/// A fault as people know its place: in a cluster objects have names and no files.
fn line(fault: &Fault) -> String {
    let (subject, reason) = (&fault.subject, &fault.reason);
    match fault.field.as_str() {
        "" => format!("{subject}: {reason}"),
        field => format!("{subject}: {field}: {reason}"),
    }
}

/// Keeps some fields of an object.
fn keep(value: &mut Value, fields: &[&str]) {
    if let Value::Object(map) = value {
        map.retain(|name, _| fields.contains(&name.as_str()));
    }
}

fn trim_metadata(metadata: &mut Value) {
    keep(
        metadata,
        &[
            "name",
            "namespace",
            "labels",
            "annotations",
            "uid",
            "deletionTimestamp",
        ],
    );
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.retain(|key, _| key.contains("projectcalico.org/"));
    }
}

fn keep_metadata(value: &mut Value) {
    keep(value, &["metadata"]);
}

fn trim_node(value: &mut Value) {
    keep(value, &["metadata", "status"]);
    if let Some(status) = value.get_mut("status") {
        keep(status, &["addresses"]);
    }
}

fn trim_pod(value: &mut Value) {
    keep(value, &["metadata", "spec", "status"]);
    if let Some(status) = value.get_mut("status") {
        keep(status, &["phase", "podIP", "podIPs"]);
    }
    let Some(spec) = value.get_mut("spec") else { return };
    keep(
        spec,
        &[
            "nodeName",
            "hostNetwork",
            "serviceAccountName",
            "containers",
            "initContainers",
        ],
    );
    for list in ["containers", "initContainers"] {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            keep(container, &["name", "ports", "restartPolicy"]);
        }
    }
    if let Value::Object(fields) = spec {
        fields.entry("containers").or_insert_with(|| json!([]));
    }
}

/// Pods whose own objects name no address yet, and whose addresses only their blocks know.
#[derive(Debug, Default)]
struct Waiting {
    /// Each with its node and the identities that a block may know it by.
    pods: BTreeMap<PodName, (String, Vec<String>)>,
}

impl Waiting {
    fn note(&mut self, pod: &Value) {
        let text = |path: &str| {
            pod.pointer(path)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (node, host) = (text("/spec/nodeName"), pod.pointer("/spec/hostNetwork"));
        if node.is_empty() || !text("/status/podIP").is_empty() || host.and_then(Value::as_bool) == Some(true)
        {
            return;
        }
        let name = (text("/metadata/namespace"), text("/metadata/name"));
        self.pods.insert(name, (node, identities(pod)));
    }

    fn addresses(&self, blocks: &[IpamBlockSpec]) -> BTreeMap<PodName, (String, Vec<IpAddr>)> {
        let mut found: BTreeMap<PodName, (String, Vec<IpAddr>)> = BTreeMap::new();
        for held in blocks.iter().flat_map(assigned) {
            let name = (held.namespace.to_owned(), held.pod.to_owned());
            let Some((node, ids)) = self.pods.get(&name) else {
                continue;
            };
            // The pod of this name that was there before is another.
            if held.uid.is_empty() || ids.iter().any(|id| id == held.uid) {
                let (_, addresses) = found.entry(name).or_insert_with(|| (node.clone(), Vec::new()));
                addresses.push(held.address);
            }
        }
        found
    }
}

/// The identities by which blocks may know a pod: its own, and for a static pod that of its file.
pub(crate) fn identities(pod: &Value) -> Vec<String> {
    let empty = Map::new();
    let annotations = pod
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    [pod.pointer("/metadata/uid"), annotations.get(CONFIG_HASH)]
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests;
