//! Connections and streams between two namespaces. One thread does both ends, so that neither a wake-up nor the other
//! processor is measured.

use crate::bed::pin;
use anyhow::Context;
use dataplane_netlink::NetworkNamespace;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The port of every server here.
const PORT: u16 = 9_400;
/// How long a connection may take to open.
const PATIENCE: Duration = Duration::from_secs(5);
/// So much is written and read at once, in bytes.
const PIECE: usize = 256 << 10;

/// Two ends: who connects, and who is connected to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    /// The client's namespace.
    pub(super) near: &'a NetworkNamespace,
    /// The server's namespace.
    pub(super) far: &'a NetworkNamespace,
    /// The server's address.
    pub(super) address: Ipv4Addr,
}

impl Ends<'_> {
    fn listen(&self) -> anyhow::Result<TcpListener> {
        let address = self.address;
        self.far
            .run(|| TcpListener::bind((address, PORT)))?
            .with_context(|| format!("listening at {address}"))
    }

    /// Sends so many bytes over one connection, and returns how many a second arrived.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) fn stream(&self, bytes: usize) -> anyhow::Result<f64> {
        let listener = self.listen()?;
        self.near.run(|| -> anyhow::Result<f64> {
            pin(0)?;
            let (mut near, mut far) = open(&listener)?;
            near.set_nonblocking(true)?;
            far.set_nonblocking(true)?;
            let (piece, mut room) = (vec![7; PIECE], vec![0; PIECE]);
            let (mut sent, mut read) = (0, 0);
            let begun = Instant::now();
            while read < bytes {
                anyhow::ensure!(
                    begun.elapsed() < 60 * PATIENCE,
                    "only {read} of {bytes} bytes arrived"
                );
                if sent < bytes {
                    let next = piece.get(..PIECE.min(bytes - sent)).unwrap_or(&piece);
                    sent += some(near.write(next))?;
                }
                read += some(far.read(&mut room))?;
            }
            Ok(bytes as f64 / begun.elapsed().as_secs_f64())
        })?
    }

    /// Makes connections one after the other, with one byte each way, and returns how many a second.
    ///
    /// # Errors
    /// A connection failed.
    pub(super) fn connect(&self, connections: usize) -> anyhow::Result<f64> {
        let listener = self.listen()?;
        self.near.run(|| -> anyhow::Result<f64> {
            pin(0)?;
            let begun = Instant::now();
            for _ in 0..connections {
                let (mut near, mut far) = open(&listener)?;
                let mut byte = [1u8];
                near.write_all(&byte)?;
                far.read_exact(&mut byte)?;
                far.write_all(&byte)?;
                near.read_exact(&mut byte)?;
            }
            Ok(connections as f64 / begun.elapsed().as_secs_f64())
        })?
    }
}

fn open(listener: &TcpListener) -> anyhow::Result<(TcpStream, TcpStream)> {
    let to: SocketAddr = listener.local_addr()?;
    let near = TcpStream::connect_timeout(&to, PATIENCE).context("connecting")?;
    let (far, _) = listener.accept().context("accepting")?;
    Ok((near, far))
}

/// How many bytes went; none where nothing could at the moment.
fn some(outcome: std::io::Result<usize>) -> anyhow::Result<usize> {
    match outcome {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}
