//! Ports of the node that lead to what is attached: what of them changes. Pure.
//!
//! They follow from the journal alone, so that no order of attachments and removals can leave one behind or take one from
//! whom it belongs to.

use dataplane_api::{HostPort, Update};
use felix_cni::journal::Attachment;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Where ports of the node lead.
#[derive(Debug, Default)]
pub(super) struct HostPorts(BTreeMap<HostPort, SocketAddr>);

impl HostPorts {
    /// Takes over what is attached, in the order in which it came to be; returns what changes by that.
    pub(super) fn follow<'a>(
        &mut self,
        attachments: impl IntoIterator<Item = &'a Attachment>,
    ) -> Vec<Update> {
        // Who came last has a port that two ask for: the earlier one's pod is gone, only its removal was not heard of.
        let now: BTreeMap<HostPort, SocketAddr> = attachments
            .into_iter()
            .flat_map(Attachment::mapped_ports)
            .collect();
        let before = std::mem::replace(&mut self.0, now);
        let gone = before.keys().filter(|port| !self.0.contains_key(port));
        let gone = gone.map(|port| Update::HostPortRemoved(*port));
        let come = self.0.iter().filter(|(port, to)| before.get(port) != Some(to));
        let come = come.map(|(port, to)| Update::HostPort(*port, *to));
        gone.chain(come).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
mod tests {
    use super::*;
    use felix_cni::AttachmentKey;
    use felix_cni::protocol::{PortMapping, Transport};
    use policy_model::Protocol;

    fn attachment(container: &str, address: &str, host_port: u16) -> Attachment {
        Attachment {
            key: AttachmentKey {
                network: "n".into(),
                container_id: container.into(),
                interface: "eth0".into(),
            },
            namespace: "shop".into(),
            pod: container.into(),
            uid: String::new(),
            addresses: vec![address.parse().unwrap()],
            host_interface: format!("cali{container}"),
            boot_id: String::new(),
            mtu: 0,
            host_ports: vec![PortMapping {
                protocol: Transport::Tcp,
                host_ip: None,
                host_port,
                container_port: 80,
            }],
        }
    }

    fn port(port: u16) -> HostPort {
        HostPort {
            protocol: Protocol::TCP,
            address: "0.0.0.0".parse().unwrap(),
            port,
        }
    }

    fn leads(number: u16, to: &str) -> Update {
        Update::HostPort(port(number), to.parse().unwrap())
    }

    #[test]
    fn the_newest_has_a_port_and_the_end_of_an_older_one_takes_it_from_nobody() {
        let (old, new) = (
            attachment("old", "10.0.0.1", 8080),
            attachment("new", "10.0.0.2", 8080),
        );
        let mut ports = HostPorts::default();
        assert_eq!(ports.follow([&old]), [leads(8080, "10.0.0.1:80")]);
        assert_eq!(ports.follow([&old]), [], "nothing is said twice");
        assert_eq!(ports.follow([&old, &new]), [leads(8080, "10.0.0.2:80")]);
        assert_eq!(ports.follow([&new]), []);
        let other = attachment("new", "10.0.0.2", 9090);
        assert_eq!(
            ports.follow([&other]),
            [Update::HostPortRemoved(port(8080)), leads(9090, "10.0.0.2:80")]
        );
        assert_eq!(ports.follow([]), [Update::HostPortRemoved(port(9090))]);
    }
}
