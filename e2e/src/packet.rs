//! Packets that open flows, made by hand, so that thousands a second of every protocol can be sent from any address.
//!
//! Checksums are right: connection tracking calls a packet with a wrong one invalid, and it would be dropped for that.

use policy_model::Protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every probe ends with, before its number.
const MAGIC: [u8; 4] = *b"manx";
/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// A packet that opens a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    /// Its number, by which it is recognised where it arrives.
    pub number: u32,
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port, or ICMP type.
    pub x: u16,
    /// Source port, or ICMP code.
    pub y: u16,
}

/// The flag of a TCP segment that opens.
pub const SYN: u8 = 0x02;
/// The flags of one that goes on, with data.
pub const GO_ON: u8 = 0x18;
/// The flag that says that the acknowledgement counts.
pub const ACK: u8 = 0x10;
/// Every segment made here holds so many bytes of data.
pub const DATA: u32 = 8;

/// What a TCP segment says beside its ends and its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Flags.
    pub flags: u8,
    /// Number of the first byte.
    pub sequence: u32,
    /// Number of the byte that is expected next.
    pub acknowledgement: u32,
}

/// Protocol, source and destination of a frame with ports; `None` for others, so also for errors that quote one.
pub fn ends_of(frame: &[u8]) -> Option<(Protocol, SocketAddr, SocketAddr)> {
    let packet = frame.get(ETHERNET..)?;
    let (protocol, source, destination, body): (u8, IpAddr, IpAddr, &[u8]) = match frame.get(12..ETHERNET)? {
        [0x08, 0x00] => {
            let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?).into());
            (*packet.get(9)?, address(12)?, address(16)?, packet.get(20..)?)
        }
        [0x86, 0xdd] => {
            let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?).into());
            (*packet.get(6)?, address(8)?, address(24)?, packet.get(40..)?)
        }
        _ => return None,
    };
    let protocol = Protocol::from_number(protocol);
    let has_ports = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::UDP_LITE].contains(&protocol);
    let [a, b, c, d] = *body.first_chunk::<4>()?;
    let source = SocketAddr::new(source, u16::from_be_bytes([a, b]));
    let destination = SocketAddr::new(destination, u16::from_be_bytes([c, d]));
    has_ports.then_some((protocol, source, destination))
}

/// The number of a probe, if a frame is one.
pub fn number_of(frame: &[u8]) -> Option<u32> {
    let (rest, number) = frame.split_last_chunk::<4>()?;
    rest.ends_with(&MAGIC).then(|| u32::from_be_bytes(*number))
}

/// The end of a probe: what [`number_of`] recognises.
pub fn tail(number: u32) -> [u8; 8] {
    let [a, b, c, d] = MAGIC;
    let [e, f, g, h] = number.to_be_bytes();
    [a, b, c, d, e, f, g, h]
}

impl Probe {
    /// The Ethernet frame of the probe.
    pub fn frame(&self, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
        self.ethernet(to, from, self.packet())
    }

    /// The IP packet of the probe.
    pub fn packet(&self) -> Vec<u8> {
        self.wrap(self.body())
    }

    /// The Ethernet frame of a later TCP segment between the probe's ends, with the probe's tail as its data.
    pub fn segment(&self, to: [u8; 6], from: [u8; 6], segment: Segment) -> Vec<u8> {
        self.ethernet(to, from, self.wrap(self.tcp(segment)))
    }

    /// The Ethernet frame of a packet with the probe's ends and protocol around another one.
    pub fn around(&self, to: [u8; 6], from: [u8; 6], inner: &[u8]) -> Vec<u8> {
        self.ethernet(to, from, self.wrap(inner.to_vec()))
    }

    fn ethernet(&self, to: [u8; 6], from: [u8; 6], packet: Vec<u8>) -> Vec<u8> {
        let kind: [u8; 2] = if self.source.is_ipv4() {
            [0x08, 0x00]
        } else {
            [0x86, 0xdd]
        };
        let mut frame = Vec::with_capacity(128);
        frame.extend(to);
        frame.extend(from);
        frame.extend(kind);
        frame.extend(packet);
        frame
    }

