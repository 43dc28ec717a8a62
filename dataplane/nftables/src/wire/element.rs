//! Elements of sets and maps, in the three forms in which the kernel wants keys.
//!
//! This is the hot room: first load writes hundreds of thousands of elements, straight into the batch's buffer.

use super::attribute::{self, Attributes, Malformed, malformed, read_be32, read_text};
use super::batch::SetId;
use super::numbers::Family;
use super::userdata;
use super::value::Value;
use super::verdict::{Datum, Verdict, decode_value, encode_value};

const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFT_SET_ELEM_INTERVAL_END: u32 = 0x1;
const NFT_SET_ELEM_CATCHALL: u32 = 0x2;

/// How the keys of a set are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keys {
    /// Single values.
    Exact,
    /// Intervals of one field: a start element, and an end element one beyond the last value. Keys are compared as bytes in network
    /// order.
    Interval,
    /// Intervals in every field of a concatenation: first and last value in one element.
    ConcatenatedInterval,
}

/// A set, named for its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetRef<'a> {
    /// The table.
    pub table: &'a str,
    /// The set's name.
    pub name: &'a str,
    /// Its number in this batch; needed for an anonymous set, which has no name yet.
    pub id: Option<SetId>,
    /// How its keys are written.
    pub keys: Keys,
}

impl<'a> SetRef<'a> {
    /// A named set of single keys.
    #[must_use]
    pub const fn exact(table: &'a str, name: &'a str) -> Self {
        Self {
            table,
            name,
            id: None,
            keys: Keys::Exact,
        }
    }

    /// A named set of intervals of one field.
    #[must_use]
    pub const fn interval(table: &'a str, name: &'a str) -> Self {
        Self {
            table,
            name,
            id: None,
            keys: Keys::Interval,
        }
    }
}

/// What an element stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ElementKey {
    /// One value. In a set of intervals, the interval of just this value.
    Value(Value),
    /// All values from the first to the last, both counted. Only in sets of intervals; the kernel refuses it elsewhere.
    Range(Value, Value),
    /// Whatever no other element matches (Linux 5.13).
    Any,
}

/// What an element keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ElementData {
    /// Nothing: an element of a plain set, or one to be removed.
    None,
    /// A value.
    Value(Value),
    /// A verdict.
    Verdict(Verdict),
}

/// An element to be added or removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    /// What it stands for.
    pub key: ElementKey,
    /// What it keeps. Not looked at when it is removed.
    pub data: ElementData,
}

impl Element {
    /// The element of one value.
    #[must_use]
    pub fn value(key: Value) -> Self {
        Self {
            key: ElementKey::Value(key),
            data: ElementData::None,
        }
    }

    /// The element of an interval, first and last value counted.
    #[must_use]
    pub fn range(first: Value, last: Value) -> Self {
        Self {
            key: ElementKey::Range(first, last),
            data: ElementData::None,
        }
    }

    /// The element of all other values, printed `*`.
    #[must_use]
    pub fn any() -> Self {
        Self {
            key: ElementKey::Any,
            data: ElementData::None,
        }
    }

    /// The same with a value to keep.
    #[must_use]
    pub fn to(mut self, data: Value) -> Self {
        self.data = ElementData::Value(data);
        self
    }

    /// The same with a verdict to keep.
    #[must_use]
    pub fn verdict(mut self, verdict: Verdict) -> Self {
        self.data = ElementData::Verdict(verdict);
        self
    }

    /// More bytes than this element takes in any form.
    pub(crate) fn at_most_bytes(&self) -> usize {
        let key = match &self.key {
            ElementKey::Any => 0,
            ElementKey::Value(key) => 2 * key.as_bytes().len(),
            ElementKey::Range(first, last) => first.as_bytes().len() + last.as_bytes().len(),
        };
        let data = match &self.data {
            ElementData::None => 0,
            ElementData::Value(value) => value.as_bytes().len(),
            ElementData::Verdict(verdict) => verdict.chain().map_or(0, str::len),
        };
        key + data + 96
    }

    /// Appends this element in the form that the set wants; an interval may take two.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, keys: Keys) {
        match (&self.key, keys) {
            (ElementKey::Any, _) => self.encode_one(out, None, None, NFT_SET_ELEM_CATCHALL),
            (ElementKey::Value(key), Keys::Exact) => self.encode_one(out, Some(key), None, 0),
            (ElementKey::Value(key), Keys::Interval) => self.encode_pair(out, key, key),
            (ElementKey::Range(first, last), Keys::Interval) => self.encode_pair(out, first, last),
            (ElementKey::Value(key), Keys::ConcatenatedInterval) => {
                self.encode_one(out, Some(key), Some(key), 0);
            }
            // In a set of single keys the kernel refuses the end, which is the answer that a range deserves there.
            (ElementKey::Range(first, last), Keys::ConcatenatedInterval | Keys::Exact) => {
                self.encode_one(out, Some(first), Some(last), 0);
            }
        }
    }

    fn encode_pair(&self, out: &mut Vec<u8>, first: &Value, last: &Value) {
        let end = last.successor();
        let element = attribute::open(out, NFTA_LIST_ELEM);
        encode_value(out, NFTA_SET_ELEM_KEY, first);
        self.encode_data(out);
        if end.is_none() {
            // Nothing comes after the last value, so there is no end element; the nft program wants to be told.
            attribute::bytes(out, NFTA_SET_ELEM_USERDATA, &userdata::element_open());
        }
        attribute::close(out, element);
        if let Some(end) = end {
            let element = attribute::open(out, NFTA_LIST_ELEM);
            attribute::be32(out, NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
            encode_value(out, NFTA_SET_ELEM_KEY, &end);
            attribute::close(out, element);
        }
    }

    fn encode_one(&self, out: &mut Vec<u8>, key: Option<&Value>, end: Option<&Value>, flags: u32) {
        let element = attribute::open(out, NFTA_LIST_ELEM);
        if flags != 0 {
            attribute::be32(out, NFTA_SET_ELEM_FLAGS, flags);
        }
        if let Some(key) = key {
            encode_value(out, NFTA_SET_ELEM_KEY, key);
        }
        if let Some(end) = end {
            encode_value(out, NFTA_SET_ELEM_KEY_END, end);
        }
        self.encode_data(out);
        attribute::close(out, element);
    }

    fn encode_data(&self, out: &mut Vec<u8>) {
        match &self.data {
            ElementData::None => {}
            ElementData::Value(value) => encode_value(out, NFTA_SET_ELEM_DATA, value),
            ElementData::Verdict(verdict) => verdict.encode(out, NFTA_SET_ELEM_DATA),
        }
    }
}

