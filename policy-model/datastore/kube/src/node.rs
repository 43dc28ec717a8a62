//! What a node says of itself on its own Node object: its addresses, that its network is there, and how far it has come
//! when that is to go.
//!
//! All of it goes through the status of the object, the only part of it that an agent may change.

use crate::failure::RequestError;
use crate::store::KubeStore;
use http::Method;
use k8s_openapi::jiff::Timestamp;
use policy_model_datastore::DatastoreError;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const STRATEGIC: &str = "application/strategic-merge-patch+json";
const CONDITION: &str = "NetworkUnavailable";
/// What the condition gives as the reason, once the network is there.
const REASON: &str = "ManxIsUp";

impl KubeStore {
    /// Says on a node's own object that its network is there, and annotates it. Nothing is written where all of it is
    /// said already.
    ///
    /// # Errors
    /// [`DatastoreError::Unavailable`] or [`DatastoreError::Permission`]; nothing is written then.
    pub async fn announce_node(
        &self,
        node: &str,
        annotations: &BTreeMap<String, String>,
    ) -> Result<(), DatastoreError> {
        let operation = format!("say on node {node} that its network is there");
        let patch = |found: &Value| announcement(found, annotations, Timestamp::now());
        self.change_node(node, operation, patch).await
    }

    /// Annotates a node's own object, or takes an annotation away where it says none. Nothing is written where all of
    /// it is said already.
    ///
    /// # Errors
    /// [`DatastoreError::Unavailable`] or [`DatastoreError::Permission`]; nothing is written then.
    pub async fn annotate_node(
        &self,
        node: &str,
        annotations: &BTreeMap<String, Option<String>>,
    ) -> Result<(), DatastoreError> {
        let patch = |found: &Value| notes(found, annotations);
        self.change_node(node, format!("annotate node {node}"), patch)
            .await
    }

    /// Takes back what [`KubeStore::announce_node`] said of the network, and changes annotations on the way. A
    /// condition that somebody else wrote stays.
    ///
    /// The condition goes and does not become true: a node that says that it has no network is tainted for as long as
    /// nobody says otherwise, and not every network does. That the node is not ready says its kubelet anyway.
    ///
    /// # Errors
    /// [`DatastoreError::Unavailable`] or [`DatastoreError::Permission`]; nothing is written then.
    pub async fn withdraw_node(
        &self,
        node: &str,
        annotations: &BTreeMap<String, Option<String>>,
    ) -> Result<(), DatastoreError> {
        let operation = format!("take back on node {node} that its network is there");
        let patch = |found: &Value| withdrawal(found, annotations);
        self.change_node(node, operation, patch).await
    }

    async fn change_node(
        &self,
        node: &str,
        operation: String,
        patch: impl FnOnce(&Value) -> Option<Value>,
    ) -> Result<(), DatastoreError> {
        if !crate::origin::is_name(node) {
            return Err(DatastoreError::unavailable(
                operation,
                format!("{node:?} cannot be a node's name"),
            ));
        }
        let path = format!("/api/v1/nodes/{node}");
        let failed = |error: RequestError| error.during(operation.as_str());
        let found = self.api().read_json(&path, None).await.map_err(failed)?;
        if let Some(patch) = patch(&found) {
            let path = format!("{path}/status");
            let written = self.api().write(Method::PATCH, &path, STRATEGIC, &patch).await;
            written.map_err(failed)?;
        }
        Ok(())
    }
}

/// The condition of a node's network.
fn condition(node: &Value) -> Option<&Value> {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == CONDITION)
}

/// The patch that changes those annotations that are not as they are to be.
fn notes(node: &Value, annotations: &BTreeMap<String, Option<String>>) -> Option<Value> {
    let said = node.pointer("/metadata/annotations");
    let said = |key: &str| said.and_then(|said| said.get(key)).and_then(Value::as_str);
    let changed: BTreeMap<&String, &Option<String>> = annotations
        .iter()
        .filter(|(key, value)| said(key) != value.as_deref())
        .collect();
    (!changed.is_empty()).then(|| json!({ "metadata": { "annotations": changed } }))
}

