//! Follows the datastore: objects for the engine, and the settings that are kept there.

use super::handle::{EngineHandle, Input};
use super::wiring::chain;
use crate::health::{Report, Reporter};
use crate::settings::{ClusterSettings, Verdict};
use felix_cni::ClusterView;
use policy_model::{Kind, Resource};
use policy_model_datastore::{BackOff, Datastore, Selection, SyncEvent, SyncStatus, Syncer};
use std::sync::Arc;
use std::time::Duration;

/// Most events that are handed over at once.
const LARGEST_BATCH: usize = 10_000;

/// What the calculation graph is told of, and what those who give addresses need beside it.
const KINDS: [Kind; 15] = [
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
    Kind::IPReservation,
    Kind::BlockAffinity,
    Kind::IPAMConfig,
];

fn syncer(store: Arc<dyn Datastore>, kinds: impl IntoIterator<Item = Kind>) -> Syncer {
    let back_off = BackOff {
        initial: Duration::from_millis(100),
        longest: Duration::from_secs(10),
        jitter: 0.5,
    };
    let mut seed = u64::from(std::process::id());
    let random = move || {
        // Pauses need to differ between agents, no more.
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 11) as f64 / (1u64 << 53) as f64
    };
    Syncer::new(store, Selection::kinds(kinds), back_off, random)
}

/// Hands what the datastore says to the engine and to those who attach pods, for good.
pub(super) async fn objects(
    store: Arc<dyn Datastore>,
    engine: Arc<EngineHandle>,
    view: Arc<ClusterView>,
    reporter: Reporter,
) {
    let mut syncer = syncer(store, KINDS);
    let mut beat = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            batch = syncer.next_batch(LARGEST_BATCH) => {
                if let (Some(error), Some(SyncStatus::WaitForDatastore)) = (syncer.last_error(), syncer.status()) {
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
    let mut syncer = syncer(store, [Kind::FelixConfiguration]);
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
