//! Remembers what was parsed last, by its text.
//!
//! Validation, compilation and every further policy meet the same few texts again: ten thousand policies often have
//! a handful of selectors between them. What is found is the same selector and not an equal one, so comparing it is
//! cheap too. A selector does not change, so nobody can tell whether one was remembered.

use crate::error::ParseError;
use crate::selector::Selector;
use std::cell::RefCell;
use std::collections::HashMap;

/// With more than this all are forgotten, and those in use are soon there again.
const MANY: usize = 1024;

/// Longer texts are hardly ever met twice, and would hold memory for nothing.
const LONG: usize = 512;

thread_local! {
    static KNOWN: RefCell<HashMap<Box<str>, Selector>> = RefCell::default();
}

/// The selector of a text, parsed by `parse` unless it is known. Faults are not remembered.
pub(crate) fn remembered(
    text: &str,
    parse: impl FnOnce() -> Result<Selector, ParseError>,
) -> Result<Selector, ParseError> {
    if text.len() > LONG {
        return parse();
    }
    if let Some(known) = KNOWN.with_borrow(|known| known.get(text).cloned()) {
        return Ok(known);
    }
    let selector = parse()?;
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= MANY {
            known.clear();
        }
        known.insert(text.into(), selector.clone());
    });
    Ok(selector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_what_was_parsed_and_never_grows_without_end() {
        for n in (0..3 * MANY).chain(0..10) {
            let text = format!("has(key-{n}) ");
            let selector = Selector::parse(&text).unwrap();
            assert_eq!(selector.canonical(), format!("has(key-{n})"));
            assert_eq!(Selector::parse(&text).unwrap(), selector);
        }
        assert!(KNOWN.with_borrow(HashMap::len) <= MANY);
        assert_eq!(Selector::parse("has("), Selector::parse("has("));
        assert!(Selector::parse("has(").is_err());
    }
}
