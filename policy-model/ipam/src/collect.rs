//! Finds addresses that nobody holds any more, from proof of what lives.
//!
//! Freeing an address that is in use gives it to two; keeping one that is not wastes it. The first is worse, so an
//! address is judged only where the proof is complete: on nodes that have reported all that lives on them, and on
//! nodes that are gone. What is found is freed with its guard (handle and sequence number), and only after it was
//! found twice ([`found_again`]) with as much time between as an ADD may take.

use crate::block::{self, Guard};
use crate::engine::Target;
use crate::handle;
use policy_model::IpamBlockSpec;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What is known to live.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// Every handle that is in use on the nodes that reported.
    pub live_handles: BTreeSet<String>,
    /// Nodes that have reported all handles in use on them.
    pub reporting_nodes: BTreeSet<String>,
    /// Nodes that the cluster no longer has.
    pub gone_nodes: BTreeSet<String>,
}

/// Why an address is held by nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Its node is gone.
    NodeGone,
    /// Its node does not know its handle.
    HandleUnknown,
}

/// An address that nobody holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leak {
    /// The address.
    pub address: IpAddr,
    /// The handle under which it stands in its block.
    pub handle: String,
    /// The node on which it was used.
    pub node: String,
    /// The block's sequence number when it was given.
    pub sequence: u64,
    /// Why it is held by nobody.
    pub reason: Reason,
}

impl Leak {
    /// What to ask [`crate::engine::ReleaseAddresses`] for; it frees nothing that was given again meanwhile.
    pub fn target(&self) -> Target {
        let sequence = (self.sequence != 0).then_some(self.sequence);
        Target {
            address: self.address,
            guard: Guard {
                handle: Some(self.handle.clone()),
                sequence,
            },
        }
    }
}

/// The addresses that nobody holds, in the order of the blocks.
///
/// Addresses without a handle or without a node are not judged. A live node's reserve and tunnel addresses are its
/// own. All addresses of a handle are judged alike, whatever node each names: if one is kept, all are.
pub fn leaks<'a>(blocks: impl IntoIterator<Item = &'a IpamBlockSpec>, proof: &Proof) -> Vec<Leak> {
    let mut found = Vec::new();
    let mut kept = BTreeSet::new();
    for held in blocks.into_iter().flat_map(block::holders) {
        let Some(handle) = held.attribute.handle_id.as_deref() else {
            continue;
        };
        let node = held.attribute.secondary.get(handle::ATTRIBUTE_NODE);
        match node.and_then(|node| judge(handle, node, proof).map(|reason| (node, reason))) {
            Some((node, reason)) => found.push(Leak {
                address: held.address,
                handle: handle.to_owned(),
                node: node.clone(),
                sequence: held.sequence,
                reason,
            }),
            None => {
                kept.insert(handle);
            }
        }
    }
    found.retain(|leak| !kept.contains(leak.handle.as_str()));
    found
}

/// The leaks that were there the last time too, unchanged: those to free.
pub fn found_again(earlier: &[Leak], now: Vec<Leak>) -> Vec<Leak> {
    let earlier: BTreeSet<_> = earlier
        .iter()
        .map(|l| (l.address, &l.handle, l.sequence))
        .collect();
    now.into_iter()
        .filter(|l| earlier.contains(&(l.address, &l.handle, l.sequence)))
        .collect()
}

fn judge(handle: &str, node: &str, proof: &Proof) -> Option<Reason> {
    if proof.live_handles.contains(handle) {
        None
    } else if proof.gone_nodes.contains(node) {
        Some(Reason::NodeGone)
    } else if proof.reporting_nodes.contains(node) && !handle::is_of_node(handle, node) {
        Some(Reason::HandleUnknown)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reservation::Reservations;
    use policy_model::{AllocationAttribute, Attributes};

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn give(block: &mut IpamBlockSpec, handle: &str, node: Option<&str>) {
        let secondary: Attributes = node
            .map(|n| (handle::ATTRIBUTE_NODE.to_owned(), n.to_owned()))
            .into_iter()
            .collect();
        let attribute = AllocationAttribute {
            handle_id: Some(handle.to_owned()),
            secondary,
        };
        assert_eq!(
            block::assign_next(block, 1, &attribute, &Reservations::default()).len(),
            1
        );
    }

    #[test]
    fn only_what_is_proven_dead_is_found() {
        let mut block = block::new("10.0.0.0/28".parse().unwrap(), Some("a"), false, 1)
            .unwrap()
            .spec;
        give(&mut block, "live", Some("a"));
        give(&mut block, "dead", Some("a"));
        give(&mut block, "silent", Some("b"));
        give(&mut block, "gone", Some("c"));
        give(&mut block, "nowhere", None);
        give(&mut block, &handle::of_reserve("a"), Some("a"));
        give(&mut block, &handle::of_reserve("c"), Some("c"));
        give(&mut block, &handle::of_vxlan_tunnel("a"), Some("a"));
        give(&mut block, "both", Some("a"));
        give(&mut block, "both", Some("b"));
        let proof = Proof {
            live_handles: set(&["live"]),
            reporting_nodes: set(&["a"]),
            gone_nodes: set(&["c"]),
        };
        let leaks = leaks([&block], &proof);
        let found: Vec<_> = leaks.iter().map(|l| (l.handle.as_str(), l.reason)).collect();
        assert_eq!(
            found,
            [
                ("dead", Reason::HandleUnknown),
                ("gone", Reason::NodeGone),
                ("manx-reserve-c", Reason::NodeGone)
            ]
        );
        let mut changed = leaks.clone();
        changed[0].sequence += 1;
        assert_eq!(
            found_again(&leaks, changed).len(),
            2,
            "an address given again is another leak"
        );
    }
}
