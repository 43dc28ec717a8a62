//! The sets of addresses that active rules refer to: one number for each, as long as a rule needs it.
//!
//! Equal sets share a number, so ten thousand policies that allow from the same label cost one set. Nothing is done
//! for a set before the flush that announces it, and nothing for one that was never announced: the snapshot at the
//! start therefore fills every set once, from the index, instead of following each endpoint as it arrives.

use crate::items::Items;
use crate::sequence::Sequence;
use crate::services::{ServiceKey, Services};
use crate::table::Table;
use dataplane_api::{AtomId, AtomScope, Member, Update};
use hashbrown::HashMap;
use policy_model_rules::AddressSet;
use policy_model_selector::Selector;
use policy_model_selector::index::{Interner, MatchChange, MatchIndex, SelectorId};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::HashMap as StdHashMap;
use std::sync::Arc;

/// One set.
pub(crate) struct Atom {
    pub(crate) set: Arc<AddressSet>,
    pub(crate) scope: AtomScope,
    /// How many places in active rules refer to it.
    uses: usize,
    source: Source,
    /// Whether the hands know it; only then are its changes followed.
    pub(crate) announced: bool,
    /// What changed since the last flush: true for members that came, false for those that left.
    pub(crate) pending: FxHashMap<Member, bool>,
}

/// Where the members of a set come from.
enum Source {
    /// From the set itself; they do not change.
    Fixed,
    /// From the index.
    Selector(SelectorId),
    /// From a Service; with the members that the hands know, sorted.
    Service(Vec<Member>),
}

/// The sets of one selector, which the index knows by one number.
#[derive(Default)]
pub(crate) struct Selecting {
    pub(crate) atoms: SmallVec<[AtomId; 2]>,
}

/// All sets, with the index that says what they hold.
#[derive(Default)]
pub(crate) struct Atoms {
    pub(crate) by_id: FxHashMap<AtomId, Atom>,
    peers: HashMap<Arc<AddressSet>, AtomId>,
    owns: HashMap<Arc<AddressSet>, AtomId>,
    last: u32,
    created: Vec<AtomId>,
    /// Sets that lost their last use since the last flush; they may have been taken into use again.
    idle: Vec<AtomId>,
    /// Announced sets with pending members.
    pub(crate) changed: Vec<AtomId>,
    pub(crate) index: MatchIndex,
    pub(crate) selectors: Table<Selecting>,
    by_selector: HashMap<Selector, SelectorId>,
    pub(crate) services: Services,
    of_services: StdHashMap<ServiceKey, SmallVec<[AtomId; 2]>>,
    /// Kept for its memory.
    pub(crate) changes: Vec<MatchChange>,
}

impl Atoms {
    /// The number of a set; each call makes one more use of it.
    pub(crate) fn acquire(&mut self, set: &AddressSet, scope: AtomScope) -> AtomId {
        let known = self.of_scope(scope).get(set).copied();
        if let Some(id) = known {
            if let Some(atom) = self.by_id.get_mut(&id) {
                atom.uses += 1;
            }
            return id;
        }
        self.last += 1;
        let id = AtomId(self.last);
        let set = Arc::new(set.clone());
        self.of_scope(scope).insert(set.clone(), id);
        let atom = Atom {
            set,
            scope,
            uses: 1,
            source: Source::Fixed,
            announced: false,
            pending: FxHashMap::default(),
        };
        self.by_id.insert(id, atom);
        self.created.push(id);
        id
    }

    /// One use less.
    pub(crate) fn release(&mut self, id: AtomId) {
        if let Some(atom) = self.by_id.get_mut(&id) {
            atom.uses -= 1;
            if atom.uses == 0 {
                self.idle.push(id);
            }
        }
    }

