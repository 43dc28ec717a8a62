//! One apply pass: from the brain's updates to the kernel, in the order that keeps the laws.

use crate::flows::Flows;
use crate::interfaces::{Interfaces, describe};
use crate::settings::{DataplaneSettings, FlowsOnPolicyChange};
use dataplane_api::{EndpointId, HostPort, Update, WorkloadEndpoint};
use dataplane_netlink::NetlinkError;
use dataplane_nftables::layout::LayoutSettings;
use dataplane_nftables::{Driver, DriverError, DriverSettings};
use dataplane_tables::Tables;
use policy_model::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// What a pass could not do; what was in force stays in force, and the next pass tries again.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Policy could not be written.
    #[error("programming policy")]
    Policy(#[source] DriverError),
    /// Interfaces or routes could not be read or written.
    #[error("programming interfaces and routes")]
    Interfaces(#[source] NetlinkError),
    /// Connection-tracking entries could not be removed.
    #[error("removing connection-tracking entries")]
    Flows(#[source] NetlinkError),
}

/// What one pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassReport {
    /// nftables transactions.
    pub transactions: usize,
    /// Messages in them.
    pub messages: usize,
    /// Objects of ours that somebody else had changed and that were mended.
    pub mended: usize,
    /// Connection-tracking entries that were removed.
    pub flows_removed: usize,
    /// What could not be done with single interfaces and routes; tried again at the next pass.
    pub faults: Vec<String>,
}

/// What is in force for an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programmed {
    /// The endpoint as it is in force.
    pub endpoint: Arc<WorkloadEndpoint>,
    /// Whether its interface is there and up; until then only its policy is in force.
    pub interface_up: bool,
}

/// The dataplane of one node, in the network namespace of the thread that opened it. Stays on that thread.
#[derive(Debug)]
pub struct Dataplane {
    settings: DataplaneSettings,
    tables: Tables,
    driver: Driver,
    interfaces: Interfaces,
    flows: Flows,
    endpoints: BTreeMap<EndpointId, Arc<WorkloadEndpoint>>,
    programmed: BTreeMap<EndpointId, Programmed>,
    /// Addresses that nobody here has any more, or that somebody else has now, whose flows must be forgotten.
    departed: BTreeSet<IpAddr>,
    /// The interface of each address of an endpoint here, by its number, as of the last pass.
    attached: BTreeMap<IpAddr, u32>,
    /// Ports of the node that lead elsewhere than before, whose flows must be forgotten that have no end.
    redirected: BTreeSet<HostPort>,
    /// Whether updates came that the kernel does not have yet.
    dirty: bool,
    recheck: bool,
    synced_once: bool,
}

impl Dataplane {
    /// Opens the sockets and reads the interfaces. Nothing is written.
    ///
    /// # Errors
    /// A privilege or a kernel feature lacks.
    pub fn open(settings: DataplaneSettings) -> Result<Self, ApplyError> {
        let layout = LayoutSettings {
            interface_prefixes: settings
                .workloads
                .ownership
                .prefixes
                .iter()
                .map(str::to_string)
                .collect(),
            endpoint_to_host: settings.endpoint_to_host,
            refusal: settings.refusal,
            refuse_midstream: settings.flows_on_policy_change == FlowsOnPolicyChange::Recheck,
            drop_invalid: settings.drop_invalid,
            intervals_in_place: settings.intervals_in_place,
            source_spoofing: settings.source_spoofing,
        };
        let mut driver = Driver::open(DriverSettings {
            layout,
            owned: settings.owned_table,
        })
        .map_err(ApplyError::Policy)?;
        let patience = settings.workloads.patience;
        driver.set_patience(patience.0).map_err(ApplyError::Policy)?;
        let mut interfaces = Interfaces::open(settings.workloads.clone()).map_err(ApplyError::Interfaces)?;
        interfaces.resync().map_err(ApplyError::Interfaces)?;
        Ok(Dataplane {
            settings,
            tables: Tables::new(),
            driver,
            interfaces,
            flows: Flows::open(patience).map_err(ApplyError::Flows)?,
            endpoints: BTreeMap::new(),
            programmed: BTreeMap::new(),
            departed: BTreeSet::new(),
            attached: BTreeMap::new(),
            redirected: BTreeSet::new(),
            dirty: false,
            recheck: false,
            synced_once: false,
        })
    }

