//! The server against clients that are polite, rude, slow and many.

use super::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// More than the kernel keeps for a client that does not read.
const LARGE: usize = 64 << 20;

struct Fixed;

impl Pages for Fixed {
    fn page(&self, path: &str) -> Option<Page> {
        let page = |status, body: String| Page {
            status,
            content_type: "text/plain",
            body,
        };
        match path {
            "/ok" => Some(page(StatusCode::OK, "fine\n".into())),
            "/bad" => Some(page(StatusCode::SERVICE_UNAVAILABLE, "stuck\n".into())),
            "/large" => Some(page(StatusCode::OK, "x".repeat(LARGE))),
            _ => None,
        }
    }
}

fn server(limits: Limits) -> (SocketAddr, ServerThread) {
    let listening = bind(Purpose::Health, "127.0.0.1", 0).unwrap();
    let address = listening.address();
    (
        address,
        listening
            .serve_on_thread("test-http", Arc::new(Fixed), limits)
            .unwrap(),
    )
}

/// A test that hangs says less than one that fails.
const PATIENCE: Duration = Duration::from_secs(120);

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes and reads until the server closes; a connection that is reset has no answer.
fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(address);
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert!(
            !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "the server neither answered nor closed"
        ),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(address: SocketAddr, path: &str) -> String {
    exchange(
        address,
        format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(),
    )
}

fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

