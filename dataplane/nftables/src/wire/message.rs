//! Netlink messages: their headers, written and read, and the kernel's acknowledgements.

use super::attribute::{Attributes, read_text};
use super::numbers::Family;

/// The length of a netlink header.
pub(crate) const HEADER: usize = 16;
/// The length of the nfnetlink header that follows it.
pub(crate) const SUBHEADER: usize = 4;
/// `NLM_F_REQUEST`.
pub(crate) const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub(crate) const ACK: u16 = 0x4;
/// `NLM_F_ECHO`.
pub(crate) const ECHO: u16 = 0x8;
/// `NLM_F_REPLACE`.
pub(crate) const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`.
pub(crate) const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub(crate) const APPEND: u16 = 0x800;
/// `NLM_F_ROOT | NLM_F_MATCH`.
pub(crate) const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: the dump does not show one state, since something changed meanwhile.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED`: an error does not repeat the message that it is about.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: an error says more in attributes.
const ACK_ATTRIBUTES: u16 = 0x200;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;

/// `NFNL_SUBSYS_NFTABLES`.
pub(crate) const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`.
pub(crate) const BATCH_BEGIN: u16 = 16;
/// `NFNL_MSG_BATCH_END`.
pub(crate) const BATCH_END: u16 = 17;

numbered! {
    /// What a message asks for or tells (`NFT_MSG_*`).
    Operation {
        /// A table is there.
        NewTable = 0,
        /// Asks for tables.
        GetTable = 1,
        /// A table goes.
        DeleteTable = 2,
        /// A chain is there.
        NewChain = 3,
        /// Asks for chains.
        GetChain = 4,
        /// A chain goes.
        DeleteChain = 5,
        /// A rule is there.
        NewRule = 6,
        /// Asks for rules.
        GetRule = 7,
        /// A rule goes, or all of a chain, or all of a table.
        DeleteRule = 8,
        /// A set is there.
        NewSet = 9,
        /// Asks for sets.
        GetSet = 10,
        /// A set goes.
        DeleteSet = 11,
        /// Elements are there.
        NewElements = 12,
        /// Asks for elements.
        GetElements = 13,
        /// Elements go.
        DeleteElements = 14,
        /// The generation of the ruleset is this.
        NewGeneration = 15,
        /// Asks for the generation.
        GetGeneration = 16,
    }
}

/// Opens a message; [`close`] fills in its length. The kind is the whole netlink type.
pub(crate) fn open(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: Family,
    resource: u16,
) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&[0; 4]);
    out.push(family.number() as u8);
    out.push(0);
    out.extend_from_slice(&resource.to_be_bytes());
    start
}

/// The netlink type of an operation on nf_tables.
pub(crate) fn kind(operation: Operation) -> u16 {
    (SUBSYSTEM << 8) | operation.number() as u16
}

/// Closes what [`open`] opened at `start`, and returns the message's length.
pub(crate) fn close(out: &mut [u8], start: usize) -> usize {
    let length = out.len() - start;
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&(length as u32).to_ne_bytes());
    }
    length
}

/// One message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The whole netlink type.
    pub kind: u16,
    /// The netlink flags.
    pub flags: u16,
    /// The number of the request that it answers.
    pub sequence: u32,
    /// The port of the socket that asked, or, in an event, of the one that made the change.
    pub port: u32,
    /// All after the netlink header.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The operation and the family of a message about nf_tables; none for other messages.
    #[must_use]
    pub fn operation(&self) -> Option<(Operation, Family)> {
        let family = *self.body.first()?;
        let ours = self.kind >> 8 == SUBSYSTEM && self.body.len() >= SUBHEADER;
        ours.then(|| {
            (
                Operation::from_number(u32::from(self.kind & 0xff)),
                Family::from_number(family.into()),
            )
        })
    }

    /// The attributes of a message about nf_tables.
    #[must_use]
    pub fn attributes(&self) -> &'a [u8] {
        self.body.get(SUBHEADER..).unwrap_or_default()
    }

    /// Whether the dump that it is part of was disturbed by a change.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.flags & DUMP_INTERRUPTED != 0
    }

    /// Whether it ends a dump.
    #[must_use]
    pub fn ends_dump(&self) -> bool {
        self.kind == NLMSG_DONE
    }

    /// The acknowledgement that it is, if it is one; the end of a dump may hold an error too.
    #[must_use]
    pub fn acknowledgement(&self) -> Option<Acknowledgement> {
        if self.kind != NLMSG_ERROR && self.kind != NLMSG_DONE {
            return None;
        }
        let errno = self
            .body
            .first_chunk::<4>()
            .map_or(0, |code| i32::from_ne_bytes(*code))
            .saturating_neg();
        let mut answer = Acknowledgement {
            errno,
            text: None,
            offset: None,
        };
        if self.flags & ACK_ATTRIBUTES != 0 {
            for (kind, payload) in Attributes::new(self.explanation().unwrap_or_default()) {
                match kind {
                    NLMSGERR_ATTR_MSG => answer.text = Some(read_text(payload)),
                    NLMSGERR_ATTR_OFFS => {
                        answer.offset = payload.try_into().ok().map(u32::from_ne_bytes);
                    }
                    _ => {}
                }
            }
        }
        Some(answer)
    }

    /// The attributes behind an error: after the code, and after as much of the refused message as is repeated.
    fn explanation(&self) -> Option<&'a [u8]> {
        if self.kind == NLMSG_DONE {
            return self.body.get(4..);
        }
        let repeated = if self.flags & CAPPED != 0 {
            HEADER
        } else {
            let length = self.body.get(4..8)?.try_into().map(u32::from_ne_bytes).ok()?;
            usize::try_from(length).ok()?.next_multiple_of(4)
        };
        self.body.get(4 + repeated..)
    }
}

/// The kernel's word on a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Zero for success, else the error number (positive).
    pub errno: i32,
    /// The kernel's explanation.
    pub text: Option<String>,
    /// Which byte of the refused message the error is about, counted from its netlink header.
    pub offset: Option<u32>,
}

/// The messages of one datagram. Stops at the first whose length does not fit.
#[derive(Clone, Copy, Debug)]
pub struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    /// Reads a datagram.
    #[must_use]
    pub fn new(datagram: &'a [u8]) -> Self {
        Self(datagram)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.0.split_first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            port: u32::from_ne_bytes([p0, p1, p2, p3]),
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(flags: u16, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
        out.extend_from_slice(&NLMSG_ERROR.to_ne_bytes());
        out.extend_from_slice(&flags.to_ne_bytes());
        out.extend_from_slice(&[9, 0, 0, 0, 7, 0, 0, 0]);
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn an_error_tells_number_text_and_offset() {
        let mut body = (-22i32).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; HEADER]);
        body.extend_from_slice(&[8, 0, 2, 0, 40, 0, 0, 0, 7, 0, 1, 0, b'n', b'o', 0, 0]);
        let datagram = error(CAPPED | ACK_ATTRIBUTES, &body);
        let message = Messages::new(&datagram).next().unwrap();
        assert_eq!(
            (message.sequence, message.port),
            (u32::from_ne_bytes([9, 0, 0, 0]), u32::from_ne_bytes([7, 0, 0, 0]))
        );
        let expected = Acknowledgement {
            errno: 22,
            text: Some("no".into()),
            offset: Some(u32::from_ne_bytes([40, 0, 0, 0])),
        };
        assert_eq!(message.acknowledgement(), Some(expected));
    }

    #[test]
    fn an_error_that_repeats_the_message_is_skipped_over() {
        let mut body = (-1i32).to_ne_bytes().to_vec();
        body.extend_from_slice(&20u32.to_ne_bytes());
        body.extend_from_slice(&[0; 16]);
        body.extend_from_slice(&[7, 0, 1, 0, b'n', b'o', 0, 0]);
        let datagram = error(ACK_ATTRIBUTES, &body);
        let answer = Messages::new(&datagram)
            .next()
            .and_then(|message| message.acknowledgement())
            .unwrap();
        assert_eq!((answer.errno, answer.text.as_deref()), (1, Some("no")));
    }

    #[test]
    fn broken_datagrams_end() {
        assert_eq!(Messages::new(&[1, 0, 0, 0]).count(), 0);
        let mut datagram = error(0, &0i32.to_ne_bytes());
        assert_eq!(Messages::new(&datagram).count(), 1);
        datagram.truncate(18);
        assert_eq!(Messages::new(&datagram).count(), 0);
        assert_eq!(Messages::new(&[0; 16]).count(), 0);
    }
}
