//! One conversation with the kernel over netlink: requests, acknowledgements, lists.
//!
//! A socket belongs for its whole life to the network namespace in which it was opened, so a socket that was
//! opened inside a pod is used from outside afterwards, without a thread that waits in there.

use std::fmt::Display;
use std::io;
use std::io::IoSliceMut;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_sys::Socket;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::attributes;
use crate::error::{NetlinkError, Refusal};

/// The request asks for something (`NLM_F_REQUEST`).
const REQUEST: u16 = 0x01;
/// The request wants an acknowledgement even if it succeeds (`NLM_F_ACK`).
const ACK: u16 = 0x04;
/// The request wants a list (`NLM_F_ROOT | NLM_F_MATCH`).
const DUMP: u16 = 0x300;
/// The list was changed while it was read (`NLM_F_DUMP_INTR`).
const DUMP_INTERRUPTED: u16 = 0x10;
/// The error message repeats only the header of the request (`NLM_F_CAPPED`).
const CAPPED: u16 = 0x100;
/// The error message ends with attributes (`NLM_F_ACK_TLVS`).
const ACK_ATTRIBUTES: u16 = 0x200;
/// The attribute of an error message that holds the kernel's words (`NLMSGERR_ATTR_MSG`).
const ERROR_TEXT: u16 = 1;

/// The object must not exist yet (`NLM_F_EXCL`).
pub const EXCLUSIVE: u16 = 0x200;
/// The object may be made (`NLM_F_CREATE`).
pub const CREATE: u16 = 0x400;
/// An object with the same key is replaced (`NLM_F_REPLACE`).
pub const REPLACE: u16 = 0x100;

/// Types of messages that belong to netlink itself.
const ERROR_MESSAGE: u16 = 2;
const DONE_MESSAGE: u16 = 3;

/// Bytes in a netlink message's header.
const HEADER: usize = 16;
/// Room for one datagram; the kernel fills lists up to 32 KiB at a time.
const BUFFER: usize = 64 * 1024;
/// How often a list is read before its changing is an error.
const DUMP_TRIES: u32 = 20;
/// How many requests go into one datagram: their acknowledgements must fit into the receive buffer together.
const BATCH: usize = 64;
/// How many bytes of requests go into one datagram, unless one alone is longer: refusals may repeat them all.
const BATCH_BYTES: usize = 64 * 1024;

/// How long the kernel may take to answer; zero waits without end.
///
/// The kernel answers before the request returns, so this is reached only when something is very wrong; without it a
/// lost answer would stop the loop that waits for it for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience(pub Duration);

impl Default for Patience {
    /// Ten seconds.
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}

/// Which part of the kernel a socket speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours.
    Route,
    /// Connection tracking.
    Netfilter,
    /// What has no protocol of its own: settings of devices.
    Generic,
}

impl Protocol {
    fn number(self) -> isize {
        match self {
            Self::Route => 0,
            Self::Netfilter => 12,
            Self::Generic => 16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Netfilter => "netfilter",
            Self::Generic => "generic",
        }
    }
}

/// One request: its type, its flags beyond those that every request has, and everything after the header.
#[derive(Debug, Clone)]
pub struct Request {
    /// The type; netfilter's begins with the number of the subsystem.
    pub message_type: u16,
    /// Flags beyond those that every request of its kind has.
    pub flags: u16,
    /// Everything after the header.
    pub body: Vec<u8>,
}

/// One message from the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Message<'buffer> {
    /// The type; netfilter's begins with the number of the subsystem.
    pub message_type: u16,
    /// The flags of its header.
    pub flags: u16,
    /// The number of the request that it answers.
    pub sequence: u32,
    /// Everything after the header.
    pub body: &'buffer [u8],
}

/// Options of netlink sockets, set on any descriptor: a socket may have been handed over.
mod options {
    use nix::{libc, setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// Errors come with the kernel's words.
        ExtendedAck, SetOnly, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, bool
    );
    sockopt_impl!(
        /// Errors repeat the request's header alone.
        CappedAck, SetOnly, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, bool
    );
    sockopt_impl!(
        /// The kernel filters lists by table, protocol and interface, and refuses what it would not honour.
        StrictCheck, SetOnly, libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, bool
    );
}

