//! A batch: messages that the kernel carries out all together or not at all.
//!
//! One growing buffer, handed to the kernel by one call. Each message has a sequence number of its own, so that an error finds the
//! way back to the step that wrote it ([`Batch::at`]).

use std::borrow::Borrow;

use super::attribute;
use super::chain::{self, Chain};
use super::element::{self, Element, ObservedElement, SetRef};
use super::message::{self, Operation};
use super::numbers::Family;
use super::rule::{self, Rule, RulePlace};
use super::set::{self, Set};
use super::table::{self, Table};

/// The longest message that is sent, in bytes. An attribute's length has 16 bits, and no attribute is longer than its message.
pub const MESSAGE_LIMIT: usize = 65_535;

const NFNL_BATCH_GENID: u16 = 1;
/// The pattern from which the kernel makes a name for an anonymous map or set.
const ANONYMOUS_MAP: &str = "__map%d";
const ANONYMOUS_SET: &str = "__set%d";

/// The number of a set within the batch that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId(u32);

impl SetId {
    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    pub(crate) const fn from_number(number: u32) -> Self {
        Self(number)
    }
}

/// What the kernel does when an object that a message makes is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and what can be changed (a chain's policy) is. An element with other data, or a set of another shape, is refused.
    #[default]
    Keep,
    /// The batch is refused (`EEXIST`).
    Refuse,
}

/// A message of the batch: where it starts and whose it is.
#[derive(Clone, Copy, Debug)]
struct Mark {
    start: usize,
    label: usize,
}

/// Messages to be carried out together.
#[derive(Clone, Debug)]
pub struct Batch {
    family: Family,
    bytes: Vec<u8>,
    marks: Vec<Mark>,
    label: usize,
    existing: Existing,
    echo: bool,
    next_set: u32,
    too_long: Option<usize>,
    /// Where the end message starts, once it is written.
    sealed: Option<usize>,
}

impl Batch {
    /// An empty batch for tables of one family.
    #[must_use]
    pub fn new(family: Family) -> Self {
        Self::begin(family, None)
    }

    /// An empty batch that is refused if the ruleset has another generation by then (see `Generation`). Any program's commit, to
    /// any table, makes a new generation.
    #[must_use]
    pub fn for_generation(family: Family, generation: u32) -> Self {
        Self::begin(family, Some(generation))
    }

    fn begin(family: Family, generation: Option<u32>) -> Self {
        let mut bytes = Vec::with_capacity(4096);
        let start = message::open(
            &mut bytes,
            message::BATCH_BEGIN,
            message::REQUEST,
            0,
            Family::Unspecified,
            message::SUBSYSTEM,
        );
        if let Some(generation) = generation {
            attribute::be32(&mut bytes, NFNL_BATCH_GENID, generation);
        }
        message::close(&mut bytes, start);
        Self {
            family,
            bytes,
            marks: Vec::new(),
            label: 0,
            existing: Existing::Keep,
            echo: false,
            next_set: 1,
            too_long: None,
            sealed: None,
        }
    }

    /// Gives the messages that follow this label, which errors name.
    pub fn at(&mut self, label: usize) -> &mut Self {
        self.label = label;
        self
    }

    /// Says what happens, for the messages that follow, with objects that are there already.
    pub fn existing(&mut self, existing: Existing) -> &mut Self {
        self.existing = existing;
        self
    }

    /// Asks the kernel to tell the handles of the rules that follow (see `Committed`).
    pub fn tell_handles(&mut self) -> &mut Self {
        self.echo = true;
        self
    }

    /// Makes a table, or claims one that has lost its owner.
    pub fn table(&mut self, table: &Table<'_>) {
        let flags = self.creation() & !message::CREATE;
        self.message(Operation::NewTable, flags, |out| table.encode(out));
    }

    /// Removes a table with all that is in it. It must be there.
    pub fn remove_table(&mut self, table: &str) {
        self.message(Operation::DeleteTable, 0, |out| table::encode_name(out, table));
    }

    /// Makes a chain.
    pub fn chain(&mut self, chain: &Chain<'_>) {
        let flags = self.creation();
        self.message(Operation::NewChain, flags, |out| chain.encode(out));
    }

    /// Removes a chain. It must be there, and nothing may lead to it.
    pub fn remove_chain(&mut self, table: &str, chain: &str) {
        self.message(Operation::DeleteChain, 0, |out| {
            chain::encode_names(out, table, chain)
        });
    }

