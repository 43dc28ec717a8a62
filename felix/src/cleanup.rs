//! Removes everything of ours from the kernel, and nothing else.
//!
//! Traffic first becomes unpoliced, then interfaces and routes go, and the tunnels that these led into: the order in which
//! nothing is cut that could go on.

use crate::agent::{of_tunnels, workload_settings};
use crate::rules;
use crate::settings::Settings;
use dataplane::{TunnelSettings, remove_rules_but};
use dataplane_iptables::programs::ProgramSettings;
use dataplane_netlink::routes::{self, RouteOwnership, RouteTable};
use dataplane_netlink::tunnels::ipip::{self, IPIP_DEVICE};
use dataplane_netlink::tunnels::vxlan::{self, Family, VxlanIdentity};
use dataplane_netlink::{InterfaceName, NetlinkError, Rtnetlink, addresses};
use std::net::{IpAddr, Ipv4Addr};

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// What holds policy: our nftables table, our chains in iptables, our IP sets. Whatever could be removed is.
    #[error("{}", .0.join("; "))]
    Rules(Vec<String>),
    /// Our routes.
    #[error("removing our routes")]
    Routes(#[source] NetlinkError),
    /// Our tunnel devices.
    #[error("removing our tunnel devices")]
    Tunnels(#[source] NetlinkError),
}

/// By what routes and tunnel devices of ours are known.
#[derive(Clone, Debug)]
pub struct Marks {
    routes: RouteOwnership,
    vxlan: Vec<VxlanIdentity>,
    ipip_address: Option<Ipv4Addr>,
}

impl Marks {
    /// Those of a node where these settings are in force.
    pub fn of(settings: &Settings, routes: RouteOwnership) -> Self {
        Marks::of_tunnels(&settings.felix_hostname, &of_tunnels(settings).0, routes)
    }

    fn of_tunnels(node: &str, tunnels: &TunnelSettings, routes: RouteOwnership) -> Self {
        let identities = [Family::V4, Family::V6].map(|family| VxlanIdentity::of_node(node, family));
        let vxlan = identities.into_iter().flatten().map(|usual| VxlanIdentity {
            vni: tunnels.vxlan_vni,
            port: tunnels.vxlan_port,
            ..usual
        });
        Marks {
            routes,
            vxlan: vxlan.collect(),
            ipip_address: None,
        }
    }

    /// The same where it is known which address the node's IPIP device has.
    ///
    /// The device is the kernel's, and other software puts addresses on it too: without this one it is believed to be ours
    /// only while routes of ours lead into it.
    #[must_use]
    pub fn with_ipip_address(mut self, address: Option<Ipv4Addr>) -> Self {
        self.ipip_address = address;
        self
    }
}

/// Removes our rules, our routes and our tunnel devices in the calling thread's network namespace, by the marks that they
/// have without settings. Workload interfaces belong to their workloads and go with them.
///
/// # Errors
/// See [`CleanupError`].
pub fn everything() -> Result<Vec<String>, CleanupError> {
    let (tunnels, routes) = (TunnelSettings::default(), RouteOwnership::default());
    let marks = Marks::of_tunnels("", &tunnels, routes);
    of_kernel(&ProgramSettings::default(), Some(&marks))
}

/// The same by the marks that these settings give. Where routes are left to another network, only the rules go.
///
/// # Errors
/// See [`CleanupError`].
pub fn by(settings: &Settings) -> Result<Vec<String>, CleanupError> {
    let programs = rules::programs(settings);
    if settings.route_sync_disabled {
        return of_kernel(&programs, None);
    }
    match workload_settings(settings) {
        Ok(workloads) => of_kernel(&programs, Some(&Marks::of(settings, workloads.ownership))),
        // No agent works with such settings.
        Err(_) => everything(),
    }
}

/// Removes what holds policy, whatever it is, and the routes and tunnel devices that are ours by these marks; without marks
/// none of these. `programs` are iptables'. Says what was there.
///
/// # Errors
/// See [`CleanupError`].
pub fn of_kernel(programs: &ProgramSettings, marks: Option<&Marks>) -> Result<Vec<String>, CleanupError> {
    let rules = remove_rules_but(None, programs);
    if !rules.failures.is_empty() {
        return Err(CleanupError::Rules(rules.failures));
    }
    let mut done = rules.removed;
    let notes = rules.notes;
    if let Some(marks) = marks {
        let mut netlink = Rtnetlink::open().map_err(CleanupError::Routes)?;
        let has_ipip = has_ipip(&mut netlink, marks).map_err(CleanupError::Tunnels)?;
        let nothing = RouteTable::new();
        let removed =
            routes::reconcile(&mut netlink, &nothing, &marks.routes).map_err(CleanupError::Routes)?;
        if removed.done > 0 {
            done.push(format!("removed {} routes", removed.done));
        }
        if let Some(failure) = removed.failures.into_iter().next() {
            return Err(CleanupError::Routes(failure.error));
        }
        // By the routes that were there it is known whose they are, and with a device the kernel takes its routes in silence.
        for identity in &marks.vxlan {
            if vxlan::remove(&mut netlink, identity).map_err(CleanupError::Tunnels)? {
                done.push(format!("removed the tunnel device {}", identity.name));
            }
        }
        if has_ipip && release_ipip(&mut netlink).map_err(CleanupError::Tunnels)? {
            done.push(format!("released the tunnel device {IPIP_DEVICE}"));
        }
    }
    if done.is_empty() {
        done.push("there was nothing of ours".to_string());
    }
    done.extend(notes);
    Ok(done)
}

/// Whether the node's IPIP device is ours.
fn has_ipip(netlink: &mut Rtnetlink, marks: &Marks) -> Result<bool, NetlinkError> {
    let Ok(name) = InterfaceName::new(IPIP_DEVICE) else {
        return Ok(false);
    };
    let Some(device) = ipip::observe(netlink, &name)? else {
        return Ok(false);
    };
    let has_it = |address: &addresses::Address| {
        let known = marks.ipip_address.map(IpAddr::V4);
        known.is_some_and(|known| known == address.net.addr())
    };
    if addresses::list_of(netlink, &device.link)?.iter().any(has_it) {
        return Ok(true);
    }
    let observed = routes::observe(netlink, &marks.routes)?;
    let leads_in = observed
        .routes
        .iter()
        .any(|route| route.interface() == Some(device.link.index));
    Ok(leads_in)
}

fn release_ipip(netlink: &mut Rtnetlink) -> Result<bool, NetlinkError> {
    match InterfaceName::new(IPIP_DEVICE) {
        Ok(name) => ipip::release(netlink, &name),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
#[path = "cleanup_tests.rs"]
mod tests;
