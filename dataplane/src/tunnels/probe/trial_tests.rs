//! Whole trials, with answers and time as the tests say.

use super::trial::{Answer, Millis, TRIES, Task, Trial};
use super::{Finding, Footing, Subject};
use dataplane_netlink::InterfaceName;
use dataplane_netlink::tunnels::offload::ChecksumOffload::{self, Off, On};
use std::net::IpAddr;

fn peer(k: u8) -> IpAddr {
    [10, 0, 0, k].into()
}

fn subject(peers: &[u8]) -> Subject {
    Subject {
        device: InterfaceName::new("vxlan.calico").unwrap(),
        footing: Footing {
            link: 3,
            carrier: Some(2),
        },
        source: peer(100),
        peers: peers.iter().map(|k| peer(*k)).collect(),
        offload: On,
        switches: 0,
    }
}

/// How a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// Everything arrives.
    Sound,
    /// UDP arrives only with checksums of the device's own.
    Spoiled,
    /// UDP never arrives.
    Guarded,
    /// Nothing arrives.
    Away,
    /// Half of the echoes arrive, and no UDP.
    Lossy,
    /// It is reached otherwise.
    Beside,
}

/// A trial among peers, and all that it did.
struct Course {
    trial: Trial,
    peers: Vec<Peer>,
    now: Millis,
    asked: Vec<(Millis, IpAddr)>,
    switches: Vec<ChecksumOffload>,
    found: Option<Finding>,
    /// Whether the device lets itself be switched.
    switchable: bool,
}

impl Course {
    fn new(peers: &[Peer]) -> Self {
        let numbers: Vec<u8> = (0..).zip(peers).map(|(k, _)| k).collect();
        Course {
            trial: Trial::new(subject(&numbers), 7, 0),
            peers: peers.to_vec(),
            now: 0,
            asked: Vec::new(),
            switches: Vec::new(),
            found: None,
            switchable: true,
        }
    }

    /// Lets it go on until it has found something, or until a time.
    fn run(&mut self, until: Millis) -> Option<Finding> {
        while self.found.is_none() {
            if let Some(task) = self.trial.next(self.now) {
                self.execute(task);
                continue;
            }
            match self.trial.deadline() {
                Some(deadline) if deadline <= until => {
                    assert!(deadline > self.now, "it stands still");
                    self.now = deadline;
                }
                _ => return None,
            }
        }
        assert_eq!(self.trial.next(Millis::MAX), None, "it is the last");
        assert_eq!(self.trial.deadline(), None);
        self.found
    }

    fn execute(&mut self, task: Task) {
        match task {
            Task::Ask { peer: whom, number } => {
                let IpAddr::V4(address) = whom else {
                    panic!("{whom}")
                };
                let how = self.peers[usize::from(address.octets()[3])];
                if how == Peer::Beside {
                    self.trial.heard(Answer::NoWay, self.now);
                    return;
                }
                self.asked.push((self.now, whom));
                if how != Peer::Away && (how != Peer::Lossy || number.is_multiple_of(2)) {
                    self.trial.heard(Answer::Echo(number), self.now);
                }
                let own = self.trial.subject().offload == Off;
                if how == Peer::Sound || (how == Peer::Spoiled && own) {
                    self.trial.heard(Answer::Datagram, self.now);
                }
            }
            Task::Switch(to) => {
                self.switches.push(to);
                let mut subject = self.trial.subject().clone();
                subject.switches += 1;
                if self.switchable {
                    subject.offload = to;
                }
                self.trial.told(subject, self.now);
            }
            Task::Tell(finding) => self.found = Some(finding),
        }
    }
}

#[test]
fn one_answer_is_enough_where_all_is_well() {
    let mut course = Course::new(&[Peer::Sound, Peer::Sound, Peer::Sound]);
    assert_eq!(course.run(10_000), Some(Finding::Works));
    assert_eq!((course.asked.len(), course.switches.len()), (1, 0));
}

#[test]
fn one_that_is_spoiled_stays_off() {
    let mut course = Course::new(&[Peer::Spoiled]);
    assert_eq!(course.run(10_000), Some(Finding::Broken));
    assert_eq!(course.switches, [Off]);
    assert_eq!(course.asked.len(), usize::from(TRIES) + 1);
    assert!(course.now < 3_000, "{}", course.now);
}

