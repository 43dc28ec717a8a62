//! List, then watch, then list again when the watch breaks: one stream of changes that never ends.
//!
//! A consumer sees each object's newest state and exact removals whatever happens to the store meanwhile: after a
//! break, the new listing is compared with what was told before, and only the differences are told. Of what is as it was
//! nothing is kept while a listing is read, so that one of a large store takes little memory. Until everything was told
//! once, a listing is told while it is read.

use crate::told::Told;
use crate::{Datastore, DatastoreError, Part, Parts, Revision, Selection, Versioned, Watch, WatchEvent};
use policy_model::Key;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pauses between attempts to reach a store that does not answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackOff {
    /// The first pause.
    pub initial: Duration,
    /// The longest pause; each is twice the one before until then.
    pub longest: Duration,
    /// The part of a pause that is random, 0 to 1, so that many agents do not return at the same moment.
    pub jitter: f64,
}

impl Default for BackOff {
    fn default() -> Self {
        BackOff {
            initial: Duration::from_millis(100),
            longest: Duration::from_secs(10),
            jitter: 0.5,
        }
    }
}

impl BackOff {
    /// The pause after so many failures in a row (0 is the first), with a random number from 0 to 1.
    pub fn pause(&self, failures: u32, random: f64) -> Duration {
        let grown = self.initial.saturating_mul(2u32.saturating_pow(failures.min(31)));
        let jitter = if self.jitter.is_finite() {
            self.jitter.clamp(0.0, 1.0)
        } else {
            0.0
        };
        let random = if random.is_finite() {
            random.clamp(0.0, 1.0)
        } else {
            0.0
        };
        grown.min(self.longest).mul_f64(1.0 - jitter * random)
    }
}

/// How a syncer stands with its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncStatus {
    /// The store does not answer; what was told stays in force.
    WaitForDatastore,
    /// A listing is being told.
    ResyncInProgress,
    /// Everything of the listing was told, and changes follow as they come.
    InSync,
}

/// What a syncer tells.
#[derive(Clone, Debug, PartialEq)]
pub enum SyncEvent {
    /// An object is new or changed.
    Upsert(Versioned),
    /// An object that was told is gone.
    Delete(Key),
    /// For the first time everything was told. Comes once; before it, nothing may be concluded from an absence.
    InSync,
    /// The standing with the store changed.
    Status(SyncStatus),
}

/// How far the syncer has come with its store.
enum Stage {
    /// Nothing is asked.
    Idle,
    /// A listing is being read.
    Listing(Parts, Option<Relisted>),
    /// A listing was read; the watch that continues it is not there yet.
    Listed(Revision, Option<Relisted>),
    /// Changes are followed.
    Watching(Watch),
}

/// A listing that has to be compared with what was told before.
#[derive(Default)]
struct Relisted {
    /// What it has.
    listed: Told,
    /// Those of its objects that are not as they were told, where they are not told as they come.
    changed: BTreeMap<Key, Versioned>,
}

/// Follows a selection of a store for good.
pub struct Syncer {
    store: Arc<dyn Datastore>,
    selection: Selection,
    back_off: BackOff,
    random: Box<dyn FnMut() -> f64 + Send>,
    /// What was told, to tell only differences after a new listing.
    told: Told,
    queue: VecDeque<SyncEvent>,
    stage: Stage,
    status: Option<SyncStatus>,
    was_in_sync: bool,
    failures: u32,
    watching_since: Option<Instant>,
    not_before: Option<Instant>,
    last_error: Option<DatastoreError>,
}

impl Syncer {
    /// Makes a syncer; nothing is asked of the store before the first event is.
    ///
    /// `random` returns numbers from 0 to 1 for the pauses.
    pub fn new(
        store: Arc<dyn Datastore>,
        selection: Selection,
        back_off: BackOff,
        random: impl FnMut() -> f64 + Send + 'static,
    ) -> Self {
        Syncer {
            store,
            selection,
            back_off,
            random: Box::new(random),
            told: Told::default(),
            queue: VecDeque::new(),
            stage: Stage::Idle,
            status: None,
            was_in_sync: false,
            failures: 0,
            watching_since: None,
            not_before: None,
            last_error: None,
        }
    }

