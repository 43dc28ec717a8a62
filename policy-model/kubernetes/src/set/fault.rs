//! What is said about a document: one line that names file, document, field and reason.

use std::fmt;
use std::sync::Arc;

/// What became of the object that a faulty document speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Consequence {
    /// No form of it is in force.
    NotInForce,
    /// Its last valid form stays in force.
    LastValidInForce,
    /// It was never valid; it is in force without the rules that cannot be understood, and allows only the others.
    RestInForce,
    /// What another document says of it is in force.
    OtherDocumentInForce,
}

/// A fault of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the file, as it was given.
    pub file: String,
    /// Number of the document among those of the file that are not empty, from 1.
    pub document: usize,
    /// Number of the item, from 0, where the document is a list.
    pub item: Option<usize>,
    /// Line of the syntax error, or on which the document begins; from 1.
    pub line: usize,
    /// The object as people call it: `NetworkPolicy shop/web`. Empty where the document cannot be read at all.
    pub subject: String,
    /// Path of the field; empty where the fault is not of one field.
    pub field: String,
    /// Why it cannot be accepted.
    pub reason: String,
    /// What became of the object.
    pub consequence: Consequence,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: document {}", OneLine(&self.file), self.document)?;
        if let Some(item) = self.item {
            write!(f, ", item {item}")?;
        }
        if self.subject.is_empty() {
            write!(f, ": line {}", self.line)?;
        } else {
            write!(f, " ({})", OneLine(&self.subject))?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", OneLine(&self.field))?;
        }
        write!(f, ": {}", OneLine(&self.reason))
    }
}

/// A text whose control characters cannot break the line that it is written in.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.chars().any(char::is_control) {
            return f.write_str(self.0);
        }
        for c in self.0.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?
            } else {
                write!(f, "{c}")?
            }
        }
        Ok(())
    }
}

/// Where a document stands. The order is that of paths, then of documents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DocumentPlace {
    pub(super) file: Arc<str>,
    pub(super) document: usize,
    pub(super) item: Option<usize>,
    /// Position in the file, items of lists included: no two documents share it.
    pub(super) position: usize,
    pub(super) line: usize,
}

impl fmt::Display for DocumentPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", OneLine(&self.file), self.document)?;
        self.item.map_or(Ok(()), |item| write!(f, ", item {item}"))
    }
}
