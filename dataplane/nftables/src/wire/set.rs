//! Sets and maps: their shape. Their elements are in `element.rs`.

use super::attribute::{self, Attributes, Malformed, malformed, read_be32, read_be64, read_text};
use super::batch::SetId;
use super::datatype::{KeyType, SetData};
use super::element::Keys;
use super::numbers::Family;
use super::userdata;

const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_HANDLE: u16 = 16;
const NFTA_SET_DESC_SIZE: u16 = 1;
const NFTA_SET_DESC_CONCAT: u16 = 2;
const NFTA_SET_FIELD_LEN: u16 = 1;
const NFTA_LIST_ELEM: u16 = 1;

const NFT_SET_ANONYMOUS: u32 = 0x1;
const NFT_SET_CONSTANT: u32 = 0x2;
const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_CONCAT: u32 = 0x80;

/// A set or map to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set<'a> {
    /// The table.
    pub table: &'a str,
    /// The name, at most 255 bytes.
    pub name: &'a str,
    /// The type of its keys.
    pub key: KeyType,
    /// What it keeps for each key.
    pub data: SetData,
    /// Whether its keys are single values or intervals.
    pub intervals: bool,
    /// The most elements. A sized data map gets a fixed hash, which loads faster; a full one refuses with `ENFILE`. Verdict maps
    /// are better left without, since validation walks their buckets.
    pub size: Option<u32>,
    /// A remark for people, at most 127 bytes.
    pub comment: Option<&'a str>,
}

impl<'a> Set<'a> {
    /// A plain set of single keys.
    #[must_use]
    pub fn new(table: &'a str, name: &'a str, key: impl Into<KeyType>) -> Self {
        Self {
            table,
            name,
            key: key.into(),
            data: SetData::None,
            intervals: false,
            size: None,
            comment: None,
        }
    }

    /// The same as a map to these data.
    #[must_use]
    pub fn to(mut self, data: SetData) -> Self {
        self.data = data;
        self
    }

    /// The same for intervals of keys.
    #[must_use]
    pub fn of_intervals(mut self) -> Self {
        self.intervals = true;
        self
    }

    /// The same for at most so many elements.
    #[must_use]
    pub fn sized(mut self, size: u32) -> Self {
        self.size = Some(size);
        self
    }

