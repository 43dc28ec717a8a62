//! The kernel's part of an attachment: made, checked, removed, each in one blocking step.

use crate::protocol::{Failure, code};
use crate::server::Caller;
use dataplane_netlink::conntrack::Conntrack;
use dataplane_netlink::workload::{ConnectRequest, WorkloadError, WorkloadSettings, Workloads};
use dataplane_netlink::{InterfaceName, NetlinkError, NetworkNamespace};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How the sandbox is reached.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    path: String,
    handed: Option<Arc<OwnedFd>>,
}

impl Sandbox {
    /// By what the caller handed over, or else by its path.
    pub(crate) fn new(path: String, caller: &Caller) -> Self {
        Sandbox {
            path,
            handed: caller.namespace.clone(),
        }
    }

    fn open(&self) -> Result<NetworkNamespace, Failure> {
        match &self.handed {
            Some(descriptor) => descriptor
                .try_clone()
                .map(NetworkNamespace::from)
                .map_err(|e| Failure::new(code::IO, format!("keeping the sandbox's namespace: {e}"))),
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
    pub(crate) mtu: u32,
}

impl Interface {
    /// Makes it and returns its Ethernet address inside.
    pub(crate) fn connect(self) -> Result<String, Failure> {
        self.ask(|workloads, request| {
            let connected = workloads.connect(request).map_err(workload_failure)?;
            Ok(connected.container_mac.to_string())
        })
    }

    /// Says what is not as it was made.
    pub(crate) fn check(self) -> Result<(), Failure> {
        let faults = self.ask(|workloads, request| workloads.check(request).map_err(workload_failure))?;
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
        what: impl FnOnce(&mut Workloads, &ConnectRequest<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let namespace = self.sandbox.open()?;
        let container_interface =
            InterfaceName::new(self.inside).map_err(|e| Failure::new(code::INVALID_REQUEST, e))?;
        let mut workloads = Workloads::open(self.settings).map_err(|e| kernel_failure(&e))?;
        let request = ConnectRequest {
            namespace: &namespace,
            container_interface,
            host_interface: self.outside,
            addresses: self.addresses,
            mtu: self.mtu,
            container_mac: None,
            routes: Vec::new(),
        };
        what(&mut workloads, &request)
    }
}

/// Removes an interface of the node, if there is one, and the flows of its addresses.
pub(crate) fn disconnect(
    settings: WorkloadSettings,
    interface: &str,
    addresses: &[IpAddr],
) -> Result<(), Failure> {
    if !interface.is_empty() {
        let name = InterfaceName::new(interface).map_err(|e| Failure::new(code::INVALID_REQUEST, e))?;
        let mut workloads = Workloads::open(settings).map_err(|e| kernel_failure(&e))?;
        workloads.disconnect(&name).map_err(workload_failure)?;
    }
    let mut conntrack = Conntrack::open().map_err(|e| kernel_failure(&e))?;
    conntrack
        .forget_addresses(addresses)
        .map_err(|e| kernel_failure(&e))?;
    Ok(())
}

fn workload_failure(error: WorkloadError) -> Failure {
    Failure::new(code::KERNEL, text(&error))
}

fn kernel_failure(error: &NetlinkError) -> Failure {
    Failure::new(code::KERNEL, text(error))
}

/// An error with all its causes.
pub(crate) fn text(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        out.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    out
}
