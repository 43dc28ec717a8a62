//! The right to act: held for as long as the lease is surely ours, and asked for before every write.
//!
//! A process can be stopped between any two instructions and resumed when another leads. So a right is not a fact that
//! was true once but a moment until which it is true, by a clock that does not stop with the process. The moment is
//! counted from before the renewal was sent: others count from when they see it, which is later.

use policy_model_datastore::DatastoreError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// The lease is not, or not surely, ours any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this controller no longer leads; whoever does will do it")]
pub(crate) struct NotLeading;

/// One time as the leader. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Tenure {
    until: Arc<Mutex<Until>>,
    /// How much longer than the right to begin something the lease itself lasts.
    respite: Duration,
}

#[derive(Debug)]
struct Until {
    moment: Instant,
    is_over: bool,
}

impl Tenure {
    /// A tenure whose right to begin something ends at `until`, and whose lease lasts `respite` longer.
    pub(crate) fn new(until: Instant, respite: Duration) -> Self {
        Tenure {
            until: Arc::new(Mutex::new(Until {
                moment: until,
                is_over: false,
            })),
            respite,
        }
    }

    /// The lease was renewed: the right lasts until later. A tenure that is over stays over.
    pub(crate) fn extend(&self, until: Instant) {
        let mut state = self.lock();
        state.moment = state.moment.max(until);
    }

    /// Ends it, whatever the clock says.
    pub(crate) fn end(&self) {
        self.lock().is_over = true;
    }

    /// Until when something may be begun, if it may be at `now`.
    pub(crate) fn until(&self, now: Instant) -> Result<Instant, NotLeading> {
        let state = self.lock();
        if state.is_over || now >= state.moment {
            return Err(NotLeading);
        }
        Ok(state.moment)
    }

    /// Does something that only the leader may do: begins it only while the right is held, and gives it up before the
    /// lease can be another's.
    ///
    /// # Errors
    /// [`NotLeading`], as an unavailable datastore; or what the work says.
    pub(crate) async fn act<T>(
        &self,
        operation: impl FnOnce() -> String,
        work: impl Future<Output = Result<T, DatastoreError>>,
    ) -> Result<T, DatastoreError> {
        let until = match self.until(Instant::now()) {
            Ok(until) => until,
            Err(error) => return Err(DatastoreError::unavailable(operation(), error)),
        };
        let last = tokio::time::Instant::from_std(until + self.respite);
        match tokio::time::timeout_at(last, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(DatastoreError::unavailable(operation(), NotLeading)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Until> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_right_ends_by_the_clock_and_by_word() {
        let start = Instant::now();
        let tenure = Tenure::new(start + 10 * SECOND, 5 * SECOND);
        assert_eq!(tenure.until(start + 9 * SECOND), Ok(start + 10 * SECOND));
        assert_eq!(tenure.until(start + 10 * SECOND), Err(NotLeading));
        tenure.extend(start + 12 * SECOND);
        tenure.extend(start + 11 * SECOND);
        assert_eq!(
            tenure.until(start + 11 * SECOND),
            Ok(start + 12 * SECOND),
            "an answer that comes late takes nothing away"
        );
        tenure.end();
        tenure.extend(start + 20 * SECOND);
        assert_eq!(tenure.until(start), Err(NotLeading));
    }

    #[tokio::test]
    async fn nothing_is_begun_without_the_right_and_nothing_outlasts_the_lease() {
        let now = Instant::now();
        let over = Tenure::new(now, SECOND);
        let mut has_begun = false;
        let refused = over
            .act(|| "write".into(), async {
                has_begun = true;
                Ok(())
            })
            .await;
        assert!(refused.is_err() && !has_begun);
        let short = Tenure::new(now + 60 * SECOND, Duration::ZERO);
        assert_eq!(short.act(|| "write".into(), async { Ok(7) }).await.unwrap(), 7);
        let ending = Tenure::new(Instant::now() + Duration::from_millis(20), Duration::ZERO);
        let hanging = ending.act(|| "write x".into(), std::future::pending::<Result<(), _>>());
        let error = hanging.await.unwrap_err();
        assert!(error.to_string().contains("write x"), "{error}");
    }
}