/// Appends the head of a list of elements and opens the list; close it with [`attribute::close`].
pub(crate) fn open_list(out: &mut Vec<u8>, set: &SetRef<'_>) -> usize {
    encode_names(out, set.table, set.name);
    if let Some(id) = set.id {
        attribute::be32(out, NFTA_SET_ELEM_LIST_SET_ID, id.number());
    }
    attribute::open(out, NFTA_SET_ELEM_LIST_ELEMENTS)
}

/// Appends table and set, as requests name the elements of a set.
pub(crate) fn encode_names(out: &mut Vec<u8>, table: &str, set: &str) {
    attribute::text(out, NFTA_SET_ELEM_LIST_TABLE, table);
    attribute::text(out, NFTA_SET_ELEM_LIST_SET, set);
}

/// One element as the kernel shows it; see [`super::join_intervals`] for sets of intervals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedElement {
    /// The key; none for the catch-all element.
    pub key: Option<Value>,
    /// The last key, in a set of concatenated intervals.
    pub last: Option<Value>,
    /// Whether this is not an element but the end of an interval: one beyond its last value.
    pub interval_end: bool,
    /// What it keeps.
    pub data: ElementData,
}

/// Elements of one set, in one message of a dump or of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedElements {
    /// The family of the table.
    pub family: Family,
    /// The table.
    pub table: String,
    /// The set.
    pub set: String,
    /// The elements.
    pub elements: Vec<ObservedElement>,
}

impl ObservedElements {
    pub(crate) fn decode(family: Family, payload: &[u8]) -> Result<Self, Malformed> {
        let attributes = Attributes::new(payload);
        let table = attributes
            .find(NFTA_SET_ELEM_LIST_TABLE)
            .ok_or(malformed("elements without table"))?;
        let set = attributes
            .find(NFTA_SET_ELEM_LIST_SET)
            .ok_or(malformed("elements without set"))?;
        let mut elements = Vec::new();
        for (_, element) in Attributes::new(attributes.find(NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default())
        {
            elements.push(ObservedElement::decode(element)?);
        }
        Ok(Self {
            family,
            table: read_text(table),
            set: read_text(set),
            elements,
        })
    }
}

impl ObservedElement {
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut element = Self {
            key: None,
            last: None,
            interval_end: false,
            data: ElementData::None,
        };
        let mut catch_all = false;
        for (kind, payload) in Attributes::new(payload) {
            match kind {
                NFTA_SET_ELEM_KEY => element.key = Some(decode_value(payload, "element key")?),
                NFTA_SET_ELEM_KEY_END => element.last = Some(decode_value(payload, "element last key")?),
                NFTA_SET_ELEM_DATA => {
                    element.data = match Datum::decode(payload)? {
                        Datum::Value(value) => ElementData::Value(value),
                        Datum::Verdict(verdict) => ElementData::Verdict(verdict),
                    };
                }
                NFTA_SET_ELEM_FLAGS => {
                    let flags = read_be32(payload, "element flags")?;
                    element.interval_end = flags & NFT_SET_ELEM_INTERVAL_END != 0;
                    catch_all = flags & NFT_SET_ELEM_CATCHALL != 0;
                }
                _ => {}
            }
        }
        if element.key.is_some() != catch_all {
            Ok(element)
        } else {
            Err(malformed("element without key"))
        }
    }

    /// The element as one would write it, if it stands for itself (not for a part of an interval).
    #[must_use]
    pub fn into_element(self) -> Element {
        let key = match (self.key, self.last) {
            (None, _) => ElementKey::Any,
            (Some(first), Some(last)) if first != last => ElementKey::Range(first, last),
            (Some(key), _) => ElementKey::Value(key),
        };
        Element { key, data: self.data }
    }
}

/// The position of the element whose bytes hold this offset of a list's message, and the element.
///
/// The kernel tells of a refused element by an offset into the message; this finds which it was.
pub(crate) fn element_at(payload: &[u8], offset: usize) -> Option<(usize, ObservedElement)> {
    let list = Attributes::new(payload).find(NFTA_SET_ELEM_LIST_ELEMENTS)?;
    let start = (list.as_ptr() as usize).checked_sub(payload.as_ptr() as usize)?;
    for (index, (_, element)) in Attributes::new(list).enumerate() {
        let begins = element.as_ptr() as usize - list.as_ptr() as usize + start;
        if offset < begins + element.len() {
            return ObservedElement::decode(element).ok().map(|found| (index, found));
        }
    }
    None
}
