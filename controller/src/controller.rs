//! The loop: what happens to the folder and to the datastore, and what follows from it.
//!
//! Nothing is written before the whole folder and the whole datastore were read once: until then an absence means
//! nothing, and what an earlier controller stored stays in force.

mod settle;
mod tell;

use crate::faults::{FaultLog, Standing};
use crate::folder::{Edit, Folder, FolderError, FolderOptions};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::observed::{self, Observed};
use crate::wanted::{Wanted, WantedOptions};
use policy_model::{Key, Kind, Resource};
use policy_model_datastore::{BackOff, Datastore, SyncEvent, SyncStatus, Syncer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// How many events of the datastore are taken at once.
const BATCH: usize = 4096;
/// How often the loop shows that it moves, and asks the datastore what is wrong in it.
const BEAT: Duration = Duration::from_secs(1);

/// How the controller works.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The manifest folder.
    pub manifests: PathBuf,
    /// How manifests become objects.
    pub wanted: WantedOptions,
    /// How the folder is followed.
    pub folder: FolderOptions,
    /// How often everything is compared anew, in case that an event was lost.
    pub resync: Duration,
    /// Where the list of faults is written; none writes none.
    pub fault_file: Option<PathBuf>,
    /// Pauses while the datastore does not answer.
    pub back_off: BackOff,
}

impl Options {
    /// The defaults for a folder.
    pub fn new(manifests: impl Into<PathBuf>) -> Options {
        Options {
            manifests: manifests.into(),
            wanted: WantedOptions::default(),
            folder: FolderOptions::default(),
            resync: Duration::from_secs(300),
            fault_file: None,
            back_off: BackOff::default(),
        }
    }
}

/// Why an object is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The manifests may say something else about it.
    Manifests,
    /// It may have changed in the datastore; if it must be written, somebody else changed it.
    Datastore,
}

/// What the loop waited for.
enum Happened {
    Files(Vec<Edit>),
    Stored(Vec<SyncEvent>),
    Retry,
    Resync,
    Beat,
}

/// The controller of one cluster.
pub struct Controller {
    options: Options,
    folder: Folder,
    wanted: Wanted,
    store: Arc<dyn Datastore>,
    syncer: Syncer,
    observed: Observed,
    /// Whether the whole datastore was read once.
    is_listed: bool,
    /// Objects as an earlier process stored them, whose file is broken now.
    kept: BTreeMap<Key, Arc<Resource>>,
    dirty: BTreeMap<Key, Cause>,
    /// When the oldest change of a file that is not yet worked off was seen.
    changed_at: Option<Instant>,
    /// Objects that the datastore refused, and why.
    rejected: BTreeMap<Key, String>,
    /// Objects that somebody else's stand in the way of.
    foreign: BTreeSet<Key>,
    /// Nodes that are gone and may still hold addresses.
    departed: BTreeSet<String>,
    /// Whether nodes that departed unseen may be found in the bookkeeping of addresses.
    is_collection_due: bool,
    retry_at: Option<Instant>,
    failures: u32,
    /// Why the last write failed.
    trouble: Option<String>,
    /// Why the datastore cannot be followed now.
    away: Option<String>,
    resync: Interval,
    beat: Interval,
    are_faults_due: bool,
    /// Whether the datastore held something invalid when it was last asked.
    has_store_faults: bool,
    fault_log: FaultLog,
    is_fault_file_wrong: bool,
    standing: Standing,
    told: watch::Sender<Standing>,
    metrics: Metrics,
    health: Health,
}

impl Controller {
    /// Reads the folder and makes a controller of it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The folder cannot be read or followed.
    pub fn new(
        options: Options,
        store: Arc<dyn Datastore>,
        metrics: Metrics,
        health: Health,
    ) -> Result<Controller, FolderError> {
        let folder = Folder::open(&options.manifests, options.folder)?;
        let random = || rand::random_range(0.0..=1.0);
        let syncer = Syncer::new(
            Arc::clone(&store),
            observed::selection(),
            options.back_off,
            random,
        );
        let standing = Standing {
            manifests: options.manifests.clone(),
            ..Standing::default()
        };
        let mut controller = Controller {
            wanted: Wanted::new(options.wanted),
            folder,
            store,
            syncer,
            observed: Observed::default(),
            is_listed: false,
            kept: BTreeMap::new(),
            dirty: BTreeMap::new(),
            changed_at: None,
            rejected: BTreeMap::new(),
            foreign: BTreeSet::new(),
            departed: BTreeSet::new(),
            is_collection_due: false,
            retry_at: None,
            failures: 0,
            trouble: None,
            away: None,
            resync: every(options.resync),
            beat: every(BEAT),
            are_faults_due: true,
            has_store_faults: false,
            fault_log: FaultLog::default(),
            is_fault_file_wrong: false,
            told: watch::Sender::new(standing.clone()),
            standing,
            metrics,
            health,
            options,
        };
        let edits = controller.folder.rescan();
        controller.take_files(&edits);
        Ok(controller)
    }

