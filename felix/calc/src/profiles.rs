//! Profiles: what endpoints inherit labels from, and the rules that decide what no tier decided.
//!
//! An endpoint may name a profile that does not exist yet; it then has a number already, so that its labels reach
//! the endpoint when it comes. The hands get a profile that exists and that a local endpoint names.

use crate::atoms::Atoms;
use crate::expansion::{Expansion, Subject, parts};
use crate::sequence::Sequence;
use crate::table::Table;
use crate::waiting::Waiting;
use hashbrown::HashMap;
use policy_model_rules::{AddressSet, CompiledPolicy, PolicyId};
use policy_model_selector::Selector;
use std::sync::Arc;

struct Profile {
    id: PolicyId,
    /// What it is beside its rules; none before it exists.
    subject: Option<Subject>,
    /// How many lists of profiles name it.
    lists: usize,
    /// How many local endpoints name it.
    users: usize,
    exists: bool,
    dirty: bool,
    content: Expansion,
}

/// All profiles by number; the numbers are those of the parents in the index.
#[derive(Default)]
pub(crate) struct Profiles {
    table: Table<Profile>,
    by_name: HashMap<Arc<str>, u32>,
    dirty: Vec<u32>,
    exist: usize,
    in_force: usize,
}

impl Profiles {
    /// The number of a profile, given now if it has none.
    pub(crate) fn number_of(&mut self, name: &str) -> u32 {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let id = PolicyId::profile(name);
        let key = id.name.clone();
        let number = self.table.insert(Profile {
            id,
            subject: None,
            lists: 0,
            users: 0,
            exists: false,
            dirty: false,
            content: Expansion::default(),
        });
        self.by_name.insert(key, number);
        // If nothing comes to refer to it, the next flush takes the number back.
        self.touch(number);
        number
    }

    /// The number of a profile that exists.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        let number = *self.by_name.get(name)?;
        self.table
            .get(number)
            .filter(|profile| profile.exists)
            .map(|_| number)
    }

    pub(crate) fn id(&self, number: u32) -> Option<&PolicyId> {
        self.table.get(number).map(|profile| &profile.id)
    }

    /// Whether a local endpoint names it.
    pub(crate) fn is_used(&self, number: u32) -> bool {
        self.table.get(number).is_some_and(|profile| profile.users > 0)
    }

    pub(crate) fn put(&mut self, number: u32, policy: CompiledPolicy<AddressSet>) {
        if let Some(profile) = self.table.get_mut(number) {
            self.exist += usize::from(!profile.exists);
            profile.exists = true;
            let (subject, rules) = parts(policy);
            profile.subject = Some(subject);
            profile.content.write(Waiting::new(&rules, Selector::clone));
        }
        self.touch(number);
    }

    pub(crate) fn remove(&mut self, number: u32) {
        if let Some(profile) = self.table.get_mut(number) {
            self.exist -= usize::from(profile.exists);
            profile.exists = false;
            profile.content.discard();
        }
        self.touch(number);
    }

    /// Says that a list of profiles names it, or no more.
    pub(crate) fn list(&mut self, number: u32, listed: bool) {
        if let Some(profile) = self.table.get_mut(number) {
            profile.lists = if listed {
                profile.lists + 1
            } else {
                profile.lists.saturating_sub(1)
            };
        }
        self.touch(number);
    }

    /// Says that a local endpoint names it, or no more. Returns whether that was the first, or the last.
    pub(crate) fn employ(&mut self, number: u32, used: bool) -> bool {
        let Some(profile) = self.table.get_mut(number) else {
            return false;
        };
        let before = profile.users;
        profile.users = if used {
            before + 1
        } else {
            before.saturating_sub(1)
        };
        let turned = before == 0 || profile.users == 0;
        if turned {
            self.touch(number);
        }
        turned
    }

    fn touch(&mut self, number: u32) {
        if let Some(profile) = self.table.get_mut(number)
            && !profile.dirty
        {
            profile.dirty = true;
            self.dirty.push(number);
        }
    }

    /// Tells what changed since the last flush.
    pub(crate) fn settle(&mut self, atoms: &mut Atoms, out: &mut Sequence) {
        for number in std::mem::take(&mut self.dirty) {
            let Some(profile) = self.table.get_mut(number) else {
                continue;
            };
            profile.dirty = false;
            let in_force = profile.exists && profile.users > 0;
            let was_in_force = profile.content.is_sent();
            let subject = profile.subject.as_ref().filter(|_| in_force);
            profile.content.settle(subject, profile.exists, atoms, out);
            self.in_force = self.in_force + usize::from(in_force) - usize::from(was_in_force);
            if !profile.exists
                && profile.lists == 0
                && let Some(profile) = self.table.remove(number)
            {
                self.by_name.remove(&profile.id.name);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.exist
    }

    pub(crate) fn in_force(&self) -> usize {
        self.in_force
    }
}