    /// Removes all rules of a chain. It must be there.
    pub fn flush_chain(&mut self, table: &str, chain: &str) {
        self.message(Operation::DeleteRule, 0, |out| {
            rule::encode_names(out, table, chain)
        });
    }

    /// Removes all rules of a table. It must be there.
    pub fn flush_table(&mut self, table: &str) {
        self.message(Operation::DeleteRule, 0, |out| rule::encode_table(out, table));
    }

    /// Makes a rule.
    pub fn rule(&mut self, rule: &Rule<'_>) {
        // Without the flag to append, a rule goes first, or before the rule that it names.
        let place = match rule.place {
            RulePlace::Last | RulePlace::After(_) => message::CREATE | message::APPEND,
            RulePlace::First | RulePlace::Before(_) => message::CREATE,
            RulePlace::Replace(_) => message::REPLACE,
        };
        let echo = if self.echo { message::ECHO } else { 0 };
        self.message(Operation::NewRule, place | echo, |out| rule.encode(out));
    }

    /// Removes a rule. It must be there.
    pub fn remove_rule(&mut self, table: &str, chain: &str, handle: u64) {
        self.message(Operation::DeleteRule, 0, |out| {
            rule::encode_names(out, table, chain);
            rule::encode_handle(out, handle);
        });
    }

    /// Makes a set or map.
    pub fn set(&mut self, set: &Set<'_>) -> SetId {
        self.new_set(set, false)
    }

    /// Makes a set or map without a name, for the one rule that follows: put the number into that rule's lookup. The name of `set`
    /// is not looked at.
    pub fn anonymous<E: Borrow<Element>>(
        &mut self,
        set: &Set<'_>,
        elements: impl IntoIterator<Item = E>,
    ) -> SetId {
        let name = anonymous_name(set);
        let set = Set { name, ..set.clone() };
        let id = self.new_set(&set, true);
        self.elements(
            &SetRef {
                table: set.table,
                name,
                id: Some(id),
                keys: set.keys(),
            },
            elements,
        );
        id
    }

    fn new_set(&mut self, set: &Set<'_>, anonymous: bool) -> SetId {
        let id = SetId(self.next_set);
        self.next_set = self.next_set.wrapping_add(1);
        let flags = self.creation();
        self.message(Operation::NewSet, flags, |out| set.encode(out, id, anonymous));
        id
    }

    /// Removes a set. It must be there, and no rule may use it.
    pub fn remove_set(&mut self, table: &str, set: &str) {
        self.message(Operation::DeleteSet, 0, |out| set::encode_names(out, table, set));
    }

    /// Adds elements, in as many messages as it takes.
    ///
    /// An element that is there with other data is refused (`EEXIST`): remove it first, in the same batch if you like.
    pub fn elements<E: Borrow<Element>>(&mut self, set: &SetRef<'_>, elements: impl IntoIterator<Item = E>) {
        let flags = self.creation();
        self.element_lists(Operation::NewElements, flags, set, elements);
    }

    /// Removes elements, in as many messages as it takes. Each must be there; their data are of no matter.
    pub fn remove_elements<E: Borrow<Element>>(
        &mut self,
        set: &SetRef<'_>,
        elements: impl IntoIterator<Item = E>,
    ) {
        self.element_lists(Operation::DeleteElements, 0, set, elements);
    }

    /// Removes all elements of a set. It must be there.
    pub fn flush_set(&mut self, table: &str, set: &str) {
        self.message(Operation::DeleteElements, 0, |out| {
            element::encode_names(out, table, set)
        });
    }

