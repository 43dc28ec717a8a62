//! What is asked for one workload's interface, and whether that can be.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::NetlinkError;
use crate::mac::MacAddress;
use crate::names::{InterfaceName, InterfacePrefixes};
use crate::namespace::{NamespaceError, NetworkNamespace};
use crate::sysctl::SysctlError;

/// The least and the largest packet of IPv4 and of a virtual pair, in bytes.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65_535;
/// The least packet that every link with IPv6 must carry, in bytes (RFC 8200, section 5).
const MTU_V6: u32 = 1280;

/// A workload's interface as it is to be.
#[derive(Debug)]
pub struct ConnectRequest<'namespace> {
    /// The workload's sandbox.
    pub namespace: &'namespace NetworkNamespace,
    /// The interface's name inside, usually `eth0`.
    pub container_interface: InterfaceName,
    /// The interface's name on the node (see [`crate::host_interface_name`]).
    pub host_interface: InterfaceName,
    /// The workload's addresses. Without an IPv6 address IPv6 is off on both sides, link-local included.
    pub addresses: Vec<IpAddr>,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// The Ethernet address inside; the kernel chooses, and it stays, where it is absent.
    pub container_mac: Option<MacAddress>,
    /// What is reached through the interface; everything, where the list is empty.
    pub routes: Vec<IpNet>,
}

/// A request that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// The name on the node has none of our prefixes, so we would not know the interface again.
    #[error("host interface {name}: it begins with none of the configured prefixes")]
    NotOurName {
        /// The name.
        name: InterfaceName,
    },
    /// There is no address at all.
    #[error("interface {interface}: no address")]
    NoAddress {
        /// The interface on the node.
        interface: InterfaceName,
    },
    /// An address that no workload can have.
    #[error("interface {interface}: address {address}: {reason}")]
    Address {
        /// The interface on the node.
        interface: InterfaceName,
        /// The address.
        address: IpAddr,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A packet size that the interface cannot have.
    #[error("interface {interface}: mtu {mtu}: {reason}")]
    Mtu {
        /// The interface on the node.
        interface: InterfaceName,
        /// The size, in bytes.
        mtu: u32,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// An Ethernet address that the interface cannot have.
    #[error("interface {interface}: Ethernet address {mac}: {reason}")]
    Mac {
        /// The interface on the node.
        interface: InterfaceName,
        /// The address.
        mac: MacAddress,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A route of a family of which the workload has no address.
    #[error("interface {interface}: route {route}: the workload has no address of that family")]
    Route {
        /// The interface on the node.
        interface: InterfaceName,
        /// The destination.
        route: IpNet,
    },
}

/// Why a workload could not be connected, disconnected or checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// The request cannot be. Trying again does not help.
    #[error("connect workload")]
    Invalid(#[from] InvalidRequest),
    /// The sandbox could not be entered; it may have gone.
    #[error("connect workload interface {interface}")]
    Namespace {
        /// The interface on the node.
        interface: InterfaceName,
        /// Why.
        #[source]
        source: NamespaceError,
    },
    /// The kernel refused something.
    #[error("workload interface {interface}")]
    Netlink {
        /// The interface on the node.
        interface: InterfaceName,
        /// What, and why.
        #[source]
        source: NetlinkError,
    },
    /// A setting could not be written.
    #[error("workload interface {interface}")]
    Sysctl {
        /// The interface on the node.
        interface: InterfaceName,
        /// Which, and why.
        #[source]
        source: SysctlError,
    },
    /// The name on the node belongs to an interface that is not a workload's. It was left alone.
    #[error("host interface {interface} exists and is not ours: {reason}")]
    ForeignHostInterface {
        /// The interface on the node.
        interface: InterfaceName,
        /// How that is known.
        reason: String,
    },
    /// The name inside belongs to an interface that is not the other end of ours. It was left alone.
    #[error("interface {container_interface} exists in the sandbox and is not the other end of {interface}")]
    ForeignContainerInterface {
        /// The interface on the node.
        interface: InterfaceName,
        /// The interface inside.
        container_interface: InterfaceName,
    },
    /// The interface vanished while it was worked on.
    #[error("interface {interface} vanished while it was being configured")]
    Vanished {
        /// The interface.
        interface: InterfaceName,
    },
}

impl ConnectRequest<'_> {
    /// Whether the workload has an IPv4 address.
    pub fn has_v4(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv4)
    }

    /// Whether the workload has an IPv6 address.
    pub fn has_v6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }

    /// Checks the request against the rules that need no kernel.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self, prefixes: &InterfacePrefixes) -> Result<(), InvalidRequest> {
        let interface = self.host_interface.clone();
        if !prefixes.is_ours(interface.as_str()) {
            return Err(InvalidRequest::NotOurName { name: interface });
        }
        if self.addresses.is_empty() {
            return Err(InvalidRequest::NoAddress { interface });
        }
        for (place, address) in self.addresses.iter().enumerate() {
            let reason = if self
                .addresses
                .iter()
                .take(place)
                .any(|earlier| earlier == address)
            {
                Some("it is named twice")
            } else {
                address_flaw(*address)
            };
            if let Some(reason) = reason {
                return Err(InvalidRequest::Address {
                    interface,
                    address: *address,
                    reason,
                });
            }
        }
        let mtu_flaw = if !MTU_RANGE.contains(&self.mtu) {
            Some("it is not from 68 to 65535")
        } else if self.has_v6() && self.mtu < MTU_V6 {
            Some("IPv6 needs at least 1280")
        } else {
            None
        };
        if let Some(reason) = mtu_flaw {
            return Err(InvalidRequest::Mtu {
                interface,
                mtu: self.mtu,
                reason,
            });
        }
        if let Some(mac) = self.container_mac {
            let reason = if !mac.is_usable() {
                Some("it is a group address or zero")
            } else if mac == MacAddress::HOST_SIDE {
                Some("it is that of the host side")
            } else {
                None
            };
            if let Some(reason) = reason {
                return Err(InvalidRequest::Mac {
                    interface,
                    mac,
                    reason,
                });
            }
        }
        for route in &self.routes {
            let has_family = if route.addr().is_ipv4() {
                self.has_v4()
            } else {
                self.has_v6()
            };
            if !has_family {
                return Err(InvalidRequest::Route {
                    interface,
                    route: *route,
                });
            }
        }
        Ok(())
    }
}

/// Says why no workload can have an address.
fn address_flaw(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast {
        Some("it is not an address of one machine")
    } else if link_local {
        Some("it is a link-local address, which the gateway needs")
    } else {
        None
    }
}
