//! What is ours on this node, and how it goes.
//!
//! The order is the safety of it. The network configuration goes first, so that the runtime starts no pod that it could
//! not connect. Interfaces of pods go before the table that polices them, and the table stays for as long as one of
//! them cannot be cut: a pod is never without policy and connected. The journal goes last, because it says what there
//! is.

use super::files;
use crate::agent::{
    AgentError, NetworkConfig, StateError, StateFolder, chain, has_tunnels, workload_settings,
};
use crate::cleanup::{self, Marks};
use crate::rules;
use crate::settings::Settings;
use dataplane_iptables::programs::ProgramSettings;
use dataplane_netlink::conntrack::Conntrack;
use dataplane_netlink::links::{self, AdminState, Link, LinkStep};
use dataplane_netlink::routes;
use dataplane_netlink::workload::{WorkloadSettings, Workloads};
use dataplane_netlink::{InterfaceName, NetlinkError, Rtnetlink};
use felix_cni::journal::Journal;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// What is ours on this node.
#[derive(Clone, Debug)]
pub(crate) struct Belongings {
    /// Where the agent connects pods.
    pub(super) network_config: Option<NetworkConfig>,
    pub(super) workloads: WorkloadSettings,
    /// The programs of iptables.
    pub(super) programs: ProgramSettings,
    /// By what routes and tunnels of ours are known; nothing where they are somebody else's.
    pub(super) marks: Option<Marks>,
    /// Whether the node's tunnels have addresses that this agent took.
    pub(super) has_tunnels: bool,
    pub(super) state: PathBuf,
    pub(super) socket: PathBuf,
}

impl Belongings {
    /// By the agent's settings and its environment.
    ///
    /// # Errors
    /// They make no sense, so that no agent works with them either.
    pub(crate) fn of(settings: &Settings) -> Result<Self, AgentError> {
        let network_config =
            NetworkConfig::from_environment(&settings.felix_hostname, |name| std::env::var_os(name))
                .map_err(|error| AgentError::Settings(error.to_string()))?;
        let workloads = workload_settings(settings)?;
        let marks = (!settings.route_sync_disabled).then(|| Marks::of(settings, workloads.ownership.clone()));
        Ok(Belongings {
            has_tunnels: has_tunnels(network_config.as_ref(), settings),
            network_config,
            workloads,
            programs: rules::programs(settings),
            marks,
            state: PathBuf::from(&settings.state_dir),
            socket: PathBuf::from(&settings.cni_socket_path),
        })
    }

    /// Whether the journal tells of pods.
    pub(crate) fn has_pods(&self) -> bool {
        // One that cannot be read may tell of some.
        self.journal().map_or(true, |journal| {
            journal.is_some_and(|journal| !journal.all().is_empty())
        })
    }

    fn journal(&self) -> Result<Option<Journal>, String> {
        let folder = self.state.join("attachments");
        if !folder.exists() {
            return Ok(None);
        }
        Journal::open(&folder).map(Some).map_err(|error| chain(&error))
    }

    /// Removes everything, as far as it can be, in the calling thread's network namespace; returns what could not. Says by
    /// `ipip` which address the node's IPIP device has, where that is known.
    pub(crate) fn remove(&self, ipip: Option<Ipv4Addr>) -> Vec<String> {
        // Two agents of one node would otherwise take each other's work apart. Without the folder there is no other.
        let _lock = match StateFolder::take(&self.state) {
            Err(error @ StateError::InUse { .. }) => return vec![chain(&error)],
            taken => taken.ok(),
        };
        let mut troubles = Vec::new();
        if let Some(config) = &self.network_config {
            let path = config.path();
            match files::network_config(&path, config.text()) {
                Ok(false) => {}
                Ok(true) => tracing::warn!(
                    path = %path.display(),
                    "the network configuration is not the one that was written: it is somebody's and stays"
                ),
                Err(error) => troubles.push(format!("removing {}: {error}", path.display())),
            }
        }
        if let Err(error) = self.cut() {
            troubles.push(format!("cutting pods off (policy stays in force): {error}"));
            return troubles;
        }
        let marks = self.marks.clone().map(|marks| marks.with_ipip_address(ipip));
        match cleanup::of_kernel(&self.programs, marks.as_ref()) {
            Ok(done) => done.into_iter().for_each(|line| tracing::info!("{line}")),
            Err(error) => troubles.push(chain(&error)),
        }
        if !troubles.is_empty() {
            return troubles;
        }
        let removed = [
            (files::socket(&self.socket), &self.socket),
            (files::state(&self.state), &self.state),
        ];
        for (outcome, path) in removed {
            if let Err(error) = outcome {
                troubles.push(format!("removing what is in {}: {error}", path.display()));
            }
        }
        troubles
    }

    /// Takes every pod's interface down, then removes it, with the flows of its addresses.
    fn cut(&self) -> Result<(), String> {
        let mut netlink = Rtnetlink::open_with(self.workloads.patience).map_err(said)?;
        let interfaces = self.interfaces(&mut netlink)?;
        let addresses = self.addresses(&mut netlink, &interfaces)?;
        for link in &interfaces {
            match links::execute(&mut netlink, link, &[LinkStep::SetState(AdminState::Down)]) {
                Err(error) if !error.is_absent() => return Err(said(error)),
                _ => {}
            }
        }
        for link in &interfaces {
            links::delete(&mut netlink, link).map_err(said)?;
        }
        if !interfaces.is_empty() {
            tracing::info!(interfaces = interfaces.len(), "pods are cut off");
        }
        if addresses.is_empty() {
            return Ok(());
        }
        let mut conntrack = Conntrack::open().map_err(said)?;
        conntrack.forget_addresses(&addresses).map_err(said)?;
        Ok(())
    }

    /// The interfaces that are ours: all with our prefix where this agent connects pods. Beside another network they
    /// are that one's, and only those are ours that the journal names.
    fn interfaces(&self, netlink: &mut Rtnetlink) -> Result<Vec<Link>, String> {
        if self.network_config.is_some() {
            let mut workloads = Workloads::open(self.workloads.clone()).map_err(said)?;
            return workloads.list().map_err(said);
        }
        let Some(journal) = self.journal()? else {
            return Ok(Vec::new());
        };
        let prefixes = &self.workloads.ownership.prefixes;
        let mut found = Vec::new();
        for attachment in journal.all().iter() {
            let Ok(name) = InterfaceName::new(attachment.host_interface.clone()) else {
                continue;
            };
            let link = links::find(netlink, &name).map_err(said)?;
            found.extend(link.filter(|link| link.is_veth() && prefixes.is_ours(link.name.as_str())));
        }
        Ok(found)
    }

    /// The addresses that lead to interfaces.
    fn addresses(&self, netlink: &mut Rtnetlink, interfaces: &[Link]) -> Result<Vec<IpAddr>, String> {
        let numbers: BTreeSet<u32> = interfaces.iter().map(|link| link.index).collect();
        let observed = routes::observe(netlink, &self.workloads.ownership).map_err(said)?;
        let to_pods = observed.routes.iter().filter(|route| {
            let is_one_address = route.destination.prefix_len() == route.destination.max_prefix_len();
            is_one_address && route.interface().is_some_and(|number| numbers.contains(&number))
        });
        Ok(to_pods.map(|route| route.destination.addr()).collect())
    }
}

fn said(error: NetlinkError) -> String {
    chain(&error)
}
