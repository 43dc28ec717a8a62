//! Small servers inside the pods: they say who they are.

use super::namespaces;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

/// IP protocol number of SCTP.
const SCTP: i32 = 132;
/// How long a server waits for a caller to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A port that is to answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Number.
    pub number: u16,
}

/// Running servers of one pod; they end when this is dropped.
#[derive(Debug, Default)]
pub struct Servers {
    tasks: Vec<JoinHandle<()>>,
    /// Ports that answer.
    pub ports: Vec<Port>,
    /// Why a port does not answer.
    pub trouble: Vec<String>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Opens the ports inside a namespace and answers with `name`. Call it from within a tokio runtime.
pub fn serve(namespace: &str, name: &str, ports: &[Port]) -> anyhow::Result<Servers> {
    let mut servers = Servers::default();
    let sockets = namespaces::inside(namespace, || {
        let open = |port: &Port| (port.clone(), open_port(port));
        ports.iter().map(open).collect::<Vec<_>>()
    })?;
    let name: Arc<str> = name.into();
    for (port, opened) in sockets {
        match opened {
            Ok(sockets) => {
                for socket in sockets {
                    let task = if port.protocol == "UDP" { udp(socket, name.clone()) } else { stream(socket, name.clone()) };
                    match task {
                        Ok(task) => servers.tasks.push(task),
                        Err(error) => servers.trouble.push(format!("{}/{}: {error}", port.protocol, port.number)),
                    }
                }
                servers.ports.push(port);
            }
            Err(error) => servers.trouble.push(format!("{}/{}: {error}", port.protocol, port.number)),
        }
    }
    Ok(servers)
}

/// One socket a family; a pod without IPv6 has only the first.
fn open_port(port: &Port) -> std::io::Result<Vec<Socket>> {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let mut out = Vec::new();
    let mut failure = None;
    for address in any {
        match open_socket(port, SocketAddr::new(address, port.number)) {
            Ok(socket) => out.push(socket),
            Err(error) => failure = Some(error),
        }
    }
    match (out.is_empty(), failure) {
        (true, Some(error)) => Err(error),
        _ => Ok(out),
    }
}

fn open_socket(port: &Port, at: SocketAddr) -> std::io::Result<Socket> {
    let (kind, protocol) = match port.protocol.as_str() {
        "UDP" => (Type::DGRAM, Protocol::UDP),
        "SCTP" => (Type::STREAM, Protocol::from(SCTP)),
        _ => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(at))?;
    if kind == Type::STREAM {
        socket.listen(128)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
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
