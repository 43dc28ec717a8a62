//! One workload's interface: from nothing to reachable, checked, and back.
//!
//! The order matters little for safety and much for surprise. The pair is made with its far end directly in
//! the sandbox; the far end is configured; the near end is configured and comes up last. Packets of an
//! interface whose policy is not in the kernel yet are dropped there, so nothing passes early. A route is
//! never written before its interface exists.
//!
//! Rooms: `request` (what is asked, and errors), `spec` (what that means on either side), `pairing` (what is
//! already there), `side` (bringing one side to it), `ready` (waiting for the kernel's background work).

mod ending;
mod pairing;
mod ready;
mod request;
mod side;
mod spec;

use std::os::fd::BorrowedFd;

pub use ready::Unready;
pub use request::{ConnectRequest, InvalidRequest, WorkloadError};
pub use spec::{GATEWAY_V4, IpV6, ReversePath, RouteSources, device_neighbours, device_routes, host_sysctls};

use crate::error::NetlinkError;
use crate::links::{self, Link, LinkSpec, VethEnd};
use crate::mac::MacAddress;
use crate::names::InterfaceName;
use crate::routes::RouteOwnership;
use crate::rtnetlink::Rtnetlink;
use crate::socket::Patience;
use crate::sysctl::Sysctls;
use crate::workload::pairing::Pairing;
use crate::workload::side::{Age, Routes, SideError};

/// The number of every namespace's loopback interface.
const LOOPBACK: u32 = 1;

/// What holds for all workloads of a node.
#[derive(Debug, Clone, Default)]
pub struct WorkloadSettings {
    /// How routes and interfaces of ours are marked.
    pub ownership: RouteOwnership,
    /// Whether packets with a sender that is not the workload's are dropped by the routing code as well.
    pub reverse_path: ReversePath,
    /// Where kernel settings are.
    pub sysctls: Sysctls,
    /// Addresses that the node's own packets to workloads take.
    pub route_sources: RouteSources,
    /// How long the kernel may take to answer a request.
    pub patience: Patience,
    /// Whether the node's routing table is left to another network, beside which only policy is ours.
    pub leaves_routes: bool,
}

/// Connects workloads to the node in whose network namespace it was opened.
#[derive(Debug)]
pub struct Workloads {
    netlink: Rtnetlink,
    settings: WorkloadSettings,
}

/// A connected workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// The number of the interface on the node.
    pub host_index: u32,
    /// The Ethernet address of the interface on the node.
    pub host_mac: MacAddress,
    /// The number of the interface inside.
    pub container_index: u32,
    /// The Ethernet address of the interface inside.
    pub container_mac: MacAddress,
    /// Whether the pair was made now.
    pub pair: Pair,
}

/// Whether a pair was made by a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pair {
    /// It was made.
    Made,
    /// It was there and was kept.
    Kept,
    /// A leftover was deleted and the pair made.
    Remade,
}

/// The side of an interface that lacks something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultSide {
    /// The node's.
    Host,
    /// The workload's.
    Container,
}

/// Something that is not as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub side: FaultSide,
    /// What connecting again would do about it, in a few words.
    pub remedy: String,
}

/// Whether there was something to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnected {
    /// There was, and it has gone.
    Removed,
    /// There was nothing.
    WasAbsent,
}

impl Workloads {
    /// Opens the driver in the calling thread's network namespace.
    ///
    /// # Errors
    /// The process may not open netlink sockets.
    pub fn open(settings: WorkloadSettings) -> Result<Self, NetlinkError> {
        Ok(Self {
            netlink: Rtnetlink::open_with(settings.patience)?,
            settings,
        })
    }

    /// Returns the settings.
    pub fn settings(&self) -> &WorkloadSettings {
        &self.settings
    }

    /// Connects a workload. The same request again changes nothing; a half-made or changed interface is
    /// brought to what is asked.
    ///
    /// Call it from a thread in the node's namespace: settings of the node's side are written by the caller.
    ///
    /// # Errors
    /// What could not be done. A pair that this call made is deleted again; one that was there stays.
    pub fn connect(&mut self, request: &ConnectRequest<'_>) -> Result<Connected, WorkloadError> {
        let mut made = false;
        let outcome = self
            .write(request, &mut made)
            .and_then(|(connected, mut unready)| {
                let waited = unready.wait(self);
                waited.map_err(|error| Wrap(&request.host_interface).netlink(error))?;
                Ok(connected)
            });
        self.take_back(request, made, outcome)
    }

