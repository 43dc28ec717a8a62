//! Named reporters, what they last said, and what that means at a moment.
//!
//! No clock: every function takes the moment, and [`Reporter`] is the only one that asks for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether every loop moves. If not, a restart may help.
    Liveness,
    /// Whether the node's policy is in sync and programmed. If not, nothing new should be sent here.
    Readiness,
}

/// Which probes a reporter counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Liveness alone.
    Liveness,
    /// Readiness alone.
    Readiness,
    /// Both.
    Both,
}

impl Counts {
    fn counts_for(self, probe: Probe) -> bool {
        match (self, probe) {
            (Counts::Both, _) => true,
            (Counts::Liveness, Probe::Liveness) | (Counts::Readiness, Probe::Readiness) => true,
            (Counts::Liveness, Probe::Readiness) | (Counts::Readiness, Probe::Liveness) => false,
        }
    }
}

/// What a loop says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether it works.
    pub live: bool,
    /// Whether what it is for is done.
    pub ready: bool,
    /// What a person should know, in a few words.
    pub detail: String,
}

impl Report {
    /// It works and what it is for is done.
    pub fn ready() -> Self {
        Report {
            live: true,
            ready: true,
            detail: String::new(),
        }
    }

    /// It works, and what it is for is not done, for this reason.
    pub fn not_ready(detail: impl Into<String>) -> Self {
        Report {
            live: true,
            ready: false,
            detail: detail.into(),
        }
    }

    /// It does not work, for this reason.
    pub fn failed(detail: impl Into<String>) -> Self {
        Report {
            live: false,
            ready: false,
            detail: detail.into(),
        }
    }

    /// The same report with words for a person.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}

/// Why a reporter does not pass a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It never reported.
    NeverReported,
    /// It was silent for longer than its limit.
    Stuck,
    /// It said so itself.
    Reported,
}

/// How a reporter stands with a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does not count for the probe.
    NotCounted,
    /// It passes.
    Passes,
    /// It does not pass.
    Fails {
        /// Why.
        trouble: Trouble,
        /// For how long it has not passed. A stuck loop does not pass from its last sign of life on, because from
        /// then on nobody knows whether it moved.
        since: Duration,
    },
}

impl Standing {
    fn fails(self) -> bool {
        matches!(self, Standing::Fails { .. })
    }
}

/// One reporter at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReporterState {
    /// Its name.
    pub name: String,
    /// How long it may be silent; none is for ever.
    pub limit: Option<Duration>,
    /// How long ago it last reported; none if it never did.
    pub age: Option<Duration>,
    /// How it stands with liveness.
    pub liveness: Standing,
    /// How it stands with readiness.
    pub readiness: Standing,
    /// What it last said.
    pub detail: String,
}

impl ReporterState {
    /// How it stands with a probe.
    pub fn standing(&self, probe: Probe) -> Standing {
        match probe {
            Probe::Liveness => self.liveness,
            Probe::Readiness => self.readiness,
        }
    }
}

#[derive(Debug)]
struct Entry {
    counts: Counts,
    limit: Option<Duration>,
    registered: Instant,
    reported: Option<Instant>,
    latest: Report,
    /// Since when the reporter itself says that it does not work.
    not_live_since: Option<Instant>,
    /// Since when it is not ready: from the beginning, until it says otherwise.
    not_ready_since: Option<Instant>,
}