#[test]
fn pages_are_answered() {
    let (address, _server) = server(Limits::default());
    let answer = get(address, "/ok");
    assert_eq!(status(&answer), Some(200));
    assert!(answer.ends_with("\r\n\r\nfine\n"), "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
    assert!(get(address, "/bad").ends_with("\r\n\r\nstuck\n"));
    assert_eq!(status(&get(address, "/bad")), Some(503));
    assert_eq!(status(&get(address, "/ok?verbose=1")), Some(200));
    assert_eq!(status(&get(address, "/none")), Some(404));
    assert_eq!(status(&get(address, "/")), Some(404));
    assert_eq!(status(&exchange(address, b"GET /ok HTTP/1.0\r\n\r\n")), Some(200));
    let head = exchange(address, b"HEAD /ok HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(status(&head) == Some(200) && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn only_reading_is_answered() {
    let (address, _server) = server(Limits::default());
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let answer = exchange(
            address,
            format!("{method} /ok HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(),
        );
        assert_eq!(status(&answer), Some(405), "{method}");
        assert!(
            answer.to_ascii_lowercase().contains("allow: get, head"),
            "{answer}"
        );
    }
    let body = b"POST /ok HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\nabc";
    assert_eq!(status(&exchange(address, body)), Some(405));
}

#[test]
fn rude_clients_are_turned_away_and_do_no_harm() {
    let (address, _server) = server(Limits::default());
    let many_fields = format!("GET /ok HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let long_field = format!("GET /ok HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(1 << 20));
    let requests: [&[u8]; 9] = [
        b"\r\n\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /ok HTTP/9.9\r\n\r\n",
        b"GET /ok HTTP/1.1\r\nbad field\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        many_fields.as_bytes(),
        long_path.as_bytes(),
        long_field.as_bytes(),
    ];
    for request in requests {
        let mut stream = connect(address);
        // The server may close before all is written.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let code = status(&answer);
        assert!(code.is_none_or(|code| (400..500).contains(&code)), "{answer}");
        assert_eq!(status(&get(address, "/ok")), Some(200));
    }
}

#[test]
fn a_client_that_sends_nothing_is_closed() {
    let limits = Limits {
        head: Duration::from_millis(50),
        connection: Duration::from_millis(100),
        ..Limits::default()
    };
    let (address, _server) = server(limits);
    for start in ["", "G", "GET /ok HTTP/1.1\r\n", "GET /ok HTTP/1.1\r\nHost: x\r\n"] {
        let answer = exchange(address, start.as_bytes());
        assert!(status(&answer).is_none_or(|code| code == 408), "{answer}");
    }
    // A busy machine may be slower than these limits allow, and then its client is closed too.
    let begin = std::time::Instant::now();
    while status(&get(address, "/ok")) != Some(200) {
        assert!(begin.elapsed() < PATIENCE, "nobody is answered any more");
    }
}

#[test]
fn a_client_that_does_not_read_is_closed() {
    let limits = Limits {
        connection: Duration::from_millis(200),
        ..Limits::default()
    };
    let (address, _server) = server(limits);
    let mut slow = connect(address);
    slow.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // Nothing is read. That the server is gone shows when it refuses what is written to it.
    let begin = std::time::Instant::now();
    while slow.write_all(b"x").is_ok() {
        assert!(begin.elapsed() < PATIENCE, "the connection is still open");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_client_that_reads_gets_all() {
    let (address, _server) = server(Limits {
        connection: PATIENCE,
        ..Limits::default()
    });
    assert!(get(address, "/large").len() > LARGE);
}

#[test]
fn idle_connections_do_not_keep_a_probe_waiting() {
    let limits = Limits {
        connections: 4,
        head: PATIENCE,
        connection: PATIENCE,
        ..Limits::default()
    };
    let (address, _server) = server(limits);
    let mut idle: Vec<TcpStream> = (0..40).map(|_| connect(address)).collect();
    assert_eq!(status(&get(address, "/ok")), Some(200));
    // The oldest was closed to make room: it reads its end, or a reset.
    let mut byte = [0];
    loop {
        match idle[0].read(&mut byte) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => break assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            Ok(read) => break assert_eq!(read, 0),
        }
    }
}

#[test]
fn many_clients_at_once_are_all_answered() {
    let (address, _server) = server(Limits {
        connections: 1024,
        ..Limits::default()
    });
    let clients: Vec<_> = (0..16)
        .map(|_| {
            std::thread::spawn(move || {
                (0..25)
                    .filter(|_| status(&get(address, "/ok")) == Some(200))
                    .count()
            })
        })
        .collect();
    assert_eq!(
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum::<usize>(),
        400
    );
}

#[test]
fn a_dropped_server_gives_its_port_back() {
    let (address, server) = server(Limits::default());
    let idle = connect(address);
    assert_eq!(status(&get(address, "/ok")), Some(200));
    drop(server);
    // A program that another test is starting has this process's sockets until it runs.
    let deadline = Instant::now() + Duration::from_secs(60);
    let again = loop {
        match bind(Purpose::Health, "127.0.0.1", address.port()) {
            Err(BindError::Listen { cause, .. })
                if cause.kind() == ErrorKind::AddrInUse && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            bound => break bound.unwrap(),
        }
    };
    assert_eq!(again.address(), address);
    drop(idle);
}

#[test]
fn a_port_in_use_is_told_with_what_to_do() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let health = bind(Purpose::Health, "localhost", port).unwrap_err().to_string();
    for part in [
        "health checks",
        &format!("127.0.0.1:{port}"),
        "HealthPort",
        "FELIX_HEALTHPORT",
        "HealthEnabled",
    ] {
        assert!(health.contains(part), "{health} does not have {part}");
    }
    let metrics = bind(Purpose::Metrics, "127.0.0.1", port).unwrap_err().to_string();
    for part in [
        "metrics",
        "FELIX_PROMETHEUSMETRICSPORT",
        "PrometheusMetricsEnabled",
    ] {
        assert!(metrics.contains(part), "{metrics} does not have {part}");
    }
}

#[test]
fn an_address_that_is_not_here_is_told() {
    // TEST-NET-1 belongs to nobody.
    let error = bind(Purpose::Health, "192.0.2.1", 0).unwrap_err();
    assert!(
        matches!(error, BindError::Listen { .. }) && error.to_string().contains("HealthHost"),
        "{error}"
    );
    let error = bind(Purpose::Metrics, "no-such-host.invalid", 0).unwrap_err();
    assert!(matches!(error, BindError::NoAddress { .. }), "{error}");
    assert!(error.to_string().contains("PrometheusMetricsHost"), "{error}");
}

#[test]
fn no_host_is_every_address() {
    let listening = bind(Purpose::Metrics, "", 0).unwrap();
    let port = listening.address().port();
    let _server = listening
        .serve_on_thread("test-http", Arc::new(Fixed), Limits::default())
        .unwrap();
    assert_eq!(
        status(&get(SocketAddr::from(([127, 0, 0, 1], port)), "/ok")),
        Some(200)
    );
}
