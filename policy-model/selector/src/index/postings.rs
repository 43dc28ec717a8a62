//! Which items carry which label: the inverted index, and the compact sets of numbers that it is made of.
//!
//! A label of one pod must cost a few bytes, and one of all pods must not cost a shift of a megabyte when one pod
//! leaves. Small sets are therefore sorted lists, and large ones are cut into ranges of 65,536 numbers, each a
//! list of two bytes a number or a bitmap.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::{Label, Symbol};

/// A set of numbers.
pub(super) enum Posting {
    Few(SmallVec<[u32; 4]>),
    Many(Vec<Range>),
}

/// The members that share their upper 16 bits.
pub(super) struct Range {
    upper: u16,
    members: Members,
}

/// The lower 16 bits of the members of one range.
enum Members {
    List(Vec<u16>),
    Bits { count: u32, words: Vec<u64> },
}

/// Above this a list becomes ranges; below a quarter of it, ranges become a list again.
const FEW: usize = 128;
/// Above this a range's list would be larger than its bitmap of 8 KiB; below half of it, it is a list again.
const LIST: usize = 4096;
const WORDS: usize = (1 << 16) / 64;

impl Default for Posting {
    fn default() -> Self {
        Posting::Few(SmallVec::new())
    }
}

impl Posting {
    /// Adds a number; false if it was there.
    pub(super) fn insert(&mut self, number: u32) -> bool {
        match self {
            Posting::Few(list) => {
                let Err(place) = list.binary_search(&number) else {
                    return false;
                };
                list.insert(place, number);
                if list.len() > FEW {
                    let mut ranges = Vec::new();
                    for member in list.iter() {
                        insert_into(&mut ranges, *member);
                    }
                    *self = Posting::Many(ranges);
                }
                true
            }
            Posting::Many(ranges) => insert_into(ranges, number),
        }
    }

