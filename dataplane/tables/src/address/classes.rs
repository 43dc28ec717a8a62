//! Classes of addresses, interned: what their addresses belong to, and how many have them.

use super::ClassId;
use crate::sets::{Membership, SetId, Sets};
use dataplane_api::AtomId;
use policy_model_rules::IpVersion;
use rustc_hash::{FxHashMap, FxHashSet};
use std::rc::Rc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClassKey {
    pub(super) version: IpVersion,
    /// What the address is in by itself. Empty for classes of intervals, and for these alone.
    pub(super) exact: SetId,
    /// What the networks around it are in.
    pub(super) cover: SetId,
}

#[derive(Debug)]
pub(super) struct Class {
    pub(super) key: ClassKey,
    /// How many addresses and intervals have the class; the two world classes are held for ever.
    pub(super) members: usize,
    /// Exact and cover joined, sorted.
    pub(super) content: Rc<[Membership]>,
}

#[derive(Debug)]
pub(super) struct Classes {
    pub(super) sets: Sets,
    pub(super) slots: Vec<Option<Class>>,
    by_key: FxHashMap<ClassKey, ClassId>,
    by_atom: FxHashMap<AtomId, FxHashSet<ClassId>>,
    free: Vec<ClassId>,
    new: Vec<ClassId>,
    gone: Vec<ClassId>,
}

impl Classes {
    pub(super) fn new() -> Self {
        let mut classes = Classes {
            sets: Sets::new(),
            slots: Vec::new(),
            by_key: FxHashMap::default(),
            by_atom: FxHashMap::default(),
            free: Vec::new(),
            new: Vec::new(),
            gone: Vec::new(),
        };
        for version in [IpVersion::V4, IpVersion::V6] {
            let world = classes.of(ClassKey {
                version,
                exact: SetId::EMPTY,
                cover: SetId::EMPTY,
            });
            classes.hold(world);
        }
        classes.new.clear();
        classes
    }

    pub(super) fn get(&self, id: ClassId) -> Option<&Class> {
        self.slots.get(id.0 as usize).and_then(Option::as_ref)
    }

    /// The memberships of a class, sorted; empty for a class that is gone.
    pub(super) fn content(&self, id: ClassId) -> Rc<[Membership]> {
        self.get(id).map_or_else(|| Rc::from([]), |c| c.content.clone())
    }

    /// The classes of what is in an atom, in no order.
    pub(super) fn with(&self, atom: AtomId) -> impl Iterator<Item = ClassId> + '_ {
        self.by_atom.get(&atom).into_iter().flatten().copied()
    }

    pub(super) fn key(&self, id: ClassId) -> ClassKey {
        // A class that is asked for is held by the asker; the fallback is unreachable and denies nothing it should not.
        self.get(id).map_or(
            ClassKey {
                version: IpVersion::V4,
                exact: SetId::EMPTY,
                cover: SetId::EMPTY,
            },
            |c| c.key,
        )
    }

    /// The class of a key, where some address or interval has it.
    pub(super) fn known(&self, key: ClassKey) -> Option<ClassId> {
        self.by_key.get(&key).copied()
    }

    /// The class of a key. It is held by nobody until [`Classes::hold`].
    pub(super) fn of(&mut self, key: ClassKey) -> ClassId {
        if let Some(id) = self.by_key.get(&key) {
            return *id;
        }
        self.sets.hold(key.exact);
        self.sets.hold(key.cover);
        let (exact, cover) = (
            self.sets.content(key.exact).clone(),
            self.sets.content(key.cover).clone(),
        );
        let mut content: Vec<Membership> = exact.iter().chain(cover.iter()).copied().collect();
        content.sort_unstable();
        content.dedup();
        // Most classes have what is already written down once.
        let content: Rc<[Membership]> = match (content == *exact, content == *cover) {
            (true, _) => exact,
            (_, true) => cover,
            _ => content.into(),
        };
        let class = Class {
            key,
            members: 0,
            content,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id.0 as usize] = Some(class);
                id
            }
            None => {
                self.slots.push(Some(class));
                ClassId((self.slots.len() - 1) as u32)
            }
        };
        for membership in self.content(id).iter() {
            self.by_atom.entry(membership.atom()).or_default().insert(id);
        }
        self.by_key.insert(key, id);
        self.new.push(id);
        id
    }

    pub(super) fn hold(&mut self, id: ClassId) {
        if let Some(class) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) {
            class.members += 1;
        }
    }

    pub(super) fn release(&mut self, id: ClassId) {
        let Some(class) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        class.members -= 1;
        if class.members == 0 {
            let key = class.key;
            for membership in self.content(id).iter() {
                // One with several ports stands several times.
                if let Some(classes) = self.by_atom.get_mut(&membership.atom()) {
                    classes.remove(&id);
                    if classes.is_empty() {
                        self.by_atom.remove(&membership.atom());
                    }
                }
            }
            self.slots[id.0 as usize] = None;
            self.by_key.remove(&key);
            self.sets.release(key.exact);
            self.sets.release(key.cover);
            // The number is free only after the batch: whoever maps numbers to something must see it go first.
            self.gone.push(id);
        }
    }

    /// The classes that appeared and those that went since the last call. One that did both is in neither list.
    pub(super) fn take_changes(&mut self) -> (Vec<ClassId>, Vec<ClassId>) {
        let made = std::mem::take(&mut self.new);
        let mut gone = std::mem::take(&mut self.gone);
        self.free.extend(&gone);
        let unknown: FxHashSet<ClassId> = made.iter().filter(|c| self.get(**c).is_none()).copied().collect();
        gone.retain(|c| !unknown.contains(c));
        let mut new: Vec<ClassId> = made.into_iter().filter(|c| self.get(*c).is_some()).collect();
        new.sort_unstable();
        gone.sort_unstable();
        (new, gone)
    }
}
