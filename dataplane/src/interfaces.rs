//! Workload interfaces and routes: what the endpoints and the other nodes ask of the routing side.
//!
//! What the kernel has is read wholly at the start, where its news was lost or leaves doubt, where a write failed that
//! should not have, and at each periodic look. Between, its news tells it: also what this process wrote itself, because
//! the kernel puts the news of a write into the queue before it acknowledges the write. So a pass looks at what has
//! changed, and a pod costs the same beside one other and beside hundreds.

mod seen;
mod wanted;

use crate::tunnels::Ready;
use dataplane_api::{EndpointId, NodeRoute, WorkloadEndpoint};
use dataplane_netlink::addresses;
use dataplane_netlink::events::{Event, Group, Monitor};
use dataplane_netlink::links::{self, Link};
use dataplane_netlink::neighbours;
use dataplane_netlink::routes::{
    self, ObservedLink, ObservedRoutes, RouteFailure, RouteStep, RouteTable, RouteTarget,
};
use dataplane_netlink::workload::{IpV6, WorkloadSettings, device_neighbours, host_sysctls};
use dataplane_netlink::{InterfaceName, MacAddress, NetlinkError, Rtnetlink};
use ipnet::IpNet;
use seen::{Changed, Seen};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use wanted::{Wanted, destinations_of};

/// What is listened to. Addresses, because the kernel drops routes with some of them without a word.
const GROUPS: [Group; 3] = [Group::Links, Group::Addresses, Group::Routes];
/// How many routes are written before the news of it is read: its queue has room for some thousands.
const STEPS_A_BATCH: usize = 512;
/// How often the news is read after a batch at most, each time a thousand pieces.
const READINGS_A_BATCH: usize = 16;

/// What one reconciliation could not do. It is tried again at the next pass.
pub(crate) type Faults = Vec<String>;

/// The routing side of one node.
#[derive(Debug)]
pub(crate) struct Interfaces {
    settings: WorkloadSettings,
    netlink: Rtnetlink,
    monitor: Monitor,
    seen: Seen,
    wanted: Wanted,
    /// The wanted routes, as of what is known now.
    table: RouteTable,
    /// Ranges behind other nodes to which there can be no route, and why.
    refused: BTreeMap<IpNet, String>,
    /// Destinations whose routes may be others than the wanted ones.
    dirty: BTreeSet<IpNet>,
    /// Destinations whose last write failed.
    failing: BTreeSet<IpNet>,
    /// Endpoints whose interfaces may lack their settings.
    unsettled: BTreeSet<EndpointId>,
    /// Endpoints whose interfaces could not be given their settings.
    unconfigured: BTreeSet<EndpointId>,
    /// Interfaces whose settings were written since they appeared, and whether for IPv6 too.
    configured: BTreeMap<u32, bool>,
    /// Whether what the kernel has must be read wholly.
    compare: bool,
    /// Whether news was lost, so that the news that waits is worth nothing.
    lost: bool,
    /// Whether an endpoint's interface came or went since the last pass, or something is to be tried again.
    due: bool,
    /// Whether the first list of interfaces has been read.
    read: bool,
    /// The tunnels that routes may lead into.
    tunnels: Ready,
    /// Whether something changed about interfaces that are not ours.
    outside: bool,
}

impl Interfaces {
    pub(crate) fn open(settings: WorkloadSettings) -> Result<Self, NetlinkError> {
        Ok(Interfaces {
            netlink: Rtnetlink::open_with(settings.patience)?,
            // Subscribed before the first list is read, so that nothing that changes meanwhile is lost.
            monitor: Monitor::open(&GROUPS)?,
            seen: Seen::new(&settings.ownership),
            settings,
            wanted: Wanted::default(),
            table: RouteTable::new(),
            refused: BTreeMap::new(),
            dirty: BTreeSet::new(),
            failing: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            unconfigured: BTreeSet::new(),
            configured: BTreeMap::new(),
            compare: true,
            lost: false,
            due: true,
            read: false,
            tunnels: Ready::default(),
            outside: true,
        })
    }

