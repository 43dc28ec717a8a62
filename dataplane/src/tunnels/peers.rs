//! The nodes behind one VXLAN device: which are told to the kernel, and which cannot be told from others.

use super::Kind;
use super::device::family;
use super::facts::Facts;
use crate::interfaces::describe;
use dataplane_api::ClusterNode;
use dataplane_netlink::links::Link;
use dataplane_netlink::tunnels::peers::{self, PeerNews, PeerStep, PeerTable, TunnelPeer};
use dataplane_netlink::tunnels::vxlan::{Family, derived_mac};
use dataplane_netlink::{MacAddress, NetlinkError, Rtnetlink};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The nodes behind a device.
#[derive(Debug)]
pub(super) struct Peers {
    kind: Kind,
    table: PeerTable,
    /// The nodes in the table, by name.
    known: BTreeMap<Arc<str>, TunnelPeer>,
    /// Nodes that may have changed.
    dirty: BTreeSet<Arc<str>>,
    /// Whether everything is to be put together and compared with the kernel.
    compare: bool,
    /// Nodes that are not in the table though they should be, and why.
    conflicts: Vec<String>,
    /// Steps that the kernel refused.
    failures: Vec<String>,
}

impl Peers {
    pub(super) fn new(kind: Kind) -> Self {
        Peers {
            kind,
            table: PeerTable::new(),
            known: BTreeMap::new(),
            dirty: BTreeSet::new(),
            compare: true,
            conflicts: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Has the next pass look at a node.
    pub(super) fn touch(&mut self, name: &Arc<str>) {
        if !self.compare {
            self.dirty.insert(name.clone());
        }
    }

    /// Has the next pass compare everything with the kernel.
    pub(super) fn compare(&mut self) {
        self.compare = true;
        self.dirty.clear();
    }

    /// The device has gone, and with it all that it knew.
    pub(super) fn forget(&mut self) {
        *self = Peers::new(self.kind);
    }

    pub(super) fn has_fault(&self) -> bool {
        !(self.conflicts.is_empty() && self.failures.is_empty())
    }

    pub(super) fn faults(&self) -> impl Iterator<Item = String> {
        self.conflicts.iter().chain(&self.failures).cloned()
    }

    /// Takes in news of the device's entries; says whether something is to be done about it.
    pub(super) fn hears(&mut self, news: &PeerNews) -> bool {
        if self.compare || self.table.agrees(news) {
            return false;
        }
        self.compare();
        true
    }

    /// Brings the device's entries to what the nodes say.
    pub(super) fn settle(
        &mut self,
        netlink: &mut Rtnetlink,
        link: &Link,
        facts: &Facts,
    ) -> Result<(), NetlinkError> {
        let dirty = std::mem::take(&mut self.dirty);
        let steps = match self.compare || self.has_fault() {
            // A node that goes may have kept another out.
            true => None,
            false => self.follow(link, facts, dirty),
        };
        let failures = match steps {
            Some(steps) if steps.is_empty() => return Ok(()),
            Some(steps) => peers::execute(netlink, link, &steps)?,
            None => {
                self.put_together(facts);
                peers::reconcile(netlink, link, &self.table)?.failures
            }
        };
        self.compare = false;
        self.failures = failures.iter().map(|failure| describe(&failure.error)).collect();
        Ok(())
    }

    /// The steps for the nodes that changed; none where they have to be put together anew.
    fn follow(&mut self, link: &Link, facts: &Facts, dirty: BTreeSet<Arc<str>>) -> Option<Vec<PeerStep>> {
        let mut steps = Vec::new();
        let mut changed = Vec::new();
        for name in dirty {
            let before = self.known.remove(&name);
            if let Some(before) = before {
                self.table.remove(before.tunnel);
            }
            let after = facts.other(&name).and_then(|node| self.peer(node));
            changed.push((name, before, after));
        }
        for (name, before, after) in changed {
            if let Some(after) = after {
                self.table.insert(after).ok()?;
                self.known.insert(name, after);
            }
            if before != after {
                steps.extend(peers::change(link.index, before, after));
            }
        }
        // What goes may have become another's in the same moment.
        let (gone, come): (Vec<PeerStep>, Vec<PeerStep>) = steps.into_iter().partition(PeerStep::is_removal);
        Some(gone.into_iter().chain(come).collect())
    }

    fn put_together(&mut self, facts: &Facts) {
        self.table = PeerTable::new();
        self.known.clear();
        self.conflicts.clear();
        for node in facts.others() {
            let Some(peer) = self.peer(node) else { continue };
            match self.table.insert(peer) {
                Ok(()) => drop(self.known.insert(node.name.clone(), peer)),
                Err(conflict) => self.conflicts.push(format!("node {}: {conflict}", node.name)),
            }
        }
    }

    /// What the device has to know of a node; nothing as long as that has no device of this kind.
    fn peer(&self, node: &ClusterNode) -> Option<TunnelPeer> {
        let is_ipv4 = self.kind.is_ipv4();
        Some(TunnelPeer {
            mac: mac_of(node, family(self.kind)),
            tunnel: node.vxlan(is_ipv4)?,
            node: node.address(is_ipv4)?,
        })
    }
}

/// The Ethernet address of a node's VXLAN device, this one's or another's.
pub(super) fn mac_of(node: &ClusterNode, family: Family) -> MacAddress {
    let stated = node.vxlan_mac.filter(|_| family == Family::V4);
    stated.map_or_else(|| derived_mac(&node.name, family), MacAddress::new)
}