    /// A syncer with the usual pauses, which differ from one process to the next.
    pub fn with_usual_pauses(store: Arc<dyn Datastore>, selection: Selection) -> Self {
        let mut seed = u64::from(std::process::id());
        let random = move || {
            // They need to differ, no more.
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 11) as f64 / (1u64 << 53) as f64
        };
        Syncer::new(store, selection, BackOff::default(), random)
    }

    /// Waits for the next event. Dropping the future loses nothing.
    pub async fn next(&mut self) -> SyncEvent {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return event;
            }
            self.fill(1).await;
        }
    }

    /// Waits for an event, then returns what is there without further waiting, at most `max` events (and at least
    /// one, whatever `max` says), so that a consumer can treat a burst as one change. Dropping the future loses nothing.
    pub async fn next_batch(&mut self, max: usize) -> Vec<SyncEvent> {
        let max = max.max(1);
        while self.queue.is_empty() {
            self.fill(max).await;
        }
        if self.queue.len() <= max {
            // With its memory, which a listing may have made large.
            return std::mem::take(&mut self.queue).into();
        }
        self.queue.drain(..max).collect()
    }

    /// How the syncer stood with its store after the last event; `None` before the first.
    pub fn status(&self) -> Option<SyncStatus> {
        self.status
    }

    /// Why the store was last lost, to be logged beside a `WaitForDatastore` or a `ResyncInProgress`.
    pub fn last_error(&self) -> Option<&DatastoreError> {
        self.last_error.as_ref()
    }

    /// Makes one step that may add to the queue. Each `await` may be dropped: the step is then made again.
    async fn fill(&mut self, max: usize) {
        if self.status.is_none() {
            self.set_status(SyncStatus::WaitForDatastore);
            return;
        }
        match &mut self.stage {
            Stage::Watching(watch) => match watch.next_batch(max).await {
                Ok(events) => self.tell_changes(events),
                Err(error) => self.watch_broke(error),
            },
            Stage::Idle => {
                if let Some(moment) = self.not_before {
                    tokio::time::sleep_until(moment).await;
                    self.not_before = None;
                }
                match self.store.list_in_parts(self.selection.clone()).await {
                    // Where nothing was told there is nothing to compare with, and nothing can have gone.
                    Ok(parts) => {
                        let relisted = (!self.told.is_empty()).then(Relisted::default);
                        self.stage = Stage::Listing(parts, relisted);
                    }
                    Err(error) => self.listing_broke(error),
                }
            }
            Stage::Listing(parts, relisted) => match parts.next().await {
                Ok(Part::Objects(events)) => {
                    if let Some(relisted) = relisted {
                        events.iter().for_each(|event| relisted.note(event));
                        if self.was_in_sync {
                            let told = &self.told;
                            events.into_iter().for_each(|event| relisted.keep(event, told));
                            return;
                        }
                    }
                    self.set_status(SyncStatus::ResyncInProgress);
                    events.into_iter().for_each(|event| self.tell(event));
                }
                Ok(Part::End(revision)) => {
                    let relisted = relisted.take();
                    self.stage = Stage::Listed(revision, relisted);
                }
                Err(error) => self.listing_broke(error),
            },
            Stage::Listed(revision, relisted) => {
                match self.store.watch(self.selection.clone(), *revision).await {
                    Ok(watch) => {
                        let relisted = relisted.take();
                        self.stage = Stage::Watching(watch);
                        self.watching_since = Some(Instant::now());
                        self.resync(relisted);
                    }
                    Err(error) => self.listing_broke(error),
                }
            }
        }
    }

    fn tell_changes(&mut self, events: Vec<WatchEvent>) {
        // Only a watch that delivers shows that the store is well; one that breaks at once must not reset the pauses.
        self.failures = 0;
        events.into_iter().for_each(|event| self.tell(event));
    }

    fn watch_broke(&mut self, error: DatastoreError) {
        self.stage = Stage::Idle;
        // A watch that lived longer than any pause shows that the store was well, however quiet it was.
        if self
            .watching_since
            .is_some_and(|since| since.elapsed() > self.back_off.longest)
        {
            self.failures = 0;
        }
        // Falling behind is no fault of the store: the new listing comes at once.
        if !matches!(error, DatastoreError::Expired { .. }) {
            self.pause();
        }
        self.last_error = Some(error);
        self.set_status(SyncStatus::ResyncInProgress);
    }

    /// What a broken listing told stays told; the next one is compared with it.
    fn listing_broke(&mut self, error: DatastoreError) {
        self.stage = Stage::Idle;
        self.pause();
        self.last_error = Some(error);
        self.set_status(SyncStatus::WaitForDatastore);
    }

    /// Ends a listing: tells the differences between it and what was told before, where they were not told on its way.
    fn resync(&mut self, relisted: Option<Relisted>) {
        self.set_status(SyncStatus::ResyncInProgress);
        if let Some(Relisted { listed, changed }) = relisted {
            // Removals come first: what takes the place of something must not meet it. Before everything was told once,
            // nobody concludes anything from what they meet.
            for key in self.told.without(|key| listed.contains(key)) {
                self.queue.push_back(SyncEvent::Delete(key));
            }
            let upserts = changed.into_values().map(SyncEvent::Upsert);
            self.queue.extend(upserts);
            self.told = listed;
        }
        self.set_status(SyncStatus::InSync);
        if !self.was_in_sync {
            self.was_in_sync = true;
            self.queue.push_back(SyncEvent::InSync);
        }
    }

    fn tell(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Upsert(versioned) => self.upsert(&versioned.key(), versioned),
            WatchEvent::Delete { key, .. } => {
                if self.told.remove(&key) {
                    self.queue.push_back(SyncEvent::Delete(key));
                }
            }
        }
    }

    fn upsert(&mut self, key: &Key, versioned: Versioned) {
        if self.told.insert(key, &versioned.version) {
            self.queue.push_back(SyncEvent::Upsert(versioned));
        }
    }

    fn set_status(&mut self, status: SyncStatus) {
        if self.status != Some(status) {
            self.status = Some(status);
            self.queue.push_back(SyncEvent::Status(status));
        }
    }

    fn pause(&mut self) {
        let pause = self.back_off.pause(self.failures, (self.random)());
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause);
    }
}

