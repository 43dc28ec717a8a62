//! Brings one side of a workload's interface to what is wanted, or says what is lacking.

use std::fmt::Display;

use crate::addresses;
use crate::error::NetlinkError;
use crate::links::{self, Link};
use crate::neighbours;
use crate::routes::{self, ObservedLink, ObservedRoutes, RouteOwnership, RouteStep};
use crate::rtnetlink::Rtnetlink;
use crate::sysctl::{SysctlError, Sysctls};
use crate::workload::spec::Side;

/// Whether there can be anything on an interface yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// It was made a moment ago: what is wanted is written without looking first.
    New,
    /// It was there before.
    Old,
}

/// To whom the routes on this side belong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Routes<'ownership> {
    /// They are ours by these marks; others stay.
    Node(&'ownership RouteOwnership),
    /// They are the workload's: what is wanted is added, nothing else changed.
    Sandbox(&'ownership RouteOwnership),
}

/// Why one side could not be brought to what is wanted.
#[derive(Debug)]
pub(crate) enum SideError {
    Netlink(NetlinkError),
    Sysctl(SysctlError),
}

impl From<NetlinkError> for SideError {
    fn from(error: NetlinkError) -> Self {
        Self::Netlink(error)
    }
}

impl From<SysctlError> for SideError {
    fn from(error: SysctlError) -> Self {
        Self::Sysctl(error)
    }
}

/// Brings one side to what is wanted.
///
/// The settings come before the interface is up, so that it never has a moment with the wrong ones: IPv6 of a
/// workload without IPv6 addresses never wakes. Addresses, neighbours and routes need the interface up.
pub(crate) fn apply(
    netlink: &mut Rtnetlink,
    sysctls: &Sysctls,
    side: &Side,
    link: &Link,
    age: Age,
    owner: Routes<'_>,
) -> Result<(), SideError> {
    sysctls.apply(&side.sysctls)?;
    links::execute(netlink, link, &links::plan(&side.link, link))?;
    let seen = if age == Age::New {
        Vec::new()
    } else {
        addresses::list_of(netlink, link)?
    };
    addresses::execute(netlink, link, &addresses::plan(&side.addresses, &seen))?;
    let seen = if age == Age::New {
        Vec::new()
    } else {
        neighbours::list_of(netlink, link)?
    };
    let steps = match owner {
        Routes::Node(_) => neighbours::plan(&side.neighbours, &seen),
        Routes::Sandbox(_) => neighbours::missing(&side.neighbours, &seen),
    };
    neighbours::execute(netlink, link, &steps)?;
    if age == Age::New {
        let steps = route_steps(side, &only(link), owner);
        if routes::execute(netlink, &steps)?.is_empty() {
            return Ok(());
        }
        // Whoever puts endpoints into force saw the interface come up, and was faster with the same route. This looks
        // at one interface alone: reading all routes of the node would cost each pod as much as all of them.
        let mut observed = only(link);
        observed.routes = routes::observe_link(netlink, link)?;
        retain_concerned(&mut observed, side);
        if route_steps(side, &observed, owner).is_empty() {
            return Ok(());
        }
        // An address that another interface had until now: its old route is in the way.
    }
    let observed = observe_routes(netlink, side, owner)?;
    let failures = routes::execute(netlink, &route_steps(side, &observed, owner))?;
    failures
        .into_iter()
        .next()
        .map_or(Ok(()), |failure| Err(failure.error.into()))
}

/// Says what is lacking on one side, one line each.
pub(crate) fn faults(
    netlink: &mut Rtnetlink,
    sysctls: &Sysctls,
    side: &Side,
    link: &Link,
    owner: Routes<'_>,
) -> Result<Vec<String>, SideError> {
    let mut faults = Vec::new();
    faults.extend(sysctls.plan(&side.sysctls)?.iter().map(text));
    faults.extend(
        links::plan(&side.link, link)
            .iter()
            .map(|step| format!("set {step}")),
    );
    let seen = addresses::list_of(netlink, link)?;
    faults.extend(addresses::plan(&side.addresses, &seen).iter().map(text));
    let seen = neighbours::list_of(netlink, link)?;
    faults.extend(neighbours::missing(&side.neighbours, &seen).iter().map(text));
    let observed = observe_routes(netlink, side, owner)?;
    faults.extend(route_steps(side, &observed, owner).iter().map(text));
    for destination in routes::waiting(&side.routes, &observed) {
        faults.push(format!("add route {destination}"));
    }
    Ok(faults)
}

fn text(step: &impl Display) -> String {
    step.to_string()
}

/// Describes a namespace of which only one interface matters and no route exists.
fn only(link: &Link) -> ObservedRoutes {
    ObservedRoutes {
        links: [(
            link.name.clone(),
            ObservedLink {
                index: link.index,
                up: true,
            },
        )]
        .into_iter()
        .collect(),
        routes: Vec::new(),
    }
}

/// Reads the routes that matter to one side.
fn observe_routes(
    netlink: &mut Rtnetlink,
    side: &Side,
    owner: Routes<'_>,
) -> Result<ObservedRoutes, NetlinkError> {
    let mut observed = match owner {
        Routes::Node(ownership) => routes::observe(netlink, ownership)?,
        Routes::Sandbox(_) => routes::observe_all(netlink)?,
    };
    retain_concerned(&mut observed, side);
    Ok(observed)
}

/// Leaves the routes to what is wanted here: the other workloads' routes are none of this one's business.
fn retain_concerned(observed: &mut ObservedRoutes, side: &Side) {
    observed
        .routes
        .retain(|route| side.routes.get(&route.destination).is_some());
}

fn route_steps(side: &Side, observed: &ObservedRoutes, owner: Routes<'_>) -> Vec<RouteStep> {
    match owner {
        Routes::Node(ownership) => routes::plan(&side.routes, observed, ownership),
        Routes::Sandbox(ownership) => routes::missing(&side.routes, observed, ownership),
    }
}
