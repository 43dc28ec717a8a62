//! Tunnels between nodes: who may send into them, and what.
//!
//! A tunnelled packet is unwrapped on this node and then goes on as if it came from a neighbour: whoever may send one says
//! what he likes in whoever's name. So it is let in from the cluster's nodes only, and a workload sends none at all.

use super::rule::{End, Lookup, Match, Rule, Target};
use super::settings::LayoutSettings;
use crate::names;
use crate::ops::Family;
use dataplane_tables::{EVERYTHING, TunnelsFromWorkloads, TunnelsInUse};
use policy_model::Protocol;

/// The protocol that says that an IPv4 packet is inside.
const IPIP: u8 = 4;
/// The devices that lead into tunnels, by family of what is inside.
pub(super) fn devices(family: Family) -> &'static [&'static str] {
    match family {
        Family::Inet => &["tunl0", "vxlan.calico"],
        Family::Inet6 => &["vxlan-v6.calico"],
    }
}

/// What workloads may not send at all.
pub(super) fn from_workloads(settings: &LayoutSettings) -> Vec<Rule> {
    let TunnelsFromWorkloads { ipip, vxlan } = settings.tunnels_from_workloads;
    let mut rules = Vec::new();
    if !ipip {
        rules.push(Rule::new([Match::Protocol(IPIP)], Target::Drop));
    }
    if !vxlan {
        rules.push(Rule::new(to_port(settings.vxlan_port), Target::Drop));
    }
    rules
}

/// The guard in front of the node's own programs.
pub(super) fn rules(family: Family, in_use: TunnelsInUse, settings: &LayoutSettings) -> Vec<Rule> {
    let nodes = || Match::NotInSet(names::node_addresses(family), Lookup::Address(End::Source));
    let mut rules = Vec::new();
    if in_use.ipip && family == Family::Inet {
        rules.push(Rule::new([Match::Protocol(IPIP), nodes()], Target::Drop));
    }
    let vxlan = match family {
        Family::Inet => in_use.vxlan4,
        Family::Inet6 => in_use.vxlan6,
    };
    if vxlan {
        let mut told_apart = vec![Match::VxlanNetwork(settings.vxlan_vni)];
        if family == Family::Inet6 {
            // The network is looked for at a fixed place. What has more headers, and so has it elsewhere, is taken for ours.
            told_apart.push(Match::MoreHeaders);
        }
        for ours in told_apart {
            let mut is = to_port(settings.vxlan_port).to_vec();
            is.extend([nodes(), ours]);
            rules.push(Rule::new(is, Target::Drop));
        }
    }
    rules
}

fn to_port(port: u16) -> [Match; 2] {
    let protocol = Protocol::UDP.number();
    let ports = Match::Ports {
        protocol,
        destination: (port, port),
        source: EVERYTHING,
    };
    [Match::Protocol(protocol), ports]
}
