//! Questions to the API server that the datastore's port has no words for: does this object still exist, which pods
//! does a node have, what is being deleted.
//!
//! Every answer is fresh: no resource version is named, so the server answers from what is committed, and an absence is
//! a proof. Every question has an end: a server that hangs is as good as none.

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use policy_model::{API_VERSION, Kind};
use policy_model_datastore::DatastoreError;
use serde_json::Value;
use std::time::Duration;
use thiserror::Error;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many objects are asked for at once.
const PAGE: u32 = 500;

/// Annotation of a pod of a node's own (static) manifests: by this the container runtime, and so the block, may call it,
/// while the API server gave it an identity of its own.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// The way to the API server.
#[derive(Clone)]
pub(crate) struct Reach {
    client: Client,
}

/// What an API server says when it says no.
#[derive(Debug, Error)]
#[error("the API server answered {code} {reason}: {message}")]
struct Refusal {
    code: u16,
    reason: String,
    message: String,
}

/// No answer in time.
#[derive(Debug, Error)]
#[error("no answer within {0:?}")]
struct Silence(Duration);

/// A pod as it is known by: its namespace, its name, and the identities that survive no re-creation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodIdentity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uids: Vec<String>,
}

impl From<ObjectMeta> for PodIdentity {
    fn from(metadata: ObjectMeta) -> Self {
        let hash = metadata.annotations.and_then(|mut all| all.remove(CONFIG_HASH));
        PodIdentity {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            uids: metadata.uid.into_iter().chain(hash).collect(),
        }
    }
}

