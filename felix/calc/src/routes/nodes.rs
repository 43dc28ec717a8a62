//! What is known of a node, as far as packets between nodes are concerned.

use crate::address_book::AddressBook;
use crate::tunnel_ends::TunnelKind;
use dataplane_api::ClusterNode;
use ipnet::IpNet;
use policy_model::NodeSpec;
use policy_model_selector::index::Symbol;
use std::net::IpAddr;
use std::sync::Arc;

/// A node by its own object.
#[derive(PartialEq)]
pub(super) struct Node {
    pub(super) name: Arc<str>,
    /// The first of a family is the one by which others reach it.
    pub(super) addresses: Arc<[IpAddr]>,
    /// The subnets that its addresses stand in, where they are known.
    subnets: Box<[IpNet]>,
    /// The addresses of its tunnel devices by its own word, in the order of [`TunnelKind`].
    ends: [Option<IpAddr>; 3],
    vxlan_mac: Option<[u8; 6]>,
    /// The ranges that the cluster gave it for pods.
    pub(super) ranges: Box<[IpNet]>,
}

impl Node {
    pub(super) fn of(name: &str, spec: &NodeSpec) -> Self {
        let bgp = spec.bgp.as_ref();
        let subnets = bgp
            .iter()
            .flat_map(|bgp| [bgp.ipv4_address, bgp.ipv6_address])
            .flatten();
        let ipip = bgp.and_then(|bgp| bgp.ipv4_ipip_tunnel_addr);
        Node {
            name: name.into(),
            addresses: spec.all_addresses().into(),
            subnets: subnets.map(|net| net.trunc()).collect(),
            ends: [
                ipip.map(IpAddr::V4),
                spec.ipv4_vxlan_tunnel_addr.map(IpAddr::V4),
                spec.ipv6_vxlan_tunnel_addr.map(IpAddr::V6),
            ],
            vxlan_mac: mac(&spec.vxlan_tunnel_mac_addr),
            ranges: spec.pod_cidrs.iter().map(IpNet::trunc).collect(),
        }
    }

    /// The address by which others reach it.
    pub(super) fn address(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .find(|address| address.is_ipv4() == is_ipv4)
            .copied()
    }

    /// Whether an address stands in a subnet of this node's.
    pub(super) fn shares_subnet(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(&address))
    }

    /// The address of its device of a kind: by the blocks, else by its own word, else the first of its own range, which
    /// no pod gets. The last only where pods have their addresses from these ranges.
    pub(super) fn end(
        &self,
        node: Symbol,
        kind: TunnelKind,
        book: &AddressBook,
        from_ranges: bool,
    ) -> Option<IpAddr> {
        let by_range = || {
            let ranges = self.ranges.iter().filter(|_| from_ranges);
            ranges.map(IpNet::network).find(|first| kind.fits(*first))
        };
        book.tunnel_end(node, kind)
            .or_else(|| self.ends.get(kind as usize).copied().flatten())
            .or_else(by_range)
    }

    /// What the hands are told of it.
    pub(super) fn as_told(
        &self,
        node: Symbol,
        is_here: bool,
        book: &AddressBook,
        from_ranges: bool,
    ) -> ClusterNode {
        let v4 = |kind| match self.end(node, kind, book, from_ranges) {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        };
        ClusterNode {
            name: self.name.clone(),
            is_here,
            addresses: self.addresses.clone(),
            ipip: v4(TunnelKind::Ipip),
            vxlan4: v4(TunnelKind::Vxlan4),
            vxlan6: match self.end(node, TunnelKind::Vxlan6, book, from_ranges) {
                Some(IpAddr::V6(address)) => Some(address),
                _ => None,
            },
            vxlan_mac: self.vxlan_mac,
        }
    }
}

/// An Ethernet address as six pairs of digits with colons between them.
fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ethernet_address_is_six_pairs_of_digits() {
        assert_eq!(mac("66:00:ff:0a:01:02"), Some([0x66, 0, 0xff, 0x0a, 1, 2]));
        for wrong in [
            "",
            "66:00:ff:0a:01",
            "66:00:ff:0a:01:02:03",
            "6:00:ff:0a:01:02",
            "66-00-ff-0a-01-02",
            "+6:00:ff:0a:01:0g",
        ] {
            assert_eq!(mac(wrong), None, "{wrong}");
        }
    }
}
