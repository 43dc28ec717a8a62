//! Decides which changes bring the kernel's routes to the wanted ones.
//!
//! Pure: no socket, no clock. `execute` carries the steps out and decides nothing.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::FxHashSet;

use crate::routes::observe::{ObservedRoute, ObservedRoutes, ObservedTarget};
use crate::routes::ours::RouteOwnership;
use crate::routes::spec::{Reach, RouteTable, RouteTarget};

/// One change to the routes of the main table. It carries all that its execution needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteStep {
    /// Remove exactly this route.
    Remove {
        /// The route as it was observed.
        route: ObservedRoute,
        /// Its interface's name, for messages.
        interface: Option<String>,
    },
    /// Add a route where there is none with the same key, or in the place of the one of ours that has it.
    Add {
        /// The destination.
        destination: IpNet,
        /// Where it is to lead.
        target: RouteTarget,
        /// The number of the target's interface, if it names one.
        link: Option<u32>,
        /// Marks the route as ours.
        protocol: u8,
        /// Whether it takes the place of the route with its key, in one moment: in between, packets would follow
        /// whatever other route there is.
        replaces: bool,
    },
}

impl RouteStep {
    /// Returns the destination whose routes it changes.
    pub fn destination(&self) -> IpNet {
        match self {
            Self::Remove { route, .. } => route.destination,
            Self::Add { destination, .. } => *destination,
        }
    }
}

impl fmt::Display for RouteStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove { route, interface } => {
                write!(formatter, "remove route {}", route.destination)?;
                if let ObservedTarget::Gateway { gateway, .. } = route.target {
                    write!(formatter, " via {gateway}")?;
                }
                match interface {
                    Some(interface) => write!(formatter, " dev {interface}"),
                    None => Ok(()),
                }
            }
            Self::Add {
                destination,
                target,
                link: _,
                protocol: _,
                replaces,
            } => {
                let verb = if *replaces { "replace" } else { "add" };
                write!(formatter, "{verb} route {destination} {target}")
            }
        }
    }
}

/// Returns the steps from `observed` to `desired`.
///
/// Only routes that are ours by `ownership` are removed, whatever `observed` holds. Removals come first: a
/// moved address must not be reachable by two paths at once, and the kernel takes no second route with the
/// key of the first. Routes that are not to local workloads are replaced where they stand. A wanted route whose interface is missing or down is left out (see [`waiting`]).
pub fn plan(desired: &RouteTable, observed: &ObservedRoutes, ownership: &RouteOwnership) -> Vec<RouteStep> {
    let names = observed.names();
    let name = |route: &ObservedRoute| route.interface().and_then(|index| names.get(&index)).copied();
    let ours = observed
        .routes
        .iter()
        .filter(|route| ownership.is_ours(route.protocol, name(route)));
    let mut steps = Vec::new();
    let mut satisfied: FxHashSet<IpNet> = FxHashSet::default();
    let mut surplus: Vec<&ObservedRoute> = Vec::new();
    for route in ours {
        let wanted = desired.get(&route.destination).is_some_and(|target| {
            route.protocol == ownership.protocol(target)
                && is_target(target, route, observed)
                && has_source(target, route)
        });
        // The same route may stand twice with different keys (metric, type of service): one is enough.
        if !(wanted && satisfied.insert(route.destination)) {
            surplus.push(route);
        }
    }
    let mut replaced: FxHashSet<IpNet> = FxHashSet::default();
    for route in surplus {
        let wanted = desired
            .get(&route.destination)
            .filter(|_| !satisfied.contains(&route.destination));
        if wanted.is_some_and(|target| makes_way(route, target, observed))
            && replaced.insert(route.destination)
        {
            continue;
        }
        steps.push(RouteStep::Remove {
            route: *route,
            interface: name(route).map(str::to_owned),
        });
    }
    add(desired, observed, ownership, &satisfied, &replaced, &mut steps);
    steps
}

/// Whether a wanted route can take the place of this one in one moment: both lead to another node or into nothing, and
/// the kernel takes them for the same.
fn makes_way(route: &ObservedRoute, target: &RouteTarget, observed: &ObservedRoutes) -> bool {
    let is_plain = matches!(
        route.target,
        ObservedTarget::Gateway { .. } | ObservedTarget::Blackhole
    );
    let has_its_key = route.tos == 0 && route.has_default_metric();
    let is_device = matches!(target, RouteTarget::Device { .. });
    is_plain && has_its_key && !is_device && link_of(target, observed).is_ok()
}

