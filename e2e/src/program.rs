//! A program with a socket, on the node or in a pod: what it sends takes the ways of the kernel's own traffic.

use crate::bed::bound;
use crate::packet::{number_of, tail};
use dataplane_netlink::NetworkNamespace;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// A program that says numbers over UDP and hears them.
#[derive(Debug)]
pub struct Program {
    socket: UdpSocket,
}

impl Program {
    /// Starts a program in a namespace, at an address and port.
    pub fn at(namespace: &NetworkNamespace, address: SocketAddr) -> Self {
        let socket = bound(namespace, || Ok(bind_alone(address)?));
        Program { socket }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket")
    }

    /// Says a number to an address, as a probe would.
    pub fn say(&self, number: u32, to: SocketAddr) {
        let sent = self.socket.send_to(&tail(number), to);
        sent.unwrap_or_else(|e| panic!("send to {to}: {e}"));
    }

    /// The numbers that have arrived so far, with their senders.
    pub fn heard(&self) -> Vec<(u32, SocketAddr)> {
        let mut heard = Vec::new();
        let mut buffer = [0; 64];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    heard.extend(number_of(&buffer[..length]).map(|number| (number, from)));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return heard,
                // An ICMP error about something that was sent earlier.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => panic!("receive: {error}"),
            }
        }
    }
}

/// Binds a socket that does not wait; one of IPv6 leaves IPv4 to others.
fn bind_alone(address: SocketAddr) -> nix::Result<UdpSocket> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Datagram, flags, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket.into())
}
