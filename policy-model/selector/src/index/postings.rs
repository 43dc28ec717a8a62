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
                let Some(place) = place_of(list, &number) else {
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

/// Where a number that is not in a sorted list belongs; mostly at the end, since numbers are given in order.
fn place_of<T: Ord>(list: &[T], number: &T) -> Option<usize> {
    if list.last().is_none_or(|last| last < number) {
        return Some(list.len());
    }
    list.binary_search(number).err()
}

fn split(number: u32) -> (u16, u16) {
    ((number >> 16) as u16, number as u16)
}

fn insert_into(ranges: &mut Vec<Range>, number: u32) -> bool {
    let (upper, lower) = split(number);
    if let Some(last) = ranges.last_mut()
        && last.upper == upper
    {
        return last.members.insert(lower);
    }
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
                let Some(place) = place_of(list, &lower) else {
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

/// Number of a label that somebody carries: half the bytes of the label itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LabelNumber(pub(super) u32);

/// From a label to those that carry it.
#[derive(Default)]
pub(super) struct Holders {
    keys: FxHashMap<Symbol, KeyHolders>,
    /// By number; the numbers of labels that nobody carries any more are given again.
    labels: Vec<(Label, Posting)>,
    free: Vec<LabelNumber>,
}

/// The holders of one key.
#[derive(Default)]
struct KeyHolders {
    values: FxHashMap<Symbol, LabelNumber>,
    /// How many hold the key, whatever the value.
    count: usize,
}

impl Holders {
    fn insert(&mut self, label: Label, holder: u32) -> LabelNumber {
        let of_key = self.keys.entry(label.0).or_default();
        let number = *of_key.values.entry(label.1).or_insert_with(|| {
            let entry = (label, Posting::default());
            match self.free.pop() {
                Some(number) => {
                    if let Some(slot) = self.labels.get_mut(number.0 as usize) {
                        *slot = entry;
                    }
                    number
                }
                None => {
                    self.labels.push(entry);
                    // More than 2^32 labels do not fit in memory.
                    LabelNumber((self.labels.len() - 1) as u32)
                }
            }
        });
        if let Some((_, posting)) = self.labels.get_mut(number.0 as usize)
            && posting.insert(holder)
        {
            of_key.count += 1;
        }
        number
    }

    fn remove(&mut self, number: LabelNumber, holder: u32) {
        let Some(((key, value), posting)) = self.labels.get_mut(number.0 as usize) else {
            return;
        };
        if !posting.remove(holder) {
            return;
        }
        let Some(of_key) = self.keys.get_mut(key) else {
            return;
        };
        of_key.count -= 1;
        if posting.is_empty() {
            of_key.values.remove(value);
            self.free.push(number);
            // Keys with a value per pod would otherwise keep a table of the largest size ever.
            if of_key.values.len() * 8 < of_key.values.capacity() {
                of_key.values.shrink_to(of_key.values.len() * 2);
            }
        }
        if of_key.values.is_empty() {
            self.keys.remove(key);
        }
    }

    /// What a number stands for.
    pub(super) fn label(&self, number: LabelNumber) -> Option<Label> {
        self.labels.get(number.0 as usize).map(|(label, _)| *label)
    }

    fn number_of(&self, (key, value): Label) -> Option<LabelNumber> {
        self.keys.get(&key)?.values.get(&value).copied()
    }

    /// Those with this label; none if nobody has it.
    pub(super) fn of(&self, label: Label) -> Option<&Posting> {
        let number = self.number_of(label)?;
        self.labels.get(number.0 as usize).map(|(_, posting)| posting)
    }

    /// How many have this key, each once.
    pub(super) fn count_of_key(&self, key: Symbol) -> usize {
        self.keys.get(&key).map_or(0, |of_key| of_key.count)
    }

    /// Those with this key: one posting for each of its values.
    pub(super) fn of_key(&self, key: Symbol) -> impl Iterator<Item = &Posting> {
        let numbers = self
            .keys
            .get(&key)
            .into_iter()
            .flat_map(|of_key| of_key.values.values());
        numbers.filter_map(|number| self.labels.get(number.0 as usize).map(|(_, posting)| posting))
    }

    /// Moves `holder` from its `old` labels to its `new` ones; both are sorted by key, with each key once.
    pub(super) fn replace(&mut self, holder: u32, old: &[Label], new: &[Label]) {
        for label in old.iter().filter(|label| new.binary_search(label).is_err()) {
            if let Some(number) = self.number_of(*label) {
                self.remove(number, holder);
            }
        }
        for label in new {
            if old.binary_search(label).is_err() {
                self.insert(*label, holder);
            }
        }
    }

    /// The same for one whose labels are kept as numbers; appends the numbers of the new ones.
    pub(super) fn exchange(
        &mut self,
        holder: u32,
        old: impl Iterator<Item = LabelNumber>,
        new: &[Label],
        numbers: &mut Vec<u32>,
    ) {
        for number in old {
            if self
                .label(number)
                .is_none_or(|label| new.binary_search(&label).is_err())
            {
                self.remove(number, holder);
            }
        }
        // Entering a label that the holder has already changes nothing.
        numbers.extend(new.iter().map(|label| self.insert(*label, holder).0));
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
