//! Real packets: who reaches whom.
//!
//! A denied packet is dropped, so a denial is an answer that does not come. A flow that should pass is waited for long;
//! one that should not, for a time that is many round trips and several tries. A late answer makes a difference
//! between kernel and policies visible, never hides one.

use super::names;
use super::namespaces;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout, timeout_at};

/// How long an answer that should come is waited for.
const LONG: Duration = Duration::from_secs(10);
/// How long an answer that should not come is waited for. TCP sends its first packet again after one second.
const SHORT: Duration = Duration::from_millis(1500);
/// Pause between two datagrams of one probe.
const AGAIN: Duration = Duration::from_millis(250);
/// Most probes that are under way at once from one place.
const AT_ONCE: usize = 64;

/// One probe.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Network namespace that it starts in.
    pub from: String,
    /// Address that it starts from, where the namespace has several.
    pub source: Option<IpAddr>,
    /// Where it goes to.
    pub to: SocketAddr,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Whether an answer should come.
    pub expected: bool,
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody answered, with this name.
    Answered(String),
    /// Nobody did.
    Silence,
    /// It could not be tried.
    Failed(String),
}

/// Carries out all probes, those of one namespace on one thread. Results in the order of the probes. `done` hears of
/// each that ends.
pub fn run(probes: &[Probe], done: impl Fn() + Sync) -> Vec<Outcome> {
    let mut by_place: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (n, probe) in probes.iter().enumerate() {
        by_place.entry(&probe.from).or_default().push(n);
    }
    let mut outcomes = vec![Outcome::Failed("not tried".into()); probes.len()];
    let done = &done;
    let parts: Vec<Vec<(usize, Outcome)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = by_place
            .into_iter()
            .map(|(place, numbers)| {
                scope.spawn(move || {
                    let work = || from_here(probes, &numbers, done);
                    match namespaces::inside(place, work) {
                        Ok(results) => results,
                        Err(error) => numbers.iter().map(|n| (*n, Outcome::Failed(format!("{error:#}")))).collect(),
                    }
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_default()).collect()
    });
    for (n, outcome) in parts.into_iter().flatten() {
        outcomes[n] = outcome;
    }
    outcomes
}

fn from_here(probes: &[Probe], numbers: &[usize], done: &(impl Fn() + Sync)) -> Vec<(usize, Outcome)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return numbers.iter().map(|n| (*n, Outcome::Failed(error.to_string()))).collect(),
    };
    let places = tokio::sync::Semaphore::new(AT_ONCE);
    runtime.block_on(async {
        let one = |n: usize| {
            let places = &places;
            async move {
                let _place = places.acquire().await;
                let outcome = probe(&probes[n]).await.unwrap_or_else(|e| Outcome::Failed(e.to_string()));
                done();
                (n, outcome)
            }
        };
        let mut out = Vec::with_capacity(numbers.len());
        // All at once on one thread: a JoinSet would need probes that live for ever.
        let mut running: Vec<std::pin::Pin<Box<dyn Future<Output = (usize, Outcome)> + '_>>> =
            numbers.iter().map(|n| Box::pin(one(*n)) as _).collect();
        std::future::poll_fn(|context| {
            running.retain_mut(|probe| match probe.as_mut().poll(context) {
                std::task::Poll::Ready(result) => {
                    out.push(result);
                    false
                }
                std::task::Poll::Pending => true,
            });
            if running.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        out
    })
}

async fn probe(probe: &Probe) -> std::io::Result<Outcome> {
    let patience = if probe.expected { LONG } else { SHORT };
    let answer = match probe.protocol.as_str() {
        "UDP" => timeout(patience, datagram(probe)).await,
        _ => timeout(patience, stream(probe, patience)).await,
    };
    match answer {
        Ok(Ok(name)) => Ok(Outcome::Answered(name)),
        // Refused by an error packet: the way is open, but nobody listens; or the sender's own node says that there is
        // no way. Neither is an answer of the receiver.
        Ok(Err(error)) if is_refusal(&error) => Ok(Outcome::Silence),
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(Outcome::Silence),
    }
}

fn is_refusal(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::TimedOut
            | ErrorKind::PermissionDenied
            | ErrorKind::AddrNotAvailable
    )
}

fn socket(probe: &Probe) -> std::io::Result<Socket> {
    let (kind, protocol) = match probe.protocol.as_str() {
        "UDP" => (Type::DGRAM, Protocol::UDP),
        "SCTP" => (Type::STREAM, Protocol::from(132)),
        _ => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(Domain::for_address(probe.to), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = probe.source {
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    Ok(socket)
}

async fn stream(probe: &Probe, patience: Duration) -> std::io::Result<String> {
    let deadline = Instant::now() + patience;
    let socket = tokio::net::TcpSocket::from_std_stream(socket(probe)?.into());
    let mut stream = socket.connect(probe.to).await?;
    let mut text = String::new();
    match timeout_at(deadline, stream.read_to_string(&mut text)).await {
        Ok(result) => result.map(|_| text),
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

async fn datagram(probe: &Probe) -> std::io::Result<String> {
    let socket = tokio::net::UdpSocket::from_std(socket(probe)?.into())?;
    socket.connect(probe.to).await?;
    let mut buffer = [0u8; 512];
    loop {
        socket.send(b"who are you?").await?;
        if let Ok(received) = timeout(AGAIN, socket.recv(&mut buffer)).await {
            let length = received?;
            return Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned());
        }
    }
}

/// The network namespace of an address that is not a pod's: a node's, or outside.
pub fn place_of(address: IpAddr, nodes: &BTreeMap<String, Vec<IpAddr>>) -> Option<String> {
    if names::OUTSIDE_ADDRESSES.contains(&address) {
        return Some(names::OUTSIDE.to_string());
    }
    let node = nodes.iter().find(|(_, a)| a.contains(&address));
    node.map(|(name, _)| names::node_namespace(name))
}
