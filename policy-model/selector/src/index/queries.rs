//! The questions that can be asked of an index; none of them changes it.

use super::match_index::MatchIndex;
use super::{Interner, ItemId, Label, ParentId, SelectorId, Symbol};
use crate::selector::Selector;

impl MatchIndex {
    /// The selectors that match an item, ascending; none for an unknown item.
    pub fn selectors_of(&self, interner: &Interner, item: ItemId) -> Vec<SelectorId> {
        if self.labelled.item(item).is_none() {
            return Vec::new();
        }
        let labels = self.effective_labels(item);
        let mut found = Vec::new();
        self.selectors.anchors.candidates(&labels, &mut found);
        found.sort_unstable();
        found.dedup();
        let ids = found.into_iter().map(SelectorId);
        ids.filter(|id| {
            self.selectors
                .get(*id)
                .is_some_and(|entry| entry.compiled.evaluate(labels.as_slice(), interner))
        })
        .collect()
    }

    /// The items that match a selector, ascending; none for an unknown selector.
    pub fn items_of(&self, interner: &Interner, selector: SelectorId) -> Vec<ItemId> {
        let Some(entry) = self.selectors.get(selector) else {
            return Vec::new();
        };
        entry
            .matching_items(interner, &self.labelled)
            .into_iter()
            .map(ItemId)
            .collect()
    }

    /// Whether the selector matches the item; false if either is unknown.
    pub fn is_match(&self, interner: &Interner, selector: SelectorId, item: ItemId) -> bool {
        let (Some(entry), Some(item)) = (self.selectors.get(selector), self.labelled.item(item)) else {
            return false;
        };
        entry.compiled.evaluate(&self.labelled.view(item), interner)
    }

    /// How many items match a selector, known without looking at any.
    pub fn match_count(&self, selector: SelectorId) -> usize {
        self.selectors.get(selector).map_or(0, |entry| entry.matches)
    }

    /// The labels of an item as selectors see them, inherited ones included, sorted by symbol.
    pub fn effective_labels(&self, item: ItemId) -> Vec<Label> {
        let mut labels = Vec::new();
        if let Some(item) = self.labelled.item(item) {
            self.labelled.effective_of(item, &mut labels);
        }
        labels
    }

    /// The labels that an item carries itself, sorted by symbol.
    pub fn own_labels(&self, item: ItemId) -> impl Iterator<Item = Label> {
        let item = self.labelled.item(item);
        item.into_iter().flat_map(|item| self.labelled.own_labels(item))
    }

    /// The labels that a parent passes on, sorted by symbol.
    pub fn parent_labels(&self, parent: ParentId) -> &[Label] {
        self.labelled.parent_labels(parent)
    }

    /// The selector with this number.
    pub fn selector(&self, id: SelectorId) -> Option<&Selector> {
        self.selectors.get(id).map(|entry| &entry.selector)
    }

    /// Whether the item is known.
    pub fn contains_item(&self, item: ItemId) -> bool {
        self.labelled.item(item).is_some()
    }

    /// How many items there are.
    pub fn item_count(&self) -> usize {
        self.labelled.item_count()
    }

    /// How many selectors there are.
    pub fn selector_count(&self) -> usize {
        self.selectors.len()
    }

    /// Calls `visit` with every symbol that the index holds, many of them repeatedly, for
    /// [`Interner::sweep`]. Takes time proportional to the index.
    pub fn for_each_symbol(&self, mut visit: impl FnMut(Symbol)) {
        let items = self.labelled.items();
        let of_items = items.flat_map(|(_, item)| self.labelled.own_labels(item));
        let of_parents = self
            .labelled
            .parents()
            .flat_map(|parent| parent.labels.iter().copied());
        for (key, value) in of_items.chain(of_parents) {
            visit(key);
            visit(value);
        }
        for entry in self.selectors.entries() {
            entry.compiled.for_each_symbol(&mut visit);
        }
    }
}
