//! A netfilter netlink socket with large buffers and bounded waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::error::OpenError;

/// How long the kernel may take for an answer, in seconds. It answers within the call that asks; this only bounds the unthinkable.
const PATIENCE: i64 = 10;
/// The first size of the receiving buffer. The kernel makes datagrams of at most 32 KiB.
const DATAGRAM: usize = 64 * 1024;

/// What reading a socket gave.
pub(super) enum Received {
    /// One datagram of this length, at the start of the buffer.
    Datagram(usize),
    /// There was nothing, or nothing came in time.
    Nothing,
    /// The kernel had more to say than the socket could hold (`ENOBUFS`), or a datagram did not fit; something is lost.
    Overrun(io::Error),
}

/// An open socket.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    port: u32,
    send_buffer: usize,
    pub(super) buffer: Vec<u8>,
}

impl Connection {
    /// Opens a socket in the calling thread's network namespace, with a receive buffer of so many bytes.
    pub(super) fn open(receive_buffer: usize) -> Result<Self, OpenError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(OpenError::Socket)?;
        let address = socket.bind_auto().map_err(OpenError::Bind)?;
        let option = |option| move |source| OpenError::Option { option, source };
        // The kernel's explanations name the element that it refused; repeating our message to us would only fill the buffer.
        socket
            .set_ext_ack(true)
            .map_err(option("extended acknowledgements"))?;
        socket
            .set_cap_ack(true)
            .map_err(option("short acknowledgements"))?;
        set_receive_buffer(&socket, receive_buffer).map_err(option("the receive buffer"))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))
            .map_err(|errno| option("the receive timeout")(errno.into()))?;
        Ok(Self {
            socket,
            port: address.port_number(),
            send_buffer: 0,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// Says how long the kernel may take for an answer; zero waits without end.
    pub(super) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        let seconds = i64::try_from(patience.as_secs()).unwrap_or(i64::MAX / 2);
        let time = TimeVal::new(seconds, patience.subsec_micros().into());
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &time).map_err(io::Error::from)
    }

    /// The port that tells this socket from all others.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    pub(super) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Makes room to send so many bytes at once. The kernel doubles the number and counts overhead against it.
    pub(super) fn reserve_send(&mut self, bytes: usize) -> io::Result<()> {
        let wanted = bytes + bytes / 4 + 4096;
        if wanted <= self.send_buffer {
            return Ok(());
        }
        // Beyond the system's limit only with privilege in the first user namespace; what is refused may still fit the limit.
        setsockopt(&self.socket, sockopt::SndBufForce, &wanted)
            .or_else(|_| setsockopt(&self.socket, sockopt::SndBuf, &wanted))
            .map_err(io::Error::from)?;
        self.send_buffer = wanted;
        Ok(())
    }

    /// Sends to the kernel. All or nothing.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let kernel = SocketAddr::new(0, 0);
        loop {
            match self.socket.send_to(bytes, &kernel, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads one datagram into the buffer; waits for it or not.
    pub(super) fn receive(&mut self, wait: bool) -> io::Result<Received> {
        // The real length tells whether the datagram was cut.
        let flags = libc::MSG_TRUNC | if wait { 0 } else { libc::MSG_DONTWAIT };
        loop {
            let mut room = self.buffer.as_mut_slice();
            let room_size = room.len();
            match self.socket.recv(&mut room, flags) {
                Ok(length) if length > room_size => {
                    self.buffer.resize(length.next_power_of_two(), 0);
                    return Ok(Received::Overrun(io::Error::other(
                        "a netlink datagram was longer than the buffer",
                    )));
                }
                Ok(length) => return Ok(Received::Datagram(length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Ok(Received::Overrun(error));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The first bytes of the buffer.
    pub(super) fn datagram(&self, length: usize) -> &[u8] {
        self.buffer.get(..length).unwrap_or_default()
    }

    /// Throws away what has come and nobody waits for.
    pub(super) fn drain(&mut self) {
        while matches!(
            self.receive(false),
            Ok(Received::Datagram(_) | Received::Overrun(_))
        ) {}
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn set_receive_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &bytes)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &bytes))
        .map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_waited_for_as_long_as_somebody_says() {
        let mut connection = Connection::open(64 * 1024).unwrap();
        connection.set_patience(Duration::from_millis(20)).unwrap();
        // Nobody was asked, so nobody answers; with the ten seconds of the beginning the option would say so.
        assert!(matches!(connection.receive(true).unwrap(), Received::Nothing));
        let option = nix::sys::socket::getsockopt(&connection.socket, sockopt::ReceiveTimeout).unwrap();
        assert!(option.num_milliseconds() < 1_000, "{option:?}");
    }
}