    /// Reads the list of interfaces.
    pub(crate) fn resync(&mut self) -> Result<(), NetlinkError> {
        self.compare = true;
        self.read_links()?;
        // No event tells of settings that somebody else wrote, so they are compared now.
        self.configured.clear();
        self.unsettled
            .extend(self.wanted.endpoints().map(|e| e.id.clone()));
        self.read = true;
        Ok(())
    }

    /// Whether the interfaces have been read.
    pub(crate) fn is_read(&self) -> bool {
        self.read
    }

    /// Takes in what changed, at most a thousand pieces of news. Says whether there was any.
    pub(crate) fn take_events(&mut self) -> Result<bool, NetlinkError> {
        if self.lost {
            self.listen_anew()?;
        }
        let events = self.monitor.read().inspect_err(|_| self.lost = true)?;
        let any = !events.is_empty();
        if events.contains(&Event::Resync) {
            self.lost = true;
            self.listen_anew()?;
            return Ok(any);
        }
        let mut changed = Changed::default();
        for event in events {
            self.seen.take(event, &mut changed);
        }
        self.absorb(changed);
        for destination in std::mem::take(&mut self.dirty) {
            if !self.is_in_order(&destination) {
                self.dirty.insert(destination);
            }
        }
        Ok(any)
    }

    /// Takes an endpoint in.
    pub(crate) fn set_endpoint(&mut self, endpoint: &Arc<WorkloadEndpoint>) {
        let before = self.wanted.set_endpoint(endpoint.clone());
        let routing = |e: &Arc<WorkloadEndpoint>| (e.interface.clone(), e.mac, e.addresses.clone());
        if before.as_ref().map(routing) == Some(routing(endpoint)) {
            return;
        }
        self.dirty.extend(before.iter().flat_map(|e| destinations_of(e)));
        self.dirty.extend(destinations_of(endpoint));
        if let Some(link) = self.seen.ours(&endpoint.interface) {
            // Its neighbours are others.
            self.configured.remove(&link.index);
        }
        self.unsettled.insert(endpoint.id.clone());
    }

    /// Forgets an endpoint.
    pub(crate) fn remove_endpoint(&mut self, id: &EndpointId) {
        let before = self.wanted.remove_endpoint(id);
        self.dirty.extend(before.iter().flat_map(|e| destinations_of(e)));
        self.unsettled.remove(id);
        self.unconfigured.remove(id);
    }

    pub(crate) fn set_route(&mut self, route: NodeRoute) {
        self.dirty.extend(self.wanted.set_route(route));
    }

    pub(crate) fn remove_route(&mut self, destination: &IpNet) {
        self.dirty.extend(self.wanted.remove_route(destination));
    }

    /// Takes over which tunnels routes may lead into; `changed` says that one of them is another than it was, so that its
    /// routes may have gone.
    ///
    /// # Errors
    /// An event socket broke.
    pub(crate) fn set_tunnels(&mut self, ready: Ready, changed: bool) -> Result<(), NetlinkError> {
        if !changed && self.tunnels == ready {
            return Ok(());
        }
        self.tunnels = ready;
        // A device that has just come is in the news already.
        self.take_events()?;
        self.dirty.extend(self.wanted.through_tunnels());
        Ok(())
    }

    /// Whether something changed about interfaces that are not ours, or their addresses, since the last time.
    pub(crate) fn take_outside(&mut self) -> bool {
        std::mem::take(&mut self.outside)
    }

    /// Compares the routes with the kernel at the next pass.
    pub(crate) fn compare_routes(&mut self) {
        self.compare = true;
    }

    /// Tries what the last pass could not do again at the next, and has that be soon.
    pub(crate) fn retry(&mut self) {
        self.due |= !(self.failing.is_empty() && self.unconfigured.is_empty());
    }

    /// How many routes were wanted at the last pass.
    pub(crate) fn route_count(&self) -> usize {
        self.table.len()
    }

    /// How many lists of the kernel's were read so far.
    pub(crate) fn lists(&self) -> u64 {
        self.netlink.lists()
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.compare || self.lost || self.due || !self.dirty.is_empty() || !self.unsettled.is_empty()
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
        self.seen.ours(interface).map(|l| l.index)
    }

    /// The interface of an endpoint, if it exists and is up.
    pub(crate) fn link(&self, interface: &str) -> Option<&Link> {
        self.seen.usable(interface)
    }

