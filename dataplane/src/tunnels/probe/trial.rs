//! Decides what to ask whom, and what the answers say of a device's checksums.
//!
//! Pure: no socket, no clock, no chance. [`super::ask`] sends and listens, and the next pass over the tunnels switches.
//! UDP's checksum is what a device may leave to others, and an echo's is always computed here: a peer that answers
//! echoes and no UDP says that checksums are wrong on the way, or that it drops UDP. Whether the device's own checksums
//! change that tells these apart.

use super::{Finding, Subject};
use dataplane_netlink::tunnels::offload::ChecksumOffload;
use std::collections::VecDeque;
use std::net::IpAddr;

/// A point in time, in milliseconds of a clock that does not go back.
pub(super) type Millis = u64;

/// How often a peer is asked.
pub(super) const TRIES: u8 = 4;
/// How many echoes have to be answered where no UDP is, so that a way that loses packets is not taken for one that spoils
/// them.
const ECHOES: u32 = 3;
/// How long an answer is waited for before the next try, or before the end.
const ANSWER: Millis = 400;
/// How long a peer that is new is left alone: it hears of this node about now, too, and routes are still to be made.
const SOON: Millis = 500;
/// Pause after a peer that answered nothing; it doubles up to the longest.
const FIRST_PAUSE: Millis = 1_000;
const LONGEST_PAUSE: Millis = 120_000;
/// How many peers may answer no UDP either way before no more are asked.
const MOST_FUTILE: u8 = 3;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Send a datagram and an echo request to a peer. The first of some (number 0) is sent from a port of its own.
    Ask { peer: IpAddr, number: u8 },
    /// Have the device's checksums switched.
    Switch(ChecksumOffload),
    /// Say what was found; it is the last.
    Tell(Finding),
}

/// What has been heard of the peer that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It answered a datagram.
    Datagram,
    /// It answered the echo request of this number.
    Echo(u8),
    /// Packets to it do not leave through the device, so that nothing was sent.
    NoWay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is done before this time.
    Resting { until: Millis },
    /// A peer is asked.
    Asking(Asking),
    /// The device is being switched; until it is, nothing can be asked.
    Switching { peer: IpAddr, to: ChecksumOffload },
    /// The answer is known.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asking {
    peer: IpAddr,
    /// How often it has been asked.
    tries: u8,
    /// Which echo requests it answered, one bit each.
    echoes: u8,
    until: Millis,
}

/// The trial of one device.
#[derive(Debug)]
pub(super) struct Trial {
    subject: Subject,
    state: State,
    tasks: VecDeque<Task>,
    /// The place of the peer that is asked next.
    next_peer: usize,
    /// How many peers in a row are not reached through the device.
    astray: usize,
    /// How many pauses there were since a peer was new.
    pauses: u32,
    futile: u8,
    /// How many switches were asked for.
    switches: u32,
    /// What pauses are scattered by.
    chance: u64,
}

impl Trial {
    /// Begins. `chance` makes the pauses of many nodes differ.
    pub(super) fn new(subject: Subject, chance: u64, now: Millis) -> Self {
        let mut trial = Trial {
            switches: subject.switches,
            subject,
            state: State::Ended,
            tasks: VecDeque::new(),
            next_peer: 0,
            astray: 0,
            pauses: 0,
            futile: 0,
            chance,
        };
        match trial.subject.offload {
            ChecksumOffload::On => trial.rest(SOON, now),
            // Somebody began and did not end: answers that come now would not be about what is to be tried.
            ChecksumOffload::Off => trial.switch(trial.subject.source, ChecksumOffload::On),
        }
        trial
    }

    /// What is tried.
    pub(super) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Takes in what is so now of the same device: its switch, this node's address in it, its peers.
    pub(super) fn told(&mut self, subject: Subject, now: Millis) {
        let new = subject
            .peers
            .iter()
            .position(|peer| !self.subject.peers.contains(peer));
        self.subject = subject;
        match self.state {
            State::Switching { peer, to } if self.subject.switches == self.switches => {
                self.switched(peer, to, now);
            }
            State::Resting { until } => {
                if let Some(new) = new {
                    self.next_peer = new;
                    self.pauses = 0;
                    self.rest(SOON, now);
                    if let State::Resting { until: soon } = &mut self.state {
                        *soon = until.min(*soon);
                    }
                }
            }
            State::Switching { .. } | State::Asking(_) | State::Ended => {}
        }
    }