impl Entry {
    fn standing(&self, probe: Probe, now: Instant) -> Standing {
        if !self.counts.counts_for(probe) {
            return Standing::NotCounted;
        }
        let (own_word, own_since) = match probe {
            Probe::Liveness => (self.latest.live, self.not_live_since),
            Probe::Readiness => (self.latest.ready, self.not_ready_since),
        };
        let sign_of_life = self.reported.unwrap_or(self.registered);
        let silence = now.saturating_duration_since(sign_of_life);
        // Silence comes first: what a stuck loop last said about itself says nothing about now.
        if self.limit.is_some_and(|limit| silence > limit) {
            let trouble = if self.reported.is_some() {
                Trouble::Stuck
            } else {
                Trouble::NeverReported
            };
            return Standing::Fails {
                trouble,
                since: silence,
            };
        }
        if own_word {
            return Standing::Passes;
        }
        let trouble = if self.reported.is_some() {
            Trouble::Reported
        } else {
            Trouble::NeverReported
        };
        Standing::Fails {
            trouble,
            since: now.saturating_duration_since(own_since.unwrap_or(sign_of_life)),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<String, Entry>,
    overrides: BTreeMap<String, Duration>,
}

/// All reporters together. Cheap to clone; every clone is the same aggregator.
#[derive(Clone, Debug, Default)]
pub struct HealthAggregator {
    inner: Arc<Mutex<Inner>>,
}

impl HealthAggregator {
    /// An aggregator without reporters, which passes no readiness probe. `overrides` are limits by name, whatever the
    /// case, in place of those that reporters ask for.
    pub fn new(overrides: &[(String, Duration)]) -> Self {
        let overrides = overrides
            .iter()
            .map(|(name, limit)| (name.to_ascii_lowercase(), *limit))
            .collect();
        HealthAggregator {
            inner: Arc::new(Mutex::new(Inner {
                entries: BTreeMap::new(),
                overrides,
            })),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock is held leaves nothing half done: every change is one assignment.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a reporter, or begins anew with one of that name. Until it reports it is live, for no longer than `limit`,
    /// and not ready. A limit of zero is no limit.
    pub fn register(&self, name: &str, counts: Counts, limit: Duration, now: Instant) -> Reporter {
        let mut inner = self.inner();
        let limit = inner
            .overrides
            .get(&name.to_ascii_lowercase())
            .copied()
            .unwrap_or(limit);
        let entry = Entry {
            counts,
            limit: (!limit.is_zero()).then_some(limit),
            registered: now,
            reported: None,
            latest: Report {
                live: true,
                ready: false,
                detail: String::new(),
            },
            not_live_since: None,
            not_ready_since: Some(now),
        };
        inner.entries.insert(name.to_owned(), entry);
        Reporter {
            aggregator: self.clone(),
            name: name.to_owned(),
        }
    }

    /// Takes a reporter out, when its loop ended on purpose.
    pub fn remove(&self, name: &str) {
        self.inner().entries.remove(name);
    }

    /// Takes a report. One of a reporter that was never registered is ignored, so that a loop that goes on after it
    /// was taken out does not come back.
    pub fn report(&self, name: &str, report: Report, now: Instant) {
        let mut inner = self.inner();
        let Some(entry) = inner.entries.get_mut(name) else {
            return;
        };
        entry.reported = Some(now);
        entry.not_live_since = if report.live {
            None
        } else {
            entry.not_live_since.or(Some(now))
        };
        entry.not_ready_since = if report.ready {
            None
        } else {
            entry.not_ready_since.or(Some(now))
        };
        entry.latest = report;
    }

    /// Every reporter at a moment, by name.
    pub fn states(&self, now: Instant) -> Vec<ReporterState> {
        let inner = self.inner();
        let states = inner.entries.iter().map(|(name, entry)| ReporterState {
            name: name.clone(),
            limit: entry.limit,
            age: entry
                .reported
                .map(|reported| now.saturating_duration_since(reported)),
            liveness: entry.standing(Probe::Liveness, now),
            readiness: entry.standing(Probe::Readiness, now),
            detail: entry.latest.detail.clone(),
        });
        states.collect()
    }

    /// Names of overrides that no reporter has, for a notice: they are probably slips of the pen.
    pub fn unused_overrides(&self) -> Vec<String> {
        let inner = self.inner();
        let known = |wanted: &str| inner.entries.keys().any(|name| name.eq_ignore_ascii_case(wanted));
        inner
            .overrides
            .keys()
            .filter(|name| !known(name))
            .cloned()
            .collect()
    }

    /// Whether a probe is passed at a moment. Nothing that counts for readiness means: not ready yet.
    pub fn passes(&self, probe: Probe, now: Instant) -> bool {
        passes(&self.states(now), probe)
    }
}

/// Whether a probe is passed in these states.
pub(super) fn passes(states: &[ReporterState], probe: Probe) -> bool {
    let mut counted = states
        .iter()
        .map(|state| state.standing(probe))
        .filter(|standing| *standing != Standing::NotCounted);
    match probe {
        Probe::Liveness => !counted.any(Standing::fails),
        Probe::Readiness => {
            let mut any = false;
            counted.all(|standing| {
                any = true;
                !standing.fails()
            }) && any
        }
    }
}

/// A loop's own way to report.
#[derive(Clone, Debug)]
pub struct Reporter {
    aggregator: HealthAggregator,
    name: String,
}

impl Reporter {
    /// The name under which it reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reports now.
    pub fn report(&self, report: Report) {
        self.aggregator.report(&self.name, report, Instant::now());
    }

    /// Reports at a moment.
    pub fn report_at(&self, report: Report, now: Instant) {
        self.aggregator.report(&self.name, report, now);
    }
}
