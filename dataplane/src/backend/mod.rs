//! What the passes need of a driver of rules, whichever one it is.
//!
//! One value for each way to hold policy in the kernel, and one method for each thing that a pass asks; every match is
//! exhaustive, so that a further way cannot be forgotten anywhere. What only one of them has stays behind it.

mod error;
mod iptables;
mod nftables;
mod others;

pub use error::BackendError;
pub use iptables::{Iptables, IptablesCounts, IptablesError, IptablesSettings, remove_iptables_rules};
pub use others::{Removal, RulesKind, remove_rules_but};

use crate::settings::DataplaneSettings;
use dataplane_api::HostPort;
use dataplane_netlink::Patience;
use dataplane_nftables::Driver as Nftables;
use dataplane_tables::{Changes, Confined, Tables, TunnelsInUse};
use policy_model::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

/// What one call of a driver did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Transactions that were committed.
    pub(crate) transactions: usize,
    /// Messages in them.
    pub(crate) messages: usize,
    /// Objects that were not as they should be, and are again.
    pub(crate) mended: usize,
}

/// The packet that opens a flow of a workload here, behind address translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opening<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: Protocol,
    /// Destination port, or ICMP type.
    pub(crate) x: u16,
    /// Source port, or ICMP code.
    pub(crate) y: u16,
    /// The interface of the workload that sends it, if one here does.
    pub(crate) from: Option<&'a str>,
    /// The interface of the workload that it is for, if it is one here.
    pub(crate) to: Option<&'a str>,
}

/// Which driver holds policy in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RulesBackend {
    /// A table of our own in nf_tables.
    #[default]
    Nftables,
    /// Chains of our own in the tables of iptables, and IP sets.
    Iptables(IptablesSettings),
}

/// What holds policy in the kernel.
#[derive(Debug)]
pub enum RulesDriver {
    /// A table of our own in nf_tables.
    Nftables(Box<Nftables>),
    /// Chains of our own in the tables of iptables, and IP sets.
    Iptables(Box<Iptables>),
}

impl RulesDriver {
    /// Opens what the settings choose, in the network namespace of the calling thread. Nothing is written. `patience` is
    /// how long the kernel may take to answer.
    pub(crate) fn open(settings: &DataplaneSettings, patience: Patience) -> Result<Self, BackendError> {
        Ok(match &settings.rules {
            RulesBackend::Nftables => RulesDriver::Nftables(Box::new(nftables::open(settings, patience)?)),
            RulesBackend::Iptables(own) => {
                RulesDriver::Iptables(Box::new(Iptables::open(own, settings, patience)?))
            }
        })
    }

    /// The nftables driver, where it is that.
    pub fn nftables(&self) -> Option<&Nftables> {
        match self {
            RulesDriver::Nftables(driver) => Some(driver),
            RulesDriver::Iptables(_) => None,
        }
    }

    /// The iptables driver, where it is that.
    pub fn iptables(&self) -> Option<&Iptables> {
        match self {
            RulesDriver::Nftables(_) => None,
            RulesDriver::Iptables(driver) => Some(driver),
        }
    }

    /// Which way to hold policy it is; none while the programs of iptables are still looked for.
    pub fn kind(&self) -> Option<RulesKind> {
        match self {
            RulesDriver::Nftables(_) => Some(RulesKind::Nftables),
            RulesDriver::Iptables(driver) => driver.tools().map(|tools| RulesKind::Iptables(tools.variant)),
        }
    }

    /// Whether the kernel may differ from what was written.
    pub fn is_suspect(&self) -> bool {
        match self {
            RulesDriver::Nftables(driver) => driver.is_suspect(),
            RulesDriver::Iptables(driver) => driver.is_suspect(),
        }
    }

    /// Whether others cannot write to what holds policy.
    pub fn is_owned(&self) -> bool {
        match self {
            RulesDriver::Nftables(driver) => driver.is_owned(),
            RulesDriver::Iptables(_) => false,
        }
    }

    /// Brings the kernel to what the decision tables say after a commit. The first call takes over what is there.
    pub(crate) fn apply(
        &mut self,
        tables: &Tables,
        changes: &Changes,
        now: u64,
    ) -> Result<Applied, BackendError> {
        match self {
            RulesDriver::Nftables(driver) => Ok(driver.apply(tables, changes, now)?.into()),
            RulesDriver::Iptables(driver) => Ok(driver.apply(tables, changes, now)?),
        }
    }

    /// Compares everything with what should be there, and mends what differs.
    pub(crate) fn resync(&mut self, tables: &Tables) -> Result<Applied, BackendError> {
        match self {
            RulesDriver::Nftables(driver) => Ok(driver.resync(tables)?.into()),
            RulesDriver::Iptables(driver) => Ok(driver.resync()?),
        }
    }

