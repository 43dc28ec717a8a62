//! Gives every label key and value a number, so that labels are compared and stored as numbers.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// The number of a string in one [`Interner`]; equal symbols of one interner mean equal strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(u32);

impl Symbol {
    /// The number itself: dense from 0, reused after [`Interner::sweep`].
    pub fn number(self) -> u32 {
        self.0
    }
}

/// A table of distinct strings.
///
/// Strings stay until [`Interner::sweep`]; their owner calls it now and then, so that the labels of pods long
/// gone do not pile up.
#[derive(Default)]
pub struct Interner {
    /// By number; none where a string was swept away.
    strings: Vec<Option<Box<str>>>,
    /// The numbers by the hash of their string. Seeded hashing: the strings are the users'.
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
    free: Vec<u32>,
}

impl Interner {
    /// An empty table.
    pub fn new() -> Self {
        Interner::default()
    }

    /// The symbol of `text`, which is remembered if it is new.
    pub fn intern(&mut self, text: &str) -> Symbol {
        let hash = self.hasher.hash_one(text);
        let strings = &self.strings;
        if let Some(number) = self
            .numbers
            .find(hash, |number| string_of(strings, *number) == Some(text))
        {
            return Symbol(*number);
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.strings.push(None);
                // More than 2^32 strings do not fit in memory.
                (self.strings.len() - 1) as u32
            }
        };
        if let Some(slot) = self.strings.get_mut(number as usize) {
            *slot = Some(text.into());
        }
        let (strings, hasher) = (&self.strings, &self.hasher);
        self.numbers.insert_unique(hash, number, |other| {
            hasher.hash_one(string_of(strings, *other).unwrap_or_default())
        });
        Symbol(number)
    }

    /// The symbol of `text`, if it has one.
    pub fn find(&self, text: &str) -> Option<Symbol> {
        let hash = self.hasher.hash_one(text);
        let found = self
            .numbers
            .find(hash, |number| string_of(&self.strings, *number) == Some(text));
        found.map(|number| Symbol(*number))
    }

    /// The string of a symbol; empty if the symbol is not of this interner or was swept away.
    pub fn resolve(&self, symbol: Symbol) -> &str {
        string_of(&self.strings, symbol.0).unwrap_or_default()
    }

    /// How many strings are held.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether no string is held.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Forgets every string that `in_use` denies, and returns how many these were.
    ///
    /// Their numbers are given again, so `in_use` must be true of every symbol that anybody still holds
    /// ([`MatchIndex::for_each_symbol`](super::MatchIndex::for_each_symbol) names those of an index). Takes time
    /// proportional to the table.
    pub fn sweep(&mut self, mut in_use: impl FnMut(Symbol) -> bool) -> usize {
        let before = self.free.len();
        let (strings, free) = (&mut self.strings, &mut self.free);
        self.numbers.retain(|number| {
            if in_use(Symbol(*number)) {
                return true;
            }
            if let Some(slot) = strings.get_mut(*number as usize) {
                *slot = None;
            }
            free.push(*number);
            false
        });
        self.free.len() - before
    }
}

fn string_of(strings: &[Option<Box<str>>], number: u32) -> Option<&str> {
    strings.get(number as usize)?.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_have_one_symbol() {
        let mut interner = Interner::new();
        let (a, empty, again) = (interner.intern("a"), interner.intern(""), interner.intern("a"));
        assert_eq!(a, again);
        assert_ne!(a, empty);
        assert_eq!(
            (interner.resolve(a), interner.resolve(empty), interner.len()),
            ("a", "", 2)
        );
        assert_eq!((interner.find("a"), interner.find("b")), (Some(a), None));
    }

    #[test]
    fn a_sweep_forgets_what_nobody_uses_and_reuses_its_numbers() {
        let mut interner = Interner::new();
        let symbols: Vec<Symbol> = (0..1000).map(|n| interner.intern(&format!("s{n}"))).collect();
        let kept = symbols[500];
        assert_eq!(interner.sweep(|symbol| symbol == kept), 999);
        assert_eq!(
            (interner.len(), interner.resolve(kept), interner.find("s1")),
            (1, "s500", None)
        );
        for n in 0..1000 {
            let symbol = interner.intern(&format!("t{n}"));
            assert_eq!(interner.resolve(symbol), format!("t{n}"));
            assert_ne!(symbol, kept);
            assert!(symbol.number() <= 1000);
        }
        assert_eq!(interner.intern("s500"), kept);
    }
}
