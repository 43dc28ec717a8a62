//! Rules: expressions in order, in a chain.

use super::attribute::{self, Attributes, Malformed, malformed, read_be64, read_text};
use super::expr::{self, Expr};
use super::numbers::Family;
use super::table::encode_comment;
use super::userdata;

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_POSITION: u16 = 6;
const NFTA_RULE_USERDATA: u16 = 7;

/// Where in its chain a rule goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RulePlace {
    /// After the last rule.
    #[default]
    Last,
    /// Before the first rule.
    First,
    /// After the rule with this handle.
    After(u64),
    /// Before the rule with this handle.
    Before(u64),
    /// In place of the rule with this handle.
    Replace(u64),
}

/// A rule to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule<'a> {
    /// The table.
    pub table: &'a str,
    /// The chain.
    pub chain: &'a str,
    /// What is done with a packet, in order, until an expression does not match or gives a verdict. The kernel takes 128.
    pub expressions: &'a [Expr],
    /// Where in the chain.
    pub place: RulePlace,
    /// A remark for people, at most 127 bytes.
    pub comment: Option<&'a str>,
}

impl<'a> Rule<'a> {
    /// A rule at the end of a chain.
    #[must_use]
    pub const fn new(table: &'a str, chain: &'a str, expressions: &'a [Expr]) -> Self {
        Self {
            table,
            chain,
            expressions,
            place: RulePlace::Last,
            comment: None,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        encode_names(out, self.table, self.chain);
        match self.place {
            RulePlace::First | RulePlace::Last => {}
            RulePlace::After(handle) | RulePlace::Before(handle) => {
                attribute::be64(out, NFTA_RULE_POSITION, handle);
            }
            RulePlace::Replace(handle) => attribute::be64(out, NFTA_RULE_HANDLE, handle),
        }
        attribute::nest(out, NFTA_RULE_EXPRESSIONS, |out| {
            expr::encode_list(out, self.expressions)
        });
        encode_comment(out, NFTA_RULE_USERDATA, self.comment);
    }
}

/// Appends table and chain, as requests and removals name the rules of a chain.
pub(crate) fn encode_names(out: &mut Vec<u8>, table: &str, chain: &str) {
    attribute::text(out, NFTA_RULE_TABLE, table);
    attribute::text(out, NFTA_RULE_CHAIN, chain);
}

/// Appends the table alone, for all its rules.
pub(crate) fn encode_table(out: &mut Vec<u8>, table: &str) {
    attribute::text(out, NFTA_RULE_TABLE, table);
}

/// Appends a rule's handle.
pub(crate) fn encode_handle(out: &mut Vec<u8>, handle: u64) {
    attribute::be64(out, NFTA_RULE_HANDLE, handle);
}

/// A rule as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedRule {
    /// The family of its table.
    pub family: Family,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The kernel's number, by which the rule is replaced or removed.
    pub handle: u64,
    /// The handle of the rule before it in the chain, in dumps and events that tell it.
    pub after: Option<u64>,
    /// What is done with a packet.
    pub expressions: Vec<Expr>,
    /// The comment.
    pub comment: Option<String>,
}

impl ObservedRule {
    pub(crate) fn decode(family: Family, payload: &[u8]) -> Result<Self, Malformed> {
        let mut rule = Self {
            family,
            table: String::new(),
            chain: String::new(),
            handle: 0,
            after: None,
            expressions: Vec::new(),
            comment: None,
        };
        for (kind, payload) in Attributes::new(payload) {
            match kind {
                NFTA_RULE_TABLE => rule.table = read_text(payload),
                NFTA_RULE_CHAIN => rule.chain = read_text(payload),
                NFTA_RULE_HANDLE => rule.handle = read_be64(payload, "rule handle")?,
                NFTA_RULE_POSITION => rule.after = Some(read_be64(payload, "rule position")?),
                NFTA_RULE_EXPRESSIONS => rule.expressions = expr::decode_list(payload)?,
                NFTA_RULE_USERDATA => rule.comment = userdata::find_comment(payload, userdata::COMMENT),
                _ => {}
            }
        }
        let named = !rule.table.is_empty() && !rule.chain.is_empty();
        if named {
            Ok(rule)
        } else {
            Err(malformed("rule without chain"))
        }
    }
}
