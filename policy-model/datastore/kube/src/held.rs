//! What the store holds in memory: no objects but the last valid forms of those that people may write wrongly.

use crate::origin::Origin;
use crate::position::Position;
use crate::read::{Event, Outcome, Reading};
use policy_model::{InvalidResource, Key, Kind};
use policy_model_datastore::{Fault, Revision, Selection, Version, Versioned, WatchEvent};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::{Duration, Instant};

/// How long the open ends of a listing wait for the watch that continues it. After that the watch opens new ones.
const PARKED_FOR: Duration = Duration::from_secs(10);
/// How many listings may wait for their watch.
const PARKED_AT_MOST: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Held {
    faults: Mutex<BTreeMap<(Origin, String), Fault>>,
    /// The last valid forms of custom resources: an object that becomes invalid stays in force as it was.
    valid: Mutex<HashMap<Key, Versioned>>,
    /// Which resources are known to be absent, so that it is said once.
    absent: Mutex<BTreeSet<Origin>>,
    streaming_refused: AtomicBool,
    newest: AtomicU64,
    parked: Mutex<Vec<Parked>>,
}

#[derive(Debug)]
struct Parked {
    selection: Selection,
    revision: Revision,
    since: Instant,
    positions: Vec<(Origin, Position)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    /// An object as the port gives it, if it is one; faults are noted on the way.
    pub(crate) fn versioned(&self, origin: Origin, reading: Reading) -> Option<Versioned> {
        let Reading {
            place,
            revision,
            outcome,
        } = reading;
        self.seen(revision);
        match outcome {
            Outcome::Object(resource, fault) => {
                let versioned = Versioned {
                    resource: Arc::from(resource),
                    version: Version::from(revision),
                    revision: Revision::new(revision),
                };
                self.judge(
                    origin,
                    place,
                    fault.map(|error| (Some(versioned.key()), error, true)),
                );
                if is_written_by_people(origin) {
                    lock(&self.valid).insert(versioned.key(), versioned.clone());
                }
                Some(versioned)
            }
            Outcome::Nothing(_) => {
                self.judge(origin, place, None);
                None
            }
            Outcome::Invalid(key, error) => {
                let valid = key.as_ref().and_then(|key| lock(&self.valid).get(key).cloned());
                self.judge(origin, place, Some((key, error, valid.is_some())));
                valid
            }
        }
    }

    /// A watch's event as the port gives it, if it says anything.
    pub(crate) fn event(&self, origin: Origin, event: Event) -> Option<WatchEvent> {
        match event {
            Event::Seen { reading, .. } => {
                let (revision, key) = (Revision::new(reading.revision), reading.outcome.key());
                let withdrawn = matches!(reading.outcome, Outcome::Nothing(_));
                let invalid = matches!(reading.outcome, Outcome::Invalid(..));
                match self.versioned(origin, reading) {
                    // What was told before stays in force as it is; there is nothing to tell.
                    _ if invalid => None,
                    Some(versioned) => Some(WatchEvent::Upsert(versioned)),
                    None if withdrawn => key.map(|key| WatchEvent::Delete { key, revision }),
                    None => None,
                }
            }
            Event::Gone(reading) => {
                self.seen(reading.revision);
                let revision = Revision::new(reading.revision);
                lock(&self.faults).remove(&(origin, reading.place));
                let key = reading.outcome.key()?;
                if is_written_by_people(origin) {
                    lock(&self.valid).remove(&key);
                }
                Some(WatchEvent::Delete { key, revision })
            }
            Event::Bookmark { revision, .. } => {
                self.seen(revision);
                None
            }
            Event::Refused(_) => None,
        }
    }

