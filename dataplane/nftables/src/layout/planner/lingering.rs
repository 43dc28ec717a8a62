//! Addresses that are no longer known by themselves and stay in their map for a while.
//!
//! A packet reads the number of an address's interval first, and then that of the address itself, which wins. Where both
//! change at once it may meet the interval before the change and the map of addresses after it: it would go on with the
//! number of an interval that the address never was treated by. So, while the intervals of a family are new, an address
//! that goes stays, with the number that its interval has, until no packet can hold what the interval had before it came
//! to be treated by it. What the interval gets meanwhile it follows; that it changes again is no reason to stay longer,
//! for then a packet holds a number of the interval that was the address's too.

use super::retire::Retired;
use super::{GRACE, Planner, push};
use crate::layout::ops::Op;
use crate::layout::skeleton::maps_of;
use crate::wire::{Element, Value};
use std::net::IpAddr;

/// What the map says of an address that lingers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lingering {
    number: u32,
    /// From when on it may go, in milliseconds.
    until: u64,
}

impl Planner {
    /// Whether a packet may hold a number that the intervals of a family had before they changed.
    pub(super) fn nets_are_new(&self, n: usize, now: u64) -> bool {
        self.new_until(n).is_some_and(|until| now < until)
    }

    fn new_until(&self, n: usize) -> Option<u64> {
        self.nets_changed[n].map(|at| at + GRACE)
    }

    /// What the map shall say of an address that is no longer known by itself; nothing where it may go at once.
    pub(super) fn linger(&mut self, address: IpAddr, now: u64) -> Option<u32> {
        let n = usize::from(address.is_ipv6());
        let until = self.new_until(n).filter(|until| now < *until)?;
        let number = self.number_of_interval(address)?;
        self.lingering[n].insert(address, Lingering { number, until });
        let then = self.retired.entry(until).or_default();
        let end = Retired::Lingering(n == 1);
        if !then.contains(&end) {
            then.push(end);
        }
        Some(number)
    }

    /// The address is known by itself again; returns what the map says of it.
    pub(super) fn come_back(&mut self, address: IpAddr) -> Option<u32> {
        let lingering = self.lingering[usize::from(address.is_ipv6())].remove(&address);
        lingering.map(|lingering| lingering.number)
    }

    /// The addresses that linger, with their numbers.
    pub(crate) fn lingering(&self) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
        self.lingering
            .iter()
            .flatten()
            .map(|(address, lingering)| (*address, lingering.number))
    }

    /// Those that linger follow their intervals. Returns what changed: address, number before, number after.
    pub(super) fn follow_intervals(&mut self, n: usize) -> Vec<(IpAddr, u32, Option<u32>)> {
        let mut changed = Vec::new();
        for (address, lingering) in std::mem::take(&mut self.lingering[n]) {
            let number = self.number_of_interval(address);
            if number != Some(lingering.number) {
                changed.push((address, lingering.number, number));
            }
            if let Some(number) = number {
                self.lingering[n].insert(address, Lingering { number, ..lingering });
            }
        }
        changed
    }

    /// Lets those go that have lingered long enough.
    pub(super) fn end_lingering(&mut self, n: usize, now: u64, ops: &mut Vec<Op>) {
        let gone = self.lingering[n].extract_if(.., |_, lingering| lingering.until <= now);
        let elements: Vec<Element> = gone
            .map(|(address, _)| Element::value(Value::ip(address)))
            .collect();
        push(ops, &maps_of(&self.state).id[n], elements, false);
    }
}
