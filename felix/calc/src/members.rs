//! What things with labels contribute to the sets, and when that makes a member come or go.
//!
//! An address may be on several things (two pods for a moment, a pod and a network set for good), and is a member as
//! long as one of them contributes it. No count is kept of that: whether another thing contributes the same member
//! is asked of the index and the table of holders at the moment of the change, which costs nothing for the
//! addresses, nearly all, that have one holder.

use crate::atoms::{Atom, Atoms};
use crate::items::{Item, Items, NamedPort};
use crate::shared_lists::SharedLists;
use dataplane_api::{AtomId, AtomScope, Member, PortKey};
use ipnet::IpNet;
use policy_model_rules::AddressSet;
use policy_model_selector::index::{Interner, ItemId, Label, MatchChange, ParentId, SelectorId, Transition};

impl Atom {
    /// Calls `visit` with every member that a matching item contributes, each once.
    fn contributions(&self, item: &Item, ports: &SharedLists<NamedPort>, mut visit: impl FnMut(Member)) {
        if self.scope == AtomScope::Own && !item.own {
            return;
        }
        match &*self.set {
            AddressSet::Selected(_) => item.nets.iter().for_each(|net| visit(Member::Net(net))),
            AddressSet::NamedPort { name, protocol, .. } => {
                let is_it = |port: &&NamedPort| *port.name == **name && port.protocol == *protocol;
                for port in ports.get(item.ports).iter().filter(is_it) {
                    let key = PortKey {
                        protocol: port.protocol,
                        port: port.port,
                    };
                    item.nets
                        .addresses()
                        .for_each(|address| visit(Member::Port(address, key)));
                }
            }
            AddressSet::Nets(_) | AddressSet::Service { .. } => {}
        }
    }
}

impl Atoms {
    /// Makes an item known with its labels, or changes the labels of one whose networks, ports and place stay.
    pub(crate) fn set_labels(
        &mut self,
        interner: &Interner,
        items: &Items,
        item: ItemId,
        labels: &[Label],
        parents: &[ParentId],
    ) {
        let mut changes = std::mem::take(&mut self.changes);
        self.index.set_item(interner, item, labels, parents, &mut changes);
        self.follow(interner, items, &mut changes);
        self.changes = changes;
    }

    /// Gives a parent other labels.
    pub(crate) fn set_parent_labels(
        &mut self,
        interner: &Interner,
        items: &Items,
        parent: ParentId,
        labels: &[Label],
    ) {
        let mut changes = std::mem::take(&mut self.changes);
        self.index
            .set_parent_labels(interner, parent, labels, &mut changes);
        self.follow(interner, items, &mut changes);
        self.changes = changes;
    }

    /// Forgets an item, which must still be among the items.
    pub(crate) fn remove_item(&mut self, interner: &Interner, items: &Items, item: ItemId) {
        let mut changes = std::mem::take(&mut self.changes);
        self.index.remove_item(interner, item, &mut changes);
        self.follow(interner, items, &mut changes);
        self.changes = changes;
    }

    /// Takes away all that an item contributes, before its networks, ports or place change.
    pub(crate) fn withdraw(&mut self, interner: &Interner, items: &Items, item: ItemId) {
        self.contribute_all(interner, items, item, Transition::Stopped);
    }

    /// Adds all that an item contributes, after [`Atoms::withdraw`] and the change.
    pub(crate) fn contribute(&mut self, interner: &Interner, items: &Items, item: ItemId) {
        self.contribute_all(interner, items, item, Transition::Started);
    }

    /// Changes an item's labels between [`Atoms::withdraw`] and [`Atoms::contribute`].
    pub(crate) fn set_labels_quietly(
        &mut self,
        interner: &Interner,
        item: ItemId,
        labels: &[Label],
        parents: &[ParentId],
    ) {
        self.index
            .set_item(interner, item, labels, parents, &mut self.changes);
        self.changes.clear();
    }

    /// All members of a new set, sorted, none twice.
    pub(crate) fn all_members(
        &self,
        interner: &Interner,
        items: &Items,
        id: AtomId,
        selector: SelectorId,
    ) -> Vec<Member> {
        let Some(atom) = self.by_id.get(&id) else {
            return Vec::new();
        };
        let mut members = Vec::new();
        for item in self.index.items_of(interner, selector) {
            if let Some(item) = items.get(item) {
                atom.contributions(item, &items.ports, |member| members.push(member));
            }
        }
        members.sort_unstable();
        members.dedup();
        members.shrink_to_fit();
        members
    }

    fn contribute_all(&mut self, interner: &Interner, items: &Items, item: ItemId, transition: Transition) {
        if self.index.selector_count() == 0 {
            return;
        }
        for selector in self.index.selectors_of(interner, item) {
            let change = MatchChange {
                selector,
                item,
                transition,
            };
            self.follow_one(interner, items, change, &[]);
        }
    }

    /// Turns matches that began and ended into members that came and left.
    fn follow(&mut self, interner: &Interner, items: &Items, changes: &mut Vec<MatchChange>) {
        // Sorted, what is still ahead can be looked up (see `contributes`).
        changes.sort_unstable();
        for (place, change) in changes.iter().enumerate() {
            let ahead = changes.get(place + 1..).unwrap_or_default();
            self.follow_one(interner, items, *change, ahead);
        }
        changes.clear();
    }

    fn follow_one(&mut self, interner: &Interner, items: &Items, change: MatchChange, ahead: &[MatchChange]) {
        let Some(item) = items.get(change.item) else {
            return;
        };
        let Some(selecting) = self.selectors.get(change.selector.0) else {
            return;
        };
        for id in selecting.atoms.clone() {
            let mut members: smallvec::SmallVec<[Member; 4]> = smallvec::SmallVec::new();
            let Some(atom) = self.by_id.get(&id).filter(|atom| atom.announced) else {
                continue;
            };
            atom.contributions(item, &items.ports, |member| members.push(member));
            members.retain(|member| !self.others_contribute(interner, items, atom, *member, change, ahead));
            let Some(atom) = self.by_id.get_mut(&id) else {
                continue;
            };
            for member in members {
                if atom.pending.is_empty() {
                    self.changed.push(id);
                }
                // What comes and goes between two flushes never was.
                if atom.pending.remove(&member).is_none() {
                    atom.pending
                        .insert(member, change.transition == Transition::Started);
                }
            }
        }
    }

    /// Whether another item than that of the change contributes the member.
    ///
    /// The index already knows all of a batch, so a match that is still `ahead` counts as it was before.
    fn others_contribute(
        &self,
        interner: &Interner,
        items: &Items,
        atom: &Atom,
        member: Member,
        change: MatchChange,
        ahead: &[MatchChange],
    ) -> bool {
        let net = match member {
            Member::Net(net) => net,
            Member::Port(address, _) => IpNet::from(address),
        };
        items.holders_of(net).any(|(other, holder)| {
            if other == change.item {
                return false;
            }
            let mut contributes = false;
            atom.contributions(holder, &items.ports, |candidate| {
                contributes |= candidate == member
            });
            if !contributes {
                return false;
            }
            let is_ahead = ahead
                .binary_search_by(|c| (c.selector, c.item).cmp(&(change.selector, other)))
                .is_ok();
            self.index.is_match(interner, change.selector, other) != is_ahead
        })
    }
}
