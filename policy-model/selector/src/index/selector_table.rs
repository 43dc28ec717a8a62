//! The selectors of an index: which of them an item concerns, and whose outcome changed.

use super::anchors::Anchors;
use super::compiled::{Atom, Compiled};
use super::labelled::{Labelled, differing_keys};
use super::match_index::{MatchChange, Transition};
use super::{Interner, ItemId, Label, SelectorId, Symbol};
use crate::selector::Selector;

/// One selector.
pub(super) struct Entry {
    /// Condensed: what is evaluated is the compiled form.
    pub(super) selector: Selector,
    pub(super) compiled: Compiled,
    /// What [`Compiled::anchor`] chose when the selector came; [`Anchors`] knows the selector by it.
    pub(super) anchor: Option<Box<[Atom]>>,
    /// How many items match.
    pub(super) matches: usize,
}

/// All selectors, with the index from labels to them.
#[derive(Default)]
pub(super) struct SelectorTable {
    entries: Vec<Option<Entry>>,
    count: usize,
    pub(super) anchors: Anchors,
    /// Kept for its memory.
    found: Vec<u32>,
    changed: Vec<Symbol>,
}

impl SelectorTable {
    pub(super) fn get(&self, selector: SelectorId) -> Option<&Entry> {
        self.entries.get(selector.0 as usize)?.as_ref()
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten()
    }

    /// Enters a selector under a number that is not taken.
    pub(super) fn insert(
        &mut self,
        id: SelectorId,
        selector: &Selector,
        interner: &mut Interner,
        labelled: &Labelled,
    ) {
        let compiled = Compiled::new(selector, interner);
        let anchor = compiled
            .anchor(&|atom| weight(labelled, atom))
            .map(Vec::into_boxed_slice);
        self.anchors.insert(id.0, anchor.as_deref(), &compiled);
        let place = id.0 as usize;
        if place >= self.entries.len() {
            self.entries.resize_with(place + 1, || None);
        }
        if let Some(slot) = self.entries.get_mut(place) {
            *slot = Some(Entry {
                selector: selector.condensed(),
                compiled,
                anchor,
                matches: 0,
            });
            self.count += 1;
        }
    }

    pub(super) fn remove(&mut self, id: SelectorId) {
        let Some(entry) = self.entries.get_mut(id.0 as usize).and_then(Option::take) else {
            return;
        };
        self.count -= 1;
        self.anchors
            .remove(id.0, entry.anchor.as_deref(), &entry.compiled);
    }

    pub(super) fn set_matches(&mut self, id: SelectorId, matches: usize) {
        if let Some(entry) = self.entries.get_mut(id.0 as usize).and_then(Option::as_mut) {
            entry.matches = matches;
        }
    }

    /// Reports every selector that matches an item with these effective labels, which came or went.
    pub(super) fn report_all(
        &mut self,
        interner: &Interner,
        item: ItemId,
        labels: &[Label],
        transition: Transition,
        changes: &mut Vec<MatchChange>,
    ) {
        self.found.clear();
        self.anchors.candidates(labels, &mut self.found);
        sort_out(&mut self.found);
        for number in &self.found {
            let Some(entry) = self.entries.get_mut(*number as usize).and_then(Option::as_mut) else {
                continue;
            };
            if entry.compiled.evaluate(labels, interner) {
                match transition {
                    Transition::Started => entry.matches += 1,
                    Transition::Stopped => entry.matches -= 1,
                }
                changes.push(MatchChange {
                    selector: SelectorId(*number),
                    item,
                    transition,
                });
            }
        }
    }