/// Appends the steps that add the wanted routes whose destinations are not satisfied.
fn add(
    desired: &RouteTable,
    observed: &ObservedRoutes,
    ownership: &RouteOwnership,
    satisfied: &FxHashSet<IpNet>,
    replaced: &FxHashSet<IpNet>,
    steps: &mut Vec<RouteStep>,
) {
    let (mut devices, mut others) = (Vec::new(), Vec::new());
    for (destination, target) in desired
        .iter()
        .filter(|(destination, _)| !satisfied.contains(*destination))
    {
        let Ok(link) = link_of(target, observed) else {
            continue;
        };
        let step = RouteStep::Add {
            destination: *destination,
            target: target.clone(),
            link,
            protocol: ownership.protocol(target),
            replaces: replaced.contains(destination),
        };
        // A gateway may be reachable only through one of the routes of the first kind.
        match target {
            RouteTarget::Device { .. } => devices.push(step),
            RouteTarget::Gateway { .. } | RouteTarget::Blackhole => others.push(step),
        }
    }
    steps.append(&mut devices);
    steps.append(&mut others);
}

/// Returns the steps that add what is wanted of `desired` in a place that is not ours, such as a pod.
///
/// A route is removed only if it stands in the way of a wanted one: it has its destination and its rank.
pub fn missing(
    desired: &RouteTable,
    observed: &ObservedRoutes,
    ownership: &RouteOwnership,
) -> Vec<RouteStep> {
    let names = observed.names();
    let mut steps = Vec::new();
    let mut satisfied: FxHashSet<IpNet> = FxHashSet::default();
    for (destination, target) in desired.iter() {
        let same_key: Vec<&ObservedRoute> = observed
            .routes
            .iter()
            .filter(|route| route.destination == *destination && route.tos == 0 && route.has_default_metric())
            .collect();
        // Whoever made it: a route that leads where it should is not made again.
        if same_key.iter().any(|route| is_target(target, route, observed)) {
            satisfied.insert(*destination);
        } else if link_of(target, observed).is_ok() {
            steps.extend(same_key.into_iter().map(|route| {
                RouteStep::Remove {
                    route: *route,
                    interface: route
                        .interface()
                        .and_then(|index| names.get(&index))
                        .map(|name| (*name).to_owned()),
                }
            }));
        }
    }
    let none = FxHashSet::default();
    add(desired, observed, ownership, &satisfied, &none, &mut steps);
    steps
}

/// Returns the wanted destinations that have to wait until their interface exists and is up.
pub fn waiting(desired: &RouteTable, observed: &ObservedRoutes) -> Vec<IpNet> {
    desired
        .iter()
        .filter(|(_, target)| link_of(target, observed).is_err())
        .map(|(destination, _)| *destination)
        .collect()
}

/// The interface of a target is missing or down.
struct NotReady;

/// Returns the number of the interface that a target names.
fn link_of(target: &RouteTarget, observed: &ObservedRoutes) -> Result<Option<u32>, NotReady> {
    let interface = match target {
        RouteTarget::Device { interface, source: _ } => interface,
        RouteTarget::Gateway {
            interface: Some(interface),
            ..
        } => interface,
        RouteTarget::Gateway { interface: None, .. } | RouteTarget::Blackhole => return Ok(None),
    };
    match observed.links.get(interface) {
        Some(link) if link.up => Ok(Some(link.index)),
        Some(_) | None => Err(NotReady),
    }
}

/// Whether a route of the kernel's leads where it is wanted to.
fn is_target(target: &RouteTarget, route: &ObservedRoute, observed: &ObservedRoutes) -> bool {
    if route.tos != 0 || !route.has_default_metric() {
        return false;
    }
    let index = |name| observed.links.get(name).map(|link| link.index);
    match (target, route.target) {
        (RouteTarget::Device { interface, source }, ObservedTarget::Device { link, source: seen }) => {
            index(interface) == Some(link) && (source.is_none() || *source == seen)
        }
        (
            RouteTarget::Gateway {
                gateway,
                interface,
                reach,
            },
            ObservedTarget::Gateway {
                gateway: seen_gateway,
                link,
                reach: seen_reach,
            },
        ) => {
            *gateway == seen_gateway
                && interface
                    .as_ref()
                    .is_none_or(|interface| index(interface) == Some(link))
                && same_reach(*reach, seen_reach, *gateway)
        }
        (RouteTarget::Blackhole, ObservedTarget::Blackhole) => true,
        _ => false,
    }
}

/// Whether a route of ours names exactly the source that it is to name: one that was wanted once is not kept.
fn has_source(target: &RouteTarget, route: &ObservedRoute) -> bool {
    match (target, route.target) {
        (RouteTarget::Device { source, .. }, ObservedTarget::Device { source: seen, .. }) => *source == seen,
        _ => true,
    }
}

/// Whether a gateway is known to be reachable in the wanted way.
fn same_reach(wanted: Reach, seen: Reach, gateway: IpAddr) -> bool {
    // A link-local gateway is on the link by definition, and kernels differ in saying so.
    let by_definition = matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local());
    by_definition || wanted == seen
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
