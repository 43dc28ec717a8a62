//! The conversation with the kernel's routing side, in one network namespace.
//!
//! Requests are encoded by typed messages; answers are handed on as bytes after the fixed header, because the
//! rooms that read them want few attributes of many objects (see `attributes`).

use std::fmt::Display;
use std::os::fd::BorrowedFd;

use netlink_packet_core::NetlinkSerializable;
use netlink_packet_route::RouteNetlinkMessage;

use crate::error::{NetlinkError, Refusal};
use crate::namespace::{NamespaceError, NetworkNamespace};
use crate::socket::{Connection, Message, Patience, Protocol, Request};

/// A socket for links, addresses, routes and neighbours of the namespace in which it was opened.
#[derive(Debug)]
pub struct Rtnetlink {
    connection: Connection,
}

/// A socket in another namespace could not be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenInError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The socket could not be opened.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl Rtnetlink {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// The process may not open netlink sockets, or has no file descriptor left.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::open_with(Patience::default())
    }

    /// Opens a socket in the calling thread's namespace on which the kernel may take so long to answer.
    ///
    /// # Errors
    /// The process may not open netlink sockets, or has no file descriptor left.
    pub fn open_with(patience: Patience) -> Result<Self, NetlinkError> {
        Ok(Self {
            connection: Connection::open(Protocol::Route, patience)?,
        })
    }

    /// Uses a socket that somebody opened in another namespace and bound or not. It must be of this protocol and nobody
    /// else's meanwhile.
    ///
    /// # Errors
    /// The process has no file descriptor left, or it is no netlink socket.
    pub fn over(socket: BorrowedFd<'_>, patience: Patience) -> Result<Self, NetlinkError> {
        Ok(Self {
            connection: Connection::over(socket, Protocol::Route, patience)?,
        })
    }

    /// Opens a socket in another namespace; it is used from here afterwards.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the socket cannot be opened there.
    pub fn open_in(namespace: &NetworkNamespace) -> Result<Self, OpenInError> {
        Ok(namespace.run(Self::open)??)
    }

    /// How many lists were asked for since this was opened. Each costs the kernel a walk over all objects of its kind.
    pub fn lists(&self) -> u64 {
        self.connection.lists()
    }

    /// Carries out one change.
    pub(crate) fn execute(
        &mut self,
        message: &RouteNetlinkMessage,
        flags: u16,
        operation: &dyn Display,
    ) -> Result<(), NetlinkError> {
        self.connection.execute(&encode(message, flags), operation)
    }

    /// Carries out changes one after the other and returns each one's outcome.
    pub(crate) fn batch(
        &mut self,
        requests: &[Request],
        operation: &dyn Display,
    ) -> Result<Vec<Result<(), Refusal>>, NetlinkError> {
        self.connection.batch(requests, operation)
    }

    /// Asks for one object.
    pub(crate) fn fetch<Item>(
        &mut self,
        message: &RouteNetlinkMessage,
        operation: &dyn Display,
        mut read: impl FnMut(Message<'_>) -> Option<Item>,
    ) -> Result<Option<Item>, NetlinkError> {
        let mut found = None;
        self.connection.fetch(&encode(message, 0), operation, |answer| {
            if found.is_none() {
                found = read(answer);
            }
        })?;
        Ok(found)
    }

    /// Asks for a list.
    pub(crate) fn dump<Item>(
        &mut self,
        message: &RouteNetlinkMessage,
        operation: &dyn Display,
        read: impl FnMut(Message<'_>) -> Option<Item>,
    ) -> Result<Vec<Item>, NetlinkError> {
        self.connection.dump(&encode(message, 0), operation, read)
    }
}

/// Encodes a typed message.
pub(crate) fn encode(message: &RouteNetlinkMessage, flags: u16) -> Request {
    let mut body = vec![0; message.buffer_len()];
    message.serialize(&mut body);
    Request {
        message_type: message.message_type(),
        flags,
        body,
    }
}