    /// Compares IP sets alone with what should be there, where there are any, and mends what differs.
    pub(crate) fn resync_sets(&mut self) -> Result<Applied, BackendError> {
        match self {
            RulesDriver::Nftables(_) => Ok(Applied::default()),
            RulesDriver::Iptables(driver) => Ok(driver.resync_sets()?),
        }
    }

    /// Says which tunnels unwrap packets on this node, from the next apply on; returns whether that is news.
    pub(crate) fn want_tunnels(&mut self, tunnels: TunnelsInUse) -> bool {
        match self {
            RulesDriver::Nftables(driver) => driver.want_tunnels(tunnels),
            RulesDriver::Iptables(driver) => driver.want_tunnels(tunnels),
        }
    }

    /// Says what leaves the node inside a tunnel or not at all, from the next apply on; returns whether that is news.
    pub(crate) fn want_confined(&mut self, confined: Confined) -> bool {
        match self {
            RulesDriver::Nftables(driver) => driver.want_confined(confined),
            RulesDriver::Iptables(driver) => driver.want_confined(confined),
        }
    }

    /// What was said last of that.
    pub(crate) fn wanted_confined(&self) -> &Confined {
        match self {
            RulesDriver::Nftables(driver) => driver.planner().wanted_confined(),
            RulesDriver::Iptables(driver) => driver.wanted_confined(),
        }
    }

    /// Addresses with which no connection begins, since nobody has them.
    pub(crate) fn vacant(&self) -> &BTreeSet<IpAddr> {
        match self {
            RulesDriver::Nftables(driver) => &driver.planner().state().vacant,
            RulesDriver::Iptables(driver) => driver.vacant(),
        }
    }

    /// Lets no connection begin with these addresses and with no others any more; after the first apply only. It is in
    /// force when this returns.
    pub(crate) fn set_vacant(
        &mut self,
        tables: &Tables,
        vacant: &BTreeSet<IpAddr>,
    ) -> Result<Applied, BackendError> {
        match self {
            RulesDriver::Nftables(driver) => Ok(driver.set_vacant(tables, vacant)?.into()),
            RulesDriver::Iptables(driver) => Ok(driver.set_vacant(vacant)?),
        }
    }

    /// Does what had to wait: removes what no packet can hold any more.
    pub(crate) fn retire(&mut self, tables: &Tables, now: u64) -> Result<Applied, BackendError> {
        match self {
            RulesDriver::Nftables(driver) => Ok(driver.retire(tables, now)?.into()),
            RulesDriver::Iptables(driver) => Ok(driver.retire(now)?),
        }
    }

    /// When [`RulesDriver::retire`] has something to do, on the clock of `now`.
    pub(crate) fn next_retirement(&self) -> Option<u64> {
        match self {
            RulesDriver::Nftables(driver) => driver.next_retirement(),
            RulesDriver::Iptables(driver) => driver.next_retirement(),
        }
    }

    /// Reads the events that have come. Afterwards [`RulesDriver::is_suspect`] says whether somebody else was at work.
    pub(crate) fn take_events(&mut self) -> Result<(), BackendError> {
        match self {
            RulesDriver::Nftables(driver) => driver.touched_by_others().map(drop)?,
            RulesDriver::Iptables(driver) => driver.take_events(),
        }
        Ok(())
    }

    /// What is readable when events have come, if there is something that tells them.
    pub(crate) fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            RulesDriver::Nftables(driver) => Some(driver.as_fd()),
            RulesDriver::Iptables(driver) => driver.event_fd(),
        }
    }

    /// Ports of the node, and where each leads.
    pub(crate) fn host_ports(&self) -> &BTreeMap<HostPort, SocketAddr> {
        match self {
            RulesDriver::Nftables(driver) => &driver.planner().state().host_ports,
            RulesDriver::Iptables(driver) => driver.host_ports(),
        }
    }

    /// The interface of each address of an endpoint here.
    pub(crate) fn interfaces_by_address(&self) -> BTreeMap<IpAddr, &str> {
        match self {
            RulesDriver::Nftables(driver) => nftables::interfaces_by_address(driver),
            RulesDriver::Iptables(driver) => driver.interfaces_by_address(),
        }
    }

    /// Whether the packet would pass now. `tables` are those of the last apply.
    pub(crate) fn lets_begin(&self, tables: &Tables, opening: &Opening<'_>) -> bool {
        match self {
            RulesDriver::Nftables(driver) => nftables::lets_begin(driver, tables, opening),
            RulesDriver::Iptables(driver) => driver.lets_begin(tables, opening),
        }
    }
}
