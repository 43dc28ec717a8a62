//! Which policies select which of this node's endpoints.
//!
//! Policies are matched against local endpoints only, in an index of their own: what a remote endpoint is labelled
//! decides nothing about the policies of this node, and must cost nothing here.

use crate::few::Few;
use crate::locals::Locals;
use crate::policies::Policies;
use crate::table::Table;
use policy_model_selector::Selector;
use policy_model_selector::index::{
    Interner, ItemId, Label, MatchChange, MatchIndex, ParentId, SelectorId, Transition,
};
use std::collections::HashMap;

/// One selector of policies.
#[derive(Default)]
struct Selecting {
    policies: Few<u32>,
    /// The local endpoints that it matches.
    locals: Few<u32>,
}

/// The selectors of policies, each once, and the local endpoints with their labels.
#[derive(Default)]
pub(crate) struct Selection {
    pub(crate) index: MatchIndex,
    selectors: Table<Selecting>,
    by_selector: HashMap<Selector, SelectorId>,
    /// Kept for its memory.
    changes: Vec<MatchChange>,
}

impl Selection {
    /// The number of a selector, which is matched from now on. [`Selection::leave`] gives it back.
    ///
    /// The selector itself is replaced by the equal one that is known already.
    pub(crate) fn enter(&mut self, interner: &mut Interner, selector: &mut Selector) -> SelectorId {
        if let Some((known, id)) = self.by_selector.get_key_value(selector) {
            *selector = known.clone();
            return *id;
        }
        let number = self.selectors.insert(Selecting::default());
        let id = SelectorId(number);
        self.changes.clear();
        self.index.add_selector(interner, id, selector, &mut self.changes);
        // The index keeps it condensed: it evaluates a form of its own.
        if let Some(kept) = self.index.selector(id) {
            *selector = kept.clone();
        }
        self.by_selector.insert(selector.clone(), id);
        if let Some(selecting) = self.selectors.get_mut(number) {
            for change in &self.changes {
                selecting.locals.push(change.item.0);
            }
        }
        self.changes.clear();
        id
    }

    /// Forgets a selector that no policy has.
    pub(crate) fn leave(&mut self, interner: &Interner, id: SelectorId) {
        if self
            .selectors
            .get(id.0)
            .is_none_or(|selecting| !selecting.policies.is_empty())
        {
            return;
        }
        self.selectors.remove(id.0);
        if let Some(selector) = self.index.selector(id) {
            self.by_selector.remove(selector);
        }
        self.index.remove_selector(interner, id, &mut self.changes);
        self.changes.clear();
    }

    /// Links a policy with the endpoints that its selector matches.
    pub(crate) fn add_policy(
        &mut self,
        id: SelectorId,
        policy: u32,
        policies: &mut Policies,
        locals: &mut Locals,
    ) {
        let Some(selecting) = self.selectors.get_mut(id.0) else {
            return;
        };
        selecting.policies.push(policy);
        for local in selecting.locals.as_slice() {
            locals.link(*local, &[policy], policies);
            policies.link(policy, true);
        }
    }

    /// Undoes [`Selection::add_policy`]. The selector stays known.
    pub(crate) fn remove_policy(
        &mut self,
        id: SelectorId,
        policy: u32,
        policies: &mut Policies,
        locals: &mut Locals,
    ) {
        let Some(selecting) = self.selectors.get_mut(id.0) else {
            return;
        };
        selecting.policies.take_out(policy);
        for local in selecting.locals.as_slice() {
            locals.unlink(*local, &[policy]);
            policies.link(policy, false);
        }
    }

    /// Makes a local endpoint known with its labels, or changes them.
    pub(crate) fn set_local(
        &mut self,
        interner: &Interner,
        local: u32,
        (labels, parents): (&[Label], &[ParentId]),
        policies: &mut Policies,
        locals: &mut Locals,
    ) {
        self.index
            .set_item(interner, ItemId(local), labels, parents, &mut self.changes);
        self.follow(policies, locals);
    }

    /// Forgets a local endpoint, which must still be among the local ones.
    pub(crate) fn remove_local(
        &mut self,
        interner: &Interner,
        local: u32,
        policies: &mut Policies,
        locals: &mut Locals,
    ) {
        self.index.remove_item(interner, ItemId(local), &mut self.changes);
        for change in self.changes.drain(..) {
            if let Some(selecting) = self.selectors.get_mut(change.selector.0) {
                selecting.locals.take_out(local);
            }
        }
        // All at once, where following each selector would look at every list again.
        locals
            .remove(local)
            .for_each(|policy| policies.link(policy, false));
    }

    /// Gives a parent other labels.
    pub(crate) fn set_parent_labels(
        &mut self,
        interner: &Interner,
        parent: ParentId,
        labels: &[Label],
        policies: &mut Policies,
        locals: &mut Locals,
    ) {
        self.index
            .set_parent_labels(interner, parent, labels, &mut self.changes);
        self.follow(policies, locals);
    }

    fn follow(&mut self, policies: &mut Policies, locals: &mut Locals) {
        for change in self.changes.drain(..) {
            let Some(selecting) = self.selectors.get_mut(change.selector.0) else {
                continue;
            };
            let local = change.item.0;
            match change.transition {
                Transition::Started => {
                    selecting.locals.push(local);
                    locals.link(local, selecting.policies.as_slice(), policies);
                }
                Transition::Stopped => {
                    selecting.locals.take_out(local);
                    locals.unlink(local, selecting.policies.as_slice());
                }
            }
            for policy in selecting.policies.as_slice() {
                policies.link(*policy, change.transition == Transition::Started);
            }
        }
    }
}
