//! Packets of new flows, thousands a second, and which of them arrived.

use anyhow::Context;
use dataplane_netlink::NetworkNamespace;
use nix::sys::prctl::set_timerslack;
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

/// So many probes in a row that are treated anew end the watch.
const SURE: usize = 10;
/// A probe counts as dropped when it has not arrived so many probes later.
const LATE: usize = 3;
/// A change that is not in force by then never will be.
const PATIENCE: Duration = Duration::from_secs(20);
const FIRST_PORT: u16 = 2_000;
const PORTS: u32 = 60_000;
/// Protocol number of raw IP packets that bring their header along.
const RAW: i32 = 255;

/// Whether new flows are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// They are.
    Open,
    /// They are not.
    Shut,
}

/// Sends from the client pod and listens in the server pod.
#[derive(Debug)]
pub struct Probe {
    sender: Socket,
    receiver: UdpSocket,
    client: Ipv4Addr,
    server: SocketAddrV4,
    per_second: u32,
    sent: u32,
}

impl Probe {
    /// Opens both ends: `client` and `server` are namespaces with the addresses that they have.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open(
        client: (&NetworkNamespace, Ipv4Addr),
        server: (&NetworkNamespace, SocketAddrV4),
        per_second: u32,
    ) -> anyhow::Result<Self> {
        // A sleep shall end when it is asked to.
        set_timerslack(1_000).context("asking for exact sleeps")?;
        let sender = client
            .0
            .run(|| Socket::new(Domain::IPV4, Type::RAW, Some(RAW.into())))??;
        let receiver = server.0.run(|| UdpSocket::bind(server.1))??;
        receiver.set_nonblocking(true)?;
        Ok(Probe {
            sender,
            receiver,
            client: client.1,
            server: server.1,
            per_second,
            sent: 0,
        })
    }

    /// Probes until new flows are treated as the door says, and returns when the first of them was sent.
    ///
    /// # Errors
    /// They never were, or the kernel refused a packet.
    pub fn wait(&mut self, door: Door) -> anyhow::Result<Instant> {
        self.drain(|_| {});
        let first = self.sent;
        let mut sent_at: Vec<Instant> = Vec::new();
        let mut arrived: Vec<bool> = Vec::new();
        let pause = Duration::from_secs(1) / self.per_second;
        let begun = Instant::now();
        let mut next = begun;
        loop {
            sent_at.push(Instant::now());
            arrived.push(false);
            self.send()?;
            self.drain(|number| {
                if let Some(seen) = arrived.get_mut(number.wrapping_sub(first) as usize) {
                    *seen = true;
                }
            });
            // The last few may still be on their way.
            let judged = arrived
                .get(..arrived.len().saturating_sub(LATE))
                .unwrap_or_default();
            let anew = judged
                .iter()
                .rev()
                .take_while(|a| **a == (door == Door::Open))
                .count();
            if anew >= SURE
                && let Some(at) = sent_at.get(judged.len() - anew)
            {
                return Ok(*at);
            }
            anyhow::ensure!(
                begun.elapsed() < PATIENCE,
                "the change to {door:?} did not come into force in {PATIENCE:?}"
            );
            next += pause;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            // Missed slots are not made up for: that would be a burst.
            next = next.max(Instant::now());
        }
    }

    fn send(&mut self) -> anyhow::Result<()> {
        let port = FIRST_PORT + u16::try_from(self.sent % PORTS).unwrap_or(0);
        // IPv4 and UDP headers (RFC 791, RFC 768), then the probe's number; the kernel writes the first's length and
        // checksum, and the second needs none.
        let mut packet = [0u8; 32];
        packet[0] = 0x45;
        packet[8] = 64;
        packet[9] = 17;
        packet[12..16].copy_from_slice(&self.client.octets());
        packet[16..20].copy_from_slice(&self.server.ip().octets());
        packet[20..22].copy_from_slice(&port.to_be_bytes());
        packet[22..24].copy_from_slice(&self.server.port().to_be_bytes());
        packet[25] = 12;
        packet[28..32].copy_from_slice(&self.sent.to_be_bytes());
        self.sent = self.sent.wrapping_add(1);
        let to = SockAddr::from(SocketAddrV4::new(*self.server.ip(), 0));
        self.sender.send_to(&packet, &to).context("sending a probe")?;
        Ok(())
    }

    fn drain(&self, mut seen: impl FnMut(u32)) {
        let mut number = [0u8; 4];
        while let Ok(4) = self.receiver.recv(&mut number) {
            seen(u32::from_be_bytes(number));
        }
    }
}
