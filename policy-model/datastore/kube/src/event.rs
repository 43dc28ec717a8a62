//! Events: what went wrong for a node, where people look for it (`kubectl describe node`, `kubectl get events`).

use crate::store::KubeStore;
use http::Method;
use k8s_openapi::jiff::Timestamp;
use policy_model_datastore::DatastoreError;
use serde_json::{Value, json};

/// Where events of things without a namespace are, as kubelet has them.
const PATH: &str = "/api/v1/namespaces/default/events";
/// The API server takes no longer message.
const LONGEST_MESSAGE: usize = 1024;

impl KubeStore {
    /// Writes an event of the type Warning of a node. The reason is one word in CamelCase; a message of more than 1,024
    /// bytes is cut.
    ///
    /// # Errors
    /// [`DatastoreError::Unavailable`] or [`DatastoreError::Permission`]; it may or may not be written then.
    pub async fn warn_of_node(&self, node: &str, reason: &str, message: &str) -> Result<(), DatastoreError> {
        let body = warning(node, reason, message, Timestamp::now());
        let written = self.api().write(Method::POST, PATH, "application/json", &body);
        match written.await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.during(format!("write an event of node {node}"))),
        }
    }
}

fn warning(node: &str, reason: &str, message: &str, now: Timestamp) -> Value {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "generateName": format!("{node}."), "namespace": "default" },
        // kubectl looks for events of a node by its name in the place of the identity, which is how kubelet writes them.
        "involvedObject": { "apiVersion": "v1", "kind": "Node", "name": node, "uid": node },
        "type": "Warning",
        "reason": reason,
        "message": cut(message),
        "source": { "component": "manx", "host": node },
        "reportingComponent": "manx",
        "reportingInstance": node,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    })
}

/// As much of a message as an event takes.
fn cut(message: &str) -> String {
    if message.len() <= LONGEST_MESSAGE {
        return message.to_owned();
    }
    const MORE: &str = "…";
    let end = message.floor_char_boundary(LONGEST_MESSAGE - MORE.len());
    format!("{}{MORE}", message.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_the_api_server_takes() {
        assert_eq!(cut("short"), "short");
        for text in ["x".repeat(1024), "x".repeat(1025), "ü".repeat(600)] {
            let found = cut(&text);
            assert!(found.len() <= 1024 && found.len() > 1000, "{}", found.len());
            assert_eq!(found.ends_with('…'), text.len() > 1024);
        }
    }
}