/// The patch that takes back that the network is there, and changes annotations.
fn withdrawal(node: &Value, annotations: &BTreeMap<String, Option<String>>) -> Option<Value> {
    let noted = notes(node, annotations);
    if condition(node).is_none_or(|c| c["reason"] != REASON) {
        return noted;
    }
    let mut patch = noted.unwrap_or_else(|| json!({}));
    patch["status"] = json!({ "conditions": [{ "type": CONDITION, "$patch": "delete" }] });
    Some(patch)
}

/// The patch that says what is not said yet.
fn announcement(node: &Value, annotations: &BTreeMap<String, String>, now: Timestamp) -> Option<Value> {
    let said = node.pointer("/metadata/annotations");
    let missing: BTreeMap<&String, &String> = annotations
        .iter()
        .filter(|(key, value)| said.and_then(|said| said.get(key)).and_then(Value::as_str) != Some(value))
        .collect();
    let is_up = condition(node).is_some_and(|c| c["status"] == "False" && c["reason"] == REASON);
    if is_up && missing.is_empty() {
        return None;
    }
    let mut patch = json!({});
    if !missing.is_empty() {
        patch["metadata"] = json!({ "annotations": missing });
    }
    if !is_up {
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        patch["status"] = json!({ "conditions": [{
            "type": CONDITION,
            "status": "False",
            "reason": REASON,
            "message": "Manx connects pods on this node",
            "lastTransitionTime": now,
            "lastHeartbeatTime": now,
        }] });
    }
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_said_yet_is_said() {
        let wanted = BTreeMap::from([(
            "projectcalico.org/IPv4Address".to_owned(),
            "10.0.0.1/24".to_owned(),
        )]);
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let new =
            json!({ "metadata": {}, "status": { "conditions": [{ "type": CONDITION, "status": "True" }] } });
        let patch = announcement(&new, &wanted, now).unwrap();
        assert_eq!(
            patch["metadata"]["annotations"]["projectcalico.org/IPv4Address"],
            "10.0.0.1/24"
        );
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["lastTransitionTime"], "2023-11-14T22:13:20Z");
        let done = json!({
            "metadata": { "annotations": wanted, "resourceVersion": "1" },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }, condition] },
        });
        assert_eq!(announcement(&done, &wanted, now), None);
        let moved = BTreeMap::from([(
            "projectcalico.org/IPv4Address".to_owned(),
            "10.0.0.2/24".to_owned(),
        )]);
        let patch = announcement(&done, &moved, now).unwrap();
        assert!(patch.get("status").is_none() && patch.get("metadata").is_some());
    }

    #[test]
    fn what_was_said_is_taken_back_and_what_others_said_stays() {
        let changes = BTreeMap::from([
            ("projectcalico.org/IPv4Address".to_owned(), None),
            ("projectcalico.org/report".to_owned(), Some("done".to_owned())),
        ]);
        let node = json!({
            "metadata": { "annotations": { "projectcalico.org/IPv4Address": "10.0.0.1/24" } },
            "status": { "conditions": [{ "type": CONDITION, "status": "False", "reason": REASON }] },
        });
        let patch = withdrawal(&node, &changes).unwrap();
        let notes = &patch["metadata"]["annotations"];
        assert!(notes["projectcalico.org/IPv4Address"].is_null());
        assert_eq!(notes["projectcalico.org/report"], "done");
        assert_eq!(
            patch["status"]["conditions"],
            json!([{ "type": CONDITION, "$patch": "delete" }])
        );
        let gone = json!({ "metadata": { "annotations": { "projectcalico.org/report": "done" } } });
        assert_eq!(withdrawal(&gone, &changes), None, "nothing to say twice");
        let others = json!({
            "metadata": {},
            "status": { "conditions": [{ "type": CONDITION, "status": "False", "reason": "RouteCreated" }] },
        });
        let patch = withdrawal(&others, &changes).unwrap();
        assert!(
            patch.get("status").is_none() && patch["metadata"]["annotations"].as_object().unwrap().len() == 1
        );
    }
}
