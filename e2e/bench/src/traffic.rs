//! Packets that open flows, and connections, between two pods of one node. One thread does both ends, so that neither
//! a wake-up nor the other processor is measured.

use crate::bed::{Node, pin, set};
use crate::selected::{self, CLIENT};
use anyhow::Context;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// First source port of a run.
const FIRST_PORT: u16 = 10_000;
/// How many source ports a run uses from each of the client's addresses.
const PORTS: usize = 50_000;
/// Protocol number of raw IP packets that bring their header along.
const RAW: i32 = 255;
/// How long the last packets of a run may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The server's side: sockets in its namespace, and a count of what arrived there.
#[derive(Debug)]
pub struct Server {
    address: Ipv4Addr,
    port: u16,
    listener: TcpListener,
    /// Takes the packets; it is never read, for its buffer may overflow.
    _sink: UdpSocket,
    counters: File,
}

impl Server {
    /// Opens a server in its pod.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open(node: &Node, server: usize) -> anyhow::Result<Self> {
        // The client is the first pod.
        let pod = node.pods.get(server + 1).context("a pod of the node")?;
        let (address, port) = (selected::server(server), selected::port(server));
        pod.namespace.run(|| {
            // What a closed connection leaves behind would else fill up over the rounds.
            set("net/ipv4/tcp_max_tw_buckets", "0")?;
            let sink = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            sink.set_recv_buffer_size(2048)?;
            sink.bind(&SockAddr::from(SocketAddrV4::new(address, port)))?;
            Ok(Server {
                address,
                port,
                listener: TcpListener::bind((address, port))?,
                _sink: sink.into(),
                counters: File::open("/proc/thread-self/net/snmp")?,
            })
        })?
    }

    /// UDP packets that arrived, taken or not.
    fn arrived(&mut self) -> anyhow::Result<u64> {
        let mut text = String::new();
        self.counters.seek(SeekFrom::Start(0))?;
        self.counters.read_to_string(&mut text)?;
        let mut lines = text.lines().filter_map(|l| l.strip_prefix("Udp: "));
        let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
            anyhow::bail!("the kernel's counters have no line for UDP");
        };
        let counted = names.split(' ').zip(values.split(' '));
        Ok(counted
            .filter(|(name, _)| ["InDatagrams", "RcvbufErrors"].contains(name))
            .filter_map(|(_, value)| value.parse::<u64>().ok())
            .sum())
    }
}

/// Sends packets, each with a source of its own, and returns the time for one, to its arrival.
///
/// # Errors
/// The kernel refused, or packets were lost.
pub fn open_flows(node: &Node, server: &mut Server, packets: usize) -> anyhow::Result<Duration> {
    anyhow::ensure!(
        packets <= PORTS * CLIENT.len(),
        "a run has at most {} packets",
        PORTS * CLIENT.len()
    );
    let client = node.pods.first().context("the client pod")?;
    client.namespace.run(|| {
        pin(0)?;
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(RAW.into()))?;
        let to = SockAddr::from(SocketAddrV4::new(server.address, 0));
        let before = server.arrived()?;
        let mut packet = udp_packet(server.address, server.port);
        let begun = Instant::now();
        for n in 0..packets {
            let source = CLIENT.get(n / PORTS).copied().unwrap_or(Ipv4Addr::UNSPECIFIED);
            let port = FIRST_PORT + u16::try_from(n % PORTS).unwrap_or(0);
            packet[12..16].copy_from_slice(&source.octets());
            packet[20..22].copy_from_slice(&port.to_be_bytes());
            socket.send_to(&packet, &to)?;
        }
        // On a machine that does other things too a few packets are lost in its queues; they change nothing.
        let expected = before + packets as u64 - packets as u64 / 1_000;
        let patience = begun.elapsed() + PATIENCE;
        loop {
            let arrived = server.arrived()?;
            if arrived >= expected {
                break;
            }
            anyhow::ensure!(
                begun.elapsed() < patience,
                "{} of {packets} packets were lost",
                expected - arrived
            );
        }
        Ok(begun.elapsed() / u32::try_from(packets.max(1)).unwrap_or(u32::MAX))
    })?
}

/// An IPv4 packet with a UDP header (RFC 791, RFC 768) and four bytes; the kernel writes length and checksum of the
/// first, and no checksum of the second is a valid one.
fn udp_packet(to: Ipv4Addr, port: u16) -> [u8; 32] {
    let mut packet = [0u8; 32];
    packet[0] = 0x45;
    packet[8] = 64;
    packet[9] = 17;
    packet[16..20].copy_from_slice(&to.octets());
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet[25] = 12;
    packet
}

/// Makes connections one after the other, with one byte each way, and returns how many a second.
///
/// # Errors
/// A connection failed.
pub fn connect(node: &Node, server: &Server, connections: usize) -> anyhow::Result<f64> {
    let client = node.pods.first().context("the client pod")?;
    client.namespace.run(|| {
        pin(0)?;
        let to = SocketAddr::from((server.address, server.port));
        let begun = Instant::now();
        for _ in 0..connections {
            let mut near = TcpStream::connect_timeout(&to, PATIENCE).context("connecting")?;
            let (mut far, _) = server.listener.accept().context("accepting")?;
            let mut byte = [1u8];
            near.write_all(&byte)?;
            far.read_exact(&mut byte)?;
            far.write_all(&byte)?;
            near.read_exact(&mut byte)?;
            drop(far);
            drop(near);
        }
        Ok(connections as f64 / begun.elapsed().as_secs_f64())
    })?
}
