//! Real packets: who reaches whom.
//!
//! A denied packet is dropped, so a denial is an answer that does not come. A flow that should pass is waited for long;
//! one that should not, for a time that is many round trips and several tries. A late answer makes a difference
//! between kernel and policies visible, never hides one.

use super::namespaces;
use super::raw;
use super::servers::SCTP;
use policy_model::Protocol;
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// How long an answer that should come is waited for.
pub(super) const LONG: Duration = Duration::from_secs(6);
/// How long an answer that should not come is waited for. TCP sends its first packet again after one second.
pub(super) const SHORT: Duration = Duration::from_millis(1300);
/// Pause between two datagrams of one probe.
pub(super) const AGAIN: Duration = Duration::from_millis(250);
/// How long a stream that was opened is waited on for its server's name.
const NAME: Duration = Duration::from_secs(2);
/// Most probes that are under way at once from one place.
const AT_ONCE: usize = 128;

/// One probe.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    /// Network namespace that it starts in.
    pub(super) from: String,
    /// Network namespace that it should arrive in.
    pub(super) into: String,
    /// Address that it starts from.
    pub(super) source: IpAddr,
    /// Address that it goes to.
    pub(super) to: IpAddr,
    /// Protocol.
    pub(super) protocol: Protocol,
    /// Port, of protocols that have ports.
    pub(super) port: u16,
    /// Type and code, of ICMP.
    pub(super) icmp: Option<(u8, u8)>,
    /// Whether an answer should come.
    pub(super) expected: bool,
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It arrived, and this server answered; no name where the place of arrival is proof enough.
    Answered(String),
    /// Nobody answered.
    Silence,
    /// It could not be tried.
    Failed(String),
    /// This kernel has no means to try it, or no packet would be a proof.
    Unmeasured(String),
}

/// How a flow is tried.
enum Method {
    Stream(Type, i32),
    Datagram,
    Raw,
}

fn method(probe: &Probe, has_sctp: bool) -> Result<Method, String> {
    match probe.protocol {
        Protocol::TCP => Ok(Method::Stream(Type::STREAM, 6)),
        Protocol::UDP => Ok(Method::Datagram),
        Protocol::SCTP if has_sctp => Ok(Method::Stream(Type::STREAM, SCTP)),
        _ => raw::why_not(probe).map_or(Ok(Method::Raw), Err),
    }
}

/// Carries out all probes, those of one namespace on one thread. Results in the order of the probes. `done` hears of
/// each that ends.
pub(super) fn run(probes: &[Probe], has_sctp: bool, done: impl Fn() + Sync) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::Failed("not tried".into()); probes.len()];
    let mut by_place: BTreeMap<&str, Vec<(usize, Method)>> = BTreeMap::new();
    let mut raw_ones = Vec::new();
    for (n, probe) in probes.iter().enumerate() {
        match method(probe, has_sctp) {
            Ok(Method::Raw) => raw_ones.push(n),
            Ok(method) => by_place.entry(&probe.from).or_default().push((n, method)),
            Err(reason) => {
                outcomes[n] = Outcome::Unmeasured(reason);
                done();
            }
        }
    }
    let done = &done;
    let parts: Vec<Vec<(usize, Outcome)>> = std::thread::scope(|scope| {
        let mut threads = vec![scope.spawn(|| raw::run(probes, &raw_ones, done))];
        threads.extend(by_place.into_iter().map(|(place, numbers)| {
            scope.spawn(
                move || match namespaces::inside(place, || from_here(probes, &numbers, done)) {
                    Ok(results) => results,
                    Err(error) => numbers
                        .iter()
                        .map(|(n, _)| (*n, Outcome::Failed(format!("{error:#}"))))
                        .collect(),
                },
            )
        }));
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_default())
            .collect()
    });
    for (n, outcome) in parts.into_iter().flatten() {
        outcomes[n] = outcome;
    }
    outcomes
}

/// A probe under way, with its number.
type Running<'a> = std::pin::Pin<Box<dyn Future<Output = (usize, Outcome)> + 'a>>;

fn from_here(
    probes: &[Probe],
    numbers: &[(usize, Method)],
    done: &(impl Fn() + Sync),
) -> Vec<(usize, Outcome)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return numbers
                .iter()
                .map(|(n, _)| (*n, Outcome::Failed(error.to_string())))
                .collect();
        }
    };
    let places = tokio::sync::Semaphore::new(AT_ONCE);
    runtime.block_on(async {
        let one = |(n, method): &(usize, Method)| {
            let (n, places, probe) = (*n, &places, &probes[*n]);
            let socket = match method {
                Method::Stream(kind, number) => (*kind, *number),
                _ => (Type::DGRAM, 17),
            };
            async move {
                let _place = places.acquire().await;
                let outcome = attempt(probe, socket)
                    .await
                    .unwrap_or_else(|e| Outcome::Failed(e.to_string()));
                done();
                (n, outcome)
            }
        };
        let mut out = Vec::with_capacity(numbers.len());
        // All at once on one thread: a JoinSet would need probes that live for ever.
        let mut running: Vec<Running<'_>> = numbers.iter().map(|n| Box::pin(one(n)) as _).collect();
        std::future::poll_fn(|context| {
            running.retain_mut(|probe| match probe.as_mut().poll(context) {
                std::task::Poll::Ready(result) => {
                    out.push(result);
                    false
                }
                std::task::Poll::Pending => true,
            });
            if running.is_empty() {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
        out
    })
}

async fn attempt(probe: &Probe, (kind, number): (Type, i32)) -> std::io::Result<Outcome> {
    let patience = if probe.expected { LONG } else { SHORT };
    let answer = if kind == Type::DGRAM {
        timeout(patience, datagram(probe)).await
    } else {
        timeout(patience + NAME, stream(probe, number, patience)).await
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

/// Whether an error says that the packet did not arrive, not that it could not be tried.
pub(super) fn is_refusal(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::TimedOut
            | ErrorKind::PermissionDenied
    )
}

fn socket(probe: &Probe, kind: Type, number: i32) -> std::io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(SocketAddr::new(probe.to, 0)),
        kind,
        Some(number.into()),
    )?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(SocketAddr::new(probe.source, 0)))?;
    Ok(socket)
}

async fn stream(probe: &Probe, number: i32, patience: Duration) -> std::io::Result<String> {
    let socket = tokio::net::TcpSocket::from_std_stream(socket(probe, Type::STREAM, number)?.into());
    let target = SocketAddr::new(probe.to, probe.port);
    let mut stream = match timeout(patience, socket.connect(target)).await {
        Ok(connected) => connected?,
        Err(_) => return Err(std::io::ErrorKind::TimedOut.into()),
    };
    // Whoever took the call was reached, also if it is a program that waits to be asked first.
    let mut text = Vec::new();
    let _ = timeout(NAME, (&mut stream).take(512).read_to_end(&mut text)).await;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

async fn datagram(probe: &Probe) -> std::io::Result<String> {
    let socket = tokio::net::UdpSocket::from_std(socket(probe, Type::DGRAM, 17)?.into())?;
    socket.connect(SocketAddr::new(probe.to, probe.port)).await?;
    let mut buffer = [0u8; 512];
    loop {
        socket.send(b"who are you?").await?;
        if let Ok(received) = timeout(AGAIN, socket.recv(&mut buffer)).await {
            let length = received?;
            return Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned());
        }
    }
}
