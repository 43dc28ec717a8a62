//! Remembers what was parsed last, by its text, and what was joined last.
//!
//! Validation, compilation and every further policy meet the same few texts again: ten thousand policies often have
//! a handful of selectors between them, and those of a namespace join them with the same selector of the namespace. What
//! is found is the same selector and not an equal one, so comparing it is cheap too. A selector does not change, so
//! nobody can tell whether one was remembered.

use crate::error::ParseError;
use crate::selector::Selector;
use std::cell::RefCell;
use std::collections::HashMap;

/// With more than this all are forgotten, and those in use are soon there again.
const MANY: usize = 1024;

/// The same for what was joined: policies come by namespace, and those of one have few pairs between them.
const MANY_JOINED: usize = 256;

/// Longer texts are hardly ever met twice, and would hold memory for nothing.
const LONG: usize = 512;

thread_local! {
    static KNOWN: RefCell<HashMap<Box<str>, Selector>> = RefCell::default();
    static JOINED: RefCell<HashMap<[Selector; 2], Selector>> = RefCell::default();
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

/// What two selectors select both, made by `join` unless it is known.
pub(crate) fn joined(one: &Selector, other: &Selector, join: impl FnOnce() -> Selector) -> Selector {
    if one.canonical().len() + other.canonical().len() > LONG {
        return join();
    }
    let pair = [one.clone(), other.clone()];
    if let Some(known) = JOINED.with_borrow(|joined| joined.get(&pair).cloned()) {
        return known;
    }
    let selector = join();
    JOINED.with_borrow_mut(|joined| {
        if joined.len() >= MANY_JOINED {
            joined.clear();
        }
        joined.insert(pair, selector.clone());
    });
    selector
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

    #[test]
    fn what_is_joined_is_the_same_each_time_and_never_grows_without_end() {
        let one = Selector::parse("has(one)").unwrap();
        for n in (0..3 * MANY).chain(0..10) {
            let other = Selector::parse(&format!("key == '{n}'")).unwrap();
            let both = one.and(&other);
            assert_eq!(both.canonical(), format!("has(one) && key == \"{n}\""));
            assert!(std::ptr::eq(both.expr(), one.and(&other).expr()));
            assert_ne!(both, other.and(&one));
        }
        assert!(JOINED.with_borrow(HashMap::len) <= MANY_JOINED);
    }
}
