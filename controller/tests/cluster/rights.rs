//! The rights that the controller's README names, granted as they stand there: what a test does under them proves that
//! they suffice, and what the README does not name is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure.

use crate::bed::{Bed, NAMESPACE};
use serde_json::{Value, json};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
/// Name of the roles of an uninstall.
const UNINSTALL: &str = "manx-uninstall";
const README: &str = include_str!("../../README.md");

/// One thing that somebody may do: verb, group, resource and name, in a namespace or in the whole cluster.
#[derive(Debug)]
pub(crate) struct Right(
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Option<&'static str>,
);

impl Right {
    /// As a review of somebody's access says it.
    pub(crate) fn attributes(&self) -> Value {
        let Right(verb, group, resource, name, namespace) = self;
        json!({ "verb": verb, "group": group, "resource": resource, "name": name, "namespace": namespace })
    }
}

/// One right of each role of a controller.
pub(crate) const OF_A_CONTROLLER: [Right; 3] = [
    Right("list", "", "nodes", "", None),
    Right("create", "coordination.k8s.io", "leases", "", Some(NAMESPACE)),
    Right("get", "", "configmaps", "kubeadm-config", Some("kube-system")),
];
/// One right of each role of an uninstall.
pub(crate) const OF_AN_UNINSTALL: [Right; 2] = [
    Right("list", "", "nodes", "", None),
    Right("get", "", "serviceaccounts", "manx-node", Some(NAMESPACE)),
];

/// The rules of the table below a heading.
fn rules(heading: &str) -> Vec<Value> {
    let (_, after) = README.split_once(heading).expect("the README has the heading");
    let table = after
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    let words = |cell: &str| -> Vec<String> {
        let words = cell
            .split(',')
            .map(|word| word.trim().trim_matches('`').to_owned());
        words.filter(|word| !word.is_empty()).collect()
    };
    let rules: Vec<Value> = table
        .skip(2)
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let group = cells[1].trim_matches('`').replace("core", "");
            let mut rule = json!({
                "apiGroups": [group],
                "resources": words(cells[2]),
                "verbs": words(cells[4]),
            });
            let names = words(cells[3]);
            if !names.is_empty() {
                rule["resourceNames"] = json!(names);
            }
            rule
        })
        .collect();
    assert!(!rules.is_empty(), "{heading}");
    rules
}

/// Makes the roles.
pub(crate) async fn grant(bed: &Bed) {
    let role = |name: &str, heading: &str| json!({ "metadata": { "name": name }, "rules": rules(heading) });
    bed.put(
        &format!("{RBAC}/clusterroles"),
        role("manx-controller", "### In the whole cluster"),
    )
    .await;
    bed.put(
        &format!("{RBAC}/namespaces/{NAMESPACE}/roles"),
        role("manx-controller", "### In its own namespace"),
    )
    .await;
    bed.put(
        &format!("{RBAC}/namespaces/kube-system/roles"),
        role("manx-controller", "### In kube-system"),
    )
    .await;
    bed.put(
        &format!("{RBAC}/clusterroles"),
        role(UNINSTALL, "### What an uninstall may do in the whole cluster"),
    )
    .await;
    bed.put(
        &format!("{RBAC}/namespaces/{NAMESPACE}/roles"),
        role(UNINSTALL, "### What an uninstall may do in its own namespace"),
    )
    .await;
}

fn binding(account: &str, kind: &str, role: &str) -> Value {
    json!({
        "metadata": { "name": account },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role },
        "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": NAMESPACE }],
    })
}

/// Gives those of an uninstall to a service account.
pub(crate) async fn bind_uninstall(bed: &Bed, account: &str) {
    let of_cluster = binding(account, "ClusterRole", UNINSTALL);
    bed.put(&format!("{RBAC}/clusterrolebindings"), of_cluster).await;
    let of_namespace = binding(account, "Role", UNINSTALL);
    let path = format!("{RBAC}/namespaces/{NAMESPACE}/rolebindings");
    bed.put(&path, of_namespace).await;
}

/// Gives the controller's to a service account.
pub(crate) async fn bind(bed: &Bed, account: &str) {
    let binding = |kind: &str| binding(account, kind, "manx-controller");
    bed.put(&format!("{RBAC}/clusterrolebindings"), binding("ClusterRole"))
        .await;
    for namespace in [NAMESPACE, "kube-system"] {
        bed.put(
            &format!("{RBAC}/namespaces/{namespace}/rolebindings"),
            binding("Role"),
        )
        .await;
    }
}
