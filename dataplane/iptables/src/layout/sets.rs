//! The sets of peers: what each holds, and who asks it.
//!
//! A set is known by what it holds, in classes: two places in chains that would ask for the same ask the same set. Its
//! members follow from the decision tables, which say which addresses have a class.

use super::side::{Change, SideId, SlotKey, Suffixes, What};
use crate::names::{self, Role};
use crate::ops::{Family, Member, SetKind, SetSpec};
use dataplane_tables::{AddressIndex, ClassId};
use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};
use policy_model::Protocol;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What a set holds, as far as that makes it another than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Content {
    pub(super) family: Family,
    pub(super) net: bool,
    /// The order of changes depends on it, so that no set has two.
    pub(super) role: Role,
    /// Whether it says ports too.
    pub(super) merged: bool,
    pub(super) digest: u128,
}

impl Content {
    pub(super) fn of(family: Family, key: &SlotKey, digest: u128) -> Self {
        Content {
            family,
            net: key.net,
            role: key.role,
            merged: key.what == What::Merged,
            digest,
        }
    }

    fn kind(&self) -> SetKind {
        match (self.net, self.merged) {
            (false, false) => SetKind::HashIp,
            (true, false) => SetKind::HashNet,
            (false, true) => SetKind::HashIpPort,
            (true, true) => SetKind::HashNetPort,
        }
    }
}

/// A set of peers.
#[derive(Clone, Debug)]
pub(super) struct PeerSet {
    pub(super) content: Content,
    pub(super) classes: FxHashMap<ClassId, Suffixes>,
    pub(super) users: BTreeSet<(SideId, SlotKey)>,
    /// How many members it has.
    pub(super) size: usize,
    lengths: Lengths,
}

/// How many members are networks of each length.
#[derive(Clone, Debug, Default)]
struct Lengths(BTreeMap<u8, usize>);

impl Lengths {
    fn come(&mut self, member: &Member) {
        if let Some(length) = length(member) {
            *self.0.entry(length).or_default() += 1;
        }
    }

    fn go(&mut self, member: &Member) {
        if let Some(length) = length(member)
            && let Some(count) = self.0.get_mut(&length)
        {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&length);
            }
        }
    }
}

/// All sets of peers, by number.
#[derive(Debug, Default)]
pub(super) struct Sets {
    by_number: BTreeMap<u32, PeerSet>,
    by_content: FxHashMap<Content, u32>,
    by_class: FxHashMap<ClassId, FxHashSet<u32>>,
    next: u32,
    /// Numbers that are not to be given: the kernel has sets of these names.
    taken: FxHashSet<u32>,
}

impl Sets {
    pub(super) fn get(&self, number: u32) -> Option<&PeerSet> {
        self.by_number.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut PeerSet> {
        self.by_number.get_mut(&number)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &PeerSet)> {
        self.by_number.iter().map(|(n, set)| (*n, set))
    }

    pub(super) fn with_content(&self, content: &Content) -> Option<u32> {
        self.by_content.get(content).copied()
    }

    /// The sets that hold addresses of a class.
    pub(super) fn with_class(&self, class: ClassId) -> impl Iterator<Item = u32> + '_ {
        self.by_class.get(&class).into_iter().flatten().copied()
    }

    /// Does not give a number that a set of an earlier life has.
    pub(super) fn avoid(&mut self, number: u32) {
        self.taken.insert(number);
    }

    /// Makes a set under a number that none has had.
    pub(super) fn create(&mut self, content: Content, classes: FxHashMap<ClassId, Suffixes>) -> u32 {
        let number = loop {
            let number = self.next;
            self.next = self.next.wrapping_add(1);
            if !self.taken.contains(&number) && !self.by_number.contains_key(&number) {
                break number;
            }
        };
        self.insert(number, PeerSet::new(content, classes));
        number
    }

    /// Takes a set in under a number.
    pub(super) fn insert(&mut self, number: u32, set: PeerSet) {
        for class in set.classes.keys() {
            self.by_class.entry(*class).or_default().insert(number);
        }
        self.by_content.insert(set.content, number);
        self.by_number.insert(number, set);
    }

    /// Lets a set hold something else.
    pub(super) fn reshape(&mut self, number: u32, content: Content, changes: &FxHashMap<ClassId, Change>) {
        let Some(set) = self.by_number.get_mut(&number) else {
            return;
        };
        if self.by_content.get(&set.content) == Some(&number) {
            self.by_content.remove(&set.content);
        }
        set.content = content;
        self.by_content.insert(content, number);
        for (class, change) in changes {
            match &change.after {
                Some(after) => {
                    set.classes.insert(*class, after.clone());
                    self.by_class.entry(*class).or_default().insert(number);
                }
                None => {
                    set.classes.remove(class);
                    forget(&mut self.by_class, *class, number);
                }
            }
        }
    }

    /// Forgets a set.
    pub(super) fn remove(&mut self, number: u32) -> Option<PeerSet> {
        let set = self.by_number.remove(&number)?;
        if self.by_content.get(&set.content) == Some(&number) {
            self.by_content.remove(&set.content);
        }
        for class in set.classes.keys() {
            forget(&mut self.by_class, *class, number);
        }
        Some(set)
    }
}

