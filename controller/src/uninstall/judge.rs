//! Who is in the way of an uninstall, and which nodes have said that they are done. Pure.

use k8s_openapi::api::core::v1::{Node, Pod};
use policy_model::{UninstallReport, UninstallState};
use std::collections::{BTreeMap, BTreeSet};

/// A node's agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Agent {
    node: String,
    /// Whether its container runs; an agent that is told to go is not ready, and answers all the same.
    is_running: bool,
}

/// What is known of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeFacts {
    name: String,
    /// Whether nobody has heard of it for so long that its state is unknown.
    is_silent: bool,
    report: Option<UninstallReport>,
}

/// How far the nodes have come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) done: BTreeSet<String>,
    /// Those that have not said so, and why.
    pub(super) waiting: BTreeMap<String, String>,
    /// Those that cannot say anything.
    pub(super) silent: BTreeSet<String>,
}

impl Progress {
    /// How many nodes there are.
    pub(super) fn number(&self) -> usize {
        self.done.len() + self.waiting.len() + self.silent.len()
    }

    pub(super) fn reasons(&self) -> Vec<String> {
        self.waiting
            .iter()
            .map(|(node, why)| format!("{node} ({why})"))
            .collect()
    }
}

impl Agent {
    /// The agent that a pod is, where it is on a node.
    pub(super) fn of(pod: Pod) -> Option<Agent> {
        let node = pod.spec?.node_name.filter(|node| !node.is_empty())?;
        let containers = pod.status.and_then(|status| status.container_statuses);
        let runs = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
            status.state.as_ref().is_some_and(|state| state.running.is_some())
        };
        Some(Agent {
            node,
            is_running: containers.is_some_and(|all| all.iter().any(runs)),
        })
    }
}

impl NodeFacts {
    pub(super) fn of(node: Node) -> NodeFacts {
        let conditions = node
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        let is_silent = |condition: &k8s_openapi::api::core::v1::NodeCondition| {
            condition.type_ == "Ready" && condition.status == "Unknown"
        };
        let annotations = node.metadata.annotations.unwrap_or_default();
        NodeFacts {
            is_silent: conditions.iter().any(is_silent),
            name: node.metadata.name.unwrap_or_default(),
            // What cannot be understood is no report.
            report: UninstallReport::read(&annotations).unwrap_or_default(),
        }
    }
}

/// The pods that would lose their network: they have addresses, none of which is their node's, on nodes with an agent.
pub(super) fn in_the_way(pods: &[Pod], agents: &[Agent]) -> Vec<String> {
    let nodes: BTreeSet<&str> = agents.iter().map(|agent| agent.node.as_str()).collect();
    let is_in_the_way = |pod: &&Pod| {
        let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else {
            return false;
        };
        let is_finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let is_here = spec.node_name.as_deref().is_some_and(|node| nodes.contains(node));
        let has_address = status
            .pod_ip
            .as_deref()
            .is_some_and(|address| !address.is_empty());
        !spec.host_network.unwrap_or(false) && !is_finished && is_here && has_address
    };
    pods.iter()
        .filter(is_in_the_way)
        .map(|pod| {
            let metadata = &pod.metadata;
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("{}/{}", text(&metadata.namespace), text(&metadata.name))
        })
        .collect()
}

/// How far the nodes with an agent have come in a run.
pub(super) fn progress(agents: &[Agent], nodes: &[NodeFacts], token: &str) -> Progress {
    let nodes: BTreeMap<&str, &NodeFacts> = nodes.iter().map(|node| (node.name.as_str(), node)).collect();
    let mut progress = Progress::default();
    for agent in agents {
        // A node that went takes all that was on it along.
        let Some(node) = nodes.get(agent.node.as_str()) else {
            continue;
        };
        let name = agent.node.clone();
        match node.report.as_ref().filter(|report| report.token == token) {
            Some(report) if report.state == UninstallState::Done => {
                progress.done.insert(name);
            }
            _ if node.is_silent => {
                progress.silent.insert(name);
            }
            Some(report) => {
                progress.waiting.insert(name, report.text.clone());
            }
            None => {
                let why = if agent.is_running {
                    "its agent has not answered yet"
                } else {
                    "its agent does not run"
                };
                progress.waiting.insert(name, why.to_owned());
            }
        }
    }
    progress
}