    /// Takes in what was heard of the peer that is asked.
    pub(super) fn heard(&mut self, answer: Answer, now: Millis) {
        let State::Asking(asking) = &mut self.state else {
            return;
        };
        match answer {
            Answer::Echo(number) => asking.echoes |= 1u8.checked_shl(number.into()).unwrap_or(0),
            Answer::Datagram => self.end(match self.subject.offload {
                ChecksumOffload::On => Finding::Works,
                ChecksumOffload::Off => Finding::Broken,
            }),
            Answer::NoWay if self.subject.offload == ChecksumOffload::Off => {
                let peer = asking.peer;
                self.switch(peer, ChecksumOffload::On);
            }
            Answer::NoWay => {
                self.astray += 1;
                if self.astray < self.subject.peers.len() {
                    self.ask_next(now);
                } else {
                    self.pause(now);
                }
            }
        }
    }

    /// Whether answers are waited for.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.state, State::Asking(_))
    }

    /// When [`Trial::next`] has something to do; never where it waits for what it is told.
    pub(super) fn deadline(&self) -> Option<Millis> {
        match self.state {
            _ if !self.tasks.is_empty() => Some(0),
            State::Resting { .. } if self.subject.peers.is_empty() => None,
            State::Resting { until } | State::Asking(Asking { until, .. }) => Some(until),
            State::Switching { .. } | State::Ended => None,
        }
    }

    /// What is to be done now; to be asked for until there is no more.
    pub(super) fn next(&mut self, now: Millis) -> Option<Task> {
        if self.tasks.is_empty() && self.deadline().is_some_and(|deadline| deadline <= now) {
            match self.state {
                State::Resting { .. } => {
                    self.astray = 0;
                    self.ask_next(now);
                }
                State::Asking(asking) if asking.tries < TRIES => self.ask(asking, now),
                State::Asking(asking) => self.judge(asking, now),
                State::Switching { .. } | State::Ended => {}
            }
        }
        self.tasks.pop_front()
    }

    fn ask_next(&mut self, now: Millis) {
        let peers = &self.subject.peers;
        let place = self.next_peer.checked_rem(peers.len()).unwrap_or(0);
        let Some(peer) = peers.get(place).copied() else {
            return;
        };
        self.next_peer = place + 1;
        self.begin(peer, now);
    }

    fn begin(&mut self, peer: IpAddr, now: Millis) {
        self.ask(
            Asking {
                peer,
                tries: 0,
                echoes: 0,
                until: now,
            },
            now,
        );
    }

    fn ask(&mut self, mut asking: Asking, now: Millis) {
        self.tasks.push_back(Task::Ask {
            peer: asking.peer,
            number: asking.tries,
        });
        asking.tries += 1;
        asking.until = now.saturating_add(ANSWER);
        self.state = State::Asking(asking);
    }

    /// A peer has answered no datagram.
    fn judge(&mut self, asking: Asking, now: Millis) {
        let is_there = asking.echoes.count_ones() >= ECHOES;
        match self.subject.offload {
            ChecksumOffload::On if is_there => self.switch(asking.peer, ChecksumOffload::Off),
            ChecksumOffload::On => self.pause(now),
            ChecksumOffload::Off => {
                self.futile += u8::from(is_there);
                self.switch(asking.peer, ChecksumOffload::On);
            }
        }
    }

    fn switch(&mut self, peer: IpAddr, to: ChecksumOffload) {
        self.switches = self.switches.wrapping_add(1);
        self.state = State::Switching { peer, to };
        self.tasks.push_back(Task::Switch(to));
    }

    fn switched(&mut self, peer: IpAddr, to: ChecksumOffload, now: Millis) {
        match to {
            _ if self.subject.offload != to => self.end(Finding::Unswitchable),
            ChecksumOffload::Off => self.begin(peer, now),
            ChecksumOffload::On if self.futile >= MOST_FUTILE => self.end(Finding::NoHelp),
            ChecksumOffload::On => self.pause(now),
        }
    }

    fn end(&mut self, finding: Finding) {
        self.state = State::Ended;
        self.tasks.clear();
        self.tasks.push_back(Task::Tell(finding));
    }

    fn pause(&mut self, now: Millis) {
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.pauses.min(10))
            .min(LONGEST_PAUSE);
        self.pauses = self.pauses.saturating_add(1);
        self.rest(pause, now);
    }

    /// Rests for about so long, up to half of it longer.
    fn rest(&mut self, pause: Millis, now: Millis) {
        // A step of a linear generator: its upper half is scattered well enough for pauses.
        self.chance = self
            .chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let more = (self.chance >> 32) % (pause / 2 + 1);
        self.state = State::Resting {
            until: now.saturating_add(pause).saturating_add(more),
        };
    }
}