fn forget(by_class: &mut FxHashMap<ClassId, FxHashSet<u32>>, class: ClassId, number: u32) {
    if let Some(numbers) = by_class.get_mut(&class) {
        numbers.remove(&number);
        if numbers.is_empty() {
            by_class.remove(&class);
        }
    }
}

impl PeerSet {
    pub(super) fn new(content: Content, classes: FxHashMap<ClassId, Suffixes>) -> Self {
        PeerSet {
            content,
            classes,
            users: BTreeSet::new(),
            size: 0,
            lengths: Lengths::default(),
        }
    }

    /// Takes notice of members that come to it and go from it.
    pub(super) fn count<'a>(
        &mut self,
        come: impl IntoIterator<Item = &'a Member>,
        go: impl IntoIterator<Item = &'a Member>,
    ) {
        for member in come {
            self.size += 1;
            self.lengths.come(member);
        }
        for member in go {
            self.size = self.size.saturating_sub(1);
            self.lengths.go(member);
        }
    }

    /// Whether it has networks of other lengths once these have come and those have gone.
    ///
    /// The kernel asks for an address length by length, in a list that a change of the lengths moves under it: who is in the
    /// midst of it can miss a length, or ask for what is left of the address after a shorter one, and find a network that the
    /// address is not in.
    pub(super) fn gets_other_lengths<'a>(
        &self,
        come: impl IntoIterator<Item = &'a Member>,
        go: impl IntoIterator<Item = &'a Member>,
    ) -> bool {
        let mut after = self.lengths.clone();
        come.into_iter().for_each(|member| after.come(member));
        go.into_iter().for_each(|member| after.go(member));
        !after.0.keys().eq(self.lengths.0.keys())
    }

    pub(super) fn name(&self, number: u32) -> String {
        names::peers(self.content.family, self.content.role, number)
    }

    pub(super) fn spec(&self, number: u32, max_elements: u32) -> SetSpec {
        let family = self.content.family;
        SetSpec {
            name: self.name(number),
            family,
            kind: self.content.kind(),
            max_elements,
            with_timeout: false,
        }
    }

    /// All its members, as the decision tables have them. `intervals` are those of its family.
    pub(super) fn members(
        &self,
        peers: &AddressIndex,
        intervals: &[dataplane_tables::Interval],
    ) -> Vec<Member> {
        let mut out = Vec::new();
        if self.content.net {
            for interval in intervals {
                if let Some(suffixes) = self.classes.get(&interval.class) {
                    for net in cover(interval.first, interval.last) {
                        out.extend(suffixes.iter().map(|s| net_member(net, *s)));
                    }
                }
            }
        } else {
            for (class, suffixes) in &self.classes {
                for address in peers.addresses_of(*class) {
                    out.extend(suffixes.iter().map(|s| address_member(address, *s)));
                }
            }
        }
        out.sort_unstable();
        out
    }
}

fn length(member: &Member) -> Option<u8> {
    match member {
        Member::Net(net) | Member::NetPort { net, .. } => Some(net.prefix_len()),
        _ => None,
    }
}

/// A single address as a member. Protocol zero says that the set has no ports.
pub(super) fn address_member(address: IpAddr, (protocol, port): (u8, u16)) -> Member {
    match protocol {
        0 => Member::Ip(address),
        number => Member::IpPort {
            address,
            protocol: Protocol::from_number(number),
            port,
        },
    }
}

/// A network as a member. Protocol zero says that the set has no ports.
pub(super) fn net_member(net: IpNet, (protocol, port): (u8, u16)) -> Member {
    match protocol {
        0 => Member::Net(net),
        number => Member::NetPort {
            net,
            protocol: Protocol::from_number(number),
            port,
        },
    }
}

/// The networks that make up an interval. None is of length zero, which the kernel does not take: two halves are.
pub(super) fn cover(first: IpAddr, last: IpAddr) -> Vec<IpNet> {
    let nets: Vec<IpNet> = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => Ipv4Subnets::new(a, b, 0).map(IpNet::V4).collect(),
        (IpAddr::V6(a), IpAddr::V6(b)) => Ipv6Subnets::new(a, b, 0).map(IpNet::V6).collect(),
        _ => Vec::new(),
    };
    let halves = |net: IpNet| -> Vec<IpNet> {
        match net {
            IpNet::V4(n) if n.prefix_len() == 0 => {
                n.subnets(1).into_iter().flatten().map(IpNet::V4).collect()
            }
            IpNet::V6(n) if n.prefix_len() == 0 => {
                n.subnets(1).into_iter().flatten().map(IpNet::V6).collect()
            }
            other => vec![other],
        }
    };
    nets.into_iter().flat_map(halves).collect()
}

/// An address as a network.
pub(super) fn host(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(a) => IpNet::V4(Ipv4Net::new_assert(a, 32)),
        IpAddr::V6(a) => IpNet::V6(Ipv6Net::new_assert(a, 128)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_made_of_networks() {
        let text = |first: &str, last: &str| -> Vec<String> {
            let nets = cover(first.parse().unwrap(), last.parse().unwrap());
            nets.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            text("10.0.0.1", "10.0.0.4"),
            ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32"]
        );
        assert_eq!(text("0.0.0.0", "255.255.255.255"), ["0.0.0.0/1", "128.0.0.0/1"]);
        let all = text("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(all, ["::/1", "8000::/1"]);
        assert_eq!(text("0.0.0.1", "255.255.255.255").len(), 32);
    }
}
