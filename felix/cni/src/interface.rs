//! The kernel's part of an attachment: made, checked, removed, each in one blocking step.

use crate::protocol::{Failure, code};
use crate::server::Caller;
pub(crate) use dataplane_netlink::chain as text;
use dataplane_netlink::conntrack::Conntrack;
use dataplane_netlink::links::{self, AdminState, LinkStep};
use dataplane_netlink::routes;
use dataplane_netlink::workload::{ConnectRequest, Unready, WorkloadError, WorkloadSettings, Workloads};
use dataplane_netlink::{InterfaceName, NetlinkError, NetworkNamespace, Rtnetlink};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A largest packet that any interface may have, in bytes.
const USUAL_MTU: u32 = 1500;

/// How the sandbox is reached.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    path: String,
    handed: Option<Arc<OwnedFd>>,
    netlink: Option<Arc<OwnedFd>>,
}

impl Sandbox {
    /// By what the caller handed over, or else by its path.
    pub(crate) fn new(path: String, caller: &Caller) -> Self {
        Sandbox {
            path,
            handed: caller.namespace.clone(),
            netlink: caller.netlink.clone(),
        }
    }

    fn open(&self) -> Result<NetworkNamespace, Failure> {
        let keep = |descriptor: &Arc<OwnedFd>| {
            descriptor
                .try_clone()
                .map_err(|e| Failure::new(code::IO, format!("keeping the sandbox's namespace: {e}")))
        };
        match &self.handed {
            Some(descriptor) => {
                let namespace = NetworkNamespace::from(keep(descriptor)?);
                match &self.netlink {
                    Some(socket) => Ok(namespace.with_netlink(keep(socket)?)),
                    None => Ok(namespace),
                }
            }
            None => {
                NetworkNamespace::open(&self.path).map_err(|e| Failure::new(code::UNKNOWN_SANDBOX, text(&e)))
            }
        }
    }
}

/// An attachment as the kernel is to have it.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    pub(crate) settings: WorkloadSettings,
    pub(crate) sandbox: Sandbox,
    /// Its name in the sandbox.
    pub(crate) inside: String,
    /// Its name on the node.
    pub(crate) outside: InterfaceName,
    pub(crate) addresses: Vec<IpAddr>,
    /// Its largest packet, in bytes; 0 where nobody knows how large it was to be.
    pub(crate) mtu: u32,
}

/// An interface that was made.
#[derive(Debug)]
pub(crate) struct Made {
    /// Its Ethernet address inside.
    pub(crate) mac: String,
    /// Whether it carries packets already.
    pub(crate) is_ready: bool,
    workloads: Workloads,
    unready: Unready,
}

impl Made {
    /// Waits until it carries packets.
    pub(crate) fn wait(mut self) -> Result<Self, Failure> {
        let waited = self.unready.wait(&mut self.workloads);
        waited.map_err(|e| kernel_failure(&e))?;
        self.is_ready = true;
        Ok(self)
    }
}

impl Interface {
    /// Makes it.
    pub(crate) fn connect(self) -> Result<Made, Failure> {
        self.ask(|mut workloads, request| {
            let connected = workloads.connect_unready(request);
            let (connected, mut unready) = connected.map_err(workload_failure)?;
            let is_ready = unready.is_ready(&mut workloads).map_err(|e| kernel_failure(&e))?;
            Ok(Made {
                mac: connected.container_mac.to_string(),
                is_ready,
                workloads,
                unready,
            })
        })
    }

    /// Says what is not as it was made.
    pub(crate) fn check(mut self) -> Result<(), Failure> {
        if self.mtu == 0 {
            let mut netlink = Rtnetlink::open_with(self.settings.patience).map_err(|e| kernel_failure(&e))?;
            let link = links::find(&mut netlink, &self.outside).map_err(|e| kernel_failure(&e))?;
            self.mtu = link.map_or(USUAL_MTU, |link| link.mtu);
        }
        let faults = self.ask(|mut workloads, request| workloads.check(request).map_err(workload_failure))?;
        if faults.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = faults.iter().map(|f| f.remedy.clone()).collect();
        Err(Failure::new(
            code::KERNEL,
            format!(
                "the attachment is not as it was made; it would take: {}",
                list.join(", ")
            ),
        ))
    }

