//! Reading `iptables-save`: chains, our hashes, and the texts of rules that may concern us.
//!
//! The tables hold everybody's rules, of any shape and number; nothing in them may make ours unreadable. Of rules in other
//! people's chains only those are kept that speak of us.

use std::borrow::Cow;

use super::hash::HASH_LENGTH;
use super::{COMMENT_PREFIX, is_our_chain, text};

/// One table as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedTable {
    /// Its name.
    pub name: String,
    /// Its chains, in the program's order.
    pub chains: Vec<SavedChain>,
}

/// One chain as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedChain {
    /// Its name.
    pub name: String,
    /// Whether it is one of the kernel's, which have a policy.
    pub is_builtin: bool,
    /// Its rules; in other people's chains only those that speak of us.
    pub rules: Vec<SavedRule>,
    /// How many rules are not in `rules`.
    pub others: usize,
}

/// One rule as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedRule {
    /// What stands behind `-A CHAIN`.
    pub text: String,
    /// The hash in its comment, if it is ours.
    pub hash: Option<String>,
}

/// An output that is not whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveError {
    /// A table has no end: the program stopped in the middle.
    #[error("the list of table {0} has no end (COMMIT)")]
    NoEnd(String),
}

impl SavedRule {
    /// The chain or target to which it jumps or goes.
    #[must_use]
    pub fn target(&self) -> Option<String> {
        let mut words = text::words(&self.text);
        words
            .find(|word| matches!(word.as_ref(), "-j" | "-g"))
            .and_then(|_| words.next())
            .map(Cow::into_owned)
    }
}

impl SavedTable {
    /// The chain of this name.
    #[must_use]
    pub fn chain(&self, name: &str) -> Option<&SavedChain> {
        self.chains.iter().find(|chain| chain.name == name)
    }
}

impl SavedChain {
    /// How many rules are not ours.
    #[must_use]
    pub fn foreign_rules(&self) -> usize {
        self.others + self.rules.iter().filter(|rule| !super::is_our_rule(rule)).count()
    }
}

/// Reads an output, with counters or without, of one table or of all.
///
/// # Errors
/// A table has no end.
pub fn parse(output: &[u8]) -> Result<Vec<SavedTable>, SaveError> {
    // Comments and interface names may be any bytes; what is not UTF-8 is nobody's of ours.
    let output = String::from_utf8_lossy(output);
    let mut tables = Vec::new();
    let mut open: Option<SavedTable> = None;
    // Where the chain of the last rule is: rules of a chain stand together.
    let mut last = 0;
    for line in lines(&output) {
        let line = without_counters(line);
        match (line.chars().next(), &mut open) {
            (Some('*'), _) => {
                if let Some(table) = open.replace(SavedTable {
                    name: line.get(1..).unwrap_or_default().trim().to_owned(),
                    chains: Vec::new(),
                }) {
                    return Err(SaveError::NoEnd(table.name));
                }
            }
            (Some(':'), Some(table)) => {
                let mut words = line.get(1..).unwrap_or_default().split_whitespace();
                let (name, policy) = (words.next().unwrap_or_default(), words.next());
                table.chains.push(SavedChain {
                    name: name.to_owned(),
                    is_builtin: policy.is_some_and(|policy| policy != "-"),
                    ..SavedChain::default()
                });
            }
            (Some('-'), Some(table)) => {
                if let Some(rule) = line.strip_prefix("-A ") {
                    let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
                    add_rule(table, &mut last, chain, rule);
                }
            }
            (Some('C'), Some(_)) if line.trim_end() == "COMMIT" => tables.extend(open.take()),
            // Remarks, empty lines, and what later versions may add.
            _ => {}
        }
    }
    match open {
        Some(table) => Err(SaveError::NoEnd(table.name)),
        None => Ok(tables),
    }
}

fn add_rule(table: &mut SavedTable, last: &mut usize, chain: &str, rule: &str) {
    if table.chains.get(*last).is_none_or(|found| found.name != chain) {
        *last = table
            .chains
            .iter()
            .position(|found| found.name == chain)
            .unwrap_or_else(|| {
                // A rule of a chain that was not declared: no program prints that, and losing it would be worse.
                table.chains.push(SavedChain {
                    name: chain.to_owned(),
                    ..SavedChain::default()
                });
                table.chains.len() - 1
            });
    }
    let Some(chain) = table.chains.get_mut(*last) else {
        return;
    };
    let speaks_of_us = rule.contains("cali") || rule.contains("felix-");
    if !(chain.is_builtin || speaks_of_us || is_our_chain(&chain.name)) {
        chain.others += 1;
        return;
    }
    chain.rules.push(SavedRule {
        text: rule.to_owned(),
        hash: if speaks_of_us { hash_of(rule) } else { None },
    });
}

/// The hash in the first comment of the form that ours have.
fn hash_of(rule: &str) -> Option<String> {
    if !rule.contains(COMMENT_PREFIX) {
        return None;
    }
    let mut words = text::words(rule);
    while let Some(word) = words.next() {
        if word != "--comment" {
            continue;
        }
        let Some(comment) = words.next() else { break };
        if let Some(hash) = our_comment(&comment) {
            return Some(hash.to_owned());
        }
    }
    None
}

/// The hash of a comment, if the comment is of the form that ours have.
pub(super) fn our_comment(comment: &str) -> Option<&str> {
    let is_digit = |sign: char| sign.is_ascii_alphanumeric() || sign == '-' || sign == '_';
    comment
        .strip_prefix(COMMENT_PREFIX)
        .filter(|hash| hash.len() == HASH_LENGTH && hash.chars().all(is_digit))
}

/// The lines of an output; a line break between quotes, such as in somebody's comment, ends no line.
fn lines(output: &str) -> impl Iterator<Item = &str> {
    let mut rest = output;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = line_end(rest);
        let line = rest.get(..end);
        rest = rest.get(end + 1..).unwrap_or_default();
        line
    })
}

fn line_end(text: &str) -> usize {
    let simple = text.find('\n').unwrap_or(text.len());
    // Quotes are rare outside comments, and remarks of the program may hold any number of them.
    if text.starts_with('#') || !text.get(..simple).is_some_and(|line| line.contains('"')) {
        return simple;
    }
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'\n' if !quoted => return at,
            _ => {}
        }
    }
    // A quote that is never closed: the line is what it seems to be.
    if quoted { simple } else { text.len() }
}

/// Takes `[12:3456] ` away.
fn without_counters(line: &str) -> &str {
    if !line.starts_with('[') {
        return line;
    }
    line.split_once("] ").map_or(line, |(_, rest)| rest)
}

#[cfg(test)]
#[path = "save_tests.rs"]
mod tests;
