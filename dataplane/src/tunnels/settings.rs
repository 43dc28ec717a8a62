//! What an operator may choose about tunnels between nodes.

use dataplane_netlink::tunnels::offload::ChecksumOffload;
use dataplane_netlink::tunnels::vxlan::{DEFAULT_PORT, DEFAULT_VNI, Vni};

/// Whether a kind of tunnel is set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tunnelling {
    /// As long as a pool asks for it.
    #[default]
    ByPools,
    /// Always.
    On,
    /// Never: what a pool wants to be wrapped so goes nowhere.
    Off,
}

/// Settings of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelSettings {
    /// Whether there is an IPIP device.
    pub ipip: Tunnelling,
    /// Its largest packet, in bytes; found out where absent.
    pub ipip_mtu: Option<u32>,
    /// Whether there are VXLAN devices.
    pub vxlan: Tunnelling,
    /// The UDP port of VXLAN.
    pub vxlan_port: u16,
    /// The number of the VXLAN network.
    pub vxlan_vni: Vni,
    /// The largest packet of the device for IPv4, in bytes; found out where absent.
    pub vxlan_mtu: Option<u32>,
    /// The largest packet of the device for IPv6, in bytes; found out where absent.
    pub vxlan_mtu_v6: Option<u32>,
    /// Who computes the checksums of packets into tunnels, where somebody decided that; otherwise it is found out.
    pub checksum_offload: Option<ChecksumOffload>,
}

impl Default for TunnelSettings {
    fn default() -> Self {
        TunnelSettings {
            ipip: Tunnelling::default(),
            ipip_mtu: None,
            vxlan: Tunnelling::default(),
            vxlan_port: DEFAULT_PORT,
            vxlan_vni: DEFAULT_VNI,
            vxlan_mtu: None,
            vxlan_mtu_v6: None,
            checksum_offload: None,
        }
    }
}
