//! When to take, to renew and to leave a lease alone. Pure: the time is a parameter.
//!
//! Clocks of different machines are never compared. A lease of another is over when it was seen unchanged for as long
//! as it says that it lasts, by our own clock; its times of day are for people to read.

use std::time::{Duration, Instant};

/// How long a lease lasts and how it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// How long others leave a lease alone that is not renewed.
    pub duration: Duration,
    /// For how long its holder goes on working without having renewed it. Shorter than its duration: what is under way
    /// has the rest to come to its end before another may begin.
    pub renew_deadline: Duration,
    /// The pause between two tries, and between two renewals.
    pub retry: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Timings {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

impl Timings {
    /// What is wrong with them, where something is.
    pub fn fault(&self) -> Option<&'static str> {
        if self.retry.is_zero() {
            Some("the pause between two renewals of the lease must be longer than nothing")
        } else if self.renew_deadline <= self.retry {
            Some("the deadline of the lease's renewal must be longer than the pause between two renewals")
        } else if self.duration <= self.renew_deadline {
            Some("the lease must last longer than the deadline of its renewal")
        } else if self.duration < Duration::from_secs(1) {
            Some("the lease must last one second at least; it is kept in whole seconds")
        } else {
            None
        }
    }
}

/// A lease as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Who holds it; empty if nobody does.
    pub(crate) holder: String,
    /// How long it lasts after a renewal, as its holder says.
    pub(crate) duration: Option<Duration>,
    /// How often it went from one holder to another.
    pub(crate) transitions: i32,
    /// The version that a compare-and-swap compares; every renewal makes another.
    pub(crate) version: String,
}

/// What to do about a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is none: make it.
    Create,
    /// It is free or ours: write our name into this version of it, with so many transitions.
    Take { version: String, transitions: i32 },
    /// It is another's: look again after this.
    Wait(Duration),
}

/// A candidate for a lease.
#[derive(Debug)]
pub(crate) struct Candidate {
    identity: String,
    timings: Timings,
    /// The lease as it was last seen, and since when it is so.
    seen: Option<(Record, Instant)>,
}

impl Candidate {
    pub(crate) fn new(identity: impl Into<String>, timings: Timings) -> Self {
        Candidate {
            identity: identity.into(),
            timings,
            seen: None,
        }
    }

    /// Who holds the lease, as far as it is known.
    pub(crate) fn holder(&self) -> Option<&str> {
        let (record, _) = self.seen.as_ref()?;
        (!record.holder.is_empty()).then_some(record.holder.as_str())
    }

    /// What to do, when the lease was read at `now`.
    pub(crate) fn next(&mut self, read: Option<&Record>, now: Instant) -> Step {
        let Some(read) = read else {
            self.seen = None;
            return Step::Create;
        };
        let since = match &self.seen {
            Some((seen, since)) if seen == read => *since,
            _ => {
                self.seen = Some((read.clone(), now));
                now
            }
        };
        let take = |transitions| Step::Take {
            version: read.version.clone(),
            transitions,
        };
        if read.holder == self.identity {
            return take(read.transitions);
        }
        let lasts = read.duration.unwrap_or(self.timings.duration);
        let age = now.saturating_duration_since(since);
        if read.holder.is_empty() || age >= lasts {
            return take(read.transitions.saturating_add(1));
        }
        Step::Wait(self.timings.retry.min(lasts - age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn record(holder: &str, version: &str) -> Record {
        Record {
            holder: holder.to_owned(),
            duration: Some(15 * SECOND),
            transitions: 3,
            version: version.to_owned(),
        }
    }

    fn take(version: &str, transitions: i32) -> Step {
        Step::Take {
            version: version.to_owned(),
            transitions,
        }
    }

    #[test]
    fn what_is_absent_is_made_and_what_is_free_is_taken_at_once() {
        let now = Instant::now();
        let mut candidate = Candidate::new("me", Timings::default());
        assert_eq!(candidate.next(None, now), Step::Create);
        assert_eq!(candidate.next(Some(&record("", "7")), now), take("7", 4));
        assert_eq!(candidate.next(Some(&record("me", "8")), now), take("8", 3));
        assert_eq!(candidate.holder(), Some("me"));
    }

    #[test]
    fn anothers_is_left_alone_while_it_changes_and_for_its_duration_after() {
        let start = Instant::now();
        let mut candidate = Candidate::new("me", Timings::default());
        assert_eq!(
            candidate.next(Some(&record("you", "1")), start),
            Step::Wait(2 * SECOND)
        );
        // Seen by us for the first time, whatever its own times say: it lasts from now.
        assert_eq!(
            candidate.next(Some(&record("you", "1")), start + 14 * SECOND),
            Step::Wait(SECOND)
        );
        assert_eq!(
            candidate.next(Some(&record("you", "2")), start + 15 * SECOND),
            Step::Wait(2 * SECOND)
        );
        assert_eq!(
            candidate.next(Some(&record("you", "2")), start + 30 * SECOND),
            take("2", 4)
        );
    }

    #[test]
    fn timings_that_let_two_lead_are_refused() {
        assert_eq!(Timings::default().fault(), None);
        let wrong = Timings {
            renew_deadline: 15 * SECOND,
            ..Timings::default()
        };
        assert!(wrong.fault().is_some());
        let wrong = Timings {
            retry: 10 * SECOND,
            ..Timings::default()
        };
        assert!(wrong.fault().is_some());
    }

    proptest! {
        /// Whatever a candidate sees and when: it takes a lease of another only if it saw it unchanged for as long as
        /// the lease lasts.
        #[test]
        fn nobodys_valid_lease_is_taken(looks in prop::collection::vec((0u64..20, any::<bool>()), 1..60)) {
            let start = Instant::now();
            let mut candidate = Candidate::new("me", Timings::default());
            let (mut now, mut version, mut unchanged_since) = (start, 0, None);
            for (pause, renewed) in looks {
                now += Duration::from_secs(pause);
                if renewed {
                    version += 1;
                    unchanged_since = None;
                }
                let since = *unchanged_since.get_or_insert(now);
                let step = candidate.next(Some(&record("you", &version.to_string())), now);
                let is_over = now - since >= 15 * SECOND;
                prop_assert_eq!(matches!(step, Step::Take { .. }), is_over);
                if let Step::Wait(pause) = step {
                    prop_assert!(!pause.is_zero());
                }
            }
        }
    }
}
