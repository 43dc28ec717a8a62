//! What else has addresses of a pool: other pools, nodes, Services. Pure.
//!
//! It is said and nothing is done about it: which of two is wrong only a person knows, and what works goes on.

use super::conditions::{OVERLAP, Told, listed};
use ipnet::IpNet;
use policy_model_ipam::address::overlap;
use std::net::IpAddr;

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
    pub(crate) fn on(&self, name: &str, range: &IpNet) -> Option<Told> {
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
        let message = format!(
            "{range} overlaps {}. Two may be given one address, and packets to it may go astray; nothing was changed for \
             that. Make a pool of a range of its own, disable this one (spec.disabled), restart the pods that have \
             addresses of it and delete it; or free the range elsewhere",
            parts.join("; ")
        );
        Some(Told {
            kind: OVERLAP,
            is_true: true,
            reason: reason.to_owned(),
            message,
        })
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
        assert_eq!(
            (a.kind, a.is_true, a.reason.as_str()),
            (OVERLAP, true, "OverlapsSeveral")
        );
        for word in [
            "10.0.0.0/16",
            "other pools: b (10.0.128.0/17)",
            "Services: 10.0.64.0/20 (ServiceCIDR kubernetes)",
            "spec.disabled",
        ] {
            assert!(a.message.contains(word), "{}", a.message);
        }
        let b = said("b");
        assert_eq!(b.reason, "OverlapsPool");
        assert!(
            b.message.contains("other pools: a (10.0.0.0/16)."),
            "{}",
            b.message
        );
        let c = said("c");
        assert_eq!(c.reason, "OverlapsNode");
        assert!(
            c.message
                .contains("nodes: n1 (10.1.0.7), n2 (10.1.0.8), n3 (10.1.0.9) and 1 more"),
            "{}",
            c.message
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
                prop_assert!(of_one.message.contains("other pools: other ("));
                prop_assert!(of_other.message.contains("other pools: one ("));
            }
        }
    }
}
