//! When what is in force is compared with the kernel, whatever its events said.
//!
//! Events tell of nearly every change of others at once; these looks find what no event told. The clock is a parameter.

use std::time::{Duration, Instant};

/// How often each part is looked at; zero is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefreshIntervals {
    /// What holds policy.
    pub policy: Duration,
    /// The IP sets alone, where policy is held in iptables.
    pub sets: Duration,
    /// The routes.
    pub routes: Duration,
    /// The interfaces.
    pub interfaces: Duration,
}

/// Which parts are to be looked at now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) policy: bool,
    pub(super) sets: bool,
    pub(super) routes: bool,
    pub(super) interfaces: bool,
}

/// When each part is looked at next.
#[derive(Debug)]
pub(super) struct Timers {
    policy: Timer,
    sets: Timer,
    routes: Timer,
    interfaces: Timer,
}

#[derive(Debug)]
struct Timer {
    every: Duration,
    due: Option<Instant>,
}

impl Timers {
    pub(super) fn new(intervals: RefreshIntervals, now: Instant) -> Self {
        let RefreshIntervals {
            policy,
            sets,
            routes,
            interfaces,
        } = intervals;
        Timers {
            policy: Timer::new(policy, now),
            sets: Timer::new(sets, now),
            routes: Timer::new(routes, now),
            interfaces: Timer::new(interfaces, now),
        }
    }

    /// The parts whose time has come. Their next one is counted from now.
    pub(super) fn take_due(&mut self, now: Instant) -> Due {
        Due {
            policy: self.policy.take(now),
            sets: self.sets.take(now),
            routes: self.routes.take(now),
            interfaces: self.interfaces.take(now),
        }
    }

    /// When the next part is due.
    pub(super) fn next(&self) -> Option<Instant> {
        let all = [&self.policy, &self.sets, &self.routes, &self.interfaces];
        all.into_iter().filter_map(|timer| timer.due).min()
    }
}

impl Timer {
    fn new(every: Duration, now: Instant) -> Self {
        let mut timer = Timer { every, due: None };
        timer.wind(now);
        timer
    }

    fn wind(&mut self, now: Instant) {
        // A time so far away that the clock does not have it is never.
        self.due = now.checked_add(self.every).filter(|_| !self.every.is_zero());
    }

    fn take(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            self.wind(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_own_time_and_zero_is_never() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let intervals = RefreshIntervals {
            policy: Duration::from_secs(10),
            sets: Duration::from_secs(40),
            routes: Duration::from_secs(4),
            interfaces: Duration::ZERO,
        };
        let mut timers = Timers::new(intervals, begin);
        let routes = Due {
            routes: true,
            ..Due::default()
        };
        assert_eq!(timers.take_due(begin), Due::default());
        assert_eq!(timers.next(), Some(at(4)));
        assert_eq!(timers.take_due(at(4)), routes);
        assert_eq!(timers.take_due(at(4)), Due::default(), "it is due once");
        assert_eq!(timers.next(), Some(at(8)));
        // What was missed is done once.
        let both = Due {
            policy: true,
            ..routes
        };
        assert_eq!(timers.take_due(at(30)), both);
        assert_eq!(timers.next(), Some(at(34)));

        let never = Timers::new(RefreshIntervals::default(), begin);
        assert_eq!(never.next(), None);
        let too_long = RefreshIntervals {
            policy: Duration::MAX,
            ..RefreshIntervals::default()
        };
        assert_eq!(Timers::new(too_long, begin).next(), None);
    }
}
