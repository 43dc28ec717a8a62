//! The thread that has the flows of vacant addresses forgotten, beside the passes: one look through connection tracking
//! for all that have gathered.
//!
//! A pass that looked by itself would keep everything else waiting for the 7 ms that the kernel takes for it.
//!
//! Somebody may be given an address between the order and the look, or while it goes on: then the pass has looked by
//! itself, and whatever the address has from then on is its holder's. So the look asks of every entry, once it is read,
//! whether its address is still vacant.

use crate::interfaces::describe;
use crate::pass::ApplyError;
use crate::vacancies::Vacated;
use dataplane_netlink::Patience;
use dataplane_netlink::conntrack::{Conntrack, Outcome};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[cfg(test)]
#[path = "walker_tests.rs"]
mod tests;

/// How long a packet that met the table without an address's guard may be on its way to where its entry is made.
const ON_ITS_WAY: Duration = Duration::from_millis(10);
/// How long the first address waits for others.
const GATHER: Duration = Duration::from_millis(25);
/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A look that found nothing left of some addresses.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) vacated: Vec<Vacated>,
    /// How many entries it removed.
    pub(crate) removed: usize,
}

/// The addresses whose flows may be removed, as far as they were ordered.
#[derive(Clone, Debug, Default)]
struct Vacant(Arc<Mutex<BTreeSet<IpAddr>>>);

impl Vacant {
    /// A holder of the lock that panicked leaves whole addresses behind: the set is true.
    fn with<Outcome>(&self, use_it: impl FnOnce(&mut BTreeSet<IpAddr>) -> Outcome) -> Outcome {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn contains(&self, address: &IpAddr) -> bool {
        self.with(|vacant| vacant.contains(address))
    }
}

/// The thread's other end. It ends with it.
#[derive(Debug)]
pub(crate) struct Walker {
    vacant: Vacant,
    orders: Sender<Vec<Vacated>>,
    ended: Receiver<Walked>,
    woken: UnixStream,
}

impl Walker {
    /// Starts a thread in the caller's network namespace.
    pub(crate) fn start(patience: Patience) -> Result<Self, ApplyError> {
        let (walker, work) = Self::made(patience)?;
        std::thread::Builder::new()
            .name("walker".to_owned())
            .spawn(move || work.run())
            .map_err(ApplyError::Thread)?;
        Ok(walker)
    }

    /// Both ends of the thread that is to be.
    fn made(patience: Patience) -> Result<(Self, Work), ApplyError> {
        let conntrack = Conntrack::open_with(patience).map_err(ApplyError::Flows)?;
        let (orders, ordered) = channel();
        let (report, ended) = channel();
        let (woken, wake) = UnixStream::pair().map_err(ApplyError::Thread)?;
        woken
            .set_nonblocking(true)
            .and_then(|()| wake.set_nonblocking(true))
            .map_err(ApplyError::Thread)?;
        let vacant = Vacant::default();
        let work = Work {
            conntrack,
            vacant: vacant.clone(),
            ordered,
            report,
            wake,
            due: Vec::new(),
        };
        let walker = Walker {
            vacant,
            orders,
            ended,
            woken,
        };
        Ok((walker, work))
    }

    /// Has the flows of addresses forgotten that the table guards from now on.
    pub(crate) fn order(&self, vacated: Vec<Vacated>) {
        if vacated.is_empty() {
            return;
        }
        let addresses = vacated.iter().map(|vacated| vacated.address);
        self.vacant.with(|vacant| vacant.extend(addresses));
        if self.orders.send(vacated).is_err() {
            // Then no address is clean, and each arrival looks by itself.
            tracing::error!("the thread that looks through connection tracking has ended");
        }
    }

    /// Has no entry removed any more that comes to be from now on, but those of these addresses.
    pub(crate) fn leave_all_but(&self, still_vacant: &BTreeSet<IpAddr>) {
        self.vacant
            .with(|vacant| vacant.retain(|address| still_vacant.contains(address)));
    }

    /// What has been done since this was last asked.
    pub(crate) fn ended(&mut self) -> Vec<Walked> {
        let mut bytes = [0u8; 64];
        while matches!(self.woken.read(&mut bytes), Ok(n) if n > 0) {}
        self.ended.try_iter().collect()
    }
}

impl AsFd for Walker {
    /// Readable when something has been done.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }
}

/// What the thread has.
struct Work {
    conntrack: Conntrack,
    vacant: Vacant,
    ordered: Receiver<Vec<Vacated>>,
    report: Sender<Walked>,
    wake: UnixStream,
    /// Vacant addresses, with the moment from which on the table guards them.
    due: Vec<(Instant, Vacated)>,
}

impl Work {
    fn run(mut self) {
        while self.gather().is_ok() {
            self.walk();
        }
    }

    /// Waits until the oldest order has waited long enough. An error says that nobody orders any more.
    fn gather(&mut self) -> Result<(), RecvTimeoutError> {
        loop {
            let orders = match self.due.iter().map(|(since, _)| *since + GATHER).min() {
                None => self.ordered.recv().map_err(|_| RecvTimeoutError::Disconnected)?,
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    match self.ordered.recv_timeout(left) {
                        Ok(orders) => orders,
                        Err(RecvTimeoutError::Timeout) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
            };
            let now = Instant::now();
            self.due.extend(orders.into_iter().map(|vacated| (now, vacated)));
        }
    }

    fn walk(&mut self) {
        let now = Instant::now();
        let (ready, later): (Vec<_>, Vec<_>) = self
            .due
            .drain(..)
            .partition(|(since, _)| *since + ON_ITS_WAY <= now);
        self.due = later;
        let addresses: Vec<IpAddr> = ready.iter().map(|(_, vacated)| vacated.address).collect();
        let is_vacant = |address: &IpAddr| self.vacant.contains(address);
        let why = match self.conntrack.forget_addresses_while(&addresses, &is_vacant) {
            Ok(forgotten) if forgotten.outcome == Outcome::Clean => {
                let walked = Walked {
                    vacated: ready.into_iter().map(|(_, vacated)| vacated).collect(),
                    removed: forgotten.entries,
                };
                // A full pipe means that the reader will look anyway.
                let _ = self.report.send(walked).map(|()| self.wake.write(&[1]));
                return;
            }
            Ok(_) => "new ones are made all the time".to_owned(),
            Err(error) => describe(&error),
        };
        tracing::warn!(
            addresses = addresses.len(),
            why,
            "flows of addresses that nobody has cannot be removed; it is tried again"
        );
        let again = now + RETRY;
        self.due
            .extend(ready.into_iter().map(|(_, vacated)| (again, vacated)));
    }
}
