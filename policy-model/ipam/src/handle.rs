//! The names under which addresses are held, so that whoever made them can find and release them.

use crate::{block, name};
use policy_model::{IpamBlockSpec, IpamHandleSpec};

/// Attribute that names the pod's namespace.
pub const ATTRIBUTE_NAMESPACE: &str = "namespace";
/// Attribute that names the pod.
pub const ATTRIBUTE_POD: &str = "pod";
/// Attribute that names the node on which the address is used.
pub const ATTRIBUTE_NODE: &str = "node";
/// Attribute that holds the pod's UID.
pub const ATTRIBUTE_UID: &str = "uid";
/// Attribute that says when the address was given (RFC 3339, by the caller's clock).
pub const ATTRIBUTE_TIMESTAMP: &str = "timestamp";
/// Attribute that says what the address is for, where it is not a pod's: `ipipTunnelAddress` and such.
pub const ATTRIBUTE_TYPE: &str = "type";

/// What the attribute `type` says of the address of an IPIP device.
pub const TYPE_IPIP_TUNNEL: &str = "ipipTunnelAddress";
/// The same of a VXLAN device.
pub const TYPE_VXLAN_TUNNEL: &str = "vxlanTunnelAddress";
/// The same of a VXLAN device for IPv6.
pub const TYPE_VXLAN_V6_TUNNEL: &str = "vxlanV6TunnelAddress";

/// The handle of a pod's attachment to a network.
pub fn of_container(network: &str, container_id: &str) -> String {
    format!("{network}.{container_id}")
}

/// The handle of the addresses that a node has reserved ahead of need.
///
/// They are taken in the block, so no other node can borrow them, and belong to no pod yet.
pub fn of_reserve(node: &str) -> String {
    format!("manx-reserve-{node}")
}

/// The handle of the address of a node's IPIP device.
pub fn of_ipip_tunnel(node: &str) -> String {
    format!("ipip-tunnel-addr-{node}")
}

/// The handle of the address of a node's VXLAN device.
pub fn of_vxlan_tunnel(node: &str) -> String {
    format!("vxlan-tunnel-addr-{node}")
}

/// The handle of the address of a node's VXLAN device for IPv6.
pub fn of_vxlan_v6_tunnel(node: &str) -> String {
    format!("vxlan-v6-tunnel-addr-{node}")
}

/// The handle of the address of a node's WireGuard device.
pub fn of_wireguard_tunnel(node: &str) -> String {
    format!("wireguard-tunnel-addr-{node}")
}

/// The handles of a node itself: of its reserve and of the addresses of its tunnels.
pub fn all_of_node(node: &str) -> [String; 5] {
    [
        of_reserve(node),
        of_ipip_tunnel(node),
        of_vxlan_tunnel(node),
        of_vxlan_v6_tunnel(node),
        of_wireguard_tunnel(node),
    ]
}

/// Whether a handle is of a node itself (a reserve or a tunnel's address) rather than of a pod.
pub fn is_of_node(handle: &str, node: &str) -> bool {
    all_of_node(node).iter().any(|own| own == handle)
}

/// What a handle object would say, read from the blocks, which are the only truth.
pub fn derive<'a>(handle: &str, blocks: impl IntoIterator<Item = &'a IpamBlockSpec>) -> IpamHandleSpec {
    let mut spec = IpamHandleSpec {
        handle_id: handle.to_owned(),
        ..IpamHandleSpec::default()
    };
    for block in blocks {
        let held = block::holders(block)
            .filter(|h| h.attribute.handle_id.as_deref() == Some(handle))
            .count();
        if held > 0 {
            spec.block.insert(
                name::of_cidr(&block.cidr),
                u32::try_from(held).unwrap_or(u32::MAX),
            );
        }
    }
    spec
}
