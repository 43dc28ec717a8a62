//! Tunnels between nodes: who may send into them, and what.
//!
//! A tunnelled packet is unwrapped on this node and then goes on as if it came from a neighbour: whoever may send one says
//! what he likes in whoever's name. So it is let in from the cluster's nodes only, and a workload sends none at all. The
//! guard is asked before anything that knows connections, and only while there is a device that would unwrap.

use super::names::{NODES4, NODES6};
use super::settings::LayoutSettings;
use crate::wire::{
    CmpOp, Expr, OnHit, PayloadBase, Source, Value, compare, concat, drop_counted, only_family, only_protocol,
};
use policy_model::Protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// The protocol that says that an IPv4 packet is inside.
const IPIP: u8 = 4;
/// The devices that lead into tunnels: IPIP, VXLAN over IPv4, VXLAN over IPv6.
pub(super) const DEVICES: [&str; 3] = ["tunl0", "vxlan.calico", "vxlan-v6.calico"];

/// Which tunnels unwrap packets on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelsInUse {
    /// IPIP.
    pub ipip: bool,
    /// VXLAN over IPv4.
    pub vxlan4: bool,
    /// VXLAN over IPv6.
    pub vxlan6: bool,
}

impl TunnelsInUse {
    /// Whether any is in use.
    pub fn any(self) -> bool {
        self.ipip || self.vxlan4 || self.vxlan6
    }
}

/// Which tunnelled packets workloads may send themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelsFromWorkloads {
    /// IPv4 inside IPv4 or IPv6.
    pub ipip: bool,
    /// What goes to the UDP port of VXLAN.
    pub vxlan: bool,
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
pub(super) fn rules(in_use: TunnelsInUse, settings: &LayoutSettings) -> Vec<Vec<Expr>> {
    let vxlan = || {
        let ours = compare_network(settings.vxlan_vni);
        [to_port(settings.vxlan_port), ours].concat()
    };
    let mut rules = Vec::new();
    if in_use.ipip {
        rules.push([only_protocol(IPIP).to_vec(), from_a_stranger(V4)].concat());
    }
    if in_use.vxlan4 {
        rules.push([vxlan(), from_a_stranger(V4)].concat());
    }
    if in_use.vxlan6 {
        rules.push([vxlan(), from_a_stranger(V6)].concat());
    }
    rules
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

/// `ip saddr != @nodes4 counter drop`.
fn from_a_stranger(family: IpAddr) -> Vec<Expr> {
    let nodes = if family.is_ipv4() { NODES4 } else { NODES6 };
    let mut exprs = only_family(family).to_vec();
    exprs.extend(concat([Source::address(family, true)]));
    exprs.push(Expr::lookup(nodes, OnHit::Fail));
    exprs.extend(drop_counted());
    exprs
}
