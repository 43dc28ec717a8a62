//! What the leader does, and when.
//!
//! Everything here ends when the tenure does: it runs in one task, which is aborted, and writes through the fence.

use super::chores::Chores;
use super::defaults::Defaults;
use super::figures::Figures;
use super::leader::fence::Fenced;
use super::leader::tenure::Tenure;
use super::picture::{self, Picture};
use super::reach::Reach;
use super::settings::Settings;
use super::vitals::{Pulse, Vitals};
use crate::chain;
use policy_model_datastore::{BackOff, Datastore, SyncStatus, Syncer};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// For how long a cluster that is being made may give ranges to its nodes before the default pool is made without.
const YOUTH: Duration = Duration::from_secs(20);

/// The names of the loops.
const DEFAULTS: &str = "defaults";
const WORK: &str = "work";
/// How many events of the datastore are taken at once.
const BATCH: usize = 4096;
/// How often is looked whether something is due.
const BEAT: Duration = Duration::from_secs(1);

/// What a leader works with.
pub(super) struct Work {
    pub(super) settings: Arc<Settings>,
    pub(super) service_host: Option<String>,
    pub(super) store: Arc<dyn Datastore>,
    pub(super) reach: Reach,
    pub(super) tenure: Tenure,
    pub(super) vitals: Vitals,
    pub(super) figures: Figures,
}

impl Work {
    /// Works until it is aborted. Its loops are announced as not done before this returns, so that whoever leads is not
    /// ready before the work is done, not even for the moment until it starts.
    pub(super) fn run(self) -> impl Future<Output = ()> + Send + 'static {
        let defaults = self
            .vitals
            .begin(DEFAULTS, Some("the defaults have not been looked at yet"));
        let work = self
            .vitals
            .begin(WORK, Some("nodes, pools and blocks have not been read yet"));
        self.both(defaults, work)
    }

    async fn both(self, of_defaults: Pulse, of_work: Pulse) {
        let fenced = |worker| -> Arc<dyn Datastore> {
            let (store, vitals) = (Arc::clone(&self.store), self.vitals.clone());
            Arc::new(Fenced::new(store, self.tenure.clone(), vitals, worker))
        };
        let (for_defaults, for_work) = (fenced(DEFAULTS), fenced(WORK));
        tokio::join!(
            self.defaults(for_defaults.as_ref(), of_defaults),
            self.follow(&for_work, of_work)
        );
    }

    /// Makes what every cluster has, until it is there.
    async fn defaults(&self, store: &dyn Datastore, pulse: Pulse) {
        let begun = Instant::now();
        let back_off = BackOff::default();
        let (mut failures, mut said) = (0, None);
        loop {
            pulse.moves("make what every cluster has");
            let defaults = Defaults {
                store,
                reach: &self.reach,
                wanted: &self.settings.pools,
                service_host: self.service_host.as_deref(),
                is_patient: begun.elapsed() < YOUTH,
            };
            let Err(error) = defaults.make().await else {
                return;
            };
            let why = chain(&error);
            if said.as_ref() != Some(&why) {
                tracing::warn!("{why}; it is tried again");
                said = Some(why.clone());
            }
            self.figures.failed("defaults");
            pulse.set_problem(Some(why));
            let pause = back_off.pause(failures, rand::random_range(0.0..=1.0));
            failures = failures.saturating_add(1);
            tokio::time::sleep(pause).await;
        }
    }

    /// Follows nodes, pools and blocks, and does what follows from them.
    async fn follow(&self, store: &Arc<dyn Datastore>, pulse: Pulse) {
        let random = || rand::random_range(0.0..=1.0);
        let mut syncer = Syncer::new(
            Arc::clone(store),
            picture::selection(),
            BackOff::default(),
            random,
        );
        let mut picture = Picture::default();
        let mut chores = Chores::new(self);
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = None;
        loop {
            pulse.moves("wait for changes");
            tokio::select! {
                events = syncer.next_batch(BATCH) => chores.note(picture.apply(events)),
                _ = beat.tick() => {
                    let problem = absence(&syncer, picture.is_listed);
                    // That the first reading takes a moment is no news.
                    if let Some(why) = &problem
                        && said.as_ref() != Some(why)
                        && syncer.last_error().is_some()
                    {
                        tracing::warn!("{why}");
                        self.figures.failed("datastore");
                    }
                    pulse.set_problem(problem.clone());
                    said = problem;
                    if picture.is_listed {
                        chores.turn(self, store.as_ref(), &picture, &pulse).await;
                    }
                }
            }
        }
    }
}

/// Why nothing is known, or nothing new; none while changes follow.
fn absence(syncer: &Syncer, is_listed: bool) -> Option<String> {
    match (syncer.status(), syncer.last_error()) {
        (Some(SyncStatus::WaitForDatastore), Some(error)) => Some(chain(error)),
        _ if !is_listed => Some("nodes, pools and blocks have not been read yet".to_owned()),
        _ => None,
    }
}
