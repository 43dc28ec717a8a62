//! Sets of single addresses, a set of each family: their elements, and the steps from one content to another.

use super::names::{NODES4, NODES6, VACANT4, VACANT6};
use super::ops::Op;
use crate::wire::{Element, ElementKey, Value};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Two sets of addresses, of IPv4 and of IPv6.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddressSets {
    v4: &'static str,
    v6: &'static str,
}

/// Addresses of this node's that nobody has now.
pub(crate) const VACANT_ADDRESSES: AddressSets = AddressSets {
    v4: VACANT4,
    v6: VACANT6,
};

/// Addresses of the cluster's nodes.
pub(crate) const NODE_ADDRESSES: AddressSets = AddressSets {
    v4: NODES4,
    v6: NODES6,
};

impl AddressSets {
    /// The names of both, IPv4 first.
    pub(crate) fn names(self) -> [&'static str; 2] {
        [self.v4, self.v6]
    }

    /// The set of the address's family.
    pub(crate) fn of(self, address: IpAddr) -> &'static str {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }

    /// The set and the element of an address.
    pub(crate) fn element(self, address: IpAddr) -> (&'static str, Element) {
        (self.of(address), Element::value(Value::ip(address)))
    }

    /// The steps by which addresses leave the sets and come to them.
    pub(crate) fn ops(
        self,
        gone: impl Iterator<Item = IpAddr>,
        come: impl Iterator<Item = IpAddr>,
    ) -> Vec<Op> {
        let gone = self.by_set(gone).into_iter();
        let come = self.by_set(come).into_iter();
        gone.map(|(set, elements)| Op::RemoveElements(set.to_owned(), elements))
            .chain(come.map(|(set, elements)| Op::AddElements(set.to_owned(), elements)))
            .collect()
    }

    fn by_set(self, addresses: impl Iterator<Item = IpAddr>) -> BTreeMap<&'static str, Vec<Element>> {
        let mut sets: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
        for address in addresses {
            let (set, element) = self.element(address);
            sets.entry(set).or_default().push(element);
        }
        sets
    }
}

/// The address of an element of such a set.
pub(crate) fn read_address(element: &Element) -> Option<IpAddr> {
    match &element.key {
        ElementKey::Value(value) => value.to_ip(),
        _ => None,
    }
}
