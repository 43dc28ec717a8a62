//! IP pools: the ranges that workload addresses come from, and how they travel between nodes.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};

/// When traffic to a pool's addresses is wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EncapsulationMode {
    /// Never.
    #[default]
    Never,
    /// Between any two nodes.
    Always,
    /// Only between nodes that share no subnet.
    CrossSubnet,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolSpec {
    /// The range. Pools do not overlap.
    #[serde(deserialize_with = "crate::net::range")]
    pub cidr: IpNet,
    /// Whether IPIP wraps the traffic.
    #[serde(default, skip_serializing_if = "is_never")]
    pub ipip_mode: EncapsulationMode,
    /// Whether VXLAN wraps the traffic; not together with IPIP.
    #[serde(default, skip_serializing_if = "is_never")]
    pub vxlan_mode: EncapsulationMode,
    /// Whether traffic that leaves all pools takes the node's address.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nat_outgoing: bool,
    /// Whether new addresses are no longer taken from it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub disabled: bool,
    /// Which nodes take blocks of it; empty means all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_selector: String,
    /// Which namespaces' pods take addresses of it; empty means all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace_selector: String,
    /// Prefix length of a block; absent means 26 for IPv4 and 122 for IPv6.
    #[serde(
        default,
        deserialize_with = "block_size",
        skip_serializing_if = "Option::is_none"
    )]
    pub block_size: Option<u8>,
    /// What addresses are used for: `Workload`, `Tunnel`, `LoadBalancer`; empty means workloads and tunnels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_uses: Vec<String>,
    /// Whether its routes stay out of BGP.
    #[serde(default, rename = "disableBGPExport", skip_serializing_if = "is_false")]
    pub disable_bgp_export: bool,
    /// `Automatic`, or `Manual` for a pool that is used only by name; absent means Automatic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment_mode: Option<String>,
}

fn is_never(mode: &EncapsulationMode) -> bool {
    *mode == EncapsulationMode::Never
}

/// What fits no prefix length is refused here, the rest where the family is known.
fn block_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    let found = Option::<i64>::deserialize(deserializer)?;
    let fits = |size: i64| {
        u8::try_from(size).map_err(|_| {
            let lengths = "20 to 32 for IPv4, 116 to 128 for IPv6";
            serde::de::Error::custom(format!("{size} is no length of a prefix: write {lengths}"))
        })
    };
    found.map(fits).transpose()
}

fn is_false(value: &bool) -> bool {
    !*value
}

impl IpPoolSpec {
    /// An enabled pool without encapsulation.
    pub fn of(cidr: IpNet) -> Self {
        IpPoolSpec {
            cidr,
            ipip_mode: EncapsulationMode::Never,
            vxlan_mode: EncapsulationMode::Never,
            nat_outgoing: false,
            disabled: false,
            node_selector: String::new(),
            namespace_selector: String::new(),
            block_size: None,
            allowed_uses: Vec::new(),
            disable_bgp_export: false,
            assignment_mode: None,
        }
    }

    /// Prefix length of a block, with the family's default.
    pub fn block_prefix_len(&self) -> u8 {
        self.block_size.unwrap_or(match self.cidr {
            IpNet::V4(_) => 26,
            IpNet::V6(_) => 122,
        })
    }
}
