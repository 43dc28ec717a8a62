//! Interned sets of atom memberships, so that addresses which belong to the same atoms share one small number.

use dataplane_api::{AtomId, PortKey};
use policy_model::Protocol;
use rustc_hash::FxHashMap;
use std::rc::Rc;

/// Membership of an address in one atom; for atoms of named ports, with one protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Membership(u64);

impl Membership {
    /// Plain membership.
    pub fn plain(atom: AtomId) -> Self {
        Membership(u64::from(atom.0) << 32)
    }

    /// Membership with one port.
    pub fn port(atom: AtomId, key: PortKey) -> Self {
        // Protocol numbers start at 1, so a port membership never equals a plain one.
        let port = u64::from(key.protocol.number()) << 16 | u64::from(key.port);
        Membership(u64::from(atom.0) << 32 | port)
    }

    /// The atom.
    pub fn atom(self) -> AtomId {
        AtomId((self.0 >> 32) as u32)
    }

    /// The protocol and port, where there is one.
    pub fn port_key(self) -> Option<PortKey> {
        let protocol = (self.0 >> 16) as u8;
        (protocol != 0).then(|| PortKey {
            protocol: Protocol::from_number(protocol),
            port: self.0 as u16,
        })
    }
}

/// Number of an interned set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SetId(u32);

impl SetId {
    /// The empty set.
    pub(crate) const EMPTY: SetId = SetId(0);
}

/// All sets in use. Numbers of sets that nobody holds are used again.
#[derive(Debug)]
pub(crate) struct Sets {
    by_id: Vec<Slot>,
    by_content: FxHashMap<Rc<[Membership]>, SetId>,
    free: Vec<SetId>,
    /// What a set becomes with one membership more: loading 250,000 addresses walks the same few edges.
    plus: FxHashMap<(SetId, Membership), SetId>,
}

#[derive(Debug)]
struct Slot {
    content: Rc<[Membership]>,
    holders: usize,
}

impl Sets {
    pub(crate) fn new() -> Self {
        let empty: Rc<[Membership]> = Rc::from([]);
        let mut by_content = FxHashMap::default();
        by_content.insert(empty.clone(), SetId::EMPTY);
        // The empty set is held by the table itself for ever.
        Sets {
            by_id: vec![Slot {
                content: empty,
                holders: 1,
            }],
            by_content,
            free: Vec::new(),
            plus: FxHashMap::default(),
        }
    }

    /// The members, sorted.
    pub(crate) fn content(&self, id: SetId) -> &Rc<[Membership]> {
        &self.by_id[id.0 as usize].content
    }

    pub(crate) fn hold(&mut self, id: SetId) {
        self.by_id[id.0 as usize].holders += 1;
    }

    pub(crate) fn release(&mut self, id: SetId) {
        let slot = &mut self.by_id[id.0 as usize];
        slot.holders -= 1;
        if slot.holders == 0 {
            let content = std::mem::replace(&mut slot.content, Rc::from([]));
            self.by_content.remove(&content);
            self.free.push(id);
            // Edges may lead to the number that is now free; they are cheap to find again.
            self.plus.clear();
        }
    }

    /// The set with one membership more. The caller holds the result before it releases anything.
    pub(crate) fn with(&mut self, id: SetId, membership: Membership) -> SetId {
        if let Some(found) = self.plus.get(&(id, membership)) {
            return *found;
        }
        let content = self.content(id);
        let result = match content.binary_search(&membership) {
            Ok(_) => id,
            Err(at) => {
                let mut next = content.to_vec();
                next.insert(at, membership);
                self.intern(next)
            }
        };
        self.plus.insert((id, membership), result);
        result
    }

    /// The set without some memberships. The caller holds the result before it releases anything.
    pub(crate) fn without(&mut self, id: SetId, memberships: &[Membership]) -> SetId {
        let content = self.content(id);
        let left = content.iter().filter(|m| !memberships.contains(m));
        let next: Vec<Membership> = left.copied().collect();
        if next.len() == content.len() {
            id
        } else {
            self.intern(next)
        }
    }

    fn intern(&mut self, content: Vec<Membership>) -> SetId {
        if let Some(id) = self.by_content.get(content.as_slice()) {
            return *id;
        }
        let content: Rc<[Membership]> = content.into();
        let slot = Slot {
            content: content.clone(),
            holders: 0,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.by_id[id.0 as usize] = slot;
                id
            }
            None => {
                self.by_id.push(slot);
                SetId((self.by_id.len() - 1) as u32)
            }
        };
        self.by_content.insert(content, id);
        id
    }
}