#[test]
fn one_that_does_not_help_is_switched_on_again_and_others_are_asked() {
    let mut course = Course::new(&[Peer::Guarded, Peer::Guarded, Peer::Spoiled]);
    assert_eq!(course.run(60_000), Some(Finding::Broken));
    assert_eq!(course.switches, [Off, On, Off, On, Off]);
    let mut course = Course::new(&[Peer::Guarded; 9]);
    assert_eq!(course.run(60_000), Some(Finding::NoHelp));
    assert_eq!(course.switches, [Off, On, Off, On, Off, On], "and not one more");
}

#[test]
fn who_answers_nothing_or_loses_much_says_nothing_and_is_asked_ever_more_rarely() {
    for peers in [[Peer::Away; 3], [Peer::Lossy; 3]] {
        let mut course = Course::new(&peers);
        let day = 24 * 3_600_000;
        assert_eq!(course.run(day), None);
        assert_eq!(course.switches, [], "{peers:?}");
        // The longest pause is two minutes.
        let most = usize::from(TRIES) * (day / 120_000 + 20) as usize;
        assert!(course.asked.len() < most, "{}", course.asked.len());
        assert!(course.asked.len() > most / 2, "it is never given up");
        for k in 0..3 {
            assert!(
                course.asked.iter().any(|(_, whom)| *whom == peer(k)),
                "all in turn"
            );
        }
    }
}

#[test]
fn peers_that_are_reached_otherwise_are_passed_over_without_a_pause() {
    let mut peers = vec![Peer::Beside; 200];
    peers.push(Peer::Spoiled);
    let mut course = Course::new(&peers);
    assert_eq!(course.run(10_000), Some(Finding::Broken));
    assert!(course.now < 3_000, "{}", course.now);
    let mut course = Course::new(&[Peer::Beside; 3]);
    assert_eq!(course.run(600_000), None);
    assert_eq!((course.asked.len(), course.switches.len()), (0, 0));
}

#[test]
fn a_device_that_cannot_be_switched_is_left_alone() {
    let mut course = Course::new(&[Peer::Spoiled]);
    course.switchable = false;
    assert_eq!(course.run(10_000), Some(Finding::Unswitchable));
    assert_eq!(course.switches, [Off]);
}

#[test]
fn a_peer_that_goes_while_it_is_off_has_it_switched_on_again() {
    let mut course = Course::new(&[Peer::Spoiled]);
    while course.switches.is_empty() {
        match course.trial.next(course.now) {
            Some(task) => course.execute(task),
            None => course.now = course.trial.deadline().unwrap(),
        }
    }
    course.peers[0] = Peer::Away;
    assert_eq!(course.run(5_000), None);
    assert_eq!(course.switches, [Off, On]);
    course.peers[0] = Peer::Sound;
    assert_eq!(course.run(200_000), Some(Finding::Works));
}

#[test]
fn without_peers_it_waits_and_a_new_one_is_asked_soon() {
    let mut course = Course::new(&[]);
    assert_eq!(course.run(Millis::MAX - 1), None);
    assert_eq!(course.trial.deadline(), None, "nothing wakes it");
    course.now = 1_000_000;
    course.peers = vec![Peer::Away];
    course.trial.told(subject(&[0]), course.now);
    assert_eq!(course.run(2_000_000), None);
    course.now = 2_000_000;
    course.peers.push(Peer::Sound);
    course.trial.told(subject(&[0, 1]), course.now);
    assert_eq!(
        course.run(2_001_000),
        Some(Finding::Works),
        "the new one first, and soon"
    );
}

#[test]
fn answers_after_the_end_or_during_a_pause_mean_nothing() {
    let mut course = Course::new(&[Peer::Away]);
    course.trial.heard(Answer::Datagram, 0);
    assert_eq!(course.trial.next(0), None);
    let mut course = Course::new(&[Peer::Spoiled]);
    course.run(10_000);
    course.trial.heard(Answer::Datagram, 10_000);
    assert_eq!(course.trial.next(20_000), None);
}

#[test]
fn many_nodes_do_not_ask_at_the_same_time() {
    let first = |chance| {
        let trial = Trial::new(subject(&[1]), chance, 0);
        trial.deadline().unwrap()
    };
    let times: std::collections::BTreeSet<Millis> = (0..1_000).map(first).collect();
    assert!(times.len() > 100, "{}", times.len());
    assert!(times.iter().all(|time| (500..=750).contains(time)), "{times:?}");
}

#[test]
fn one_that_begins_while_it_is_off_has_it_switched_on_first() {
    let mut course = Course::new(&[Peer::Sound]);
    let mut begun = subject(&[0]);
    begun.offload = Off;
    begun.switches = 5;
    course.trial = Trial::new(begun, 7, 0);
    assert_eq!(course.run(10_000), Some(Finding::Works));
    assert_eq!(course.switches, [On]);
}
