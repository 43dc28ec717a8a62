//! The labelled things: items with their own labels, parents with what they pass on.
//!
//! Labels stand in sorted boxed slices of eight bytes a label, and nothing else is kept of an item but its
//! parents: with 250,000 items each byte is a quarter of a megabyte.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::compiled::{SymbolLabels, value_in};
use super::postings::{Holders, Posting};
use super::{ItemId, Label, ParentId, Symbol};

/// One item.
pub(super) struct Item {
    /// Its own labels, sorted, each key once.
    pub(super) labels: Box<[Label]>,
    /// Whose labels it inherits, the stronger first, each once.
    pub(super) parents: SmallVec<[ParentId; 4]>,
}

/// One parent. It may have children before it has labels.
#[derive(Default)]
pub(super) struct Parent {
    /// Sorted, each key once.
    pub(super) labels: Box<[Label]>,
    pub(super) children: Posting,
}

/// All items and parents, with the inverted indexes over both.
#[derive(Default)]
pub(super) struct Labelled {
    items: Vec<Option<Item>>,
    item_count: usize,
    parents: Vec<Parent>,
    /// Items by the labels that they carry themselves.
    pub(super) own: Holders,
    /// Parents by their labels.
    pub(super) inherited: Holders,
}

impl Labelled {
    pub(super) fn item(&self, item: ItemId) -> Option<&Item> {
        self.items.get(item.0 as usize)?.as_ref()
    }

    pub(super) fn item_count(&self) -> usize {
        self.item_count
    }

    /// The items with their numbers, ascending.
    pub(super) fn items(&self) -> impl Iterator<Item = (u32, &Item)> {
        self.items
            .iter()
            .enumerate()
            .filter_map(|(number, slot)| Some((number as u32, slot.as_ref()?)))
    }

    pub(super) fn parents(&self) -> impl Iterator<Item = &Parent> {
        self.parents.iter()
    }

    pub(super) fn parent(&self, parent: ParentId) -> Option<&Parent> {
        self.parents.get(parent.0 as usize)
    }

    pub(super) fn parent_labels(&self, parent: ParentId) -> &[Label] {
        self.parent(parent)
            .map(|parent| &*parent.labels)
            .unwrap_or_default()
    }

    /// Puts `new` in the place of an item, or takes the item out, and returns what was there.
    pub(super) fn replace_item(&mut self, item: ItemId, new: Option<Item>) -> Option<Item> {
        let place = item.0 as usize;
        if place >= self.items.len() {
            new.as_ref()?;
            self.items.resize_with(place + 1, || None);
        }
        let slot = self.items.get_mut(place)?;
        let old = std::mem::replace(slot, new);
        let new = slot.as_ref();
        self.item_count = self.item_count + usize::from(new.is_some()) - usize::from(old.is_some());

        let labels = |item: Option<&Item>| item.map(|item| item.labels.len()).unwrap_or_default();
        if labels(old.as_ref()) + labels(new) > 0 {
            let old_labels = old.as_ref().map(|item| &*item.labels).unwrap_or_default();
            let new_labels = new.map(|item| &*item.labels).unwrap_or_default();
            self.own.replace(item.0, old_labels, new_labels);
        }
        let old_parents = old.as_ref().map(|item| &*item.parents).unwrap_or_default();
        let new_parents = new.map(|item| &*item.parents).unwrap_or_default();
        for parent in old_parents.iter().filter(|parent| !new_parents.contains(parent)) {
            if let Some(parent) = self.parents.get_mut(parent.0 as usize) {
                parent.children.remove(item.0);
            }
        }
        for parent in new_parents.iter().filter(|parent| !old_parents.contains(parent)) {
            parent_slot(&mut self.parents, *parent).children.insert(item.0);
        }
        old
    }

    /// Gives a parent these labels (sorted, each key once) and returns those that it had.
    pub(super) fn replace_parent_labels(&mut self, parent: ParentId, new: Box<[Label]>) -> Box<[Label]> {
        if new.is_empty() && self.parent(parent).is_none() {
            return new;
        }
        let slot = parent_slot(&mut self.parents, parent);
        let old = std::mem::replace(&mut slot.labels, new);
        self.inherited.replace(parent.0, &old, &slot.labels);
        old
    }

    /// The labels of an item as selectors see them, looked up on demand.
    pub(super) fn view<'a>(&'a self, item: &'a Item) -> View<'a> {
        View { item, labelled: self }
    }

    /// Writes the labels of an item as selectors see them, sorted; `labels_of` knows the parents'.
    pub(super) fn effective<'a>(
        item: &Item,
        labels_of: impl Fn(ParentId) -> &'a [Label],
        effective: &mut Vec<Label>,
    ) {
        effective.clear();
        effective.extend_from_slice(&item.labels);
        let own = effective.len();
        for parent in &item.parents {
            effective.extend_from_slice(labels_of(*parent));
        }
        if effective.len() > own {
            // Stable, so of equal keys the strongest stays first, and is the one that is kept.
            effective.sort_by_key(|(key, _)| *key);
            effective.dedup_by_key(|(key, _)| *key);
        }
    }
}

fn parent_slot(parents: &mut Vec<Parent>, parent: ParentId) -> &mut Parent {
    let place = parent.0 as usize;
    if place >= parents.len() {
        parents.resize_with(place + 1, Parent::default);
    }
    // In range since the line above.
    &mut parents[place]
}

/// The effective labels of an item without a copy.
pub(super) struct View<'a> {
    item: &'a Item,
    labelled: &'a Labelled,
}

impl SymbolLabels for View<'_> {
    fn value_of(&self, key: Symbol) -> Option<Symbol> {
        value_in(&self.item.labels, key).or_else(|| {
            self.item
                .parents
                .iter()
                .find_map(|parent| value_in(self.labelled.parent_labels(*parent), key))
        })
    }
}

/// Labels as the index keeps them: sorted, and of each key the one that stood first.
pub(super) fn normalised(labels: &[Label]) -> Cow<'_, [Label]> {
    if labels.is_sorted_by(|(left, _), (right, _)| left < right) {
        return Cow::Borrowed(labels);
    }
    let mut sorted = labels.to_vec();
    sorted.sort_by_key(|(key, _)| *key);
    sorted.dedup_by_key(|(key, _)| *key);
    Cow::Owned(sorted)
}

/// Writes the keys in which two sorted sets of labels differ, ascending.
pub(super) fn differing_keys(old: &[Label], new: &[Label], keys: &mut Vec<Symbol>) {
    keys.clear();
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some((key, before)), Some((other, after))) if key == other => {
                if before != after {
                    keys.push(*key);
                }
                old.next();
                new.next();
            }
            (Some((key, _)), Some((other, _))) if key < other => {
                keys.push(*key);
                old.next();
            }
            (Some((key, _)), None) => {
                keys.push(*key);
                old.next();
            }
            (_, Some((other, _))) => {
                keys.push(*other);
                new.next();
            }
            (None, None) => return,
        }
    }
}
