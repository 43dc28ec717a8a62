//! The small HTTP server behind health and metrics; who can reach it is the operator's choice.
//!
//! It has a thread of its own: when the loop hangs, it still says so.

use crate::health::Health;
use crate::metrics::Metrics;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// How many requests are answered at once; more wait.
const CONNECTIONS: usize = 64;
/// How long one may take, its answer included.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no server.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The port cannot be listened on.
    #[error(
        "cannot listen on {address} for metrics and health: {source}; {}",
        advice(source)
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The thread cannot be made.
    #[error("the thread for metrics and health cannot be started: {source}")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there, perhaps another controller: end it, or choose a port with --metrics-port \
             (0 for no server)"
        }
        io::ErrorKind::PermissionDenied => "choose a port above 1023 with --metrics-port",
        _ => "choose another port with --metrics-port (0 for no server)",
    }
}

/// What the pages say at the moment when somebody asks.
pub trait Pages: Send + Sync {
    /// The page that Prometheus reads.
    fn metrics(&self) -> String;
    /// Whether the program moves, and a line about it.
    fn liveness(&self, now: Instant) -> (bool, String);
    /// Whether its work is done, and a line about it.
    fn readiness(&self, now: Instant) -> (bool, String);
}

impl Pages for (Metrics, Health) {
    fn metrics(&self) -> String {
        self.0.page()
    }

    fn liveness(&self, now: Instant) -> (bool, String) {
        self.1.liveness(now)
    }

    fn readiness(&self, now: Instant) -> (bool, String) {
        self.1.readiness(now)
    }
}

/// Where the pages are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// On one address.
    One(IpAddr),
    /// On every address of the machine, of whatever family it has.
    All,
}

impl Host {
    /// The addresses to try, in their order: a machine without IPv6 refuses the first.
    fn addresses(self, port: u16) -> Vec<SocketAddr> {
        match self {
            Host::One(address) => vec![SocketAddr::new(address, port)],
            Host::All => vec![
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            ],
        }
    }
}

/// Serves `/metrics`, `/liveness` and `/readiness` until the process ends. Port 0 is the kernel's choice. Returns where
/// it listens.
///
/// # Errors
/// The port cannot be listened on, or there is no thread for it.
pub fn serve(host: Host, port: u16, pages: Arc<dyn Pages>) -> Result<SocketAddr, ServerError> {
    let mut listening = None;
    for address in host.addresses(port) {
        let bound = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        match bound {
            Ok(listener) => {
                listening = Some(Ok((listener, address)));
                break;
            }
            // What stands in the way of the first address is what a person has to hear of, and a port that is taken
            // there must not be served by half.
            Err(source) => {
                let is_final = matches!(
                    source.kind(),
                    io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
                );
                listening.get_or_insert(Err(ServerError::Listen { address, source }));
                if is_final {
                    break;
                }
            }
        }
    }
    let nowhere = || ServerError::Listen {
        address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        source: io::ErrorKind::AddrNotAvailable.into(),
    };
    let (listener, address) = listening.unwrap_or_else(|| Err(nowhere()))?;
    let address = listener.local_addr().unwrap_or(address);
    std::thread::Builder::new()
        .name("http".to_owned())
        .spawn(move || {
            if let Err(error) = listen(listener, pages) {
                tracing::error!(%error, "metrics and health are not served");
            }
        })
        .map_err(|source| ServerError::Thread { source })?;
    Ok(address)
}

fn listen(listener: std::net::TcpListener, pages: Arc<dyn Pages>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        accept(listener, pages).await
    })
}

async fn accept(listener: TcpListener, pages: Arc<dyn Pages>) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = Arc::clone(&pages);
                tokio::spawn(async move {
                    answer(stream, pages).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, pages: Arc<dyn Pages>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, pages.as_ref());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(PATIENCE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a client did not send a proper request"),
        Err(_) => tracing::debug!("a client was too slow"),
    }
}

fn respond(request: &Request<Incoming>, pages: &dyn Pages) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let refusal = "only GET and HEAD are answered here\n".to_owned();
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, refusal);
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let judged = |(is_well, line): (bool, String)| {
        let status = if is_well {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        page(status, line)
    };
    match request.uri().path() {
        "/metrics" => {
            let mut response = page(StatusCode::OK, pages.metrics());
            let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, format);
            response
        }
        "/liveness" => judged(pages.liveness(Instant::now())),
        "/readiness" => judged(pages.readiness(Instant::now())),
        _ => page(
            StatusCode::NOT_FOUND,
            "there is /metrics, /liveness and /readiness\n".to_owned(),
        ),
    }
}

fn page(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    // How the controller stands is never what it was.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
