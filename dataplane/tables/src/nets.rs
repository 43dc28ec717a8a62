//! The networks of each atom, which may lie in one another: what a network that goes really takes away.
//!
//! Two network sets of one selector may hold a network and a part of it. When the larger one goes, the part stays;
//! when the part goes, nothing does.

use crate::sets::Membership;
use ipnet::IpNet;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;

/// The networks of each atom. Single addresses are not among them.
#[derive(Debug, Default)]
pub(crate) struct Nets {
    of: FxHashMap<Membership, BTreeSet<IpNet>>,
}

impl Nets {
    /// Takes a network in and says whether it brings addresses that no other network of the atom had.
    pub(crate) fn add(&mut self, membership: Membership, net: IpNet) -> bool {
        let nets = self.of.entry(membership).or_default();
        nets.insert(net) && !is_inside_another(nets, net)
    }

    /// Takes a network out. `None` where another network of the atom contains it; else those inside it, which stay,
    /// sorted and none within another.
    pub(crate) fn remove(&mut self, membership: Membership, net: IpNet) -> Option<Vec<IpNet>> {
        let nets = self.of.get_mut(&membership)?;
        if !nets.remove(&net) || is_inside_another(nets, net) {
            return None;
        }
        let mut stay: Vec<IpNet> = Vec::new();
        for inner in nets.range(net..).take_while(|n| net.contains(*n)) {
            if stay.last().is_none_or(|last| !last.contains(inner)) {
                stay.push(*inner);
            }
        }
        if nets.is_empty() {
            self.of.remove(&membership);
        }
        Some(stay)
    }

    /// Forgets an atom.
    pub(crate) fn forget(&mut self, membership: Membership) {
        self.of.remove(&membership);
    }
}

fn is_inside_another(nets: &BTreeSet<IpNet>, net: IpNet) -> bool {
    let mut around = net.supernet();
    while let Some(outer) = around {
        if nets.contains(&outer) {
            return true;
        }
        around = outer.supernet();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_api::AtomId;

    #[test]
    fn what_is_inside_another_network_neither_comes_nor_goes() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let one = Membership::plain(AtomId(1));
        let mut nets = Nets::default();
        assert!(nets.add(one, net("10.0.0.0/8")));
        assert!(!nets.add(one, net("10.1.0.0/16")));
        assert!(!nets.add(one, net("10.1.2.0/24")));
        assert!(!nets.add(one, net("10.3.0.0/16")));
        assert!(
            nets.add(Membership::plain(AtomId(2)), net("10.1.0.0/16")),
            "another atom's networks do not count"
        );
        assert_eq!(nets.remove(one, net("10.1.2.0/24")), None);
        assert_eq!(
            nets.remove(one, net("10.0.0.0/8")),
            Some(vec![net("10.1.0.0/16"), net("10.3.0.0/16")])
        );
        assert_eq!(nets.remove(one, net("10.0.0.0/8")), None, "it was gone already");
        assert_eq!(nets.remove(one, net("10.1.0.0/16")), Some(vec![]));
        assert!(nets.add(one, net("0.0.0.0/0")));
        assert_eq!(nets.remove(one, net("0.0.0.0/0")), Some(vec![net("10.3.0.0/16")]));
    }
}
