//! The leader's recurring work: which piece is due, and what became of it.
//!
//! Each piece has its own time, its own pauses after failures and its own line in the readiness, so that one that
//! cannot be done holds up none of the others.

use super::collection::{self, Collection};
use super::nodes::Departed;
use super::picture::{Changes, Picture};
use super::pools::{self, Pools};
use super::vitals::Pulse;
use super::work::Work;
use crate::chain;
use policy_model_datastore::{BackOff, Datastore};
use std::error::Error;
use std::time::{Duration, Instant};

/// How often a pool that waits for something is looked at.
const WAITING: Duration = Duration::from_secs(3);
/// How often pools are looked at of which others have addresses.
const OVERLAPPING: Duration = Duration::from_secs(30);
/// Pauses after failures.
const BACK_OFF: BackOff = BackOff {
    initial: Duration::from_secs(1),
    longest: Duration::from_secs(60),
    jitter: 0.5,
};

/// All pieces.
pub(super) struct Chores {
    departed: Departed,
    collection: Collection,
    pools: Pools,
    for_nodes: Schedule,
    for_addresses: Schedule,
    for_pools: Schedule,
    /// Whether the figures of usage are out of date.
    is_usage_due: bool,
}

/// When a piece is due.
struct Schedule {
    name: &'static str,
    due: Instant,
    failures: u32,
    /// What last failed, to say it once.
    said: Option<String>,
    pulse: Pulse,
}

impl Schedule {
    fn new(name: &'static str, work: &Work) -> Self {
        Schedule {
            name,
            due: Instant::now(),
            failures: 0,
            said: None,
            pulse: work.vitals.part(name),
        }
    }

    fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    /// Brings it forward, unless it waits after a failure.
    fn hurry(&mut self) {
        if self.failures == 0 {
            self.due = Instant::now();
        }
    }

    /// Notes what became of it, and when it is due again.
    fn done(&mut self, outcome: Result<Duration, impl Error>, work: &Work) {
        match outcome {
            Ok(period) => {
                self.failures = 0;
                self.said = None;
                self.pulse.set_problem(None);
                self.due = Instant::now() + period;
            }
            Err(error) => {
                let why = chain(&error);
                if self.said.as_ref() != Some(&why) {
                    tracing::warn!("{why}; it is tried again");
                    self.said = Some(why.clone());
                }
                work.figures.failed(self.name);
                self.pulse.set_problem(Some(why));
                self.due = Instant::now() + BACK_OFF.pause(self.failures, rand::random_range(0.0..=1.0));
                self.failures = self.failures.saturating_add(1);
            }
        }
    }
}

impl Chores {
    pub(super) fn new(work: &Work) -> Self {
        Chores {
            departed: Departed::default(),
            collection: Collection::default(),
            pools: Pools::default(),
            for_nodes: Schedule::new("node", work),
            for_addresses: Schedule::new("ipam", work),
            for_pools: Schedule::new("pools", work),
            is_usage_due: false,
        }
    }

    /// Notes what changed.
    pub(super) fn note(&mut self, changes: Changes) {
        if changes.nodes || changes.blocks {
            self.for_nodes.hurry();
        }
        if changes.pools || changes.node_addresses || (changes.blocks && self.pools.waits()) {
            self.for_pools.hurry();
        }
        self.is_usage_due |= changes.pools || changes.blocks;
    }

    /// Does what is due.
    pub(super) async fn turn(
        &mut self,
        work: &Work,
        store: &dyn Datastore,
        picture: &Picture,
        pulse: &Pulse,
    ) {
        if std::mem::take(&mut self.is_usage_due) {
            work.figures.tell_usage(&picture.usage());
        }
        let reconcile = work.settings.reconcile;
        let is_doubting = self.for_nodes.failures == 0 && !self.departed.is_idle();
        if work.settings.enabled.node && (self.for_nodes.is_due() || is_doubting) {
            let outcome = self
                .departed
                .pass(picture, store, &work.reach, pulse, &work.figures)
                .await;
            self.for_nodes.done(outcome.map(|()| reconcile), work);
        }
        if let Some(grace) = work.settings.leak_grace
            && work.settings.enabled.node
            && self.for_addresses.is_due()
        {
            let ground = collection::Ground {
                picture,
                store,
                reach: &work.reach,
                pulse,
                figures: &work.figures,
                grace,
            };
            let outcome = self.collection.pass(&ground).await;
            self.for_addresses
                .done(outcome.map(|()| reconcile.min(grace)), work);
        }
        if self.for_pools.is_due() {
            let ground = pools::Ground {
                store,
                reach: &work.reach,
                tenure: &work.tenure,
                pulse,
                picture,
                service_host: work.service_host.as_deref(),
            };
            let outcome = self.pools.pass(&ground).await;
            let period = |waits| match (waits, self.pools.has_overlap()) {
                (true, _) => WAITING,
                // That a range of Services is gone is not heard.
                (false, true) => reconcile.min(OVERLAPPING),
                (false, false) => reconcile,
            };
            self.for_pools.done(outcome.map(period), work);
        }
    }
}
