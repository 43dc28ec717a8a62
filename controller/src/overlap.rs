//! What else has addresses of a pool: other pools, nodes, Services. Pure.
//!
//! It is said and nothing is done about it: which of two is wrong only a person knows, and what works goes on. On
//! Kubernetes a pool's condition says it, with manifests the list of faults.

use ipnet::IpNet;
use policy_model_ipam::address::overlap;
use std::net::IpAddr;

/// How many names a message lists; the rest is counted.
const NAMED: usize = 3;

/// What follows from an overlap.
pub(crate) const DANGER: &str = "Two may be given one address, and packets to it may go astray";
/// What a person can do about one.
pub(crate) const REMEDY: &str = "Make a pool of a range of its own, disable this one (spec.disabled), restart the pods that \
                                 have addresses of it and delete it; or free the range elsewhere";

/// What is to be said of a pool that others have addresses of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overlap {
    /// Who they are, in one word: `OverlapsPool`, `OverlapsNode`, `OverlapsServices` or `OverlapsSeveral`.
    pub(crate) reason: &'static str,
    /// Who has what, as a sentence without its full stop.
    pub(crate) finding: String,
}

/// Everything that has addresses, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    /// Pools, the one that is asked about among them.
    pub(crate) pools: Vec<(String, IpNet)>,
    /// Addresses of nodes.
    pub(crate) nodes: Vec<(String, IpAddr)>,
    /// Ranges and addresses of Services, with what says so.
    pub(crate) services: Vec<(IpNet, String)>,
}

impl Claims {
    /// What is to be said of a pool that others have addresses of; none where nobody has.
    pub(crate) fn on(&self, name: &str, range: &IpNet) -> Option<Overlap> {
        let range = range.trunc();
        let others = self.pools.iter();
        let pools: Vec<String> = others
            .filter(|(other, cidr)| other != name && overlap(&range, cidr))
            .map(|(other, cidr)| format!("{other} ({cidr})"))
            .collect();
        let nodes: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, address)| range.contains(address))
            .map(|(node, address)| format!("{node} ({address})"))
            .collect();
        let services: Vec<String> = self
            .services
            .iter()
            .filter(|(cidr, _)| overlap(&range, cidr))
            .map(|(cidr, source)| format!("{cidr} ({source})"))
            .collect();
        let kinds = [
            ("OverlapsPool", "other pools", pools),
            ("OverlapsNode", "nodes", nodes),
            ("OverlapsServices", "Services", services),
        ];
        let found: Vec<_> = kinds
            .into_iter()
            .filter(|(_, _, claims)| !claims.is_empty())
            .collect();
        let reason = match found.as_slice() {
            [] => return None,
            [(reason, ..)] => reason,
            _ => "OverlapsSeveral",
        };
        let parts: Vec<String> = found
            .iter()
            .map(|(_, what, claims)| format!("{what}: {}", listed(claims.iter().map(String::as_str))))
            .collect();
        Some(Overlap {
            reason,
            finding: format!("{range} overlaps {}", parts.join("; ")),
        })
    }
}

/// Names for a message: the first of them, and how many more there are.
pub(crate) fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let named: Vec<&str> = names.take(NAMED).collect();
    let named = named.join(", ");
    if more == 0 {
        named
    } else {
        format!("{named} and {more} more")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn claims(pools: &[(&str, &str)], nodes: &[(&str, &str)], services: &[&str]) -> Claims {
        Claims {
            pools: pools
                .iter()
                .map(|(name, cidr)| ((*name).to_owned(), net(cidr)))
                .collect(),
            nodes: nodes
                .iter()
                .map(|(name, address)| ((*name).to_owned(), address.parse().unwrap()))
                .collect(),
            services: services
                .iter()
                .map(|cidr| (net(cidr), "ServiceCIDR kubernetes".to_owned()))
                .collect(),
        }
    }

    #[test]
    fn whoever_has_addresses_of_a_pool_is_named() {
        let all = claims(
            &[
                ("a", "10.0.0.0/16"),
                ("b", "10.0.128.0/17"),
                ("c", "10.1.0.0/16"),
                ("six", "fd00::/64"),
            ],
            &[
                ("n1", "10.1.0.7"),
                ("n2", "10.1.0.8"),
                ("n3", "10.1.0.9"),
                ("n4", "10.1.0.10"),
                ("n5", "192.0.2.1"),
            ],
            &["10.0.64.0/20", "fd00::/112"],
        );
        let said = |name: &str| {
            let (_, range) = all.pools.iter().find(|(pool, _)| pool == name).unwrap();
            all.on(name, range).unwrap()
        };
        let a = said("a");
        assert_eq!(a.reason, "OverlapsSeveral");
        for word in [
            "10.0.0.0/16",
            "other pools: b (10.0.128.0/17)",
            "Services: 10.0.64.0/20 (ServiceCIDR kubernetes)",
        ] {
            assert!(a.finding.contains(word), "{}", a.finding);
        }
        let b = said("b");
        assert_eq!(b.reason, "OverlapsPool");
        assert_eq!(b.finding, "10.0.128.0/17 overlaps other pools: a (10.0.0.0/16)");
        let c = said("c");
        assert_eq!(c.reason, "OverlapsNode");
        assert!(
            c.finding
                .contains("nodes: n1 (10.1.0.7), n2 (10.1.0.8), n3 (10.1.0.9) and 1 more"),
            "{}",
            c.finding
        );
        assert_eq!(said("six").reason, "OverlapsServices");
    }

    #[test]
    fn ranges_that_only_touch_are_no_overlap() {
        let beside = claims(
            &[("a", "10.0.0.0/17"), ("b", "10.0.128.0/17")],
            &[("n", "10.1.0.0")],
            &["10.2.0.0/16"],
        );
        assert_eq!(beside.on("a", &net("10.0.0.0/17")), None);
        assert_eq!(beside.on("b", &net("10.0.128.0/17")), None);
    }

    proptest! {
        /// Of two pools that overlap both say so, and each names the other.
        #[test]
        fn an_overlap_is_mutual(a: u32, b: u32, lengths in (8u8..=28, 8u8..=28)) {
            let range = |bits: u32, length| IpNet::new(std::net::Ipv4Addr::from(bits).into(), length).unwrap().trunc();
            let (one, other) = (range(a, lengths.0), range(b, lengths.1));
            let all = Claims { pools: vec![("one".into(), one), ("other".into(), other)], ..Claims::default() };
            let (of_one, of_other) = (all.on("one", &one), all.on("other", &other));
            let shares = one.contains(&other.network()) || other.contains(&one.network());
            prop_assert_eq!(of_one.is_some(), shares);
            prop_assert_eq!(of_other.is_some(), shares);
            if let (Some(of_one), Some(of_other)) = (of_one, of_other) {
                prop_assert!(of_one.finding.contains("other pools: other ("));
                prop_assert!(of_other.finding.contains("other pools: one ("));
            }
        }
    }
}