/// A socket with its counter and its buffer.
pub struct Connection {
    socket: OwnedFd,
    sequence: u32,
    /// How many lists were asked for.
    lists: u64,
    /// Room for a datagram; the last one fills the beginning.
    buffer: Vec<u8>,
    filled: usize,
    patience: Patience,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

/// Opens a socket in the calling thread's network namespace.
pub(crate) fn open(protocol: Protocol) -> Result<Socket, NetlinkError> {
    let wrap = |source| NetlinkError::Open {
        protocol: protocol.name(),
        source,
    };
    let mut socket = Socket::new(protocol.number()).map_err(wrap)?;
    socket.bind_auto().map_err(wrap)?;
    Ok(socket)
}

impl Connection {
    /// Opens a conversation in the calling thread's network namespace.
    ///
    /// # Errors
    /// The process may not open netlink sockets, or the kernel lacks the protocol.
    pub fn open(protocol: Protocol, patience: Patience) -> Result<Self, NetlinkError> {
        let number = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
            Protocol::Generic => SockProtocol::NetlinkGeneric,
        };
        let opened = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            number,
        );
        let socket = opened.map_err(|errno| NetlinkError::Open {
            protocol: protocol.name(),
            source: errno.into(),
        })?;
        Self::with(socket, protocol, patience)
    }

    /// Opens a conversation on a socket that somebody opened elsewhere.
    ///
    /// # Errors
    /// The socket cannot be used for it.
    pub fn over(
        socket: BorrowedFd<'_>,
        protocol: Protocol,
        patience: Patience,
    ) -> Result<Self, NetlinkError> {
        let socket = socket.try_clone_to_owned().map_err(|source| NetlinkError::Open {
            protocol: protocol.name(),
            source,
        })?;
        Self::with(socket, protocol, patience)
    }

    fn with(socket: OwnedFd, protocol: Protocol, patience: Patience) -> Result<Self, NetlinkError> {
        let wrap = |errno: Errno| NetlinkError::Open {
            protocol: protocol.name(),
            source: errno.into(),
        };
        match bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)) {
            // Bound by whoever opened it.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(wrap(errno)),
        }
        setsockopt(&socket, options::ExtendedAck, &true).map_err(wrap)?;
        setsockopt(&socket, options::CappedAck, &true).map_err(wrap)?;
        if protocol == Protocol::Route {
            setsockopt(&socket, options::StrictCheck, &true).map_err(wrap)?;
        }
        let Patience(time) = patience;
        let timeout = TimeVal::new(
            libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
            libc::suseconds_t::from(time.subsec_micros()),
        );
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).map_err(wrap)?;
        Ok(Self {
            socket,
            patience,
            sequence: 0,
            lists: 0,
            buffer: Vec::new(),
            filled: 0,
        })
    }

    /// Carries one request out and waits for its acknowledgement.
    ///
    /// # Errors
    /// The kernel refuses it, or does not answer.
    pub fn execute(&mut self, request: &Request, operation: &dyn Display) -> Result<(), NetlinkError> {
        self.fetch(request, operation, |_| {})
    }

    /// Carries one request out, shows each answer to `take`, and waits for the acknowledgement.
    ///
    /// # Errors
    /// The kernel refuses it, or does not answer.
    pub fn fetch(
        &mut self,
        request: &Request,
        operation: &dyn Display,
        mut take: impl FnMut(Message<'_>),
    ) -> Result<(), NetlinkError> {
        let mut datagram = Vec::with_capacity(HEADER + request.body.len());
        let sequence = self.append(&mut datagram, request, ACK);
        self.send(&datagram)
            .map_err(|source| socket_error(operation, source))?;
        loop {
            let outcome = self.receive(operation, |message| {
                if message.sequence != sequence {
                    return ControlFlow::Continue(());
                }
                match message.message_type {
                    ERROR_MESSAGE => ControlFlow::Break(acknowledgement(message)),
                    DONE_MESSAGE => ControlFlow::Break(Ok(())),
                    _ => {
                        take(message);
                        ControlFlow::Continue(())
                    }
                }
            })?;
            if let Some(outcome) = outcome {
                return outcome.map_err(|refusal| NetlinkError::Refused {
                    operation: operation.to_string(),
                    refusal,
                });
            }
        }
    }

    /// Carries requests out one after the other, a datagram for many, and returns each one's outcome.
    ///
    /// A refused request does not keep the later ones from being tried.
    pub(crate) fn batch(
        &mut self,
        requests: &[Request],
        operation: &dyn Display,
    ) -> Result<Vec<Result<(), Refusal>>, NetlinkError> {
        self.exchange(requests, operation, acknowledgement)
    }

    /// Carries requests out one after the other, a datagram for many, and returns what `read` makes of each one's
    /// acknowledgement: the number of the error in the machine's order (zero is success), then the request, whole or
    /// only its header, then attributes.
    ///
    /// A refused request does not keep the later ones from being tried. A request should not be longer than 32 KiB, since
    /// some subsystems repeat it whole in their refusal.
    ///
    /// # Errors
    /// The socket failed, or the kernel did not answer: what is in force of the requests is not known.
    pub fn exchange<Outcome>(
        &mut self,
        requests: &[Request],
        operation: &dyn Display,
        read: impl Fn(Message<'_>) -> Outcome,
    ) -> Result<Vec<Outcome>, NetlinkError> {
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut datagram = Vec::new();
        let mut rest = requests;
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(fitting(rest));
            rest = later;
            datagram.clear();
            let mut first = None;
            for request in chunk {
                let sequence = self.append(&mut datagram, request, ACK);
                first.get_or_insert(sequence);
            }
            let Some(first) = first else { continue };
            let mut answers: Vec<Option<Outcome>> = chunk.iter().map(|_| None).collect();
            self.send(&datagram)
                .map_err(|source| socket_error(operation, source))?;
            while answers.iter().any(Option::is_none) {
                self.receive(operation, |message| {
                    let index = message.sequence.wrapping_sub(first) as usize;
                    if message.message_type == ERROR_MESSAGE
                        && let Some(answer) = answers.get_mut(index)
                    {
                        *answer = Some(read(message));
                    }
                    ControlFlow::<()>::Continue(())
                })?;
            }
            outcomes.extend(answers.into_iter().flatten());
        }
        Ok(outcomes)
    }

    /// Asks for a list and returns what `read` makes of its items.
    ///
    /// A list that the kernel marks as changed during the reading is read again, because it may lack an item
    /// that was there all the time.
    ///
    /// # Errors
    /// The kernel refuses it, does not answer, or the list changes all the time.
    pub fn dump<Item>(
        &mut self,
        request: &Request,
        operation: &dyn Display,
        mut read: impl FnMut(Message<'_>) -> Option<Item>,
    ) -> Result<Vec<Item>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            self.lists += 1;
            let mut items = Vec::new();
            let mut interrupted = false;
            let mut datagram = Vec::with_capacity(HEADER + request.body.len());
            let sequence = self.append(&mut datagram, request, DUMP);
            self.send(&datagram)
                .map_err(|source| socket_error(operation, source))?;
            // The list is always read to its end, also when it is already known to be of no use: a socket
            // with an unfinished list refuses the next.
            let end = loop {
                let received = self.receive(operation, |message| {
                    if message.sequence != sequence {
                        return ControlFlow::Continue(());
                    }
                    interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                    match message.message_type {
                        ERROR_MESSAGE => ControlFlow::Break(acknowledgement(message)),
                        DONE_MESSAGE => ControlFlow::Break(end_of_list(message)),
                        _ => {
                            items.extend(read(message));
                            ControlFlow::Continue(())
                        }
                    }
                });
                match received {
                    Ok(Some(end)) => break end,
                    Ok(None) => {}
                    // Messages were lost, the list goes on.
                    Err(error) if error.errno() == Some(Errno::ENOBUFS) => interrupted = true,
                    Err(error) => return Err(error),
                }
            };
            match end {
                Ok(()) if !interrupted => return Ok(items),
                Ok(()) => {}
                Err(refusal) if refusal.errno == Errno::EINTR || refusal.errno == Errno::EAGAIN => {}
                Err(refusal) => {
                    return Err(NetlinkError::Refused {
                        operation: operation.to_string(),
                        refusal,
                    });
                }
            }
        }
        Err(NetlinkError::Interrupted {
            operation: operation.to_string(),
            tries: DUMP_TRIES,
        })
    }

    /// How many lists were asked for since the conversation began.
    pub fn lists(&self) -> u64 {
        self.lists
    }

    /// Appends one request to a datagram and returns its number.
    fn append(&mut self, datagram: &mut Vec<u8>, request: &Request, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + request.body.len()).unwrap_or(u32::MAX);
        datagram.extend_from_slice(&length.to_ne_bytes());
        datagram.extend_from_slice(&request.message_type.to_ne_bytes());
        datagram.extend_from_slice(&(request.flags | flags | REQUEST).to_ne_bytes());
        datagram.extend_from_slice(&self.sequence.to_ne_bytes());
        datagram.extend_from_slice(&0_u32.to_ne_bytes());
        datagram.extend_from_slice(&request.body);
        datagram.resize(attributes::align(datagram.len()), 0);
        self.sequence
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        loop {
            match sendto(self.socket.as_raw_fd(), datagram, &kernel, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Receives one datagram and shows its messages to `take` until that breaks.
    fn receive<Outcome>(
        &mut self,
        operation: &dyn Display,
        mut take: impl FnMut(Message<'_>) -> ControlFlow<Outcome>,
    ) -> Result<Option<Outcome>, NetlinkError> {
        let Patience(time) = self.patience;
        let received =
            receive_datagram(&self.socket, &mut self.buffer, &mut self.filled).map_err(|source| {
                if source.kind() == io::ErrorKind::WouldBlock {
                    NetlinkError::Timeout {
                        operation: operation.to_string(),
                        time,
                    }
                } else {
                    socket_error(operation, source)
                }
            })?;
        if received == Received::Truncated {
            return Err(NetlinkError::Malformed {
                operation: operation.to_string(),
                problem: format!("a datagram is longer than {BUFFER} bytes"),
            });
        }
        for message in messages(self.buffer.get(..self.filled).unwrap_or_default()) {
            if let ControlFlow::Break(outcome) = take(message) {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }
}

/// Whether a datagram fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// The buffer holds the whole datagram.
    Whole,
    /// The rest of the datagram is lost.
    Truncated,
}

/// Receives one datagram of the kernel's into the beginning of a buffer, and says in `filled` how long it is.
pub(crate) fn receive_datagram(
    socket: &impl AsRawFd,
    buffer: &mut Vec<u8>,
    filled: &mut usize,
) -> io::Result<Received> {
    // Once: what is there already is written over.
    buffer.resize(BUFFER, 0);
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        let received = recvmsg::<NetlinkAddr>(socket.as_raw_fd(), &mut parts, None, MsgFlags::empty())
            .map(|got| (got.bytes, got.address, got.flags.contains(MsgFlags::MSG_TRUNC)));
        match received {
            // Another process may write to this socket; only the kernel has the number zero.
            Ok((_, Some(sender), _)) if sender.pid() != 0 => {}
            Ok((_, _, true)) => return Ok(Received::Truncated),
            Ok((length, _, false)) => {
                *filled = length;
                return Ok(Received::Whole);
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Walks the messages in a datagram; ends at the first that does not fit.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = attributes::native32(rest)? as usize;
        let body = rest.get(HEADER..length)?;
        let message = Message {
            message_type: attributes::native16(rest.get(4..)?)?,
            flags: attributes::native16(rest.get(6..)?)?,
            sequence: attributes::native32(rest.get(8..)?)?,
            body,
        };
        rest = rest.get(attributes::align(length)..).unwrap_or_default();
        Some(message)
    })
}

/// How many of the requests go into the next datagram; at least one.
fn fitting(requests: &[Request]) -> usize {
    let mut bytes = 0;
    let count = requests
        .iter()
        .take(BATCH)
        .take_while(|request| {
            bytes += HEADER + attributes::align(request.body.len());
            bytes <= BATCH_BYTES
        })
        .count();
    count.max(1).min(requests.len())
}

/// Reads an error message: number zero is success.
fn acknowledgement(message: Message<'_>) -> Result<(), Refusal> {
    let code = attributes::native32(message.body).unwrap_or_default() as i32;
    if code == 0 {
        return Ok(());
    }
    // After the number stands the request, whole or only its header, and then the attributes.
    let repeated = if message.flags & CAPPED != 0 {
        HEADER
    } else {
        message
            .body
            .get(4..)
            .and_then(attributes::native32)
            .unwrap_or_default() as usize
    };
    let explanation = (message.flags & ACK_ATTRIBUTES != 0)
        .then(|| message.body.get(4 + attributes::align(repeated)..))
        .flatten()
        .and_then(explanation);
    Err(Refusal {
        errno: Errno::from_raw(code.saturating_neg()),
        explanation,
    })
}

/// Reads the message that ends a list, which may say that the list failed.
fn end_of_list(message: Message<'_>) -> Result<(), Refusal> {
    let code = attributes::native32(message.body).unwrap_or_default() as i32;
    if code >= 0 {
        return Ok(());
    }
    let explanation = message.body.get(4..).and_then(explanation);
    Err(Refusal {
        errno: Errno::from_raw(code.saturating_neg()),
        explanation,
    })
}

/// Returns the kernel's words from the attributes of an error.
fn explanation(buffer: &[u8]) -> Option<String> {
    let text = attributes::text(attributes::find(buffer, ERROR_TEXT)?);
    Some(String::from_utf8_lossy(text).into_owned())
}

fn socket_error(operation: &dyn Display, source: io::Error) -> NetlinkError {
    NetlinkError::Socket {
        operation: operation.to_string(),
        source,
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
