//! How a rule, before it meets the facts, names a set of addresses.

use ipnet::IpNet;
use policy_model::Protocol;
use policy_model_selector::Selector;

/// A set of addresses, or of (address, protocol, port) triples.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressSet {
    /// The addresses of all workload endpoints, host endpoints and network sets that a selector matches.
    Selected(Selector),
    /// These networks, sorted and without duplicates.
    Nets(Vec<IpNet>),
    /// The triples (address, protocol, port) of all endpoints that a selector matches and that declare a port of
    /// this name with this protocol.
    NamedPort {
        /// Which endpoints.
        selector: Selector,
        /// Name of the port.
        name: String,
        /// Protocol of the port.
        protocol: Protocol,
    },
    /// The addresses behind a Kubernetes Service; with its ports where `with_ports` is set (a destination).
    Service {
        /// Namespace of the Service.
        namespace: String,
        /// Name of the Service.
        name: String,
        /// Whether the members are (address, protocol, port) triples.
        with_ports: bool,
    },
}

impl AddressSet {
    /// Whether the members are (address, protocol, port) triples rather than networks.
    pub fn has_ports(&self) -> bool {
        match self {
            AddressSet::Selected(_) | AddressSet::Nets(_) => false,
            AddressSet::NamedPort { .. } => true,
            AddressSet::Service { with_ports, .. } => *with_ports,
        }
    }
}
