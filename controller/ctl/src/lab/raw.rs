//! Flows that no ordinary socket opens: ICMP, SCTP where the kernel has no SCTP sockets, other protocols.
//!
//! A packet of the protocol is sent from a raw socket with a token in it; it has passed when a raw socket at the other
//! end sees the token. For a firewall that tracks connections these are flows like any other.

use super::namespaces;
use super::probe::{AGAIN, LONG, Outcome, Probe, SHORT, is_refusal};
use policy_model::Protocol;
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Pause between two looks at the receiving sockets.
const LOOK: Duration = Duration::from_millis(3);
/// Room of a receiving socket: raw sockets see all packets of their protocol.
const ROOM: usize = 1 << 20;
/// Types of ICMP by which connection tracking opens a flow; others belong to flows that are there.
const OPENING_V4: [u8; 4] = [8, 13, 15, 17];
/// The same of ICMPv6.
const OPENING_V6: [u8; 2] = [128, 139];

/// Why a flow cannot be tried by raw packets; `None` where it can.
pub(super) fn why_not(probe: &Probe) -> Option<String> {
    match (probe.protocol, probe.icmp.unwrap_or_default().0) {
        (Protocol::ICMP, kind) if !OPENING_V4.contains(&kind) && probe.icmp.is_some() => Some(format!(
            "an ICMP message of type {kind} opens no flow, so none can be sent as a proof"
        )),
        (Protocol::ICMPV6, kind) if !OPENING_V6.contains(&kind) && probe.icmp.is_some() => Some(format!(
            "an ICMPv6 message of type {kind} opens no flow, so none can be sent as a proof"
        )),
        (Protocol::SCTP | Protocol::ICMP | Protocol::ICMPV6, _) => None,
        (protocol, _) if protocol.has_ports() => Some(format!("the lab sends no packets of {protocol}")),
        _ => None,
    }
}

/// A probe under way.
struct Running<'a> {
    number: usize,
    probe: &'a Probe,
    token: u64,
    sender: Result<Socket, String>,
    outcome: Option<Outcome>,
}

/// Carries out the probes of these numbers.
pub(super) fn run(probes: &[Probe], numbers: &[usize], done: &(impl Fn() + Sync)) -> Vec<(usize, Outcome)> {
    let seed = RandomState::new();
    let mut receivers: BTreeMap<(&str, bool, i32), Result<Socket, String>> = BTreeMap::new();
    let mut running: Vec<Running<'_>> = Vec::new();
    for number in numbers {
        let probe = &probes[*number];
        let receiver = receivers
            .entry((&probe.into, probe.to.is_ipv4(), protocol_number(probe)))
            .or_insert_with(|| open(&probe.into, probe, None));
        let sender = match receiver {
            Ok(_) => open(&probe.from, probe, Some(probe.source)),
            Err(error) => Err(error.clone()),
        };
        running.push(Running {
            number: *number,
            probe,
            token: seed.hash_one(number),
            sender,
            outcome: None,
        });
    }
    let began = Instant::now();
    let mut sent: Option<Instant> = None;
    while running.iter().any(|r| r.outcome.is_none()) {
        if sent.is_none_or(|moment| moment.elapsed() >= AGAIN) {
            sent = Some(Instant::now());
            for r in running.iter_mut().filter(|r| r.outcome.is_none()) {
                r.outcome = r.send();
                if r.outcome.is_some() {
                    done();
                }
            }
        }
        for ((place, is_v4, protocol), socket) in &mut receivers {
            let Ok(socket) = socket else { continue };
            for token in arrived(socket, *is_v4, *protocol) {
                let waiting = running
                    .iter_mut()
                    .filter(|r| r.outcome.is_none() && r.token == token);
                for r in waiting.filter(|r| r.probe.into == *place) {
                    r.outcome = Some(Outcome::Answered(String::new()));
                    done();
                }
            }
        }
        for r in running.iter_mut().filter(|r| r.outcome.is_none()) {
            if began.elapsed() > if r.probe.expected { LONG } else { SHORT } {
                r.outcome = Some(Outcome::Silence);
                done();
            }
        }
        std::thread::sleep(LOOK);
    }
    running
        .into_iter()
        .map(|r| (r.number, r.outcome.unwrap_or(Outcome::Silence)))
        .collect()
}

