//! The addresses of one family: single ones with their classes, and the intervals that networks cut the rest into.

use super::classes::{ClassKey, Classes};
use super::{AddressChanges, ClassId, Interval};
use crate::sets::{Membership, SetId};
use policy_model_rules::IpVersion;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address or the start of an interval as a number.
pub(super) trait Point: Copy + Ord {
    const ZERO: Self;
    const MAX: Self;
    fn next(self) -> Option<Self>;
    fn previous(self) -> Option<Self>;
    fn address(self) -> IpAddr;
}

impl Point for u32 {
    const ZERO: u32 = 0;
    const MAX: u32 = u32::MAX;
    fn next(self) -> Option<u32> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<u32> {
        self.checked_sub(1)
    }
    fn address(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self))
    }
}

impl Point for u128 {
    const ZERO: u128 = 0;
    const MAX: u128 = u128::MAX;
    fn next(self) -> Option<u128> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<u128> {
        self.checked_sub(1)
    }
    fn address(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self))
    }
}

/// What is left of a range without some inside it, which are sorted and do not touch each other's addresses.
pub(super) fn without<K: Point>(range: (K, K), inside: impl Iterator<Item = (K, K)>) -> Vec<(K, K)> {
    let mut left = Vec::new();
    let mut from = Some(range.0);
    for (first, last) in inside {
        if let Some(start) = from
            && let Some(end) = first.previous()
            && start <= end
        {
            left.push((start, end));
        }
        from = last.next();
    }
    left.extend(
        from.filter(|start| *start <= range.1)
            .map(|start| (start, range.1)),
    );
    left
}

/// A single address: its class, and its place in the list of that class's addresses.
#[derive(Clone, Copy, Debug)]
struct Single {
    class: ClassId,
    place: u32,
}

#[derive(Debug)]
pub(super) struct Family<K> {
    version: IpVersion,
    exact: BTreeMap<K, Single>,
    /// The single addresses of each class, in no order: a class that is treated otherwise moves all of them.
    of_class: FxHashMap<ClassId, Vec<K>>,
    /// From each start to the next one: the networks that contain it. Always has an entry at zero.
    intervals: BTreeMap<K, ClassId>,
    /// What addresses had before they were changed, change by change; `None`: were not there.
    touched: Vec<(K, Option<ClassId>)>,
    intervals_touched: bool,
}

impl<K: Point> Family<K> {
    pub(super) fn new(version: IpVersion, classes: &mut Classes) -> Self {
        let world = ClassId::world(version);
        classes.hold(world);
        Family {
            version,
            exact: BTreeMap::new(),
            of_class: FxHashMap::default(),
            intervals: BTreeMap::from([(K::ZERO, world)]),
            touched: Vec::new(),
            intervals_touched: false,
        }
    }

    /// Gives a single address its class, or (`None`) forgets it.
    fn place(&mut self, at: K, class: Option<ClassId>, classes: &mut Classes) {
        if let Some(class) = class {
            classes.hold(class);
        }
        let place = class.map(|class| {
            let list = self.of_class.entry(class).or_default();
            list.push(at);
            let place = (list.len() - 1) as u32;
            Single { class, place }
        });
        let old = match place {
            Some(single) => self.exact.insert(at, single),
            None => self.exact.remove(&at),
        };
        if let Some(old) = old {
            if let Some(list) = self.of_class.get_mut(&old.class) {
                list.swap_remove(old.place as usize);
                if let Some(filler) = list.get(old.place as usize)
                    && let Some(single) = self.exact.get_mut(filler)
                {
                    single.place = old.place;
                }
                if list.is_empty() {
                    self.of_class.remove(&old.class);
                }
            }
            classes.release(old.class);
        }
    }

    fn cover_at(&self, at: K, classes: &Classes) -> SetId {
        self.intervals
            .range(..=at)
            .next_back()
            .map_or(SetId::EMPTY, |(_, class)| classes.key(*class).cover)
    }

    pub(super) fn change_exact(
        &mut self,
        at: K,
        membership: Membership,
        add: bool,
        classes: &mut Classes,
        track: bool,
    ) {
        let before = self.exact(at);
        let (exact, cover) = match before {
            Some(class) => {
                let key = classes.key(class);
                (key.exact, key.cover)
            }
            None => (SetId::EMPTY, self.cover_at(at, classes)),
        };
        let after = if add {
            classes.sets.with(exact, membership)
        } else {
            classes.sets.without(exact, &[membership])
        };
        if after == exact {
            return;
        }
        if track {
            self.touched.push((at, before));
        }
        let version = self.version;
        let class = (after != SetId::EMPTY).then(|| {
            classes.of(ClassKey {
                version,
                exact: after,
                cover,
            })
        });
        self.place(at, class, classes);
    }

    /// Makes `at` the start of an interval.
    fn cut(&mut self, at: K, classes: &mut Classes) {
        if let Some((start, class)) = self.intervals.range(..=at).next_back()
            && *start != at
        {
            let class = *class;
            classes.hold(class);
            self.intervals.insert(at, class);
        }
    }

    /// Lets an interval that says the same as the one before it become part of that.
    fn heal(&mut self, at: K, classes: &mut Classes) {
        let Some(class) = self.intervals.get(&at).copied() else {
            return;
        };
        if self
            .intervals
            .range(..at)
            .next_back()
            .is_some_and(|(_, before)| *before == class)
        {
            self.intervals.remove(&at);
            classes.release(class);
        }
    }

