//! Addresses that are no longer known by themselves and stay in their map for a while.
//!
//! A packet reads the number of an address's interval first, and then that of the address itself, which wins. Where both
//! change at once it may meet the interval before the change and the map of addresses after it: it would go on with the
//! number of an interval that the address never was treated by. So, while the intervals of a family are new, an address
//! that goes stays, with the number that its interval has now, until no packet can hold what the interval had before.

use super::retire::Retired;
use super::{GRACE, Planner, push};
use crate::layout::ops::Op;
use crate::layout::skeleton::maps_of;
use crate::wire::{Element, Value};
use std::net::IpAddr;

impl Planner {
    /// Whether a packet may hold a number that the intervals of a family had before they changed.
    pub(super) fn nets_are_new(&self, n: usize, now: u64) -> bool {
        self.nets_changed[n].is_some_and(|at| now < at + GRACE)
    }

    /// What the map shall say of an address that is no longer known by itself; nothing where it may go at once.
    pub(super) fn linger(&mut self, address: IpAddr, now: u64) -> Option<u32> {
        let n = usize::from(address.is_ipv6());
        if !self.nets_are_new(n, now) {
            return None;
        }
        let number = self.number_of_interval(address)?;
        self.lingering[n].insert(address, number);
        Some(number)
    }

    /// The address is known by itself again; returns what the map says of it.
    pub(super) fn come_back(&mut self, address: IpAddr) -> Option<u32> {
        self.lingering[usize::from(address.is_ipv6())].remove(&address)
    }

    /// The addresses that linger, with their numbers.
    pub(crate) fn lingering(&self) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
        self.lingering
            .iter()
            .flatten()
            .map(|(address, number)| (*address, *number))
    }

    /// Those that linger follow their intervals. Returns what changed: address, number before, number after.
    pub(super) fn follow_intervals(&mut self, n: usize, now: u64) -> Vec<(IpAddr, u32, Option<u32>)> {
        if self.lingering[n].is_empty() {
            return Vec::new();
        }
        let mut changed = Vec::new();
        for (address, number) in std::mem::take(&mut self.lingering[n]) {
            let after = self.number_of_interval(address);
            if after != Some(number) {
                changed.push((address, number, after));
            }
            if let Some(after) = after {
                self.lingering[n].insert(address, after);
            }
        }
        let due = self.nets_changed[n].unwrap_or(now) + GRACE;
        let then = self.retired.entry(due).or_default();
        let end = Retired::Lingering(n == 1);
        if !then.contains(&end) {
            then.push(end);
        }
        changed
    }

    /// Lets those go that linger, unless the intervals have changed again.
    pub(super) fn end_lingering(&mut self, n: usize, now: u64, ops: &mut Vec<Op>) {
        if self.nets_are_new(n, now) {
            return;
        }
        let gone = std::mem::take(&mut self.lingering[n]);
        let elements = gone.into_keys().map(|address| Element::value(Value::ip(address)));
        push(ops, &maps_of(&self.state).id[n], elements.collect(), false);
    }
}
