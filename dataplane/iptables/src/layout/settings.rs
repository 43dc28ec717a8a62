//! Settings that shape the chains: what an operator may choose.

use super::marks::Marks;
use crate::ops::Place;
use dataplane_tables::{EndpointToHost, Outgoing, Refusal, TunnelsFromWorkloads};

/// What happens to a packet that our chains allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowAction {
    /// It is accepted: the rules behind ours in the same chain of the kernel's do not see it.
    #[default]
    Accept,
    /// It is left to the rules behind ours.
    Return,
}

/// Settings that shape the chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutSettings {
    /// How the names of workload interfaces begin.
    pub interface_prefixes: Vec<String>,
    /// What happens to a workload's packet to its own node.
    pub endpoint_to_host: EndpointToHost,
    /// What happens to a packet that policy denies.
    pub refusal: Refusal,
    /// What happens to a packet that is allowed.
    pub allow: AllowAction,
    /// Where the rules stand that lead from the kernel's chains to ours.
    pub place: Place,
    /// The bits of packet marks that are ours.
    pub marks: Marks,
    /// Whether a TCP packet that opens no connection may make a connection-tracking entry on workload interfaces.
    /// With `FlowsOnPolicyChange=Recheck` it must not: a deleted flow would come back through its next packet.
    pub refuse_midstream: bool,
    /// Whether packets of workloads with an invalid connection-tracking state are dropped.
    pub drop_invalid: bool,
    /// Whether a workload may also send from the networks that its endpoint names beside its addresses.
    pub source_spoofing: bool,
    /// How packets that leave all pools take an address of the node.
    pub outgoing: Outgoing,
    /// The UDP port of VXLAN.
    pub vxlan_port: u16,
    /// The number of our VXLAN network, 24 bits: what others do with theirs at the same port is left alone.
    pub vxlan_vni: u32,
    /// Which tunnelled packets workloads may send themselves.
    pub tunnels_from_workloads: TunnelsFromWorkloads,
    /// Most members that a set takes.
    pub max_set_elements: u32,
    /// Most members of the set that says ports and addresses of a group in one. A group that would need more has a set
    /// for each combination of ports, which other groups may share.
    pub max_merged_elements: usize,
}

impl Default for LayoutSettings {
    fn default() -> Self {
        LayoutSettings {
            interface_prefixes: vec!["cali".to_string()],
            endpoint_to_host: EndpointToHost::default(),
            refusal: Refusal::default(),
            allow: AllowAction::default(),
            place: Place::default(),
            marks: Marks::default(),
            refuse_midstream: false,
            drop_invalid: true,
            source_spoofing: false,
            outgoing: Outgoing::default(),
            vxlan_port: 4789,
            vxlan_vni: 4096,
            tunnels_from_workloads: TunnelsFromWorkloads::default(),
            max_set_elements: 1_048_576,
            max_merged_elements: 65_536,
        }
    }
}
