//! Which atoms an address is in: single addresses exactly, networks as disjoint intervals.
//!
//! Addresses that belong to the same atoms form a *class*. A single address counts the networks that contain it, so
//! that a lookup which finds it needs no second one. Adding or removing one network touches only what lies inside it.
//! Networks of one atom may lie within each other: an address leaves the atom with the last one that contains it.

mod classes;
mod family;

use crate::nets::Nets;
use crate::sets::{Membership, SetId};
use classes::{ClassKey, Classes};
use dataplane_api::AtomId;
use family::{Family, without};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy_model_rules::IpVersion;
use rustc_hash::FxHashMap;
use std::net::IpAddr;
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
    /// Whether intervals of IPv4 may have changed.
    pub intervals_v4: bool,
    /// Whether intervals of IPv6 may have changed.
    pub intervals_v6: bool,
    /// Classes that appeared.
    pub new_classes: Vec<ClassId>,
    /// Classes that no address has any more. Their numbers stay reserved until the next batch begins.
    pub gone_classes: Vec<ClassId>,
}

impl AddressChanges {
    /// Whether intervals of a family may have changed.
    pub fn intervals(&self, version: IpVersion) -> bool {
        match version {
            IpVersion::V4 => self.intervals_v4,
            IpVersion::V6 => self.intervals_v6,
        }
    }
}

/// All addresses and networks that are in some atom.
#[derive(Debug)]
pub struct AddressIndex {
    v4: Family<u32>,
    v6: Family<u128>,
    nets: Nets,
    classes: Classes,
}

impl AddressIndex {
    /// An index of nothing.
    pub fn new() -> Self {
        let mut classes = Classes::new();
        let v4 = Family::new(IpVersion::V4, &mut classes);
        let v6 = Family::new(IpVersion::V6, &mut classes);
        AddressIndex {
            v4,
            v6,
            nets: Nets::default(),
            classes,
        }
    }

