//! What leaves a node inside a tunnel or not at all.
//!
//! Routes say where packets to other nodes' workloads go, and an address that no route names goes where all the world
//! goes: one that lies in no block yet, or in none any more, or whose tunnel's device somebody has just removed. The
//! tables stop such packets, whatever became of the routes.

use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What of one workload for another leaves the node inside a tunnel or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confined {
    /// The interfaces by which packets leave the node as they are: what carries tunnels, and what the default route leads
    /// to. Interfaces that wrap themselves, whoever made them, are none of these.
    pub wires: BTreeSet<String>,
    /// The ranges of workload addresses, each with whether tunnels alone lead to it. Of ranges within each other the
    /// smallest counts.
    pub ranges: BTreeMap<IpNet, bool>,
}

impl Confined {
    /// Whether anything is confined.
    pub fn any(&self) -> bool {
        !self.wires.is_empty() && self.ranges.values().any(|confined| *confined)
    }

    /// The ranges in the order in which they are to be asked: smaller ones first.
    pub fn smallest_first(&self) -> Vec<(IpNet, bool)> {
        let mut ranges: Vec<_> = self
            .ranges
            .iter()
            .map(|(net, confined)| (*net, *confined))
            .collect();
        ranges.sort_by_key(|(net, _)| (std::cmp::Reverse(net.prefix_len()), *net));
        ranges
    }

    /// Takes over what is to be from now on; says whether that is news.
    pub fn become_as(&mut self, wanted: Confined) -> bool {
        let is_news = *self != wanted;
        *self = wanted;
        is_news
    }

    /// Whether tunnels alone lead to a network, by the smallest range around it.
    fn confines(&self, net: IpNet) -> bool {
        let around = self.ranges.iter().filter(|(range, _)| range.contains(&net));
        let smallest = around.max_by_key(|(range, _)| range.prefix_len());
        smallest.is_some_and(|(_, confined)| *confined)
    }

    /// The ranges of an address family that a packet may come from.
    pub fn sources(&self, of: IpNet) -> impl Iterator<Item = IpNet> + '_ {
        let same_family = move |net: &&IpNet| net.addr().is_ipv4() == of.addr().is_ipv4();
        self.ranges.keys().filter(same_family).copied()
    }

    /// Whether a packet may not leave by an interface. `is_node` says which addresses are of nodes: these are reached as
    /// they are, also where a range has them.
    pub fn refuses(
        &self,
        source: IpAddr,
        destination: IpAddr,
        out: &str,
        is_node: impl Fn(IpAddr) -> bool,
    ) -> bool {
        self.wires.contains(out)
            && self.confines(destination.into())
            && self.ranges.keys().any(|range| range.contains(&source))
            && !is_node(destination)
    }

    /// What of this stays confined if that is what is to be from now on: the step that opens and closes nothing.
    #[must_use]
    pub fn kept_by(&self, wanted: &Confined) -> Confined {
        let stays = |(net, confined): (&IpNet, &bool)| (*net, *confined && self.confines(*net));
        Confined {
            wires: self.wires.intersection(&wanted.wires).cloned().collect(),
            ranges: wanted.ranges.iter().map(stays).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn confined(ranges: &[(&str, bool)]) -> Confined {
        Confined {
            wires: BTreeSet::from(["eth0".to_owned()]),
            ranges: ranges
                .iter()
                .map(|(text, confined)| (net(text), *confined))
                .collect(),
        }
    }

    fn refuses(of: &Confined, source: &str, destination: &str, out: &str) -> bool {
        let is_node = |address: IpAddr| address == IpAddr::from([10, 0, 0, 9]);
        of.refuses(
            source.parse().unwrap(),
            destination.parse().unwrap(),
            out,
            is_node,
        )
    }

    #[test]
    fn a_smaller_range_counts_before_the_one_around_it() {
        let outer = confined(&[
            ("10.0.0.0/8", true),
            ("10.1.0.0/16", false),
            ("10.1.2.0/24", true),
        ]);
        assert!(refuses(&outer, "10.0.0.1", "10.2.0.1", "eth0"));
        assert!(!refuses(&outer, "10.0.0.1", "10.1.0.1", "eth0"));
        assert!(refuses(&outer, "10.0.0.1", "10.1.2.1", "eth0"));
    }

    #[test]
    fn what_is_wrapped_or_is_no_workloads_or_goes_to_a_node_is_free() {
        let all = confined(&[("10.0.0.0/8", true), ("fd00::/48", true)]);
        assert!(refuses(&all, "fd00::1", "fd00::2", "eth0"));
        assert!(!refuses(&all, "10.0.0.1", "10.2.0.1", "vxlan.calico"));
        assert!(!refuses(&all, "192.0.2.1", "10.2.0.1", "eth0"));
        assert!(!refuses(&all, "10.0.0.1", "192.0.2.1", "eth0"));
        assert!(!refuses(&all, "10.0.0.1", "10.0.0.9", "eth0"));
    }

    #[test]
    fn the_step_between_opens_nothing_and_closes_nothing() {
        let before = confined(&[("10.0.0.0/8", true), ("10.1.0.0/16", true)]);
        let mut after = confined(&[
            ("10.0.0.0/8", true),
            ("10.1.0.0/16", false),
            ("10.2.0.0/16", true),
            ("fd00::/48", true),
        ]);
        after.wires.insert("eth1".to_owned());
        let between = before.kept_by(&after);
        assert_eq!(
            between,
            confined(&[
                ("10.0.0.0/8", true),
                ("10.1.0.0/16", false),
                ("10.2.0.0/16", true),
                ("fd00::/48", false)
            ])
        );
    }
}