    /// Brings settings, neighbours and routes to what is wanted, where they may differ.
    pub(crate) fn apply(&mut self) -> Result<Faults, NetlinkError> {
        let outcome = if self.settings.leaves_routes {
            self.compare = false;
            self.dirty.clear();
            self.due = false;
            Ok(self.configure_unsettled())
        } else {
            self.apply_all()
        };
        // What was written is not known.
        self.compare |= outcome.is_err();
        outcome
    }

    fn apply_all(&mut self) -> Result<Faults, NetlinkError> {
        let compared = self.compare;
        if compared {
            self.read_routes()?;
        }
        self.due = false;
        let mut faults = self.configure_unsettled();
        let expected = std::mem::take(&mut self.failing);
        self.dirty.extend(expected.iter().copied());
        let mut failures = self.write()?;
        if !compared && failures.iter().any(|f| !expected.contains(&f.step.destination())) {
            self.read_routes()?;
            failures = self.write()?;
        }
        self.failing = failures.iter().map(|f| f.step.destination()).collect();
        faults.extend(self.refused.values().cloned());
        faults.extend(failures.iter().map(|f| describe(&f.error)));
        Ok(faults)
    }

    /// Begins a new queue of news and reads everything: what waits in the old one may be older than what was lost.
    fn listen_anew(&mut self) -> Result<(), NetlinkError> {
        self.monitor = Monitor::open(&GROUPS)?;
        self.resync()?;
        self.lost = false;
        Ok(())
    }

    /// Takes over what changed.
    fn absorb(&mut self, changed: Changed) {
        for index in changed.down {
            // Neighbours go with an interface that goes down.
            self.configured.remove(&index);
        }
        for name in changed.interfaces {
            for endpoint in self.wanted.at_interface(&name) {
                self.due = true;
                self.unsettled.insert(endpoint.id.clone());
                self.dirty.extend(destinations_of(endpoint));
            }
        }
        self.dirty.extend(changed.destinations);
        self.compare |= changed.doubt;
        self.outside |= changed.outside;
        if self.settings.leaves_routes {
            self.dirty.clear();
            self.compare = false;
        }
    }

    fn read_links(&mut self) -> Result<(), NetlinkError> {
        let links = links::list(&mut self.netlink)?;
        let mut changed = Changed::default();
        self.seen.replace_links(links, &mut changed);
        self.absorb(changed);
        Ok(())
    }

    /// Reads all routes and interfaces; from here on every destination is in question.
    fn read_routes(&mut self) -> Result<(), NetlinkError> {
        // What raises doubt from now on does so again.
        self.compare = false;
        // Routes first: a route whose interface came after the list of interfaces would not be recognised.
        let routes = routes::observe_marked(&mut self.netlink, &self.settings.ownership)?;
        self.read_links()?;
        self.seen.replace_routes(routes);
        self.dirty.extend(self.wanted.destinations());
        self.dirty.extend(self.seen.routes().destinations().copied());
        self.dirty
            .extend(self.table.iter().map(|(destination, _)| *destination));
        Ok(())
    }

    /// Brings the routes to the destinations in question to the wanted ones, and returns what failed.
    fn write(&mut self) -> Result<Vec<RouteFailure>, NetlinkError> {
        let dirty = std::mem::take(&mut self.dirty);
        for destination in &dirty {
            self.decide(destination);
        }
        let steps = self.plan(&dirty);
        let mut failures = Vec::new();
        for batch in steps.chunks(STEPS_A_BATCH) {
            failures.extend(routes::execute(&mut self.netlink, batch)?);
            for _ in 0..READINGS_A_BATCH {
                if !self.take_events()? {
                    break;
                }
            }
        }
        // Whoever connects a workload writes the same route, and may have been faster.
        failures.retain(|f| !self.is_in_order(&f.step.destination()));
        let failed: BTreeSet<IpNet> = failures.iter().map(|f| f.step.destination()).collect();
        // These are tried again in their own time.
        self.dirty.retain(|destination| !failed.contains(destination));
        for destination in steps.iter().map(RouteStep::destination) {
            if failed.contains(&destination) || self.dirty.contains(&destination) {
                continue;
            }
            // What was written and is neither seen nor changed again was not told.
            self.compare |= !self.is_in_order(&destination);
        }
        Ok(failures)
    }

