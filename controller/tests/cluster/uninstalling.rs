//! The job that takes the network off a cluster: whom it spares, what it orders, and whom it waits for.
//!
//! There are no kubelets here, so the test says what agents would say; what agents do is proven with felix itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure.

use crate::bed::{Bed, NAMESPACE, OURS, until};
use policy_model::{
    ClusterInformationSpec, Object, UNINSTALL_FORCE, UNINSTALL_ORDER, UNINSTALL_REPORT, UninstallOrder,
    UninstallReport, UninstallState,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Child, Command};

const INFORMATION: &str = "clusterinformations/default";

struct Uninstall {
    child: Child,
    log: PathBuf,
}

impl Uninstall {
    fn start(mut command: Command, log: PathBuf) -> Self {
        let output = std::fs::File::create(&log).unwrap();
        let child = command.stderr(output).spawn().unwrap();
        Uninstall { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn ended(&mut self) -> (Option<i32>, String) {
        (self.child.wait().unwrap().code(), self.said())
    }
}

impl Drop for Uninstall {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node, and where it is wanted an agent on it that runs.
async fn node(bed: &Bed, name: &str, address: &str) {
    bed.node(name, address, &[]).await;
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let agent = format!("agent-{name}");
    let pod = json!({
        "metadata": { "name": agent, "labels": { "app.kubernetes.io/name": "manx-node" } },
        "spec": { "nodeName": name, "hostNetwork": true, "containers": [{ "name": "felix", "image": "x" }] },
    });
    bed.put(&pods, pod).await;
    let status = json!({ "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
        "containerStatuses": [{ "name": "felix", "image": "x", "imageID": "x", "ready": true, "restartCount": 0,
            "state": { "running": {} } }] } });
    bed.change(&format!("{pods}/{agent}/status"), status).await;
}

async fn order(bed: &Bed) -> Option<UninstallOrder> {
    let found = bed.get(&format!("{OURS}/{INFORMATION}")).await?;
    let text = found["metadata"]["annotations"][UNINSTALL_ORDER]
        .as_str()?
        .to_owned();
    UninstallOrder::read(&[(UNINSTALL_ORDER.to_owned(), text)].into()).unwrap()
}

async fn report(bed: &Bed, node: &str, report: Option<UninstallReport>) {
    let text = report.map(|report| Value::from(report.text()));
    let change = json!({ "metadata": { "annotations": { (UNINSTALL_REPORT): text } } });
    bed.change(&format!("/api/v1/nodes/{node}"), change).await;
}

fn says(token: &str, state: UninstallState, text: &str) -> Option<UninstallReport> {
    Some(UninstallReport {
        token: token.to_owned(),
        state,
        text: text.to_owned(),
    })
}

#[tokio::test]
async fn pods_are_spared_and_every_node_is_waited_for() {
    let _turn = crate::turn().await;
    let bed = Bed::start().await;
    bed.define().await;
    let folder = tempfile::tempdir().unwrap();
    let log = |name: &str| folder.path().join(name);

    // Nothing is installed: there is nothing to take off, and the release may go.
    let mut nothing = Uninstall::start(bed.uninstall("job").await, log("nothing"));
    let (code, said) = nothing.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("no agent"), "{said}");

    bed.account("manx-node").await;
    for (name, address) in [("n1", "10.0.0.1"), ("n2", "10.0.0.2"), ("off", "10.0.0.3")] {
        node(&bed, name, address).await;
    }
    bed.pod("web", "n1", Some("10.65.0.1")).await;
    bed.pod("starting", "n1", None).await;
    let silent = json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } });
    bed.change("/api/v1/nodes/off/status", silent).await;

    // A pod is in the way: it is named, and nobody was told anything.
    let mut refused = Uninstall::start(bed.uninstall("job").await, log("refused"));
    let (code, said) = refused.ended();
    assert_eq!(code, Some(1), "{said}");
    for words in ["1 pods", "shop/web", UNINSTALL_FORCE, "Nothing was changed"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(
        !said.contains("shop/starting") && !said.contains("agent-n1"),
        "{said}"
    );
    assert_eq!(order(&bed).await, None);

    // The pod goes. The order is given, though the controller never made the object that it stands on.
    bed.remove("/api/v1/namespaces/shop/pods/web").await;
    let mut asked = bed.uninstall("job").await;
    asked.arg("--node-steps");
    let mut running = Uninstall::start(asked, log("running"));
    until("the order is given", async || order(&bed).await.is_some()).await;
    let given = order(&bed).await.unwrap();
    let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/manx-node");
    assert_eq!(
        given.installation,
        bed.get(&account).await.unwrap()["metadata"]["uid"]
    );
    assert!(!given.force && !given.closing && given.has_steps);
    // An answer to an earlier run is none, and one that waits is said.
    report(&bed, "n1", says("earlier", UninstallState::Done, "")).await;
    report(
        &bed,
        "n2",
        says(
            &given.token,
            UninstallState::Waiting,
            "2 pods are still connected",
        ),
    )
    .await;
    until("it says what is waited for", async || {
        let said = running.said();
        said.contains("n2: 2 pods are still connected")
            && said.contains("n1: its agent has not answered yet")
            && said.contains("off: its kubelet is silent")
    })
    .await;
    report(&bed, "n2", says(&given.token, UninstallState::Done, "")).await;
    until("one node is counted", async || {
        running.said().contains("n2: everything is off (1 of 3)")
    })
    .await;
    assert!(running.child.try_wait().unwrap().is_none(), "n1 has not answered");
    report(&bed, "n1", says(&given.token, UninstallState::Done, "")).await;
    until("the reports are not wanted any more", async || {
        order(&bed)
            .await
            .is_some_and(|order| order.closing && order.token == given.token)
    })
    .await;
    for node in ["n1", "n2"] {
        report(&bed, node, None).await;
    }
    let (code, said) = running.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Manx is off 2 nodes"), "{said}");
}

