//! How nodes, agents and controllers stand, as the API server knows it: conditions, pods, the lease.

use super::{Cluster, NoAnswer, escaped};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The lease by which one controller leads.
pub const LEASE: &str = "manx-controller";
/// How long a lease lasts that does not say it.
const LEASE_SECONDS: u64 = 15;

/// Which part of Manx a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Component {
    /// The agent of one node.
    Agent,
    /// A controller.
    Controller,
}

/// A pod of Manx itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ComponentPod {
    /// Which part it is.
    #[serde(skip)]
    pub component: Component,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node that it was given to; empty before that.
    pub node: String,
    /// Whether kubelet's probes find it ready.
    pub ready: bool,
    /// How often its containers were started again.
    pub restarts: u64,
    /// Why it is not ready, as far as its object says.
    pub why: Option<String>,
    /// Whether it connects pods itself, rather than policing another network's.
    #[serde(skip)]
    pub connects: bool,
}

/// A node as its object describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// What it says of its readiness.
    pub ready: Condition,
    /// What it says of its network being unavailable.
    pub network_unavailable: Condition,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What an object says under one type of condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Yes or no; none where it says nothing or "Unknown".
    pub holds: Option<bool>,
    /// Reason and message.
    pub why: String,
}

/// Who leads among the controllers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// Namespace of the lease.
    pub namespace: String,
    /// Who holds it; empty if nobody does.
    pub holder: String,
    /// For how many seconds it was not renewed, by the clock of this machine; none where it does not say.
    pub age: Option<u64>,
    /// For how many seconds it lasts.
    pub duration: u64,
}

/// The pods of Manx itself, in the order of their nodes.
///
/// # Errors
/// See [`NoAnswer`].
pub async fn component_pods(cluster: &Cluster) -> Result<Vec<ComponentPod>, NoAnswer> {
    let selector = escaped("app.kubernetes.io/name in (manx, manx-node, manx-controller)");
    let path = format!("/api/v1/pods?labelSelector={selector}");
    let found = cluster.list("pods", &path, |pod| component_pod(&pod)).await?;
    let mut pods: Vec<ComponentPod> = found.into_iter().flatten().collect();
    pods.sort_by(|a, b| (&a.node, &a.name).cmp(&(&b.node, &b.name)));
    Ok(pods)
}

/// The nodes, by name.
///
/// # Errors
/// See [`NoAnswer`].
pub async fn nodes(cluster: &Cluster) -> Result<Vec<NodeState>, NoAnswer> {
    let mut nodes = cluster
        .list("nodes", "/api/v1/nodes", |node| node_state(&node))
        .await?;
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nodes)
}

/// The controllers' lease, looked for in each of these namespaces; none where none of them has it.
///
/// # Errors
/// See [`NoAnswer`].
pub async fn lease(cluster: &Cluster, namespaces: &BTreeSet<String>) -> Result<Option<Lease>, NoAnswer> {
    let mut refusal = None;
    for namespace in namespaces {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE}");
        match cluster
            .get::<Value>(&format!("the lease {namespace}/{LEASE}"), &path)
            .await
        {
            Ok(value) => return Ok(Some(lease_of(namespace, &value, Timestamp::now()))),
            Err(NoAnswer::Absent { .. }) => {}
            Err(error) => refusal = Some(error),
        }
    }
    refusal.map_or(Ok(None), Err)
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    value
        .pointer(path)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn component_pod(pod: &Value) -> Option<ComponentPod> {
    let label = |name: &str| {
        let labels = pod.pointer("/metadata/labels");
        labels
            .and_then(|labels| labels.get(name))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let component = match (
        label("app.kubernetes.io/name"),
        label("app.kubernetes.io/component"),
    ) {
        ("manx-node", _) | ("manx", "node") => Component::Agent,
        ("manx-controller", _) | ("manx", "controller") => Component::Controller,
        _ => return None,
    };
    // What was evicted or has ended stays there to be read, and another took its place.
    if matches!(text(pod, "/status/phase"), "Failed" | "Succeeded") {
        return None;
    }
    let ready = condition(pod, "Ready");
    let statuses =
        || list(pod, "/status/containerStatuses").chain(list(pod, "/status/initContainerStatuses"));
    let restarts = statuses()
        .filter_map(|status| status.get("restartCount")?.as_u64())
        .sum();
    let is_ready = ready.holds == Some(true);
    Some(ComponentPod {
        component,
        namespace: text(pod, "/metadata/namespace").to_owned(),
        name: text(pod, "/metadata/name").to_owned(),
        node: text(pod, "/spec/nodeName").to_owned(),
        ready: is_ready,
        restarts,
        why: (!is_ready).then(|| why_not(pod, statuses(), &ready)),
        connects: list(pod, "/spec/volumes").any(|volume| text(volume, "/name") == "cni-conf"),
    })
}

/// The most telling of what a pod says about not being ready: a container that cannot start, one that ended, then the
/// condition.
fn why_not<'a>(pod: &Value, statuses: impl Iterator<Item = &'a Value>, ready: &Condition) -> String {
    let mut ended = None;
    for status in statuses {
        let name = text(status, "/name");
        let (reason, message) = (
            text(status, "/state/waiting/reason"),
            text(status, "/state/waiting/message"),
        );
        if !matches!(reason, "" | "PodInitializing" | "ContainerCreating") {
            return joined(&[name, reason, message]);
        }
        for state in ["/state/terminated", "/lastState/terminated"] {
            if let Some(code) = status
                .pointer(state)
                .and_then(|state| state.get("exitCode")?.as_i64())
            {
                let reason = status
                    .pointer(state)
                    .map(|state| text(state, "/reason"))
                    .unwrap_or_default();
                if code != 0 {
                    ended = Some(format!("{name} ended with code {code} ({reason})"));
                }
            }
        }
    }
    if let Some(ended) = ended {
        return ended;
    }
    match ready.why.as_str() {
        "" => format!("it is {}", text(pod, "/status/phase").to_ascii_lowercase()),
        why => why.to_owned(),
    }
}