    pub(super) fn change_net(
        &mut self,
        range: (K, K),
        membership: Membership,
        add: bool,
        classes: &mut Classes,
        track: bool,
    ) {
        let (first, last) = range;
        self.intervals_touched = true;
        self.cut(first, classes);
        let after = last.next();
        if let Some(after) = after {
            self.cut(after, classes);
        }
        let change = |classes: &mut Classes, cover: SetId| {
            if add {
                classes.sets.with(cover, membership)
            } else {
                classes.sets.without(cover, &[membership])
            }
        };
        let starts: Vec<(K, ClassId)> = self
            .intervals
            .range(first..=last)
            .map(|(k, c)| (*k, *c))
            .collect();
        for (start, before) in &starts {
            let cover = change(classes, classes.key(*before).cover);
            self.set_interval(*start, *before, cover, classes);
        }
        for start in starts.into_iter().map(|(start, _)| start).chain(after) {
            self.heal(start, classes);
        }
        let inside: Vec<(K, ClassId)> = self
            .exact
            .range(first..=last)
            .map(|(k, s)| (*k, s.class))
            .collect();
        for (at, before) in inside {
            let key = classes.key(before);
            let cover = change(classes, key.cover);
            if cover == key.cover {
                continue;
            }
            if track {
                self.touched.push((at, Some(before)));
            }
            let class = classes.of(ClassKey { cover, ..key });
            self.place(at, Some(class), classes);
        }
    }

    fn set_interval(&mut self, start: K, before: ClassId, cover: SetId, classes: &mut Classes) {
        let class = classes.of(ClassKey {
            version: self.version,
            exact: SetId::EMPTY,
            cover,
        });
        classes.hold(class);
        classes.release(before);
        self.intervals.insert(start, class);
    }

    /// Takes memberships out of everything that has one of the classes in `with`.
    pub(super) fn remove_atom(
        &mut self,
        with: &FxHashMap<ClassId, Vec<Membership>>,
        classes: &mut Classes,
        track: bool,
    ) {
        for (before, memberships) in with {
            // All of them go, so nobody need find their places in the list.
            let Some(addresses) = self.of_class.remove(before) else {
                continue;
            };
            let key = classes.key(*before);
            let exact = classes.sets.without(key.exact, memberships);
            let cover = classes.sets.without(key.cover, memberships);
            let class = (exact != SetId::EMPTY).then(|| classes.of(ClassKey { exact, cover, ..key }));
            let mut list = class.map(|class| self.of_class.entry(class).or_default());
            for at in addresses {
                if track {
                    self.touched.push((at, Some(*before)));
                }
                match (class, &mut list) {
                    (Some(class), Some(list)) => {
                        classes.hold(class);
                        list.push(at);
                        let place = (list.len() - 1) as u32;
                        self.exact.insert(at, Single { class, place });
                    }
                    _ => {
                        self.exact.remove(&at);
                    }
                }
                classes.release(*before);
            }
        }
        let cut: Vec<(K, ClassId)> = self
            .intervals
            .iter()
            .filter(|(_, c)| with.contains_key(c))
            .map(|(k, c)| (*k, *c))
            .collect();
        for (start, before) in &cut {
            let Some(memberships) = with.get(before) else {
                continue;
            };
            self.intervals_touched = true;
            let cover = classes.key(*before).cover;
            let cover = classes.sets.without(cover, memberships);
            self.set_interval(*start, *before, cover, classes);
        }
        for (start, _) in &cut {
            let next = self.intervals.range(*start..).nth(1).map(|(k, _)| *k);
            self.heal(*start, classes);
            if let Some(next) = next {
                self.heal(next, classes);
            }
        }
    }

    pub(super) fn take_moved(&mut self, out: &mut AddressChanges) {
        let mut touched = std::mem::take(&mut self.touched);
        // Stable, so that of an address what it had first stays first, and is what is kept.
        touched.sort_by_key(|(at, _)| *at);
        touched.dedup_by_key(|(at, _)| *at);
        for (at, before) in touched {
            let after = self.exact(at);
            // A number that was given up and given out again within one batch counts as another class; the numbers
            // of gone classes stay reserved until the batch ends, so equal numbers mean an unchanged class.
            if before != after {
                out.moved.push((at.address(), before, after));
            }
        }
    }

    pub(super) fn take_intervals_touched(&mut self) -> bool {
        std::mem::take(&mut self.intervals_touched)
    }

    pub(super) fn exact(&self, at: K) -> Option<ClassId> {
        self.exact.get(&at).map(|s| s.class)
    }

    pub(super) fn lookup(&self, at: K) -> ClassId {
        let interval = || self.intervals.range(..=at).next_back().map(|(_, c)| *c);
        self.exact(at)
            .or_else(interval)
            .unwrap_or(ClassId::world(self.version))
    }

    pub(super) fn count(&self) -> usize {
        self.exact.len()
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = (IpAddr, ClassId)> + '_ {
        self.exact.iter().map(|(k, s)| (k.address(), s.class))
    }

    pub(super) fn addresses_of(&self, class: ClassId) -> impl Iterator<Item = IpAddr> + '_ {
        self.of_class
            .get(&class)
            .into_iter()
            .flatten()
            .map(|k| k.address())
    }

    pub(super) fn intervals(&self) -> impl Iterator<Item = Interval> + '_ {
        let world = ClassId::world(self.version);
        let ends = self
            .intervals
            .keys()
            .skip(1)
            .map(|k| k.previous().unwrap_or(K::ZERO))
            .chain([K::MAX]);
        let all = self
            .intervals
            .iter()
            .zip(ends)
            .filter(move |((_, class), _)| **class != world);
        all.map(|((first, class), last)| Interval {
            first: first.address(),
            last: last.address(),
            class: *class,
        })
    }
}