    /// How its elements are written.
    #[must_use]
    pub fn keys(&self) -> Keys {
        match (self.intervals, self.key.is_concatenation()) {
            (false, _) => Keys::Exact,
            (true, false) => Keys::Interval,
            (true, true) => Keys::ConcatenatedInterval,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>, id: SetId, anonymous: bool) {
        encode_names(out, self.table, self.name);
        let mut flags = if anonymous {
            NFT_SET_ANONYMOUS | NFT_SET_CONSTANT
        } else {
            0
        };
        if self.intervals {
            flags |= NFT_SET_INTERVAL;
            if self.key.is_concatenation() {
                flags |= NFT_SET_CONCAT;
            }
        }
        let data = self.data.number_and_width();
        if data.is_some() {
            flags |= NFT_SET_MAP;
        }
        attribute::be32(out, NFTA_SET_FLAGS, flags);
        attribute::be32(out, NFTA_SET_KEY_TYPE, self.key.number());
        attribute::be32(out, NFTA_SET_KEY_LEN, self.key.width() as u32);
        if let Some((number, width)) = data {
            attribute::be32(out, NFTA_SET_DATA_TYPE, number);
            attribute::be32(out, NFTA_SET_DATA_LEN, width as u32);
        }
        attribute::be32(out, NFTA_SET_ID, id.number());
        self.encode_description(out);
        let mut notes = Vec::with_capacity(32);
        userdata::set_layout(
            &mut notes,
            self.key.byte_order(),
            data.map(|_| self.data.byte_order()),
        );
        if data.is_some() {
            userdata::set_plain_data(&mut notes);
        }
        if let Some(comment) = self.comment {
            userdata::comment(&mut notes, userdata::SET_COMMENT, comment);
        }
        attribute::bytes(out, NFTA_SET_USERDATA, &notes);
    }

    fn encode_description(&self, out: &mut Vec<u8>) {
        let fields = self.keys() == Keys::ConcatenatedInterval;
        if self.size.is_none() && !fields {
            return;
        }
        attribute::nest(out, NFTA_SET_DESC, |out| {
            if let Some(size) = self.size {
                attribute::be32(out, NFTA_SET_DESC_SIZE, size);
            }
            if fields {
                // The widths without padding: the kernel builds one search stage for each field from them.
                attribute::nest(out, NFTA_SET_DESC_CONCAT, |out| {
                    for field in self.key.fields() {
                        attribute::nest(out, NFTA_LIST_ELEM, |out| {
                            attribute::be32(out, NFTA_SET_FIELD_LEN, field.width() as u32);
                        });
                    }
                });
            }
        });
    }
}

/// Appends table and name of a set, as requests and removals name it.
pub(crate) fn encode_names(out: &mut Vec<u8>, table: &str, set: &str) {
    attribute::text(out, NFTA_SET_TABLE, table);
    attribute::text(out, NFTA_SET_NAME, set);
}

/// Appends the table alone, for all its sets.
pub(crate) fn encode_table(out: &mut Vec<u8>, table: &str) {
    attribute::text(out, NFTA_SET_TABLE, table);
}

/// A set as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSet {
    /// The family of its table.
    pub family: Family,
    /// The table.
    pub table: String,
    /// The name.
    pub name: String,
    /// The kernel's number, never used again in the table.
    pub handle: u64,
    /// The type of its keys, if every field has a name here.
    pub key: Option<KeyType>,
    /// What it keeps for each key, if that has a name here.
    pub data: Option<SetData>,
    /// Whether its keys are intervals.
    pub intervals: bool,
    /// Whether it belongs to one rule and goes with it.
    pub anonymous: bool,
    /// The most elements, if there is a limit.
    pub size: Option<u32>,
    /// All flags of the kernel (`NFT_SET_*`), for what has no field here.
    pub flags: u32,
    /// The comment.
    pub comment: Option<String>,
}

impl ObservedSet {
    /// How its elements are written, if its key type has a name here.
    #[must_use]
    pub fn keys(&self) -> Keys {
        match (self.intervals, self.flags & NFT_SET_CONCAT != 0) {
            (false, _) => Keys::Exact,
            (true, false) => Keys::Interval,
            (true, true) => Keys::ConcatenatedInterval,
        }
    }

    pub(crate) fn decode(family: Family, payload: &[u8]) -> Result<Self, Malformed> {
        let mut set = Self {
            family,
            table: String::new(),
            name: String::new(),
            handle: 0,
            key: None,
            data: Some(SetData::None),
            intervals: false,
            anonymous: false,
            size: None,
            flags: 0,
            comment: None,
        };
        for (kind, payload) in Attributes::new(payload) {
            match kind {
                NFTA_SET_TABLE => set.table = read_text(payload),
                NFTA_SET_NAME => set.name = read_text(payload),
                NFTA_SET_HANDLE => set.handle = read_be64(payload, "set handle")?,
                NFTA_SET_FLAGS => set.flags = read_be32(payload, "set flags")?,
                NFTA_SET_KEY_TYPE => set.key = KeyType::from_number(read_be32(payload, "set key type")?),
                NFTA_SET_DATA_TYPE => set.data = SetData::from_number(read_be32(payload, "set data type")?),
                NFTA_SET_DESC => {
                    let size = Attributes::new(payload).find(NFTA_SET_DESC_SIZE);
                    set.size = size.map(|size| read_be32(size, "set size")).transpose()?;
                }
                NFTA_SET_USERDATA => set.comment = userdata::find_comment(payload, userdata::SET_COMMENT),
                _ => {}
            }
        }
        set.intervals = set.flags & NFT_SET_INTERVAL != 0;
        set.anonymous = set.flags & NFT_SET_ANONYMOUS != 0;
        let named = !set.table.is_empty() && !set.name.is_empty();
        if named {
            Ok(set)
        } else {
            Err(malformed("set without name"))
        }
    }
}
