//! Which numbers a group has, and which interfaces are behind each.
//!
//! A group has one number, but for a while it may have several: interfaces that come to it from different groups may
//! have to go on answering differently to packets that hold the number of an address which has just left it.

use dataplane_tables::GroupId;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeSet;

/// Numbers of the groups of one direction.
#[derive(Debug, Default)]
pub(super) struct Groups {
    of_group: FxHashMap<GroupId, Vec<u32>>,
    numbers: FxHashMap<u32, Number>,
    /// Groups with several numbers.
    split: BTreeSet<GroupId>,
    next: u32,
}

/// A number that interfaces lead to.
#[derive(Debug, Default)]
pub(super) struct Number {
    /// Unknown for a number that an earlier life left, until the first pass.
    pub(super) group: Option<GroupId>,
    pub(super) members: FxHashSet<String>,
    /// Until when a packet may be on its way through the chain for an interface that has left.
    frozen_until: u64,
}

impl Groups {
    /// Takes over an interface's place that the kernel has already.
    pub(super) fn adopt(&mut self, number: u32, interface: &str) {
        self.numbers
            .entry(number)
            .or_default()
            .members
            .insert(interface.to_string());
    }

    /// Makes sure that numbers below this one are not given.
    pub(super) fn skip_to(&mut self, number: u32) {
        self.next = self.next.max(number);
    }

    pub(super) fn get(&self, number: u32) -> Option<&Number> {
        self.numbers.get(&number)
    }

    /// The numbers of a group, the first one first.
    pub(super) fn numbers(&self, group: GroupId) -> &[u32] {
        self.of_group.get(&group).map_or(&[], Vec::as_slice)
    }

    /// All groups that have a number, in no order.
    pub(super) fn served(&self) -> impl Iterator<Item = (GroupId, &[u32])> {
        self.of_group.iter().map(|(g, n)| (*g, n.as_slice()))
    }

    pub(super) fn is_served(&self, group: GroupId) -> bool {
        self.of_group.contains_key(&group)
    }

    /// Groups with several numbers, sorted.
    pub(super) fn split(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.split.iter().copied()
    }

    pub(super) fn is_frozen(&self, number: u32, now: u64) -> bool {
        self.numbers.get(&number).is_some_and(|n| n.frozen_until > now)
    }

    /// A number that no group has, and that leads to none yet; `taken` says whether a map of that number is still there.
    pub(super) fn reserve(&mut self, taken: impl Fn(u32) -> bool) -> u32 {
        loop {
            let number = self.next;
            self.next = self.next.wrapping_add(1);
            if !taken(number) && !self.numbers.contains_key(&number) {
                return number;
            }
        }
    }

    /// Lets a number be that of a group.
    pub(super) fn lead(&mut self, number: u32, group: GroupId) {
        self.unlead(number);
        self.numbers.entry(number).or_default().group = Some(group);
        let list = self.of_group.entry(group).or_default();
        list.push(number);
        if list.len() > 1 {
            self.split.insert(group);
        }
    }

    fn unlead(&mut self, number: u32) {
        let Some(group) = self.numbers.get_mut(&number).and_then(|n| n.group.take()) else {
            return;
        };
        let Some(list) = self.of_group.get_mut(&group) else {
            return;
        };
        list.retain(|n| *n != number);
        if list.len() < 2 {
            self.split.remove(&group);
        }
        if list.is_empty() {
            self.of_group.remove(&group);
        }
    }

    /// An interface leaves a number.
    pub(super) fn leave(&mut self, number: u32, interface: &str, until: u64) {
        if let Some(number) = self.numbers.get_mut(&number)
            && number.members.remove(interface)
        {
            number.frozen_until = until;
        }
    }

    /// Interfaces come to a number.
    pub(super) fn enter(&mut self, number: u32, interfaces: impl IntoIterator<Item = String>) {
        if let Some(number) = self.numbers.get_mut(&number) {
            number.members.extend(interfaces);
        }
    }

    /// Takes a number away from its group, and gives back the interfaces that it had.
    pub(super) fn dissolve(&mut self, number: u32) -> Vec<String> {
        self.unlead(number);
        let members = self
            .numbers
            .remove(&number)
            .map(|n| n.members)
            .unwrap_or_default();
        let mut members: Vec<String> = members.into_iter().collect();
        members.sort_unstable();
        members
    }

    /// Numbers without interfaces, sorted.
    pub(super) fn deserted(&self) -> Vec<u32> {
        let mut out: Vec<u32> = self
            .numbers
            .iter()
            .filter(|(_, n)| n.members.is_empty())
            .map(|(n, _)| *n)
            .collect();
        out.sort_unstable();
        out
    }
}