    /// Takes updates in. The kernel is not touched before [`Dataplane::apply`].
    pub fn take(&mut self, updates: &[Update]) {
        for update in updates {
            self.tables.apply(update);
            self.dirty = true;
            match update {
                Update::Workload(endpoint) => {
                    self.recheck = true;
                    let before = self.endpoints.insert(endpoint.id.clone(), endpoint.clone());
                    if let Some(before) = before {
                        self.departed.extend(
                            before
                                .addresses
                                .iter()
                                .filter(|a| !endpoint.addresses.contains(a)),
                        );
                    }
                    self.interfaces.endpoints_changed();
                }
                Update::WorkloadRemoved(id) => {
                    if let Some(before) = self.endpoints.remove(id) {
                        self.departed.extend(before.addresses.iter().copied());
                    }
                    self.interfaces.endpoints_changed();
                }
                Update::HostPort(port, _) | Update::HostPortRemoved(port) => {
                    if port.protocol == Protocol::UDP {
                        self.redirected.insert(*port);
                    }
                }
                Update::Route(route) => self.interfaces.set_route(route.clone()),
                Update::RouteRemoved(destination) => self.interfaces.remove_route(destination),
                Update::Policy(_)
                | Update::PolicyRemoved(_)
                | Update::Members { .. }
                | Update::AtomRemoved(_) => {
                    self.recheck = true;
                }
                Update::AtomCreated { .. } | Update::Pool(_) | Update::PoolRemoved(_) | Update::InSync => {}
            }
        }
    }

    /// Whether there is something to do.
    pub fn is_dirty(&self) -> bool {
        self.tables.is_synced()
            && (self.dirty
                || self.interfaces.is_dirty()
                || self.driver.is_suspect()
                || !self.departed.is_empty()
                || !self.redirected.is_empty())
    }

    /// Whether a first pass brought everything into force.
    pub fn is_programmed(&self) -> bool {
        self.synced_once
    }

    /// Brings the kernel to what the updates say. `now` is in milliseconds of a clock that does not go back.
    ///
    /// # Errors
    /// What could not be done. Call again: nothing that is in force was lost.
    pub fn apply(&mut self, now: u64) -> Result<PassReport, ApplyError> {
        let mut report = PassReport::default();
        if !self.tables.is_synced() || !self.interfaces.is_read() {
            return Ok(report);
        }
        if self.dirty || self.driver.is_suspect() {
            let changes = self.tables.commit();
            let applied = self
                .driver
                .apply(&self.tables, &changes, now)
                .map_err(ApplyError::Policy)?;
            self.dirty = false;
            report.transactions += applied.transactions;
            report.messages += applied.messages;
            report.mended += applied.mended;
        }
        if self.interfaces.is_dirty() {
            let faults = self
                .interfaces
                .apply(self.endpoints.iter())
                .map_err(ApplyError::Interfaces)?;
            report.faults.extend(faults);
        }
        self.note_arrivals();
        self.forget_departed(&mut report)?;
        self.forget_astray(&mut report)?;
        if std::mem::take(&mut self.recheck)
            && self.settings.flows_on_policy_change == FlowsOnPolicyChange::Recheck
            && self.synced_once
        {
            let own = self.interfaces.own_addresses().map_err(ApplyError::Interfaces)?;
            let removed = self
                .flows
                .recheck(self.driver.planner(), &self.tables, &own)
                .map_err(ApplyError::Flows)?;
            report.flows_removed += removed;
        }
        self.programmed = self
            .endpoints
            .iter()
            .map(|(id, e)| {
                let interface_up = self.interfaces.link(&e.interface).is_some();
                (
                    id.clone(),
                    Programmed {
                        endpoint: e.clone(),
                        interface_up,
                    },
                )
            })
            .collect();
        self.synced_once = true;
        Ok(report)
    }

    /// What was sent to an address while nobody had it was forwarded to somewhere else, and made entries whose answers
    /// the address's new holder could give, or be given, without policy being asked: they are forgotten as well, once
    /// packets reach the new holder's interface. Those of the first pass may have been here before this process was.
    fn note_arrivals(&mut self) {
        let mut attached: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for endpoint in self.endpoints.values() {
            if let Some(index) = self.interfaces.index(&endpoint.interface) {
                attached.extend(endpoint.addresses.iter().map(|address| (*address, index)));
            }
        }
        if self.synced_once {
            let arrived = attached.iter().filter(|(a, i)| self.attached.get(*a) != Some(*i));
            self.departed.extend(arrived.map(|(address, _)| *address));
        }
        self.attached = attached;
    }

    /// Flows of addresses that no endpoint here has any more would otherwise be inherited by the next holder.
    fn forget_departed(&mut self, report: &mut PassReport) -> Result<(), ApplyError> {
        if self.departed.is_empty() {
            return Ok(());
        }
        let held: BTreeSet<IpAddr> = self
            .endpoints
            .values()
            .flat_map(|e| e.addresses.iter().copied())
            .collect();
        let gone: Vec<IpAddr> = self
            .departed
            .iter()
            .filter(|a| !held.contains(a))
            .copied()
            .collect();
        // An address that moved from one endpoint to another here: its flows were the other's.
        let moved: Vec<IpAddr> = self
            .departed
            .iter()
            .filter(|a| held.contains(a))
            .copied()
            .collect();
        for list in [gone, moved] {
            if !list.is_empty() {
                let (removed, _clean) = self.flows.forget(&list).map_err(ApplyError::Flows)?;
                report.flows_removed += removed;
            }
        }
        self.departed.clear();
        Ok(())
    }