impl Running<'_> {
    /// Sends the packet once; an outcome where it never can.
    fn send(&self) -> Option<Outcome> {
        let socket = match &self.sender {
            Ok(socket) => socket,
            Err(error) => return Some(Outcome::Failed(error.clone())),
        };
        let to = SockAddr::from(SocketAddr::new(self.probe.to, 0));
        match socket.send_to(&packet(self.probe, self.token), &to) {
            Ok(_) => None,
            Err(error) if is_refusal(&error) || error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(error) => Some(Outcome::Failed(error.to_string())),
        }
    }
}

fn protocol_number(probe: &Probe) -> i32 {
    i32::from(probe.protocol.number())
}

fn open(place: &str, probe: &Probe, source: Option<IpAddr>) -> Result<Socket, String> {
    let number = protocol_number(probe);
    let open = || -> std::io::Result<Socket> {
        let domain = Domain::for_address(SocketAddr::new(probe.to, 0));
        let socket = Socket::new(domain, Type::RAW, Some(number.into()))?;
        socket.set_nonblocking(true)?;
        match source {
            Some(source) => socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?,
            None => socket.set_recv_buffer_size(ROOM)?,
        }
        Ok(socket)
    };
    match namespaces::inside(place, open) {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => Err(format!("opening a raw socket in {place}: {error}")),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// The tokens of the packets that have arrived.
fn arrived(socket: &mut Socket, is_v4: bool, protocol: i32) -> Vec<u64> {
    let mut tokens = Vec::new();
    let mut buffer = [0u8; 2048];
    while let Ok(length) = socket.read(&mut buffer) {
        let packet = buffer.get(..length).unwrap_or_default();
        // IPv4 comes with its header, IPv6 without.
        let header = if is_v4 {
            packet.first().map_or(0, |b| usize::from(b & 0xf) * 4)
        } else {
            0
        };
        tokens.extend(token(packet.get(header..).unwrap_or_default(), protocol));
    }
    tokens
}

/// The token of a packet.
fn token(packet: &[u8], protocol: i32) -> Option<u64> {
    let part = |from: usize, to: usize| packet.get(from..to);
    let bytes = match protocol {
        132 => [part(16, 20)?, part(28, 32)?].concat(),
        1 | 58 => part(8, 16)?.to_vec(),
        _ => part(0, 8)?.to_vec(),
    };
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// A packet that opens the flow, with the token in it. A source port, or what stands for one, comes from the token.
fn packet(probe: &Probe, token: u64) -> Vec<u8> {
    let bytes = token.to_be_bytes();
    match protocol_number(probe) {
        132 => {
            let source = 32_768 | (token as u16 >> 1);
            let mut packet = [source.to_be_bytes(), probe.port.to_be_bytes()].concat();
            packet.extend([0; 8]);
            // An INIT chunk of 20 bytes: initiate tag, window, streams, first sequence number.
            packet.extend([1, 0, 0, 20]);
            packet.extend(&bytes[..4]);
            packet.extend([0, 1, 0, 0, 0, 1, 0, 1]);
            packet.extend(&bytes[4..]);
            let sum = crc32c(&packet);
            packet[8..12].copy_from_slice(&sum.to_le_bytes());
            packet
        }
        number @ (1 | 58) => {
            let echo = if number == 1 { 8 } else { 128 };
            let (kind, code) = probe.icmp.unwrap_or((echo, 0));
            let mut packet = vec![kind, code, 0, 0];
            packet.extend(&bytes[..2]);
            packet.extend([0, 1]);
            packet.extend(bytes);
            // Of ICMPv6 the kernel makes the sum.
            let sum = internet_sum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
            packet
        }
        _ => [bytes, [0; 8]].concat(),
    }
}

/// The checksum of RFC 1071.
fn internet_sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(c[0]) << 8 | u32::from(c.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of SCTP (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_standards() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // The example of RFC 1071, section 3: the sum is 0xddf2.
        assert_eq!(
            internet_sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
    }

    #[test]
    fn every_packet_carries_its_token() {
        for (protocol, to) in [
            (Protocol::SCTP, "10.0.0.1"),
            (Protocol::ICMP, "10.0.0.1"),
            (Protocol::ICMPV6, "fd00::1"),
            ("47".parse().unwrap(), "10.0.0.1"),
        ] {
            let probe = Probe {
                from: String::new(),
                into: String::new(),
                source: to.parse().unwrap(),
                to: to.parse().unwrap(),
                protocol,
                port: 80,
                icmp: None,
                expected: true,
            };
            let number = 0x0102_0304_0506_0708;
            assert_eq!(
                token(&packet(&probe, number), protocol_number(&probe)),
                Some(number),
                "{protocol}"
            );
            assert_eq!(why_not(&probe), None);
        }
    }
}
