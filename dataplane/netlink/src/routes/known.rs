//! The routes that bear our marks, kept in step with the kernel by what it says has changed.
//!
//! Pure. Reading the kernel's whole table for each pod would make a pod's cost grow with the number of pods, so the
//! table is read rarely and followed between. What cannot be followed with certainty is [`News::Doubt`]: read again.
//!
//! News may be older than the last reading, because it waits in a queue. That does no harm once the queue is empty: the
//! last news about a route says how it is, and a route without news is as it was read.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::routes::observe::ObservedRoute;
use crate::routes::ours::RouteOwnership;

/// What one piece of news means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum News {
    /// Nothing that matters has changed.
    Nothing,
    /// Routes to this destination are others than before.
    Destination(IpNet),
    /// What the kernel has now cannot be said.
    Doubt,
}

/// The routes of the main table that bear one of our marks, on whatever interface.
///
/// More than those that are ours: whose a route with the mark of local workloads is depends on its interface's name,
/// which may change.
#[derive(Debug)]
pub struct KnownRoutes {
    protocols: [u8; 2],
    routes: BTreeMap<IpNet, Vec<ObservedRoute>>,
    /// Destinations by the interface that leads to them.
    by_link: BTreeMap<u32, BTreeSet<IpNet>>,
}

impl KnownRoutes {
    /// Knows of no route.
    pub fn new(ownership: &RouteOwnership) -> Self {
        Self {
            protocols: [ownership.plain_protocol, ownership.device_protocol],
            routes: BTreeMap::new(),
            by_link: BTreeMap::new(),
        }
    }

    /// Takes over what was read ([`crate::routes::observe_marked`]).
    pub fn replace(&mut self, routes: impl IntoIterator<Item = ObservedRoute>) {
        self.routes.clear();
        self.by_link.clear();
        let protocols = self.protocols;
        for route in routes.into_iter().filter(|route| is_marked(protocols, route)) {
            self.insert(route);
        }
    }

    /// Takes in that a route came or changed, whoever's it is.
    pub fn came(&mut self, route: ObservedRoute) -> News {
        let known = self.at(&route.destination);
        if known.contains(&route) {
            return News::Nothing;
        }
        // It took the place of one that is known, or stands beside it as another way: the news does not say which.
        if known.iter().any(|other| has_key_of(other, &route)) {
            return News::Doubt;
        }
        if !is_marked(self.protocols, &route) {
            return News::Nothing;
        }
        self.insert(route);
        News::Destination(route.destination)
    }

    /// Takes in that a route took the place of the one with its key, whoever's these are.
    pub fn replaced(&mut self, route: ObservedRoute) -> News {
        let same: Vec<ObservedRoute> = self
            .at(&route.destination)
            .iter()
            .filter(|other| has_key_of(other, &route))
            .copied()
            .collect();
        if same.len() > 1 {
            return News::Doubt;
        }
        if same.first() == Some(&route) {
            return News::Nothing;
        }
        for other in &same {
            self.remove(other);
        }
        if is_marked(self.protocols, &route) {
            self.insert(route);
        } else if same.is_empty() {
            return News::Nothing;
        }
        News::Destination(route.destination)
    }

    /// Takes in that a route has gone, whoever's it was.
    pub fn went(&mut self, route: &ObservedRoute) -> News {
        let known = self.at(&route.destination);
        if known.contains(route) {
            self.remove(route);
        } else if known.iter().any(|other| has_key_of(other, route)) {
            return News::Doubt;
        }
        // Also where it was another's: its place is free now for one that is wanted.
        News::Destination(route.destination)
    }

    /// Takes in that an interface is down or has gone: the kernel drops its IPv4 routes without a word. Returns the
    /// destinations that it led to.
    pub fn lost_link(&mut self, link: u32) -> BTreeSet<IpNet> {
        let destinations = self.by_link.remove(&link).unwrap_or_default();
        for destination in &destinations {
            if let Some(routes) = self.routes.get_mut(destination) {
                routes.retain(|route| route.interface() != Some(link));
                if routes.is_empty() {
                    self.routes.remove(destination);
                }
            }
        }
        destinations
    }

    /// Returns the destinations of the routes out of an interface.
    pub fn on_link(&self, link: u32) -> impl Iterator<Item = &IpNet> {
        self.by_link.get(&link).into_iter().flatten()
    }

    /// Returns the routes to a destination.
    pub fn at(&self, destination: &IpNet) -> &[ObservedRoute] {
        self.routes.get(destination).map_or(&[], Vec::as_slice)
    }

    /// Returns all destinations.
    pub fn destinations(&self) -> impl Iterator<Item = &IpNet> {
        self.routes.keys()
    }

    fn insert(&mut self, route: ObservedRoute) {
        let routes = self.routes.entry(route.destination).or_default();
        if !routes.contains(&route) {
            routes.push(route);
        }
        if let Some(link) = route.interface() {
            self.by_link.entry(link).or_default().insert(route.destination);
        }
    }

    fn remove(&mut self, route: &ObservedRoute) {
        let Some(routes) = self.routes.get_mut(&route.destination) else {
            return;
        };
        routes.retain(|other| other != route);
        let link = route
            .interface()
            .filter(|link| routes.iter().all(|other| other.interface() != Some(*link)));
        if routes.is_empty() {
            self.routes.remove(&route.destination);
        }
        if let Some(link) = link
            && let Some(destinations) = self.by_link.get_mut(&link)
        {
            destinations.remove(&route.destination);
            if destinations.is_empty() {
                self.by_link.remove(&link);
            }
        }
    }
}

fn is_marked(protocols: [u8; 2], route: &ObservedRoute) -> bool {
    protocols.contains(&route.protocol)
}

/// Whether two routes to one destination have the key by which the kernel takes only one, or makes one of both.
fn has_key_of(one: &ObservedRoute, other: &ObservedRoute) -> bool {
    (one.tos, one.metric) == (other.tos, other.metric)
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;