    /// Reports every selector whose outcome differs between two sets of effective labels of an item.
    pub(super) fn report_difference(
        &mut self,
        interner: &Interner,
        item: ItemId,
        (old, new): (&[Label], &[Label]),
        changes: &mut Vec<MatchChange>,
    ) {
        differing_keys(old, new, &mut self.changed);
        if self.changed.is_empty() {
            return;
        }
        self.found.clear();
        self.anchors.affected(old, new, &self.changed, &mut self.found);
        sort_out(&mut self.found);
        for number in &self.found {
            let Some(entry) = self.entries.get_mut(*number as usize).and_then(Option::as_mut) else {
                continue;
            };
            if !self
                .changed
                .iter()
                .any(|key| entry.compiled.keys.binary_search(key).is_ok())
            {
                continue;
            }
            let before = entry.compiled.evaluate(old, interner);
            let after = entry.compiled.evaluate(new, interner);
            if before == after {
                continue;
            }
            let transition = if after {
                entry.matches += 1;
                Transition::Started
            } else {
                entry.matches -= 1;
                Transition::Stopped
            };
            changes.push(MatchChange {
                selector: SelectorId(*number),
                item,
                transition,
            });
        }
    }
}

impl Entry {
    /// The items that match, ascending.
    pub(super) fn matching_items(&self, interner: &Interner, labelled: &Labelled) -> Vec<u32> {
        let matches = |number: &u32| {
            labelled
                .item(ItemId(*number))
                .is_some_and(|item| self.compiled.evaluate(&labelled.view(item), interner))
        };
        let Some(anchor) = &self.anchor else {
            let all = labelled.items();
            let selected = all.filter(|(_, item)| self.compiled.evaluate(&labelled.view(item), interner));
            return selected.map(|(number, _)| number).collect();
        };
        let (mut own, mut inherited) = (Vec::new(), Vec::new());
        for atom in anchor {
            append_holders(labelled, *atom, &mut own, &mut inherited);
        }
        if self.compiled.is_its_anchor() {
            // Own labels count whatever the parents say; inherited ones may be overridden.
            sort_out(&mut inherited);
            inherited.retain(matches);
            own.append(&mut inherited);
            sort_out(&mut own);
        } else {
            own.append(&mut inherited);
            sort_out(&mut own);
            own.retain(matches);
        }
        own
    }
}

/// Sorts numbers and drops repetitions.
fn sort_out(numbers: &mut Vec<u32>) {
    if numbers.is_sorted_by(|left, right| left < right) {
        return;
    }
    // The numbers come in ascending runs, which the stable sort merges.
    numbers.sort();
    numbers.dedup();
}

/// Appends the items that carry what the atom wants, and those that inherit it unless they override it.
fn append_holders(labelled: &Labelled, atom: Atom, own: &mut Vec<u32>, inherited: &mut Vec<u32>) {
    let mut parents = Vec::new();
    match atom {
        Atom::Label(label) => {
            if let Some(posting) = labelled.own.of(label) {
                posting.append_to(own);
            }
            if let Some(posting) = labelled.inherited.of(label) {
                posting.append_to(&mut parents);
            }
        }
        Atom::Key(key) => {
            labelled
                .own
                .of_key(key)
                .for_each(|posting| posting.append_to(own));
            let inherited = labelled.inherited.of_key(key);
            inherited.for_each(|posting| posting.append_to(&mut parents));
        }
    }
    for parent in parents {
        if let Some(parent) = labelled.parent(super::ParentId(parent)) {
            parent.children.append_to(inherited);
        }
    }
}

/// How many items meet an atom, about; a key weighs more than a label while there is nothing to count.
fn weight(labelled: &Labelled, atom: Atom) -> usize {
    let children = |posting: &super::postings::Posting| {
        let mut sum = 0;
        posting.for_each(|parent| {
            sum += labelled
                .parent(super::ParentId(parent))
                .map_or(0, |parent| parent.children.len());
        });
        sum
    };
    match atom {
        Atom::Label(label) => {
            1 + labelled.own.of(label).map_or(0, |posting| posting.len())
                + labelled.inherited.of(label).map_or(0, children)
        }
        Atom::Key(key) => {
            let inherited: usize = labelled.inherited.of_key(key).map(children).sum();
            16 + labelled.own.count_of_key(key) + inherited
        }
    }
}
