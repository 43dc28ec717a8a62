//! Which range the default pool of a family gets, where nobody said. Pure.
//!
//! The range that the cluster was made with is right, because kube-proxy and others take pods for what lies in it.
//! Only where there is none does Calico's own default serve, and never over an address that somebody has.

use ipnet::IpNet;
use policy_model_ipam::Family;
use policy_model_ipam::address::{from_bits, to_bits};
use std::net::IpAddr;
use thiserror::Error;

/// Calico's range where nothing else is known.
const FALLBACK: &str = "192.168.0.0/16";
/// What clusters are usually made with; nodes take small pieces of it. A pool of the pieces that are taken already
/// would have no room for the next node.
const USUAL_V4: u8 = 16;
const USUAL_V6: u8 = 56;

/// What is known of the cluster's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The ranges of pods that the cluster's own configuration states.
    pub(crate) stated: Vec<IpNet>,
    /// The ranges of pods that nodes were given.
    pub(crate) of_nodes: Vec<IpNet>,
    /// Addresses that are no pod's, and whose they are.
    pub(crate) foreign: Vec<(IpAddr, String)>,
}

/// A range, and why it is that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) cidr: IpNet,
    pub(crate) reason: &'static str,
}

/// Why there is no range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum NoRange {
    /// The range would hold an address that is somebody's.
    #[error("{cidr} ({reason}) holds {address}, the address of {owner}")]
    Overlap {
        cidr: IpNet,
        reason: &'static str,
        address: IpAddr,
        owner: String,
    },
    /// Nodes may be given ranges any moment.
    #[error("no node has a range of pods yet (spec.podCIDRs), and the cluster's configuration states none")]
    NotYet,
}

/// Chooses the range of a family; none where the cluster has no use for it.
///
/// `is_patient` says that ranges may yet be given to nodes: a cluster that is being made has nodes before it has their
/// ranges.
pub(crate) fn choose(family: Family, facts: &Facts, is_patient: bool) -> Result<Option<Choice>, NoRange> {
    let of_family = |range: &&IpNet| Family::of_net(range) == family;
    if let Some(stated) = facts.stated.iter().find(of_family) {
        let reason = "the range of pods of the cluster's configuration";
        return checked(stated.trunc(), reason, facts).map(Some);
    }
    let pieces: Vec<IpNet> = facts.of_nodes.iter().filter(of_family).copied().collect();
    if let Some(exact) = spanning(&pieces) {
        let usual = match family {
            Family::V4 => USUAL_V4,
            Family::V6 => USUAL_V6,
        };
        let reason = "the range around those of the nodes";
        if exact.prefix_len() > usual
            && let Ok(wide) = IpNet::new(exact.addr(), usual)
            && let Ok(choice) = checked(wide.trunc(), reason, facts)
        {
            return Ok(Some(choice));
        }
        return checked(exact, reason, facts).map(Some);
    }
    let knows_nothing = facts.stated.is_empty() && facts.of_nodes.is_empty();
    if knows_nothing && is_patient {
        return Err(NoRange::NotYet);
    }
    // A cluster of the other family alone says so by its ranges, or by its nodes' addresses.
    let has_family = facts
        .foreign
        .iter()
        .any(|(address, _)| Family::of_address(*address) == family);
    let has_other = facts
        .foreign
        .iter()
        .any(|(address, _)| Family::of_address(*address) != family);
    if family == Family::V6 || !knows_nothing || (has_other && !has_family) {
        return Ok(None);
    }
    let fallback: Option<IpNet> = FALLBACK.parse().ok();
    fallback
        .map(|range| checked(range, "the range that is used where nothing else is known", facts))
        .transpose()
}

fn checked(cidr: IpNet, reason: &'static str, facts: &Facts) -> Result<Choice, NoRange> {
    match facts.foreign.iter().find(|(address, _)| cidr.contains(address)) {
        Some((address, owner)) => Err(NoRange::Overlap {
            cidr,
            reason,
            address: *address,
            owner: owner.clone(),
        }),
        None => Ok(Choice { cidr, reason }),
    }
}

