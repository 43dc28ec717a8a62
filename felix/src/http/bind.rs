//! Where a server listens, and what to do when it cannot.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use thiserror::Error;

/// What a server is for, and which settings say where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Liveness and readiness.
    Health,
    /// Metrics.
    Metrics,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Purpose::Health => "health checks",
            Purpose::Metrics => "metrics",
        }
    }

    fn host_setting(self) -> &'static str {
        match self {
            Purpose::Health => "HealthHost",
            Purpose::Metrics => "PrometheusMetricsHost",
        }
    }

    fn port_setting(self) -> &'static str {
        match self {
            Purpose::Health => "HealthPort",
            Purpose::Metrics => "PrometheusMetricsPort",
        }
    }

    fn switch(self) -> &'static str {
        match self {
            Purpose::Health => "HealthEnabled",
            Purpose::Metrics => "PrometheusMetricsEnabled",
        }
    }
}

/// Why a server cannot listen. The text says what to do.
#[derive(Debug, Error)]
pub enum BindError {
    /// The host name has no address.
    #[error(
        "cannot listen for {}: {} is {host:?}, which has no address here: set it to localhost or to an address of this node",
        purpose.name(), purpose.host_setting()
    )]
    NoAddress {
        /// What the server is for.
        purpose: Purpose,
        /// The host name.
        host: String,
        /// What the resolver said, if it failed.
        source: Option<io::Error>,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address} for {}: {cause}: {}", purpose.name(), advice(*purpose, cause.kind()))]
    Listen {
        /// What the server is for.
        purpose: Purpose,
        /// The address.
        address: SocketAddr,
        /// What the system said. Part of the text, hence no source of its own.
        cause: io::Error,
    },
}

fn advice(purpose: Purpose, kind: ErrorKind) -> String {
    let (host, port, switch) = (purpose.host_setting(), purpose.port_setting(), purpose.switch());
    let variable = format!("FELIX_{}", port.to_ascii_uppercase());
    match kind {
        ErrorKind::AddrInUse => format!(
            "another program listens there, perhaps another agent: end it, or set {port} ({variable}) to a free port, \
             or set {switch} to false"
        ),
        ErrorKind::AddrNotAvailable => {
            format!("this node does not have that address: set {host} to one that it has")
        }
        ErrorKind::PermissionDenied => {
            format!(
                "set {port} ({variable}) to a port above 1023, or run as root or with CAP_NET_BIND_SERVICE"
            )
        }
        _ => format!("set {host} and {port} ({variable}) to where it can listen, or set {switch} to false"),
    }
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Listening {
    pub(super) listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    /// Where it listens; the port is the kernel's choice if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Begins to listen on a host's address and a port. No host is every address of both families.
///
/// # Errors
/// When the host has no address, or the address cannot be listened on.
pub fn bind(purpose: Purpose, host: &str, port: u16) -> Result<Listening, BindError> {
    let candidates = addresses(host, port).map_err(|source| BindError::NoAddress {
        purpose,
        host: host.to_owned(),
        source: Some(source),
    })?;
    let mut refused = None;
    for address in candidates {
        match listen(address) {
            Ok(listener) => {
                let address = listener.local_addr().unwrap_or(address);
                return Ok(Listening { listener, address });
            }
            Err(source) => {
                // A family that the machine does not have is not what stopped us, the other one's error is.
                let missing = matches!(
                    source.kind(),
                    ErrorKind::AddrNotAvailable | ErrorKind::Unsupported
                );
                if refused.is_none() || !missing {
                    refused = Some(BindError::Listen {
                        purpose,
                        address,
                        cause: source,
                    });
                }
                if !missing {
                    break;
                }
            }
        }
    }
    Err(refused.unwrap_or(BindError::NoAddress {
        purpose,
        host: host.to_owned(),
        source: None,
    }))
}

/// The addresses to try, one after the other, until one can be listened on.
fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host.is_empty() {
        // The IPv6 wildcard takes both families; a machine without IPv6 has only the other.
        return Ok(vec![
            SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
        ]);
    }
    if host.eq_ignore_ascii_case("localhost") {
        // Known without a resolver, which an isolated node may lack.
        return Ok(vec![
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
            SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port),
        ]);
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let mut found: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    Ok(found)
}

/// Waiting connections that the kernel keeps for us.
const BACKLOG: i32 = 128;

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )
    .map_err(|error| match error.raw_os_error() {
        // EAFNOSUPPORT has no kind of its own: the machine lacks the family.
        Some(code) if code == nix::errno::Errno::EAFNOSUPPORT as i32 => {
            io::Error::from(ErrorKind::Unsupported)
        }
        _ => error,
    })?;
    // A restarted agent must not wait for connections of the old one to be forgotten.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
