//! The operations of the index: each changes one thing and reports exactly the matches that it changed.

use super::labelled::{Item, Labelled, Parents, differing_keys, normalised};
use super::selector_table::SelectorTable;
use super::{Interner, ItemId, Label, ParentId, SelectorId, Symbol};
use crate::selector::Selector;

/// Whether a match began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transition {
    /// The item did not match before and does now.
    Started,
    /// The item matched before and does not now.
    Stopped,
}

/// A match that began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MatchChange {
    /// The selector.
    pub selector: SelectorId,
    /// The item.
    pub item: ItemId,
    /// What happened.
    pub transition: Transition,
}

/// Items, the parents whose labels they inherit, and selectors, with the matches between them.
///
/// An item's own labels override inherited ones, and of its parents the first that has a key gives the value.
/// Every operation appends the matches that it started or stopped to `changes`, each once, and nothing else: an
/// update that repeats what is known appends nothing. The owner gives the numbers, gives equal selectors one
/// number, and uses one [`Interner`] for all symbols of an index.
#[derive(Default)]
pub struct MatchIndex {
    pub(super) labelled: Labelled,
    pub(super) selectors: SelectorTable,
    /// Effective labels before and after, kept for their memory.
    old: Vec<Label>,
    new: Vec<Label>,
}

impl MatchIndex {
    /// An index of nothing.
    pub fn new() -> Self {
        MatchIndex::default()
    }

    /// Makes an item, or gives it other labels and parents.
    ///
    /// `labels` may stand in any order; of a repeated key the first counts. `parents` stand with the strongest
    /// first, and need not have labels yet.
    pub fn set_item(
        &mut self,
        interner: &Interner,
        item: ItemId,
        labels: &[Label],
        parents: &[ParentId],
        changes: &mut Vec<MatchChange>,
    ) {
        let labels = normalised(labels);
        let mut distinct = Parents::new();
        for parent in parents {
            if !distinct.contains(parent) {
                distinct.push(*parent);
            }
        }
        if let Some(old) = self.labelled.item(item)
            && old.parents().eq(distinct.iter().copied())
            && self.labelled.own_labels(old).eq(labels.iter().copied())
        {
            return;
        }
        let quiet = self.selectors.len() == 0;
        if !quiet {
            let parent_labels = |parent| self.labelled.parent_labels(parent);
            Labelled::effective(
                labels.iter().copied(),
                distinct.iter().copied(),
                parent_labels,
                &mut self.new,
            );
            match self.labelled.item(item) {
                None => {
                    self.selectors
                        .report_all(interner, item, &self.new, Transition::Started, changes);
                }
                Some(old) => {
                    self.labelled.effective_of(old, &mut self.old);
                    self.selectors
                        .report_difference(interner, item, (&self.old, &self.new), changes);
                }
            }
        }
        self.labelled.put_item(item, &labels, &distinct);
    }

    /// Forgets an item; one that is not known is no matter.
    pub fn remove_item(&mut self, interner: &Interner, item: ItemId, changes: &mut Vec<MatchChange>) {
        let Some(old) = self.labelled.item(item) else {
            return;
        };
        self.labelled.effective_of(old, &mut self.old);
        self.labelled.take_item(item);
        if self.selectors.len() > 0 {
            self.selectors
                .report_all(interner, item, &self.old, Transition::Stopped, changes);
        }
    }

    /// Gives a parent these labels, in any order; of a repeated key the first counts.
    pub fn set_parent_labels(
        &mut self,
        interner: &Interner,
        parent: ParentId,
        labels: &[Label],
        changes: &mut Vec<MatchChange>,
    ) {
        let labels = normalised(labels);
        if *labels == *self.labelled.parent_labels(parent) {
            return;
        }
        let before = self
            .labelled
            .replace_parent_labels(parent, labels.into_owned().into_boxed_slice());

        let mut changed: Vec<Symbol> = Vec::new();
        differing_keys(&before, self.labelled.parent_labels(parent), &mut changed);
        changed.retain(|key| self.selectors.anchors.mentions(*key));
        if changed.is_empty() {
            return;
        }
        let mut children = Vec::new();
        if let Some(parent) = self.labelled.parent(parent) {
            parent.children.append_to(&mut children);
        }
        for child in children {
            let Some(item) = self.labelled.item(ItemId(child)) else {
                continue;
            };
            if !changed
                .iter()
                .any(|key| inherits_from(&self.labelled, item, parent, *key))
            {
                continue;
            }
            let now = |other| self.labelled.parent_labels(other);
            Labelled::effective(
                self.labelled.own_labels(item),
                item.parents(),
                |other| if other == parent { &before } else { now(other) },
                &mut self.old,
            );
            self.labelled.effective_of(item, &mut self.new);
            self.selectors
                .report_difference(interner, ItemId(child), (&self.old, &self.new), changes);
        }
    }

    /// Takes all labels from a parent. Its children stay its children, should it come back.
    pub fn remove_parent(&mut self, interner: &Interner, parent: ParentId, changes: &mut Vec<MatchChange>) {
        self.set_parent_labels(interner, parent, &[], changes);
    }

    /// Enters a selector, or puts another in the place of the one with this number.
    ///
    /// Replacing reports only the items that one of the two matches and the other does not.
    pub fn add_selector(
        &mut self,
        interner: &mut Interner,
        id: SelectorId,
        selector: &Selector,
        changes: &mut Vec<MatchChange>,
    ) {
        let before = match self.selectors.get(id) {
            Some(entry) if entry.selector == *selector => return,
            Some(entry) => entry.matching_items(interner, &self.labelled),
            None => Vec::new(),
        };
        self.selectors.remove(id);
        self.selectors.insert(id, selector, interner, &self.labelled);
        let Some(entry) = self.selectors.get(id) else {
            return;
        };
        let after = entry.matching_items(interner, &self.labelled);
        self.selectors.set_matches(id, after.len());
        report_missing(id, &before, &after, Transition::Stopped, changes);
        report_missing(id, &after, &before, Transition::Started, changes);
    }

    /// Forgets a selector; one that is not known is no matter.
    pub fn remove_selector(&mut self, interner: &Interner, id: SelectorId, changes: &mut Vec<MatchChange>) {
        let Some(entry) = self.selectors.get(id) else {
            return;
        };
        let before = entry.matching_items(interner, &self.labelled);
        self.selectors.remove(id);
        report_missing(id, &before, &[], Transition::Stopped, changes);
    }
}

/// Whether an item gets, or would get, the value of `key` from this parent.
fn inherits_from(labelled: &Labelled, item: &Item, parent: ParentId, key: Symbol) -> bool {
    let has = |labels: &[Label]| super::compiled::value_in(labels, key).is_some();
    labelled.own_labels(item).all(|(own, _)| own != key)
        && !item
            .parents()
            .take_while(|other| *other != parent)
            .any(|other| has(labelled.parent_labels(other)))
}

/// Reports the members of `here` that are not in `there`; both are sorted.
fn report_missing(
    selector: SelectorId,
    here: &[u32],
    there: &[u32],
    transition: Transition,
    changes: &mut Vec<MatchChange>,
) {
    let mut others = there.iter().peekable();
    for number in here {
        while others.next_if(|other| *other < number).is_some() {}
        if others.peek() != Some(&number) {
            changes.push(MatchChange {
                selector,
                item: ItemId(*number),
                transition,
            });
        }
    }
}
