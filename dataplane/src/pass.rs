//! One apply pass: from the brain's updates to the kernel, in the order that keeps the laws.

mod holders;
mod predecessors;
mod tunnelled;

use crate::backend::{Applied, BackendError, RulesDriver};
use crate::flows::Flows;
use crate::interfaces::{Interfaces, describe};
use crate::settings::{DataplaneSettings, FlowsOnPolicyChange};
use crate::tunnels::Tunnels;
use crate::vacancies::Vacancies;
use crate::walker::Walker;
use dataplane_api::{EndpointId, HostPort, Update, WorkloadEndpoint};
use dataplane_netlink::NetlinkError;
use dataplane_tables::Tables;
use policy_model::Protocol;
use predecessors::Predecessors;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// What a pass could not do; what was in force stays in force, and the next pass tries again.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Policy could not be written.
    #[error("programming policy")]
    Policy(#[source] BackendError),
    /// Interfaces or routes could not be read or written.
    #[error("programming interfaces and routes")]
    Interfaces(#[source] NetlinkError),
    /// Tunnels between nodes could not be read or written.
    #[error("programming tunnels")]
    Tunnels(#[source] NetlinkError),
    /// Connection-tracking entries could not be removed.
    #[error("removing connection-tracking entries")]
    Flows(#[source] NetlinkError),
    /// The thread that looks through connection tracking could not be made.
    #[error("starting the thread that looks through connection tracking")]
    Thread(#[source] std::io::Error),
}

/// What one pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassReport {
    /// Transactions of nftables, or calls of `iptables-restore`.
    pub transactions: usize,
    /// Messages in them; of iptables, lines, and changes of IP sets.
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

/// How often all of connection tracking was looked through for addresses, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowWalks {
    /// By a pass, which waited for it.
    pub in_passes: u64,
    /// Beside the passes, for addresses that nobody has.
    pub ahead: u64,
}

/// The dataplane of one node, in the network namespace of the thread that opened it. Stays on that thread.
#[derive(Debug)]
pub struct Dataplane {
    settings: DataplaneSettings,
    tables: Tables,
    driver: RulesDriver,
    interfaces: Interfaces,
    tunnels: Tunnels,
    flows: Flows,
    endpoints: BTreeMap<EndpointId, Arc<WorkloadEndpoint>>,
    programmed: BTreeMap<EndpointId, Programmed>,
    /// Addresses that nobody here has any more, or that somebody else has now, whose flows must be forgotten.
    departed: BTreeSet<IpAddr>,
    /// The interface of each address of an endpoint here that packets reach, by its number, as of the last pass.
    attached: BTreeMap<IpAddr, u32>,
    /// Addresses that nobody may have but endpoints here.
    kept: Arc<BTreeSet<IpAddr>>,
    /// Those of them that nobody has now, and of which of these no flow is known any more.
    vacancies: Vacancies,
    walker: Walker,
    /// Whether there is something new about these.
    vacancies_stirred: bool,
    walks: FlowWalks,
    /// How many flows the walker removed since the last pass.
    removed_ahead: usize,
    /// Ports of the node that lead elsewhere than before, whose flows must be forgotten that have no end.
    redirected: BTreeSet<HostPort>,
    /// Whether updates came that the kernel does not have yet.
    dirty: bool,
    recheck: bool,
    synced_once: bool,
    /// What could not be done with tunnels at the last look at them.
    tunnel_faults: Vec<String>,
    predecessors: Predecessors,
}

impl Dataplane {
    /// Opens the sockets and reads the interfaces. Nothing is written.
    ///
    /// # Errors
    /// A privilege or a kernel feature lacks.
    pub fn open(settings: DataplaneSettings) -> Result<Self, ApplyError> {
        let patience = settings.workloads.patience;
        let driver = RulesDriver::open(&settings, patience).map_err(ApplyError::Policy)?;
        let mut interfaces = Interfaces::open(settings.workloads.clone()).map_err(ApplyError::Interfaces)?;
        interfaces.resync().map_err(ApplyError::Interfaces)?;
        let tunnels = Tunnels::open(settings.tunnels, patience).map_err(ApplyError::Tunnels)?;
        Ok(Dataplane {
            settings,
            tables: Tables::new(),
            driver,
            interfaces,
            tunnels,
            flows: Flows::open(patience).map_err(ApplyError::Flows)?,
            endpoints: BTreeMap::new(),
            programmed: BTreeMap::new(),
            departed: BTreeSet::new(),
            attached: BTreeMap::new(),
            kept: Arc::default(),
            vacancies: Vacancies::default(),
            walker: Walker::start(patience)?,
            vacancies_stirred: false,
            walks: FlowWalks::default(),
            removed_ahead: 0,
            redirected: BTreeSet::new(),
            dirty: false,
            recheck: false,
            synced_once: false,
            tunnel_faults: Vec::new(),
            predecessors: Predecessors::default(),
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
                    self.interfaces.set_endpoint(endpoint);
                }
                Update::WorkloadRemoved(id) => {
                    if let Some(before) = self.endpoints.remove(id) {
                        self.departed.extend(before.addresses.iter().copied());
                    }
                    self.interfaces.remove_endpoint(id);
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
                Update::Node(node) => self.tunnels.set_node(node),
                Update::NodeRemoved(name) => self.tunnels.remove_node(name),
                Update::Pool(pool) => self.tunnels.set_pool(pool),
                Update::PoolRemoved(cidr) => self.tunnels.remove_pool(cidr),
                Update::AtomCreated { .. } | Update::InSync => {}
            }
        }
    }

    /// Whether there is something to do.
    pub fn is_dirty(&self) -> bool {
        self.tables.is_synced()
            && (self.dirty
                || self.interfaces.is_dirty()
                || self.tunnels_are_due()
                || self.driver.is_suspect()
                || !self.departed.is_empty()
                || self.vacancies_stirred
                || self.predecessors.are_due()
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
        self.prepare_tunnels(now)?;
        let is_in_doubt = self.driver.is_suspect();
        if self.dirty || is_in_doubt {
            let changes = self.tables.commit();
            let applied = self
                .driver
                .apply(&self.tables, &changes, now)
                .map_err(ApplyError::Policy)?;
            self.dirty = false;
            report.transactions += applied.transactions;
            report.messages += applied.messages;
            report.mended += applied.mended;
            if is_in_doubt || applied.mended > 0 {
                self.vacancies.doubt();
            }
        }
        self.apply_tunnels(&mut report)?;
        if self.interfaces.is_dirty() {
            let faults = self.interfaces.apply().map_err(ApplyError::Interfaces)?;
            report.faults.extend(faults);
        }
        self.confine_to_tunnels();
        self.note_arrivals();
        self.guard_vacant(&mut report)?;
        self.forget_departed(&mut report)?;
        self.forget_astray(&mut report)?;
        if std::mem::take(&mut self.recheck)
            && self.settings.flows_on_policy_change == FlowsOnPolicyChange::Recheck
            && self.synced_once
        {
            let own = self.interfaces.own_addresses().map_err(ApplyError::Interfaces)?;
            let removed = self
                .flows
                .recheck(&self.driver, &self.tables, &own)
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
        self.remove_predecessors(&mut report)?;
        Ok(report)
    }

    /// Flows to ports of the node follow where these lead now.
    fn forget_astray(&mut self, report: &mut PassReport) -> Result<(), ApplyError> {
        if self.redirected.is_empty() {
            return Ok(());
        }
        let own = self.interfaces.own_addresses().map_err(ApplyError::Interfaces)?;
        let leading = self.driver.host_ports();
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
        self.tunnels.retire(now).map_err(ApplyError::Tunnels)?;
        let applied = self
            .driver
            .retire(&self.tables, now)
            .map_err(ApplyError::Policy)?;
        Ok(self.mended(&applied))
    }

    /// When [`Dataplane::retire`] has something to do.
    pub fn next_retirement(&self) -> Option<u64> {
        let tunnels = self.tunnels.next_retirement();
        self.driver.next_retirement().into_iter().chain(tunnels).min()
    }

    /// Reads the kernel's events. Afterwards [`Dataplane::is_dirty`] says whether a pass is due.
    ///
    /// # Errors
    /// An event socket broke.
    pub fn take_events(&mut self) -> Result<(), ApplyError> {
        self.take_walks();
        self.driver.take_events().map_err(ApplyError::Policy)?;
        self.interfaces.take_events().map_err(ApplyError::Interfaces)?;
        self.tunnels.take_events().map_err(ApplyError::Tunnels)?;
        if self.interfaces.take_outside() {
            self.tunnels.look_again();
        }
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
        self.tunnels.compare();
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
        Ok(self.mended(&applied))
    }

    /// Compares IP sets alone with the kernel at once, where policy is held in any.
    ///
    /// # Errors
    /// The kernel could not be read or written.
    pub fn resync_sets(&mut self) -> Result<PassReport, ApplyError> {
        if !self.synced_once {
            return Ok(PassReport::default());
        }
        let applied = self.driver.resync_sets().map_err(ApplyError::Policy)?;
        Ok(self.mended(&applied))
    }

    fn mended(&mut self, applied: &Applied) -> PassReport {
        self.doubt_vacancies(applied.mended);
        PassReport {
            transactions: applied.transactions,
            messages: applied.messages,
            mended: applied.mended,
            ..PassReport::default()
        }
    }

    /// How many routes are wanted of us: to workloads here and to other nodes.
    pub fn route_count(&self) -> usize {
        self.interfaces.route_count()
    }

    /// Has a pass be due that tries again what the last one could not do with single interfaces and routes.
    pub fn retry_faults(&mut self) {
        self.interfaces.retry();
        self.tunnels.retry();
        self.predecessors.retry();
    }

    /// How many lists of interfaces, addresses, routes and neighbours were read from the kernel so far. Each costs it a
    /// walk over all of them.
    pub fn lists_read(&self) -> u64 {
        self.interfaces.lists() + self.tunnels.lists()
    }

    /// What is in force for each endpoint.
    pub fn programmed(&self) -> &BTreeMap<EndpointId, Programmed> {
        &self.programmed
    }

    /// Ports of the node, and where each leads. Of use right after a pass: then all of it is in force.
    pub fn host_ports(&self) -> &BTreeMap<HostPort, SocketAddr> {
        self.driver.host_ports()
    }

    /// The largest packet of workloads that fits into every way to other nodes, in bytes; none as long as it is not
    /// known which device carries these.
    pub fn workload_mtu(&self) -> Option<u32> {
        self.tunnels.workload_mtu()
    }

    /// How many tunnel devices compute checksums themselves though the settings do not tell them to: what carries them
    /// was found to do it wrongly, in this life or an earlier one, or they were found so.
    pub fn tunnels_with_own_checksums(&self) -> usize {
        self.tunnels.off_unasked()
    }

    /// The descriptors to poll: events of rules, interface events, looks through connection tracking that ended, and
    /// news of tunnels and of their checksums.
    pub fn event_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let always = [self.interfaces.as_fd(), self.walker.as_fd()];
        let others = self.driver.event_fd().into_iter().chain(always);
        others.chain(self.tunnels.event_fds())
    }

    /// Whether others cannot write to the policy table.
    pub fn is_table_owned(&self) -> bool {
        self.driver.is_owned()
    }

    /// The decision tables, for status and metrics.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The driver of rules, for status and metrics.
    pub fn driver(&self) -> &RulesDriver {
        &self.driver
    }

    /// An error with its causes, in one line.
    pub fn describe(error: &ApplyError) -> String {
        describe(error)
    }
}