    /// Puts an IP header before what follows it.
    fn wrap(&self, body: Vec<u8>) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("a probe is short");
        let protocol = self.protocol.number();
        let mut packet;
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                packet = vec![0x45, 0];
                packet.extend((length + 20).to_be_bytes());
                packet.extend([
                    self.number.to_be_bytes()[2],
                    self.number.to_be_bytes()[3],
                    0x40,
                    0,
                    64,
                    protocol,
                    0,
                    0,
                ]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                let sum = finish(add(0, &packet));
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet = vec![0x60, 0, 0, 0];
                packet.extend(length.to_be_bytes());
                packet.extend([protocol, 64]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
            }
            (source, destination) => panic!("{source} and {destination} are of different families"),
        }
        packet.extend(body);
        packet
    }

    /// What follows the IP header.
    fn body(&self) -> Vec<u8> {
        let ports = [self.y.to_be_bytes(), self.x.to_be_bytes()].concat();
        let mut body = Vec::with_capacity(64);
        match self.protocol {
            Protocol::TCP => {
                return self.tcp(Segment {
                    flags: SYN,
                    sequence: self.number,
                    acknowledgement: 0,
                });
            }
            Protocol::UDP | Protocol::UDP_LITE => {
                body.extend(ports);
                // UDP-Lite has its coverage where UDP has its length; whole packets are covered by either.
                body.extend([0, 16, 0, 0]);
                self.close(&mut body, 6);
            }
            Protocol::SCTP => {
                body.extend(ports);
                body.extend([0; 8]);
                body.extend([1, 0, 0, 32]);
                body.extend((self.number | 1).to_be_bytes());
                body.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
                // A parameter that a receiver skips, with the tail as its value.
                body.extend([0x80, 0x99, 0, 12]);
                body.extend(tail(self.number));
                let sum = crc32c(&body);
                body[8..12].copy_from_slice(&sum.to_le_bytes());
            }
            Protocol::ICMP | Protocol::ICMPV6 => {
                let [_, _, high, low] = self.number.to_be_bytes();
                let [_, icmp_type] = self.x.to_be_bytes();
                let [_, code] = self.y.to_be_bytes();
                body.extend([icmp_type, code, 0, 0, high, low, 0, 1]);
                self.close(&mut body, 2);
            }
            _ => body.extend(tail(self.number)),
        }
        body
    }

    /// A TCP header without options, and the tail.
    fn tcp(&self, segment: Segment) -> Vec<u8> {
        let mut body = [self.y.to_be_bytes(), self.x.to_be_bytes()].concat();
        body.extend(segment.sequence.to_be_bytes());
        body.extend(segment.acknowledgement.to_be_bytes());
        body.extend([0x50, segment.flags, 0xff, 0xff, 0, 0, 0, 0]);
        self.close(&mut body, 16);
        body
    }

    /// Appends the tail and writes the Internet checksum.
    fn close(&self, body: &mut Vec<u8>, at: usize) {
        body.extend(tail(self.number));
        let mut sum = 0;
        if self.protocol != Protocol::ICMP {
            for address in [self.source, self.destination] {
                sum = match address {
                    IpAddr::V4(a) => add(sum, &a.octets()),
                    IpAddr::V6(a) => add(sum, &a.octets()),
                };
            }
            sum += u32::from(self.protocol.number()) + u32::try_from(body.len()).expect("a probe is short");
        }
        let sum = match finish(add(sum, body)) {
            // Zero means that there is no checksum.
            0 if self.protocol != Protocol::ICMP => 0xffff,
            sum => sum,
        };
        body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Writes the checksum of the outermost TCP or UDP header of a frame, whatever stands there; one that says there is none
/// stays so, and other frames stay as they are.
pub fn complete(frame: &mut [u8]) {
    // Nothing that is too short has such a checksum.
    let _unchanged = complete_outermost(frame);
}

fn complete_outermost(frame: &mut [u8]) -> Option<()> {
    let packet = frame.get_mut(ETHERNET..)?;
    let size = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let (protocol, addresses, body) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet.first()? & 15) * 4;
            (*packet.get(9)?, 12..20, header..usize::from(size(2)?))
        }
        6 => (*packet.get(6)?, 8..40, 40..40 + usize::from(size(4)?)),
        _ => return None,
    };
    let at = match protocol {
        6 => 16,
        17 => 6,
        _ => return None,
    };
    let pseudo = add(u32::from(protocol), packet.get(addresses)?);
    let body = packet.get_mut(body)?;
    let field = body.get_mut(at..at + 2)?;
    if protocol == 17 && field == [0, 0] {
        return None;
    }
    field.fill(0);
    let length = u32::try_from(body.len()).ok()?;
    let sum = match finish(add(pseudo + length, body)) {
        0 => 0xffff,
        sum => sum,
    };
    body.get_mut(at..at + 2)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    words.fold(sum, |sum, word| sum + word)
}

fn finish(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// The checksum of SCTP (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 {
                sum >> 1 ^ 0x82f6_3b78
            } else {
                sum >> 1
            };
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_sctp_is_the_one_of_its_specification() {
        // The check value of CRC-32C.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_checksum_is_completed_and_nothing_else_touched() {
        let v4: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let v6: [IpAddr; 2] = ["fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()];
        for ([source, destination], protocol, field) in [
            (v4, Protocol::TCP, 20 + 16),
            (v4, Protocol::UDP, 20 + 6),
            (v6, Protocol::TCP, 40 + 16),
            (v6, Protocol::UDP, 40 + 6),
            (v4, Protocol::ICMP, 20 + 2),
        ] {
            let probe = Probe {
                number: 5,
                source,
                destination,
                protocol,
                x: 8,
                y: 0,
            };
            let right = probe.frame([1; 6], [2; 6]);
            let mut spoilt = right.clone();
            spoilt[ETHERNET + field] ^= 0x55;
            complete(&mut spoilt);
            assert_eq!(spoilt == right, protocol != Protocol::ICMP, "{protocol:?}");
            let mut again = right.clone();
            complete(&mut again);
            assert_eq!(again, right);
        }
        for length in 0..60 {
            complete(&mut vec![0x45; length]);
        }
    }

    #[test]
    fn a_probe_is_recognised_by_its_number() {
        let protocols = [1, 6, 17, 58, 99, 132, 136];
        for number in protocols {
            let v6 = number == 58;
            let address = |n: u8| -> IpAddr {
                if v6 {
                    [0, 0, 0, 0, 0, 0, 0, u16::from(n)].into()
                } else {
                    [10, 0, 0, n].into()
                }
            };
            let probe = Probe {
                number: 77,
                source: address(1),
                destination: address(2),
                protocol: Protocol::from_number(number),
                x: 80,
                y: 4000,
            };
            let frame = probe.frame([1; 6], [2; 6]);
            assert_eq!(number_of(&frame), Some(77));
            assert_eq!(number_of(&frame[..frame.len() - 1]), None);
            let ends = (
                probe.protocol,
                SocketAddr::new(probe.source, 4000),
                SocketAddr::new(probe.destination, 80),
            );
            assert_eq!(
                ends_of(&frame),
                [6, 17, 132, 136].contains(&number).then_some(ends)
            );
        }
    }
}
