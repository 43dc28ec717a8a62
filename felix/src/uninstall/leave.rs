//! Waits until everything may be taken off the node: an order is there, and no pod is connected any more, or the order
//! is to cut those that are.
//!
//! Until then the agent goes on as ever, because pods that are still connected are held to policy and have to be
//! disconnected; only new ones are refused.

use super::annotation;
use super::door::Door;
use super::orders::{Orders, Standing};
use crate::agent::chain;
use crate::health::{Report, Reporter};
use felix_cni::journal::{Attachment, Attachments};
use policy_model::{UninstallOrder, UninstallReport, UninstallState};
use policy_model_datastore_kube::KubeStore;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Pause before a report that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How many pods a report names.
const NAMED: usize = 10;

/// Where reports go.
pub(crate) struct Reports {
    pub(crate) store: KubeStore,
    pub(crate) node: String,
    pub(crate) reporter: Reporter,
}

/// Returns the order once it can be carried out. An order that is taken back meanwhile is forgotten.
pub(crate) async fn until_empty(
    mut orders: Orders,
    door: Door,
    mut attachments: watch::Receiver<Attachments>,
    reports: Option<Reports>,
) -> UninstallOrder {
    let mut inside = door.inside();
    let mut said = None;
    loop {
        let order = match orders.now() {
            Standing::Ordered(order) => order,
            Standing::Unknown => {
                tell(
                    &reports,
                    Report::not_ready("whether Manx is being uninstalled is not known yet"),
                );
                orders.changed().await;
                continue;
            }
            Standing::Free => {
                door.open();
                tell(&reports, Report::ready());
                orders.changed().await;
                continue;
            }
        };
        door.shut();
        // Counted before the journal is read: who has left the door is in it.
        let standing_in_door = *inside.borrow_and_update();
        let connected = attachments.borrow_and_update().clone();
        if order.force || (standing_in_door == 0 && connected.is_empty()) {
            return order;
        }
        let text = waits_for(&connected, standing_in_door);
        tell(&reports, Report::not_ready(format!("being uninstalled: {text}")));
        let report = UninstallReport {
            token: order.token.clone(),
            state: UninstallState::Waiting,
            text,
        };
        if said.as_ref() != Some(&report) && write(&reports, &report).await {
            tracing::info!(reason = report.text, "Manx is being uninstalled");
            said = Some(report);
        }
        tokio::select! {
            () = orders.changed() => {}
            () = changed(&mut inside) => {}
            () = changed(&mut attachments) => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        // Nothing will change any more; the others may.
        std::future::pending::<()>().await;
    }
}

fn tell(reports: &Option<Reports>, report: Report) {
    if let Some(reports) = reports {
        reports.reporter.report(report);
    }
}

/// Says whether it was written, or nobody wants it.
async fn write(reports: &Option<Reports>, report: &UninstallReport) -> bool {
    let Some(reports) = reports else { return true };
    let said = annotation(Some(report));
    match reports.store.annotate_node(&reports.node, &said).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                "how far the uninstall has come cannot be reported"
            );
            false
        }
    }
}

/// What is in the way, for people.
fn waits_for(connected: &[Arc<Attachment>], standing_in_door: usize) -> String {
    if connected.is_empty() {
        return format!("{standing_in_door} pods are just being connected");
    }
    let mut names: Vec<String> = connected
        .iter()
        .map(|attachment| format!("{}/{}", attachment.namespace, attachment.pod))
        .collect();
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(NAMED);
    let number = names.len();
    names.truncate(NAMED);
    let rest = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{number} pods are still connected: {}{rest}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn connected(pods: &[&str]) -> Attachments {
        let attachment = |pod: &&str| {
            let key = json!({ "network": "n", "container_id": format!("c-{pod}"), "interface": "eth0" });
            let attachment = json!({
                "key": key, "namespace": "shop", "pod": pod, "addresses": [], "host_interface": "cali1",
            });
            Arc::new(serde_json::from_value::<Attachment>(attachment).unwrap())
        };
        Arc::new(pods.iter().map(attachment).collect())
    }

    fn order(force: bool) -> UninstallOrder {
        UninstallOrder {
            installation: "this".into(),
            token: "1".into(),
            force,
            ..UninstallOrder::default()
        }
    }

    #[tokio::test]
    async fn an_order_waits_for_the_last_pod_and_force_for_none() {
        let said = Arc::new(watch::channel(Standing::Free).0);
        let (journal, attachments) = watch::channel(connected(&["web"]));
        let door = Door::default();
        let begin = || {
            let empty = until_empty(Orders::on(said.clone()), door.clone(), attachments.clone(), None);
            tokio::spawn(empty)
        };
        let waiting = begin();
        said.send_replace(Standing::Ordered(order(false)));
        // It has heard the order when the door is shut, and then it has seen the pod.
        while !door.is_shut() {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "a pod is connected");
        journal.send_replace(connected(&[]));
        assert_eq!(waiting.await.unwrap(), order(false));
        journal.send_replace(connected(&["web"]));
        said.send_replace(Standing::Ordered(order(true)));
        assert_eq!(begin().await.unwrap(), order(true));
    }

    #[tokio::test]
    async fn an_order_that_is_taken_back_opens_the_door_again() {
        let said = Arc::new(watch::channel(Standing::Ordered(order(false))).0);
        let (_journal, attachments) = watch::channel(connected(&["web"]));
        let door = Door::default();
        let waiting = tokio::spawn(until_empty(
            Orders::on(said.clone()),
            door.clone(),
            attachments,
            None,
        ));
        while !door.is_shut() {
            tokio::task::yield_now().await;
        }
        said.send_replace(Standing::Free);
        while door.is_shut() {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        waiting.abort();
    }

    #[test]
    fn some_pods_are_named_and_the_others_counted() {
        let names: Vec<String> = (10..22).map(|n| format!("p{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let text = waits_for(&connected(&names), 0);
        assert!(
            text.starts_with("12 pods are still connected: shop/p10, "),
            "{text}"
        );
        assert!(text.ends_with("shop/p19 and 2 more"), "{text}");
        assert_eq!(waits_for(&[], 3), "3 pods are just being connected");
    }
}
