//! Addresses outside the cluster that stand for all others.
//!
//! Networks either contain each other or share nothing, so the networks that policies name cut the addresses into
//! areas: each network without the smaller ones in it, and what is in none. Policies treat all addresses of an area
//! alike; one address of each is enough.

use crate::policy::world::World;
use ipnet::IpNet;
use policy_model::{EntityRule, PolicyRule, Resource};
use policy_model_ipam::Family;
use policy_model_ipam::address::{from_bits, to_bits};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that people read as "somebody in the world", taken where they fit.
const USUAL: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 20)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 30)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10)),
];

/// Ranges in which nobody outside is, unless a policy names a network of one.
const NOBODY: [&str; 8] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "::/127",
    "::ffff:0:0/96",
    "fe80::/10",
    "ff00::/8",
];

/// One address of each area, of the families that pods have; smallest networks last, as sorted.
pub(super) fn addresses(worlds: [&World; 2]) -> Vec<IpAddr> {
    let mut nets: BTreeSet<IpNet> = worlds
        .iter()
        .flat_map(|world| named_nets(&world.resources))
        .collect();
    let pods = || {
        worlds
            .iter()
            .flat_map(|world| world.pods.values().flat_map(|pod| &pod.addresses))
    };
    let roots = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    nets.extend(roots.into_iter().filter_map(|root| IpNet::new(root, 0).ok()));
    nets.retain(|net| pods().any(|address| address.is_ipv4() == net.addr().is_ipv4()));
    let nodes = worlds.iter().flat_map(|world| world.nodes.values().flatten());
    let taken: BTreeSet<IpAddr> = pods().chain(nodes).copied().collect();
    // An area that holds nothing but pods and nodes has nobody outside.
    let mut found: Vec<IpAddr> = nets.iter().filter_map(|net| one_of(net, &nets, &taken)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Every network that a policy or a network set names.
fn named_nets(resources: &[Resource]) -> Vec<IpNet> {
    let of_side =
        |side: &EntityRule| -> Vec<IpNet> { side.nets.iter().chain(&side.not_nets).copied().collect() };
    let of_rules = |rules: &[PolicyRule]| -> Vec<IpNet> {
        rules
            .iter()
            .flat_map(|rule| [of_side(&rule.source), of_side(&rule.destination)].concat())
            .collect()
    };
    let of_resource = |resource: &Resource| match resource {
        Resource::NetworkPolicy(policy) => {
            [of_rules(&policy.spec.ingress), of_rules(&policy.spec.egress)].concat()
        }
        Resource::GlobalNetworkPolicy(policy) => {
            [of_rules(&policy.spec.ingress), of_rules(&policy.spec.egress)].concat()
        }
        Resource::NetworkSet(set) => set.spec.nets.clone(),
        Resource::GlobalNetworkSet(set) => set.spec.0.nets.clone(),
        _ => Vec::new(),
    };
    resources
        .iter()
        .flat_map(of_resource)
        .map(|net| net.trunc())
        .collect()
}

/// An address of a network that is in no smaller one of `nets`, and that nobody has.
fn one_of(net: &IpNet, nets: &BTreeSet<IpNet>, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let mut holes: Vec<IpNet> = nets
        .iter()
        .filter(|other| *other != net && net.contains(*other))
        .copied()
        .collect();
    let nobody = NOBODY.iter().filter_map(|text| text.parse::<IpNet>().ok());
    holes.extend(nobody.filter(|range| !range.contains(net)));
    let in_hole = |address: IpAddr| {
        holes
            .iter()
            .filter(|hole| hole.contains(&address))
            .min_by_key(|h| h.prefix_len())
    };
    let fits =
        |address: &IpAddr| net.contains(address) && in_hole(*address).is_none() && !taken.contains(address);
    if let Some(usual) = USUAL.into_iter().find(fits) {
        return Some(usual);
    }
    let family = Family::of_net(net);
    let (first, last) = (to_bits(net.network()), to_bits(net.broadcast()));
    // The first address of a network often has a meaning of its own; it comes last.
    let mut bits = if first < last { first + 1 } else { first };
    while bits <= last {
        let address = from_bits(family, bits)?;
        bits = match in_hole(address) {
            Some(hole) => to_bits(hole.broadcast()),
            None if taken.contains(&address) => bits,
            None => return Some(address),
        }
        .checked_add(1)?;
    }
    Some(net.network()).filter(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn sample(net: &str, all: &[&str], taken: &[&str]) -> Option<String> {
        let taken = taken.iter().map(|text| text.parse().unwrap()).collect();
        one_of(&net.parse().unwrap(), &nets(all), &taken).map(|address| address.to_string())
    }

    #[test]
    fn each_area_has_its_address() {
        let all = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.0.0.0/24",
            "10.0.1.0/32",
            "169.254.169.254/32",
            "203.0.113.0/24",
        ];
        let of = |net| sample(net, &all, &["10.0.0.1"]);
        assert_eq!(of("0.0.0.0/0").unwrap(), "198.51.100.20");
        assert_eq!(of("10.0.0.0/8").unwrap(), "10.0.1.1");
        assert_eq!(of("10.0.0.0/24").unwrap(), "10.0.0.2");
        assert_eq!(of("10.0.1.0/32").unwrap(), "10.0.1.0");
        assert_eq!(
            of("169.254.169.254/32").unwrap(),
            "169.254.169.254",
            "named, so somebody is there"
        );
        assert_eq!(of("203.0.113.0/24").unwrap(), "203.0.113.10");
    }

    #[test]
    fn an_area_without_a_free_address_has_none() {
        assert_eq!(
            sample("10.0.0.0/31", &["10.0.0.0/31", "10.0.0.0/32", "10.0.0.1/32"], &[]),
            None
        );
        assert_eq!(
            sample("10.0.0.0/31", &["10.0.0.0/31"], &["10.0.0.0", "10.0.0.1"]),
            None
        );
        assert_eq!(
            sample("10.0.0.0/31", &["10.0.0.0/31"], &["10.0.0.1"]).unwrap(),
            "10.0.0.0"
        );
        let halves = ["::/0", "::/1", "8000::/1"];
        assert_eq!(sample("::/0", &halves, &[]), None);
        assert_eq!(sample("::/1", &halves, &[]).unwrap(), "2001:db8:ffff::10");
        assert_eq!(sample("8000::/1", &halves, &[]).unwrap(), "8000::1");
    }

    proptest! {
        #[test]
        fn a_sample_is_in_its_area(list in prop::collection::vec((any::<u32>(), 0u8..=32), 1..12), pick in any::<prop::sample::Index>()) {
            // Few leading bits vary, so that networks nest.
            let nets: BTreeSet<IpNet> = list
                .into_iter()
                .map(|(bits, length)| IpNet::new(Ipv4Addr::from_bits(bits & 0xc100_0101).into(), length).unwrap().trunc())
                .collect();
            let net = *nets.iter().nth(pick.index(nets.len())).unwrap();
            if let Some(address) = one_of(&net, &nets, &BTreeSet::new()) {
                let smallest = nets.iter().filter(|n| n.contains(&address)).max_by_key(|n| n.prefix_len());
                prop_assert_eq!(smallest, Some(&net));
            }
        }
    }
}
