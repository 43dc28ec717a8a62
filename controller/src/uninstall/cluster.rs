//! The questions of an uninstall to the API server, and its order to the agents. Every answer is fresh, every question
//! has an end.

use super::judge::{Agent, NodeFacts};
use crate::cluster::reach::{bounded, refusal_code};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use policy_model::{API_VERSION, Kind, UNINSTALL_FORCE, UNINSTALL_ORDER, UninstallOrder};
use policy_model_datastore::DatastoreError;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;
use std::time::Duration;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many objects are asked for at once.
const PAGE: u32 = 500;
/// Name of the agents: of their service account, and in the label of their pods.
const AGENTS: &str = "manx-node";
/// Name of the object that carries the order.
const DEFAULT: &str = "default";

/// The way to the API server.
pub(super) struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    pub(super) fn new(client: Client, namespace: String) -> Self {
        Cluster { client, namespace }
    }

    /// Where the agents are.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The agents that are on nodes.
    pub(super) async fn agents(&self) -> Result<Vec<Agent>, DatastoreError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let agents = ListParams::default().labels(&format!("app.kubernetes.io/name={AGENTS}"));
        let pods = all("list the agents' pods", &api, agents).await?;
        Ok(pods.into_iter().filter_map(Agent::of).collect())
    }

    /// The UID of the agents' service account; none where there is none.
    pub(super) async fn agents_account(&self) -> Result<Option<String>, DatastoreError> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = bounded("get the agents' service account", PATIENCE, api.get_opt(AGENTS)).await?;
        Ok(found.and_then(|account| account.metadata.uid))
    }

    /// Every pod that is not finished.
    pub(super) async fn pods(&self) -> Result<Vec<Pod>, DatastoreError> {
        let api: Api<Pod> = Api::all(self.client.clone());
        let unfinished = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
        all("list pods", &api, unfinished).await
    }

    /// Every node.
    pub(super) async fn nodes(&self) -> Result<Vec<NodeFacts>, DatastoreError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let nodes = all("list nodes", &api, ListParams::default()).await?;
        Ok(nodes.into_iter().map(NodeFacts::of).collect())
    }

    /// Whether somebody allowed by annotation that pods are cut.
    pub(super) async fn is_force_allowed(&self) -> Result<bool, DatastoreError> {
        let operation = "get the ClusterInformation default";
        let found = bounded(operation, PATIENCE, self.information().get_opt(DEFAULT)).await?;
        let annotations = found.and_then(|found| found.metadata.annotations);
        Ok(annotations.is_some_and(|all| all.get(UNINSTALL_FORCE).is_some_and(|word| word == "true")))
    }

    /// Gives an order, or changes it. An order that is closing takes back that pods may be cut: the next uninstall asks
    /// anew.
    pub(super) async fn order(&self, order: &UninstallOrder) -> Result<(), DatastoreError> {
        let mut annotations = json!({ UNINSTALL_ORDER: order.text() });
        if order.closing {
            annotations[UNINSTALL_FORCE] = serde_json::Value::Null;
        }
        let patch = json!({ "metadata": { "annotations": annotations } });
        let (api, how, patch) = (self.information(), PatchParams::default(), Patch::Merge(&patch));
        let operation = "give the order on the ClusterInformation default";
        match bounded(operation, PATIENCE, api.patch(DEFAULT, &how, &patch)).await {
            Ok(_) => Ok(()),
            // Its controller never got so far.
            Err(error) if refusal_code(&error) == Some(404) => self.make(order).await,
            Err(error) => Err(error),
        }
    }

    async fn make(&self, order: &UninstallOrder) -> Result<(), DatastoreError> {
        let mut object = DynamicObject::new(DEFAULT, &resource()).data(json!({ "spec": {} }));
        object.metadata.annotations = Some([(UNINSTALL_ORDER.to_owned(), order.text())].into());
        let (api, how) = (self.information(), PostParams::default());
        let operation = "make the ClusterInformation default";
        let made = bounded(operation, PATIENCE, api.create(&how, &object)).await;
        made.map(drop)
    }

    fn information(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &resource())
    }
}

fn resource() -> ApiResource {
    let (group, version) = API_VERSION.split_once('/').unwrap_or((API_VERSION, "v3"));
    let kind = GroupVersionKind::gvk(group, version, Kind::ClusterInformation.as_str());
    ApiResource::from_gvk_with_plural(&kind, Kind::ClusterInformation.plural())
}

/// All pages of a list.
async fn all<K>(operation: &str, api: &Api<K>, wanted: ListParams) -> Result<Vec<K>, DatastoreError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut found = Vec::new();
    let mut ahead = wanted.clone().limit(PAGE);
    loop {
        let page = bounded(operation, PATIENCE, api.list(&ahead)).await?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => ahead = wanted.clone().limit(PAGE).continue_token(&token),
            None => return Ok(found),
        }
    }
}