    fn element_lists<E: Borrow<Element>>(
        &mut self,
        operation: Operation,
        flags: u16,
        set: &SetRef<'_>,
        elements: impl IntoIterator<Item = E>,
    ) {
        let mut opened = None;
        for element in elements {
            let element = element.borrow();
            let room = element.at_most_bytes();
            if let Some((start, list)) = opened
                && self.bytes.len() - start + room > MESSAGE_LIMIT
            {
                attribute::close(&mut self.bytes, list);
                self.close(start);
                opened = None;
            }
            if opened.is_none() {
                let start = self.open(operation, flags);
                opened = Some((start, element::open_list(&mut self.bytes, set)));
            }
            // At once for all its parts, which then find room.
            self.bytes.reserve(room);
            element.encode(&mut self.bytes, set.keys);
        }
        if let Some((start, list)) = opened {
            attribute::close(&mut self.bytes, list);
            self.close(start);
        }
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// How many messages have been written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// How many bytes have been written.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The label of a message that is too long to be sent, if there is one: a rule with too many or too long expressions.
    #[must_use]
    pub fn too_long(&self) -> Option<usize> {
        self.too_long
    }

    /// The whole batch as it is sent: begin, messages, end. Only the last message asks for an acknowledgement; errors come anyway.
    ///
    /// The acknowledgement is asked of a message, not of the end, since only new kernels (6.10) answer to that.
    pub fn seal(&mut self) -> &[u8] {
        if self.sealed.is_none() {
            self.acknowledge_last(message::ACK);
            let sequence = self.marks.len() as u32 + 1;
            let start = message::open(
                &mut self.bytes,
                message::BATCH_END,
                message::REQUEST,
                sequence,
                Family::Unspecified,
                message::SUBSYSTEM,
            );
            message::close(&mut self.bytes, start);
            self.sealed = Some(start);
        }
        &self.bytes
    }

    /// The sequence number of the last message, whose acknowledgement ends the kernel's answer.
    #[must_use]
    pub fn last_sequence(&self) -> u32 {
        self.marks.len() as u32
    }

    /// The label of the message with this sequence number; none for begin and end.
    #[must_use]
    pub fn label_of(&self, sequence: u32) -> Option<usize> {
        self.mark(sequence).map(|mark| mark.label)
    }

    /// What the message with this sequence number asks for.
    #[must_use]
    pub fn operation_of(&self, sequence: u32) -> Option<Operation> {
        let bytes = self.bytes.get(self.mark(sequence)?.start..)?;
        message::Messages::new(bytes)
            .next()?
            .operation()
            .map(|(operation, _)| operation)
    }

    /// The element that an error's offset points at, in the message with this sequence number.
    #[must_use]
    pub fn element_of(&self, sequence: u32, offset: u32) -> Option<ObservedElement> {
        let bytes = self.bytes.get(self.mark(sequence)?.start..)?;
        let found = message::Messages::new(bytes).next()?;
        let (operation, _) = found.operation()?;
        let offset = usize::try_from(offset)
            .ok()?
            .checked_sub(message::HEADER + message::SUBHEADER)?;
        match operation {
            Operation::NewElements | Operation::DeleteElements => {
                element::element_at(found.attributes(), offset).map(|(_, element)| element)
            }
            _ => None,
        }
    }

    fn mark(&self, sequence: u32) -> Option<Mark> {
        self.marks
            .get(usize::try_from(sequence).ok()?.checked_sub(1)?)
            .copied()
    }

    fn creation(&self) -> u16 {
        match self.existing {
            Existing::Keep => message::CREATE,
            Existing::Refuse => message::CREATE | message::EXCL,
        }
    }

    fn message(&mut self, operation: Operation, flags: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.open(operation, flags);
        fill(&mut self.bytes);
        self.close(start);
    }

    fn open(&mut self, operation: Operation, flags: u16) -> usize {
        if let Some(end) = self.sealed.take() {
            self.bytes.truncate(end);
            self.acknowledge_last(0);
        }
        let sequence = self.marks.len() as u32 + 1;
        let flags = message::REQUEST | flags;
        let start = message::open(
            &mut self.bytes,
            message::kind(operation),
            flags,
            sequence,
            self.family,
            0,
        );
        self.marks.push(Mark {
            start,
            label: self.label,
        });
        start
    }

    fn close(&mut self, start: usize) {
        if message::close(&mut self.bytes, start) > MESSAGE_LIMIT {
            self.too_long.get_or_insert(self.label);
        }
    }

    /// Sets or clears the flag of the last message that asks for an acknowledgement.
    fn acknowledge_last(&mut self, ack: u16) {
        const FLAGS_AT: usize = 6;
        let Some(start) = self.marks.last().map(|mark| mark.start + FLAGS_AT) else {
            return;
        };
        if let Some(field) = self.bytes.get_mut(start..start + 2)
            && let Ok(flags) = <[u8; 2]>::try_from(&*field)
        {
            let flags = u16::from_ne_bytes(flags) & !message::ACK | ack;
            field.copy_from_slice(&flags.to_ne_bytes());
        }
    }
}

/// The name pattern by which a lookup in the same batch names an anonymous set of this shape.
#[must_use]
pub(crate) fn anonymous_name(set: &Set<'_>) -> &'static str {
    if set.data == super::SetData::None {
        ANONYMOUS_SET
    } else {
        ANONYMOUS_MAP
    }
}
