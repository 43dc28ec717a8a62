//! Settings that shape the chains: what an operator may choose.

use dataplane_tables::{EndpointToHost, Outgoing, Refusal, TunnelsFromWorkloads};

/// Settings that shape the chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutSettings {
    /// How the names of workload interfaces begin.
    pub interface_prefixes: Vec<String>,
    /// What happens to a workload's packet to its own node.
    pub endpoint_to_host: EndpointToHost,
    /// What happens to a packet that policy denies.
    pub refusal: Refusal,
    /// Whether a TCP packet that opens no connection may make a connection-tracking entry on workload interfaces.
    /// With `FlowsOnPolicyChange=Recheck` it must not: a deleted flow would come back through its next packet.
    pub refuse_midstream: bool,
    /// Whether packets with an invalid connection-tracking state are dropped.
    pub drop_invalid: bool,
    /// Whether interval maps are changed in place; otherwise a twin is built and switched to.
    pub intervals_in_place: bool,
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
}

impl Default for LayoutSettings {
    fn default() -> Self {
        LayoutSettings {
            interface_prefixes: vec!["cali".to_string()],
            endpoint_to_host: EndpointToHost::default(),
            refusal: Refusal::default(),
            refuse_midstream: false,
            drop_invalid: true,
            intervals_in_place: true,
            source_spoofing: false,
            outgoing: Outgoing::default(),
            vxlan_port: 4789,
            vxlan_vni: 4096,
            tunnels_from_workloads: TunnelsFromWorkloads::default(),
        }
    }
}