    /// Flows to ports of the node follow where these lead now.
    fn forget_astray(&mut self, report: &mut PassReport) -> Result<(), ApplyError> {
        if self.redirected.is_empty() {
            return Ok(());
        }
        let own = self.interfaces.own_addresses().map_err(ApplyError::Interfaces)?;
        let leading = &self.driver.planner().state().host_ports;
        report.flows_removed += self
            .flows
            .forget_astray(&self.redirected, leading, &own)
            .map_err(ApplyError::Flows)?;
        self.redirected.clear();
        Ok(())
    }

    /// Forgets the flows of an address at once, before it is given again.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn forget_flows(&mut self, addresses: &[IpAddr]) -> Result<usize, ApplyError> {
        self.flows
            .forget(addresses)
            .map(|(n, _)| n)
            .map_err(ApplyError::Flows)
    }

    /// How full the connection-tracking table is: entries and limit.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn flow_usage(&mut self) -> Result<(u32, Option<u32>), ApplyError> {
        self.flows.usage().map_err(ApplyError::Flows)
    }

    /// Removes from the tables what no packet can hold any more.
    ///
    /// # Errors
    /// The kernel refused; the next pass compares and mends.
    pub fn retire(&mut self, now: u64) -> Result<PassReport, ApplyError> {
        let applied = self
            .driver
            .retire(&self.tables, now)
            .map_err(ApplyError::Policy)?;
        Ok(PassReport {
            transactions: applied.transactions,
            messages: applied.messages,
            mended: applied.mended,
            ..PassReport::default()
        })
    }

    /// When [`Dataplane::retire`] has something to do.
    pub fn next_retirement(&self) -> Option<u64> {
        self.driver.next_retirement()
    }

    /// Reads the kernel's events. Afterwards [`Dataplane::is_dirty`] says whether a pass is due.
    ///
    /// # Errors
    /// An event socket broke.
    pub fn take_events(&mut self) -> Result<(), ApplyError> {
        self.driver.touched_by_others().map_err(ApplyError::Policy)?;
        self.interfaces.take_events().map_err(ApplyError::Interfaces)?;
        Ok(())
    }

    /// Compares everything with the kernel at the next pass, whatever the events said.
    ///
    /// # Errors
    /// The kernel could not be read.
    pub fn resync(&mut self) -> Result<PassReport, ApplyError> {
        self.resync_interfaces()?;
        self.resync_routes();
        self.resync_policy()
    }

    /// Lists the interfaces anew, whatever the events said. Their settings are compared at the next pass.
    ///
    /// # Errors
    /// The kernel could not be read.
    pub fn resync_interfaces(&mut self) -> Result<(), ApplyError> {
        self.interfaces.resync().map_err(ApplyError::Interfaces)
    }

    /// Compares the routes with the kernel at the next pass, whatever the events said.
    pub fn resync_routes(&mut self) {
        self.interfaces.compare_routes();
    }

    /// Compares the policy table with the kernel at once, whatever the events said.
    ///
    /// # Errors
    /// The kernel could not be read or written.
    pub fn resync_policy(&mut self) -> Result<PassReport, ApplyError> {
        if !self.synced_once {
            return Ok(PassReport::default());
        }
        let applied = self.driver.resync(&self.tables).map_err(ApplyError::Policy)?;
        Ok(PassReport {
            transactions: applied.transactions,
            mended: applied.mended,
            ..PassReport::default()
        })
    }

    /// How many routes are wanted of us: to workloads here and to other nodes.
    pub fn route_count(&self) -> usize {
        self.interfaces.route_count()
    }

    /// What is in force for each endpoint.
    pub fn programmed(&self) -> &BTreeMap<EndpointId, Programmed> {
        &self.programmed
    }

    /// Ports of the node, and where each leads. Of use right after a pass: then all of it is in force.
    pub fn host_ports(&self) -> &BTreeMap<HostPort, SocketAddr> {
        &self.driver.planner().state().host_ports
    }

    /// The descriptors to poll: nf_tables events and interface events.
    pub fn event_fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.driver.as_fd(), self.interfaces.as_fd()]
    }

    /// Whether others cannot write to the policy table.
    pub fn is_table_owned(&self) -> bool {
        self.driver.is_owned()
    }

    /// The decision tables, for status and metrics.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The driver of the policy table, for status and metrics.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// An error with its causes, in one line.
    pub fn describe(error: &ApplyError) -> String {
        describe(error)
    }
}
