//! What is said when the network is taken off a cluster: the order to the agents, and what each of them reports.
//!
//! An agent cannot tell that it is stopped from that it is to go for good: stopped, it leaves everything in force. So
//! the order stands on the object `ClusterInformation default`, and each agent's report on its own Node. Both are
//! annotations, because an API server silently drops fields that an older definition of a kind does not know, and an
//! order that never arrives is the worse failure. Pure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Annotation of `ClusterInformation default`: the order.
pub const UNINSTALL_ORDER: &str = "projectcalico.org/manx-uninstall";
/// Annotation of `ClusterInformation default`, written by people: `true` lets the next uninstall cut pods that run.
pub const UNINSTALL_FORCE: &str = "projectcalico.org/manx-uninstall-force";
/// Annotation of a Node: how far its agent has come.
pub const UNINSTALL_REPORT: &str = "projectcalico.org/manx-uninstall-report";

/// The order to the agents of one installation to take everything of theirs off their nodes.
///
/// It stays when the uninstall has ended, so that an agent that is started between its end and the removal of the
/// agents does not install itself again. It is no danger to a later installation, which has another identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UninstallOrder {
    /// UID of the service account of the agents that are meant. It outlives upgrades and every pod, and no other
    /// installation ever has it: no clock has to be trusted to tell an old order from a new one.
    pub installation: String,
    /// Names this run; reports that name another are of an earlier one.
    pub token: String,
    /// When it was given, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub begun: String,
    /// Whether pods that are connected are cut. Otherwise each node waits until they are gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Whether a step of its own on every node removes what the agents cannot reach: each waits for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_steps: bool,
    /// Whether all reports were seen: then the agents take them away again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closing: bool,
}

/// How far a node has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UninstallState {
    /// Something is in the way, or could not be removed yet.
    #[default]
    Waiting,
    /// Nothing of ours is left on the node.
    Done,
}

/// What a node's agent says of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UninstallReport {
    /// The run that it is about.
    pub token: String,
    /// How far it has come.
    #[serde(default)]
    pub state: UninstallState,
    /// What it waits for, or what could not be removed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// An annotation of the uninstall that says nothing that can be understood.
#[derive(Debug, thiserror::Error)]
#[error("the annotation {annotation} says {text:?}, which is none of Manx's words; remove it")]
pub struct InvalidUninstall {
    /// Which.
    pub annotation: &'static str,
    /// What it says.
    pub text: String,
    /// Why that is none.
    #[source]
    pub source: serde_json::Error,
}

impl UninstallOrder {
    /// The order among an object's annotations, if there is one.
    ///
    /// # Errors
    /// It cannot be understood.
    pub fn read(annotations: &BTreeMap<String, String>) -> Result<Option<Self>, InvalidUninstall> {
        read(annotations, UNINSTALL_ORDER)
    }

    /// The annotation's text.
    pub fn text(&self) -> String {
        // A struct of texts and truths always has a form in JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl UninstallReport {
    /// The report among a Node's annotations, if there is one.
    ///
    /// # Errors
    /// It cannot be understood.
    pub fn read(annotations: &BTreeMap<String, String>) -> Result<Option<Self>, InvalidUninstall> {
        read(annotations, UNINSTALL_REPORT)
    }

    /// The annotation's text.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn read<T: for<'a> Deserialize<'a>>(
    annotations: &BTreeMap<String, String>,
    annotation: &'static str,
) -> Result<Option<T>, InvalidUninstall> {
    let Some(text) = annotations.get(annotation).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match serde_json::from_str(text) {
        Ok(read) => Ok(Some(read)),
        Err(source) => Err(InvalidUninstall {
            annotation,
            text: text.clone(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(annotation: &str, text: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(annotation.to_owned(), text.to_owned())])
    }

    #[test]
    fn what_is_written_is_read_again() {
        let order = UninstallOrder {
            installation: "a".into(),
            token: "t".into(),
            begun: "2026-01-01T00:00:00Z".into(),
            force: true,
            has_steps: true,
            closing: false,
        };
        let read = UninstallOrder::read(&annotated(UNINSTALL_ORDER, &order.text())).unwrap();
        assert_eq!(read, Some(order));
        let report = UninstallReport {
            token: "t".into(),
            state: UninstallState::Done,
            text: String::new(),
        };
        assert_eq!(report.text(), r#"{"token":"t","state":"done"}"#);
        let read = UninstallReport::read(&annotated(UNINSTALL_REPORT, &report.text())).unwrap();
        assert_eq!(read, Some(report));
    }

    #[test]
    fn nothing_is_no_order_and_nonsense_is_named() {
        assert_eq!(UninstallOrder::read(&BTreeMap::new()).unwrap(), None);
        assert_eq!(
            UninstallOrder::read(&annotated(UNINSTALL_ORDER, "")).unwrap(),
            None
        );
        for nonsense in ["yes", "{}", r#"{"installation":1,"token":"t"}"#] {
            let error = UninstallOrder::read(&annotated(UNINSTALL_ORDER, nonsense)).unwrap_err();
            assert!(error.to_string().contains(UNINSTALL_ORDER), "{error}");
        }
        // What is not said is the careful thing: nobody is cut, and nobody is done.
        let short = r#"{"installation":"a","token":"t","new":1}"#;
        let order = UninstallOrder::read(&annotated(UNINSTALL_ORDER, short))
            .unwrap()
            .unwrap();
        assert!(!order.force && !order.has_steps && !order.closing);
        let report = UninstallReport::read(&annotated(UNINSTALL_REPORT, r#"{"token":"t"}"#)).unwrap();
        assert_eq!(report.unwrap().state, UninstallState::Waiting);
    }
}
