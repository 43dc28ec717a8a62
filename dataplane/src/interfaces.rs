//! Workload interfaces and routes: what the endpoints and the other nodes ask of the routing side.

use dataplane_api::{EndpointId, NodeRoute, WorkloadEndpoint};
use dataplane_netlink::addresses;
use dataplane_netlink::events::{Change, Event, Group, Monitor};
use dataplane_netlink::links::{self, Link};
use dataplane_netlink::neighbours;
use dataplane_netlink::nodes::{RemoteNet, insert_remote_nets};
use dataplane_netlink::routes::{self, Reach, RouteTable};
use dataplane_netlink::workload::{IpV6, WorkloadSettings, device_neighbours, device_routes, host_sysctls};
use dataplane_netlink::{InterfaceName, MacAddress, NetlinkError, Rtnetlink};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// What one reconciliation could not do. It is tried again at the next pass.
pub(crate) type Faults = Vec<String>;

/// The routing side of one node.
#[derive(Debug)]
pub(crate) struct Interfaces {
    settings: WorkloadSettings,
    netlink: Rtnetlink,
    monitor: Monitor,
    /// Interfaces of ours that exist, with their state.
    present: BTreeMap<String, Link>,
    /// Interfaces whose settings were written since they appeared, and whether for IPv6 too.
    configured: BTreeMap<u32, bool>,
    /// How many routes were wanted at the last pass.
    route_count: usize,
    remote: BTreeMap<IpNet, NodeRoute>,
    /// Whether routes must be compared again.
    dirty: bool,
    /// Whether the first list of interfaces has been read.
    read: bool,
}

impl Interfaces {
    pub(crate) fn open(settings: WorkloadSettings) -> Result<Self, NetlinkError> {
        Ok(Interfaces {
            netlink: Rtnetlink::open_with(settings.patience)?,
            settings,
            // Subscribed before the first list is read, so that nothing that changes meanwhile is lost.
            monitor: Monitor::open(&[Group::Links, Group::Routes])?,
            present: BTreeMap::new(),
            configured: BTreeMap::new(),
            route_count: 0,
            remote: BTreeMap::new(),
            dirty: true,
            read: false,
        })
    }

    /// Reads the list of interfaces.
    pub(crate) fn resync(&mut self) -> Result<(), NetlinkError> {
        let ours = |l: &Link| self.settings.ownership.prefixes.is_ours(l.name.as_str());
        let listed = links::list(&mut self.netlink)?;
        self.present = listed
            .into_iter()
            .filter(ours)
            .map(|l| (l.name.as_str().to_string(), l))
            .collect();
        // No event tells of settings that somebody else wrote, so they are compared now.
        self.configured.clear();
        self.dirty = true;
        self.read = true;
        Ok(())
    }

    /// Whether the interfaces have been read.
    pub(crate) fn is_read(&self) -> bool {
        self.read
    }

    /// Takes in what changed, and says whether anything of ours did.
    pub(crate) fn take_events(&mut self) -> Result<bool, NetlinkError> {
        let mut changed = false;
        for event in self.monitor.read()? {
            match event {
                Event::Link(change, link) => {
                    let name = link.name.as_str().to_string();
                    // A renamed interface is gone under its old name.
                    self.present.retain(|n, l| l.index != link.index || *n == name);
                    if !self.settings.ownership.prefixes.is_ours(&name) {
                        continue;
                    }
                    match change {
                        Change::Present => {
                            if !link.up {
                                // Neighbours go with an interface that goes down.
                                self.configured.remove(&link.index);
                            }
                            let before = self.present.insert(name, link.clone());
                            changed |= before.as_ref() != Some(&link);
                        }
                        Change::Gone => {
                            self.configured.remove(&link.index);
                            changed |= self.present.remove(&name).is_some();
                        }
                    }
                }
                Event::Route(change, route) => {
                    let name = route
                        .interface()
                        .and_then(|i| self.present.values().find(|l| l.index == i));
                    let interface = name.map(|l| l.name.as_str());
                    // A route of ours that went, or one that came which may be nobody's any more.
                    let ours = self.settings.ownership.is_ours(route.protocol, interface);
                    changed |= ours || change == Change::Gone;
                }
                Event::Resync => {
                    self.resync()?;
                    // Events of routes may be among what was lost.
                    changed = true;
                }
                Event::Address(..) | Event::Neighbour(..) => {}
            }
        }
        self.dirty |= changed;
        Ok(changed)
    }

    pub(crate) fn set_route(&mut self, route: NodeRoute) {
        self.remote.insert(route.destination, route);
        self.dirty = true;
    }

