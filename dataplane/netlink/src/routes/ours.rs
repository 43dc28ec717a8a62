//! Which routes are ours: the one place that marks a route and recognises the mark.

use crate::names::InterfacePrefixes;
use crate::routes::spec::RouteTarget;

/// The protocol number of routes that are not to local workloads; nobody else is known to use it.
pub const PLAIN_PROTOCOL: u8 = 80;

/// The usual protocol number of routes to local workloads (`boot`, the setting `DeviceRouteProtocol`).
///
/// Many programs use it, so such a route is ours only on an interface of ours.
pub const DEVICE_PROTOCOL: u8 = 3;

/// How our routes are told from others'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteOwnership {
    /// Marks routes to local workloads, on their interfaces only.
    pub device_protocol: u8,
    /// Marks all other routes of ours, on whatever interface.
    pub plain_protocol: u8,
    /// The names of workload interfaces.
    pub prefixes: InterfacePrefixes,
}

impl Default for RouteOwnership {
    fn default() -> Self {
        Self {
            device_protocol: DEVICE_PROTOCOL,
            plain_protocol: PLAIN_PROTOCOL,
            prefixes: InterfacePrefixes::default(),
        }
    }
}

impl RouteOwnership {
    /// Returns the protocol number that a wanted route is marked with, so that [`Self::is_ours`] knows it again.
    pub fn protocol(&self, target: &RouteTarget) -> u8 {
        match target {
            RouteTarget::Device { interface, source: _ } if self.prefixes.is_ours(interface.as_str()) => {
                self.device_protocol
            }
            RouteTarget::Device { .. } | RouteTarget::Gateway { .. } | RouteTarget::Blackhole => {
                self.plain_protocol
            }
        }
    }

    /// Whether a route of the main table with this protocol number, out of this interface, is ours.
    pub fn is_ours(&self, protocol: u8, interface: Option<&str>) -> bool {
        protocol == self.plain_protocol
            || protocol == self.device_protocol && interface.is_some_and(|name| self.prefixes.is_ours(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_route_is_ours_on_our_interfaces_only() {
        let ownership = RouteOwnership::default();
        assert!(ownership.is_ours(DEVICE_PROTOCOL, Some("cali123")));
        assert!(!ownership.is_ours(DEVICE_PROTOCOL, Some("eth0")));
        assert!(!ownership.is_ours(DEVICE_PROTOCOL, None));
        assert!(ownership.is_ours(PLAIN_PROTOCOL, Some("eth0")));
        assert!(ownership.is_ours(PLAIN_PROTOCOL, None));
        for foreign in [2, 4, 12, 16] {
            assert!(!ownership.is_ours(foreign, Some("cali123")), "protocol {foreign}");
        }
    }
}
