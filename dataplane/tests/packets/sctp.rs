//! SCTP by hand: kernels without its sockets still track and translate it.

use crate::undisturbed::undisturbed;
use dataplane_netlink::NetworkNamespace;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The protocol's number.
const SCTP: i32 = 132;

/// A socket that sees and says whole SCTP packets of IPv4.
pub(crate) fn socket(namespace: &NetworkNamespace) -> Socket {
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(SCTP))).unwrap();
    let socket = namespace.run(open).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket
}

/// Asks for an association.
pub(crate) fn begin(socket: &Socket, from: u16, to: SocketAddr) {
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    // No verification tag yet, and no checksum.
    packet.extend([0; 8]);
    // INIT, 20 bytes long: tag, window, streams out and in, first number.
    packet.extend([1, 0, 0, 20]);
    packet.extend([0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = checksum(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    socket
        .send_to(&packet, &SocketAddr::new(to.ip(), 0).into())
        .unwrap();
}

/// Sender and ports of the next packet, which has to come. Its checksum has to be right.
pub(crate) fn next(mut socket: &Socket) -> (IpAddr, u16, u16) {
    let mut buffer = [0; 256];
    let length = undisturbed(|| socket.read(&mut buffer)).expect("a packet comes");
    let header = usize::from(buffer[0] & 0x0f) * 4;
    let sender = Ipv4Addr::new(buffer[12], buffer[13], buffer[14], buffer[15]);
    let mut packet = buffer[header..length].to_vec();
    let sum = u32::from_le_bytes(packet[8..12].try_into().unwrap());
    packet[8..12].fill(0);
    assert_eq!(sum, checksum(&packet));
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    (sender.into(), port(0), port(2))
}

/// CRC32c (RFC 9260, appendix A).
fn checksum(bytes: &[u8]) -> u32 {
    let step = |sum: u32| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg());
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum))
    })
}
