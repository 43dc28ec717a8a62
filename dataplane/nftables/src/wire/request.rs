//! Questions to the kernel.

use super::message::{self, Operation};
use super::numbers::Family;
use super::{element, rule, set};

/// A question. The kernel answers with one message for each object (or for many elements), or with one for a single answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The generation of the ruleset.
    Generation,
    /// All tables of a family.
    Tables(Family),
    /// All chains of a family, of all tables.
    Chains(Family),
    /// All rules of a table.
    Rules(Family, &'a str),
    /// All rules of a chain.
    RulesOf(Family, &'a str, &'a str),
    /// All sets of a table.
    Sets(Family, &'a str),
    /// All elements of a set.
    Elements(Family, &'a str, &'a str),
}

impl Request<'_> {
    /// Whether many messages answer.
    #[must_use]
    pub const fn is_dump(&self) -> bool {
        !matches!(self, Self::Generation)
    }

    /// Appends the question with this sequence number.
    pub fn encode(&self, out: &mut Vec<u8>, sequence: u32) {
        let (operation, family) = match *self {
            Self::Generation => (Operation::GetGeneration, Family::Unspecified),
            Self::Tables(family) => (Operation::GetTable, family),
            Self::Chains(family) => (Operation::GetChain, family),
            Self::Rules(family, _) | Self::RulesOf(family, _, _) => (Operation::GetRule, family),
            Self::Sets(family, _) => (Operation::GetSet, family),
            Self::Elements(family, _, _) => (Operation::GetElements, family),
        };
        let flags = message::REQUEST | if self.is_dump() { message::DUMP } else { 0 };
        let start = message::open(out, message::kind(operation), flags, sequence, family, 0);
        match *self {
            Self::Generation | Self::Tables(_) | Self::Chains(_) => {}
            Self::Rules(_, table) => rule::encode_table(out, table),
            Self::RulesOf(_, table, chain) => rule::encode_names(out, table, chain),
            Self::Sets(_, table) => set::encode_table(out, table),
            Self::Elements(_, table, set) => element::encode_names(out, table, set),
        }
        message::close(out, start);
    }
}