    /// Takes a number out; false if it was not there.
    pub(super) fn remove(&mut self, number: u32) -> bool {
        match self {
            Posting::Few(list) => {
                let Ok(place) = list.binary_search(&number) else {
                    return false;
                };
                list.remove(place);
                true
            }
            Posting::Many(ranges) => {
                let removed = remove_from(ranges, number);
                if removed && ranges.len() <= FEW / 4 && self.len() < FEW / 4 {
                    let mut list = SmallVec::new();
                    self.for_each(|member| list.push(member));
                    list.shrink_to_fit();
                    *self = Posting::Few(list);
                }
                removed
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Posting::Few(list) => list.len(),
            Posting::Many(ranges) => ranges.iter().map(|range| range.members.len()).sum(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Posting::Few(list) => list.is_empty(),
            // Empty ranges are dropped.
            Posting::Many(ranges) => ranges.is_empty(),
        }
    }

    /// Calls `visit` with each number, ascending.
    pub(super) fn for_each(&self, mut visit: impl FnMut(u32)) {
        match self {
            Posting::Few(list) => list.iter().for_each(|member| visit(*member)),
            Posting::Many(ranges) => {
                for range in ranges {
                    let upper = u32::from(range.upper) << 16;
                    range.members.for_each(|lower| visit(upper | u32::from(lower)));
                }
            }
        }
    }

    /// Appends the numbers, ascending.
    pub(super) fn append_to(&self, numbers: &mut Vec<u32>) {
        self.for_each(|number| numbers.push(number));
    }
}

fn split(number: u32) -> (u16, u16) {
    ((number >> 16) as u16, number as u16)
}

fn insert_into(ranges: &mut Vec<Range>, number: u32) -> bool {
    let (upper, lower) = split(number);
    match ranges.binary_search_by_key(&upper, |range| range.upper) {
        Ok(place) => ranges
            .get_mut(place)
            .is_some_and(|range| range.members.insert(lower)),
        Err(place) => {
            ranges.insert(
                place,
                Range {
                    upper,
                    members: Members::List(vec![lower]),
                },
            );
            true
        }
    }
}

fn remove_from(ranges: &mut Vec<Range>, number: u32) -> bool {
    let (upper, lower) = split(number);
    let Ok(place) = ranges.binary_search_by_key(&upper, |range| range.upper) else {
        return false;
    };
    let Some(range) = ranges.get_mut(place) else {
        return false;
    };
    let removed = range.members.remove(lower);
    if range.members.len() == 0 {
        ranges.remove(place);
    }
    removed
}

impl Members {
    fn len(&self) -> usize {
        match self {
            Members::List(list) => list.len(),
            Members::Bits { count, .. } => *count as usize,
        }
    }

    fn insert(&mut self, lower: u16) -> bool {
        match self {
            Members::List(list) => {
                let Err(place) = list.binary_search(&lower) else {
                    return false;
                };
                if list.len() < LIST {
                    list.insert(place, lower);
                    return true;
                }
                let mut words = vec![0; WORDS];
                for member in list.iter().copied().chain([lower]) {
                    set_bit(&mut words, member);
                }
                *self = Members::Bits {
                    count: LIST as u32 + 1,
                    words,
                };
                true
            }
            Members::Bits { count, words } => {
                let added = set_bit(words, lower);
                *count += u32::from(added);
                added
            }
        }
    }

    fn remove(&mut self, lower: u16) -> bool {
        match self {
            Members::List(list) => {
                let Ok(place) = list.binary_search(&lower) else {
                    return false;
                };
                list.remove(place);
                true
            }
            Members::Bits { count, words } => {
                let Some(word) = words.get_mut(usize::from(lower / 64)) else {
                    return false;
                };
                let bit = 1 << (lower % 64);
                if *word & bit == 0 {
                    return false;
                }
                *word &= !bit;
                *count -= 1;
                if (*count as usize) < LIST / 2 {
                    let mut list = Vec::with_capacity(*count as usize);
                    self.for_each(|member| list.push(member));
                    *self = Members::List(list);
                }
                true
            }
        }
    }

    fn for_each(&self, mut visit: impl FnMut(u16)) {
        match self {
            Members::List(list) => list.iter().for_each(|member| visit(*member)),
            Members::Bits { words, .. } => {
                for (place, word) in words.iter().enumerate() {
                    let mut rest = *word;
                    while rest != 0 {
                        visit((place * 64) as u16 + rest.trailing_zeros() as u16);
                        rest &= rest - 1;
                    }
                }
            }
        }
    }
}

fn set_bit(words: &mut [u64], lower: u16) -> bool {
    let Some(word) = words.get_mut(usize::from(lower / 64)) else {
        return false;
    };
    let bit = 1 << (lower % 64);
    let added = *word & bit == 0;
    *word |= bit;
    added
}

/// From a label to those that carry it.
#[derive(Default)]
pub(super) struct Holders {
    keys: FxHashMap<Symbol, KeyHolders>,
}

/// The holders of one key, by its value.
#[derive(Default)]
pub(super) struct KeyHolders {
    pub(super) values: FxHashMap<Symbol, Posting>,
    /// How many hold the key, whatever the value.
    pub(super) count: usize,
}

impl Holders {
    pub(super) fn insert(&mut self, (key, value): Label, holder: u32) {
        let of_key = self.keys.entry(key).or_default();
        if of_key.values.entry(value).or_default().insert(holder) {
            of_key.count += 1;
        }
    }

    pub(super) fn remove(&mut self, (key, value): Label, holder: u32) {
        let Some(of_key) = self.keys.get_mut(&key) else {
            return;
        };
        let Some(posting) = of_key.values.get_mut(&value) else {
            return;
        };
        if !posting.remove(holder) {
            return;
        }
        of_key.count -= 1;
        if posting.is_empty() {
            of_key.values.remove(&value);
            // Keys with a value per pod would otherwise keep a table of the largest size ever.
            if of_key.values.len() * 8 < of_key.values.capacity() {
                of_key.values.shrink_to(of_key.values.len() * 2);
            }
        }
        if of_key.values.is_empty() {
            self.keys.remove(&key);
        }
    }

    /// Those with this label; none if nobody has it.
    pub(super) fn of(&self, (key, value): Label) -> Option<&Posting> {
        self.keys.get(&key)?.values.get(&value)
    }

    /// Those with this key, by its value.
    pub(super) fn of_key(&self, key: Symbol) -> Option<&KeyHolders> {
        self.keys.get(&key)
    }

    /// Moves `holder` from its `old` labels to its `new` ones; both are sorted by key, with each key once.
    pub(super) fn replace(&mut self, holder: u32, old: &[Label], new: &[Label]) {
        for label in old {
            if new.binary_search(label).is_err() {
                self.remove(*label, holder);
            }
        }
        for label in new {
            if old.binary_search(label).is_err() {
                self.insert(*label, holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn members(posting: &Posting) -> Vec<u32> {
        let mut numbers = Vec::new();
        posting.append_to(&mut numbers);
        numbers
    }

    #[test]
    fn every_shape_holds_what_it_was_given() {
        let mut posting = Posting::default();
        let numbers = || {
            (0..20_000u32)
                .map(|n| n * 7 % 20_000)
                .chain([70_000, 65_536, u32::MAX])
        };
        for number in numbers() {
            assert!(posting.insert(number));
            assert!(!posting.insert(number));
        }
        let expected: Vec<u32> = (0..20_000).chain([65_536, 70_000, u32::MAX]).collect();
        assert_eq!(members(&posting), expected);
        assert_eq!(posting.len(), expected.len());
        for (removed, number) in numbers().enumerate() {
            assert!(posting.remove(number));
            assert!(!posting.remove(number));
            assert_eq!(posting.len(), expected.len() - removed - 1);
        }
        assert!(posting.is_empty() && members(&posting).is_empty());
    }

    proptest! {
        #[test]
        fn a_posting_is_a_set(operations in prop::collection::vec((any::<bool>(), 0u32..600), 0..1500), step in 1u32..400) {
            let mut posting = Posting::default();
            let mut set = BTreeSet::new();
            for (insert, number) in operations {
                let number = number * step;
                if insert {
                    prop_assert_eq!(posting.insert(number), set.insert(number));
                } else {
                    prop_assert_eq!(posting.remove(number), set.remove(&number));
                }
                prop_assert_eq!(posting.len(), set.len());
                prop_assert_eq!(posting.is_empty(), set.is_empty());
            }
            prop_assert_eq!(members(&posting), set.into_iter().collect::<Vec<_>>());
        }
    }
}