    /// Does the same without the wait for what the kernel does in the background: until then it drops what is sent. If that
    /// wait fails, nothing is taken back.
    ///
    /// # Errors
    /// As [`Workloads::connect`].
    pub fn connect_unready(
        &mut self,
        request: &ConnectRequest<'_>,
    ) -> Result<(Connected, Unready), WorkloadError> {
        let mut made = false;
        let outcome = self.write(request, &mut made);
        self.take_back(request, made, outcome)
    }

    fn take_back<T>(
        &mut self,
        request: &ConnectRequest<'_>,
        made: bool,
        outcome: Result<T, WorkloadError>,
    ) -> Result<T, WorkloadError> {
        if outcome.is_err() && made {
            // Nothing half-made stays; if even that fails, the next request for this name repairs it.
            if let Err(error) = self.remove(&request.host_interface) {
                tracing::warn!(interface = %request.host_interface, %error, "cannot take back a half-made interface");
            }
        }
        outcome
    }

    /// Writes all that is wanted to the kernel.
    fn write(
        &mut self,
        request: &ConnectRequest<'_>,
        made: &mut bool,
    ) -> Result<(Connected, Unready), WorkloadError> {
        request.validate(&self.settings.ownership.prefixes)?;
        let wrap = Wrap(&request.host_interface);
        let host = self.find(&request.host_interface)?;
        let Self { netlink, settings } = self;
        let Inside {
            socket,
            link: container,
            pair,
        } = match request.namespace.netlink() {
            Some(handed) => inside(netlink, settings, request, host, made, Some(handed))?,
            None => request
                .namespace
                .run(|| inside(netlink, settings, request, host, made, None))
                .map_err(|error| wrap.namespace(error))??,
        };
        let container_mac = container
            .mac
            .ok_or_else(|| wrap.vanished(&request.container_interface))?;

        let link = self
            .find(&request.host_interface)?
            .ok_or_else(|| wrap.vanished(&request.host_interface))?;
        let host = spec::host(
            request,
            container_mac,
            self.settings.reverse_path,
            self.settings.route_sources,
        );
        let owner = Routes::Node(&self.settings.ownership);
        let age = if pair == Pair::Kept { Age::Old } else { Age::New };
        side::apply(
            &mut self.netlink,
            &self.settings.sysctls,
            &host,
            &link,
            age,
            owner,
        )
        .map_err(|error| wrap.side(error))?;
        let connected = Connected {
            host_index: link.index,
            host_mac: MacAddress::HOST_SIDE,
            container_index: container.index,
            container_mac,
            pair,
        };
        let addresses = request.addresses.clone();
        Ok((connected, Unready::new(link, container, socket, addresses)))
    }

    /// Removes a workload's interface, and with it both ends, its routes and its neighbour entries.
    ///
    /// The kernel waits about 20 ms. Connection-tracking entries stay: see
    /// [`crate::conntrack::Conntrack::forget_addresses`].
    ///
    /// # Errors
    /// The interface is not ours, or the kernel refuses.
    pub fn disconnect(&mut self, interface: &InterfaceName) -> Result<Disconnected, WorkloadError> {
        if !self.settings.ownership.prefixes.is_ours(interface.as_str()) {
            return Err(WorkloadError::ForeignHostInterface {
                interface: interface.clone(),
                reason: "its name begins with none of the configured prefixes".to_owned(),
            });
        }
        self.remove(interface)
    }

    /// Removes the interfaces of several workloads, as [`Workloads::disconnect`] does with one; says of each, in their
    /// order, whether it is gone. Many take the kernel hardly longer than one, and it does nothing else meanwhile.
    pub fn disconnect_all(&mut self, interfaces: &[InterfaceName]) -> Vec<Result<(), WorkloadError>> {
        if let Err(error) = ending::remove_together(&mut self.netlink, &self.settings, interfaces) {
            tracing::debug!(%error, "interfaces cannot be removed together: they go one by one");
        }
        // Those that have gone by now are absent.
        let each = interfaces.iter();
        each.map(|interface| self.disconnect(interface).map(drop))
            .collect()
    }

    fn remove(&mut self, interface: &InterfaceName) -> Result<Disconnected, WorkloadError> {
        let Some(link) = self.find(interface)? else {
            return Ok(Disconnected::WasAbsent);
        };
        if !link.is_veth() {
            return Err(foreign_host(&link));
        }
        let removed =
            links::delete(&mut self.netlink, &link).map_err(|error| Wrap(interface).netlink(error))?;
        Ok(if removed {
            Disconnected::Removed
        } else {
            Disconnected::WasAbsent
        })
    }

