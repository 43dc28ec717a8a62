//! What the kernel says has changed: links, addresses, routes, neighbours.
//!
//! Open the monitor before the first list is read, so that nothing which changes meanwhile is lost. Where
//! the kernel drops messages because they were read too slowly, [`Event::Resync`] says so: read the lists again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::Socket;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::addresses::{self, Address};
use crate::error::NetlinkError;
use crate::links::{self, Link};
use crate::neighbours::Neighbour;
use crate::routes::{self, ObservedRoute};
use crate::socket::{self, Message, Protocol, REPLACE, Received};
use crate::tunnels::peers::{self, ForwardingEntry, PeerNews};

/// Types of messages that are read here (`linux/rtnetlink.h`).
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;
/// Messages were lost (`NLMSG_OVERRUN`).
const OVERRUN: u16 = 4;
/// Room for what arrives while the reader is busy, in bytes.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// How many datagrams one call reads, so that a storm of changes does not keep the caller from its other work.
const DATAGRAMS_A_CALL: usize = 1_000;

/// A sort of changes that can be listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Interfaces.
    Links,
    /// Addresses of interfaces, both families.
    Addresses,
    /// Routes of the main table, both families.
    Routes,
    /// IP neighbours, and the forwarding entries of VXLAN devices.
    Neighbours,
}

impl Group {
    /// Returns the kernel's numbers of the group.
    fn numbers(self) -> &'static [u32] {
        match self {
            Self::Links => &[1],
            Self::Addresses => &[5, 9],
            Self::Routes => &[7, 11],
            Self::Neighbours => &[3],
        }
    }
}

/// Whether an object is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new, or something about it has changed.
    Present,
    /// It has gone.
    Gone,
}

/// One thing that has changed. Includes what this program changed itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An interface. A rename comes as [`Change::Present`] with the new name: compare by number.
    Link(Change, Link),
    /// An address of an interface.
    Address(Change, Address),
    /// A route of the main table.
    Route(Change, ObservedRoute),
    /// A route of the main table that took the place of the one with its key.
    RouteReplaced(ObservedRoute),
    /// An IP neighbour.
    Neighbour(Change, Neighbour),
    /// A forwarding entry of a VXLAN device.
    Forwarding(Change, ForwardingEntry),
    /// Messages were lost: read the lists again.
    Resync,
}

/// A socket that receives changes of the namespace in which it was opened. It never blocks: poll its
/// descriptor (it becomes readable) and then call [`Monitor::read`].
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Monitor").finish_non_exhaustive()
    }
}

impl Monitor {
    /// Starts to listen.
    ///
    /// # Errors
    /// The process may not open netlink sockets, or has no file descriptor left.
    pub fn open(groups: &[Group]) -> Result<Self, NetlinkError> {
        let wrap = |source| NetlinkError::Open {
            protocol: "route events",
            source,
        };
        let socket = socket::open(Protocol::Route)?;
        socket.set_non_blocking(true).map_err(wrap)?;
        // Beyond the system's limit where the process may, up to it where not.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket
                .set_rx_buf_sz(i32::try_from(RECEIVE_BUFFER).unwrap_or(i32::MAX))
                .map_err(wrap)?;
        }
        for number in groups.iter().flat_map(|group| group.numbers()) {
            socket.add_membership(*number).map_err(wrap)?;
        }
        Ok(Self {
            socket,
            buffer: Vec::new(),
        })
    }

    /// Returns what has changed since the last call, in the kernel's order; at most a thousand datagrams' worth.
    ///
    /// # Errors
    /// The socket failed for another reason than lost messages: open a new monitor and read the lists again.
    pub fn read(&mut self) -> Result<Vec<Event>, NetlinkError> {
        let (mut events, mut filled) = (Vec::new(), 0);
        for _ in 0..DATAGRAMS_A_CALL {
            match socket::receive_datagram(&self.socket, &mut self.buffer, &mut filled) {
                Ok(Received::Whole) => {
                    let datagram = self.buffer.get(..filled).unwrap_or_default();
                    events.extend(socket::messages(datagram).filter_map(event));
                }
                Ok(Received::Truncated) => events.push(Event::Resync),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    events.push(Event::Resync);
                }
                Err(source) => {
                    return Err(NetlinkError::Socket {
                        operation: "read route events".to_owned(),
                        source,
                    });
                }
            }
        }
        Ok(events)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads one change; messages about other things are none.
fn event(message: Message<'_>) -> Option<Event> {
    let body = message.body;
    let change = match message.message_type {
        NEW_LINK | NEW_ADDRESS | NEW_ROUTE | NEW_NEIGHBOUR => Change::Present,
        DELETE_LINK | DELETE_ADDRESS | DELETE_ROUTE | DELETE_NEIGHBOUR => Change::Gone,
        OVERRUN => return Some(Event::Resync),
        _ => return None,
    };
    match message.message_type {
        // Bridges speak of their ports under their own family: leaving a bridge would look like vanishing.
        NEW_LINK | DELETE_LINK if body.first() != Some(&0) => None,
        NEW_LINK | DELETE_LINK => links::read_body(body).map(|link| Event::Link(change, link)),
        NEW_ADDRESS | DELETE_ADDRESS => {
            addresses::read_body(body).map(|address| Event::Address(change, address))
        }
        NEW_ROUTE if message.flags & REPLACE != 0 => routes::read_body(body).map(Event::RouteReplaced),
        NEW_ROUTE | DELETE_ROUTE => routes::read_body(body).map(|route| Event::Route(change, route)),
        _ => peers::news(message.message_type, body).map(|news| match news {
            PeerNews::Forwarding(change, entry) => Event::Forwarding(change, entry),
            PeerNews::Neighbour(change, neighbour) => Event::Neighbour(change, neighbour),
        }),
    }
}