impl Relisted {
    fn note(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Upsert(versioned) => {
                self.listed.insert(&versioned.key(), &versioned.version);
            }
            WatchEvent::Delete { key, .. } => {
                self.listed.remove(key);
            }
        }
    }

    /// Keeps an object that is not as it was told.
    fn keep(&mut self, event: WatchEvent, told: &Told) {
        match event {
            WatchEvent::Upsert(versioned) => {
                let key = versioned.key();
                if told.has(&key, &versioned.version) {
                    // It may have been another a moment ago.
                    self.changed.remove(&key);
                } else {
                    self.changed.insert(key, versioned);
                }
            }
            WatchEvent::Delete { key, .. } => {
                self.changed.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_are_shortened_by_chance() {
        let back_off = BackOff {
            initial: Duration::from_millis(100),
            longest: Duration::from_secs(1),
            jitter: 0.5,
        };
        assert_eq!(back_off.pause(0, 0.0), Duration::from_millis(100));
        assert_eq!(back_off.pause(1, 0.0), Duration::from_millis(200));
        assert_eq!(back_off.pause(9, 0.0), Duration::from_secs(1));
        assert_eq!(back_off.pause(u32::MAX, 0.0), Duration::from_secs(1));
        assert_eq!(back_off.pause(0, 1.0), Duration::from_millis(50));
        assert_eq!(back_off.pause(0, f64::NAN), Duration::from_millis(100));
        assert_eq!(
            BackOff {
                jitter: 7.0,
                ..back_off
            }
            .pause(0, 1.0),
            Duration::ZERO
        );
    }
}
