//! Follows the datastore: objects for the engine, and the settings that are kept there.

use super::handle::{EngineHandle, Input};
use super::watched::Watched;
use super::wiring::chain;
use crate::health::{Report, Reporter};
use crate::settings::{ClusterSettings, Verdict};
use felix_cni::ClusterView;
use policy_model::{Kind, Resource};
use policy_model_datastore::{Datastore, Selection, SyncEvent, Syncer};
use std::sync::Arc;
use std::time::Duration;

/// Most events that are handed over at once.
const LARGEST_BATCH: usize = 10_000;

/// What the calculation graph is told of; of Services and network sets only once a policy needs them. ARCHITECTURE.md says of
/// each kind why it is followed.
const POLICY_KINDS: [Kind; 12] = [
    Kind::Tier,
    Kind::NetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::Profile,
    Kind::WorkloadEndpoint,
    Kind::HostEndpoint,
    Kind::NetworkSet,
    Kind::GlobalNetworkSet,
    Kind::ServiceEndpoints,
    Kind::IPPool,
    Kind::IPAMBlock,
    Kind::Node,
];

/// Hands what the datastore says to the engine and to those who attach pods, for good.
pub(super) async fn objects(
    store: Arc<dyn Datastore>,
    engine: Arc<EngineHandle>,
    view: Arc<ClusterView>,
    reporter: Reporter,
) {
    let kinds = POLICY_KINDS.into_iter().chain(ClusterView::KINDS);
    let mut watched = Watched::new(store, kinds);
    let mut beat = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            batch = watched.next_batch(LARGEST_BATCH) => {
                if let Some(error) = watched.trouble() {
                    tracing::warn!(error = chain(error), "the datastore is away; what is in force stays in force");
                }
                view.take(&batch);
                engine.send(Input::Events(batch));
            }
            _ = beat.tick() => {}
        }
        reporter.report(Report::ready());
    }
}

/// Returns once the datastore asks for other settings than those in force.
pub(super) async fn settings(store: Arc<dyn Datastore>, mut cluster: ClusterSettings) {
    let mut syncer = Syncer::with_usual_pauses(store, Selection::kinds([Kind::FelixConfiguration]));
    let mut complete = false;
    loop {
        for event in syncer.next_batch(LARGEST_BATCH).await {
            match event {
                SyncEvent::Upsert(versioned) => {
                    if let Resource::FelixConfiguration(found) = versioned.resource.as_ref() {
                        cluster.upsert(&found.metadata.name, &found.spec);
                    }
                }
                SyncEvent::Delete(key) => cluster.delete(&key.name),
                SyncEvent::InSync => complete = true,
                SyncEvent::Status(_) => {}
            }
        }
        // Nothing may be concluded from what was not told yet.
        if !complete {
            continue;
        }
        let judgement = cluster.judge();
        for warning in judgement.warnings {
            tracing::warn!("{warning}");
        }
        if let Verdict::Changed(changes) = judgement.verdict {
            for change in changes {
                tracing::info!(
                    setting = change.name,
                    before = change.before,
                    value = change.after,
                    "set by FelixConfiguration"
                );
            }
            return;
        }
    }
}