/// Whether a node still has a report of this run.
pub(super) fn has_report(nodes: &[NodeFacts], token: &str) -> bool {
    let mut reports = nodes
        .iter()
        .filter(|node| !node.is_silent)
        .filter_map(|node| node.report.as_ref());
    reports.any(|report| report.token == token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, spec: serde_json::Value, status: serde_json::Value) -> Pod {
        let pod =
            json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": spec, "status": status });
        serde_json::from_value(pod).unwrap()
    }

    fn agent(node: &str, is_running: bool) -> Agent {
        Agent {
            node: node.to_owned(),
            is_running,
        }
    }

    fn node(name: &str, ready: &str, report: Option<(&str, &str)>) -> NodeFacts {
        let report =
            report.map(|(token, state)| format!(r#"{{"token":"{token}","state":"{state}","text":"why"}}"#));
        let mut annotations = json!({});
        if let Some(report) = report {
            annotations[policy_model::UNINSTALL_REPORT] = report.into();
        }
        let node = json!({
            "metadata": { "name": name, "annotations": annotations },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        });
        NodeFacts::of(serde_json::from_value(node).unwrap())
    }

    #[test]
    fn pods_with_a_network_of_ours_are_in_the_way() {
        let spec = |more: serde_json::Value| {
            let mut spec = json!({ "containers": [], "nodeName": "a" });
            for (name, value) in more.as_object().unwrap() {
                spec[name] = value.clone();
            }
            spec
        };
        let running = json!({ "phase": "Running", "podIP": "10.0.0.1" });
        let pods = [
            pod("in-the-way", spec(json!({})), running.clone()),
            pod(
                "of-the-host",
                spec(json!({ "hostNetwork": true })),
                running.clone(),
            ),
            pod("without-agent", spec(json!({ "nodeName": "b" })), running.clone()),
            pod(
                "finished",
                spec(json!({})),
                json!({ "phase": "Succeeded", "podIP": "10.0.0.2" }),
            ),
            pod("no-address", spec(json!({})), json!({ "phase": "Pending" })),
            pod(
                "starting",
                spec(json!({})),
                json!({ "phase": "Pending", "podIP": "10.0.0.3" }),
            ),
        ];
        let found = in_the_way(&pods, &[agent("a", true)]);
        assert_eq!(found, ["shop/in-the-way", "shop/starting"]);
    }

    #[test]
    fn an_agent_is_where_its_pod_is() {
        let status = json!({ "containerStatuses": [{ "name": "felix", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": { "running": {} } }] });
        let on_a = pod("x", json!({ "containers": [], "nodeName": "a" }), status);
        assert_eq!(Agent::of(on_a), Some(agent("a", true)));
        let pending = pod("x", json!({ "containers": [] }), json!({}));
        assert_eq!(Agent::of(pending), None);
    }

    #[test]
    fn every_node_with_an_agent_has_to_answer_this_run() {
        let agents =
            ["done", "waits", "older", "dead", "off", "off-but-done"].map(|name| agent(name, name != "dead"));
        let nodes = [
            node("done", "False", Some(("1", "done"))),
            node("waits", "True", Some(("1", "waiting"))),
            node("older", "True", Some(("0", "done"))),
            node("dead", "True", None),
            node("off", "Unknown", Some(("1", "waiting"))),
            node("off-but-done", "Unknown", Some(("1", "done"))),
            node("without-agent", "True", None),
        ];
        let progress = progress(&agents, &nodes, "1");
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(progress.done, names(&["done", "off-but-done"]));
        assert_eq!(progress.silent, names(&["off"]));
        assert_eq!(
            progress.reasons(),
            [
                "dead (its agent does not run)",
                "older (its agent has not answered yet)",
                "waits (why)"
            ]
        );
        assert!(has_report(&nodes, "0") && !has_report(&nodes, "2"));
        let gone = super::progress(&[agent("gone", true)], &nodes, "1");
        assert_eq!(gone, Progress::default());
    }
}
