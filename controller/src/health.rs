//! Whether the controller moves, and whether its work is done.
//!
//! The loop says that it moved; whoever asks compares that with the clock. So a loop that hangs is found by the answer
//! that it cannot give.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A loop that was silent for longer than this hangs.
pub const SILENCE: Duration = Duration::from_secs(30);

/// How the loop stands. Clones share one state.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    moved: Instant,
    /// What it was about to do.
    doing: &'static str,
    /// Why its work is not done; none if it is.
    problem: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        Health::new()
    }
}

impl Health {
    /// A loop that has not begun.
    pub fn new() -> Health {
        Health {
            state: Arc::new(Mutex::new(State {
                moved: Instant::now(),
                doing: "start",
                problem: Some("the manifests and the datastore have not been read yet".to_owned()),
            })),
        }
    }

    /// Notes that the loop moves, and what it is about to do.
    pub(crate) fn moves(&self, doing: &'static str) {
        let mut state = self.lock();
        state.moved = Instant::now();
        state.doing = doing;
    }

    /// Notes why the work is not done, or that it is.
    pub(crate) fn set_problem(&self, problem: Option<String>) {
        self.lock().problem = problem;
    }

    /// Whether the loop moved lately, and a line about it.
    pub fn liveness(&self, now: Instant) -> (bool, String) {
        let state = self.lock();
        let silent = now.saturating_duration_since(state.moved);
        if silent > SILENCE {
            (
                false,
                format!(
                    "the loop 'controller' hangs since {} s; it was about to {}\n",
                    silent.as_secs(),
                    state.doing
                ),
            )
        } else {
            (true, "the loop 'controller' moves\n".to_owned())
        }
    }

    /// Whether the datastore is in step with the manifests, and a line about it.
    pub fn readiness(&self, now: Instant) -> (bool, String) {
        let (is_live, line) = self.liveness(now);
        if !is_live {
            return (false, line);
        }
        match &self.lock().problem {
            None => (true, "the datastore is in step with the manifests\n".to_owned()),
            Some(problem) => (false, format!("not in step: {problem}\n")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_noticed_and_named() {
        let health = Health::new();
        health.moves("write an object");
        health.set_problem(None);
        let now = Instant::now();
        assert!(health.liveness(now).0 && health.readiness(now).0);
        let later = now + SILENCE + Duration::from_secs(1);
        let (is_live, line) = health.liveness(later);
        assert!(!is_live && line.contains("write an object"), "{line}");
        assert!(!health.readiness(later).0);
        health.set_problem(Some("the datastore is away".into()));
        assert_eq!(
            health.readiness(now),
            (false, "not in step: the datastore is away\n".into())
        );
        assert!(
            health.liveness(now).0,
            "a datastore that is away is no reason to restart"
        );
    }
}
