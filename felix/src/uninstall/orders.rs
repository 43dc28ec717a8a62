//! Whether there is an order to take everything off, and whether this installation is meant.
//!
//! The object that carries the order outlives an installation. So an order names the service account of the agents that
//! are meant, by its UID, which no later installation has: an agent that finds an order of an earlier one passes over
//! it, and neither clocks nor anybody's tidying decide that.

use crate::agent::chain;
use policy_model::{Kind, Metadata, Resource, UninstallOrder};
use policy_model_datastore::{BackOff, DatastoreError, Selection, SyncEvent, Syncer};
use policy_model_datastore_kube::KubeStore;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Name of the object that carries the order.
const DEFAULT: &str = "default";
/// Most events that are taken at once.
const LARGEST_BATCH: usize = 100;
/// How long a start waits for the answer. Without one the agent begins and is not ready until it comes.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// What is known of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody has answered yet.
    #[default]
    Unknown,
    /// There is none for this installation.
    Free,
    /// There is one.
    Ordered(UninstallOrder),
}

/// Follows whether there is an order. Clones follow the same.
#[derive(Clone, Debug)]
pub struct Orders {
    standing: watch::Receiver<Standing>,
    /// Keeps the channel open where nobody else does.
    _said: Arc<watch::Sender<Standing>>,
}

impl Orders {
    /// There will never be one.
    pub fn none() -> Self {
        Orders::on(Arc::new(watch::channel(Standing::Free).0))
    }

    /// Follows the cluster's word, for as long as the runtime lives.
    pub fn follow(store: KubeStore) -> Self {
        let said = Arc::new(watch::channel(Standing::Unknown).0);
        tokio::spawn(follow(store, said.clone()));
        Orders::on(said)
    }

    pub(super) fn on(said: Arc<watch::Sender<Standing>>) -> Self {
        Orders {
            standing: said.subscribe(),
            _said: said,
        }
    }

    /// What is known now; [`Orders::changed`] waits for other news than this.
    pub(super) fn now(&mut self) -> Standing {
        self.standing.borrow_and_update().clone()
    }

    /// Waits for news.
    pub(super) async fn changed(&mut self) {
        if self.standing.changed().await.is_err() {
            // The sender lives as long as this does.
            std::future::pending::<()>().await;
        }
    }

    /// The first answer, or what is known when patience ends.
    pub(super) async fn at_start(&mut self) -> Standing {
        let answered = self.standing.wait_for(|standing| *standing != Standing::Unknown);
        match tokio::time::timeout(FIRST_ANSWER, answered).await {
            Ok(Ok(standing)) => standing.clone(),
            Ok(Err(_)) | Err(_) => Standing::Unknown,
        }
    }
}

async fn follow(store: KubeStore, said: Arc<watch::Sender<Standing>>) {
    let Some(installation) = identity(&store).await else {
        said.send_replace(Standing::Free);
        return;
    };
    let mut syncer = Syncer::with_usual_pauses(Arc::new(store), Selection::kinds([Kind::ClusterInformation]));
    let (mut standing, mut is_complete) = (Standing::Free, false);
    loop {
        for event in syncer.next_batch(LARGEST_BATCH).await {
            match event {
                SyncEvent::Upsert(versioned) => {
                    if let Resource::ClusterInformation(found) = versioned.resource.as_ref()
                        && found.metadata.name == DEFAULT
                    {
                        standing = standing_of(&found.metadata, &installation);
                    }
                }
                SyncEvent::Delete(key) if key.name == DEFAULT => standing = Standing::Free,
                SyncEvent::Delete(_) | SyncEvent::Status(_) => {}
                SyncEvent::InSync => is_complete = true,
            }
        }
        // Nothing may be concluded from what was not told yet.
        if is_complete {
            said.send_if_modified(|old| {
                let is_new = *old != standing;
                old.clone_from(&standing);
                is_new
            });
        }
    }
}

/// The identity of this installation; none where it has none that an order could name.
async fn identity(store: &KubeStore) -> Option<String> {
    let back_off = BackOff::default();
    let mut failures = 0;
    loop {
        match store.service_account_uid().await {
            Ok(found) => return found,
            Err(error @ DatastoreError::Permission { .. }) => {
                tracing::warn!(
                    error = chain(&error),
                    "the API server does not say who this agent is: an uninstall cannot tell it to leave this node; \
                     felix --cleanup does"
                );
                return None;
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(
                        error = chain(&error),
                        "it is not known yet which installation this is"
                    );
                }
                tokio::time::sleep(back_off.pause(failures, 0.5)).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

fn standing_of(metadata: &Metadata, installation: &str) -> Standing {
    match UninstallOrder::read(&metadata.annotations) {
        Ok(Some(order)) if order.installation == installation => Standing::Ordered(order),
        Ok(_) => Standing::Free,
        Err(error) => {
            tracing::warn!(error = chain(&error), "an order to uninstall is not understood");
            Standing::Free
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model::UNINSTALL_ORDER;
    use std::collections::BTreeMap;

    #[test]
    fn an_order_is_for_the_installation_that_it_names() {
        let order = UninstallOrder {
            installation: "this".into(),
            token: "1".into(),
            ..UninstallOrder::default()
        };
        let says = |text: String| Metadata {
            annotations: BTreeMap::from([(UNINSTALL_ORDER.to_owned(), text)]),
            ..Metadata::default()
        };
        let ordered = Standing::Ordered(order.clone());
        assert_eq!(standing_of(&says(order.text()), "this"), ordered);
        assert_eq!(standing_of(&says(order.text()), "a later one"), Standing::Free);
        assert_eq!(standing_of(&says("yes".to_owned()), "this"), Standing::Free);
        assert_eq!(standing_of(&Metadata::default(), "this"), Standing::Free);
    }
}
