//! Tables: what we ask for, and what the kernel shows.

use super::attribute::{self, Attributes, Malformed, malformed, read_be32, read_be64, read_text};
use super::numbers::Family;
use super::userdata;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_TABLE_USE: u16 = 3;
const NFTA_TABLE_HANDLE: u16 = 4;
const NFTA_TABLE_USERDATA: u16 = 6;
const NFTA_TABLE_OWNER: u16 = 7;

/// How a table behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableFlags(u32);

impl TableFlags {
    /// Nothing special.
    pub const NONE: Self = Self(0);
    /// The base chains of the table see no packet.
    pub const DORMANT: Self = Self(1);
    /// Only the socket that made the table may change it (`EPERM` for others); the table goes when that socket is closed.
    pub const OWNER: Self = Self(2);
    /// An owned table stays when its owner is gone, and a later socket may claim it with both flags (Linux 6.9).
    pub const PERSIST: Self = Self(4);

    /// Both sets of flags.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all flags of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A table to be made, or claimed if it is persistent and has no owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table<'a> {
    /// The name, at most 255 bytes.
    pub name: &'a str,
    /// Its behaviour.
    pub flags: TableFlags,
    /// A remark for people, shown by `nft list ruleset`; at most 127 bytes.
    pub comment: Option<&'a str>,
}

impl<'a> Table<'a> {
    /// A plain table.
    #[must_use]
    pub const fn new(name: &'a str) -> Self {
        Self {
            name,
            flags: TableFlags::NONE,
            comment: None,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        attribute::text(out, NFTA_TABLE_NAME, self.name);
        attribute::be32(out, NFTA_TABLE_FLAGS, self.flags.0);
        encode_comment(out, NFTA_TABLE_USERDATA, self.comment);
    }
}

/// Appends a comment as the user data of a table, chain or rule.
pub(crate) fn encode_comment(out: &mut Vec<u8>, kind: u16, comment: Option<&str>) {
    if let Some(comment) = comment {
        let mut notes = Vec::with_capacity(comment.len() + 3);
        userdata::comment(&mut notes, userdata::COMMENT, comment);
        attribute::bytes(out, kind, &notes);
    }
}

/// Appends the name of a table, as requests and removals name it.
pub(crate) fn encode_name(out: &mut Vec<u8>, name: &str) {
    attribute::text(out, NFTA_TABLE_NAME, name);
}

/// A table as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedTable {
    /// The family.
    pub family: Family,
    /// The name.
    pub name: String,
    /// Its behaviour.
    pub flags: TableFlags,
    /// The kernel's number, never used again.
    pub handle: u64,
    /// The number of chains, sets and objects in it.
    pub uses: u32,
    /// The port of the owning socket.
    pub owner: Option<u32>,
    /// The comment.
    pub comment: Option<String>,
}

impl ObservedTable {
    pub(crate) fn decode(family: Family, payload: &[u8]) -> Result<Self, Malformed> {
        let mut table = Self {
            family,
            name: String::new(),
            flags: TableFlags::NONE,
            handle: 0,
            uses: 0,
            owner: None,
            comment: None,
        };
        for (kind, payload) in Attributes::new(payload) {
            match kind {
                NFTA_TABLE_NAME => table.name = read_text(payload),
                NFTA_TABLE_FLAGS => table.flags = TableFlags(read_be32(payload, "table flags")?),
                NFTA_TABLE_USE => table.uses = read_be32(payload, "table use")?,
                NFTA_TABLE_HANDLE => table.handle = read_be64(payload, "table handle")?,
                NFTA_TABLE_USERDATA => table.comment = userdata::find_comment(payload, userdata::COMMENT),
                NFTA_TABLE_OWNER => table.owner = Some(read_be32(payload, "table owner")?),
                _ => {}
            }
        }
        if table.name.is_empty() {
            Err(malformed("table without name"))
        } else {
            Ok(table)
        }
    }
}
