//! What was on a wire: who spoke to whom in the outermost header, and what was wrapped.

use crate::packet::ETHERNET;
use crate::wire::Wire;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The UDP port of VXLAN (RFC 7348).
pub const VXLAN_PORT: u16 = 4789;
/// IPv4 in IPv4 (RFC 2003).
const IPIP: u8 = 4;
const UDP: u8 = 17;
/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;
/// Bytes of a VXLAN header.
const VXLAN_HEADER: usize = 8;

/// Source and destination.
pub type Ends = (IpAddr, IpAddr);

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Load {
    /// Anything but another packet.
    Plain,
    /// An IPv4 packet, by protocol 4.
    Ipip(Ends),
    /// A frame of this VXLAN network; its ends where it is an IP packet.
    Vxlan(u32, Option<Ends>),
}

/// An IP packet on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seen {
    /// Who speaks to whom on this wire.
    pub ends: Ends,
    /// What it carries.
    pub load: Load,
}

impl Seen {
    /// Reads an Ethernet frame; `None` where it holds no IP packet.
    pub fn read(frame: &[u8]) -> Option<Seen> {
        let (protocol, ends, body) = internet(frame)?;
        let load = match protocol {
            IPIP => Load::Ipip(v4(body)?.1),
            UDP if body.get(2..4) == Some(&VXLAN_PORT.to_be_bytes()) => {
                // The number stands in the first three bytes of the second word.
                let word = u32::from_be_bytes(*body.get(12..)?.first_chunk::<4>()?);
                let inner = internet(body.get(UDP_HEADER + VXLAN_HEADER..)?);
                Load::Vxlan(word >> 8, inner.map(|(_, ends, _)| ends))
            }
            _ => Load::Plain,
        };
        Some(Seen { ends, load })
    }

    /// Whether one of the outermost ends is so.
    pub fn has_end(&self, so: impl Fn(IpAddr) -> bool) -> bool {
        so(self.ends.0) || so(self.ends.1)
    }
}

/// Protocol, ends and body of the IP packet of a frame.
fn internet(frame: &[u8]) -> Option<(u8, Ends, &[u8])> {
    let packet = frame.get(ETHERNET..)?;
    match frame.get(12..ETHERNET)? {
        [0x08, 0x00] => v4(packet),
        [0x86, 0xdd] => {
            let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?).into());
            Some((*packet.get(6)?, (address(8)?, address(24)?), packet.get(40..)?))
        }
        _ => None,
    }
}

fn v4(packet: &[u8]) -> Option<(u8, Ends, &[u8])> {
    let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?).into());
    let header = usize::from(*packet.first()? & 15) * 4;
    Some((
        *packet.get(9)?,
        (address(12)?, address(16)?),
        packet.get(header..)?,
    ))
}

/// What one machine has put on its wire since the last look.
#[derive(Debug)]
pub struct Capture {
    wire: Wire,
}

impl Capture {
    /// Listens at the far end of a machine's wire.
    pub(super) fn new(wire: Wire) -> Self {
        Capture { wire }
    }

    /// The IP packets since the last look, in their order.
    pub fn look(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        self.wire.drain(|frame| seen.extend(Seen::read(frame)));
        seen
    }

    /// The frames since the last look, in their order.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.wire.drain(|frame| frames.push(frame.to_vec()));
        frames
    }

    /// Puts a frame on the wire towards the machine.
    pub fn send(&self, frame: &[u8]) {
        self.wire.send(frame);
    }
}

/// A VXLAN packet as it stands behind a UDP header: its header, and a frame.
pub fn vxlan(network: u32, frame: &[u8]) -> Vec<u8> {
    // The flag says that there is a number.
    let mut bytes = vec![0x08, 0, 0, 0];
    bytes.extend((network << 8).to_be_bytes());
    bytes.extend(frame);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Probe;
    use policy_model::Protocol;

    fn probe(protocol: Protocol, x: u16) -> Probe {
        Probe {
            number: 7,
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            protocol,
            x,
            y: 4_000,
        }
    }

    #[test]
    fn what_is_wrapped_is_told_from_what_is_not() {
        let inner = probe(Protocol::TCP, 80);
        let ends = (inner.source, inner.destination);
        let plain = Seen::read(&inner.frame([1; 6], [2; 6])).unwrap();
        assert_eq!(
            plain,
            Seen {
                ends,
                load: Load::Plain
            }
        );

        // Ethernet, IPv4 and UDP headers of a packet, and what VXLAN puts behind them.
        let header = ETHERNET + 20 + UDP_HEADER;
        let mut frame = probe(Protocol::UDP, VXLAN_PORT).frame([1; 6], [2; 6])[..header].to_vec();
        frame.extend(vxlan(4096, &inner.frame([3; 6], [4; 6])));
        assert_eq!(Seen::read(&frame).unwrap().load, Load::Vxlan(4096, Some(ends)));

        let mut frame = probe(Protocol::from_number(4), 0).frame([1; 6], [2; 6])[..ETHERNET + 20].to_vec();
        frame.extend(inner.packet());
        assert_eq!(Seen::read(&frame).unwrap().load, Load::Ipip(ends));
        assert_eq!(Seen::read(&[0; 60]), None, "no IP packet");
    }
}