    /// Decides where a destination is to lead now; says whether that is elsewhere than before.
    fn decide(&mut self, destination: &IpNet) -> bool {
        let is_up = |name: &str| self.seen.usable(name).is_some();
        let target = match self
            .wanted
            .target(destination, self.settings.route_sources, &self.tunnels, is_up)
        {
            Ok(target) => {
                self.refused.remove(destination);
                target
            }
            Err(why) => {
                self.refused.insert(*destination, why);
                None
            }
        };
        if self.table.get(destination) == target.as_ref() {
            return false;
        }
        match target {
            Some(target) => drop(self.table.insert(*destination, target)),
            None => drop(self.table.remove(destination)),
        }
        true
    }

    /// Whether a destination leads where it did, and the kernel is known to have exactly that.
    fn is_in_order(&mut self, destination: &IpNet) -> bool {
        !self.decide(destination) && self.plan([destination]).is_empty()
    }

    /// The steps to the wanted routes to some destinations.
    fn plan<'a>(&self, destinations: impl IntoIterator<Item = &'a IpNet>) -> Vec<RouteStep> {
        let mut desired = RouteTable::new();
        let mut observed = ObservedRoutes::default();
        let mut concerned: BTreeSet<u32> = BTreeSet::new();
        for destination in destinations {
            if let Some(target) = self.table.get(destination) {
                if let RouteTarget::Device { interface, .. }
                | RouteTarget::Gateway {
                    interface: Some(interface),
                    ..
                } = target
                {
                    concerned.extend(self.seen.named(interface.as_str()).map(|link| link.index));
                }
                desired.insert(*destination, target.clone());
            }
            let known = self.seen.routes().at(destination);
            concerned.extend(known.iter().filter_map(|route| route.interface()));
            observed.routes.extend(known);
        }
        let links = concerned.into_iter().filter_map(|index| self.seen.link(index));
        observed.links = links
            .map(|link| {
                let (index, up) = (link.index, link.up);
                (link.name.clone(), ObservedLink { index, up })
            })
            .collect();
        routes::plan(&desired, &observed, &self.settings.ownership)
    }

    fn configure_unsettled(&mut self) -> Faults {
        let mut faults = Faults::new();
        let mut ids = std::mem::take(&mut self.unsettled);
        ids.append(&mut self.unconfigured);
        for id in ids {
            let Some(endpoint) = self.wanted.endpoint(&id).cloned() else {
                continue;
            };
            if let Err(fault) = self.configure(&endpoint) {
                faults.push(fault);
                self.unconfigured.insert(id);
            }
        }
        faults
    }

    /// Gives the interface of an endpoint its settings and neighbours, if it is up and lacks them.
    fn configure(&mut self, endpoint: &WorkloadEndpoint) -> Result<(), String> {
        let Ok(name) = InterfaceName::new(endpoint.interface.clone()) else {
            return Err(format!(
                "endpoint {}/{}: '{}' is no interface name",
                endpoint.id.namespace, endpoint.id.name, endpoint.interface
            ));
        };
        let Some(link) = self.seen.usable(&endpoint.interface).cloned() else {
            return Ok(());
        };
        // One without any address is about to be told them: which settings are right is not known before.
        let has_v6 = endpoint.addresses.iter().any(IpAddr::is_ipv6);
        if endpoint.addresses.is_empty() || self.configured.get(&link.index) == Some(&has_v6) {
            return Ok(());
        }
        let v6 = if has_v6 { IpV6::On } else { IpV6::Off };
        let settings = host_sysctls(&name, self.settings.reverse_path, v6);
        self.settings.sysctls.apply(&settings).map_err(|e| describe(&e))?;
        if let Some(mac) = endpoint.mac {
            let desired = device_neighbours(MacAddress::new(mac), endpoint.addresses.iter().copied());
            let observed = neighbours::list_of(&mut self.netlink, &link).map_err(|e| describe(&e))?;
            let steps = neighbours::missing(&desired, &observed);
            neighbours::execute(&mut self.netlink, &link, &steps).map_err(|e| describe(&e))?;
        }
        self.configured.insert(link.index, has_v6);
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
