//! A conversation that goes on while things change: a question, its answer, the next question.

use crate::bed::{bound, wait_for};
use crate::packet::{number_of, tail};
use crate::wire::PATIENCE;
use dataplane_netlink::NetworkNamespace;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A question that has no answer by then is taken for lost, and the next is asked.
const ANSWER: Duration = Duration::from_millis(20);

/// A conversation between two programs.
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    asks: Option<JoinHandle<Outcome>>,
    echoes: Option<JoinHandle<()>>,
}

/// How a conversation went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Questions that were asked.
    pub asked: u64,
    /// Those of them whose answer came.
    pub answered: u64,
    /// The longest time between two answers.
    pub longest_gap: Duration,
}

impl Outcome {
    /// Questions without an answer.
    pub fn lost(&self) -> u64 {
        self.asked - self.answered
    }
}

fn socket(namespace: &NetworkNamespace, address: SocketAddr) -> UdpSocket {
    let socket = bound(namespace, || UdpSocket::bind(address));
    socket.set_read_timeout(Some(ANSWER)).expect("a time to wait");
    socket
}

impl Flow {
    /// Begins a conversation from an address of a namespace to an address of another.
    pub fn start(from: (&NetworkNamespace, SocketAddr), to: (&NetworkNamespace, SocketAddr)) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (client, server, target) = (socket(from.0, from.1), socket(to.0, to.1), to.1);
        let (ends, counts, ends_too) = (stop.clone(), answers.clone(), stop.clone());
        let asks = std::thread::spawn(move || ask(&client, target, &ends, &counts));
        let echoes = std::thread::spawn(move || echo(&server, &ends_too));
        Flow {
            stop,
            answers,
            asks: Some(asks),
            echoes: Some(echoes),
        }
    }

    /// Waits until so many more answers have come; meanwhile something is done again and again.
    pub fn goes_on(&self, more: u64, what: &str, mut meanwhile: impl FnMut()) {
        let enough = self.answers.load(Ordering::Relaxed) + more;
        wait_for(&format!("more answers: {what}"), PATIENCE, || {
            meanwhile();
            (self.answers.load(Ordering::Relaxed) >= enough).then_some(())
        });
    }

    /// Ends the conversation.
    pub fn end(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let outcome = self.asks.take().expect("a thread").join();
        self.echoes.take().expect("a thread").join().expect("who echoes");
        outcome.expect("who asks")
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn ask(socket: &UdpSocket, target: SocketAddr, stop: &AtomicBool, answers: &AtomicU64) -> Outcome {
    let mut outcome = Outcome::default();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        outcome.asked += 1;
        let number = u32::try_from(outcome.asked).expect("a short conversation");
        // What cannot be sent at the moment is lost as well.
        let _lost = socket.send_to(&tail(number), target);
        while let Some(heard) = hear(socket) {
            // One that comes late is an answer as well.
            outcome.answered += 1;
            outcome.longest_gap = outcome.longest_gap.max(last.elapsed());
            last = Instant::now();
            answers.fetch_add(1, Ordering::Relaxed);
            if heard.0 == number {
                break;
            }
        }
    }
    outcome.longest_gap = outcome.longest_gap.max(last.elapsed());
    outcome
}

fn echo(socket: &UdpSocket, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Some((number, from)) = hear(socket) {
            let _lost = socket.send_to(&tail(number), from);
        }
    }
}

/// The next number that arrives; `None` where none does in time.
fn hear(socket: &UdpSocket) -> Option<(u32, SocketAddr)> {
    let mut buffer = [0; 64];
    match socket.recv_from(&mut buffer) {
        Ok((length, from)) => number_of(&buffer[..length]).map(|number| (number, from)),
        Err(error) => match error.kind() {
            // Nothing came, or an ICMP error about something that was sent earlier.
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => None,
            ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => None,
            _ => panic!("receive: {error}"),
        },
    }
}
