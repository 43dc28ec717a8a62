//! Ports of the node that lead to pods: what an attachment's amount to, and whether two ask for the same.

use crate::journal::Attachment;
use crate::protocol::{PortMapping, Transport};
use dataplane_api::HostPort;
use policy_model::Protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

impl Attachment {
    /// The ports of the node that lead here, each with where it leads. A port without an address is one of every address
    /// of the families that the pod has; one of an address whose family the pod has not leads nowhere.
    pub fn mapped_ports(&self) -> Vec<(HostPort, SocketAddr)> {
        let mut all: Vec<(HostPort, SocketAddr)> = Vec::new();
        for mapping in &self.host_ports {
            for is_v4 in [true, false] {
                // One packet cannot go to two addresses: of several of a family it is the first.
                let inside = self.addresses.iter().find(|a| a.is_ipv4() == is_v4);
                let every = || match is_v4 {
                    true => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    false => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                };
                let outside = mapping.host_ip.unwrap_or_else(every);
                if let Some(inside) = inside.filter(|_| outside.is_ipv4() == is_v4) {
                    let port = HostPort {
                        protocol: protocol(mapping.protocol),
                        address: outside,
                        port: mapping.host_port,
                    };
                    all.push((port, SocketAddr::new(*inside, mapping.container_port)));
                }
            }
        }
        all
    }
}

fn protocol(transport: Transport) -> Protocol {
    match transport {
        Transport::Tcp => Protocol::TCP,
        Transport::Udp => Protocol::UDP,
        Transport::Sctp => Protocol::SCTP,
    }
}

/// Whether a packet could be meant for both, as two sockets of a node would be in each other's way.
pub(crate) fn collide(one: &PortMapping, other: &PortMapping) -> bool {
    let every = |mapping: &PortMapping, other: IpAddr| {
        mapping
            .host_ip
            .is_none_or(|ip| ip.is_unspecified() && ip.is_ipv4() == other.is_ipv4())
    };
    let same_place = match (one.host_ip, other.host_ip) {
        (None, _) | (_, None) => true,
        (Some(a), Some(b)) => a == b || every(one, b) || every(other, a),
    };
    one.protocol == other.protocol && one.host_port == other.host_port && same_place
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
mod tests {
    use super::*;

    fn mapping(protocol: Transport, host_ip: &str, host_port: u16) -> PortMapping {
        PortMapping {
            protocol,
            host_ip: host_ip.parse().ok(),
            host_port,
            container_port: 80,
        }
    }

    #[test]
    fn only_ports_of_one_place_collide() {
        use Transport::{Tcp, Udp};
        let cases = [
            ((Tcp, "", 80), (Tcp, "", 80), true),
            ((Tcp, "", 80), (Udp, "", 80), false),
            ((Tcp, "", 80), (Tcp, "", 81), false),
            ((Tcp, "", 80), (Tcp, "127.0.0.1", 80), true),
            ((Tcp, "", 80), (Tcp, "::1", 80), true),
            ((Tcp, "0.0.0.0", 80), (Tcp, "192.0.2.1", 80), true),
            ((Tcp, "0.0.0.0", 80), (Tcp, "2001:db8::1", 80), false),
            ((Tcp, "0.0.0.0", 80), (Tcp, "::", 80), false),
            ((Tcp, "127.0.0.1", 80), (Tcp, "192.0.2.1", 80), false),
            ((Tcp, "192.0.2.1", 80), (Tcp, "192.0.2.1", 80), true),
        ];
        for (a, b, expected) in cases {
            let (one, other) = (mapping(a.0, a.1, a.2), mapping(b.0, b.1, b.2));
            assert_eq!(collide(&one, &other), expected, "{one:?} {other:?}");
            assert_eq!(collide(&other, &one), expected, "{other:?} {one:?}");
        }
    }
}