    /// Adds or removes one network (or single address, as a network of full length) of an atom. With `track`, what
    /// changed is remembered for [`AddressIndex::take_changes`].
    pub fn change_net(&mut self, net: IpNet, membership: Membership, add: bool, track: bool) {
        let classes = &mut self.classes;
        if net.prefix_len() == net.max_prefix_len() {
            match net.addr() {
                IpAddr::V4(at) => self.v4.change_exact(at.into(), membership, add, classes, track),
                IpAddr::V6(at) => self.v6.change_exact(at.into(), membership, add, classes, track),
            }
            return;
        }
        let net = net.trunc();
        let stay = match add {
            true if self.nets.add(membership, net) => Vec::new(),
            true => return,
            false => match self.nets.remove(membership, net) {
                Some(stay) => stay,
                None => return,
            },
        };
        match net {
            IpNet::V4(net) => {
                let ends = |n: &Ipv4Net| (u32::from(n.network()), u32::from(n.broadcast()));
                let stay = stay
                    .iter()
                    .filter_map(|n| if let IpNet::V4(n) = n { Some(ends(n)) } else { None });
                for range in without(ends(&net), stay) {
                    self.v4.change_net(range, membership, add, classes, track);
                }
            }
            IpNet::V6(net) => {
                let ends = |n: &Ipv6Net| (u128::from(n.network()), u128::from(n.broadcast()));
                let stay = stay
                    .iter()
                    .filter_map(|n| if let IpNet::V6(n) = n { Some(ends(n)) } else { None });
                for range in without(ends(&net), stay) {
                    self.v6.change_net(range, membership, add, classes, track);
                }
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
        let of_atom = |class: ClassId| -> Vec<Membership> {
            let content = self.class(class);
            content.iter().filter(|m| m.atom() == atom).copied().collect()
        };
        let with: FxHashMap<ClassId, Vec<Membership>> = self
            .classes_with([atom])
            .into_iter()
            .map(|class| (class, of_atom(class)))
            .collect();
        if !with.is_empty() {
            self.v4.remove_atom(&with, &mut self.classes, track);
            self.v6.remove_atom(&with, &mut self.classes, track);
        }
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> AddressChanges {
        let mut out = AddressChanges::default();
        self.v4.take_moved(&mut out);
        self.v6.take_moved(&mut out);
        out.intervals_v4 = self.v4.take_intervals_touched();
        out.intervals_v6 = self.v6.take_intervals_touched();
        (out.new_classes, out.gone_classes) = self.classes.take_changes();
        out
    }

    /// The memberships of a class, sorted; empty for a class that is gone.
    pub fn class(&self, id: ClassId) -> Rc<[Membership]> {
        self.classes.content(id)
    }

    /// The family of a class.
    pub fn version(&self, id: ClassId) -> IpVersion {
        self.classes.key(id).version
    }

    /// Whether a class is one of intervals, the world included. Single addresses never have such a class.
    pub fn is_of_intervals(&self, id: ClassId) -> bool {
        self.classes.key(id).exact == SetId::EMPTY
    }

    /// The class of the interval around addresses of a class: what they would have if they were not known by
    /// themselves. A class of intervals is its own.
    pub fn around(&self, id: ClassId) -> ClassId {
        let key = self.classes.key(id);
        let around = self.classes.known(ClassKey {
            exact: SetId::EMPTY,
            ..key
        });
        around.unwrap_or(ClassId::world(key.version))
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

    /// The classes of what is in one of these atoms, sorted.
    pub fn classes_with(&self, atoms: impl IntoIterator<Item = AtomId>) -> Vec<ClassId> {
        let with = atoms.into_iter().flat_map(|atom| self.classes.with(atom));
        let mut classes: Vec<ClassId> = with.collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    /// All single addresses with their classes, IPv4 first, sorted.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, ClassId)> + '_ {
        self.v4.addresses().chain(self.v6.addresses())
    }

    /// The single addresses of a class, in no order.
    pub fn addresses_of(&self, class: ClassId) -> impl Iterator<Item = IpAddr> + '_ {
        self.v4.addresses_of(class).chain(self.v6.addresses_of(class))
    }

    /// How many single addresses of each family there are.
    pub fn address_counts(&self) -> (usize, usize) {
        (self.v4.count(), self.v6.count())
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
            IpAddr::V4(a) => self.v4.exact(u32::from(a)),
            IpAddr::V6(a) => self.v6.exact(u128::from(a)),
        }
    }

    /// All intervals of a family that are in some network, in order.
    pub fn intervals(&self, version: IpVersion) -> Vec<Interval> {
        match version {
            IpVersion::V4 => self.v4.intervals().collect(),
            IpVersion::V6 => self.v6.intervals().collect(),
        }
    }
}

impl Default for AddressIndex {
    fn default() -> Self {
        AddressIndex::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_goes_leaves_those_inside_it() {
        let mut index = AddressIndex::new();
        let atom = Membership::plain(AtomId(1));
        let change = |index: &mut AddressIndex, text: &str, add| {
            index.change_net(text.parse().unwrap(), atom, add, true)
        };
        let has = |index: &AddressIndex, text: &str| {
            index.class(index.lookup(text.parse().unwrap())).contains(&atom)
        };
        for net in [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.0.0/16",
            "255.0.0.0/8",
            "10.1.0.1/32",
        ] {
            change(&mut index, net, true);
        }
        change(&mut index, "0.0.0.0/0", false);
        let all = [
            "9.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "11.0.0.0",
            "254.255.255.255",
            "255.255.255.255",
        ];
        assert_eq!(
            all.map(|a| has(&index, a)),
            [false, true, true, false, false, true]
        );
        change(&mut index, "10.1.0.0/16", false);
        assert!(has(&index, "10.1.0.0"), "10.0.0.0/8 is still there");
        change(&mut index, "10.0.0.0/8", false);
        assert!(!has(&index, "10.1.0.0"));
        assert!(has(&index, "10.1.0.1"), "it is in the atom by itself");
    }

    #[test]
    fn around_an_address_is_what_its_networks_are_in() {
        let mut index = AddressIndex::new();
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let change = |index: &mut AddressIndex, text: &str, atom| {
            index.change_net(text.parse().unwrap(), Membership::plain(AtomId(atom)), true, true);
        };
        change(&mut index, "10.0.0.0/8", 1);
        change(&mut index, "10.0.0.1/32", 2);
        change(&mut index, "11.0.0.1/32", 2);
        change(&mut index, "fd00::1/128", 2);
        let around = |text: &str| index.around(index.lookup(at(text)));
        assert_eq!(around("10.0.0.1"), index.lookup(at("10.0.0.2")));
        assert_eq!(around("10.0.0.2"), index.lookup(at("10.0.0.2")));
        assert_eq!(around("11.0.0.1"), ClassId::WORLD_V4);
        assert_eq!(around("fd00::1"), ClassId::WORLD_V6);
    }
}
