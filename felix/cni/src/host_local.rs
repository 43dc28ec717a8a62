//! Addresses from ranges of this node's own, as the plugin `host-local` gives them: no block, no datastore.
//!
//! The journal is the only record. Addresses are given in turn, so that one that was given back rests for as long as
//! there are others; the first of a range is the network's, the second its gateway's, the last the broadcast address's.

use crate::allocator::{Allocator, Promise};
use crate::protocol::{AddressWishes, Failure, code};
use ipnet::IpNet;
use policy_model_ipam::Family;
use policy_model_ipam::address::{Span, from_bits, to_bits};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The word in place of a range that means the node's own ones.
const NODES_OWN: &str = "usePodCidr";

/// Most addresses that are looked at for one that is free: an IPv6 range has no end.
const LONGEST_SEARCH: usize = 1 << 20;

/// What was given from ranges and is not in the journal yet, and where the search in each range goes on.
#[derive(Debug, Default)]
pub(crate) struct Given {
    under_way: BTreeSet<IpAddr>,
    last: BTreeMap<IpNet, IpAddr>,
}

impl Given {
    /// The journal has these, or nobody.
    pub(crate) fn settle(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            self.under_way.remove(address);
        }
    }

    fn take(&mut self, range: IpNet, is_taken: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        let is_taken = |address: &IpAddr| is_taken(address) || self.under_way.contains(address);
        let address = next(range, self.last.get(&range).copied(), is_taken)?;
        self.under_way.insert(address);
        self.last.insert(range, address);
        Some(address)
    }
}

/// The first free address of a range after the last one that was given, and round again.
fn next(range: IpNet, last: Option<IpAddr>, is_taken: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let family = Family::of_net(&range);
    let whole = Span::of_net(&range);
    let first = whole.first.checked_add(2)?;
    let end = if family == Family::V4 {
        whole.last.checked_sub(1)?
    } else {
        whole.last
    };
    if first > end {
        return None;
    }
    let after = last.map(to_bits).filter(|bits| (first..end).contains(bits));
    let from = after.map_or(first, |bits| bits + 1);
    let free = |bits: u128| from_bits(family, bits).filter(|address| !is_taken(address));
    (from..=end)
        .chain(first..from)
        .take(LONGEST_SEARCH)
        .find_map(free)
}

impl Allocator {
    /// One address of each range's family: of the ranges that the network configuration names, or the node's own.
    pub(crate) fn of_ranges(&self, wishes: &AddressWishes, nodes_own: &[IpNet]) -> Result<Promise, Failure> {
        let mut ranges = Vec::new();
        for (family, named) in [(Family::V4, &wishes.v4.pools), (Family::V6, &wishes.v6.pools)] {
            for text in named.iter().filter(|text| *text != NODES_OWN) {
                let range = text
                    .parse::<IpNet>()
                    .ok()
                    .filter(|range| Family::of_net(range) == family);
                let why = || format!("ipam.subnet {text:?} is no {family} range");
                let range = range.ok_or_else(|| Failure::new(code::INVALID_CONFIGURATION, why()))?;
                ranges.push(range.trunc());
            }
            let is_any = wishes.v4.pools.is_empty() && wishes.v6.pools.is_empty();
            if is_any || named.iter().any(|text| text == NODES_OWN) {
                let own = nodes_own.iter().filter(|range| Family::of_net(range) == family);
                ranges.extend(own.map(IpNet::trunc));
            }
        }
        let wanted = |family| match family {
            Family::V4 => wishes.v4.assign,
            Family::V6 => wishes.v6.assign,
        };
        let (attachments, leaving) = (self.journal().all(), self.journal().leaving());
        let attachments = attachments.iter().chain(&leaving);
        let in_use: BTreeSet<IpAddr> = attachments.flat_map(|a| a.addresses.iter().copied()).collect();
        let reservations = self.view().reservations();
        let mut given = self.local();
        let mut addresses = Vec::new();
        for family in [Family::V4, Family::V6] {
            let of_family: Vec<IpNet> = ranges
                .iter()
                .copied()
                .filter(|r| Family::of_net(r) == family)
                .collect();
            match wanted(family) {
                Some(false) => continue,
                None if of_family.is_empty() => continue,
                Some(true) | None => {}
            }
            let taken = |address: &IpAddr| in_use.contains(address) || reservations.contains(*address);
            let found = of_family.iter().find_map(|range| given.take(*range, taken));
            match found {
                Some(address) => addresses.push(address),
                None => {
                    given.settle(&addresses);
                    return Err(none_left(self.node(), family, &of_family));
                }
            }
        }
        if addresses.is_empty() {
            return Err(Failure::new(
                code::NO_ADDRESS,
                format!(
                    "node {} has no range of its own for pods (ipam.type host-local with {NODES_OWN}); give the node's podCIDRs or ipam.subnet",
                    self.node()
                ),
            ));
        }
        Ok(Promise::of_ranges(addresses))
    }
}

fn none_left(node: &str, family: Family, ranges: &[IpNet]) -> Failure {
    let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    let what = if ranges.is_empty() {
        format!("node {node} has no {family} range for pods")
    } else {
        format!(
            "no {family} address is left in {} of node {node}",
            ranges.join(", ")
        )
    };
    Failure::new(code::NO_ADDRESS, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_given_in_turn_and_the_ends_are_not() {
        let mut given = Given::default();
        let four = range("10.0.0.0/29");
        let mut take = || given.take(four, |_| false).map(|a| a.to_string());
        let all: Vec<_> = std::iter::from_fn(&mut take).collect();
        assert_eq!(all, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        given.settle(&["10.0.0.3".parse().unwrap(), "10.0.0.6".parse().unwrap()]);
        // Round again, past the last one that was given.
        let in_use: IpAddr = "10.0.0.3".parse().unwrap();
        assert_eq!(
            given
                .take(four, |a| *a == in_use)
                .map(|a| a.to_string())
                .as_deref(),
            Some("10.0.0.6")
        );
        assert_eq!(given.take(four, |a| *a == in_use), None);
    }

    #[test]
    fn ranges_of_any_size_are_searched() {
        let mut given = Given::default();
        for (text, first) in [
            ("fd00::/64", Some("fd00::2")),
            ("::/0", Some("::2")),
            ("10.0.0.0/31", None),
            ("10.0.0.7/32", None),
            ("255.255.255.252/30", Some("255.255.255.254")),
            ("fd00::/127", None),
        ] {
            let found = given.take(range(text), |_| false).map(|a| a.to_string());
            assert_eq!(found.as_deref(), first, "{text}");
        }
    }
}
