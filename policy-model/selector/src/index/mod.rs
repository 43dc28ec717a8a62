//! Finds, after each change, exactly the matches between selectors and labelled items that started or stopped.
//!
//! A cluster has hundreds of thousands of endpoints and ten thousands of selectors; nothing here looks at all of
//! either because one of them changed. Three things make that so:
//! - labels are pairs of interned symbols, so comparing is comparing numbers ([`Interner`]);
//! - an inverted index from label to items (`postings`) gives a new selector its candidates;
//! - an inverted index from a condition that a selector cannot do without to the selectors (`anchors`) gives a
//!   changed item its candidates, of which those that mention no changed key are skipped.
//!
//! No match is stored: what matched before is evaluated on the labels as they were before. That keeps an item at
//! about a hundred bytes, and leaves no second account of the truth to go wrong.

mod anchors;
mod compiled;
mod digest;
mod interner;
mod labelled;
mod match_index;
mod postings;
mod queries;
mod selector_table;

pub use interner::{Interner, Symbol};
pub use match_index::{MatchChange, MatchIndex, Transition};

/// A label: key and value.
pub type Label = (Symbol, Symbol);

/// A thing with labels, numbered by the owner of the index. Numbers index a table: use small ones, reuse them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(pub u32);

/// Something whose labels items inherit (a namespace, a service account, a profile), numbered like items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParentId(pub u32);

/// A selector, numbered like items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectorId(pub u32);