    fn ask<T>(
        self,
        what: impl FnOnce(Workloads, &ConnectRequest<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let namespace = self.sandbox.open()?;
        let container_interface =
            InterfaceName::new(self.inside).map_err(|e| Failure::new(code::INVALID_REQUEST, e))?;
        let workloads = Workloads::open(self.settings).map_err(|e| kernel_failure(&e))?;
        let request = ConnectRequest {
            namespace: &namespace,
            container_interface,
            host_interface: self.outside,
            addresses: self.addresses,
            mtu: self.mtu,
            container_mac: None,
            routes: Vec::new(),
        };
        what(workloads, &request)
    }
}

/// Takes an interface of the node down, if there is one: from now on nothing passes. Removing it takes the kernel two
/// hundred times as long.
pub(crate) fn cut(settings: &WorkloadSettings, interface: &str) -> Result<(), Failure> {
    let name = InterfaceName::new(interface).map_err(|e| Failure::new(code::INVALID_REQUEST, e))?;
    if !settings.ownership.prefixes.is_ours(interface) {
        return Ok(());
    }
    let mut netlink = Rtnetlink::open_with(settings.patience).map_err(|e| kernel_failure(&e))?;
    let Some(link) = links::find(&mut netlink, &name).map_err(|e| kernel_failure(&e))? else {
        return Ok(());
    };
    if !link.is_veth() {
        return Ok(());
    }
    match links::execute(&mut netlink, &link, &[LinkStep::SetState(AdminState::Down)]) {
        // It went with its sandbox meanwhile.
        Err(error) if error.is_absent() => Ok(()),
        other => other.map_err(|e| kernel_failure(&e)),
    }
}

/// Removes interfaces of the node, those that are there, and says which could not be removed.
pub(crate) fn disconnect_all(
    settings: WorkloadSettings,
    interfaces: BTreeSet<String>,
) -> Result<BTreeMap<String, Failure>, Failure> {
    let mut workloads = Workloads::open(settings).map_err(|e| kernel_failure(&e))?;
    let mut failures = BTreeMap::new();
    let mut names = Vec::with_capacity(interfaces.len());
    for interface in interfaces {
        match InterfaceName::new(interface.clone()) {
            Ok(name) => names.push(name),
            Err(error) => drop(failures.insert(interface, Failure::new(code::INVALID_REQUEST, error))),
        }
    }
    for (name, removed) in names.iter().zip(workloads.disconnect_all(&names)) {
        if let Err(error) = removed {
            failures.insert(name.to_string(), workload_failure(error));
        }
    }
    Ok(failures)
}

/// Removes the flows of addresses, in one look through connection tracking.
pub(crate) fn forget_flows(settings: &WorkloadSettings, addresses: &[IpAddr]) -> Result<(), Failure> {
    let mut conntrack = Conntrack::open_with(settings.patience).map_err(|e| kernel_failure(&e))?;
    conntrack
        .forget_addresses(addresses)
        .map_err(|e| kernel_failure(&e))?;
    Ok(())
}

/// Addresses that lead to interfaces of workloads, with the names of these.
pub(crate) type Routed = BTreeMap<IpAddr, String>;

/// What the kernel has of workloads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) routed: Routed,
    /// Interfaces that bear a workload's name.
    pub(crate) interfaces: BTreeSet<String>,
}

/// Looks at what the kernel has of workloads.
pub(crate) fn see(settings: &WorkloadSettings) -> Result<Seen, Failure> {
    let mut netlink = Rtnetlink::open_with(settings.patience).map_err(|e| kernel_failure(&e))?;
    let observed = routes::observe(&mut netlink, &settings.ownership).map_err(|e| kernel_failure(&e))?;
    let links = observed.links.iter();
    let workloads: BTreeMap<u32, &InterfaceName> = links
        .filter(|(name, _)| settings.ownership.prefixes.is_ours(name.as_str()))
        .map(|(name, link)| (link.index, name))
        .collect();
    let routed = observed.routes.iter().filter_map(|route| {
        let name = workloads.get(&route.interface()?)?;
        let is_one_address = route.destination.prefix_len() == route.destination.max_prefix_len();
        is_one_address.then(|| (route.destination.addr(), name.to_string()))
    });
    Ok(Seen {
        routed: routed.collect(),
        interfaces: workloads.values().map(ToString::to_string).collect(),
    })
}

/// Runs what waits for the kernel away from the threads that answer requests.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(
            code::KERNEL,
            format!("the request's thread ended: {error}"),
        )),
    }
}

fn workload_failure(error: WorkloadError) -> Failure {
    Failure::new(code::KERNEL, text(&error))
}

fn kernel_failure(error: &NetlinkError) -> Failure {
    Failure::new(code::KERNEL, text(error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
mod tests {
    use super::*;
    use std::process::Command;

    fn ip(arguments: &str) {
        let status = Command::new("ip").args(arguments.split_whitespace()).status();
        assert!(status.unwrap().success(), "ip {arguments}");
    }

    #[test]
    fn workloads_are_seen_and_an_interface_is_cut() {
        let namespace = NetworkNamespace::anonymous().unwrap();
        let settings = WorkloadSettings::default();
        let seen = namespace.run(|| {
            ip("link add cali1 type veth peer name inside");
            ip("link add other type veth peer name otherinside");
            for command in [
                "link set inside up",
                "link set cali1 up",
                "link set other up",
                "route add 10.0.0.7/32 dev cali1 scope link",
                "-6 route add fd00::7/128 dev cali1",
                "route add 10.0.0.8/32 dev other",
                "route add 10.1.0.0/24 dev cali1",
            ] {
                ip(command);
            }
            let seen = see(&settings).unwrap();
            for interface in ["cali1", "cali2", "other"] {
                cut(&settings, interface).unwrap();
            }
            let up = Command::new("ip")
                .args(["-o", "link", "show", "up"])
                .output()
                .unwrap();
            let up = String::from_utf8(up.stdout).unwrap();
            assert!(!up.contains(": cali1@") && up.contains(": other@"), "{up}");
            (seen, see(&settings).unwrap())
        });
        let routed = ["10.0.0.7", "fd00::7"].map(|a| (a.parse().unwrap(), "cali1".to_owned()));
        let expected = |routed| Seen {
            routed,
            interfaces: BTreeSet::from(["cali1".to_owned()]),
        };
        let all = BTreeMap::from(routed);
        assert_eq!(seen.unwrap(), (expected(all), expected(BTreeMap::new())));
    }
}
