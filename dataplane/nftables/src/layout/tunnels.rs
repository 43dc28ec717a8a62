//! Tunnels between nodes: who may send into them, and what.
//!
//! A tunnelled packet is unwrapped on this node and then goes on as if it came from a neighbour: whoever may send one says
//! what he likes in whoever's name. So it is let in from the cluster's nodes only, and a workload sends none at all. The
//! guard is asked before anything that knows connections, and only while there is a device that would unwrap.

use super::names::{NODES4, NODES6};
use super::settings::LayoutSettings;
use crate::wire::{
    CmpOp, Expr, OnHit, PayloadBase, Source, Value, Verdict, compare, concat, drop_counted, only_family,
    only_protocol,
};
use dataplane_tables::{TunnelsFromWorkloads, TunnelsInUse};
use policy_model::Protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// The protocol that says that an IPv4 packet is inside.
const IPIP: u8 = 4;
/// The devices that lead into tunnels: IPIP, VXLAN over IPv4, VXLAN over IPv6.
pub(super) const DEVICES: [&str; 3] = ["tunl0", "vxlan.calico", "vxlan-v6.calico"];

/// The families of the packets that carry VXLAN here.
fn vxlan_families(in_use: TunnelsInUse) -> impl Iterator<Item = IpAddr> {
    let families = [(in_use.vxlan4, V4), (in_use.vxlan6, V6)].into_iter();
    families.filter(|(used, _)| *used).map(|(_, family)| family)
}

/// Tunnelled packets that workloads may not send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusedTunnels {
    /// Whether that is so of IPv4 inside IPv4 or IPv6.
    pub ipip: bool,
    /// The UDP port of VXLAN, where that is so of it.
    pub vxlan_port: Option<u16>,
}

impl RefusedTunnels {
    /// What the settings refuse.
    pub(super) fn by(settings: &LayoutSettings) -> Self {
        let TunnelsFromWorkloads { ipip, vxlan } = settings.tunnels_from_workloads;
        RefusedTunnels {
            ipip: !ipip,
            vxlan_port: (!vxlan).then_some(settings.vxlan_port),
        }
    }

    /// Whether a workload may not send a packet of this protocol to this port.
    pub fn refuses(&self, protocol: Protocol, port: u16) -> bool {
        let is_ipip = self.ipip && protocol.number() == IPIP;
        is_ipip || protocol == Protocol::UDP && self.vxlan_port == Some(port)
    }

    /// The rules for packets that come from workloads.
    pub(super) fn rules(&self) -> Vec<Vec<Expr>> {
        let ipip = self.ipip.then(|| only_protocol(IPIP).to_vec());
        let vxlan = self.vxlan_port.map(to_port);
        let drop = |what: Vec<Expr>| [what, drop_counted().to_vec()].concat();
        ipip.into_iter().chain(vxlan).map(drop).collect()
    }
}

/// The rules of the guard in front of the node's own programs. Other packets are told apart by their protocol at once.
///
/// What is let in needs no other rule of ours: it is unwrapped, and what was inside passes all chains for itself.
pub(super) fn rules(in_use: TunnelsInUse, settings: &LayoutSettings) -> Vec<Vec<Expr>> {
    let guard = |of: Vec<Expr>, family| {
        let accepted = [
            of.clone(),
            with_node(family, true),
            vec![Expr::Verdict(Verdict::Accept)],
        ];
        let dropped = [of, only_family(family).to_vec(), drop_counted().to_vec()];
        [accepted.concat(), dropped.concat()]
    };
    let mut rules = Vec::new();
    if in_use.ipip {
        rules.extend(guard(only_protocol(IPIP).to_vec(), V4));
    }
    for family in vxlan_families(in_use) {
        let ours = compare_network(settings.vxlan_vni);
        rules.extend(guard([to_port(settings.vxlan_port), ours].concat(), family));
    }
    rules
}

/// The rules that leave VXLAN's packets between nodes out of connection tracking, on their way in and out.
///
/// Each flow of what is inside has a source port of its own outside, so that every connection would be tracked twice, and
/// the second entry is of no use to anybody: packets of tunnels are judged one by one, by their sender. Only what goes to a
/// node of the cluster is meant. Packets of IPIP have no ports: one entry holds them all and costs little, and a firewall
/// of the administrator's may rely on it.
pub(super) fn untracked_rules(in_use: TunnelsInUse, settings: &LayoutSettings) -> Vec<Vec<Expr>> {
    let untracked = |family| {
        let to_a_node = with_node(family, false);
        [to_port(settings.vxlan_port), to_a_node, vec![Expr::NoTrack]].concat()
    };
    vxlan_families(in_use).map(untracked).collect()
}

/// `udp dport PORT`.
fn to_port(port: u16) -> Vec<Expr> {
    let mut exprs = only_protocol(Protocol::UDP.number()).to_vec();
    exprs.extend(compare(Source::DestinationPort, CmpOp::Eq, Value::port(port)));
    exprs
}

/// `@th,96,24 NUMBER`: behind the UDP header (8 bytes) and the flags of the VXLAN header (4 bytes) stands the number of the
/// network.
fn compare_network(number: u32) -> Vec<Expr> {
    let [_, high, middle, low] = number.to_be_bytes();
    vec![
        Expr::payload(PayloadBase::Transport, 12, 3),
        Expr::equals(Value::bytes(&[high, middle, low])),
    ]
}

/// `ip saddr @nodes4`, or `ip daddr @nodes4`.
fn with_node(family: IpAddr, is_source: bool) -> Vec<Expr> {
    let nodes = if family.is_ipv4() { NODES4 } else { NODES6 };
    let mut exprs = only_family(family).to_vec();
    exprs.extend(concat([Source::address(family, is_source)]));
    exprs.push(Expr::lookup(nodes, OnHit::Match));
    exprs
}
