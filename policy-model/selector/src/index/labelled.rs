//! The labelled things: items with their own labels, parents with what they pass on.
//!
//! An item's labels and parents stand in a boxed slice of four bytes each, and nothing else is kept of it:
//! with 250,000 items each byte is a quarter of a megabyte.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::compiled::{SymbolLabels, value_in};
use super::postings::{Holders, LabelNumber, Posting};
use super::{ItemId, Label, ParentId, Symbol};

/// Whose labels an item inherits, the stronger first, each once.
pub(super) type Parents = SmallVec<[ParentId; 4]>;

/// One item.
#[derive(Default)]
pub(super) struct Item {
    /// Its own labels, sorted by what they stand for, each key once; then its parents.
    numbers: Box<[u32]>,
    /// How many of the numbers are labels.
    labels: u32,
}

impl Item {
    fn labels(&self) -> impl Iterator<Item = LabelNumber> {
        self.numbers
            .iter()
            .take(self.labels as usize)
            .map(|number| LabelNumber(*number))
    }

    /// Whose labels it inherits.
    pub(super) fn parents(&self) -> impl Iterator<Item = ParentId> {
        self.numbers
            .iter()
            .skip(self.labels as usize)
            .map(|number| ParentId(*number))
    }
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

    /// An item's own labels, sorted, each key once.
    pub(super) fn own_labels<'a>(&'a self, item: &'a Item) -> impl Iterator<Item = Label> + 'a {
        item.labels().filter_map(|number| self.own.label(number))
    }

    /// Gives an item these labels (sorted, each key once) and parents.
    pub(super) fn put_item(&mut self, item: ItemId, labels: &[Label], parents: &[ParentId]) {
        let place = item.0 as usize;
        if place >= self.items.len() {
            self.items.resize_with(place + 1, || None);
        }
        let Some(slot) = self.items.get_mut(place) else {
            return;
        };
        self.item_count += usize::from(slot.is_none());
        let old = slot.take().unwrap_or_default();
        let mut numbers = Vec::with_capacity(labels.len() + parents.len());
        self.own.exchange(item.0, old.labels(), labels, &mut numbers);
        let labels = numbers.len() as u32;
        numbers.extend(parents.iter().map(|parent| parent.0));
        move_child(&mut self.parents, item.0, &old, parents);
        *slot = Some(Item {
            numbers: numbers.into_boxed_slice(),
            labels,
        });
    }

    /// Takes an item out.
    pub(super) fn take_item(&mut self, item: ItemId) {
        if let Some(old) = self.items.get_mut(item.0 as usize).and_then(Option::take) {
            self.item_count -= 1;
            self.own.exchange(item.0, old.labels(), &[], &mut Vec::new());
            move_child(&mut self.parents, item.0, &old, &[]);
        }
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
        own: impl IntoIterator<Item = Label>,
        parents: impl IntoIterator<Item = ParentId>,
        labels_of: impl Fn(ParentId) -> &'a [Label],
        effective: &mut Vec<Label>,
    ) {
        effective.clear();
        effective.extend(own);
        let own = effective.len();
        for parent in parents {
            effective.extend_from_slice(labels_of(parent));
        }
        if effective.len() > own {
            // Stable, so of equal keys the strongest stays first, and is the one that is kept.
            effective.sort_by_key(|(key, _)| *key);
            effective.dedup_by_key(|(key, _)| *key);
        }
    }

    /// Writes the labels that an item has now.
    pub(super) fn effective_of(&self, item: &Item, effective: &mut Vec<Label>) {
        let labels_of = |parent| self.parent_labels(parent);
        Labelled::effective(self.own_labels(item), item.parents(), labels_of, effective);
    }
}

/// Makes an item the child of its new parents, and of the others no more.
fn move_child(parents: &mut Vec<Parent>, child: u32, old: &Item, new: &[ParentId]) {
    for parent in old.parents().filter(|parent| !new.contains(parent)) {
        if let Some(parent) = parents.get_mut(parent.0 as usize) {
            parent.children.remove(child);
        }
    }
    for parent in new
        .iter()
        .filter(|parent| old.parents().all(|other| other != **parent))
    {
        parent_slot(parents, *parent).children.insert(child);
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
        let mut own = self.labelled.own_labels(self.item);
        own.find(|(other, _)| *other == key)
            .map(|(_, value)| value)
            .or_else(|| {
                self.item
                    .parents()
                    .find_map(|parent| value_in(self.labelled.parent_labels(parent), key))
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
