//! Asks a running controller how it stands: `check-status`, for probes that can only run a program.
//!
//! The image has no shell and no HTTP client, so the controller's own program is the client of its own pages.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long the answer may take in all.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most that is read of an answer; a page about health is a few lines.
const LARGEST: usize = 64 * 1024;

/// Why a status cannot be told, or is bad.
#[derive(Debug, Error)]
pub enum StatusError {
    /// Nobody answers.
    #[error(
        "nobody answers on {address}: {source}; is the controller running, and with this --metrics-port?"
    )]
    Silent {
        /// Where it was asked.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// What answers is not a controller.
    #[error("what answers on {address} is no controller: {said}")]
    Stranger {
        /// Where it was asked.
        address: SocketAddr,
        /// The first line of its answer.
        said: String,
    },
    /// The controller says that it is not well.
    #[error("{0}")]
    Bad(String),
}

/// Asks the controller at an address for a page, `/liveness` or `/readiness`; returns what it says when all is well.
///
/// # Errors
/// Nobody answers in time, it is no controller, or it says that it is not well.
pub fn check_status(host: IpAddr, port: u16, page: &str) -> Result<String, StatusError> {
    let address = SocketAddr::new(host, port);
    let answer = ask(address, page).map_err(|source| StatusError::Silent { address, source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let first = head.lines().next().unwrap_or_default();
    match first.split(' ').nth(1) {
        Some("200") => Ok(body.trim_end().to_owned()),
        Some("503") => Err(StatusError::Bad(body.trim_end().to_owned())),
        _ => Err(StatusError::Stranger {
            address,
            said: first.chars().take(200).collect(),
        }),
    }
}

fn ask(address: SocketAddr, page: &str) -> io::Result<String> {
    let end = Instant::now() + PATIENCE;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("GET {page} HTTP/1.1\r\nHost: controller\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let read = match stream.read(&mut piece) {
            // A time limit makes the kernel say so where the process was stopped for a moment.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 || answer.len() + read > LARGEST {
            break;
        }
        answer.extend_from_slice(piece.get(..read).unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    fn answering(text: &'static str) -> (u16, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 1024];
            let read = stream.read(&mut asked).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            String::from_utf8_lossy(&asked[..read]).into_owned()
        });
        (port, server)
    }

    #[test]
    fn the_code_decides_and_the_words_are_passed_on() {
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (port, server) = answering("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nleads\n");
        assert_eq!(check_status(host, port, "/readiness").unwrap(), "leads");
        assert!(server.join().unwrap().starts_with("GET /readiness HTTP/1.1\r\n"));
        let (port, _server) = answering("HTTP/1.1 503 Service Unavailable\r\n\r\nnot in step: why\n");
        let error = check_status(host, port, "/readiness").unwrap_err();
        assert_eq!(error.to_string(), "not in step: why");
        let (port, _server) = answering("SSH-2.0-OpenSSH\r\n");
        let error = check_status(host, port, "/liveness").unwrap_err();
        assert!(matches!(error, StatusError::Stranger { .. }), "{error}");
    }

    #[test]
    fn silence_is_an_error_that_says_what_to_look_at() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = check_status(IpAddr::V4(Ipv4Addr::LOCALHOST), port, "/liveness").unwrap_err();
        assert!(error.to_string().contains("--metrics-port"), "{error}");
    }
}
