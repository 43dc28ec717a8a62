//! Tunnels between nodes, which workloads may not imitate: what they send so would be taken for packets of a node.

use super::packet::Packet;
use policy_model::Protocol;

/// IP inside IP, in either family.
const IPIP: Protocol = Protocol::from_number(4);
/// The port of VXLAN where nobody set another.
const VXLAN_PORT: u16 = 4789;

/// Tunnels' packets that workloads may not send, whatever policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefusedTunnels {
    /// Whether IPIP is refused: every packet of IP protocol 4.
    pub ipip: bool,
    /// The UDP port to which nothing may be sent, that of VXLAN; none where VXLAN is not refused.
    pub vxlan_port: Option<u16>,
}

impl Default for RefusedTunnels {
    /// Both are refused, VXLAN at its usual port.
    fn default() -> Self {
        RefusedTunnels {
            ipip: true,
            vxlan_port: Some(VXLAN_PORT),
        }
    }
}

impl RefusedTunnels {
    /// Why a workload's packet is refused, as a sentence without its full stop; none where it is not.
    pub(super) fn why(&self, packet: &Packet<'_>) -> Option<String> {
        if self.ipip && packet.protocol == IPIP {
            return Some(sentence("IPIP (protocol 4)", "allowIPIPPacketsFromWorkloads"));
        }
        let port = self.vxlan_port?;
        (packet.protocol == Protocol::UDP && packet.destination.port == Some(port)).then(|| {
            sentence(
                &format!("VXLAN (UDP to port {port})"),
                "allowVXLANPacketsFromWorkloads",
            )
        })
    }
}

fn sentence(what: &str, setting: &str) -> String {
    format!("workloads may not send {what} themselves, unless {setting} of FelixConfiguration is true")
}
