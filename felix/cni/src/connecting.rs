//! Makes interfaces, one after the other.
//!
//! The kernel has one lock for all changes of interfaces, addresses and routes. Threads that wait for it in the middle of
//! their work cost each other more than the work: of twenty interfaces at once, each by a thread of its own, half took more
//! than 23 ms, and by one thread 10 ms (2 processors, Linux 6.18; one alone takes 0.6 ms). So one thread does them all. Only
//! the wait for what the kernel does in the background is done elsewhere.

use crate::interface::{Interface, Made, blocking};
use crate::protocol::{Failure, code};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use tokio::sync::oneshot;

/// The thread, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Connector {
    jobs: Mutex<Sender<Job>>,
}

#[derive(Debug)]
struct Job {
    wanted: Interface,
    done: oneshot::Sender<Result<Made, Failure>>,
}

impl Connector {
    /// Starts the thread. It works in the network namespace of the thread that calls this.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (jobs, receiver) = channel();
        let thread = std::thread::Builder::new().name("connector".to_owned());
        thread.spawn(move || run(&receiver))?;
        Ok(Connector {
            jobs: Mutex::new(jobs),
        })
    }

    /// Makes an interface, waits until it carries packets, and returns its Ethernet address inside.
    pub(crate) async fn connect(&self, wanted: Interface) -> Result<String, Failure> {
        let (done, answer) = oneshot::channel();
        let ended = || Failure::new(code::KERNEL, "the thread that makes interfaces has ended");
        {
            let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            jobs.send(Job { wanted, done }).map_err(|_| ended())?;
        }
        let mut made = answer.await.map_err(|_| ended())??;
        if !made.is_ready {
            made = blocking(move || made.wait()).await?;
        }
        Ok(made.mac)
    }
}

fn run(jobs: &Receiver<Job>) {
    while let Ok(Job { wanted, done }) = jobs.recv() {
        // A fault of ours must not end the thread, or no pod would be connected any more.
        let connected = catch_unwind(AssertUnwindSafe(|| wanted.connect()));
        let failed = || {
            Failure::new(
                code::KERNEL,
                "making the interface ended in a fault of felix's own",
            )
        };
        // Who does not wait any more takes back what was made.
        let _ = done.send(connected.unwrap_or_else(|_| Err(failed())));
    }
}
