//! The sockets that a peer is asked with: a connected one of UDP, and one of ICMP for the control.

use super::Subject;
use super::trial::{Answer, TRIES};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind,
    connect, recv, recvmsg, send, setsockopt, socket, sockopt,
};
use std::ffi::OsString;
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Above the ports that kernels give to programs, and those of Services: nobody listens there but by chance.
const PORTS: std::ops::Range<u16> = 61_100..65_100;
/// Types and codes of ICMP and ICMPv6 (RFC 792, RFC 4443), and the sizes of their headers and of IPv4's unit of length.
const ECHO_REQUEST: [u8; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];
const PORT_UNREACHABLE: [(u8, u8); 2] = [(3, 3), (1, 4)];
const ICMP_HEADER: usize = 8;
const WORD: usize = 4;
/// Where errors of a socket come from (`linux/errqueue.h`).
const FROM_ICMP: [u8; 2] = [2, 3];
/// Room for an answer, and for what the kernel says beside it.
const ROOM: usize = 256;

/// A peer that is asked.
#[derive(Debug)]
pub(super) struct Question {
    peer: IpAddr,
    datagrams: OwnedFd,
    echoes: OwnedFd,
    /// What nobody else knows.
    token: [u8; 16],
}

fn pick<T: Copy>(address: IpAddr, both: [T; 2]) -> T {
    let [v4, v6] = both;
    if address.is_ipv4() { v4 } else { v6 }
}

fn open(subject: &Subject, kind: SockType, protocol: [SockProtocol; 2]) -> Result<OwnedFd, Errno> {
    let family = pick(subject.source, [AddressFamily::Inet, AddressFamily::Inet6]);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let opened = socket(family, kind, flags, pick(subject.source, protocol))?;
    // Neither does a question leave elsewhere, nor does an answer count that comes from elsewhere.
    setsockopt(
        &opened,
        sockopt::BindToDevice,
        &OsString::from(subject.device.as_str()),
    )?;
    bind(opened.as_raw_fd(), &at(subject.source, 0))?;
    Ok(opened)
}

fn at(address: IpAddr, port: u16) -> SockaddrStorage {
    SocketAddr::new(address, port).into()
}

impl Question {
    /// Opens the sockets. `token` is to be new each time, and nothing that others could know.
    ///
    /// # Errors
    /// The kernel's refusal; such as that this node's address in the tunnel is not there any more.
    pub(super) fn open(subject: &Subject, peer: IpAddr, token: [u64; 2]) -> Result<Self, Errno> {
        let datagrams = open(subject, SockType::Datagram, [SockProtocol::Udp; 2])?;
        match peer {
            IpAddr::V4(_) => setsockopt(&datagrams, sockopt::Ipv4RecvErr, &true)?,
            IpAddr::V6(_) => setsockopt(&datagrams, sockopt::Ipv6RecvErr, &true)?,
        }
        let [first, second] = token;
        let span = u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(first % span).unwrap_or(0);
        connect(datagrams.as_raw_fd(), &at(peer, port))?;
        let echoes = open(subject, SockType::Raw, [SockProtocol::Icmp, SockProtocol::IcmpV6])?;
        connect(echoes.as_raw_fd(), &at(peer, 0))?;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&first.to_ne_bytes());
        bytes[8..].copy_from_slice(&second.to_ne_bytes());
        Ok(Question {
            peer,
            datagrams,
            echoes,
            token: bytes,
        })
    }

    /// Sends a datagram and an echo request.
    ///
    /// # Errors
    /// The kernel could not send; nothing is to be waited for then.
    pub(super) fn ask(&self, number: u8) -> Result<(), Errno> {
        // An error of an earlier one is told first, and only once.
        let datagram = || send(self.datagrams.as_raw_fd(), &self.token, MsgFlags::empty());
        datagram().or_else(|_| datagram())?;
        send(self.echoes.as_raw_fd(), &self.request(number), MsgFlags::empty()).map(drop)
    }

    fn request(&self, number: u8) -> Vec<u8> {
        let [a, b, ..] = self.token;
        let mut bytes = vec![pick(self.peer, ECHO_REQUEST), 0, 0, 0, a, b, 0, number];
        bytes.extend(self.token);
        if self.peer.is_ipv4() {
            // That of ICMPv6 is the kernel's affair, never the device's.
            let sum = internet_checksum(&bytes);
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }

    /// What has been heard since the last time.
    pub(super) fn heard(&self) -> Vec<Answer> {
        let mut heard = Vec::new();
        let mut bytes = [0; ROOM];
        // Somebody who listens there after all has been reached as well.
        while recv(self.datagrams.as_raw_fd(), &mut bytes, MsgFlags::empty()).is_ok() {
            heard.push(Answer::Datagram);
        }
        while let Some(is_refusal) = self.next_error() {
            heard.extend(is_refusal.then_some(Answer::Datagram));
        }
        while let Ok(length) = recv(self.echoes.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            let packet = bytes.get(..length).unwrap_or_default();
            heard.extend(self.echoed(packet).map(Answer::Echo));
        }
        heard
    }

    /// The next error of a datagram: whether it is the peer's own word that nobody listens.
    fn next_error(&self) -> Option<bool> {
        let (mut bytes, mut said) = ([0; ROOM], [0; ROOM]);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let read = recvmsg::<SockaddrStorage>(
            self.datagrams.as_raw_fd(),
            &mut slices,
            Some(&mut said),
            MsgFlags::MSG_ERRQUEUE,
        );
        let read = read.ok()?;
        let mut is_refusal = false;
        for message in read.cmsgs().ok().into_iter().flatten() {
            let (error, offender): (_, Option<IpAddr>) = match message {
                ControlMessageOwned::Ipv4RecvErr(error, offender) => {
                    let address = offender.map(|o| Ipv4Addr::from(o.sin_addr.s_addr.to_ne_bytes()).into());
                    (error, address)
                }
                ControlMessageOwned::Ipv6RecvErr(error, offender) => {
                    let address = offender.map(|o| Ipv6Addr::from(o.sin6_addr.s6_addr).into());
                    (error, address)
                }
                _ => continue,
            };
            is_refusal |= error.ee_origin == pick(self.peer, FROM_ICMP)
                && (error.ee_type, error.ee_code) == pick(self.peer, PORT_UNREACHABLE)
                && offender == Some(self.peer);
        }
        Some(is_refusal)
    }

    /// The number of an echo of ours.
    fn echoed(&self, packet: &[u8]) -> Option<u8> {
        // What is read of IPv4 has its header in front.
        let header = match self.peer {
            IpAddr::V4(_) => usize::from(packet.first()? & 15) * WORD,
            IpAddr::V6(_) => 0,
        };
        let message = packet.get(header..)?;
        let is_ours = *message.first()? == pick(self.peer, ECHO_REPLY)
            && message.get(ICMP_HEADER..)? == self.token
            && message.get(6)? == &0;
        message
            .get(7)
            .copied()
            .filter(|number| is_ours && *number < TRIES)
    }

    /// The descriptors to poll.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.datagrams.as_fd(), self.echoes.as_fd()]
    }
}

/// The checksum of RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_its_checksum_sums_up_to_nothing() {
        // An echo request as `ping` sends it: type 8, code 0, number 1 of a program 0x1234.
        let bytes = [8, 0, 0, 0, 0x12, 0x34, 0, 1, 0xab];
        let sum = internet_checksum(&bytes);
        let mut whole = bytes;
        whole[2..4].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(internet_checksum(&whole), 0);
        assert_ne!(internet_checksum(&bytes), 0);
    }
}
