//! The socket that listens: what others do to the ruleset.
//!
//! Every element that is added or removed makes an event of its own, our own included; a first load of ours would flood us. So the
//! kernel drops the events of our own sockets before they reach the buffer, by a filter on the port that each event carries.

use std::os::fd::{AsFd, BorrowedFd};

use socket2::{SockFilter, SockRef};

use super::connection::{Connection, Received};
use super::error::{MonitorError, OpenError};
use crate::wire::{Family, Malformed, Messages, Notice};

/// `NFNLGRP_NFTABLES`: the changes of all tables.
const GROUP: u32 = 7;
/// Room for some ten thousand events.
const RECEIVE_BUFFER: usize = 4 << 20;
/// More own sockets than anybody has; a filter's jumps reach over 255 instructions.
const OWN_PORTS_MAX: usize = 64;

/// `BPF_LD | BPF_W | BPF_ABS`: loads a word of the datagram, taken to be in network order.
const LOAD_WORD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`: keeps so many bytes of the datagram.
const KEEP: u16 = 0x06;
/// Where the port stands in a netlink header (`nlmsg_pid`).
const PORT_OFFSET: u32 = 12;

/// Something about the ruleset that somebody else did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A change.
    Change {
        /// The port of the socket that made it.
        port: u32,
        /// What came or went.
        notice: Notice,
    },
    /// A message that is not understood; read again what matters.
    NotUnderstood(Malformed),
    /// More happened than the socket could hold, and events are lost; read everything again.
    Overflow,
}

impl Event {
    /// Whether it is about a table, or may be: what was lost or is not understood may have been about any.
    #[must_use]
    pub fn may_concern(&self, family: Family, table: &str) -> bool {
        match self {
            Self::Change { notice, .. } => notice.object().table() == Some((family, table)),
            Self::NotUnderstood(_) | Self::Overflow => true,
        }
    }
}

/// A socket that listens to the changes of all tables.
#[derive(Debug)]
pub struct Monitor {
    connection: Connection,
    subscribed: bool,
}

impl Monitor {
    /// Listens in the calling thread's network namespace, deaf to the sockets with these ports (see `Link::port`).
    ///
    /// Open it before the first full read, so that nothing which changes meanwhile is lost.
    ///
    /// # Errors
    /// The kernel gives no socket or refuses an option.
    pub fn open(own_ports: &[u32]) -> Result<Self, OpenError> {
        let mut monitor = Self {
            connection: Connection::open(RECEIVE_BUFFER)?,
            subscribed: false,
        };
        let option = |option| move |source| OpenError::Option { option, source };
        // The filter first: an event between the two must not slip in.
        attach(&monitor.connection, own_ports).map_err(option("the filter of own events"))?;
        monitor
            .connection
            .socket()
            .add_membership(GROUP)
            .map_err(option("the subscription to nf_tables"))?;
        monitor.subscribed = true;
        Ok(monitor)
    }

    /// Becomes deaf to these ports, and to no others.
    ///
    /// # Errors
    /// The kernel refuses the filter; the old one stays.
    pub fn ignore(&self, own_ports: &[u32]) -> Result<(), MonitorError> {
        attach(&self.connection, own_ports).map_err(MonitorError::Filter)
    }

    /// Stops listening: while nobody listens, loads are several times faster, since the kernel makes no events.
    ///
    /// Compare the generation before and after to learn whether something was missed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn pause(&mut self) -> Result<(), MonitorError> {
        if self.subscribed {
            self.connection
                .socket()
                .drop_membership(GROUP)
                .map_err(MonitorError::Subscribe)?;
            self.subscribed = false;
        }
        Ok(())
    }

    /// Whether it listens.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.subscribed
    }

    /// Listens again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn resume(&mut self) -> Result<(), MonitorError> {
        if !self.subscribed {
            self.connection
                .socket()
                .add_membership(GROUP)
                .map_err(MonitorError::Subscribe)?;
            self.subscribed = true;
        }
        Ok(())
    }

    /// Reads what has come, one datagram's events appended to `events`; does not wait. Returns whether there was anything.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn read(&mut self, events: &mut Vec<Event>) -> Result<bool, MonitorError> {
        let length = match self.connection.receive(false).map_err(MonitorError::Receive)? {
            Received::Nothing => return Ok(false),
            Received::Overrun(_) => {
                events.push(Event::Overflow);
                return Ok(true);
            }
            Received::Datagram(length) => length,
        };
        for message in Messages::new(self.connection.datagram(length)) {
            match Notice::decode(&message) {
                Ok(Some(notice)) => events.push(Event::Change {
                    port: message.port,
                    notice,
                }),
                Ok(None) => {}
                Err(malformed) => events.push(Event::NotUnderstood(malformed)),
            }
        }
        Ok(true)
    }
}

impl AsFd for Monitor {
    /// For polling: readable when [`Monitor::read`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// Drops the datagrams whose first message carries one of these ports. All messages of a datagram are of one commit.
fn attach(connection: &Connection, own_ports: &[u32]) -> std::io::Result<()> {
    SockRef::from(connection).attach_filter(&filter(own_ports))
}

fn filter(own_ports: &[u32]) -> Vec<SockFilter> {
    let own_ports = own_ports.get(..OWN_PORTS_MAX).unwrap_or(own_ports);
    let mut program = vec![SockFilter::new(LOAD_WORD, 0, 0, PORT_OFFSET)];
    for (index, port) in own_ports.iter().enumerate() {
        // To the last instruction, over the comparisons that are left and over the one that keeps.
        let to_drop = (own_ports.len() - index) as u8;
        program.push(SockFilter::new(JUMP_IF_EQUAL, to_drop, 0, port.to_be()));
    }
    program.push(SockFilter::new(KEEP, 0, 0, u32::MAX));
    program.push(SockFilter::new(KEEP, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Object, ObservedTable, TableFlags};

    fn change(family: Family, name: &str) -> Event {
        let table = ObservedTable {
            family,
            name: name.to_string(),
            flags: TableFlags::NONE,
            owner: None,
            handle: 1,
            uses: 0,
            comment: None,
        };
        Event::Change {
            port: 7,
            notice: Notice::New(Object::Table(table)),
        }
    }

    #[test]
    fn what_is_lost_or_not_understood_may_concern_every_table() {
        let malformed = Messages::new(&MALFORMED)
            .filter_map(|message| Notice::decode(&message).err())
            .next()
            .unwrap();
        for event in [Event::Overflow, Event::NotUnderstood(malformed)] {
            assert!(event.may_concern(Family::Inet, "manx"), "{event:?}");
        }
        assert!(change(Family::Inet, "manx").may_concern(Family::Inet, "manx"));
        assert!(!change(Family::Inet, "other").may_concern(Family::Inet, "manx"));
        assert!(!change(Family::Netdev, "manx").may_concern(Family::Inet, "manx"));
    }

    /// A new table (`NFT_MSG_NEWTABLE` of `NFNL_SUBSYS_NFTABLES`, family inet) without a name.
    const MALFORMED: [u8; 20] = [20, 0, 0, 0, 0, 10, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0];
}
