//! The routes that are wanted: one target for each destination.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::InterfaceName;

/// Where packets to a destination are to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTarget {
    /// Straight out of an interface: the destination is on its link. A workload's own address is reached so.
    Device {
        /// The interface.
        interface: InterfaceName,
        /// The node's address that its own packets take there; the kernel chooses where it is absent.
        source: Option<IpAddr>,
    },
    /// Through a gateway. Pods of other nodes are reached so.
    Gateway {
        /// The gateway's address.
        gateway: IpAddr,
        /// The interface that leads to it; the kernel looks it up where it is absent.
        interface: Option<InterfaceName>,
        /// Whether the gateway is taken to be on the link although no route says so.
        reach: Reach,
    },
    /// Nowhere: packets are dropped in silence. The unused rest of a block is routed so, or packets to it
    /// would go round between this node and its default gateway.
    Blackhole,
}

/// How a gateway is known to be reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reach {
    /// A route of the link says so, and the kernel checks.
    Routed,
    /// It is taken for granted (`onlink`); needs an interface.
    OnLink,
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { interface, source } => {
                write!(formatter, "dev {interface}")?;
                source.map_or(Ok(()), |source| write!(formatter, " src {source}"))
            }
            Self::Gateway {
                gateway,
                interface,
                reach,
            } => {
                write!(formatter, "via {gateway}")?;
                if let Some(interface) = interface {
                    write!(formatter, " dev {interface}")?;
                }
                if *reach == Reach::OnLink {
                    formatter.write_str(" onlink")
                } else {
                    Ok(())
                }
            }
            Self::Blackhole => formatter.write_str("blackhole"),
        }
    }
}

/// The wanted routes. A destination has one target: whose an address is, is decided before it comes here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteTable {
    routes: BTreeMap<IpNet, RouteTarget>,
}

impl RouteTable {
    /// Wants no route.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wants a route; returns the target that the destination had before.
    ///
    /// Bits of the destination beyond its prefix are dropped: the kernel knows no such destination.
    pub fn insert(&mut self, destination: IpNet, target: RouteTarget) -> Option<RouteTarget> {
        self.routes.insert(destination.trunc(), target)
    }

    /// Wants no route to a destination any more; returns the target that it had.
    pub fn remove(&mut self, destination: &IpNet) -> Option<RouteTarget> {
        self.routes.remove(&destination.trunc())
    }

    /// Returns the target of a destination.
    pub fn get(&self, destination: &IpNet) -> Option<&RouteTarget> {
        self.routes.get(&destination.trunc())
    }

    /// Walks the routes in the order of their destinations.
    pub fn iter(&self) -> impl Iterator<Item = (&IpNet, &RouteTarget)> {
        self.routes.iter()
    }

    /// How many routes are wanted.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether no route is wanted.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

impl FromIterator<(IpNet, RouteTarget)> for RouteTable {
    fn from_iter<Routes: IntoIterator<Item = (IpNet, RouteTarget)>>(routes: Routes) -> Self {
        let mut table = Self::new();
        table.extend(routes);
        table
    }
}

impl Extend<(IpNet, RouteTarget)> for RouteTable {
    fn extend<Routes: IntoIterator<Item = (IpNet, RouteTarget)>>(&mut self, routes: Routes) {
        for (destination, target) in routes {
            self.insert(destination, target);
        }
    }
}
