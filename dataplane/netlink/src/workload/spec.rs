//! What is wanted on either side of a workload's interface. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::links::{AdminState, LinkSpec};
use crate::mac::MacAddress;
use crate::names::InterfaceName;
use crate::neighbours::NeighbourSpec;
use crate::routes::{DEVICE_PROTOCOL, Reach, RouteOwnership, RouteTable, RouteTarget};
use crate::sysctl::{Protocol, SysctlKey, SysctlSpec};
use crate::workload::request::ConnectRequest;

/// A workload's gateway for IPv4. No interface has it: the neighbour entry inside, or the host side's
/// answering for others, makes it reachable.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Whether packets whose sender would not be answered through the interface they came from are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReversePath {
    /// They pass.
    Off,
    /// They are dropped (RFC 3704, strict).
    #[default]
    Strict,
    /// They are dropped if their sender is not reachable at all.
    Loose,
}

impl ReversePath {
    /// Returns the kernel's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Strict => 1,
            Self::Loose => 2,
        }
    }
}

/// What is wanted on one side.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub(crate) link: LinkSpec,
    pub(crate) sysctls: Vec<SysctlSpec>,
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) neighbours: Vec<NeighbourSpec>,
    pub(crate) routes: RouteTable,
}

/// Returns the routes that lead from the node to a workload.
pub fn device_routes(
    interface: &InterfaceName,
    addresses: impl IntoIterator<Item = IpAddr>,
    sources: RouteSources,
) -> impl Iterator<Item = (IpNet, RouteTarget)> {
    addresses.into_iter().map(move |address| {
        (
            IpNet::from(address),
            RouteTarget::Device {
                interface: interface.clone(),
                source: sources.of(address),
            },
        )
    })
}

/// The addresses that the node's own packets to its workloads take; where there is none, the kernel chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteSources {
    /// For IPv4.
    pub v4: Option<Ipv4Addr>,
    /// For IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl RouteSources {
    /// The address for packets to a destination.
    fn of(self, destination: IpAddr) -> Option<IpAddr> {
        match destination {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }
}

/// Returns the neighbour entries that the node needs for a workload.
pub fn device_neighbours(mac: MacAddress, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<NeighbourSpec> {
    addresses
        .into_iter()
        .map(|address| NeighbourSpec { address, mac })
        .collect()
}

/// Returns the settings of the node's side of a workload's interface.
pub fn host_sysctls(interface: &InterfaceName, reverse_path: ReversePath, v6: IpV6) -> Vec<SysctlSpec> {
    let v4 = |setting, value: u8| {
        SysctlSpec::required(SysctlKey::interface(Protocol::Ipv4, interface, setting), value)
    };
    let v6_setting = |setting, value: u8| {
        SysctlSpec::required(SysctlKey::interface(Protocol::Ipv6, interface, setting), value)
    };
    let mut settings = vec![
        // Before the interface answers for others, it must not wait to do so.
        SysctlSpec::required(SysctlKey::neighbour(Protocol::Ipv4, interface, "proxy_delay"), 0),
        v4("rp_filter", reverse_path.number()),
        v4("route_localnet", 1),
        v4("proxy_arp", 1),
        v4("forwarding", 1),
    ];
    match v6 {
        IpV6::Off => settings.push(SysctlSpec::if_present(
            SysctlKey::interface(Protocol::Ipv6, interface, "disable_ipv6"),
            1,
        )),
        IpV6::On => settings.extend([
            // The link-local address is written by us, so that it is the gateway's whatever the node's default.
            v6_setting("addr_gen_mode", 1),
            v6_setting("accept_dad", 0),
            // A workload must not be able to give the node routes.
            v6_setting("accept_ra", 0),
            v6_setting("disable_ipv6", 0),
            v6_setting("proxy_ndp", 1),
            v6_setting("forwarding", 1),
        ]),
    }
    settings
}

/// Whether a workload has IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpV6 {
    /// It has an IPv6 address.
    On,
    /// It has none, and is to have no link-local one either.
    Off,
}

impl IpV6 {
    fn of(request: &ConnectRequest<'_>) -> Self {
        if request.has_v6() { Self::On } else { Self::Off }
    }
}

/// Returns what is wanted inside.
pub(crate) fn container(request: &ConnectRequest<'_>) -> Side {
    let interface = &request.container_interface;
    let mut routes = RouteTable::new();
    let mut neighbours = Vec::new();
    let everything: Vec<IpNet>;
    let destinations = if request.routes.is_empty() {
        everything = request
            .addresses
            .iter()
            .map(|address| match address {
                IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
                IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
            })
            .collect();
        &everything
    } else {
        &request.routes
    };
    if request.has_v4() {
        let gateway = IpAddr::V4(GATEWAY_V4);
        neighbours.push(NeighbourSpec {
            address: gateway,
            mac: MacAddress::HOST_SIDE,
        });
        routes.insert(
            gateway.into(),
            RouteTarget::Device {
                interface: interface.clone(),
                source: None,
            },
        );
    }
    if request.has_v6() {
        let gateway = IpAddr::V6(MacAddress::HOST_SIDE.link_local());
        neighbours.push(NeighbourSpec {
            address: gateway,
            mac: MacAddress::HOST_SIDE,
        });
    }
    for destination in destinations {
        let gateway = match destination {
            IpNet::V4(_) => IpAddr::V4(GATEWAY_V4),
            IpNet::V6(_) => IpAddr::V6(MacAddress::HOST_SIDE.link_local()),
        };
        let target = RouteTarget::Gateway {
            gateway,
            interface: Some(interface.clone()),
            reach: Reach::Routed,
        };
        routes.insert(*destination, target);
    }
    let setting = |setting| SysctlKey::interface(Protocol::Ipv6, interface, setting);
    let sysctls = match IpV6::of(request) {
        IpV6::Off => vec![SysctlSpec::if_present(setting("disable_ipv6"), 1)],
        IpV6::On => vec![
            SysctlSpec::required(setting("accept_dad"), 0),
            SysctlSpec::required(setting("disable_ipv6"), 0),
        ],
    };
    Side {
        link: LinkSpec {
            mtu: Some(request.mtu),
            mac: request.container_mac,
            state: AdminState::Up,
        },
        sysctls,
        addresses: request
            .addresses
            .iter()
            .map(|address| IpNet::from(*address))
            .collect(),
        neighbours,
        routes,
    }
}

/// Returns what is wanted on the node.
pub(crate) fn host(
    request: &ConnectRequest<'_>,
    container_mac: MacAddress,
    reverse_path: ReversePath,
    sources: RouteSources,
) -> Side {
    let interface = &request.host_interface;
    let v6 = IpV6::of(request);
    let link_local = match v6 {
        IpV6::On => IpNet::new(MacAddress::HOST_SIDE.link_local().into(), 64).ok(),
        IpV6::Off => None,
    };
    Side {
        link: LinkSpec {
            mtu: Some(request.mtu),
            mac: Some(MacAddress::HOST_SIDE),
            state: AdminState::Up,
        },
        sysctls: host_sysctls(interface, reverse_path, v6),
        addresses: link_local.into_iter().collect(),
        neighbours: device_neighbours(container_mac, request.addresses.iter().copied()),
        routes: device_routes(interface, request.addresses.iter().copied(), sources).collect(),
    }
}

/// Returns the marks that routes inside a workload get. Nothing there is told apart by them.
pub(crate) fn container_ownership() -> RouteOwnership {
    RouteOwnership {
        device_protocol: DEVICE_PROTOCOL,
        plain_protocol: DEVICE_PROTOCOL,
        ..RouteOwnership::default()
    }
}
