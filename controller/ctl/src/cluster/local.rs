//! The agent of the container that this runs in, asked for its health as kubelet asks it.

use serde::Serialize;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// No page of the agent is near this long.
const LONGEST: u64 = 1 << 20;

/// What the agent of this container says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LocalAgent {
    /// The node that it is the agent of.
    pub node: String,
    /// Its answer to `/liveness`.
    pub liveness: Page,
    /// Its answer to `/readiness`.
    pub readiness: Page,
}

/// A page of health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page {
    /// Whether the answer is yes.
    pub ok: bool,
    /// What it says; the reason where there is no answer.
    pub text: String,
}

/// Asks the agent of this container; none where this is no agent's container.
pub fn ask() -> Option<LocalAgent> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let node = set("NODENAME")?;
    let host = set("FELIX_HEALTHHOST").unwrap_or_else(|| "localhost".to_owned());
    let port = set("FELIX_HEALTHPORT")
        .and_then(|port| port.parse().ok())
        .unwrap_or(9099);
    Some(LocalAgent {
        node,
        liveness: page(&host, port, "/liveness"),
        readiness: page(&host, port, "/readiness"),
    })
}

/// Asks for one page.
fn page(host: &str, port: u16, path: &str) -> Page {
    match fetch(host, port, path) {
        Ok(answer) => parse(&answer),
        Err(error) => Page {
            ok: false,
            text: format!("the agent does not answer on {host}:{port}: {error}"),
        },
    }
}

fn fetch(host: &str, port: u16, path: &str) -> io::Result<String> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    // An image without files has nobody who knows this name.
    let addresses: Vec<SocketAddr> = match host {
        "localhost" => vec![
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ],
        host => (host, port).to_socket_addrs()?.collect(),
    };
    for address in addresses {
        let mut stream = match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => stream,
            Err(error) => {
                failure = error;
                continue;
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // In one piece: a peer may look at what came first.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut bytes = Vec::new();
        stream.take(LONGEST).read_to_end(&mut bytes)?;
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    Err(failure)
}

fn parse(answer: &str) -> Page {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let code = head.split_whitespace().nth(1).unwrap_or_default();
    let ok = code.starts_with('2');
    let body = body.trim();
    Page {
        ok,
        text: match (body, ok) {
            ("", true) => "yes".to_owned(),
            ("", false) => format!("it answered '{}'", head.lines().next().unwrap_or_default()),
            _ => body.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn pages_are_read_from_a_server_as_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            for answer in [
                "HTTP/1.0 200 OK\r\n\r\nready\nnft: ready\n",
                "HTTP/1.0 503 Service Unavailable\r\nX: y\r\n\r\nnot ready: calc\n",
                "HTTP/1.0 204 No Content\r\n\r\n",
            ] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let length = stream.read(&mut request).unwrap();
                assert!(request[..length].starts_with(b"GET /readiness HTTP/1.0\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let ask = || page("127.0.0.1", port, "/readiness");
        let said = |ok, text: &str| Page {
            ok,
            text: text.to_owned(),
        };
        assert_eq!(ask(), said(true, "ready\nnft: ready"));
        assert_eq!(ask(), said(false, "not ready: calc"));
        assert_eq!(ask(), said(true, "yes"));
        server.join().unwrap();
        let gone = ask();
        assert!(!gone.ok && gone.text.contains("does not answer"), "{gone:?}");
    }
}