/// The smallest range that holds all of some ranges of one family.
fn spanning(pieces: &[IpNet]) -> Option<IpNet> {
    let first = pieces.first()?;
    let family = Family::of_net(first);
    let low = pieces.iter().map(|range| to_bits(range.network())).min()?;
    let high = pieces.iter().map(|range| to_bits(range.broadcast())).max()?;
    let differing = u8::try_from(128 - (low ^ high).leading_zeros()).ok()?;
    // Pieces that lie far apart have nothing in common but being addresses.
    let prefix = family
        .bits()
        .checked_sub(differing)
        .filter(|prefix| *prefix > 0)?;
    IpNet::new(from_bits(family, low)?, prefix)
        .ok()
        .map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn facts(stated: &[&str], of_nodes: &[&str], addresses: &[&str]) -> Facts {
        Facts {
            stated: nets(stated),
            of_nodes: nets(of_nodes),
            foreign: addresses
                .iter()
                .map(|text| (text.parse().unwrap(), "node a".to_owned()))
                .collect(),
        }
    }

    fn chosen(family: Family, facts: &Facts) -> Option<String> {
        choose(family, facts, false)
            .unwrap()
            .map(|choice| choice.cidr.to_string())
    }

    #[test]
    fn the_clusters_own_range_comes_first() {
        let both = facts(
            &["10.244.0.0/16", "fd00:10:244::/56"],
            &["10.99.1.0/24"],
            &["192.0.2.1"],
        );
        assert_eq!(chosen(Family::V4, &both).as_deref(), Some("10.244.0.0/16"));
        assert_eq!(chosen(Family::V6, &both).as_deref(), Some("fd00:10:244::/56"));
    }

    #[test]
    fn ranges_of_nodes_are_pieces_of_a_larger_one() {
        let of_nodes = facts(
            &[],
            &[
                "10.244.0.0/24",
                "10.244.3.0/24",
                "fd00:10:244::/64",
                "fd00:10:244:1::/64",
            ],
            &["192.0.2.1"],
        );
        assert_eq!(chosen(Family::V4, &of_nodes).as_deref(), Some("10.244.0.0/16"));
        assert_eq!(chosen(Family::V6, &of_nodes).as_deref(), Some("fd00:10:244::/56"));
        // A node of the same /16: no wider than the pieces.
        let beside = facts(&[], &["10.0.1.0/24", "10.0.2.0/24"], &["10.0.200.5"]);
        assert_eq!(chosen(Family::V4, &beside).as_deref(), Some("10.0.0.0/22"));
        let wide = facts(&[], &["10.0.0.0/24", "10.7.0.0/24"], &["192.0.2.1"]);
        assert_eq!(chosen(Family::V4, &wide).as_deref(), Some("10.0.0.0/13"));
    }

    #[test]
    fn the_last_resort_is_calicos_and_never_over_a_node() {
        let alone = facts(&[], &[], &["10.0.0.1"]);
        assert_eq!(chosen(Family::V4, &alone).as_deref(), Some("192.168.0.0/16"));
        assert_eq!(chosen(Family::V6, &alone), None);
        let home = facts(&[], &[], &["192.168.1.10"]);
        let error = choose(Family::V4, &home, false).unwrap_err();
        assert!(
            error.to_string().contains("192.168.1.10") && error.to_string().contains("node a"),
            "{error}"
        );
        let only_v6 = facts(&[], &["fd00:10:244::/64"], &["fd00::1"]);
        assert_eq!(chosen(Family::V4, &only_v6), None);
        let only_v6_unknown = facts(&[], &[], &["fd00::1"]);
        assert_eq!(chosen(Family::V4, &only_v6_unknown), None);
    }

    #[test]
    fn a_cluster_that_is_being_made_is_waited_for() {
        let young = facts(&[], &[], &["10.0.0.1"]);
        assert_eq!(choose(Family::V4, &young, true), Err(NoRange::NotYet));
        let stated = facts(&["10.244.0.0/16"], &[], &["10.0.0.1"]);
        assert!(choose(Family::V4, &stated, true).unwrap().is_some());
        assert_eq!(choose(Family::V6, &stated, true), Ok(None));
    }

    proptest! {
        #[test]
        fn a_range_holds_every_piece_and_no_foreign_address(
            pieces in prop::collection::vec((any::<u32>(), 8u8..=28), 1..6),
            foreign in prop::collection::vec(any::<u32>(), 0..4),
        ) {
            let of_nodes: Vec<IpNet> = pieces
                .iter()
                .map(|(bits, length)| {
                    IpNet::new(IpAddr::from(std::net::Ipv4Addr::from(*bits)), *length).unwrap().trunc()
                })
                .collect();
            let foreign: Vec<(IpAddr, String)> = foreign
                .iter()
                .map(|bits| (IpAddr::from(std::net::Ipv4Addr::from(*bits)), "x".to_owned()))
                .collect();
            let facts = Facts { of_nodes: of_nodes.clone(), foreign: foreign.clone(), ..Facts::default() };
            if let Ok(Some(choice)) = choose(Family::V4, &facts, false) {
                prop_assert!(of_nodes.iter().all(|piece| choice.cidr.contains(piece)), "{}", choice.cidr);
                prop_assert!(!foreign.iter().any(|(address, _)| choice.cidr.contains(address)));
            }
        }
    }
}
