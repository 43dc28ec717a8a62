//! Which atoms an address is in: single addresses exactly, networks as disjoint intervals.
//!
//! Addresses that belong to the same atoms form a *class*. A single address counts the networks that contain it, so
//! that a lookup which finds it needs no second one. Adding or removing one network touches only what lies inside it.

use crate::nets::Nets;
use crate::sets::{Membership, SetId, Sets};
use dataplane_api::AtomId;
use ipnet::IpNet;
use policy_model_rules::IpVersion;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

/// Number of a class of addresses that belong to the same atoms. Used again once no address has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u32);

impl ClassId {
    /// Addresses of IPv4 that belong to nothing.
    pub const WORLD_V4: ClassId = ClassId(0);
    /// Addresses of IPv6 that belong to nothing.
    pub const WORLD_V6: ClassId = ClassId(1);

    /// The class of addresses of a family that belong to nothing.
    pub fn world(version: IpVersion) -> Self {
        match version {
            IpVersion::V4 => ClassId::WORLD_V4,
            IpVersion::V6 => ClassId::WORLD_V6,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ClassKey {
    version: IpVersion,
    exact: SetId,
    cover: SetId,
}

#[derive(Debug)]
struct Class {
    key: ClassKey,
    /// How many addresses and intervals have the class; the two world classes are held for ever.
    members: usize,
    /// Exact and cover joined, sorted.
    content: Rc<[Membership]>,
}

/// An address or the start of an interval as a number.
trait Point: Copy + Ord {
    const MAX: Self;
    fn next(self) -> Option<Self>;
}

impl Point for u32 {
    const MAX: u32 = u32::MAX;
    fn next(self) -> Option<u32> {
        self.checked_add(1)
    }
}

impl Point for u128 {
    const MAX: u128 = u128::MAX;
    fn next(self) -> Option<u128> {
        self.checked_add(1)
    }
}

#[derive(Debug)]
struct Family<K> {
    version: IpVersion,
    exact: BTreeMap<K, ClassId>,
    /// From each start to the next one: the networks that contain it. Always has an entry at zero.
    intervals: BTreeMap<K, ClassId>,
    /// What addresses had before the running change; `None` value: were not there.
    touched: BTreeMap<K, Option<ClassId>>,
    intervals_touched: bool,
}

/// An interval of addresses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// First address.
    pub first: IpAddr,
    /// Last address.
    pub last: IpAddr,
    /// Class of its addresses that are not known by themselves.
    pub class: ClassId,
}

/// What a batch of changes did to addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AddressChanges {
    /// Single addresses whose class changed: before and after.
    pub moved: Vec<(IpAddr, Option<ClassId>, Option<ClassId>)>,
    /// Whether intervals of IPv4 changed.
    pub intervals_v4: bool,
    /// Whether intervals of IPv6 changed.
    pub intervals_v6: bool,
    /// Classes that appeared.
    pub new_classes: Vec<ClassId>,
    /// Classes that no address has any more. Their numbers stay reserved until the next batch begins.
    pub gone_classes: Vec<ClassId>,
}

/// All addresses and networks that are in some atom.
#[derive(Debug)]
pub struct AddressIndex {
    v4: Family<u32>,
    v6: Family<u128>,
    nets: Nets,
    classes: Classes,
}

#[derive(Debug)]
struct Classes {
    sets: Sets,
    slots: Vec<Option<Class>>,
    by_key: FxHashMap<ClassKey, ClassId>,
    free: Vec<ClassId>,
    new: Vec<ClassId>,
    gone: Vec<ClassId>,
}

impl Classes {
    fn new() -> Self {
        let mut classes = Classes {
            sets: Sets::new(),
            slots: Vec::new(),
            by_key: FxHashMap::default(),
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

    fn get(&self, id: ClassId) -> Option<&Class> {
        self.slots.get(id.0 as usize).and_then(Option::as_ref)
    }

    fn key(&self, id: ClassId) -> ClassKey {
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

    /// The class of a key. It is held by nobody until [`Classes::hold`].
    fn of(&mut self, key: ClassKey) -> ClassId {
        if let Some(id) = self.by_key.get(&key) {
            return *id;
        }
        self.sets.hold(key.exact);
        self.sets.hold(key.cover);
        let (exact, cover) = (
            self.sets.content(key.exact).clone(),
            self.sets.content(key.cover).clone(),
        );
        let content: Rc<[Membership]> = if cover.is_empty() {
            exact
        } else if exact.is_empty() {
            cover
        } else {
            let mut all: Vec<Membership> = exact.iter().chain(cover.iter()).copied().collect();
            all.sort_unstable();
            all.dedup();
            all.into()
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
        self.by_key.insert(key, id);
        self.new.push(id);
        id
    }

    fn hold(&mut self, id: ClassId) {
        if let Some(class) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) {
            class.members += 1;
        }
    }

    fn release(&mut self, id: ClassId) {
        let Some(class) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        class.members -= 1;
        if class.members == 0 {
            let key = class.key;
            self.slots[id.0 as usize] = None;
            self.by_key.remove(&key);
            self.sets.release(key.exact);
            self.sets.release(key.cover);
            // The number is free only after the batch: whoever maps numbers to something must see it go first.
            self.gone.push(id);
        }
    }
}

impl<K: Point> Family<K> {
    fn new(version: IpVersion, zero: K, classes: &mut Classes) -> Self {
        let world = ClassId::world(version);
        classes.hold(world);
        Family {
            version,
            exact: BTreeMap::new(),
            intervals: BTreeMap::from([(zero, world)]),
            touched: BTreeMap::new(),
            intervals_touched: false,
        }
    }

    fn cover_at(&self, at: K, classes: &Classes) -> SetId {
        self.intervals
            .range(..=at)
            .next_back()
            .map_or(SetId::EMPTY, |(_, class)| classes.key(*class).cover)
    }

    fn change_exact(&mut self, at: K, membership: Membership, add: bool, classes: &mut Classes, track: bool) {
        let before = self.exact.get(&at).copied();
        let (exact, cover) = match before {
            Some(class) => {
                let key = classes.key(class);
                (key.exact, key.cover)
            }
            None => (SetId::EMPTY, self.cover_at(at, classes)),
        };
        let exact_after = if add {
            classes.sets.with(exact, membership)
        } else {
            classes.sets.without(exact, membership)
        };
        if exact_after == exact {
            return;
        }
        if track {
            self.touched.entry(at).or_insert(before);
        }
        if exact_after == SetId::EMPTY {
            self.exact.remove(&at);
        } else {
            let class = classes.of(ClassKey {
                version: self.version,
                exact: exact_after,
                cover,
            });
            classes.hold(class);
            self.exact.insert(at, class);
        }
        if let Some(class) = before {
            classes.release(class);
        }
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

    fn change_net(
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
                classes.sets.without(cover, membership)
            }
        };
        let starts: Vec<K> = self.intervals.range(first..=last).map(|(k, _)| *k).collect();
        for start in &starts {
            let Some(before) = self.intervals.get(start).copied() else {
                continue;
            };
            let cover = change(classes, classes.key(before).cover);
            let class = classes.of(ClassKey {
                version: self.version,
                exact: SetId::EMPTY,
                cover,
            });
            classes.hold(class);
            classes.release(before);
            self.intervals.insert(*start, class);
        }
        for start in starts.into_iter().chain(after) {
            self.heal(start, classes);
        }
        let inside: Vec<(K, ClassId)> = self.exact.range(first..=last).map(|(k, c)| (*k, *c)).collect();
        for (at, before) in inside {
            let key = classes.key(before);
            let cover = change(classes, key.cover);
            if cover == key.cover {
                continue;
            }
            if track {
                self.touched.entry(at).or_insert(Some(before));
            }
            let class = classes.of(ClassKey { cover, ..key });
            classes.hold(class);
            classes.release(before);
            self.exact.insert(at, class);
        }
    }

    /// Takes memberships out of everything that has one of the classes in `with`. One walk over all addresses: an atom
    /// goes seldom, and a list of members per atom would double the memory.
    fn remove_atom(
        &mut self,
        with: &FxHashMap<ClassId, Vec<Membership>>,
        classes: &mut Classes,
        track: bool,
    ) {
        let without = |classes: &mut Classes, key: ClassKey, memberships: &[Membership]| {
            let strip = |classes: &mut Classes, set: SetId| {
                memberships
                    .iter()
                    .fold(set, |set, m| classes.sets.without(set, *m))
            };
            ClassKey {
                version: key.version,
                exact: strip(classes, key.exact),
                cover: strip(classes, key.cover),
            }
        };
        let inside: Vec<(K, ClassId)> = self
            .exact
            .iter()
            .filter(|(_, c)| with.contains_key(c))
            .map(|(k, c)| (*k, *c))
            .collect();
        for (at, before) in inside {
            let Some(memberships) = with.get(&before) else {
                continue;
            };
            let key = without(classes, classes.key(before), memberships);
            if track {
                self.touched.entry(at).or_insert(Some(before));
            }
            if key.exact == SetId::EMPTY {
                self.exact.remove(&at);
            } else {
                let class = classes.of(key);
                classes.hold(class);
                self.exact.insert(at, class);
            }
            classes.release(before);
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
            let class = without(classes, classes.key(*before), memberships);
            let class = classes.of(class);
            classes.hold(class);
            classes.release(*before);
            self.intervals.insert(*start, class);
        }
        if !cut.is_empty() {
            let starts: Vec<K> = self.intervals.keys().copied().collect();
            for start in starts {
                self.heal(start, classes);
            }
        }
    }

    fn take_moved(&mut self, out: &mut AddressChanges, to_address: impl Fn(K) -> IpAddr) {
        for (at, before) in std::mem::take(&mut self.touched) {
            let after = self.exact.get(&at).copied();
            // A number that was given up and given out again within one batch counts as another class; the numbers
            // of gone classes stay reserved until the batch ends, so equal numbers mean an unchanged class.
            if before != after {
                out.moved.push((to_address(at), before, after));
            }
        }
    }
}

impl AddressIndex {
    /// An index of nothing.
    pub fn new() -> Self {
        let mut classes = Classes::new();
        let v4 = Family::new(IpVersion::V4, 0u32, &mut classes);
        let v6 = Family::new(IpVersion::V6, 0u128, &mut classes);
        AddressIndex { v4, v6, nets: Nets::default(), classes }
    }

    /// Adds or removes one network (or single address, as a network of full length) of an atom. With `track`, what
    /// changed is remembered for [`AddressIndex::take_changes`].
    pub fn change_net(&mut self, net: IpNet, membership: Membership, add: bool, track: bool) {
        if net.prefix_len() == net.max_prefix_len() {
            match net.addr() {
                IpAddr::V4(at) => self.v4.change_exact(at.into(), membership, add, &mut self.classes, track),
                IpAddr::V6(at) => self.v6.change_exact(at.into(), membership, add, &mut self.classes, track),
            }
            return;
        }
        let net = net.trunc();
        if add {
            if self.nets.add(membership, net) {
                self.change_span(net, membership, true, track);
            }
        } else if let Some(stay) = self.nets.remove(membership, net) {
            self.change_span(net, membership, false, track);
            // Between two commits nobody looks: what stays may go and come again.
            for inner in stay {
                self.change_span(inner, membership, true, track);
            }
        }
    }

    fn change_span(&mut self, net: IpNet, membership: Membership, add: bool, track: bool) {
        match net {
            IpNet::V4(net) => {
                let range = (u32::from(net.network()), u32::from(net.broadcast()));
                self.v4.change_net(range, membership, add, &mut self.classes, track);
            }
            IpNet::V6(net) => {
                let range = (u128::from(net.network()), u128::from(net.broadcast()));
                self.v6.change_net(range, membership, add, &mut self.classes, track);
            }
        }
    }

    /// Adds or removes one membership of a single address.
    pub fn change_address(&mut self, address: IpAddr, membership: Membership, add: bool, track: bool) {
        self.change_net(IpNet::from(address), membership, add, track);
    }

    /// Takes an atom out of every address and network that is in it.
    pub fn remove_atom(&mut self, atom: AtomId, track: bool) {
        self.nets.forget(Membership::plain(atom));
        let with: FxHashMap<ClassId, Vec<Membership>> = self
            .classes()
            .map(|c| {
                (
                    c,
                    self.class(c)
                        .iter()
                        .filter(|m| m.atom() == atom)
                        .copied()
                        .collect::<Vec<_>>(),
                )
            })
            .filter(|(_, m)| !m.is_empty())
            .collect();
        if !with.is_empty() {
            self.v4.remove_atom(&with, &mut self.classes, track);
            self.v6.remove_atom(&with, &mut self.classes, track);
        }
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> AddressChanges {
        let mut out = AddressChanges::default();
        self.v4.take_moved(&mut out, |k| IpAddr::V4(Ipv4Addr::from(k)));
        self.v6.take_moved(&mut out, |k| IpAddr::V6(Ipv6Addr::from(k)));
        out.intervals_v4 = std::mem::take(&mut self.v4.intervals_touched);
        out.intervals_v6 = std::mem::take(&mut self.v6.intervals_touched);
        out.gone_classes = std::mem::take(&mut self.classes.gone);
        let mut new = std::mem::take(&mut self.classes.new);
        new.retain(|c| self.classes.get(*c).is_some());
        out.new_classes = new;
        let free: Vec<ClassId> = out.gone_classes.clone();
        self.classes.free.extend(free);
        out
    }

    /// The memberships of a class, sorted; empty for a class that is gone.
    pub fn class(&self, id: ClassId) -> Rc<[Membership]> {
        self.classes
            .get(id)
            .map_or_else(|| Rc::from([]), |c| c.content.clone())
    }

    /// The family of a class.
    pub fn version(&self, id: ClassId) -> IpVersion {
        self.classes.key(id).version
    }

    /// How many addresses and intervals have a class.
    pub fn members(&self, id: ClassId) -> usize {
        self.classes.get(id).map_or(0, |c| c.members)
    }

    /// All classes.
    pub fn classes(&self) -> impl Iterator<Item = ClassId> + '_ {
        self.classes
            .slots
            .iter()
            .enumerate()
            .filter(|(_, s)| s.is_some())
            .map(|(n, _)| ClassId(n as u32))
    }

    /// All single addresses with their classes, IPv4 first, sorted.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, ClassId)> + '_ {
        let v4 = self
            .v4
            .exact
            .iter()
            .map(|(k, c)| (IpAddr::V4(Ipv4Addr::from(*k)), *c));
        v4.chain(
            self.v6
                .exact
                .iter()
                .map(|(k, c)| (IpAddr::V6(Ipv6Addr::from(*k)), *c)),
        )
    }

    /// How many single addresses of each family there are.
    pub fn address_counts(&self) -> (usize, usize) {
        (self.v4.exact.len(), self.v6.exact.len())
    }

    /// The class of an address.
    pub fn lookup(&self, address: IpAddr) -> ClassId {
        match address {
            IpAddr::V4(a) => self.v4.lookup(u32::from(a)),
            IpAddr::V6(a) => self.v6.lookup(u128::from(a)),
        }
    }

    /// The class of a single address that is known by itself.
    pub fn exact(&self, address: IpAddr) -> Option<ClassId> {
        match address {
            IpAddr::V4(a) => self.v4.exact.get(&u32::from(a)).copied(),
            IpAddr::V6(a) => self.v6.exact.get(&u128::from(a)).copied(),
        }
    }

    /// All intervals of a family that are in some network, in order.
    pub fn intervals(&self, version: IpVersion) -> Vec<Interval> {
        match version {
            IpVersion::V4 => self.v4.list(|k| IpAddr::V4(Ipv4Addr::from(k)), |k| k - 1),
            IpVersion::V6 => self.v6.list(|k| IpAddr::V6(Ipv6Addr::from(k)), |k| k - 1),
        }
    }
}

impl Default for AddressIndex {
    fn default() -> Self {
        AddressIndex::new()
    }
}

impl<K: Point> Family<K> {
    fn lookup(&self, at: K) -> ClassId {
        let interval = || self.intervals.range(..=at).next_back().map(|(_, c)| *c);
        self.exact
            .get(&at)
            .copied()
            .or_else(interval)
            .unwrap_or(ClassId::world(self.version))
    }

    fn list(&self, to_address: impl Fn(K) -> IpAddr, before: impl Fn(K) -> K) -> Vec<Interval> {
        let world = ClassId::world(self.version);
        let ends = self.intervals.keys().skip(1).map(|k| before(*k)).chain([K::MAX]);
        let all = self
            .intervals
            .iter()
            .zip(ends)
            .filter(|((_, class), _)| **class != world);
        all.map(|((first, class), last)| Interval {
            first: to_address(*first),
            last: to_address(last),
            class: *class,
        })
        .collect()
    }
}