    pub(crate) fn remove_route(&mut self, destination: &IpNet) {
        self.remote.remove(destination);
        self.dirty = true;
    }

    /// Compares the routes with the kernel at the next pass.
    pub(crate) fn compare_routes(&mut self) {
        self.dirty = true;
    }

    /// How many routes were wanted at the last pass.
    pub(crate) fn route_count(&self) -> usize {
        self.route_count
    }

    pub(crate) fn endpoints_changed(&mut self) {
        self.dirty = true;
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// All addresses of the node itself.
    pub(crate) fn own_addresses(&mut self) -> Result<BTreeSet<IpAddr>, NetlinkError> {
        Ok(addresses::list(&mut self.netlink)?
            .into_iter()
            .map(|a| a.net.addr())
            .collect())
    }

    /// The number of an endpoint's interface, if it exists.
    pub(crate) fn index(&self, interface: &str) -> Option<u32> {
        self.present.get(interface).map(|l| l.index)
    }

    /// The interface of an endpoint, if it exists and is up.
    pub(crate) fn link(&self, interface: &str) -> Option<&Link> {
        self.present.get(interface).filter(|l| l.up)
    }

    /// Brings settings, neighbours and routes to what is wanted.
    pub(crate) fn apply<'a>(
        &mut self,
        endpoints: impl Iterator<Item = (&'a EndpointId, &'a Arc<WorkloadEndpoint>)>,
    ) -> Result<Faults, NetlinkError> {
        let mut faults = Faults::new();
        let mut table = RouteTable::new();
        for (id, endpoint) in endpoints {
            let Ok(name) = InterfaceName::new(endpoint.interface.clone()) else {
                faults.push(format!(
                    "endpoint {}/{}: '{}' is no interface name",
                    id.namespace, id.name, endpoint.interface
                ));
                continue;
            };
            let Some(link) = self.present.get(&endpoint.interface).filter(|l| l.up).cloned() else {
                continue;
            };
            // One without any address is about to be told them: which settings are right is not known before.
            let has_v6 = endpoint.addresses.iter().any(IpAddr::is_ipv6);
            if !endpoint.addresses.is_empty() && self.configured.get(&link.index) != Some(&has_v6) {
                match self.configure(&name, &link, endpoint) {
                    Ok(()) => {
                        self.configured.insert(link.index, has_v6);
                    }
                    Err(fault) => faults.push(fault),
                }
            }
            for (destination, target) in device_routes(
                &name,
                endpoint.addresses.iter().copied(),
                self.settings.route_sources,
            ) {
                // Two endpoints with one address: the first by name has the route, whatever the order of arrival.
                if table.get(&destination).is_none() {
                    table.insert(destination, target);
                }
            }
        }
        if self.settings.leaves_routes {
            self.route_count = 0;
            self.dirty = false;
            return Ok(faults);
        }
        let remote: Vec<RemoteNet> = self
            .remote
            .values()
            // An address that a workload here has is reached here, whatever a block says of it.
            .filter(|r| table.get(&r.destination).is_none())
            .map(|r| RemoteNet {
                net: r.destination,
                node: r.via,
                interface: None,
                reach: Reach::Routed,
            })
            .collect();
        let refused = insert_remote_nets(&mut table, &remote);
        faults.extend(refused.into_iter().map(|e| e.to_string()));
        self.route_count = table.len();
        let reconciled = routes::reconcile(&mut self.netlink, &table, &self.settings.ownership)?;
        faults.extend(reconciled.failures.iter().map(|f| format!("route {f:?}")));
        // What waits for an interface is taken up when the interface comes; what failed is tried again.
        self.dirty = !reconciled.failures.is_empty();
        Ok(faults)
    }

    fn configure(
        &mut self,
        name: &InterfaceName,
        link: &Link,
        endpoint: &WorkloadEndpoint,
    ) -> Result<(), String> {
        let v6 = if endpoint.addresses.iter().any(|a| a.is_ipv6()) {
            IpV6::On
        } else {
            IpV6::Off
        };
        let wanted = host_sysctls(name, self.settings.reverse_path, v6);
        self.settings.sysctls.apply(&wanted).map_err(|e| describe(&e))?;
        if let Some(mac) = endpoint.mac {
            let desired = device_neighbours(MacAddress::new(mac), endpoint.addresses.iter().copied());
            let observed = neighbours::list_of(&mut self.netlink, link).map_err(|e| describe(&e))?;
            let steps = neighbours::missing(&desired, &observed);
            neighbours::execute(&mut self.netlink, link, &steps).map_err(|e| describe(&e))?;
        }
        Ok(())
    }
}

/// An error with its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl AsFd for Interfaces {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}