impl Reach {
    pub(crate) fn new(client: Client) -> Self {
        Reach { client }
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// A node, or nothing where there is none.
    pub(crate) async fn node(&self, name: &str) -> Result<Option<Node>, DatastoreError> {
        let api: Api<Node> = Api::all(self.client.clone());
        bounded(format!("get the node {name}"), PATIENCE, api.get_opt(name)).await
    }

    /// All nodes.
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, DatastoreError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut all = Vec::new();
        let mut ahead = ListParams::default().limit(PAGE);
        loop {
            let page = bounded("list nodes", PATIENCE, api.list(&ahead)).await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => ahead = ListParams::default().limit(PAGE).continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// The pods that were given to a node.
    pub(crate) async fn pods_of_node(&self, node: &str) -> Result<Vec<Pod>, DatastoreError> {
        let api: Api<Pod> = Api::all(self.client.clone());
        let of_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let pods = bounded(
            format!("list the pods of node {node}"),
            PATIENCE,
            api.list(&of_node),
        );
        Ok(pods.await?.items)
    }

    /// Every pod of the cluster, by its identity alone; `moves` is told after every page.
    pub(crate) async fn pods(&self, moves: impl Fn()) -> Result<Vec<PodIdentity>, DatastoreError> {
        let api: Api<Pod> = Api::all(self.client.clone());
        let mut all = Vec::new();
        let mut ahead = ListParams::default().limit(PAGE);
        loop {
            let page = bounded("list pods", PATIENCE, api.list_metadata(&ahead)).await?;
            moves();
            all.extend(page.items.into_iter().map(|pod| pod.metadata.into()));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => ahead = ListParams::default().limit(PAGE).continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// The pod that has a name now, or nothing where none has.
    pub(crate) async fn pod(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<PodIdentity>, DatastoreError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let operation = format!("get the pod {namespace}/{name}");
        let found = bounded(operation, PATIENCE, api.get_metadata_opt(name)).await?;
        Ok(found.map(|pod| pod.metadata.into()))
    }

    /// One text of a ConfigMap, where there is one.
    pub(crate) async fn config_map_text(
        &self,
        namespace: &str,
        name: &str,
        entry: &str,
    ) -> Result<Option<String>, DatastoreError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let operation = format!("get the ConfigMap {namespace}/{name}");
        let found = bounded(operation, PATIENCE, api.get_opt(name)).await?;
        Ok(found.and_then(|map| map.data?.remove(entry)))
    }

    /// The pools as the API server keeps them, with what the datastore's port does not show: finalizers, the time of
    /// deletion, conditions.
    pub(crate) async fn pools(&self) -> Result<Vec<DynamicObject>, DatastoreError> {
        let pools = self.pool_api();
        let all = ListParams::default();
        Ok(bounded("list ippools", PATIENCE, pools.list(&all)).await?.items)
    }

    /// The ranges of Services, each with the name of the ServiceCIDR that says so.
    pub(crate) async fn service_ranges(&self) -> Result<Vec<(String, IpNet)>, DatastoreError> {
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let all = ListParams::default();
        let found = bounded("list servicecidrs", PATIENCE, api.list(&all)).await?;
        let ranges = found.items.into_iter().flat_map(|object| {
            let name = object.metadata.name.unwrap_or_default();
            let texts = object.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
            let ranges = texts.into_iter().filter_map(|text| text.parse().ok());
            ranges.map(|range| (name.clone(), range)).collect::<Vec<_>>()
        });
        Ok(ranges.collect())
    }

    /// Changes a pool, its status where `is_status`; the patch must name the version that it is made from, so that the
    /// API server compares and swaps.
    pub(crate) async fn patch_pool(
        &self,
        name: &str,
        patch: &Value,
        is_status: bool,
    ) -> Result<(), DatastoreError> {
        let pools = self.pool_api();
        let (how, patch) = (PatchParams::default(), Patch::Merge(patch));
        let operation = format!("patch the pool {name}");
        if is_status {
            bounded(operation, PATIENCE, pools.patch_status(name, &how, &patch)).await?;
        } else {
            bounded(operation, PATIENCE, pools.patch(name, &how, &patch)).await?;
        }
        Ok(())
    }

    fn pool_api(&self) -> Api<DynamicObject> {
        let (group, version) = API_VERSION.split_once('/').unwrap_or((API_VERSION, "v3"));
        let kind = GroupVersionKind::gvk(group, version, Kind::IPPool.as_str());
        let resource = ApiResource::from_gvk_with_plural(&kind, Kind::IPPool.plural());
        Api::all_with(self.client.clone(), &resource)
    }
}

/// Waits for an answer, for so long, and says in the port's words why there is none.
pub(crate) async fn bounded<T>(
    operation: impl Into<String>,
    patience: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, DatastoreError> {
    match tokio::time::timeout(patience, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(operation, error)),
        Err(_) => Err(DatastoreError::unavailable(operation, Silence(patience))),
    }
}

/// Whether a request failed because somebody was faster, or the object is not what it was.
pub(crate) fn is_conflict(error: &DatastoreError) -> bool {
    refusal_code(error).is_some_and(|code| code == 409 || code == 404)
}

/// Whether a request failed because there is no such thing.
pub(crate) fn is_absent(error: &DatastoreError) -> bool {
    refusal_code(error) == Some(404)
}

/// The code of an API server's refusal.
pub(crate) fn refusal_code(error: &DatastoreError) -> Option<u16> {
    let (DatastoreError::Unavailable { source, .. } | DatastoreError::Permission { source, .. }) = error
    else {
        return None;
    };
    source.downcast_ref::<Refusal>().map(|refusal| refusal.code)
}

fn failed(operation: impl Into<String>, error: kube::Error) -> DatastoreError {
    let operation = operation.into();
    match error {
        kube::Error::Api(status) => {
            let refusal = Refusal {
                code: status.code,
                reason: status.reason,
                message: status.message,
            };
            if refusal.code == 403 {
                DatastoreError::Permission {
                    operation,
                    source: Box::new(refusal),
                }
            } else {
                DatastoreError::unavailable(operation, refusal)
            }
        }
        other => DatastoreError::unavailable(operation, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_static_pod_is_known_by_its_manifest_too() {
        let metadata = ObjectMeta {
            name: Some("dns".to_owned()),
            namespace: Some("kube-system".to_owned()),
            uid: Some("1".to_owned()),
            annotations: Some(BTreeMap::from([(CONFIG_HASH.to_owned(), "abc".to_owned())])),
            ..ObjectMeta::default()
        };
        assert_eq!(PodIdentity::from(metadata).uids, ["1", "abc"]);
        assert_eq!(PodIdentity::from(ObjectMeta::default()), PodIdentity::default());
    }
}
