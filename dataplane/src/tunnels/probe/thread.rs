//! The thread that tries devices, beside the passes: one for all of them, and none where nothing is to be tried.

use super::ask::Question;
use super::trial::{Answer, Millis, Task, Trial};
use super::{Footing, Subject, Word};
use crate::tunnels::Kind;
use dataplane_netlink::tunnels::carrier::{self, Way};
use dataplane_netlink::{Patience, Rtnetlink};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

/// Pause where the system cannot even wait.
const STUMBLED: Duration = Duration::from_secs(1);

/// A device to try from now on, or none any more.
type Order = (Kind, Option<Subject>);
/// What is said about a device on its footing.
type Report = (Kind, Footing, Word);

/// The thread's other end. It ends with it.
#[derive(Debug)]
pub(in crate::tunnels) struct Prober {
    orders: Sender<Order>,
    reports: Receiver<Report>,
    pipe: UnixStream,
}

impl Prober {
    /// Starts a thread in the caller's network namespace.
    ///
    /// # Errors
    /// The system has no room for one more thread or pipe.
    pub(in crate::tunnels) fn start(patience: Patience) -> std::io::Result<Self> {
        let (orders, ordered) = channel();
        let (report, reports) = channel();
        let (pipe, other) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        other.set_nonblocking(true)?;
        let work = Work {
            ordered,
            report,
            pipe: other,
            patience,
            netlink: None,
            trials: BTreeMap::new(),
            started: Instant::now(),
            random: RandomState::new(),
            drawn: 0,
        };
        std::thread::Builder::new()
            .name("prober".to_owned())
            .spawn(move || work.run())?;
        Ok(Prober {
            orders,
            reports,
            pipe,
        })
    }

    /// Has a device tried, or tried no more.
    pub(in crate::tunnels) fn order(&mut self, kind: Kind, subject: Option<Subject>) {
        if self.orders.send((kind, subject)).is_err() {
            tracing::error!("the thread that tries checksums through tunnels has ended");
        }
        // A full pipe wakes as well.
        let _ = self.pipe.write(&[1]);
    }

    /// What has been said since this was last asked.
    pub(in crate::tunnels) fn reports(&mut self) -> Vec<Report> {
        let mut bytes = [0u8; 64];
        while matches!(self.pipe.read(&mut bytes), Ok(n) if n > 0) {}
        self.reports.try_iter().collect()
    }
}

impl AsFd for Prober {
    /// Readable when something has been said.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// A device with the peer that it is tried with at the moment.
struct Tried {
    trial: Trial,
    question: Option<Question>,
}

/// What the thread has.
struct Work {
    ordered: Receiver<Order>,
    report: Sender<Report>,
    pipe: UnixStream,
    patience: Patience,
    netlink: Option<Rtnetlink>,
    trials: BTreeMap<Kind, Tried>,
    started: Instant,
    random: RandomState,
    drawn: u64,
}

impl Work {
    fn run(mut self) {
        while self.take_orders() {
            let mut trials = std::mem::take(&mut self.trials);
            for (kind, tried) in &mut trials {
                self.go_on(*kind, tried);
            }
            self.trials = trials;
            self.wait();
        }
    }

    fn now(&self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A number that others cannot know.
    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.random.hash_one(self.drawn)
    }

    /// Takes in what was ordered. False where nobody orders any more.
    fn take_orders(&mut self) -> bool {
        let mut bytes = [0u8; 64];
        while matches!(self.pipe.read(&mut bytes), Ok(n) if n > 0) {}
        loop {
            let (kind, subject) = match self.ordered.try_recv() {
                Ok(order) => order,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            };
            let now = self.now();
            match (subject, self.trials.get_mut(&kind)) {
                (None, _) => drop(self.trials.remove(&kind)),
                (Some(subject), Some(tried)) if tried.trial.subject().footing == subject.footing => {
                    tried.trial.told(subject, now);
                }
                (Some(subject), _) => {
                    let trial = Trial::new(subject, self.draw(), now);
                    self.trials.insert(
                        kind,
                        Tried {
                            trial,
                            question: None,
                        },
                    );
                }
            }
        }
    }

    fn go_on(&mut self, kind: Kind, tried: &mut Tried) {
        let now = self.now();
        for answer in tried.question.iter().flat_map(Question::heard) {
            tried.trial.heard(answer, now);
        }
        while let Some(task) = tried.trial.next(now) {
            let word = match task {
                Task::Ask { peer, number } => {
                    self.ask(tried, peer, number);
                    continue;
                }
                Task::Switch(to) => Word::Switch(to),
                Task::Tell(finding) => Word::Found(finding),
            };
            let footing = tried.trial.subject().footing;
            // Without anybody who listens the next look at the orders ends it.
            let _ = self
                .report
                .send((kind, footing, word))
                .map(|()| self.pipe.write(&[1]));
        }
        if !tried.trial.is_asking() {
            tried.question = None;
        }
    }

    /// Sends one question. What cannot be sent is a question without an answer.
    fn ask(&mut self, tried: &mut Tried, peer: IpAddr, number: u8) {
        let now = self.now();
        if number == 0 {
            tried.question = None;
            if !self.leads_through(tried.trial.subject().footing.link, peer) {
                tried.trial.heard(Answer::NoWay, now);
                return;
            }
            let token = [self.draw(), self.draw()];
            match Question::open(tried.trial.subject(), peer, token) {
                Ok(question) => tried.question = Some(question),
                Err(error) => {
                    tracing::debug!(%peer, %error, "checksums through a tunnel cannot be tried now")
                }
            }
        }
        if let Some(question) = &tried.question
            && let Err(error) = question.ask(number)
        {
            tracing::debug!(%peer, %error, "a question through a tunnel cannot be sent");
        }
    }

    /// Whether packets to a peer leave through a device: a node of the same subnet may be reached without.
    fn leads_through(&mut self, link: u32, peer: IpAddr) -> bool {
        if self.netlink.is_none() {
            self.netlink = Rtnetlink::open_with(self.patience).ok();
        }
        let Some(netlink) = &mut self.netlink else {
            return false;
        };
        match carrier::way_to(netlink, peer) {
            Ok(Way::Out(way)) => way.link == link,
            Ok(Way::Nowhere | Way::Here) => false,
            Err(_) => {
                self.netlink = None;
                false
            }
        }
    }

    fn wait(&self) {
        let deadline = self
            .trials
            .values()
            .filter_map(|tried| tried.trial.deadline())
            .min();
        let timeout = match deadline {
            // One millisecond more than the deadline, so that it has passed when the wait ends.
            Some(deadline) => {
                let left = deadline.saturating_sub(self.now()).saturating_add(1);
                PollTimeout::try_from(i32::try_from(left).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        let questions = self.trials.values().filter_map(|tried| tried.question.as_ref());
        let descriptors = std::iter::once(self.pipe.as_fd()).chain(questions.flat_map(Question::descriptors));
        let mut fds: Vec<PollFd<'_>> = descriptors
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
            .collect();
        if let Err(error) = poll(&mut fds, timeout)
            && error != nix::errno::Errno::EINTR
        {
            tracing::error!(%error, "cannot wait for answers through tunnels");
            std::thread::sleep(STUMBLED);
        }
    }
}
