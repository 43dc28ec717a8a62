//! Whether each loop moves, and whether its work is done: what liveness and readiness say in Kubernetes mode.
//!
//! A loop says that it moved; whoever asks compares that with the clock. So a loop that hangs is found by what it does
//! not say. A server that is away is no reason to restart, only not to be ready.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A loop that was silent for longer than this hangs: several times as long as one request may take.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// How all loops stand. Clones share one state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vitals {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What this replica is to the others.
    role: String,
    loops: BTreeMap<&'static str, Loop>,
}

#[derive(Debug)]
struct Loop {
    /// When it last moved; none for one that is part of another and has no time of its own.
    moved: Option<Instant>,
    doing: &'static str,
    /// Why its work is not done; none if it is.
    problem: Option<String>,
}

impl Vitals {
    /// A loop that begins, with the reason why it is not done yet.
    pub(crate) fn begin(&self, name: &'static str, problem: Option<&str>) -> Pulse {
        let begun = Loop {
            moved: Some(Instant::now()),
            doing: "begin",
            problem: problem.map(str::to_owned),
        };
        self.insert(name, begun)
    }

    /// A part of a loop, which has problems of its own and moves with the whole.
    pub(crate) fn part(&self, name: &'static str) -> Pulse {
        let part = Loop {
            moved: None,
            doing: "begin",
            problem: None,
        };
        self.insert(name, part)
    }

    fn insert(&self, name: &'static str, begun: Loop) -> Pulse {
        self.lock().loops.insert(name, begun);
        Pulse {
            vitals: self.clone(),
            name,
        }
    }

    /// Notes that a loop moves, on behalf of whoever works for it.
    pub(crate) fn moved(&self, name: &str) {
        if let Some(found) = self.lock().loops.get_mut(name)
            && found.moved.is_some()
        {
            found.moved = Some(Instant::now());
        }
    }

    /// Whether every loop moved lately, and a line about each that did not.
    pub(crate) fn liveness(&self, now: Instant) -> (bool, String) {
        let state = self.lock();
        let mut text = String::new();
        for (name, found) in &state.loops {
            let Some(moved) = found.moved else {
                continue;
            };
            let silent = now.saturating_duration_since(moved);
            if silent > SILENCE {
                let seconds = silent.as_secs();
                let _ = writeln!(
                    text,
                    "the loop '{name}' hangs since {seconds} s; it was about to {}",
                    found.doing
                );
            }
        }
        if text.is_empty() {
            (true, "all loops move\n".to_owned())
        } else {
            (false, text)
        }
    }

    /// Whether there is nothing that should be done and is not, and what that is.
    pub(crate) fn readiness(&self, now: Instant) -> (bool, String) {
        let (is_live, text) = self.liveness(now);
        if !is_live {
            return (false, text);
        }
        let state = self.lock();
        let mut text = String::new();
        for (name, found) in &state.loops {
            if let Some(problem) = &found.problem {
                let _ = writeln!(text, "not in step: {name}: {problem}");
            }
        }
        if text.is_empty() {
            (true, format!("{}; all is in step\n", state.role))
        } else {
            (false, text)
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The voice of one loop. The loop has ended, and is no longer asked about, when this is dropped.
#[derive(Debug)]
pub(crate) struct Pulse {
    vitals: Vitals,
    name: &'static str,
}

impl Pulse {
    /// Notes that the loop moves, and what it is about to do.
    pub(crate) fn moves(&self, doing: &'static str) {
        self.change(|found| {
            found.moved = Some(Instant::now());
            found.doing = doing;
        });
    }

    /// Notes why the work is not done, or that it is.
    pub(crate) fn set_problem(&self, problem: Option<String>) {
        self.change(|found| found.problem = problem);
    }

    /// Notes what this replica is to the others.
    pub(crate) fn set_role(&self, role: &str) {
        let mut state = self.vitals.lock();
        if state.role != role {
            role.clone_into(&mut state.role);
        }
    }

    fn change(&self, how: impl FnOnce(&mut Loop)) {
        if let Some(found) = self.vitals.lock().loops.get_mut(self.name) {
            how(found);
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.vitals.lock().loops.remove(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_is_judged_and_named() {
        let vitals = Vitals::default();
        let leader = vitals.begin("leader", Some("the lease has not been read yet"));
        let now = Instant::now();
        assert!(vitals.liveness(now).0);
        let (is_ready, text) = vitals.readiness(now);
        assert!(!is_ready && text.contains("leader: the lease"), "{text}");
        leader.set_problem(None);
        leader.set_role("stands by for a");
        assert_eq!(
            vitals.readiness(now),
            (true, "stands by for a; all is in step\n".to_owned())
        );
        let defaults = vitals.begin("defaults", None);
        defaults.moves("make the default pool");
        let late = Instant::now() + SILENCE + Duration::from_secs(1);
        let (is_live, text) = vitals.liveness(late);
        assert!(!is_live && text.contains("'defaults' hangs") && text.contains("make the default pool"));
        assert!(!vitals.readiness(late).0);
    }

    #[test]
    fn a_loop_that_ended_is_not_missed() {
        let vitals = Vitals::default();
        let work = vitals.begin("work", Some("away"));
        assert!(!vitals.readiness(Instant::now()).0);
        drop(work);
        let part = vitals.part("pools");
        assert!(
            vitals.liveness(Instant::now() + 2 * SILENCE).0,
            "a part has no time of its own"
        );
        part.set_problem(Some("away".to_owned()));
        assert!(!vitals.readiness(Instant::now()).0);
        vitals.moved("pools");
        assert!(vitals.liveness(Instant::now() + 2 * SILENCE).0);
        drop(part);
        assert!(vitals.readiness(Instant::now()).0);
        assert!(vitals.liveness(Instant::now() + 2 * SILENCE).0);
    }
}
