//! The maps of single addresses.

use super::renumber::Renumbered;
use super::{Pass, Plan, Planner, Retired, SMALLEST_ADDRESSES, push};
use crate::layout::names;
use crate::layout::ops::{Op, SetSpec};
use crate::layout::skeleton::{lookup_rules, maps_of};
use crate::wire::{Element, Value};
use dataplane_tables::{ClassId, Tables};
use rustc_hash::FxHashSet;
use std::net::IpAddr;

/// An address whose identity may change: the number that the kernel has for it and the class that it has now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) address: IpAddr,
    pub(crate) before: Option<u32>,
    pub(crate) class: Option<ClassId>,
}

/// Taking out an element costs the kernel ten times what adding one does, and removing a whole map nothing: when more
/// than these, and most of all, leave a map, those that stay go to a new one.
const MANY_LEAVE: usize = 4_096;

impl Planner {
    pub(super) fn write_addresses(
        &mut self,
        pass: &Pass<'_>,
        moves: Vec<Move>,
        renumbered: &Renumbered,
        plan: &mut Plan,
    ) {
        let (v4, v6) = pass.tables.peers().address_counts();
        let mut replaced = [false, false];
        for (n, count) in [v4, v6].into_iter().enumerate() {
            let leaves =
                |m: &&Move| m.before.is_some() && m.class.is_none() && usize::from(m.address.is_ipv6()) == n;
            let leaving = moves.iter().filter(leaves).count();
            let stay = if self.nets_are_new(n, pass.now) {
                leaving
            } else {
                0
            };
            if count + stay + self.lingering[n].len() > self.state.id_size[n] as usize
                || leaving > MANY_LEAVE.max(count)
            {
                self.replace(n, pass.tables, pass.now, plan);
                replaced[n] = true;
                // Who reads the new map reads the new intervals.
                self.lingering[n].clear();
            }
        }
        let mut removed: [Vec<Element>; 2] = Default::default();
        let mut added: [Vec<Element>; 2] = Default::default();
        let mut change = |address: IpAddr, before: Option<u32>, after: Option<u32>| {
            let n = usize::from(address.is_ipv6());
            if before == after || replaced[n] {
                return;
            }
            if before.is_some() {
                removed[n].push(Element::value(Value::ip(address)));
            }
            if let Some(number) = after {
                added[n].push(Element::value(Value::ip(address)).to(Value::host32(number)));
            }
        };
        // With `all`, every address is among the moves.
        let others = !pass.all && !renumbered.moved.is_empty();
        let mut named: FxHashSet<IpAddr> = FxHashSet::default();
        for m in moves {
            let before = m.before.or(self.come_back(m.address));
            let stays = !replaced[usize::from(m.address.is_ipv6())];
            let after = match m.class {
                Some(class) => self.identity(class),
                None if before.is_some() && stays => self.linger(m.address, pass.now),
                None => None,
            };
            change(m.address, before, after);
            if others {
                named.insert(m.address);
            }
        }
        if others {
            let mut moved: Vec<(ClassId, u32)> = renumbered.moved.iter().map(|(c, b)| (*c, *b)).collect();
            moved.sort_unstable();
            for (class, before) in moved {
                let after = self.identity(class);
                let addresses = pass
                    .tables
                    .peers()
                    .addresses_of(class)
                    .filter(|a| !named.contains(a));
                addresses.for_each(|address| change(address, Some(before), after));
            }
        }
        for n in 0..2 {
            for (address, before, after) in self.follow_intervals(n) {
                change(address, Some(before), after);
            }
        }
        let maps = maps_of(&self.state);
        for (n, (removed, added)) in removed.into_iter().zip(added).enumerate() {
            push(&mut plan.switch, &maps.id[n], removed, false);
            push(&mut plan.switch, &maps.id[n], added, true);
        }
    }

    /// Builds an address map that fits beside the one that does not, and lets the rules use it.
    fn replace(&mut self, n: usize, tables: &Tables, now: u64, plan: &mut Plan) {
        let old = maps_of(&self.state).id[n].clone();
        self.state.id_generation[n] += 1;
        let counts = tables.peers().address_counts();
        self.state.id_size[n] = room_for(if n == 0 { counts.0 } else { counts.1 });
        let maps = maps_of(&self.state);
        let name = maps.id[n].clone();
        let of_family = tables
            .peers()
            .addresses()
            .filter(|(a, _)| usize::from(a.is_ipv6()) == n);
        let elements: Vec<Element> = of_family
            .filter_map(|(a, c)| {
                self.identity(c)
                    .map(|i| Element::value(Value::ip(a)).to(Value::host32(i)))
            })
            .collect();
        plan.prepare.push(Op::AddSet(SetSpec {
            name: name.clone(),
            size: Some(self.state.id_size[n]),
        }));
        push(&mut plan.prepare, &name, elements, true);
        self.switch_maps(plan);
        self.retire_later(Retired::Set(old), now);
    }

    /// Lets the rules use other address maps.
    pub(super) fn switch_maps(&self, plan: &mut Plan) {
        let maps = maps_of(&self.state);
        plan.switch.retain(|op| !matches!(op, Op::ReplaceRules(..)));
        plan.switch.push(Op::ReplaceRules(
            names::TO_WL.to_string(),
            lookup_rules(&maps, true),
        ));
        plan.switch.push(Op::ReplaceRules(
            names::FROM_WL.to_string(),
            lookup_rules(&maps, false),
        ));
    }
}

pub(super) fn room_for(count: usize) -> u32 {
    let doubled = u32::try_from(count.saturating_mul(2)).unwrap_or(u32::MAX / 2);
    doubled
        .max(SMALLEST_ADDRESSES)
        .checked_next_power_of_two()
        .unwrap_or(1 << 31)
}