fn joined(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    parts.join(": ")
}

fn condition(object: &Value, kind: &str) -> Condition {
    let found = list(object, "/status/conditions").find(|condition| text(condition, "/type") == kind);
    let Some(found) = found else {
        return Condition::default();
    };
    Condition {
        holds: match text(found, "/status") {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        },
        why: joined(&[text(found, "/reason"), text(found, "/message")]),
    }
}

fn node_state(node: &Value) -> NodeState {
    let is_address = |address: &&Value| matches!(text(address, "/type"), "InternalIP" | "ExternalIP");
    NodeState {
        name: text(node, "/metadata/name").to_owned(),
        ready: condition(node, "Ready"),
        network_unavailable: condition(node, "NetworkUnavailable"),
        addresses: list(node, "/status/addresses")
            .filter(is_address)
            .filter_map(|address| text(address, "/address").parse().ok())
            .collect(),
    }
}

fn lease_of(namespace: &str, lease: &Value, now: Timestamp) -> Lease {
    let renewed: Option<Timestamp> = text(lease, "/spec/renewTime").parse().ok();
    let age = renewed.map(|renewed| now.as_second().saturating_sub(renewed.as_second()));
    let duration = lease
        .pointer("/spec/leaseDurationSeconds")
        .and_then(Value::as_u64);
    Lease {
        namespace: namespace.to_owned(),
        holder: text(lease, "/spec/holderIdentity").to_owned(),
        age: age.map(|age| u64::try_from(age).unwrap_or(0)),
        duration: duration.unwrap_or(LEASE_SECONDS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_of_manx_says_how_it_stands() {
        let pod = |status: Value| {
            json!({
                "metadata": { "name": "manx-node-x", "namespace": "manx", "labels": { "app.kubernetes.io/name": "manx-node" } },
                "spec": { "nodeName": "n1", "volumes": [{ "name": "run" }, { "name": "cni-conf" }] },
                "status": status,
            })
        };
        let ready = component_pod(&pod(json!({
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [{ "name": "felix", "restartCount": 2 }],
        })))
        .unwrap();
        assert!(ready.ready && ready.connects && ready.component == Component::Agent);
        assert_eq!((ready.restarts, ready.why, ready.node.as_str()), (2, None, "n1"));
        let why = |status| component_pod(&pod(status)).unwrap().why.unwrap();
        assert_eq!(why(json!({ "phase": "Pending" })), "it is pending");
        let condition =
            json!({ "type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "felix" });
        assert_eq!(
            why(json!({ "conditions": [condition.clone()] })),
            "ContainersNotReady: felix"
        );
        let waiting = json!({ "name": "felix", "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no" } } });
        let says = json!({ "conditions": [condition.clone()], "containerStatuses": [waiting] });
        assert_eq!(why(says), "felix: ImagePullBackOff: no");
        let ended =
            json!({ "name": "felix", "lastState": { "terminated": { "exitCode": 2, "reason": "Error" } } });
        let says = json!({ "conditions": [condition], "containerStatuses": [ended] });
        assert_eq!(why(says), "felix ended with code 2 (Error)");
        assert_eq!(
            component_pod(&pod(json!({ "phase": "Failed", "reason": "Evicted" }))),
            None
        );
        let other = json!({ "metadata": { "labels": { "app.kubernetes.io/name": "manx" } } });
        assert_eq!(component_pod(&other), None);
    }

    #[test]
    fn nodes_and_leases_are_read() {
        let node = node_state(&json!({
            "metadata": { "name": "n1" },
            "status": {
                "conditions": [
                    { "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown" },
                    { "type": "NetworkUnavailable", "status": "False", "reason": "ManxIsUp" },
                ],
                "addresses": [
                    { "type": "InternalIP", "address": "192.0.2.1" }, { "type": "Hostname", "address": "n1" },
                    { "type": "InternalIP", "address": "2001:db8::1" },
                ],
            },
        }));
        assert_eq!(
            (node.ready.holds, node.ready.why.as_str()),
            (None, "NodeStatusUnknown")
        );
        assert_eq!(node.network_unavailable.holds, Some(false));
        assert_eq!(node.addresses.len(), 2);
        let now = "2026-01-01T00:00:30Z".parse().unwrap();
        let lease = lease_of(
            "manx",
            &json!({ "spec": {
                "holderIdentity": "c-1", "renewTime": "2026-01-01T00:00:20.500000Z", "leaseDurationSeconds": 20
            } }),
            now,
        );
        assert_eq!(
            (lease.holder.as_str(), lease.age, lease.duration),
            ("c-1", Some(10), 20)
        );
        assert_eq!(lease_of("manx", &json!({}), now).age, None);
    }
}