    /// Says what is not as the request asks; nothing, if all is well. Changes nothing.
    ///
    /// # Errors
    /// The request cannot be, or the state could not be read.
    pub fn check(&mut self, request: &ConnectRequest<'_>) -> Result<Vec<Fault>, WorkloadError> {
        request.validate(&self.settings.ownership.prefixes)?;
        let wrap = Wrap(&request.host_interface);
        let absent = |side, name: &InterfaceName| {
            Ok(vec![Fault {
                side,
                remedy: format!("make interface {name}"),
            }])
        };
        let Some(host) = self.find(&request.host_interface)? else {
            return absent(FaultSide::Host, &request.host_interface);
        };
        let Self { netlink, settings } = self;
        let seen = match request.namespace.netlink() {
            Some(handed) => check_inside(netlink, settings, request, &host, Some(handed))?,
            None => request
                .namespace
                .run(|| check_inside(netlink, settings, request, &host, None))
                .map_err(|error| wrap.namespace(error))??,
        };
        let Some((container, mut faults)) = seen else {
            return absent(FaultSide::Container, &request.container_interface);
        };
        let Some(container_mac) = container.mac else {
            return absent(FaultSide::Container, &request.container_interface);
        };
        let wanted = spec::host(
            request,
            container_mac,
            self.settings.reverse_path,
            self.settings.route_sources,
        );
        let owner = Routes::Node(&self.settings.ownership);
        let lacking = side::faults(&mut self.netlink, &self.settings.sysctls, &wanted, &host, owner)
            .map_err(|error| wrap.side(error))?;
        faults.extend(lacking.into_iter().map(|remedy| Fault {
            side: FaultSide::Host,
            remedy,
        }));
        Ok(faults)
    }

    /// Returns the workload interfaces of this node: virtual pairs with a name of ours.
    ///
    /// # Errors
    /// The list could not be read.
    pub fn list(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut links = links::list(&mut self.netlink)?;
        let prefixes = &self.settings.ownership.prefixes;
        links.retain(|link| link.is_veth() && prefixes.is_ours(link.name.as_str()));
        Ok(links)
    }

    fn find(&mut self, interface: &InterfaceName) -> Result<Option<Link>, WorkloadError> {
        links::find(&mut self.netlink, interface).map_err(|error| Wrap(interface).netlink(error))
    }
}

/// What the work inside a sandbox leaves behind.
struct Inside {
    /// Stays in the sandbox.
    socket: Rtnetlink,
    link: Link,
    pair: Pair,
}

/// Makes the pair if need be and configures its far end, with the node's socket. Runs inside the sandbox, or with a
/// socket that was opened there; then the sandbox's settings are left as they are, for they are written from inside only.
fn inside(
    node: &mut Rtnetlink,
    settings: &WorkloadSettings,
    request: &ConnectRequest<'_>,
    host: Option<Link>,
    made: &mut bool,
    handed: Option<BorrowedFd<'_>>,
) -> Result<Inside, WorkloadError> {
    let wrap = Wrap(&request.host_interface);
    let name = &request.container_interface;
    let mut socket = socket_inside(handed, settings).map_err(|error| wrap.netlink(error))?;
    let mut find = |name| links::find(&mut socket, name).map_err(|error| wrap.netlink(error));
    let container = find(name)?;
    let number = match (&host, &container) {
        (Some(_), Some(_)) => {
            links::namespace_number(node, request.namespace).map_err(|error| wrap.netlink(error))?
        }
        _ => None,
    };
    let pair = match pairing::decide(host.as_ref(), container.as_ref(), number) {
        Pairing::Make => Pair::Made,
        Pairing::Keep => Pair::Kept,
        Pairing::Remake => {
            if let Some(link) = &host {
                links::delete(node, link).map_err(|error| wrap.netlink(error))?;
            }
            Pair::Remade
        }
        Pairing::ForeignHost => return Err(host.as_ref().map_or_else(|| wrap.vanished(name), foreign_host)),
        Pairing::ForeignContainer => {
            return Err(WorkloadError::ForeignContainerInterface {
                interface: request.host_interface.clone(),
                container_interface: name.clone(),
            });
        }
    };
    if pair != Pair::Kept {
        let near = VethEnd {
            name: request.host_interface.clone(),
            mac: Some(MacAddress::HOST_SIDE),
        };
        let far = VethEnd {
            name: name.clone(),
            mac: request.container_mac,
        };
        links::create_veth(node, &near, &far, request.namespace, request.mtu)
            .map_err(|error| wrap.netlink(error))?;
        *made = true;
    }
    let link = find(name)?.ok_or_else(|| wrap.vanished(name))?;
    raise_loopback(&mut socket).map_err(|error| wrap.netlink(error))?;
    let age = if pair == Pair::Kept { Age::Old } else { Age::New };
    let ownership = spec::container_ownership();
    let wanted = wanted_inside(request, handed.is_some());
    side::apply(
        &mut socket,
        &settings.sysctls,
        &wanted,
        &link,
        age,
        Routes::Sandbox(&ownership),
    )
    .map_err(|error| wrap.side(error))?;
    // The Ethernet address may just have been changed.
    let link = Link {
        mac: wanted.link.mac.or(link.mac),
        ..link
    };
    Ok(Inside { socket, link, pair })
}