    /// Notes what was wrong with an object, or that nothing is any more.
    fn judge(&self, origin: Origin, place: String, fault: Option<(Option<Key>, InvalidResource, bool)>) {
        let mut faults = lock(&self.faults);
        match fault {
            Some((key, error, in_force)) => {
                let fault = Fault {
                    place: format!("{} {place}", origin.resource()),
                    key,
                    error,
                    in_force,
                };
                let place = (origin, place);
                if faults.get(&place) != Some(&fault) {
                    tracing::warn!(fault = %fault, "an object cannot be taken as it is");
                    faults.insert(place, fault);
                }
            }
            None if faults.is_empty() => {}
            None => drop(faults.remove(&(origin, place))),
        }
    }

    /// Whether anything is remembered of a resource's objects that a whole listing could show to be gone.
    pub(crate) fn remembers(&self, origin: Origin) -> bool {
        lock(&self.faults).keys().any(|(of, _)| *of == origin)
            || (is_written_by_people(origin) && !lock(&self.valid).is_empty())
    }

    /// Forgets what was wrong, and what was valid, of objects of a resource that are not in a whole listing of it.
    pub(crate) fn keep_only(&self, origin: Origin, places: &BTreeSet<String>) {
        lock(&self.faults).retain(|(of, place), _| *of != origin || places.contains(place));
        if is_written_by_people(origin) {
            lock(&self.valid).retain(|key, _| {
                let place = if key.namespace.is_empty() {
                    key.name.clone()
                } else {
                    format!("{}/{}", key.namespace, key.name)
                };
                key.kind != origin.kind() || places.contains(&place)
            });
        }
    }

    /// What cannot be taken as it is, at this moment.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        lock(&self.faults).values().cloned().collect()
    }

    /// Says once that a resource is absent, and once that it has come.
    pub(crate) fn note_absence(&self, origin: Origin, is_absent: bool) {
        let mut absent = lock(&self.absent);
        if is_absent && absent.insert(origin) {
            tracing::warn!(
                resource = origin.resource(),
                "is not defined in the cluster; its feature is off until it is"
            );
        } else if !is_absent && absent.remove(&origin) {
            tracing::info!(resource = origin.resource(), "is defined now; its feature is on");
        }
    }

    /// Whether this API server refused streaming lists.
    pub(crate) fn streaming_is_refused(&self) -> bool {
        self.streaming_refused.load(Ordering::Relaxed)
    }

    pub(crate) fn refuse_streaming(&self, why: &dyn std::fmt::Display) {
        if !self.streaming_refused.swap(true, Ordering::Relaxed) {
            tracing::info!(%why, "the API server has no streaming lists; plain ones are read");
        }
    }

    /// Notes a revision that the API server named.
    pub(crate) fn seen(&self, revision: u64) {
        self.newest.fetch_max(revision, Ordering::Relaxed);
    }

    /// The newest revision that the API server named.
    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// Keeps the ends of a listing for the watch that will continue it.
    pub(crate) fn park(&self, selection: Selection, revision: Revision, positions: Vec<(Origin, Position)>) {
        let mut parked = lock(&self.parked);
        parked.retain(|one| one.since.elapsed() < PARKED_FOR);
        if parked.len() >= PARKED_AT_MOST {
            parked.remove(0);
        }
        parked.push(Parked {
            selection,
            revision,
            since: Instant::now(),
            positions,
        });
    }

    /// Takes the ends of a listing, if they are still there.
    pub(crate) fn unpark(
        &self,
        selection: &Selection,
        revision: Revision,
    ) -> Option<Vec<(Origin, Position)>> {
        let mut parked = lock(&self.parked);
        parked.retain(|one| one.since.elapsed() < PARKED_FOR);
        let at = parked
            .iter()
            .position(|one| one.selection == *selection && one.revision == revision)?;
        Some(parked.remove(at).positions)
    }
}

/// Whether people write such objects, by hand and wrongly; and few enough to be held twice.
fn is_written_by_people(origin: Origin) -> bool {
    match origin {
        Origin::Custom(kind) => !matches!(kind, Kind::IPAMBlock | Kind::BlockAffinity | Kind::IPAMHandle),
        _ => false,
    }
}