#[tokio::test]
async fn cutting_is_allowed_for_one_run_and_a_silent_agent_is_named() {
    let _turn = crate::turn().await;
    let bed = Bed::start().await;
    bed.define().await;
    bed.account("manx-node").await;
    bed.store(Object::named("default", ClusterInformationSpec::default()))
        .await;
    let information = format!("{OURS}/{INFORMATION}");
    let allow = json!({ "metadata": { "annotations": { (UNINSTALL_FORCE): "true", "kept": "yes" } } });
    bed.change(&information, allow).await;
    node(&bed, "n1", "10.0.0.1").await;
    bed.pod("web", "n1", Some("10.65.0.1")).await;
    let folder = tempfile::tempdir().unwrap();

    let mut asked = bed.uninstall("job").await;
    asked.args(["--timeout", "12s"]);
    let (code, said) = Uninstall::start(asked, folder.path().join("late")).ended();
    assert_eq!(code, Some(1), "{said}");
    for words in [
        "after 12 s",
        "n1 (its agent has not answered yet)",
        "--no-hooks",
        UNINSTALL_ORDER,
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let first = order(&bed).await.unwrap();
    assert!(first.force && !first.closing);

    // The next run goes on where the first one lost patience, with a name of its own.
    let mut running = Uninstall::start(bed.uninstall("job").await, folder.path().join("again"));
    until("it gives the order anew", async || {
        order(&bed).await.is_some_and(|order| order.token != first.token)
    })
    .await;
    let token = order(&bed).await.unwrap().token;
    report(&bed, "n1", says(&token, UninstallState::Done, "")).await;
    until("the order is closing", async || {
        order(&bed).await.is_some_and(|order| order.closing)
    })
    .await;
    let annotations = bed.get(&information).await.unwrap()["metadata"]["annotations"].clone();
    assert!(
        annotations.get(UNINSTALL_FORCE).is_none(),
        "the next uninstall asks anew"
    );
    assert_eq!(annotations["kept"], "yes");
    report(&bed, "n1", None).await;
    let (code, said) = running.ended();
    assert_eq!(code, Some(0), "{said}");
}