    /// How the controller stands, told after everything that it did.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.told.subscribe()
    }

    /// Works until `stop` is there. A write that runs then may or may not have happened; the next start finds out.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = self.turn() => {}
            }
        }
    }

    /// Waits for something to happen and works it off.
    async fn turn(&mut self) {
        let happened = self.wait().await;
        self.health.moves("take what changed");
        match happened {
            Happened::Files(edits) => {
                self.changed_at.get_or_insert_with(Instant::now);
                self.take_files(&edits);
            }
            Happened::Stored(events) => self.take_events(events),
            Happened::Retry => self.retry_at = None,
            Happened::Resync => self.compare_everything(),
            Happened::Beat => {
                // The first failure comes without an event of its own.
                self.note_absence();
                let are_there = !self.store.faults().is_empty();
                let were_there = std::mem::replace(&mut self.has_store_faults, are_there);
                self.are_faults_due |= are_there || were_there;
            }
        }
        self.settle().await;
        self.tell();
        self.health.moves("wait for changes");
    }

    async fn wait(&mut self) -> Happened {
        let retry = async {
            match self.retry_at {
                Some(moment) => tokio::time::sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Files first: the way from a manifest to a packet is what people wait for.
            biased;
            edits = self.folder.next() => Happened::Files(edits),
            events = self.syncer.next_batch(BATCH) => Happened::Stored(events),
            () = retry => Happened::Retry,
            _ = self.resync.tick() => Happened::Resync,
            _ = self.beat.tick() => Happened::Beat,
        }
    }

    fn take_files(&mut self, edits: &[Edit]) {
        for key in self.wanted.apply(edits) {
            self.dirty.insert(key, Cause::Manifests);
        }
        // A file that is whole again decides about what stayed for its sake; so may one that is broken now.
        for key in self.kept.keys() {
            self.dirty.insert(key.clone(), Cause::Manifests);
        }
        self.are_faults_due = true;
    }

    fn take_events(&mut self, events: Vec<SyncEvent>) {
        for event in events {
            let key = match event {
                SyncEvent::Upsert(versioned) => {
                    let key = versioned.key();
                    if !self.observed.set(versioned) {
                        continue;
                    }
                    key
                }
                SyncEvent::Delete(key) => {
                    if !self.observed.remove(&key) {
                        continue;
                    }
                    key
                }
                SyncEvent::InSync => {
                    self.is_listed = true;
                    self.are_faults_due = true;
                    self.compare_stored(Cause::Manifests);
                    continue;
                }
                SyncEvent::Status(status) => {
                    self.note_status(status);
                    continue;
                }
            };
            if key.kind == Kind::Node {
                self.wanted.placement_is_due();
            }
            if self.is_listed {
                self.dirty.entry(key).or_insert(Cause::Datastore);
            }
        }
    }

    fn note_status(&mut self, status: SyncStatus) {
        match status {
            SyncStatus::InSync => {
                if self.away.take().is_some() {
                    tracing::info!("the datastore answers again");
                    self.retry_at = None;
                }
            }
            SyncStatus::WaitForDatastore => self.note_absence(),
            SyncStatus::ResyncInProgress => {}
        }
    }

    /// Says once why the datastore does not answer, where it does not.
    fn note_absence(&mut self) {
        let is_waiting = self.syncer.status() == Some(SyncStatus::WaitForDatastore);
        let Some(error) = self.syncer.last_error().filter(|_| is_waiting) else {
            return;
        };
        let reason = crate::chain(error);
        if self.away.as_ref() != Some(&reason) {
            tracing::warn!("{reason}; what is in force stays in force");
            self.away = Some(reason);
        }
    }

    /// Reads the folder anew and looks at every object, in case that an event was lost.
    fn compare_everything(&mut self) {
        let edits = self.folder.rescan();
        self.take_files(&edits);
        if self.is_listed {
            self.compare_stored(Cause::Datastore);
        }
    }

    fn compare_stored(&mut self, cause: Cause) {
        self.wanted.placement_is_due();
        self.is_collection_due = true;
        for key in self.observed.own_keys().cloned().chain(self.wanted.keys()) {
            self.dirty.entry(key).or_insert(cause);
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval =
        tokio::time::interval_at(Instant::now() + period, period.max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