    /// What a number stands for.
    pub(crate) fn set_of(&self, id: AtomId) -> Option<&Arc<AddressSet>> {
        self.by_id.get(&id).map(|atom| &atom.set)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// How many different selectors the sets need.
    pub(crate) fn selector_count(&self) -> usize {
        self.index.selector_count()
    }

    fn of_scope(&mut self, scope: AtomScope) -> &mut HashMap<Arc<AddressSet>, AtomId> {
        match scope {
            AtomScope::Peer => &mut self.peers,
            AtomScope::Own => &mut self.owns,
        }
    }

    /// Forgets the sets that nobody uses, announces new ones, and tells what changed in the others.
    pub(crate) fn settle(&mut self, interner: &mut Interner, items: &Items, out: &mut Sequence) {
        for id in std::mem::take(&mut self.idle) {
            self.drop_if_unused(interner, id, out);
        }
        for id in std::mem::take(&mut self.created) {
            self.announce(interner, items, id, out);
        }
        for service in self.services.take_changed() {
            for id in self.of_services.get(&service).cloned().unwrap_or_default() {
                self.refresh_service(id, out);
            }
        }
        for id in std::mem::take(&mut self.changed) {
            let Some(atom) = self.by_id.get_mut(&id) else {
                continue;
            };
            let (mut added, mut removed) = (Vec::new(), Vec::new());
            for (member, came) in std::mem::take(&mut atom.pending) {
                if came {
                    added.push(member)
                } else {
                    removed.push(member)
                }
            }
            if !(added.is_empty() && removed.is_empty()) {
                added.sort_unstable();
                removed.sort_unstable();
                out.atoms.push(Update::Members {
                    atom: id,
                    added,
                    removed,
                });
            }
        }
    }

    fn drop_if_unused(&mut self, interner: &mut Interner, id: AtomId, out: &mut Sequence) {
        if self.by_id.get(&id).is_none_or(|atom| atom.uses > 0) {
            return;
        }
        let Some(atom) = self.by_id.remove(&id) else {
            return;
        };
        self.of_scope(atom.scope).remove(&*atom.set);
        match (&atom.source, &*atom.set) {
            (Source::Selector(selector), _) => self.detach(interner, *selector, id),
            (Source::Service(_), AddressSet::Service { namespace, name, .. }) => {
                let service = (namespace.as_str().into(), name.as_str().into());
                if let Some(atoms) = self.of_services.get_mut(&service) {
                    atoms.retain(|other| *other != id);
                    if atoms.is_empty() {
                        self.of_services.remove(&service);
                    }
                }
            }
            _ => {}
        }
        if atom.announced {
            out.gone_atoms.push(Update::AtomRemoved(id));
        }
    }

    fn announce(&mut self, interner: &mut Interner, items: &Items, id: AtomId, out: &mut Sequence) {
        let Some(atom) = self.by_id.get(&id) else { return };
        let (set, scope) = (atom.set.clone(), atom.scope);
        let (source, added) = match &*set {
            AddressSet::Nets(nets) => {
                let mut members: Vec<Member> = nets.iter().map(|net| Member::Net(net.trunc())).collect();
                members.sort_unstable();
                members.dedup();
                (Source::Fixed, members)
            }
            AddressSet::Selected(selector) | AddressSet::NamedPort { selector, .. } => {
                let selector = self.attach(interner, selector, id);
                (
                    Source::Selector(selector),
                    self.all_members(interner, items, id, selector),
                )
            }
            AddressSet::Service {
                namespace,
                name,
                with_ports,
            } => {
                let service = (namespace.as_str().into(), name.as_str().into());
                self.of_services.entry(service).or_default().push(id);
                let members = self.services.members(namespace, name, *with_ports);
                (Source::Service(members.clone()), members)
            }
        };
        if let Some(atom) = self.by_id.get_mut(&id) {
            atom.source = source;
            atom.announced = true;
        }
        out.atoms.push(Update::AtomCreated { atom: id, scope });
        if !added.is_empty() {
            out.atoms.push(Update::Members {
                atom: id,
                added,
                removed: Vec::new(),
            });
        }
    }

    fn attach(&mut self, interner: &mut Interner, selector: &Selector, atom: AtomId) -> SelectorId {
        let id = match self.by_selector.get(selector) {
            Some(id) => *id,
            None => {
                let id = SelectorId(self.selectors.insert(Selecting::default()));
                self.by_selector.insert(selector.clone(), id);
                // No set of this selector was announced, so nobody follows the changes.
                self.changes.clear();
                self.index.add_selector(interner, id, selector, &mut self.changes);
                self.changes.clear();
                id
            }
        };
        if let Some(selecting) = self.selectors.get_mut(id.0) {
            selecting.atoms.push(atom);
        }
        id
    }

    fn detach(&mut self, interner: &mut Interner, id: SelectorId, atom: AtomId) {
        let Some(selecting) = self.selectors.get_mut(id.0) else {
            return;
        };
        selecting.atoms.retain(|other| *other != atom);
        if !selecting.atoms.is_empty() {
            return;
        }
        self.selectors.remove(id.0);
        if let Some(selector) = self.index.selector(id).cloned() {
            self.by_selector.remove(&selector);
        }
        self.changes.clear();
        self.index.remove_selector(interner, id, &mut self.changes);
        self.changes.clear();
    }

    /// Tells how a Service's set differs from what the hands know.
    fn refresh_service(&mut self, id: AtomId, out: &mut Sequence) {
        let Some(atom) = self.by_id.get_mut(&id) else {
            return;
        };
        let (
            AddressSet::Service {
                namespace,
                name,
                with_ports,
            },
            Source::Service(known),
        ) = (&*atom.set, &mut atom.source)
        else {
            return;
        };
        let now = self.services.members(namespace, name, *with_ports);
        let missing = |here: &[Member], there: &[Member]| -> Vec<Member> {
            here.iter()
                .filter(|member| there.binary_search(member).is_err())
                .copied()
                .collect()
        };
        let (added, removed) = (missing(&now, known), missing(known, &now));
        *known = now;
        if !(added.is_empty() && removed.is_empty()) {
            out.atoms.push(Update::Members {
                atom: id,
                added,
                removed,
            });
        }
    }
}
