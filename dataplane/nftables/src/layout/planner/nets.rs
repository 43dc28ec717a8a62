//! The maps of intervals.

use super::renumber::Renumbered;
use super::{Pass, Plan, Planner, Retired, push};
use crate::layout::names::NOTHING;
use crate::layout::ops::{Op, SetSpec};
use crate::layout::skeleton::maps_of;
use crate::layout::state::NetEntry;
use crate::wire::{Element, Value};
use dataplane_tables::{ClassId, Interval};
use policy_model_rules::IpVersion;
use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const VERSIONS: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

impl Planner {
    /// Whether an interval may have got another number.
    pub(super) fn nets_may_change(&self, pass: &Pass<'_>, renumbered: &Renumbered) -> bool {
        let peers = pass.tables.peers();
        let changed = VERSIONS.iter().any(|v| pass.changes.addresses.intervals(*v));
        pass.all || changed || renumbered.moved.keys().any(|class| peers.is_of_intervals(*class))
    }

    pub(super) fn write_nets(&mut self, pass: &Pass<'_>, plan: &mut Plan) {
        for (n, version) in VERSIONS.into_iter().enumerate() {
            let world = self.identity(ClassId::world(version)).unwrap_or(NOTHING);
            let mut wanted: Vec<NetEntry> = Vec::new();
            for interval in pass.tables.peers().intervals(version) {
                let number = self.identity(interval.class).unwrap_or(world);
                match wanted.last_mut() {
                    // Neighbours that are treated alike are one interval for the kernel.
                    Some(last) if last.2 == number && next(last.1) == Some(interval.first) => {
                        last.1 = interval.last
                    }
                    _ => wanted.push((interval.first, interval.last, number)),
                }
            }
            wanted.retain(|entry| entry.2 != world);
            if wanted == self.state.nets[n] && world == self.state.world[n] {
                continue;
            }
            let first_time = self.state.world[n] == NOTHING;
            if !first_time {
                self.nets_changed[n] = Some(pass.now);
            }
            if self.settings.intervals_in_place || first_time {
                self.change_nets_in_place(n, &wanted, world, plan);
            } else {
                self.twin_nets(n, &wanted, world, pass.now, plan);
            }
            self.state.nets[n] = wanted;
            self.state.world[n] = world;
        }
    }

    fn change_nets_in_place(&self, n: usize, wanted: &[NetEntry], world: u32, plan: &mut Plan) {
        let name = maps_of(&self.state).net[n].clone();
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        // Both lists are sorted.
        let (mut old, mut new) = (self.state.nets[n].iter().peekable(), wanted.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.cmp(b),
            };
            match order {
                Ordering::Less => removed.extend(old.next().map(net_element)),
                Ordering::Greater => added.extend(new.next().map(net_element)),
                Ordering::Equal => {
                    old.next();
                    new.next();
                }
            }
        }
        if self.state.world[n] != world {
            if self.state.world[n] != NOTHING {
                removed.push(Element::any());
            }
            added.push(Element::any().to(Value::host32(world)));
        }
        push(&mut plan.switch, &name, removed, false);
        push(&mut plan.switch, &name, added, true);
    }

    fn twin_nets(&mut self, n: usize, wanted: &[NetEntry], world: u32, now: u64, plan: &mut Plan) {
        let old = maps_of(&self.state).net[n].clone();
        self.state.net_generation[n] += 1;
        let name = maps_of(&self.state).net[n].clone();
        plan.prepare.push(Op::AddSet(SetSpec {
            name: name.clone(),
            size: None,
        }));
        let mut elements: Vec<Element> = wanted.iter().map(net_element).collect();
        elements.push(Element::any().to(Value::host32(world)));
        push(&mut plan.prepare, &name, elements, true);
        self.switch_maps(plan);
        self.retire_later(Retired::Set(old), now);
    }

    /// The numbers that addresses in intervals leave, with the class that they come to.
    pub(super) fn interval_changes(&self, pass: &Pass<'_>, version: IpVersion) -> Vec<(u32, ClassId)> {
        let n = usize::from(version == IpVersion::V6);
        let world = self.state.world[n];
        if world == NOTHING {
            return Vec::new();
        }
        let before = self.state.nets[n]
            .iter()
            .map(|(first, last, number)| (*first, *last, *number));
        let before = covering(before.collect(), version, world);
        let after = pass.tables.peers().intervals(version).into_iter();
        let after = after
            .map(|Interval { first, last, class }| (first, last, class))
            .collect();
        let after = covering(after, version, ClassId::world(version));
        let mut out: Vec<(u32, ClassId)> = Vec::new();
        let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
        while let (Some((_, old_last, number)), Some((_, new_last, class))) = (old.peek(), new.peek()) {
            if self.identity(*class) != Some(*number) {
                out.push((*number, *class));
            }
            match old_last.cmp(new_last) {
                Ordering::Less => drop(old.next()),
                Ordering::Greater => drop(new.next()),
                Ordering::Equal => {
                    old.next();
                    new.next();
                }
            }
        }
        out.sort_unstable();
        out.dedup();
        out
    }
}

/// Sorted disjoint intervals with what lies between them, so that they cover everything.
fn covering<T: Copy>(
    list: Vec<(IpAddr, IpAddr, T)>,
    version: IpVersion,
    between: T,
) -> Vec<(IpAddr, IpAddr, T)> {
    let (zero, end) = match version {
        IpVersion::V4 => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST)),
        IpVersion::V6 => (
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::from(u128::MAX)),
        ),
    };
    let mut out = Vec::with_capacity(2 * list.len() + 1);
    let mut at = Some(zero);
    for (first, last, what) in list {
        if let Some(from) = at.filter(|from| *from < first)
            && let Some(to) = previous(first)
        {
            out.push((from, to, between));
        }
        out.push((first, last, what));
        at = next(last);
    }
    if let Some(from) = at {
        out.push((from, end, between));
    }
    out
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => u32::from(a).checked_add(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(a) => u128::from(a).checked_add(1).map(|n| IpAddr::V6(n.into())),
    }
}

fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => u32::from(a).checked_sub(1).map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(a) => u128::from(a).checked_sub(1).map(|n| IpAddr::V6(n.into())),
    }
}

/// An element of a map of intervals.
pub(crate) fn net_element(entry: &NetEntry) -> Element {
    Element::range(Value::ip(entry.0), Value::ip(entry.1)).to(Value::host32(entry.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covering_fills_the_gaps() {
        let at = |n: u32| IpAddr::V4(n.into());
        let list = vec![
            (at(0), at(3), 'a'),
            (at(4), at(4), 'b'),
            (at(9), at(u32::MAX), 'c'),
        ];
        let all = covering(list, IpVersion::V4, '-');
        assert_eq!(
            all,
            vec![
                (at(0), at(3), 'a'),
                (at(4), at(4), 'b'),
                (at(5), at(8), '-'),
                (at(9), at(u32::MAX), 'c')
            ]
        );
        assert_eq!(
            covering(Vec::<(IpAddr, IpAddr, u8)>::new(), IpVersion::V6, 1).len(),
            1
        );
    }
}
