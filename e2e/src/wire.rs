//! Interfaces as wires: frames put on them and frames seen on them, below everything that the kernel does with them.

use crate::packet;
use dataplane_netlink::NetworkNamespace;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
    sendmmsg, setsockopt, socket, sockopt,
};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long something that has to arrive is waited for; only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Room for what arrives while nobody reads, in bytes.
const ROOM: usize = 128 << 20;
/// What `recvfrom` says of a frame that the machine itself sends (`PACKET_OUTGOING`).
const OUTGOING: u8 = 4;

/// An interface on which frames are put.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
    /// The interface's own Ethernet address.
    pub mac: [u8; 6],
}

/// An interface on which frames are put and seen.
#[derive(Debug)]
pub struct Wire {
    sender: Sender,
    tap: OwnedFd,
    /// The interface's own Ethernet address.
    pub mac: [u8; 6],
}

fn open(protocol: Option<SockProtocol>, address: &LinkAddr) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, protocol);
    let socket = socket.expect("open a packet socket: these tests have to run as root");
    bind(socket.as_raw_fd(), address).expect("bind to the interface");
    socket
}

impl Sender {
    /// Opens an interface of the calling thread's namespace.
    pub fn open_here(interface: &str) -> Self {
        let address = link_address(interface);
        // A socket that asks for no protocol receives nothing.
        Sender {
            socket: open(None, &address),
            mac: address.addr().expect("an Ethernet address"),
        }
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) {
        if let Err(errno) = self.try_send(frame) {
            panic!("send a frame: {errno}");
        }
    }

    /// Sends one frame, where the interface may be gone.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn try_send(&self, frame: &[u8]) -> Result<(), Errno> {
        loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => std::thread::yield_now(),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Sends these frames again and again until `go_on` says no; returns how many were sent.
    pub fn flood(&self, frames: &[Vec<u8>], mut go_on: impl FnMut(u64) -> bool) -> u64 {
        let slices: Vec<[IoSlice<'_>; 1]> = frames.iter().map(|f| [IoSlice::new(f)]).collect();
        let addresses: Vec<Option<LinkAddr>> = vec![None; frames.len()];
        let mut headers = MultiHeaders::preallocate(frames.len(), None);
        let mut sent = 0;
        while go_on(sent) {
            match sendmmsg(
                self.socket.as_raw_fd(),
                &mut headers,
                &slices,
                &addresses,
                [],
                MsgFlags::empty(),
            ) {
                Ok(results) => sent += results.count() as u64,
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => std::thread::yield_now(),
                Err(errno) => panic!("send frames: {errno}"),
            }
        }
        sent
    }
}

impl Wire {
    /// Opens an interface of a namespace.
    pub fn open(namespace: &NetworkNamespace, interface: &str) -> Self {
        namespace
            .run(|| Wire::open_here(interface))
            .expect("enter the namespace")
    }

    /// Opens an interface of the calling thread's namespace.
    pub fn open_here(interface: &str) -> Self {
        let sender = Sender::open_here(interface);
        let tap = open(Some(SockProtocol::EthAll), &link_address(interface));
        setsockopt(&tap, sockopt::RcvBufForce, &ROOM).expect("make room for frames");
        let mac = sender.mac;
        let wire = Wire { sender, tap, mac };
        // Between opening and binding it saw every interface.
        wire.drain(|_| {});
        wire
    }

    /// The side that sends.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) {
        self.sender.send(frame);
    }

    /// Reads the frames that have arrived; those that this machine sends are left out.
    pub fn drain(&self, mut seen: impl FnMut(&[u8])) {
        let mut buffer = [0; 2048];
        loop {
            match recvfrom::<LinkAddr>(self.tap.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    if from.is_none_or(|f| f.pkttype() != OUTGOING) {
                        seen(&buffer[..length]);
                    }
                }
                Err(Errno::EAGAIN) => return,
                // One that was opened before its interface came up says so once.
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(errno) => panic!("read frames: {errno}"),
            }
        }
    }

    /// Waits until a frame has arrived, or for a while.
    pub fn wait(&self) {
        let mut wait = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut wait, PollTimeout::from(100u8));
    }

    /// Reads the probes that arrive until the one of this number has, and shows all others.
    pub fn probes_until(&self, last: u32, mut seen: impl FnMut(u32, &[u8])) {
        let deadline = Instant::now() + PATIENCE;
        let mut done = false;
        loop {
            self.drain(|frame| match packet::number_of(frame) {
                Some(number) if number == last => done = true,
                Some(number) => seen(number, frame),
                None => {}
            });
            if done {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the last probe, which is always let through, did not arrive"
            );
            self.wait();
        }
    }
}

impl AsFd for Wire {
    /// Readable when a frame has arrived.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }
}

/// The address of an interface of the calling thread's namespace as packet sockets want it.
fn link_address(interface: &str) -> LinkAddr {
    let all = getifaddrs().expect("list interfaces");
    let found = all
        .filter(|i| i.interface_name == interface)
        .find_map(|i| i.address?.as_link_addr().copied());
    found.unwrap_or_else(|| panic!("there is no interface {interface}"))
}