fn socket_inside(
    handed: Option<BorrowedFd<'_>>,
    settings: &WorkloadSettings,
) -> Result<Rtnetlink, NetlinkError> {
    match handed {
        Some(handed) => Rtnetlink::over(handed, settings.patience),
        None => Rtnetlink::open_with(settings.patience),
    }
}

/// What is wanted inside, as far as it can be had.
fn wanted_inside(request: &ConnectRequest<'_>, is_outside: bool) -> spec::Side {
    let mut wanted = spec::container(request);
    if is_outside {
        wanted.sysctls.clear();
    }
    wanted
}

/// Says what is lacking inside; nothing at all if the far end is not there. Runs inside the sandbox.
fn check_inside(
    node: &mut Rtnetlink,
    settings: &WorkloadSettings,
    request: &ConnectRequest<'_>,
    host: &Link,
    handed: Option<BorrowedFd<'_>>,
) -> Result<Option<(Link, Vec<Fault>)>, WorkloadError> {
    let wrap = Wrap(&request.host_interface);
    let mut socket = socket_inside(handed, settings).map_err(|error| wrap.netlink(error))?;
    let container =
        links::find(&mut socket, &request.container_interface).map_err(|error| wrap.netlink(error))?;
    let number = links::namespace_number(node, request.namespace).map_err(|error| wrap.netlink(error))?;
    let Some(container) = container.filter(|container| pairing::are_ends(host, container, number)) else {
        return Ok(None);
    };
    let ownership = spec::container_ownership();
    let wanted = wanted_inside(request, handed.is_some());
    let lacking = side::faults(
        &mut socket,
        &settings.sysctls,
        &wanted,
        &container,
        Routes::Sandbox(&ownership),
    )
    .map_err(|error| wrap.side(error))?;
    let faults = lacking
        .into_iter()
        .map(|remedy| Fault {
            side: FaultSide::Container,
            remedy,
        })
        .collect();
    Ok(Some((container, faults)))
}

/// Sets the loopback interface of a sandbox up: programs speak to themselves through it.
fn raise_loopback(socket: &mut Rtnetlink) -> Result<(), NetlinkError> {
    // Loopback is the first interface of every namespace.
    let Some(loopback) = links::find_index(socket, LOOPBACK)? else {
        return Ok(());
    };
    links::execute(socket, &loopback, &links::plan(&LinkSpec::UP, &loopback))
}

fn foreign_host(link: &Link) -> WorkloadError {
    WorkloadError::ForeignHostInterface {
        interface: link.name.clone(),
        reason: match &link.kind {
            Some(kind) => format!("it is a {kind}, not a virtual pair"),
            None => "it is not a virtual pair".to_owned(),
        },
    }
}

/// Puts the interface's name to an error.
#[derive(Clone, Copy)]
struct Wrap<'name>(&'name InterfaceName);

impl Wrap<'_> {
    fn netlink(self, source: NetlinkError) -> WorkloadError {
        WorkloadError::Netlink {
            interface: self.0.clone(),
            source,
        }
    }

    fn namespace(self, source: crate::namespace::NamespaceError) -> WorkloadError {
        WorkloadError::Namespace {
            interface: self.0.clone(),
            source,
        }
    }

    fn side(self, error: SideError) -> WorkloadError {
        match error {
            SideError::Netlink(source) => self.netlink(source),
            SideError::Sysctl(source) => WorkloadError::Sysctl {
                interface: self.0.clone(),
                source,
            },
        }
    }

    fn vanished(self, interface: &InterfaceName) -> WorkloadError {
        WorkloadError::Vanished {
            interface: interface.clone(),
        }
    }
}
