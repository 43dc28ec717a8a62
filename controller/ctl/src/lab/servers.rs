//! Small servers inside the pods: they say who they are.
//!
//! Each address gets a socket of its own: a datagram that is answered from a socket of all addresses leaves with
//! whatever address the route prefers, and the caller, who asked another, would never know the answer for one.

use super::namespaces;
use policy_model::EndpointPort;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

/// IP protocol number of SCTP.
pub(super) const SCTP: i32 = 132;
/// How long a server waits for a caller to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A port that is to answer, as protocol (`TCP`, `UDP` or `SCTP`) and number.
pub(super) type Port = (String, u16);

/// Declared ports without repetition, in order; and those with names as protocol, name and number.
pub(super) fn ports(declared: &[EndpointPort]) -> (Vec<Port>, Vec<(String, String, u16)>) {
    let all: BTreeSet<Port> = declared
        .iter()
        .map(|p| (p.protocol.to_string(), p.port))
        .collect();
    let named = declared.iter().filter(|p| !p.name.is_empty());
    (
        all.into_iter().collect(),
        named
            .map(|p| (p.protocol.to_string(), p.name.clone(), p.port))
            .collect(),
    )
}

/// Running servers of one place; they end when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Servers {
    tasks: Vec<JoinHandle<()>>,
    /// Ports that do not answer, and why.
    pub(super) silent: Vec<String>,
    refused: Vec<Port>,
}

impl Servers {
    /// Tries the ports that do not answer once more: whoever had one may be gone.
    pub(super) fn try_again(
        &mut self,
        namespace: &str,
        name: &str,
        addresses: &[IpAddr],
    ) -> anyhow::Result<()> {
        if self.refused.is_empty() {
            return Ok(());
        }
        let mut more = serve(namespace, name, addresses, &self.refused)?;
        self.tasks.append(&mut more.tasks);
        self.silent = std::mem::take(&mut more.silent);
        self.refused = std::mem::take(&mut more.refused);
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Opens ports inside a namespace, at these addresses and at the loopback ones, and answers with `name`. Call it from
/// within a tokio runtime.
pub(super) fn serve(
    namespace: &str,
    name: &str,
    addresses: &[IpAddr],
    ports: &[Port],
) -> anyhow::Result<Servers> {
    let mut servers = Servers::default();
    let opened = namespaces::inside(namespace, || {
        ports
            .iter()
            .map(|port| (port, open_port(port, addresses)))
            .collect::<Vec<_>>()
    })?;
    let name: Arc<str> = name.into();
    for (port, opened) in opened {
        let started = opened.and_then(|sockets| {
            let start = |socket| start(socket, &port.0, name.clone());
            sockets
                .into_iter()
                .map(start)
                .collect::<std::io::Result<Vec<_>>>()
        });
        match started {
            Ok(tasks) => servers.tasks.extend(tasks),
            Err(error) => {
                let text = format!("{}/{}: {}", port.1, port.0, why(&error));
                servers.silent.push(text);
                servers.refused.push(port.clone());
            }
        }
    }
    Ok(servers)
}

fn why(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "the port is taken by another program of the same network".to_string()
        }
        _ => error.to_string(),
    }
}

/// One socket an address. A loopback address that is not there (no IPv6) or taken is no loss.
fn open_port(port: &Port, addresses: &[IpAddr]) -> std::io::Result<Vec<Socket>> {
    let own = addresses
        .iter()
        .map(|address| open_socket(port, SocketAddr::new(*address, port.1)));
    let mut sockets = own.collect::<std::io::Result<Vec<Socket>>>()?;
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        sockets.extend(open_socket(port, SocketAddr::new(address, port.1)).ok());
    }
    Ok(sockets)
}

fn open_socket((protocol, _): &Port, at: SocketAddr) -> std::io::Result<Socket> {
    let (kind, number) = match protocol.as_str() {
        "UDP" => (Type::DGRAM, Protocol::UDP),
        "SCTP" => (Type::STREAM, Protocol::from(SCTP)),
        _ => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(Domain::for_address(at), kind, Some(number))?;
    // A datagram port that two share would answer for either.
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SockAddr::from(at))?;
    if kind == Type::STREAM {
        socket.listen(128)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn start(socket: Socket, protocol: &str, name: Arc<str>) -> std::io::Result<JoinHandle<()>> {
    if protocol == "UDP" {
        udp(socket, name)
    } else {
        stream(socket, name)
    }
}

fn stream(socket: Socket, name: Arc<str>) -> std::io::Result<JoinHandle<()>> {
    let listener = tokio::net::TcpListener::from_std(socket.into())?;
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((mut caller, _)) => {
                    let name = name.clone();
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(PATIENCE, caller.write_all(name.as_bytes())).await;
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }))
}

fn udp(socket: Socket, name: Arc<str>) -> std::io::Result<JoinHandle<()>> {
    let socket = tokio::net::UdpSocket::from_std(socket.into())?;
    Ok(tokio::spawn(async move {
        let mut buffer = [0u8; 64];
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((_, caller)) => {
                    let _ = socket.send_to(name.as_bytes(), caller).await;
                }
                // The answer to an earlier caller came back; that is that caller's matter.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }))
}

/// Whether this kernel has SCTP sockets.
pub(super) fn has_sctp() -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::from(SCTP))).is_ok()
}
