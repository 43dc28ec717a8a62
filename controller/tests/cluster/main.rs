//! The controller in Kubernetes mode, as a program, against a real API server and under the rights of its README.

mod bed;
mod defaults;
mod giving_back;
mod leading;
mod pools;
mod rights;
mod uninstalling;

use tokio::sync::{Semaphore, SemaphorePermit};

/// A test's turn, for as long as it holds this. Two API servers at a time: while one test waits for time to pass, another
/// works, and more of them would only make each other slow.
pub(crate) async fn turn() -> SemaphorePermit<'static> {
    static TURNS: Semaphore = Semaphore::const_new(2);
    #[expect(clippy::unwrap_used, reason = "nobody closes it")]
    TURNS.acquire().await.unwrap()
}
