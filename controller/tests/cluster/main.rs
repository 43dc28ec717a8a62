//! The controller in Kubernetes mode, as a program, against a real API server and under the rights of its README.

mod bed;
mod defaults;
mod giving_back;
mod leading;
mod pools;
mod rights;
mod uninstalling;

use tokio::sync::Mutex;

/// One API server at a time: each takes as much of a small machine as all of the rest.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
